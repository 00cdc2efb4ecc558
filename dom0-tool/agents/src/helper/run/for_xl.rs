//! The message with which the save helper explains a failed attempt to users of plain xl.

use std::io;

use lull_engine::Verdict;
use lull_wire::events::How;
use lull_xen::DomainState;

use super::Helper;
use crate::monitor;

impl Helper<'_> {
    /// The message for users of plain xl, who see nothing else: what happened, where the
    /// limit comes from, and where the guest is.
    pub(super) fn message_for_xl(&self, verdict: &Verdict) -> String {
        let name = &self.name;
        let mut text = format!("{name} was not moved: {}.", verdict.in_a_line());
        let refused = matches!(verdict.how, How::RefusedDowntime | How::RefusedTimeout);
        let out_of_time = verdict.how == How::RefusedTimeout;
        let from = &self.limits_from;
        for (what, chosen, counts) in [
            ("limit", &from.max_suspend_time, refused),
            ("timeout", &from.timeout, out_of_time),
        ] {
            let chosen = chosen.as_ref().filter(|chosen| chosen.limit.is_some());
            if let Some(from) = chosen.filter(|_| counts) {
                text.push_str(&format!(" The {what} is from {from}."));
            }
        }
        let cap = self.limits_from.bandwidth.as_ref();
        if let Some(from) = cap.filter(|cap| refused && cap.limit.is_some()) {
            text.push_str(&format!(" The bandwidth is from {from}."));
        }
        text = format!("{text} {}", where_it_is(name, (self.state_of)(self.domid)));
        if let Some(lost) = monitor::lost(name, self.domid).filter(|_| self.asked) {
            text = format!("{text} {lost}");
        }
        text
    }
}

/// Where the guest is after an attempt that failed. libxl resumes a guest that it suspended
/// once this process has ended.
fn where_it_is(name: &str, state: io::Result<Option<DomainState>>) -> String {
    let state = match state {
        Ok(Some(state)) => state,
        Ok(None) => return format!("{name} is gone."),
        Err(error) => return format!("Whether {name} runs on here was not seen: {error}."),
    };
    match state.death() {
        Some(death) => format!("{name} {death}."),
        None if state.paused => format!("{name} stays here, paused."),
        None => format!("{name} runs on here."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_died_is_not_said_to_run() {
        let said = |state| where_it_is("web1", state);
        let stopped = |reason| DomainState {
            shutdown: Some(reason),
            ..DomainState::IDLE
        };
        assert_eq!(said(Ok(Some(DomainState::IDLE))), "web1 runs on here.");
        assert_eq!(said(Ok(Some(stopped(2)))), "web1 runs on here.");
        assert_eq!(said(Ok(Some(stopped(3)))), "web1 has crashed.");
        assert_eq!(said(Ok(None)), "web1 is gone.");
        let paused = DomainState {
            paused: true,
            ..DomainState::IDLE
        };
        assert_eq!(said(Ok(Some(paused))), "web1 stays here, paused.");
        let unseen = said(Err(io::Error::other("no answer")));
        assert_eq!(unseen, "Whether web1 runs on here was not seen: no answer.");
    }
}
