//! The end of it: the tables, what happened and why, and, always last, where
//! the guest runs.

use comfy_table::Table;

use crate::cli::Migrate;
use crate::events::{self, Ended, How, PauseParts, Refused, Round};
use crate::host::Guest;
use crate::human::{Bytes, Count, Millis, or_dash};
use crate::ledger::Known;
use crate::tables::table;

use super::account::Account;
use super::outcome::{HelperSeen, Outcome, RunningOn};
use super::source::Seen;

/// Everything that is said at the end.
#[derive(Debug)]
pub struct Report<'a> {
    /// Whom it was about.
    pub guest: &'a Guest,
    /// What was asked.
    pub options: &'a Migrate,
    /// What was seen.
    pub account: &'a Account,
    /// How it ended.
    pub outcome: Outcome,
    /// The sentence that explains it, without a full stop; may be empty.
    pub why: &'a str,
    /// The guest at the source, if it was looked for.
    pub seen: Option<&'a Seen>,
    /// What was known before it.
    pub known: &'a Known,
    /// From the command's start to its end.
    pub duration_ms: u64,
}

impl Report<'_> {
    /// The last object of `--json`.
    pub fn result(&self) -> events::Outcome {
        let account = self.account;
        let split = account.landing_split();
        events::Outcome {
            outcome: self.outcome.name().to_owned(),
            running_on: self.outcome.running_on().name().to_owned(),
            limit_ms: self.options.max_suspend_time.map(|limit| limit.as_millis()),
            predicted_downtime_ms: account.predicted_downtime_ms(),
            expected_downtime_ms: account.expected_downtime_ms(self.known),
            observed_downtime_ms: account.observed_downtime_ms(),
            observed_downtime_estimate_ms: account.observed_downtime_estimate_ms(),
            until_ready_ms: split.map(|(until, _)| until),
            after_ready_ms: split.and_then(|(_, after)| after),
            rounds: account.rounds.count(),
            pages_sent: account.pages_sent(),
            duration_ms: self.duration_ms,
            reason: self.reason(),
            advice: self.advice(),
        }
    }

    /// The tables. Empty when nothing was copied.
    pub fn tables(&self) -> String {
        let mut parts = Vec::new();
        if self.account.rounds.count() > 0 {
            parts.push(self.rounds().to_string());
        }
        if let Some(pause) = self.pause() {
            parts.push(pause.to_string());
        }
        if let Some(ended) = &self.account.ended {
            parts.push(self.costs(ended));
        }
        parts.join("\n\n")
    }

    /// What happened, to whom, what was done about it, and what would have
    /// worked. Empty for a guest that moved as it should.
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
        sentences.extend(self.what_was_done());
        sentences.extend(self.without_helper());
        sentences.extend(self.over_the_limit());
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

    /// Where the guest runs.
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
                if !self.account.past_permission() =>
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

    fn ended_badly(&self) -> Option<&Ended> {
        let ended = self.account.ended.as_ref();
        ended.filter(|ended| ended.how != How::StreamComplete)
    }

    /// Why it ended otherwise than with a move, as a sentence without a full
    /// stop.
    pub fn reason(&self) -> String {
        let mut reason = match self.ended_badly() {
            Some(ended) if !ended.reason.is_empty() && self.why.is_empty() => {
                ended.reason.trim_end_matches('.').to_owned()
            }
            _ => self.why.to_owned(),
        };
        // The destination's failures are told best by those who saw them.
        let others_know = matches!(
            self.outcome,
            Outcome::TargetFailed | Outcome::SourceFailed | Outcome::Unknown
        );
        if others_know && (self.account.ended.is_none() || self.outcome != Outcome::SourceFailed) {
            let words = self.account.words.telling();
            if !words.is_empty() {
                let quoted = words.join(" / ");
                reason = match reason.is_empty() {
                    true => quoted,
                    false => format!("{reason}: {quoted}"),
                };
            }
        }
        reason
    }

    fn what_was_done(&self) -> Option<String> {
        match (self.seen, self.account.refused_pause_ms()) {
            (Some(Seen::Rescued), _) => {
                Some("It was found suspended, and lull resumed it".to_owned())
            }
            (_, Some(pause)) => Some(format!(
                "It had been paused for {} and was resumed at once",
                Millis(pause)
            )),
            (Some(Seen::Running), None) if self.account.started.is_some() => {
                Some("It was never paused, and what had been begun was undone".to_owned())
                    .filter(|_| self.account.suspended.is_none())
            }
            _ => None,
        }
    }

    /// A limit is never ignored in silence, not even by an xl that starts
    /// another helper.
    fn without_helper(&self) -> Option<String> {
        let alone = self.outcome == Outcome::Moved && self.account.helper == HelperSeen::Never;
        alone.then(|| {
            "xl moved it without lull's helper ever being heard: no limit was kept, and nothing was measured"
                .to_owned()
        })
    }

    fn over_the_limit(&self) -> Option<String> {
        let limit = self.options.max_suspend_time?.as_millis();
        let observed = self.account.observed_downtime_ms()?;
        (observed > limit).then(|| {
            format!(
                "The pause was {}, longer than the limit of {}: please report this",
                Millis(observed),
                Millis(limit)
            )
        })
    }

    fn advice(&self) -> String {
        let mut advice = Vec::new();
        if let Some(ended) = self.ended_badly() {
            let mut would_do = Vec::new();
            if let Some(limit) = ended.smallest_limit_ms {
                would_do.push(format!("`--max-suspend-time {limit}ms`"));
            }
            if let Some(rate) = ended.needed_rate {
                would_do.push(format!("a link that carries {}/s", Bytes(rate)));
            }
            if !would_do.is_empty() {
                advice.push(format!(
                    "It would have fitted with {}.",
                    would_do.join(", or ")
                ));
            }
            if !ended.advice.is_empty() && self.why.is_empty() {
                advice.push(ended.advice.clone());
            }
        }
        advice.extend(self.advice_at_the_gate());
        advice.extend(self.advice_without_history());
        let domid = self.guest.domid;
        let host = &self.options.host;
        let guest = &self.guest.name;
        match self.outcome {
            Outcome::Unknown if self.account.past_permission() => advice.push(format!(
                "Nothing was destroyed. Run `xl list` on both hosts: if {guest} runs at {host}, `xl destroy {domid}` here; if it is certain that it does not, `lull resume {domid}` here. Never run both: they share their disks."
            )),
            // Whoever created it may be about to: xl, until the guest is gone.
            Outcome::GuestDied => advice.push(format!(
                "If it is configured to (`on_reboot`, `on_crash`, `on_poweroff`), {guest} is started anew here, under another number: `xl list`."
            )),
            Outcome::Moved if self.account.xl.is_some_and(|end| end != super::outcome::XlEnd::Exited(0)) => {
                advice.push(format!(
                    "But xl did not end as it should, and may have left its suspended copy here: `xl list`, then `xl destroy {domid}`."
                ));
            }
            _ => {}
        }
        advice.join(" ")
    }

    /// For a destination that was too slow.
    fn advice_at_the_gate(&self) -> Option<String> {
        let hung_up = self.account.hung_up.as_ref()?;
        let host = &self.options.host;
        match hung_up.why {
            Refused::ReadyTooLate => {
                let after_ready = self.known.after_ready.as_micros().div_ceil(1_000);
                let after_ready = u64::try_from(after_ready).ok()?;
                let limit = self.account.limit_for_ready_ms(after_ready)?;
                Some(format!(
                    "It would have fitted with `--max-suspend-time {limit}ms`."
                ))
            }
            Refused::NotReady => Some(format!(
                "Look what keeps {host} from setting up the guest's devices, or try a higher limit."
            )),
            // A stock receiver that cannot report leaves its copy where it is.
            Refused::PeerGone if self.account.stream_is_complete() => {
                let guest = &self.guest.name;
                Some(format!(
                    "If only the connection broke, {host} may keep a paused copy that nobody will start: look there with `xl list`, then `xl destroy {guest}--incoming`."
                ))
            }
            _ => None,
        }
    }

    /// For a refusal that rests on nothing that was seen.
    fn advice_without_history(&self) -> Option<String> {
        let refused = self.outcome == Outcome::RefusedDowntime;
        let host = &self.options.host;
        (refused && !self.known.has_history() && self.account.suspended.is_none()).then(|| {
            format!(
                "What a landing at {host} takes was only assumed: `lull rehearse {host}` measures it, or `--rehearse` first."
            )
        })
    }

    fn rounds(&self) -> Table {
        let mut table = table(
            &[
                "round", "sent", "dirtied", "took", "link", "dirties", "pause", "decision",
            ],
            0..7,
        );
        let rounds = &self.account.rounds;
        for round in rounds.first() {
            table.add_row(row(round));
        }
        if rounds.left_out() > 0 {
            let mut cells = vec![String::new(); 8];
            cells[0] = "…".to_owned();
            cells[7] = format!("{} more rounds", rounds.left_out());
            table.add_row(cells);
        }
        for round in rounds.last() {
            table.add_row(row(round));
        }
        table
    }

    /// Predicted and observed, part by part.
    fn pause(&self) -> Option<Table> {
        let suspended = self.account.suspended.as_ref()?;
        let observed = self.account.observed_parts().unwrap_or_default();
        let predicted = &suspended.predicted;
        let mut table = table(&["pause", "predicted, at most", "observed"], 1..3);
        for ((name, predicted), (_, observed)) in named(predicted).zip(named(&observed)) {
            table.add_row([
                name.to_owned(),
                or_dash(predicted.map(Millis)),
                or_dash(observed.map(Millis)),
            ]);
        }
        if let Some((until, after)) = self.account.landing_split() {
            for (name, took) in [("  until READY", Some(until)), ("  after READY", after)] {
                table.add_row([name.to_owned(), String::new(), or_dash(took.map(Millis))]);
            }
        }
        let sum = match self.outcome {
            Outcome::Moved => "all of it",
            _ => "until it ran on at the source",
        };
        table.add_row([
            sum.to_owned(),
            or_dash(suspended.predicted_downtime_ms.map(Millis)),
            or_dash(self.account.observed_downtime_ms().map(Millis)),
        ]);
        let expected = self.account.expected_downtime_ms(self.known);
        let estimate = self.account.observed_downtime_estimate_ms();
        if expected.is_some() || estimate.is_some() {
            table.add_row([
                "  most likely".to_owned(),
                or_dash(expected.map(Millis)),
                or_dash(estimate.map(Millis)),
            ]);
        }
        if let Some(limit) = self.options.max_suspend_time {
            table.add_row(["limit".to_owned(), String::new(), limit.to_string()]);
        }
        Some(table)
    }

    fn costs(&self, ended: &Ended) -> String {
        let pages_a_second = ended
            .pages_sent
            .saturating_mul(1_000)
            .checked_div(ended.at_ms);
        let mut lines = vec![
            format!(
                "sent      {} pages, {}, in {} ({} pages/s)",
                Count(ended.pages_sent),
                Bytes(ended.bytes_sent),
                Millis(ended.at_ms),
                or_dash(pages_a_second.map(Count)),
            ),
            format!(
                "helper    {} of CPU, {} of memory at most",
                Millis(ended.helper_cpu_ms),
                Bytes(ended.helper_peak_bytes),
            ),
        ];
        if let Some(started) = &self.account.started {
            lines.push(format!(
                "stub      {} of CPU, {} of memory, there after {}",
                or_dash(ended.stub_cpu_ms.map(Millis)),
                Bytes(started.stub_memory_bytes),
                Millis(started.stub_boot_ms),
            ));
        }
        lines.push(format!("in all    {}", Millis(self.duration_ms)));
        lines.join("\n")
    }
}

/// The parts of a pause, in order.
fn named(parts: &PauseParts) -> impl Iterator<Item = (&'static str, Option<u64>)> {
    [
        ("suspend", parts.suspend_ms),
        ("final bitmap", parts.final_bitmap_ms),
        ("pages", parts.pages_ms),
        ("CPU state", parts.cpu_state_ms),
        ("landing", parts.landing_ms),
    ]
    .into_iter()
}

fn row(round: &Round) -> [String; 8] {
    let per_second = |bytes: u64| format!("{}/s", Bytes(bytes));
    [
        round.round.to_string(),
        Count(round.pages_sent).to_string(),
        Count(round.pages_dirtied).to_string(),
        Millis(round.duration_ms).to_string(),
        or_dash(round.transfer_rate.map(per_second)),
        or_dash(
            round
                .dirty_rate
                .map(|rate| format!("{} pages/s", Count(rate))),
        ),
        or_dash(round.predicted_downtime_ms.map(Millis)),
        round.decision.replace('-', " "),
    ]
}
