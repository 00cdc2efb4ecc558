//! Gate 4: whether the destination's READY is passed on.
//!
//! Only a decision: what has happened goes in, with the time by
//! `CLOCK_MONOTONIC`, and what to do comes out.

pub use lull_wire::events::{Landing, Refused};

/// What the limit says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The guest's pause may not be longer; nothing without a limit, until the
    /// helper tells of one.
    pub limit_ns: Option<u64>,
    /// At most this long after READY the guest runs at the destination.
    pub after_ready_ns: u64,
    /// At most this long after a refusal it runs at the source.
    pub resume_ns: u64,
    /// What READY means: of a fast landing it comes long before the guest stops,
    /// and is kept until the engine has said that all is in place.
    pub landing: Landing,
}

impl Terms {
    /// Of a pause that began at `since`: until when READY may be passed on,
    /// and not later than which a refusal must begin. One moment for both, or
    /// there would be a time in which neither can keep the limit.
    const fn deadline(self, since: u64, limit_ns: u64) -> u64 {
        let reserve = if self.after_ready_ns > self.resume_ns {
            self.after_ready_ns
        } else {
            self.resume_ns
        };
        since.saturating_add(limit_ns.saturating_sub(reserve))
    }
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The destination's receiver has begun to listen.
    Banner,
    /// The helper has begun.
    HelperBegun,
    /// The guest was asked to suspend, and has: the pause counts from `since`.
    Suspended {
        /// When it was asked.
        since: u64,
        /// Under which limit, which beats the one known before: `lull set` may
        /// have changed it, either way.
        limit_ns: Option<u64>,
    },
    /// That pause is over: the guest runs on at the source, and is copied further.
    RanOn,
    /// The helper's stream is complete: it will not resume the guest.
    Committed,
    /// The destination says READY.
    Ready,
    /// The operator wants to stop.
    Cancel,
    /// Hang up, whatever the helper does.
    HangUp,
    /// The engine of a fast landing has given up.
    GivenUp,
    /// The front end has gone.
    FrontEndGone,
    /// xl has closed its end.
    XlGone,
    /// The destination has closed its end.
    PeerGone,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing; look again at this time, if there is one.
    Wait(Option<u64>),
    /// Pass READY on. The last decision.
    Pass,
    /// Hang up. The last decision.
    Refuse(Refused, Guest),
}

/// What a refusal means for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Resume it if it is suspended: nobody else will do so now.
    Resume,
    /// Hands off: its helper may be resuming it at this moment.
    LeaveAlone,
}

/// How far the helper is, as the front end told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Helper {
    /// Not heard of. Perhaps it is Xen's own.
    Unheard,
    Begun,
    Committed,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    terms: Terms,
    helper: Helper,
    since: Option<u64>,
    banner: bool,
    ready: bool,
    cancel: bool,
    hang_up: bool,
    given_up: bool,
    front_end_gone: bool,
    xl_gone: bool,
    peer_gone: bool,
}

impl Gate {
    /// A gate that keeps `terms`; without a limit only a wish to cancel closes
    /// it.
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            helper: Helper::Unheard,
            since: None,
            banner: false,
            ready: false,
            cancel: false,
            hang_up: false,
            given_up: false,
            front_end_gone: false,
            xl_gone: false,
            peer_gone: false,
        }
    }

    /// When the guest was asked to suspend.
    pub const fn paused_since(&self) -> Option<u64> {
        self.since
    }

    /// In which order the guest lands.
    pub const fn landing(&self) -> Landing {
        self.terms.landing
    }

    /// Whether a receiver was heard, which may have begun something.
    pub const fn is_receiver_heard(&self) -> bool {
        self.banner
    }

    /// Whether the engine of a fast landing may be resuming the guest, or somebody
    /// in its place: it has begun, and has not said that all is in place.
    pub fn is_the_engines(&self) -> bool {
        self.terms.landing == Landing::Fast && self.helper == Helper::Begun
    }

    /// Whether that engine has undone what it did, or is dead.
    pub const fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// Takes note.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Banner => self.banner = true,
            Event::HelperBegun => self.helper = self.helper.max(Helper::Begun),
            Event::Suspended { since, limit_ns } => {
                self.since = Some(since);
                self.terms.limit_ns = limit_ns.or(self.terms.limit_ns);
            }
            Event::RanOn => self.since = None,
            Event::Committed => self.helper = Helper::Committed,
            Event::Ready => self.ready = true,
            Event::Cancel => self.cancel = true,
            Event::HangUp => self.hang_up = true,
            Event::GivenUp => self.given_up = true,
            Event::FrontEndGone => self.front_end_gone = true,
            Event::XlGone => self.xl_gone = true,
            Event::PeerGone => self.peer_gone = true,
        }
    }

    /// Decides, `now`.
    pub fn decide(&self, now: u64) -> Decision {
        let refuse = |why| Decision::Refuse(why, self.guest());
        if self.xl_gone {
            return refuse(Refused::XlGone);
        }
        if self.peer_gone {
            return refuse(Refused::PeerGone);
        }
        if self.hang_up {
            return refuse(Refused::Cancelled);
        }
        // It has, too, once it has committed and ended.
        if self.given_up && self.helper != Helper::Committed {
            return refuse(Refused::GivenUp);
        }
        if self.front_end_gone {
            return refuse(Refused::FrontEndGone);
        }
        // Between the banner and the end of the stream a cancel is the
        // helper's business: it hears of it too, and says why it ended.
        if self.cancel && (!self.banner || self.guest() == Guest::Resume) {
            return refuse(Refused::Cancelled);
        }
        let ready = self.is_good_to_go();
        let Some(limit_ns) = self.terms.limit_ns else {
            return match ready {
                true => Decision::Pass,
                false => Decision::Wait(None),
            };
        };
        let deadline = |since| self.terms.deadline(since, limit_ns);
        match (self.since.map(deadline), ready) {
            (Some(deadline), true) if now < deadline => Decision::Pass,
            (Some(deadline), false) if now < deadline => Decision::Wait(Some(deadline)),
            (Some(_), true) => refuse(Refused::ReadyTooLate),
            (Some(_), false) => refuse(Refused::NotReady),
            // A limit that cannot be shown to be kept is not kept.
            (None, true) => refuse(Refused::PauseUnknown),
            (None, false) => Decision::Wait(None),
        }
    }

    /// Whether READY, once it is there, is all that was waited for.
    fn is_good_to_go(&self) -> bool {
        match self.terms.landing {
            Landing::Classic => self.ready,
            Landing::Fast => self.ready && self.helper == Helper::Committed,
        }
    }

    /// May the guest be resumed here? When the helper has told that its stream
    /// is complete. READY proves that too, where nobody is there to tell: the
    /// destination has read the stream's end; of a fast landing it proves nothing.
    fn guest(&self) -> Guest {
        let untold = self.helper == Helper::Unheard || self.front_end_gone || self.since.is_none();
        let proven = self.terms.landing == Landing::Classic && self.ready && untold;
        if self.helper == Helper::Committed || proven {
            Guest::Resume
        } else {
            Guest::LeaveAlone
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Terms = Terms {
        limit_ns: Some(1_000),
        ..UNLIMITED
    };

    const UNLIMITED: Terms = Terms {
        limit_ns: None,
        after_ready_ns: 150,
        resume_ns: 50,
        landing: Landing::Classic,
    };

    fn gate(terms: Terms, events: &[Event]) -> Gate {
        let mut gate = Gate::new(terms);
        for event in events {
            gate.note(*event);
        }
        gate
    }

    const SUSPENDED: Event = suspended(None);

    const fn suspended(limit_ns: Option<u64>) -> Event {
        Event::Suspended {
            since: 5_000,
            limit_ns,
        }
    }

    const COMPLETE: [Event; 4] = [
        Event::Banner,
        Event::HelperBegun,
        SUSPENDED,
        Event::Committed,
    ];

    fn after(more: &[Event], now: u64) -> Decision {
        gate(TERMS, &[&COMPLETE, more].concat()).decide(now)
    }

    #[test]
    fn ready_in_time_is_passed_on() {
        assert_eq!(after(&[], 5_100), Decision::Wait(Some(5_850)));
        assert_eq!(after(&[Event::Ready], 5_849), Decision::Pass);
    }

    #[test]
    fn at_the_deadline_the_guest_is_resumed_ready_or_not() {
        assert_eq!(
            after(&[Event::Ready], 5_850),
            Decision::Refuse(Refused::ReadyTooLate, Guest::Resume)
        );
        assert_eq!(
            after(&[], 5_850),
            Decision::Refuse(Refused::NotReady, Guest::Resume)
        );
    }

    #[test]
    fn the_limit_in_force_at_the_suspend_is_kept_lower_higher_or_the_first() {
        for terms in [UNLIMITED, TERMS] {
            for (limit_ns, deadline) in [(400, 5_250), (1_000, 5_850), (3_000, 7_850)] {
                let events = [
                    Event::Banner,
                    Event::HelperBegun,
                    suspended(Some(limit_ns)),
                    Event::Committed,
                ];
                let waiting = gate(terms, &events);
                assert_eq!(waiting.decide(5_100), Decision::Wait(Some(deadline)));
                let ready = gate(terms, &[&events[..], &[Event::Ready]].concat());
                assert_eq!(ready.decide(deadline - 1), Decision::Pass);
                assert_eq!(
                    ready.decide(deadline),
                    Decision::Refuse(Refused::ReadyTooLate, Guest::Resume)
                );
            }
        }
    }

    #[test]
    fn while_the_helper_may_resume_nobody_else_does() {
        let begun = [Event::Banner, Event::HelperBegun, SUSPENDED];
        for (more, why) in [
            (Event::XlGone, Refused::XlGone),
            (Event::PeerGone, Refused::PeerGone),
            (Event::FrontEndGone, Refused::FrontEndGone),
            (Event::HangUp, Refused::Cancelled),
        ] {
            let decided = gate(TERMS, &[&begun[..], &[more]].concat()).decide(5_001);
            assert_eq!(decided, Decision::Refuse(why, Guest::LeaveAlone));
        }
        let cancelled = gate(TERMS, &[&begun[..], &[Event::Cancel]].concat());
        assert_eq!(cancelled.decide(5_001), Decision::Wait(Some(5_850)));
    }

    #[test]
    fn a_cancel_is_heard_until_ready_is_passed_on() {
        for terms in [UNLIMITED, TERMS] {
            for more in [&[Event::Cancel][..], &[Event::Cancel, Event::Ready]] {
                assert_eq!(
                    gate(terms, &[&COMPLETE, more].concat()).decide(5_001),
                    Decision::Refuse(Refused::Cancelled, Guest::Resume)
                );
            }
        }
    }

    #[test]
    fn a_cancel_before_the_banner_needs_nothing_undone() {
        assert_eq!(
            gate(UNLIMITED, &[Event::Cancel]).decide(0),
            Decision::Refuse(Refused::Cancelled, Guest::LeaveAlone)
        );
    }

    #[test]
    fn a_front_end_that_dies_cancels_and_ready_proves_the_stream_complete() {
        let gone = [
            Event::Banner,
            Event::HelperBegun,
            SUSPENDED,
            Event::FrontEndGone,
        ];
        assert_eq!(
            gate(UNLIMITED, &[&gone[..], &[Event::Ready]].concat()).decide(5_001),
            Decision::Refuse(Refused::FrontEndGone, Guest::Resume)
        );
    }

    #[test]
    fn under_a_limit_a_pause_of_unknown_length_is_not_let_through() {
        assert_eq!(
            gate(TERMS, &[Event::Banner, Event::Ready]).decide(0),
            Decision::Refuse(Refused::PauseUnknown, Guest::Resume)
        );
    }

    #[test]
    fn without_a_limit_ready_passes_whoever_copied() {
        assert_eq!(
            gate(UNLIMITED, &[Event::Banner, Event::Ready]).decide(0),
            Decision::Pass
        );
        assert_eq!(
            gate(UNLIMITED, &COMPLETE).decide(u64::MAX),
            Decision::Wait(None)
        );
    }

    const FAST: Terms = Terms {
        landing: Landing::Fast,
        ..TERMS
    };

    #[test]
    fn of_a_fast_landing_ready_waits_until_all_is_in_place() {
        for terms in [
            FAST,
            Terms {
                limit_ns: None,
                ..FAST
            },
        ] {
            let mut gate = gate(terms, &[Event::Banner, Event::HelperBegun, Event::Ready]);
            assert_eq!(gate.decide(0), Decision::Wait(None));
            gate.note(suspended(terms.limit_ns));
            assert!(matches!(gate.decide(5_100), Decision::Wait(_)));
            gate.note(Event::Committed);
            gate.note(Event::GivenUp);
            assert_eq!(gate.decide(5_849), Decision::Pass);
        }
        let late = gate(FAST, &[&[Event::Ready], &COMPLETE[..]].concat());
        assert_eq!(
            late.decide(5_850),
            Decision::Refuse(Refused::ReadyTooLate, Guest::Resume)
        );
    }

    #[test]
    fn of_a_fast_landing_the_guest_is_the_engines_until_all_is_in_place() {
        let begun = [Event::Banner, Event::HelperBegun, Event::Ready, SUSPENDED];
        for (more, why) in [
            (Event::GivenUp, Refused::GivenUp),
            (Event::XlGone, Refused::XlGone),
            (Event::PeerGone, Refused::PeerGone),
            (Event::FrontEndGone, Refused::FrontEndGone),
        ] {
            let decided = gate(FAST, &[&begun[..], &[more]].concat()).decide(5_001);
            assert_eq!(decided, Decision::Refuse(why, Guest::LeaveAlone));
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Banner),
            Just(Event::HelperBegun),
            (0..2_000u64, proptest::option::of(1..2_000u64))
                .prop_map(|(since, limit_ns)| Event::Suspended { since, limit_ns }),
            Just(Event::Committed),
            Just(Event::Ready),
            Just(Event::Cancel),
            Just(Event::HangUp),
            Just(Event::GivenUp),
            Just(Event::FrontEndGone),
            Just(Event::XlGone),
            Just(Event::PeerGone),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_ready_is_passed_on_only_within_the_limit(
            events in proptest::collection::vec(any_event(), 0..12),
            now in 0..4_000u64,
            limit_ns in 1..2_000u64,
            after_ready_ns in 0..2_000u64,
            resume_ns in 0..2_000u64,
            landing in prop_oneof![Just(Landing::Classic), Just(Landing::Fast)],
        ) {
            let terms = Terms { limit_ns: Some(limit_ns), after_ready_ns, resume_ns, landing };
            let gate = gate(terms, &events);
            let told = events.iter().rev().find_map(|event| match event {
                Event::Suspended { limit_ns, .. } => *limit_ns,
                _ => None,
            });
            let limit_ns = told.unwrap_or(limit_ns);
            // A pause that has not begun is none.
            prop_assume!(gate.paused_since().is_none_or(|since| since <= now));
            match gate.decide(now) {
                Decision::Pass => {
                    let since = gate.paused_since().expect("a pause that is known");
                    prop_assert!(now + after_ready_ns <= since + limit_ns);
                    prop_assert!(!events.contains(&Event::Cancel) || !events.contains(&Event::Committed));
                    prop_assert!(landing == Landing::Classic || events.contains(&Event::Committed));
                }
                Decision::Wait(Some(until)) => {
                    let since = gate.paused_since().expect("a pause that is known");
                    prop_assert!(now < until);
                    prop_assert!(until - since <= limit_ns - resume_ns);
                }
                Decision::Refuse(_, Guest::Resume) if landing == Landing::Fast => {
                    prop_assert!(events.contains(&Event::Committed));
                }
                Decision::Wait(None) | Decision::Refuse(..) => {}
            }
        }
    }
}
