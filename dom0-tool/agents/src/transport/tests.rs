//! Tests of whole relays. Pipes stand in for xl and for the destination, and a simulated
//! guest counts how often it is resumed.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lull_base::monotonic::now_ns;
use lull_base::ready;
use lull_wire::events::{Answered, Event, GuestThen, HungUp, Line, Ready};
use lull_wire::gate::{FromEngine, GateCommand, Incoming, ToEngine, encode};
use lull_wire::xl::markers::{BANNER, GO, READY, REPORT, gave_back};

use super::forward::{Progress, ToDestination};
use super::gate::{Landing, Refused};
use super::resume::Source;
use super::*;
use relay::RelayOutcome;

const MS: u64 = 1_000_000;

/// A limit of 1.6 s, half of which READY may take. The other half allows for a busy
/// machine.
const TERMS: Terms = Terms {
    limit_ns: Some(1_600 * MS),
    ..UNLIMITED
};

const UNLIMITED: Terms = Terms {
    limit_ns: None,
    after_ready_ns: 800 * MS,
    resume_ns: 50 * MS,
    landing: Landing::Classic,
};

/// A source whose guest is suspended or not as the test sets it.
#[derive(Clone, Default)]
struct Counted {
    resumed: Arc<AtomicU32>,
    suspended: Arc<AtomicBool>,
    runs: Arc<AtomicBool>,
    /// Whether Xen answers nothing.
    unread: Arc<AtomicBool>,
}

impl Source for Counted {
    fn resume(&mut self) -> io::Result<GuestThen> {
        self.resumed.fetch_add(1, Ordering::SeqCst);
        Ok(GuestThen::Resumed)
    }

    fn complaint(&self) -> Option<&str> {
        None
    }

    fn is_suspended(&self) -> io::Result<bool> {
        Ok(self.suspended.load(Ordering::SeqCst))
    }

    fn runs(&self) -> io::Result<bool> {
        if self.unread.load(Ordering::SeqCst) {
            return Err(io::Error::other("no answer"));
        }
        Ok(self.runs.load(Ordering::SeqCst))
    }
}

/// The other ends of the relay's pipes and sockets.
struct World {
    xl_out: Option<PipeWriter>,
    xl_in: PipeReader,
    peer_in: PipeReader,
    peer_out: Option<PipeWriter>,
    front_end: Option<UnixStream>,
    engine: Option<UnixStream>,
    events: BufReader<UnixStream>,
    guest: Counted,
    relay: JoinHandle<RelayOutcome>,
}

fn world(terms: Terms) -> World {
    let (from_xl, xl_out) = io::pipe().unwrap();
    let (xl_in, to_xl) = io::pipe().unwrap();
    let (peer_in, to_peer) = io::pipe().unwrap();
    let (from_peer, peer_out) = io::pipe().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let (engine, engines) = UnixStream::pair().unwrap();
    engine
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut guest = Counted::default();
    let seen = guest.clone();
    let ends = Ends {
        from_xl: from_xl.into(),
        to_xl: to_xl.into(),
        to_peer: to_peer.into(),
        from_peer: from_peer.into(),
    };
    let relay = std::thread::spawn(move || {
        let sockets = Sockets::new(Some(theirs), Some(engines), terms.landing);
        let relay = Relay::new(ends, Gate::new(terms), sockets, &mut guest);
        relay.unwrap().run().unwrap()
    });
    World {
        xl_out: Some(xl_out),
        xl_in,
        peer_in,
        peer_out: Some(peer_out),
        events: BufReader::new(ours.try_clone().unwrap()),
        front_end: Some(ours),
        engine: Some(engine),
        guest: seen,
        relay,
    }
}

impl World {
    fn command(&mut self, command: GateCommand) {
        self.front_end
            .as_mut()
            .unwrap()
            .write_all(&encode(command))
            .unwrap();
    }

    /// Sends a message as the engine.
    fn engine(&mut self, message: FromEngine) {
        self.engine
            .as_mut()
            .unwrap()
            .write_all(&encode(message))
            .unwrap();
    }

    /// The next message to a fast landing's engine.
    fn engine_receives(&mut self) -> ToEngine {
        let mut incoming = Incoming::default();
        let mut received = None;
        while received.is_none() {
            let mut byte = [0];
            let engine = self.engine.as_mut().unwrap();
            engine.read_exact(&mut byte).unwrap();
            incoming.take(&byte, |message| received = message.ok());
        }
        received.unwrap()
    }

    /// Reports a guest that suspended `ago` before now, and a complete stream.
    fn stream_complete(&mut self, ago: Duration) {
        self.complete_under(None, ago);
    }

    /// The same, under a limit that differs from the initial one.
    fn complete_under(&mut self, limit_us: Option<u64>, ago: Duration) {
        self.peer_says(BANNER);
        assert_eq!(self.xl_receives(BANNER.len()), BANNER);
        let ago = u64::try_from(ago.as_nanos()).unwrap();
        self.engine(FromEngine::Begun);
        self.engine(FromEngine::Suspended {
            requested_monotonic_ns: now_ns() - ago,
            limit_us,
        });
        self.engine(FromEngine::Committed);
    }

    fn peer_says(&mut self, bytes: &[u8]) {
        self.peer_out.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn xl_receives(&mut self, length: usize) -> Vec<u8> {
        let mut received = vec![0; length];
        self.xl_in.read_exact(&mut received).unwrap();
        received
    }

    fn event(&mut self) -> Event {
        let mut line = String::new();
        self.events.read_line(&mut line).unwrap();
        serde_json::from_str::<Line>(&line).unwrap().event
    }

    fn hung_up(&mut self) -> HungUp {
        match self.event() {
            Event::HungUp(hung_up) => hung_up,
            other => panic!("{other:?}"),
        }
    }

    fn ready(&mut self) -> Ready {
        match self.event() {
            Event::Ready(ready) => ready,
            other => panic!("{other:?}"),
        }
    }

    fn answered(&mut self) -> Answered {
        match self.event() {
            Event::Answered(answered) => answered,
            other => panic!("{other:?}"),
        }
    }

    fn resumed(&self) -> u32 {
        self.guest.resumed.load(Ordering::SeqCst)
    }

    /// Checks that xl reads nothing for this long, not even an end of file.
    fn xl_waits(&self, long: Duration) {
        assert_eq!(ready::is_readable(&self.xl_in, long), Ok(false));
    }

    /// Checks that both ends read an end of file, and that the guest was resumed `resumed`
    /// times by then.
    fn ends(mut self, resumed: u32) -> RelayOutcome {
        let mut rest = Vec::new();
        self.xl_in.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        assert_eq!(self.resumed(), resumed);
        self.peer_in.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
        self.relay.join().unwrap()
    }
}

/// A fast landing with the handshake last: READY has arrived, and the guest was just asked
/// to suspend.
fn fast() -> World {
    let mut world = world(Terms {
        landing: Landing::FastHandshakeLast,
        ..TERMS
    });
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.peer_says(READY);
    assert_eq!(world.engine_receives(), ToEngine::TargetReady);
    assert!(matches!(world.event(), Event::TargetReady(_)));
    world.engine(FromEngine::Begun);
    world.engine(FromEngine::Suspended {
        requested_monotonic_ns: now_ns(),
        limit_us: None,
    });
    world
}

#[test]
fn a_front_end_that_stands_still_keeps_no_fast_landing_up() {
    let mut world = fast();
    world.engine(FromEngine::Committed);
    drop(world.engine.take());
    assert_eq!(world.xl_receives(READY.len()), READY);
    world.ready();
    drop((world.xl_out.take(), world.peer_out.take()));
    assert!(matches!(world.ends(0), RelayOutcome::Ended));
}

/// An engine that sends what is no message counts as one that died.
#[test]
fn nonsense_on_the_engines_socket_ends_a_fast_landing() {
    let mut world = fast();
    world.engine.as_mut().unwrap().write_all(b"}{\n").unwrap();
    assert_eq!(world.hung_up().why, Refused::GivenUp);
    drop(world.peer_out.take());
    world.ends(0);
}

#[test]
fn nor_does_it_make_a_pause_longer_than_its_limit() {
    let mut world = fast();
    let hung_up = world.hung_up();
    assert_eq!(
        (hung_up.why, hung_up.guest),
        (Refused::NotReady, GuestThen::LeftAlone)
    );
    world.engine(FromEngine::GivenUp);
    drop(world.peer_out.take());
    world.ends(0);
}

#[test]
fn an_engine_that_dies_in_the_pause_has_given_up() {
    let mut world = fast();
    drop(world.engine.take());
    assert_eq!(world.hung_up().why, Refused::GivenUp);
    drop(world.peer_out.take());
    world.ends(0);
}

#[test]
fn xl_learns_of_a_broken_connection_only_when_the_engine_has_resumed_the_guest() {
    let mut world = fast();
    drop(world.peer_out.take());
    let why = Refused::PeerGone;
    assert_eq!(world.engine_receives(), ToEngine::HungUp { why });
    assert_eq!(world.hung_up().why, why);
    world.xl_waits(Duration::from_millis(100));
    world.engine(FromEngine::GivenUp);
    world.ends(0);
}

#[test]
fn or_whoever_stands_in_for_an_engine_that_is_dead() {
    let mut world = fast();
    world.guest.suspended.store(true, Ordering::SeqCst);
    drop(world.engine.take());
    assert_eq!(world.hung_up().why, Refused::GivenUp);
    world.xl_waits(Duration::from_millis(100));
    world.guest.suspended.store(false, Ordering::SeqCst);
    drop(world.peer_out.take());
    world.ends(0);
}

#[test]
fn an_engine_that_hangs_leaves_the_guest_to_be_resumed_here() {
    let mut world = fast();
    drop(world.peer_out.take());
    assert_eq!(world.hung_up().why, Refused::PeerGone);
    world.ends(1);
}

#[test]
fn so_does_one_that_had_all_in_place_in_the_same_moment() {
    let mut world = fast();
    drop(world.peer_out.take());
    assert_eq!(world.hung_up().why, Refused::PeerGone);
    world.engine(FromEngine::Committed);
    world.ends(1);
}

/// A fast landing in which xl has READY, and its GO is with the receiver.
fn handing_over() -> World {
    let mut world = world(Terms {
        landing: Landing::Fast,
        ..TERMS
    });
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.engine(FromEngine::Begun);
    world.peer_says(READY);
    assert_eq!(world.engine_receives(), ToEngine::TargetReady);
    assert!(matches!(world.event(), Event::TargetReady(_)));
    world.xl_waits(Duration::from_millis(50));
    // The guest runs here all the while.
    world.guest.runs.store(true, Ordering::SeqCst);
    world.engine(FromEngine::HandOver);
    assert_eq!(world.xl_receives(READY.len()), READY);
    world.xl_out.as_mut().unwrap().write_all(GO).unwrap();
    let mut go = vec![0; GO.len()];
    world.peer_in.read_exact(&mut go).unwrap();
    assert_eq!(go, GO);
    world
}

/// xl would destroy a guest that still runs here.
#[test]
fn a_report_that_comes_with_ready_is_kept_from_xl() {
    let mut world = world(Terms {
        landing: Landing::Fast,
        ..TERMS
    });
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.engine(FromEngine::Begun);
    world.peer_says(&[READY, REPORT, &[0]].concat());
    assert_eq!(world.engine_receives(), ToEngine::TargetReady);
    world.engine(FromEngine::HandOver);
    assert_eq!(world.xl_receives(READY.len()), READY);
    assert_eq!(world.engine_receives(), ToEngine::HandedOver);
    world.xl_waits(Duration::from_millis(100));
    world.engine(FromEngine::GivenUp);
    world.gives_back(0);
}

/// xl would take a READY that comes so early for the answer to its stream.
#[test]
fn a_ready_that_comes_with_the_banner_is_held() {
    let mut world = world(Terms {
        landing: Landing::Fast,
        ..TERMS
    });
    world.peer_says(&[BANNER, READY, REPORT, &[0]].concat());
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    assert_eq!(world.engine_receives(), ToEngine::TargetReady);
    world.xl_waits(Duration::from_millis(100));
    // The engine finds that it comes too early.
    world.engine(FromEngine::Begun);
    world.engine(FromEngine::GivenUp);
    assert!(matches!(world.event(), Event::TargetReady(_)));
    assert_eq!(world.hung_up().why, Refused::GivenUp);
    drop((world.xl_out.take(), world.peer_out.take()));
    world.ends(0);
}

/// The same, after the receiver's report and its end. The guest was just asked to suspend
/// and has stopped.
fn handed_over() -> World {
    let mut world = handing_over();
    // In pieces, as it may come.
    world.peer_says(&REPORT[..7]);
    std::thread::sleep(Duration::from_millis(10));
    world.peer_says(&REPORT[7..]);
    world.peer_says(&[0]);
    assert_eq!(world.engine_receives(), ToEngine::HandedOver);
    assert!(matches!(world.event(), Event::HandedOver(_)));
    drop(world.peer_out.take());
    world.xl_waits(Duration::from_millis(50));
    world.guest.runs.store(false, Ordering::SeqCst);
    world.guest.suspended.store(true, Ordering::SeqCst);
    world.engine(FromEngine::Suspended {
        requested_monotonic_ns: now_ns(),
        limit_us: None,
    });
    world
}

impl World {
    /// Checks that xl receives the report of a destination that gave the guest back, and
    /// nothing else.
    fn gives_back(mut self, resumed: u32) {
        let said = gave_back();
        assert_eq!(self.xl_receives(said.len()), said);
        assert_eq!(self.resumed(), resumed);
        // xl resumes a guest that runs, logs that, and exits.
        drop(self.xl_out.take());
        drop(self.peer_out.take());
        assert!(matches!(self.ends(resumed), RelayOutcome::HungUp(_)));
    }
}

#[test]
fn a_handshake_ahead_is_reported_to_xl_only_when_the_copy_runs() {
    let mut world = handed_over();
    world.engine(FromEngine::Committed);
    assert_eq!(world.engine_receives(), ToEngine::Start);
    world.ready();
    world.xl_waits(Duration::from_millis(100));
    // Too late for anything else.
    world.command(GateCommand::Cancel);
    world.engine(FromEngine::Started);
    drop(world.engine.take());
    assert_eq!(world.xl_receives(REPORT.len()), REPORT);
    assert_eq!(world.xl_receives(1), [0]);
    let answered = world.answered();
    assert!(answered.go_monotonic_ns <= answered.answer_monotonic_ns);
    drop((world.xl_out.take(), world.front_end.take()));
    assert!(matches!(world.ends(0), RelayOutcome::Ended));
}

#[test]
fn what_is_refused_after_the_handshake_is_given_back_once_the_guest_runs() {
    type Fault = fn(&mut World);
    let faults: [(Fault, Refused); 5] = [
        (|_| {}, Refused::NotReady),
        (
            |world| {
                let (_, gone) = UnixStream::pair().unwrap();
                world.events = BufReader::new(gone);
                drop(world.front_end.take());
            },
            Refused::FrontEndGone,
        ),
        (
            |world| {
                // The operator's wish is the transport's once the engine asks.
                world.command(GateCommand::Cancel);
                std::thread::sleep(Duration::from_millis(50));
                world.engine(FromEngine::Committed);
            },
            Refused::Cancelled,
        ),
        (|world| world.engine(FromEngine::GivenUp), Refused::GivenUp),
        (
            |world| {
                // The receiver has ended, and xl dies.
                world.peer_in = io::pipe().unwrap().0;
                drop(world.xl_out.take());
            },
            Refused::XlGone,
        ),
    ];
    for (fault, why) in faults {
        let mut world = handed_over();
        fault(&mut world);
        assert_eq!(world.engine_receives(), ToEngine::HungUp { why });
        if why != Refused::FrontEndGone {
            let hung_up = world.hung_up();
            assert_eq!((hung_up.why, hung_up.guest), (why, GuestThen::LeftAlone));
        }
        world.xl_waits(Duration::from_millis(100));
        world.guest.suspended.store(false, Ordering::SeqCst);
        world.engine(FromEngine::GivenUp);
        world.gives_back(0);
    }
}

#[test]
fn an_engine_that_dies_after_the_handshake_is_waited_out_or_stood_in_for() {
    for guarded in [true, false] {
        let mut world = handed_over();
        drop(world.engine.take());
        assert_eq!(world.hung_up().why, Refused::GivenUp);
        world.xl_waits(Duration::from_millis(100));
        if guarded {
            world.guest.suspended.store(false, Ordering::SeqCst);
        }
        world.gives_back(u32::from(!guarded));
    }
}

/// Otherwise two copies would run.
#[test]
fn of_a_copy_that_may_have_been_started_nothing_is_said_to_xl() {
    let mut world = handed_over();
    world.engine(FromEngine::Committed);
    assert_eq!(world.engine_receives(), ToEngine::Start);
    world.ready();
    drop(world.engine.take());
    let mut rest = Vec::new();
    world.xl_in.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert_eq!(world.resumed(), 0);
    assert!(matches!(
        world.relay.join().unwrap(),
        RelayOutcome::NoReport
    ));
}

/// The permission crossed the engine's own deadline.
#[test]
fn an_engine_that_has_not_used_its_permission_may_still_refuse() {
    let mut world = handed_over();
    world.engine(FromEngine::Committed);
    assert_eq!(world.engine_receives(), ToEngine::Start);
    world.ready();
    world.guest.suspended.store(false, Ordering::SeqCst);
    world.engine(FromEngine::GivenUp);
    assert_eq!(world.hung_up().why, Refused::GivenUp);
    world.gives_back(0);
}

#[test]
fn a_destination_that_cannot_take_the_name_ends_the_attempt_while_the_guest_runs() {
    type Fault = fn(&mut World);
    let faults: [(Fault, Refused); 2] = [
        (|world| world.peer_says(&gave_back()), Refused::GaveBack),
        (
            |world| {
                drop(world.peer_out.take());
            },
            Refused::PeerGone,
        ),
    ];
    for (fault, why) in faults {
        let mut world = handing_over();
        fault(&mut world);
        assert_eq!(world.engine_receives(), ToEngine::HungUp { why });
        assert_eq!(world.hung_up().why, why);
        world.engine(FromEngine::GivenUp);
        world.gives_back(0);
    }
}

/// xl would not know where the guest is if its GO could not be written.
#[test]
fn an_xl_that_is_slow_with_go_may_still_say_it() {
    let mut world = world(Terms {
        landing: Landing::Fast,
        ..UNLIMITED
    });
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.engine(FromEngine::Begun);
    world.peer_says(READY);
    assert_eq!(world.engine_receives(), ToEngine::TargetReady);
    world.engine(FromEngine::HandOver);
    assert_eq!(world.xl_receives(READY.len()), READY);
    world.engine(FromEngine::GivenUp);
    // The receiver, which has not received GO, destroys its copy.
    let mut rest = Vec::new();
    world.peer_in.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    world.xl_out.as_mut().unwrap().write_all(GO).unwrap();
    world.gives_back(0);
}

#[test]
fn a_handshake_in_time_goes_through_word_by_word() {
    let mut world = world(TERMS);
    world.stream_complete(Duration::ZERO);
    world.peer_says(READY);
    assert_eq!(world.xl_receives(READY.len()), READY);
    let ready = world.ready();
    assert!(ready.came_monotonic_ns <= ready.passed_monotonic_ns);

    // From here on nothing is decided any more, not even on a cancel.
    world.command(GateCommand::Cancel);
    let mut xl_out = world.xl_out.take().unwrap();
    xl_out.write_all(b"GO\0").unwrap();
    let mut go = [0; 3];
    world.peer_in.read_exact(&mut go).unwrap();
    assert_eq!(&go, b"GO\0");
    std::thread::sleep(Duration::from_millis(900));
    world.peer_says(b"report\0\0");
    assert_eq!(world.xl_receives(8), b"report\0\0");
    let answered = world.answered();
    assert!(ready.passed_monotonic_ns <= answered.go_monotonic_ns);
    let round_trip = answered.answer_monotonic_ns - answered.go_monotonic_ns;
    assert!(round_trip >= 900 * MS, "{round_trip}");
    drop((xl_out, world.peer_out.take(), world.front_end.take()));
    assert!(matches!(world.ends(0), RelayOutcome::Ended));
}

#[test]
fn a_destination_that_does_not_get_ready_is_refused_within_the_limit() {
    let mut world = world(TERMS);
    world.stream_complete(Duration::ZERO);
    let hung_up = world.hung_up();
    assert_eq!(hung_up.why, Refused::NotReady);
    assert_eq!(hung_up.guest, GuestThen::Resumed);
    let pause = hung_up.refused_pause_ms.unwrap();
    assert!((800..1_600).contains(&pause), "{pause}");
    // The output of the destination is still read, so that the receiver can clear up.
    world.peer_says(b"report");
    let peer_out = world.peer_out.take();
    let RelayOutcome::HungUp(Some(rest)) = world.ends(1) else {
        panic!("the rest is to be read");
    };
    drop((peer_out, rest));
}

#[test]
fn a_limit_set_while_it_ran_is_the_one_that_is_kept() {
    // A lower limit than the initial one, and a first limit.
    for terms in [
        UNLIMITED,
        Terms {
            limit_ns: Some(60_000 * MS),
            ..TERMS
        },
    ] {
        let mut world = world(terms);
        world.complete_under(Some(1_600_000), Duration::ZERO);
        let hung_up = world.hung_up();
        assert_eq!(hung_up.why, Refused::NotReady);
        let pause = hung_up.refused_pause_ms.unwrap();
        assert!((800..1_600).contains(&pause), "{pause}");
        world.ends(1);
    }
    // A higher limit: too late for the first one, but not for this one.
    let mut world = world(TERMS);
    world.complete_under(Some(60_000_000), Duration::from_millis(1_700));
    world.peer_says(READY);
    assert_eq!(world.xl_receives(READY.len()), READY);
}

#[test]
fn a_ready_past_the_deadline_never_reaches_xl() {
    let mut world = world(TERMS);
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    // The command that closes the gate comes last: nothing after it is read.
    world.engine(FromEngine::Committed);
    world.engine(FromEngine::Suspended {
        requested_monotonic_ns: now_ns() - 1_200 * MS,
        limit_us: None,
    });
    let hung_up = world.hung_up();
    assert!(matches!(
        hung_up.why,
        Refused::NotReady | Refused::ReadyTooLate
    ));
    let _ = world.peer_out.as_mut().unwrap().write_all(READY);
    world.ends(1);
}

#[test]
fn under_a_limit_a_pause_that_was_not_reported_is_refused() {
    let mut world = world(TERMS);
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.peer_says(READY);
    let hung_up = world.hung_up();
    assert_eq!(hung_up.why, Refused::PauseUnknown);
    assert!(hung_up.ready_monotonic_ns.is_some());
    assert_eq!(hung_up.refused_pause_ms, None);
    world.ends(1);
}

/// xl accepts nothing before the banner, and a login shell may print something first.
#[test]
fn what_a_shell_says_first_never_reaches_xl() {
    let mut world = world(UNLIMITED);
    world.peer_says(b"welcome to host2\nlast login: yester");
    world.xl_waits(Duration::from_millis(50));
    world.peer_says(b"day\n");
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    drop((world.xl_out.take(), world.peer_out.take()));
    world.ends(0);
}

/// The output of something that is not a receiver goes to xl, which reports it.
#[test]
fn without_a_banner_xl_receives_what_came_instead() {
    let mut world = world(UNLIMITED);
    world.peer_says(b"sh: 1: xl: not found\n");
    drop(world.peer_out.take());
    let mut said = Vec::new();
    world.xl_in.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"sh: 1: xl: not found\n");
}

/// A guest that runs here, whatever resumed it, must not run there as well.
#[test]
fn a_guest_that_runs_here_again_is_not_handed_over() {
    let mut world = world(TERMS);
    world.stream_complete(Duration::ZERO);
    world.guest.runs.store(true, Ordering::SeqCst);
    world.peer_says(READY);
    let hung_up = world.hung_up();
    assert_eq!(
        (hung_up.why, hung_up.guest),
        (Refused::RunsHere, GuestThen::LeftAlone)
    );
    drop(world.peer_out.take());
    world.ends(0);
}

/// It may run here.
#[test]
fn a_guest_whose_state_cannot_be_read_is_not_handed_over() {
    for terms in [UNLIMITED, TERMS] {
        let mut world = world(terms);
        world.stream_complete(Duration::ZERO);
        world.guest.unread.store(true, Ordering::SeqCst);
        world.peer_says(READY);
        let hung_up = world.hung_up();
        assert_eq!(
            (hung_up.why, hung_up.guest),
            (Refused::StateUnread, GuestThen::LeftAlone)
        );
        drop(world.peer_out.take());
        world.ends(0);
    }
}

#[test]
fn a_cancel_before_ready_resumes_the_guest() {
    for terms in [UNLIMITED, TERMS] {
        let mut world = world(terms);
        world.stream_complete(Duration::ZERO);
        world.command(GateCommand::Cancel);
        assert_eq!(world.hung_up().why, Refused::Cancelled);
        assert!(matches!(world.ends(1), RelayOutcome::HungUp(_)));
    }
}

#[test]
fn a_cancel_while_the_helper_copies_is_the_helpers() {
    let mut world = world(UNLIMITED);
    world.peer_says(BANNER);
    assert_eq!(world.xl_receives(BANNER.len()), BANNER);
    world.engine(FromEngine::Begun);
    world.command(GateCommand::Cancel);
    // The receiver gives up, and so does xl.
    std::thread::sleep(Duration::from_millis(50));
    drop(world.xl_out.take());
    let hung_up = world.hung_up();
    assert_eq!(
        (hung_up.why, hung_up.guest),
        (Refused::XlGone, GuestThen::LeftAlone)
    );
    world.ends(0);
}

#[test]
fn a_cancel_before_anything_began_leaves_nothing_to_wait_for() {
    let mut world = world(TERMS);
    world.command(GateCommand::Cancel);
    assert_eq!(world.hung_up().guest, GuestThen::LeftAlone);
    assert!(matches!(world.ends(0), RelayOutcome::NothingBegun));
}

#[test]
fn a_front_end_that_dies_after_the_stream_means_resume() {
    for terms in [UNLIMITED, TERMS] {
        let mut world = world(terms);
        world.stream_complete(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(20));
        let (front_end, events) = (world.front_end.take(), world.events);
        drop((front_end, events));
        let (_, theirs) = UnixStream::pair().unwrap();
        world.events = BufReader::new(theirs);
        world.ends(1);
    }
}

#[test]
fn a_destination_that_dies_costs_no_wait_for_xl() {
    let mut world = world(TERMS);
    world.stream_complete(Duration::ZERO);
    // Half a READY is not READY, and xl reads what it would read without a relay.
    world.peer_says(&READY[..10]);
    std::thread::sleep(Duration::from_millis(20));
    drop(world.peer_out.take());
    assert_eq!(world.xl_receives(10), &READY[..10]);
    assert_eq!(world.hung_up().why, Refused::PeerGone);
    assert!(matches!(world.ends(1), RelayOutcome::HungUp(None)));
}

#[test]
fn an_xl_that_dies_after_the_stream_means_resume() {
    let mut world = world(UNLIMITED);
    world.stream_complete(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(20));
    drop(world.xl_out.take());
    assert_eq!(world.hung_up().why, Refused::XlGone);
    world.ends(1);
}

/// Otherwise two copies would run: the destination's, and the one resumed here.
#[test]
fn an_xl_that_dies_after_go_means_hands_off() {
    let mut world = world(TERMS);
    world.stream_complete(Duration::ZERO);
    world.peer_says(READY);
    assert_eq!(world.xl_receives(READY.len()), READY);
    world.ready();
    let mut xl_out = world.xl_out.take().unwrap();
    xl_out.write_all(b"GO\0").unwrap();
    drop(xl_out);
    let (empty, _) = io::pipe().unwrap();
    world.xl_in = empty;
    let mut go = [0; 3];
    world.peer_in.read_exact(&mut go).unwrap();
    world.peer_says(b"report\0\0");
    std::thread::sleep(Duration::from_millis(20));
    // The write to xl has failed by now.
    world.peer_says(b"more");
    std::thread::sleep(Duration::from_millis(20));
    drop(world.peer_out.take());
    assert!(matches!(world.ends(0), RelayOutcome::Ended));
}

#[test]
fn garbage_passes_through_untouched() {
    let mut world = world(UNLIMITED);
    let garbage: Vec<u8> = (0..200_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    let talk = [
        b"Welcome to host2!\ndomain received, rea".as_slice(),
        &garbage,
        BANNER,
        READY,
        READY,
        &garbage,
    ]
    .concat();
    let mut peer_out = world.peer_out.take().unwrap();
    let said = talk.clone();
    let speaker = std::thread::spawn(move || peer_out.write_all(&said).unwrap());
    assert!(world.xl_receives(talk.len()) == talk);
    speaker.join().unwrap();
    world.ready();
    drop(world.xl_out.take());
    assert!(matches!(world.ends(0), RelayOutcome::Ended));
}

#[test]
fn nonsense_on_the_front_ends_socket_is_passed_over() {
    let mut world = world(TERMS);
    let mut socket = world.front_end.as_ref().unwrap();
    socket
        .write_all(b"}{\n\n{\"schema\":1,\"message\":\"explode\"}\n")
        .unwrap();
    socket.write_all(&[b'x'; 100_000]).unwrap();
    socket.write_all(b"\n").unwrap();
    world.stream_complete(Duration::ZERO);
    world.peer_says(READY);
    assert_eq!(world.xl_receives(READY.len()), READY);
    drop((world.xl_out.take(), world.peer_out.take()));
    world.ends(0);
}

/// A reader that stalls delays neither READY nor the deadline.
#[test]
fn a_stalled_stream_does_not_keep_the_deadline() {
    let mut world = world(TERMS);
    let mut xl_out = world.xl_out.take().unwrap();
    let writer = std::thread::spawn(move || {
        let stream = vec![7; 1 << 20];
        // The connection is cut.
        assert!(xl_out.write_all(&stream).is_err());
    });
    world.stream_complete(Duration::ZERO);
    let hung_up = world.hung_up();
    assert_eq!(hung_up.why, Refused::NotReady);
    assert!(hung_up.refused_pause_ms.unwrap() < 1_600);
    writer.join().unwrap();
    assert_eq!(world.resumed(), 1);
}

/// Bytes that depend on their position.
fn pattern(at: usize, length: usize) -> Vec<u8> {
    let word = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (at / 8..(at + length) / 8).flat_map(word).collect()
}

const PIECE: usize = 256 << 10;

fn write_pattern(mut to: impl Write, length: usize) {
    for at in (0..length).step_by(PIECE) {
        to.write_all(&pattern(at, PIECE.min(length - at))).unwrap();
    }
}

fn check_pattern(mut from: impl Read, length: usize, after_each: impl Fn()) {
    let mut piece = vec![0; PIECE];
    for at in (0..length).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(length - at)];
        from.read_exact(piece).unwrap();
        assert!(*piece == *pattern(at, piece.len()), "damaged after {at}");
        after_each();
    }
    assert_eq!(from.read(&mut piece).unwrap(), 0);
}

/// Forwards everything to the end, as the relay does.
fn forward_all(mut forward: ToDestination) -> JoinHandle<Progress> {
    use rustix::event::{PollFd, poll};
    std::thread::spawn(move || {
        loop {
            let (fd, flags) = forward.wake_on().unwrap();
            poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None).unwrap();
            match forward.go_on() {
                Progress::Open => {}
                end => return end,
            }
        }
    })
}

fn forwarded(from: OwnedFd, to: impl Write + Send + 'static, length: usize, copying: bool) {
    let (reader, writer) = io::pipe().unwrap();
    let mut forward = ToDestination::new(from, writer.into()).unwrap();
    if copying {
        forward.copy_from_now_on();
    }
    let relay = forward_all(forward);
    let source = std::thread::spawn(move || write_pattern(to, length));
    check_pattern(reader, length, || {});
    source.join().unwrap();
    assert_eq!(relay.join().unwrap(), Progress::Ended);
}

#[test]
fn a_large_stream_arrives_as_it_was_sent() {
    let (reader, writer) = io::pipe().unwrap();
    forwarded(reader.into(), writer, 160 << 20, false);
}

#[test]
fn so_it_does_through_memory_and_from_a_socket() {
    let (reader, writer) = io::pipe().unwrap();
    forwarded(reader.into(), writer, 32 << 20, true);
    for copying in [false, true] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        forwarded(theirs.into(), ours, 32 << 20, copying);
    }
}

#[test]
fn a_slow_reader_slows_the_writer_and_loses_nothing() {
    let mut world = world(UNLIMITED);
    let xl_out = world.xl_out.take().unwrap();
    let length = 4 << 20;
    let writer = std::thread::spawn(move || write_pattern(xl_out, length));
    let pause = || std::thread::sleep(Duration::from_millis(10));
    check_pattern(&world.peer_in, length, pause);
    writer.join().unwrap();
    drop(world.peer_out.take());
}

#[test]
fn the_writer_learns_of_a_reader_that_closes() {
    let (from, mut xl_out) = io::pipe().unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let relay = forward_all(ToDestination::new(from.into(), writer.into()).unwrap());
    drop(reader);
    xl_out.write_all(b"more").unwrap();
    assert_eq!(relay.join().unwrap(), Progress::Broken);
    assert!(xl_out.write_all(b"more").is_err());
}
