//! Gate 4: whether the destination may start the guest.
//!
//! xl's handshake starts it in a classic landing, and in a fast one of the first edition:
//! the gate decides whether READY is passed on. Where the handshake precedes the stop,
//! READY is passed on when the engine asks for it, and the gate decides later whether the
//! engine may have `lull land` start the copy.
//!
//! The gate only decides. Its input is the events, with their time by `CLOCK_MONOTONIC`;
//! its output is what to do.

pub use lull_wire::events::{Landing, Refused};

/// The limit and the costs by which the gate decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Longest pause allowed for the guest, in nanoseconds. `None` means that there is no
    /// limit until the helper reports one.
    pub limit_ns: Option<u64>,
    /// Upper bound, in nanoseconds, of the time from the gate's permission until the guest
    /// runs at the destination.
    pub after_ready_ns: u64,
    /// Upper bound, in nanoseconds, of the time from a refusal until the guest runs at the
    /// source.
    pub resume_ns: u64,
    /// The landing, which determines what READY means. In a fast landing READY arrives long
    /// before the guest stops, and is held until the engine asks for the handshake, or until
    /// it reports that everything is in place.
    pub landing: Landing,
}

impl Terms {
    /// The deadline of a pause that began at `since`: READY may be passed on before it, and
    /// a refusal must begin at the latest then. Both share one moment; with two, there
    /// would be a time in which neither can keep the limit.
    const fn deadline(self, since: u64, limit_ns: u64) -> u64 {
        let reserve = if self.after_ready_ns > self.resume_ns {
            self.after_ready_ns
        } else {
            self.resume_ns
        };
        since.saturating_add(limit_ns.saturating_sub(reserve))
    }
}

/// An event that the gate takes into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The destination's receiver has sent its banner.
    Banner,
    /// The helper has started.
    HelperBegun,
    /// The guest was asked to suspend and has suspended. The pause counts from `since`.
    Suspended {
        /// When the guest was asked, in nanoseconds of `CLOCK_MONOTONIC`.
        since: u64,
        /// The limit in force at that time, in nanoseconds. It replaces the limit known
        /// before, because `lull set` may have raised or lowered it.
        limit_ns: Option<u64>,
    },
    /// The pause has ended: the guest runs on at the source, and copying continues.
    RanOn,
    /// The helper's stream is complete; the helper will not resume the guest.
    Committed,
    /// The destination has sent READY.
    Ready,
    /// The engine wants the handshake to take place now, while the guest runs.
    HandOver,
    /// READY has been passed on for that.
    HandingOver,
    /// The receiver has reported: it has taken the guest's name, or given the guest back.
    Reported {
        /// Whether it has taken the name.
        taken: bool,
    },
    /// The operator asks to cancel.
    Cancel,
    /// Hang up, in whatever state the helper is.
    HangUp,
    /// The destination has started the copy, the engine says.
    Started,
    /// The engine of a fast landing has given up.
    GivenUp,
    /// It has died or ended, or knows nothing of the copy it wanted started.
    EngineGone,
    /// The front end has died or closed its socket.
    FrontEndGone,
    /// xl has closed its end.
    XlGone,
    /// The destination has closed its end.
    PeerGone,
}

/// What the relay does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do nothing; decide again at this time (`CLOCK_MONOTONIC`, nanoseconds) if there is
    /// one.
    Wait(Option<u64>),
    /// Pass READY on, and keep the answer. The guest runs here meanwhile.
    HandOver,
    /// Let the destination start the guest: pass READY on, or inform the engine if the
    /// handshake is over. No decision follows.
    Pass,
    /// Hang up. No decision follows.
    Refuse(Refused, Guest),
}

/// What to do with the guest on a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Resume the guest if it is suspended: no other process does so now.
    Resume,
    /// Leave the guest alone: its helper may be resuming it at this moment.
    LeaveAlone,
}

/// What has become of a copy that might be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The destination has started it.
    Started,
    /// The engine has not had it started, and has resumed the guest.
    NotStarted,
    /// The engine ended without a word.
    Unknown,
}

/// How far the helper is, according to the front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Helper {
    /// The helper has not reported. It may be Xen's own helper.
    NotReported,
    Begun,
    Committed,
}

/// How far a handshake is that precedes the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handshake {
    NotBegun,
    Asked,
    UnderWay,
    Over,
}

/// The state of gate 4: the terms, and the events noted so far.
#[derive(Debug)]
pub struct Gate {
    terms: Terms,
    helper: Helper,
    handshake: Handshake,
    since: Option<u64>,
    banner: bool,
    ready: bool,
    cancel: bool,
    hang_up: bool,
    given_up: bool,
    engine_gone: bool,
    started: bool,
    front_end_gone: bool,
    xl_gone: bool,
    peer_gone: bool,
    gave_back: bool,
}

impl Gate {
    /// Creates a gate that enforces `terms`. Without a limit, only a request to cancel
    /// closes it.
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            helper: Helper::NotReported,
            handshake: Handshake::NotBegun,
            since: None,
            banner: false,
            ready: false,
            cancel: false,
            hang_up: false,
            given_up: false,
            engine_gone: false,
            started: false,
            front_end_gone: false,
            xl_gone: false,
            peer_gone: false,
            gave_back: false,
        }
    }

    /// When the guest was asked to suspend, in nanoseconds of `CLOCK_MONOTONIC`.
    pub const fn paused_since(&self) -> Option<u64> {
        self.since
    }

    /// The landing that the terms name.
    pub const fn landing(&self) -> Landing {
        self.terms.landing
    }

    /// Whether the receiver's banner has arrived; the receiver may have created something
    /// since.
    pub const fn has_banner(&self) -> bool {
        self.banner
    }

    /// Whether a fast landing's engine, or its guard, may be resuming the guest. This holds
    /// once the engine has started and until it reports that everything is in place. Where
    /// the handshake precedes the stop, the engine resumes the guest even then.
    pub fn is_the_engines(&self) -> bool {
        self.terms.landing.is_fast()
            && match self.helper {
                Helper::NotReported => false,
                Helper::Begun => true,
                Helper::Committed => self.is_handshake_first(),
            }
    }

    /// Whether xl's handshake precedes the guest's stop.
    pub const fn is_handshake_first(&self) -> bool {
        self.terms.landing.is_handshake_first()
    }

    /// Whether xl has been passed READY, and awaits a report or has it yet to read, while
    /// the guest is still this host's.
    pub const fn is_handed_over(&self) -> bool {
        matches!(self.handshake, Handshake::UnderWay | Handshake::Over)
    }

    /// Whether the receiver has reported to a handshake that precedes the stop.
    pub fn has_reported(&self) -> bool {
        self.handshake == Handshake::Over
    }

    /// Whether the engine has undone its changes, or is dead.
    pub const fn has_given_up(&self) -> bool {
        self.given_up || self.engine_gone
    }

    /// What has become of a copy that the engine was permitted to have started; `None` while
    /// that is not known.
    pub const fn after_permission(&self) -> Option<Then> {
        if !self.is_handshake_first() {
            None
        } else if self.started {
            Some(Then::Started)
        } else if self.given_up {
            Some(Then::NotStarted)
        } else if self.engine_gone {
            Some(Then::Unknown)
        } else {
            None
        }
    }

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
            Event::HandOver => {
                if self.is_handshake_first() && self.handshake == Handshake::NotBegun {
                    self.handshake = Handshake::Asked;
                }
            }
            Event::HandingOver => self.handshake = Handshake::UnderWay,
            Event::Reported { taken } => {
                self.handshake = Handshake::Over;
                self.gave_back = !taken;
            }
            Event::Cancel => self.cancel = true,
            Event::HangUp => self.hang_up = true,
            Event::Started => self.started = true,
            Event::GivenUp => self.given_up = true,
            Event::EngineGone => self.engine_gone = true,
            Event::FrontEndGone => self.front_end_gone = true,
            Event::XlGone => self.xl_gone = true,
            Event::PeerGone => self.peer_gone = true,
        }
    }

    /// Decides what to do at `now`, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn decide(&self, now: u64) -> Decision {
        let refuse = |why| Decision::Refuse(why, self.guest());
        if self.xl_gone {
            return refuse(Refused::XlGone);
        }
        if self.gave_back {
            return refuse(Refused::GaveBack);
        }
        // A receiver that has reported ends.
        if self.peer_gone && self.handshake != Handshake::Over {
            return refuse(Refused::PeerGone);
        }
        if self.hang_up {
            return refuse(Refused::Cancelled);
        }
        // An engine that has committed ends too, unless it still has to start the copy.
        if self.has_given_up() && (self.helper != Helper::Committed || self.is_handshake_first()) {
            return refuse(Refused::GivenUp);
        }
        if self.front_end_gone {
            return refuse(Refused::FrontEndGone);
        }
        // Between the banner and the end of the stream the helper handles a cancel: it
        // receives the request too, and reports why it ended.
        if self.cancel && (!self.banner || self.is_alone()) {
            return refuse(Refused::Cancelled);
        }
        if self.handshake == Handshake::Asked && self.ready {
            return Decision::HandOver;
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
            // A pause of unknown length cannot be shown to keep the limit, so it is
            // refused.
            (None, true) => refuse(Refused::PauseUnknown),
            (None, false) => Decision::Wait(None),
        }
    }

    /// Whether READY has arrived and nothing else is awaited.
    fn is_good_to_go(&self) -> bool {
        match self.terms.landing {
            Landing::Classic => self.ready,
            Landing::Fast => {
                let handed_over = self.handshake == Handshake::Over;
                self.ready && handed_over && self.helper == Helper::Committed
            }
            Landing::FastHandshakeLast => self.ready && self.helper == Helper::Committed,
        }
    }

    /// Whether the helper has done its part and handles a cancel no more.
    fn is_alone(&self) -> bool {
        let asks = self.is_handshake_first() && self.helper == Helper::Committed;
        asks || self.guest() == Guest::Resume
    }

    /// Whether the guest may be resumed here. It may once the helper has reported that its
    /// stream is complete. In a classic landing READY proves the same if no helper or front
    /// end reports it, because the destination has then read the end of the stream. In a
    /// fast landing READY proves nothing. Where the handshake precedes the stop, the engine
    /// resumes the guest until it may start the copy, and nothing does afterwards.
    fn guest(&self) -> Guest {
        if self.is_handshake_first() {
            return Guest::LeaveAlone;
        }
        let unreported =
            self.helper == Helper::NotReported || self.front_end_gone || self.since.is_none();
        let proven = self.terms.landing == Landing::Classic && self.ready && unreported;
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
    fn while_the_helper_may_resume_the_transport_does_not() {
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
    fn a_cancel_counts_until_ready_is_passed_on() {
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
        landing: Landing::FastHandshakeLast,
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

    const AHEAD: Terms = Terms {
        landing: Landing::Fast,
        ..TERMS
    };

    const HANDED_OVER: [Event; 6] = [
        Event::Banner,
        Event::HelperBegun,
        Event::Ready,
        Event::HandOver,
        Event::HandingOver,
        Event::Reported { taken: true },
    ];

    #[test]
    fn a_handshake_ahead_begins_when_the_engine_asks_and_the_destination_is_ready() {
        let begun = [Event::Banner, Event::HelperBegun];
        for [first, second] in [
            [Event::HandOver, Event::Ready],
            [Event::Ready, Event::HandOver],
        ] {
            let mut gate = gate(AHEAD, &begun);
            gate.note(first);
            assert_eq!(gate.decide(0), Decision::Wait(None));
            gate.note(second);
            assert_eq!(gate.decide(0), Decision::HandOver);
            assert!(!gate.is_handed_over());
            // Once is enough.
            gate.note(Event::HandingOver);
            gate.note(Event::HandOver);
            assert_eq!(gate.decide(0), Decision::Wait(None));
            assert!(gate.is_handed_over());
        }
        // The first edition knows no such thing.
        let first = gate(
            FAST,
            &[&begun[..], &[Event::Ready, Event::HandOver]].concat(),
        );
        assert_eq!(first.decide(0), Decision::Wait(None));
        // Given up before it begins: xl has read nothing yet.
        let asked = [Event::HandOver, Event::Ready, Event::GivenUp];
        let gave_up = gate(AHEAD, &[&begun[..], &asked].concat());
        assert_eq!(
            gave_up.decide(0),
            Decision::Refuse(Refused::GivenUp, Guest::LeaveAlone)
        );
        assert!(!gave_up.is_handed_over());
    }

    #[test]
    fn the_copy_is_started_only_once_all_is_in_place_and_in_time() {
        let mut gate = gate(AHEAD, &HANDED_OVER);
        // The receiver has reported and ends.
        gate.note(Event::PeerGone);
        assert_eq!(gate.decide(5_000), Decision::Wait(None));
        gate.note(SUSPENDED);
        assert_eq!(gate.decide(5_001), Decision::Wait(Some(5_850)));
        gate.note(Event::Committed);
        assert_eq!(gate.decide(5_849), Decision::Pass);
        assert_eq!(
            gate.decide(5_850),
            Decision::Refuse(Refused::ReadyTooLate, Guest::LeaveAlone)
        );
        assert!(gate.is_the_engines());
        for (more, why) in [
            (Event::Cancel, Refused::Cancelled),
            (Event::GivenUp, Refused::GivenUp),
            (Event::XlGone, Refused::XlGone),
            (Event::FrontEndGone, Refused::FrontEndGone),
        ] {
            let events = [&HANDED_OVER[..], &[SUSPENDED, Event::Committed, more]].concat();
            let decided = super::tests::gate(AHEAD, &events).decide(5_001);
            assert_eq!(decided, Decision::Refuse(why, Guest::LeaveAlone));
        }
    }

    /// An engine that is permitted to have the copy started and then refuses says so; of one
    /// that ends without a word nothing is known.
    #[test]
    fn after_the_permission_only_the_engine_knows() {
        for (events, then) in [
            (&[][..], None),
            (&[Event::Started, Event::EngineGone], Some(Then::Started)),
            (&[Event::GivenUp, Event::EngineGone], Some(Then::NotStarted)),
            (&[Event::EngineGone], Some(Then::Unknown)),
            (&[Event::XlGone, Event::FrontEndGone, Event::Cancel], None),
        ] {
            assert_eq!(gate(AHEAD, events).after_permission(), then);
            assert_eq!(gate(FAST, events).after_permission(), None);
        }
    }

    #[test]
    fn a_destination_that_gives_the_guest_back_or_goes_away_ends_the_handshake() {
        let begun = &HANDED_OVER[..5];
        for (last, why) in [
            (Event::Reported { taken: false }, Refused::GaveBack),
            (Event::PeerGone, Refused::PeerGone),
        ] {
            let gate = gate(AHEAD, &[begun, &[last]].concat());
            assert_eq!(gate.decide(0), Decision::Refuse(why, Guest::LeaveAlone));
            assert!(gate.is_handed_over());
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
            Just(Event::HandOver),
            Just(Event::HandingOver),
            any::<bool>().prop_map(|taken| Event::Reported { taken }),
            Just(Event::Cancel),
            Just(Event::HangUp),
            Just(Event::GivenUp),
            Just(Event::Started),
            Just(Event::EngineGone),
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
            landing in prop_oneof![
                Just(Landing::Classic),
                Just(Landing::Fast),
                Just(Landing::FastHandshakeLast),
            ],
        ) {
            let handshake_first = landing.is_handshake_first();
            let terms = Terms { limit_ns: Some(limit_ns), after_ready_ns, resume_ns, landing };
            let gate = gate(terms, &events);
            let reported = events.iter().rev().find_map(|event| match event {
                Event::Suspended { limit_ns, .. } => *limit_ns,
                _ => None,
            });
            let limit_ns = reported.unwrap_or(limit_ns);
            // A pause that begins after `now` does not exist yet.
            prop_assume!(gate.paused_since().is_none_or(|since| since <= now));
            match gate.decide(now) {
                Decision::Pass => {
                    let since = gate.paused_since().expect("a pause that is known");
                    prop_assert!(now + after_ready_ns <= since + limit_ns);
                    prop_assert!(!events.contains(&Event::Cancel) || !events.contains(&Event::Committed));
                    prop_assert!(landing == Landing::Classic || events.contains(&Event::Committed));
                    let taken = events.contains(&Event::Reported { taken: true });
                    prop_assert!(!handshake_first || taken && !events.contains(&Event::GivenUp));
                }
                Decision::HandOver => {
                    prop_assert!(handshake_first && !gate.is_handed_over());
                    prop_assert!(events.contains(&Event::Ready) && events.contains(&Event::HandOver));
                }
                Decision::Wait(Some(until)) => {
                    let since = gate.paused_since().expect("a pause that is known");
                    prop_assert!(now < until);
                    prop_assert!(until - since <= limit_ns - resume_ns);
                }
                Decision::Refuse(_, Guest::Resume) if landing.is_fast() => {
                    prop_assert!(events.contains(&Event::Committed) && !handshake_first);
                }
                Decision::Wait(None) | Decision::Refuse(..) => {}
            }
        }
    }
}
