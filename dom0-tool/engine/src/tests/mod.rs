//! Each phase of an attempt meets each fault, without a hypervisor.
//!
//! The engine is the real one, and the stub decides with the real core. Modelled are the
//! guest, Xen's part ([`Domains`](super::domains::Domains)), libxl and the destination. The
//! same table on a real hypervisor is in `tests/tests/on_xen/table`; it also has the faults
//! of processes that are not modelled here.

mod destination;
mod host;
mod model;
mod stub;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lull_base::bandwidth::Bandwidth;
use lull_core::downtime::{FixedCosts, LastPages, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits, Risk, Timeout};
use lull_core::link::{Link, Startup};
use lull_core::machine::Config;
use lull_core::units::Micros;
use lull_wire::events::{DID_NOT_SUSPEND, Event, How};
use lull_xen::PAGE;

use super::attempt::{self, MigrationRequest, Verify};
use super::landing;
use super::prepare::{Listed, Prepared};
use crate::stub::StubLog;
use destination::Destination;
use host::{FakeHost, Unrecorded};
use model::Model;
use world::Fault::{self, *};
use world::Phase::{self, *};
use world::{FRAMES, Guest, LandingCase, World, XENS, words};

/// The guest's domain number.
const GUEST: u16 = 7;

const LANDINGS: [LandingCase; 7] = [
    LandingCase::CLASSIC,
    LandingCase::HVM_CLASSIC,
    LandingCase::HANDSHAKE_LAST,
    LandingCase::HANDSHAKE_FIRST,
    LandingCase::THIN,
    LandingCase::JOINED,
    LandingCase::HVM,
];

/// Longer than any attempt of the model takes, on the slowest host.
const AGES: Micros = Micros::from_millis(60_000);

/// What an attempt has to do.
#[derive(Debug, Clone, Copy)]
struct Plan {
    landing: LandingCase,
    strike: Option<(Phase, Fault)>,
    limit: Option<Micros>,
    verify: Verify,
}

impl Plan {
    const fn of(landing: LandingCase) -> Self {
        Self {
            landing,
            strike: None,
            limit: None,
            verify: Verify::No,
        }
    }

    const fn struck(landing: LandingCase, phase: Phase, fault: Fault) -> Self {
        Self {
            strike: Some((phase, fault)),
            ..Self::of(landing)
        }
    }
}

/// What became of it.
struct Outcome {
    how: How,
    reason: String,
    world: World,
    copy: BTreeMap<u64, u64>,
    /// The number of pages that came as all zero.
    zeros: usize,
    /// Whether the final state of a fast landing is in place.
    landed: bool,
    /// Whether the copy was started by Start, and what the engine reports.
    started: (bool, Option<bool>),
    reported: Vec<Event>,
}

fn migrate(plan: Plan, log: &StubLog) -> Outcome {
    let world = World::new(plan.landing, plan.strike);
    let (how, reason, destination, reported) = {
        let (destination, connections) = Destination::new(&world);
        let mut host = FakeHost::new(&world, destination);
        let costs = FixedCosts {
            landing: Micros::from_millis(100),
            resume: Micros::from_millis(100),
            ..FixedCosts::default()
        };
        let config = Config {
            limits: Limits {
                max_suspend: plan.limit.and_then(DowntimeLimit::new),
                timeout: Timeout::new(AGES),
            },
            costs,
            expected_costs: costs,
            suspend_pages: SuspendPages {
                expected: 80,
                most: 100,
            },
            last_pages: LastPages::DEFAULT,
            risk: Risk::DEFAULT,
            guest_pages: world.pages(),
            hands_over: plan.landing.is_handshake_first(),
        };
        let link = Link::empty();
        link.settings.write(&Startup {
            port: 1,
            guest_pfns: FRAMES,
            config,
        });
        let mut populated = vec![0; words()];
        for pfn in (0..FRAMES).filter(|pfn| world.has_page(*pfn)) {
            populated[(pfn / 64) as usize] |= 1 << (pfn % 64);
        }
        let domains = Model::new(&world, &link, &populated);
        let request = MigrationRequest {
            domid: GUEST,
            config,
            bandwidth: Bandwidth(None),
            verify: plan.verify,
            has_devices: plan.landing.has_devices(),
            start: Instant::now(),
        };
        let landing = landing::choose(connections.channel, FRAMES, world.pages());
        let prepared = Prepared {
            domains,
            _taken: None,
            listed: Listed {
                guest_pfns: FRAMES,
                pages: world.pages(),
                took_bitmap: Duration::ZERO,
                populated,
                done_at: [Duration::ZERO; 3],
            },
        };
        let sink = connections.stream;
        let mut recorder = Unrecorded;
        let verdict = attempt::carry_out(
            prepared,
            &request,
            &mut host,
            sink,
            landing,
            log,
            &mut recorder,
        );
        // What the engine wrote last may still be on its way.
        host.destination.borrow_mut().go_on();
        let destination = host.destination.into_inner();
        (
            verdict.how,
            verdict.reason,
            (
                (destination.copy, destination.zeros),
                destination.landed,
                (destination.started, host.started_there),
            ),
            host.reported,
        )
    };
    let ((copy, zeros), landed, started) = destination;
    Outcome {
        how,
        reason,
        world,
        copy,
        zeros,
        landed,
        started,
        reported,
    }
}

impl Outcome {
    /// What must hold whatever happened: one running guest, and nothing left behind.
    fn judge(&self, plan: Plan) {
        let Self { world, .. } = self;
        let ended = self
            .reported
            .iter()
            .filter(|event| matches!(event, Event::Ended(_)));
        assert_eq!(ended.count(), 1, "{plan:?}: ends reported");
        let said = match self.reported.last() {
            Some(Event::Ended(ended)) => ended.how,
            other => panic!("{plan:?}: the last event is {other:?}"),
        };
        assert_eq!(said, self.how, "{plan:?}");
        assert_eq!(
            world.struck.get(),
            plan.strike.is_some(),
            "{plan:?}: struck"
        );
        let is_slow = world.libxl_is_slow.get();
        assert_eq!(world.unseen.get(), is_slow, "{plan:?}: libxl waits in vain");
        if self.how == How::StreamComplete {
            assert_eq!(world.guest.get(), Guest::Suspended, "{plan:?}");
            assert_eq!(world.commits.get(), 1, "{plan:?}: commits");
            assert!(
                world.prepared.get(),
                "{plan:?}: torn down while the guest waits"
            );
            assert_eq!(self.landed, plan.landing.is_fast(), "{plan:?}");
            assert_eq!(world.qemu_runs.get(), !plan.landing.has_devices());
            assert_eq!(world.log_ends.get(), 0, "{plan:?}");
            let started = match plan.landing.is_handshake_first() {
                true => (true, Some(true)),
                false => (false, None),
            };
            assert_eq!(self.started, started, "{plan:?}");
            assert!(
                !self.copy.contains_key(&XENS),
                "{plan:?}: a page of Xen's was sent"
            );
            let mut copy = self.copy.clone();
            if !plan.landing.is_fast() {
                // Memory that the guest gave back is not taken from its copy.
                copy.retain(|pfn, _| world.has_page(*pfn));
            }
            assert!(copy == world.memory(), "{plan:?}: the copies differ");
            return;
        }
        assert_eq!(world.commits.get(), 0, "{plan:?}: commits");
        assert_eq!(self.started, (false, None), "{plan:?}: started");
        assert!(
            !world.prepared.get(),
            "{plan:?}: the log is on, or the stub is left"
        );
        let left = match plan.strike {
            Some((_, Destroyed)) => Guest::Gone,
            // It is not this attempt's to resume.
            Some((_, SuspendedByAnother)) => Guest::Suspended,
            _ => Guest::Running,
        };
        assert_eq!(world.guest.get(), left, "{plan:?}: {}", self.reason);
        if left == Guest::Running {
            assert!(world.qemu_runs.get(), "{plan:?}: its QEMU stands still");
        }
        let ends = u32::from(plan.landing.has_devices());
        assert_eq!(world.log_ends.get(), ends, "{plan:?}: its QEMU logs on");
        if left == Guest::Suspended {
            // `lull migrate` would resume it otherwise.
            let asked =
                |event: &Event| matches!(event, Event::Round(round) if round.decision == "suspend");
            assert!(
                !self.reported.iter().any(asked),
                "{plan:?}: said to be asked"
            );
        }
        assert!(!self.reason.is_empty(), "{plan:?}: no reason");
    }
}

/// A phase, and what each fault at its beginning leads to.
type Row = (Phase, &'static [(Fault, How, How)]);

/// How an attempt ends that meets this fault at the beginning of this phase, in a classic
/// landing and in a fast one, whether xl's handshake comes first or last.
const TABLE: &[Row] = &[
    (
        Start,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            (Cancel, How::Cancelled, How::Cancelled),
            (Destroyed, How::SourceFailed, How::SourceFailed),
        ],
    ),
    (
        FirstPass,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (StubLies, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            (Stalls, How::RefusedTimeout, How::RefusedTimeout),
            (Cancel, How::Cancelled, How::Cancelled),
            (Destroyed, How::SourceFailed, How::SourceFailed),
        ],
    ),
    (
        Rounds,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (StubLies, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            (Stalls, How::RefusedTimeout, How::RefusedTimeout),
            (Cancel, How::Cancelled, How::Cancelled),
            (SuspendedByAnother, How::SourceFailed, How::SourceFailed),
            (Destroyed, How::SourceFailed, How::SourceFailed),
            (Shrinks, How::StreamComplete, How::StreamComplete),
        ],
    ),
    (
        Suspending,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (StubLies, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            (Cancel, How::Cancelled, How::Cancelled),
            (NeverSuspends, How::SourceFailed, How::SourceFailed),
            (SuspendedByAnother, How::SourceFailed, How::SourceFailed),
            (Destroyed, How::SourceFailed, How::SourceFailed),
            (Grows, How::RefusedDowntime, How::RefusedDowntime),
        ],
    ),
    (
        LastPages,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (StubLies, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            (Cancel, How::Cancelled, How::Cancelled),
            (ResumedByAnother, How::SourceFailed, How::SourceFailed),
            (Destroyed, How::SourceFailed, How::SourceFailed),
        ],
    ),
    (
        Finishing,
        &[
            (StubDies, How::SourceFailed, How::SourceFailed),
            (StubSilent, How::SourceFailed, How::SourceFailed),
            (StubLies, How::SourceFailed, How::SourceFailed),
            (Closes, How::TargetFailed, How::TargetFailed),
            // The end of a classic stream cannot be taken back here: the transport's gate
            // does it.
            (Cancel, How::StreamComplete, How::Cancelled),
            (ResumedByAnother, How::SourceFailed, How::SourceFailed),
            (Destroyed, How::SourceFailed, How::SourceFailed),
        ],
    ),
];

/// How an attempt ends that meets this fault while the destination sets the guest up.
const BUILDING: &[(Fault, How)] = &[
    (StubDies, How::SourceFailed),
    (StubSilent, How::SourceFailed),
    (Closes, How::TargetFailed),
    (Stalls, How::RefusedTimeout),
    (Cancel, How::Cancelled),
    (Destroyed, How::SourceFailed),
    (Shrinks, How::StreamComplete),
];

#[test]
fn each_fault_while_the_destination_builds_leaves_one_guest() {
    let fast = LANDINGS.iter().filter(|way| way.is_fast());
    let cells = fast.flat_map(|way| BUILDING.iter().map(|cell| (*way, *cell)));
    side_by_side(cells.map(|(way, (fault, how))| (way, Building, fault, how)));
}

/// Phases in which further connections may break.
const JOINED_PHASES: [Phase; 7] = [
    Building,
    FirstPass,
    Rounds,
    HandingOver,
    Suspending,
    LastPages,
    Finishing,
];

/// The others carry on, in the pause too: the guest lands whole.
#[test]
fn a_further_connection_that_breaks_in_any_phase_costs_nothing_but_itself() {
    thread::scope(|scope| {
        for phase in JOINED_PHASES {
            for (fault, lost) in [(LosesOne, 1), (LosesOneLate, 1), (LosesAll, 2)] {
                scope.spawn(move || {
                    let plan = Plan::struck(LandingCase::JOINED, phase, fault);
                    let outcome = migrate(plan, &StubLog::new().unwrap());
                    outcome.judge(plan);
                    let (ended, reason) = (outcome.how, outcome.reason);
                    assert_eq!(ended, How::StreamComplete, "{plan:?}: {reason}");
                    assert_eq!(outcome.world.resumes.get(), 0, "{plan:?}");
                    let left: Vec<u8> = outcome
                        .reported
                        .iter()
                        .filter_map(|event| match event {
                            Event::ConnectionLost(lost) => Some(lost.left),
                            _ => None,
                        })
                        .collect();
                    // Once the state is on its way, they are looked at no more; a late loss
                    // needs a frame to be late.
                    if phase < Finishing && fault != LosesOneLate {
                        assert_eq!(left.len(), lost, "{plan:?}");
                        assert_eq!(left.last(), Some(&(3 - lost as u8)), "{plan:?}");
                    }
                });
            }
        }
    });
}

/// The state of its devices takes the first connection, whatever becomes of the others.
#[test]
fn a_guest_with_emulated_devices_lands_whole_where_all_further_connections_break() {
    let log = StubLog::new().unwrap();
    for phase in [Building, LastPages, Finishing] {
        let cell = (LandingCase::HVM, phase, LosesAll, How::StreamComplete);
        assert_eq!(try_cell(cell, &log), None);
    }
}

/// The last pages are shared out in the pause, so one of them is surely under way on the
/// connection that breaks.
#[test]
fn what_a_broken_connection_carried_is_sent_again_and_never_used_late() {
    for phase in [FirstPass, Rounds, LastPages] {
        let plan = Plan::struck(LandingCase::JOINED, phase, LosesOneLate);
        let outcome = migrate(plan, &StubLog::new().unwrap());
        outcome.judge(plan);
        assert_eq!(outcome.how, How::StreamComplete, "{plan:?}");
        let lost = |event: &&Event| matches!(event, Event::ConnectionLost(_));
        assert_eq!(outcome.reported.iter().filter(lost).count(), 1, "{plan:?}");
    }
}

/// Where the stream has only named the frames, one that is left out would keep what Xen has
/// handed out. dom0 counts the frames that the stub asks for, and here the number is right.
#[test]
fn a_stub_that_leaves_out_a_frame_is_found_out_before_the_guest_stops() {
    let plan = Plan::struck(LandingCase::THIN, FirstPass, StubSkips);
    let outcome = migrate(plan, &StubLog::new().unwrap());
    outcome.judge(plan);
    let (how, reason) = (outcome.how, &outcome.reason);
    assert_eq!(how, How::SourceFailed, "{reason}");
    assert!(names(reason, StubSkips), "{reason}");
    assert_eq!(outcome.world.resumes.get(), 0);
}

/// What is reported is what was carried: pages that are all zero take 8 bytes.
#[test]
fn zero_pages_are_no_bytes_in_the_report() {
    let plan = Plan::of(LandingCase::THIN);
    let outcome = migrate(plan, &StubLog::new().unwrap());
    outcome.judge(plan);
    let Some(Event::Ended(ended)) = outcome.reported.last() else {
        panic!("{:?}", outcome.reported);
    };
    let pages = ended.bytes_sent - ended.pages_sent * PAGE as u64;
    assert!(outcome.zeros > 100, "{}", outcome.zeros);
    assert!(
        pages < 64 << 10,
        "{pages} bytes besides {} pages",
        ended.pages_sent
    );
}

/// How an attempt ends that meets this fault when xl's handshake begins.
const HANDING_OVER: &[(Fault, How)] = &[
    (StubDies, How::SourceFailed),
    (StubSilent, How::SourceFailed),
    (StubLies, How::SourceFailed),
    (Closes, How::TargetFailed),
    (Stalls, How::RefusedTimeout),
    (Cancel, How::Cancelled),
    (SuspendedByAnother, How::SourceFailed),
    (Destroyed, How::SourceFailed),
];

#[test]
fn each_fault_while_the_guest_is_handed_over_leaves_one_guest() {
    let cells = HANDING_OVER.iter();
    side_by_side(cells.map(|(fault, how)| (LandingCase::THIN, HandingOver, *fault, *how)));
}

/// Tries these attempts side by side, because most of them wait for a clock. Each must end
/// as its cell says.
fn side_by_side(cells: impl Iterator<Item = Cell>) {
    let wrong = thread::scope(|scope| {
        let tried: Vec<_> = cells
            .map(|cell| scope.spawn(move || try_cell(cell, &StubLog::new().unwrap())))
            .collect();
        let wrong = tried.into_iter().filter_map(|cell| cell.join().unwrap());
        wrong.collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// How a fast landing of a guest with emulated devices ends where they are at fault, or the
/// destination's are.
const EMULATED: &[(Phase, Fault, How)] = &[
    // The copy is never found, or its QEMU cannot be made to wait.
    (Start, Stalls, How::RefusedTimeout),
    (Start, NeverArms, How::RefusedTimeout),
    (Start, LandGivesUp, How::TargetFailed),
    (Rounds, LandGivesUp, How::TargetFailed),
    (Suspending, QemuHangs, How::SourceFailed),
    (LastPages, LandGivesUp, How::TargetFailed),
    // The copy's QEMU does not run with its state.
    (Finishing, LandGivesUp, How::TargetFailed),
];

#[test]
fn each_fault_of_emulated_devices_leaves_one_guest_that_has_them() {
    let cells = EMULATED.iter();
    side_by_side(cells.map(|(phase, fault, how)| (LandingCase::HVM, *phase, *fault, *how)));
}

/// Nothing on this host resumes the guest once the destination was told to start it. The
/// operator decides, and has to know of which domain.
#[test]
fn a_copy_that_is_not_started_is_named_to_the_operator() {
    for landing in [LandingCase::THIN, LandingCase::HVM] {
        let plan = Plan::struck(landing, Finishing, NotStarted);
        let outcome = migrate(plan, &StubLog::new().unwrap());
        assert_eq!(outcome.how, How::StreamComplete, "{}", outcome.reason);
        assert_eq!(outcome.started, (false, Some(false)));
        assert_eq!(outcome.world.guest.get(), Guest::Suspended);
        let is_reported = |event: &Event| {
            let words = destination::NOT_STARTED;
            matches!(event, Event::Log(log) if log.level == "error" && log.text.contains(words))
        };
        assert!(
            outcome.reported.iter().any(is_reported),
            "{:?}",
            outcome.reported
        );
    }
}

/// It runs, so its pause is reported. Its next reboot would go unnoticed.
#[test]
fn a_guest_that_xenstored_does_not_know_to_run_is_named_to_the_operator() {
    for landing in LANDINGS {
        let plan = Plan::struck(landing, LastPages, Forgotten);
        let outcome = migrate(plan, &StubLog::new().unwrap());
        outcome.judge(plan);
        assert_eq!(outcome.how, How::Cancelled, "{plan:?}: {}", outcome.reason);
        let is_reported = |event: &Event| {
            let words = lull_xen::domain::UNKNOWN;
            matches!(event, Event::Log(log) if log.level == "error" && log.text.contains(words))
        };
        assert!(outcome.reported.iter().any(is_reported), "{plan:?}");
        let paused = |event: &Event| match event {
            Event::Ended(ended) => ended.refused_pause_ms,
            _ => None,
        };
        assert!(outcome.reported.iter().any(|event| paused(event).is_some()));
    }
}

/// The guard tries again. Without it xl's monitor would take the suspend for the guest's end.
#[test]
fn a_guest_that_cannot_be_resumed_is_left_to_the_guard() {
    for landing in LANDINGS {
        let plan = Plan::struck(landing, LastPages, StaysSuspended);
        let outcome = migrate(plan, &StubLog::new().unwrap());
        assert_eq!(outcome.how, How::Cancelled, "{plan:?}: {}", outcome.reason);
        assert_eq!(outcome.world.guest.get(), Guest::Suspended, "{plan:?}");
        assert!(outcome.world.left.get(), "{plan:?}");
        for fault in [Cancel, ResumedAtSecondTry] {
            let plan = Plan::struck(landing, LastPages, fault);
            let outcome = migrate(plan, &StubLog::new().unwrap());
            outcome.judge(plan);
            assert!(!outcome.world.left.get(), "{plan:?}: it was resumed");
        }
    }
}

/// The permission may be older than the look at the clock.
#[test]
fn a_copy_is_not_started_after_the_limit() {
    let limit = Micros::from_millis(2_000);
    assert!(world::HELD_UP > Duration::from_micros(limit.0));
    let plan = Plan {
        limit: Some(limit),
        ..Plan::struck(LandingCase::THIN, Finishing, HeldUp)
    };
    let outcome = migrate(plan, &StubLog::new().unwrap());
    outcome.judge(plan);
    let (how, reason) = (outcome.how, &outcome.reason);
    assert_eq!(how, How::RefusedDowntime, "{reason}");
    assert_eq!(outcome.started, (false, None));
    assert_eq!(outcome.world.resumes.get(), 1);
}

/// An engine that stood still for minutes learns only then that the copy is gone.
#[test]
fn a_copy_that_was_given_up_meanwhile_is_not_started() {
    for landing in [LandingCase::THIN, LandingCase::HVM] {
        let plan = Plan::struck(landing, Finishing, Leaves);
        let outcome = migrate(plan, &StubLog::new().unwrap());
        outcome.judge(plan);
        let (how, reason) = (outcome.how, &outcome.reason);
        assert_eq!(how, How::TargetFailed, "{reason}");
        assert!(names(reason, Leaves), "{reason}");
        assert_eq!(outcome.world.resumes.get(), 1);
    }
}

/// xl there takes one guest at a time, so the wait is no failure. It ends with the attempt,
/// and the report says what was waited for.
#[test]
fn a_destination_that_does_not_begin_is_named_at_the_end() {
    let plan = Plan::struck(LandingCase::HVM, Start, NeverArms);
    let outcome = migrate(plan, &StubLog::new().unwrap());
    outcome.judge(plan);
    let advice = match outcome.reported.last() {
        Some(Event::Ended(ended)) => &ended.advice,
        other => panic!("the last event is {other:?}"),
    };
    assert!(advice.contains("had not begun"), "{advice}");
    assert!(advice.contains("autoballoon"), "{advice}");
}

/// QEMU has longer to stop than the guest may be paused.
#[test]
fn a_qemu_that_does_not_stop_is_given_up_within_the_limit() {
    let plan = Plan {
        limit: Some(Micros::from_millis(1_000)),
        ..Plan::struck(LandingCase::HVM, Suspending, QemuHangs)
    };
    let outcome = migrate(plan, &StubLog::new().unwrap());
    outcome.judge(plan);
    let (how, reason) = (outcome.how, &outcome.reason);
    assert_eq!(how, How::RefusedDowntime, "{reason}");
}

#[test]
fn each_fault_in_each_phase_leaves_one_guest() {
    // Most attempts wait for a clock, so the phases are tried side by side.
    let wrong = thread::scope(|scope| {
        let phases = TABLE.iter().map(|row| scope.spawn(|| try_row(row)));
        let phases: Vec<_> = phases.collect();
        let wrong = phases.into_iter().flat_map(|row| row.join().unwrap());
        wrong.collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns the cells that ended otherwise than they must.
fn try_row((phase, faults): &Row) -> Vec<String> {
    let log = StubLog::new().unwrap();
    let mut wrong = Vec::new();
    for (fault, classic, fast) in *faults {
        for (landing, expected) in [
            (LandingCase::CLASSIC, classic),
            (LandingCase::HVM_CLASSIC, classic),
            (LandingCase::HANDSHAKE_LAST, fast),
            (LandingCase::HANDSHAKE_FIRST, fast),
            (LandingCase::THIN, fast),
            (LandingCase::JOINED, fast),
            (LandingCase::HVM, fast),
        ] {
            wrong.extend(try_cell((landing, *phase, *fault, *expected), &log));
        }
    }
    wrong
}

/// An attempt that is struck, and how it must end.
type Cell = (LandingCase, Phase, Fault, How);

/// Returns how an attempt ended, if it ended otherwise than it must or does not name the
/// fault.
fn try_cell((landing, phase, fault, expected): Cell, log: &StubLog) -> Option<String> {
    let plan = Plan::struck(landing, phase, fault);
    let outcome = migrate(plan, log);
    outcome.judge(plan);
    let (how, reason) = (outcome.how, outcome.reason);
    let is_named = how == How::StreamComplete || names(&reason, fault);
    (how != expected || !is_named)
        .then(|| format!("{landing:?} {phase:?} {fault:?}: {how:?}, {reason}"))
}

/// Whether a reason names this fault.
fn names(reason: &str, fault: Fault) -> bool {
    let phrases: &[&str] = match fault {
        StubDies => &["the stub domain died"],
        StubSilent => &["the stub domain has not done its part"],
        StubLies => &["not to be trusted: it decided"],
        StubSkips => &["was never sent"],
        LosesOne | LosesOneLate | LosesAll => &[],
        Closes => &["the stream cannot be written", "lull land was lost"],
        Stalls | NeverArms => &["the timeout of"],
        Cancel | Forgotten | LibxlIsSlow | StaysSuspended | ResumedAtSecondTry => {
            &["cancelled", "the attempt was given up"]
        }
        NeverSuspends => &[DID_NOT_SUSPEND],
        SuspendedByAnother => &["the guest is suspended already"],
        ResumedByAnother => &["another program has resumed the guest"],
        // Xen's answer to any call for a guest that is gone.
        Destroyed => &["is gone", "No such process"],
        Grows => &["the guest has more memory"],
        LandGivesUp => &[destination::GIVES_UP],
        QemuHangs => &["QEMU could not be stopped and its state saved: it does not answer"],
        HeldUp => &["were not sent in time"],
        Leaves => &["lull land was lost"],
        Shrinks | ShrinksAndRests | NotStarted => &[],
    };
    phrases.iter().any(|phrase| reason.contains(phrase))
}

#[test]
fn an_undisturbed_guest_moves_whole() {
    let log = StubLog::new().unwrap();
    for landing in LANDINGS {
        for (limit, verify) in [
            (None, Verify::No),
            (None, Verify::Yes),
            (Some(AGES), Verify::No),
        ] {
            let plan = Plan {
                limit,
                verify,
                ..Plan::of(landing)
            };
            let outcome = migrate(plan, &log);
            outcome.judge(plan);
            assert_eq!(
                outcome.how,
                How::StreamComplete,
                "{plan:?}: {}",
                outcome.reason
            );
            assert_eq!(outcome.world.resumes.get(), 0, "{plan:?}");
            assert_eq!(outcome.zeros > 0, landing.is_thin(), "{plan:?}");
            let reported = outcome.reported.iter().find_map(|event| match event {
                Event::Started(started) => Some(started.connections),
                _ => None,
            });
            let connections = landing.is_fast().then_some(1 + landing.further());
            assert_eq!(reported, Some(connections), "{plan:?}");
        }
    }
}

/// Its rounds take no time, so all of them would be over before the destination knows.
#[test]
fn an_idle_guest_that_gave_memory_back_keeps_its_rounds_for_later() {
    for landing in [LandingCase::THIN, LandingCase::JOINED] {
        let plan = Plan {
            limit: Some(AGES),
            ..Plan::struck(landing, Rounds, ShrinksAndRests)
        };
        let outcome = migrate(plan, &StubLog::new().unwrap());
        outcome.judge(plan);
        assert_eq!(outcome.how, How::StreamComplete, "{}", outcome.reason);
        let is_round = |event: &&Event| matches!(event, Event::Round(_));
        let rounds = outcome.reported.iter().filter(is_round).count();
        assert!(rounds < 15, "{plan:?}: {rounds} rounds");
    }
}

/// The state is read while the destination puts the last pages into place.
#[test]
fn the_state_is_read_while_the_last_pages_are_under_way() {
    let log = StubLog::new().unwrap();
    for landing in LANDINGS.into_iter().filter(|landing| landing.is_fast()) {
        let world = migrate(Plan::of(landing), &log).world;
        assert!(
            world.placed_when_saved.get() < world.placed.get(),
            "{landing:?}"
        );
    }
}

/// Runs `attempt`, and returns with its outcome how late this machine woke a thread
/// meanwhile, at worst, in milliseconds. A limit cannot be kept more exactly than that.
fn with_lateness<T>(attempt: impl FnOnce() -> T) -> (T, u64) {
    const NAP: Duration = Duration::from_millis(5);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut worst = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                thread::sleep(NAP);
                worst = worst.max(begun.elapsed().saturating_sub(NAP));
            }
            worst.as_millis() as u64
        });
        let outcome = attempt();
        over.store(true, Ordering::Relaxed);
        (outcome, watch.join().unwrap())
    })
}

/// The pause counts from the request. In the fast landing the request is the engine's own,
/// so it need not wait as long as libxl does.
#[test]
fn a_request_that_the_guest_ignores_is_taken_back_within_the_limit() {
    let limit = Micros::from_millis(1_000);
    let plan = Plan {
        limit: Some(limit),
        ..Plan::struck(LandingCase::THIN, Suspending, NeverSuspends)
    };
    let (outcome, late) = with_lateness(|| migrate(plan, &StubLog::new().unwrap()));
    outcome.judge(plan);
    assert!(
        outcome.reason.contains(DID_NOT_SUSPEND),
        "{}",
        outcome.reason
    );
    let at = |wanted: fn(&Event) -> Option<u64>| outcome.reported.iter().rev().find_map(wanted);
    let asked = at(|event| match event {
        Event::Round(round) if round.decision == "suspend" => Some(round.at_ms),
        _ => None,
    });
    let over = at(|event| match event {
        Event::Ended(ended) => Some(ended.at_ms),
        _ => None,
    });
    let waited = over.unwrap() - asked.unwrap();
    assert!(
        waited <= limit.as_millis_ceil() + late,
        "{waited} ms, {late} ms late"
    );
}

/// The engine waits for libxl's look at the guest, but no longer than the limit allows.
#[test]
fn a_guest_is_resumed_within_its_limit_though_libxl_has_not_looked() {
    let limit = Micros::from_millis(700);
    for limit in [Some(limit), None] {
        let plan = Plan {
            limit,
            ..Plan::struck(LandingCase::CLASSIC, Suspending, LibxlIsSlow)
        };
        let (outcome, late) = with_lateness(|| migrate(plan, &StubLog::new().unwrap()));
        outcome.judge(plan);
        assert_eq!(outcome.how, How::Cancelled, "{plan:?}: {}", outcome.reason);
        let pause = match outcome.reported.last() {
            Some(Event::Ended(ended)) => ended.refused_pause_ms.unwrap(),
            other => panic!("{plan:?}: the last event is {other:?}"),
        };
        let within = limit.is_none_or(|limit| pause <= limit.as_millis_ceil() + late);
        assert!(within, "{plan:?}: {pause} ms, {late} ms late");
    }
}

/// A stub may fill its log with anything, and decoding it takes time that the pause does not
/// have.
#[test]
fn nothing_of_the_stubs_log_is_decoded_during_a_pause() {
    for landing in LANDINGS {
        // The pause lasts as long as the limit allows.
        let plan = Plan {
            limit: Some(Micros::from_millis(2_000)),
            ..Plan::struck(landing, LastPages, StubSilent)
        };
        let outcome = migrate(plan, &StubLog::new().unwrap());
        outcome.judge(plan);
        let [running, pausing] = &outcome.world.logged;
        assert!(running.get() > 0, "{plan:?}: the stub's log was never read");
        assert_eq!(pausing.get(), 0, "{plan:?}");
    }
}

/// With a limit, dom0's own clock ends the pause, whatever the stub and the destination do.
#[test]
fn a_pause_that_does_not_end_is_given_up_within_the_limit() {
    let limit = Micros::from_millis(3_000);
    thread::scope(|scope| {
        for landing in LANDINGS {
            for (fault, how) in [
                (StubSilent, How::SourceFailed),
                (Stalls, How::RefusedTimeout),
            ] {
                let plan = Plan {
                    limit: Some(limit),
                    ..Plan::struck(landing, LastPages, fault)
                };
                scope.spawn(move || {
                    let (outcome, late) = with_lateness(|| migrate(plan, &StubLog::new().unwrap()));
                    outcome.judge(plan);
                    assert_eq!(outcome.how, how, "{plan:?}: {}", outcome.reason);
                    assert!(outcome.world.resumes.get() >= 1, "{plan:?}");
                    let pauses = outcome.reported.iter().filter_map(|event| match event {
                        Event::RanOn(ran_on) => Some(ran_on.pause_ms),
                        Event::Ended(ended) => ended.refused_pause_ms,
                        _ => None,
                    });
                    let pauses: Vec<u64> = pauses.collect();
                    let within = |pause: &u64| *pause <= limit.as_millis_ceil() + late;
                    assert!(
                        !pauses.is_empty() && pauses.iter().all(within),
                        "{plan:?}: {pauses:?}, {late} ms late"
                    );
                });
            }
        }
    });
}
