//! The final output: the tables, what happened and why, and in the last line where the
//! guest runs.

use lull_base::duration::Span;
use lull_base::fmt::{Millis, beside_limit};
use lull_store::attempt::advice::{limit_option, what_would_do};
use lull_store::attempt::observed::{ObservedAttempt, OverLimit};
use lull_store::attempt::outcome::{HelperSeen, Outcome, RunningOn, XlEnd};
use lull_store::ledger::Known;
use lull_wire::events::{self, Ended, How, Refused};
use lull_xen::host::Guest;

use crate::cli::Migrate;

use super::source::Seen;
use super::tables::Tables;

/// Everything that the final output is made from.
#[derive(Debug)]
pub struct Report<'a> {
    /// The guest that was to move.
    pub guest: &'a Guest,
    /// The options of the command.
    pub options: &'a Migrate,
    pub observed: &'a ObservedAttempt,
    /// How the attempt ended.
    pub outcome: Outcome,
    /// The sentence that explains it, without a full stop; may be empty.
    pub why: &'a str,
    /// The guest's state at the source, if it was checked.
    pub seen: Option<&'a Seen>,
    /// A sentence that names the monitor which no longer carries out the guest's next
    /// reboot; `None` if none is lost.
    pub monitor_lost: Option<&'a str>,
    /// What the ledger held before the attempt.
    pub known: &'a Known,
    /// Why the landing was not fast; empty if it was.
    pub why_classic: &'a str,
    /// Why fewer connections than wanted carried the guest; empty if as many did.
    pub why_fewer: &'a str,
    /// Time from the start of the command to its end, in milliseconds.
    pub duration_ms: u64,
}

impl Report<'_> {
    /// The last object of `--json`.
    pub fn result(&self) -> events::Outcome {
        let observed = self.observed;
        let split = observed.landing_split();
        events::Outcome {
            outcome: self.outcome.name().to_owned(),
            running_on: self.outcome.running_on().name().to_owned(),
            limit_ms: self.limit_ms(),
            predicted_downtime_ms: observed.predicted_downtime_ms(),
            expected_downtime_ms: observed.expected_downtime_ms(self.known),
            given_up_ms: observed.given_up_ms().collect(),
            observed_downtime_ms: observed.observed_downtime_ms(),
            observed_downtime_estimate_ms: observed.observed_downtime_estimate_ms(),
            until_ready_ms: split.map(|(until, _)| until),
            after_ready_ms: split.and_then(|(_, after)| after),
            landing: observed.landing,
            landing_reason: self.why_classic.to_owned(),
            connections: observed.connections(),
            connections_reason: self.why_fewer.to_owned(),
            rounds: observed.rounds.count(),
            pages_sent: observed.pages_sent(),
            duration_ms: self.duration_ms,
            reason: self.reason(),
            advice: self.advice(),
        }
    }

    /// The tables of this report.
    pub fn tables(&self) -> Tables<'_> {
        Tables {
            observed: self.observed,
            moved: matches!(self.outcome, Outcome::Moved),
            expected_ms: self.observed.expected_downtime_ms(self.known),
            limit_us: self.limit_us(),
            duration_ms: Some(self.duration_ms),
            why_classic: self.why_classic,
            why_fewer: self.why_fewer,
        }
    }

    /// What happened to the guest, what was done about it, and what would have worked.
    /// Empty for a guest that moved as intended.
    pub fn paragraph(&self) -> String {
        let guest = &self.guest.name;
        let host = &self.options.host;
        let mut sentences = Vec::new();
        match self.outcome {
            Outcome::Moved => {}
            Outcome::RefusedDowntime | Outcome::RefusedTimeout => {
                sentences.push(format!("Refused to move {guest} to {host}"));
            }
            Outcome::Cancelled => {
                sentences.push(format!("Cancelled: {guest} was not moved to {host}"));
            }
            Outcome::TargetFailed | Outcome::SourceFailed | Outcome::GuestDied => {
                sentences.push(format!("{guest} was not moved to {host}"));
            }
            Outcome::Unknown => {
                sentences.push(format!("The attempt to move {guest} to {host} went wrong"));
            }
        }
        let reason = self.reason();
        match sentences.first_mut() {
            Some(first) if !reason.is_empty() => {
                first.push_str(": ");
                first.push_str(&reason);
            }
            _ => {}
        }
        sentences.extend(self.given_up());
        sentences.extend(self.what_was_done());
        sentences.extend(self.without_helper());
        sentences.extend(self.over_the_limit());
        sentences.extend(self.given_up_over_the_limit());
        sentences.extend(Some(self.advice()).filter(|advice| !advice.is_empty()));
        let mut text = String::new();
        for sentence in sentences {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&sentence);
            if !sentence.ends_with(['.', '!', '?']) {
                text.push('.');
            }
        }
        text
    }

    /// The last line: where the guest runs.
    pub fn last_line(&self) -> String {
        let guest = &self.guest.name;
        let host = &self.options.host;
        match (self.outcome.running_on(), self.seen) {
            (RunningOn::Destination, _) if self.options.leave_paused => {
                format!("{guest} is at the destination ({host}), paused as asked.")
            }
            (RunningOn::Destination, _) => format!("{guest} runs at the destination ({host})."),
            (RunningOn::Source, _) => format!("{guest} runs at the source (this host)."),
            (RunningOn::Nowhere, seen) => {
                let how = match seen {
                    Some(Seen::Dead(how)) => how,
                    _ => "is dead",
                };
                format!(
                    "{guest} runs nowhere: at the source (this host) it {how}; the destination ({host}) was not told to start it."
                )
            }
            (RunningOn::Unknown, Some(Seen::NotRunning(how) | Seen::Dead(how)))
                if !self.observed.past_permission() =>
            {
                format!(
                    "{guest} was not seen to run: at the source (this host) it {how}; the destination ({host}) was not told to start it."
                )
            }
            (RunningOn::Unknown, _) => format!(
                "Where {guest} runs is unknown: look at the source (this host) and at the destination ({host})."
            ),
        }
    }

    /// The limit as given in the options, or as it was set during the attempt.
    fn limit_ms(&self) -> Option<u64> {
        let asked = || self.options.pause_limit().map(|limit| limit.as_millis());
        let set = self.observed.limits.is_some();
        if set {
            self.observed.limit_ms()
        } else {
            asked()
        }
    }

    /// The same in microseconds, as exactly as it is known.
    fn limit_us(&self) -> Option<u64> {
        let asked = self.options.pause_limit().map(Span::as_micros);
        let rounded = self.limit_ms().map(|limit| limit.saturating_mul(1_000));
        let known = match self.observed.limits.is_some() {
            true => rounded,
            false => asked,
        };
        self.observed.exact_limit_us().or(known)
    }

    fn ended_badly(&self) -> Option<&Ended> {
        let ended = self.observed.ended.as_ref();
        ended.filter(|ended| ended.how != How::StreamComplete)
    }

    /// Why the attempt ended without a move, as a sentence without a full stop.
    pub fn reason(&self) -> String {
        let mut reason = match self.ended_badly() {
            Some(ended) if !ended.reason.is_empty() && self.why.is_empty() => {
                ended.reason.trim_end_matches('.').to_owned()
            }
            _ => self.why.to_owned(),
        };
        // The destination's failures are explained best by the processes that saw them.
        let others_know = matches!(
            self.outcome,
            Outcome::TargetFailed | Outcome::SourceFailed | Outcome::Unknown
        );
        // In a fast landing xl's messages are a consequence.
        let explained = self.observed.landing.is_fast() && !reason.is_empty();
        if others_know
            && !explained
            && (self.observed.ended.is_none() || self.outcome != Outcome::SourceFailed)
        {
            let lines = self.observed.printed.explaining();
            if !lines.is_empty() {
                let quoted = lines.join(" / ");
                reason = match reason.is_empty() {
                    true => quoted,
                    false => format!("{reason}: {quoted}"),
                };
            }
        }
        let cause = self.observed.printed.cause_there();
        if let Some(cause) = cause.filter(|cause| others_know && !reason.contains(cause)) {
            reason = format!("{reason}; {} said: {cause}", self.options.host);
        }
        reason
    }

    /// Describes the pauses that were abandoned and tried again.
    fn given_up(&self) -> Option<String> {
        let pauses: Vec<String> = self
            .observed
            .given_up_ms()
            .map(|pause| Millis(pause).to_string())
            .collect();
        (!pauses.is_empty()).then(|| {
            format!(
                "Before, it was paused for {} in vain, resumed at once, and tried again",
                pauses.join(" and for ")
            )
        })
    }

    fn what_was_done(&self) -> Option<String> {
        match (self.seen, self.observed.refused_pause_ms()) {
            (Some(Seen::Rescued), _) => {
                Some("It was found suspended, and lull resumed it".to_owned())
            }
            (_, Some(pause)) => Some(format!(
                "It had been paused for {} and was resumed at once",
                Millis(pause)
            )),
            (Some(Seen::Running), None) if !self.observed.given_up.is_empty() => None,
            // If the outcome is unknown, not everything was undone.
            (Some(Seen::Running), None)
                if self.observed.started.is_some() && self.outcome != Outcome::Unknown =>
            {
                let observed = self.observed;
                // An engine that is killed reports neither that the guest stopped nor that
                // the guard has resumed it. One that reports its end would have.
                let may_have_stopped = observed.asked_to_suspend() && observed.ended.is_none();
                let what = match (may_have_stopped, &observed.suspended) {
                    (false, None) => "It was never paused, and",
                    (true, None) => "It was asked to suspend, and a pause was not measured;",
                    (_, Some(_)) => "It was paused, and for how long was not measured;",
                };
                Some(format!("{what} what had been begun was undone"))
            }
            _ => None,
        }
    }

    /// Reports an xl that used another helper, because a limit must never be ignored
    /// silently.
    fn without_helper(&self) -> Option<String> {
        let alone = self.outcome == Outcome::Moved && self.observed.helper == HelperSeen::Never;
        alone.then(|| {
            "xl moved it, and lull's helper never reported: no limit was kept, and nothing was measured"
                .to_owned()
        })
    }

    fn over_the_limit(&self) -> Option<String> {
        let limit_us = self.limit_us()?;
        let pause_us = self.observed.longer_than(limit_us)?;
        let ended = self.observed.ended.as_ref();
        let suspend_ms = ended.and_then(|ended| ended.observed.suspend_ms);
        let over = OverLimit {
            pause_us,
            limit_us,
            suspend_ms: suspend_ms.unwrap_or(0),
        };
        Some(longer_than_allowed("The pause was", over))
    }

    /// The same of a pause that was abandoned and tried again.
    fn given_up_over_the_limit(&self) -> Option<String> {
        let over = self.observed.given_up_over_limit?;
        Some(longer_than_allowed("A pause in vain was", over))
    }

    fn advice(&self) -> String {
        let mut advice = Vec::new();
        if let Some(ended) = self.ended_badly() {
            advice.extend(what_would_do(ended));
            if !ended.advice.is_empty() && self.why.is_empty() {
                advice.push(ended.advice.clone());
            }
        }
        advice.extend(self.advice_at_the_gate());
        advice.extend(self.advice_without_history());
        advice.extend(self.monitor_lost.map(str::to_owned));
        let domid = self.guest.domid;
        let host = &self.options.host;
        let guest = &self.guest.name;
        match self.outcome {
            Outcome::Unknown if self.observed.past_permission() => advice.push(format!(
                "Nothing was destroyed. Run `xl list` on both hosts: if {guest} runs at {host}, `xl destroy {domid}` here; if it is certain that it does not, `lull resume {domid}` here. Never run both: they share their disks."
            )),
            // The toolstack may be about to restart it; xl stays until the guest is gone.
            Outcome::GuestDied => advice.push(format!(
                "If it is configured to (`on_reboot`, `on_crash`, `on_poweroff`), {guest} is started anew here, under another number: `xl list`."
            )),
            Outcome::Moved if self.observed.xl.is_some_and(|end| end != XlEnd::Exited(0)) => {
                advice.push(format!(
                    "But xl did not end as it should, and may have left its suspended copy here: `xl list`, then `xl destroy {domid}`."
                ));
            }
            _ => {}
        }
        advice.join(" ")
    }

    /// Advice for a destination that was too slow.
    fn advice_at_the_gate(&self) -> Option<String> {
        let hung_up = self.observed.hung_up.as_ref()?;
        let host = &self.options.host;
        match hung_up.why {
            Refused::ReadyTooLate => {
                let after_ready = self.known.after_ready.as_micros().div_ceil(1_000);
                let after_ready = u64::try_from(after_ready).ok()?;
                let limit = self.observed.limit_for_ready_ms(after_ready)?;
                Some(format!(
                    "It would have fitted with {}.",
                    limit_option(limit)
                ))
            }
            Refused::NotReady => Some(format!(
                "Look what keeps {host} from setting up the guest's devices, or try a higher limit."
            )),
            // A stock receiver that cannot report leaves its copy in place.
            Refused::PeerGone
                if self.observed.stream_is_complete() || self.observed.landing.is_fast() =>
            {
                let guest = &self.guest.name;
                Some(format!(
                    "If only the connection broke, {host} may keep a paused copy that will never be started: look there with `xl list`, then `xl destroy {guest}--incoming`."
                ))
            }
            _ => None,
        }
    }

    /// Advice for a refusal that rests on no observed pause.
    fn advice_without_history(&self) -> Option<String> {
        let refused = self.outcome == Outcome::RefusedDowntime;
        let host = &self.options.host;
        (refused && !self.known.has_history() && self.observed.suspended.is_none()).then(|| {
            format!(
                "What a landing at {host} takes was only assumed: `lull rehearse {host}` measures it, or `--rehearse` first."
            )
        })
    }
}

/// The sentence for a pause over its limit, which begins with `what`.
fn longer_than_allowed(what: &str, over: OverLimit) -> String {
    let why = match over.suspend_ms.saturating_mul(2_000) > over.limit_us {
        // Once the guest has begun to stop, nothing can shorten that.
        true => format!(
            "the guest itself took {} to stop, which its kernel's log may explain",
            Millis(over.suspend_ms)
        ),
        false => "please report this".to_owned(),
    };
    let (pause, limit) = beside_limit(over.pause_us, over.limit_us);
    format!("{what} {pause}, longer than the limit of {limit}: {why}")
}
