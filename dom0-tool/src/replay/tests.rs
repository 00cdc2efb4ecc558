//! Traces of simulated attempts: replayed, altered and corrupted.

use lull_base::fuzz::any_bytes;
use lull_core::downtime::{LastPages, SuspendPages};
use lull_core::limits::{DowntimeLimit, Limits};
use lull_core::machine::{Action, Event, Machine};
use lull_core::units::Micros;
use lull_simulator::attempt::{self, End, Outcome as Simulated};
use lull_simulator::draw::Draw;
use lull_simulator::scenario::Scenario;
use lull_store::spool::Pipe;
use lull_store::trace::{MAX_FILE_BYTES, Recorder};
use lull_wire::events::How;
use lull_wire::trace::Recorder as _;

use super::reader::{NoTrace, Reader};
use super::rerun::{Outcome, Rerun};

/// The trace of a simulated attempt.
fn trace(scenario: &Scenario) -> (String, Simulated) {
    let mut bytes = Vec::new();
    let mut recorder = Recorder::within(
        MAX_FILE_BYTES,
        Pipe::to(&mut bytes),
        "0.1.0",
        7,
        scenario.config(),
    );
    let simulated = attempt::run_watched(
        scenario,
        |at: Micros, event: Event, action: &Action, machine: &Machine| {
            recorder.record(at, event, action, machine);
        },
    );
    recorder.end(How::StreamComplete, "");
    (String::from_utf8(bytes).unwrap(), simulated)
}

fn replay(trace: &str, limits: Limits) -> Result<Outcome, NoTrace> {
    Rerun::new(Reader::of(trace.as_bytes()), limits, None)?.run()
}

fn limit(ms: u64) -> Limits {
    Limits {
        max_suspend: DowntimeLimit::new(Micros::from_millis(ms)),
        timeout: None,
    }
}

fn scenario(wanted: impl Fn(&Simulated) -> bool) -> Scenario {
    (0..)
        .map(|number| Draw::anything(9).scenario(number).scenario)
        .find(|scenario| wanted(&attempt::run(scenario)))
        .unwrap()
}

fn one_that_moves() -> Scenario {
    scenario(|simulated| simulated.end == End::Moved && simulated.rounds > 2)
}

#[test]
fn what_was_decided_is_decided_again() {
    let draw = Draw::anything(8);
    for number in 0..300 {
        let (trace, _) = trace(&draw.scenario(number).scenario);
        let replayed = replay(&trace, Limits::default()).unwrap();
        let Outcome::Same { decisions, end, .. } = &replayed else {
            panic!("{number}: {replayed}");
        };
        assert_eq!(trace.matches("\"decision\"").count() as u64, *decisions);
        assert_eq!(end.left_out, 0);
        assert!(replayed.to_string().contains("the same"), "{replayed}");
    }
}

#[test]
fn what_earlier_pauses_said_is_replayed_too() {
    let scenario = Scenario {
        last_pages: LastPages {
            usual: 300,
            longer: Micros(20_000),
            most: 450,
            pages: 300,
        },
        suspend_pages: SuspendPages {
            expected: 420,
            most: 530,
        },
        ..one_that_moves()
    };
    let (trace, _) = trace(&scenario);
    let replayed = replay(&trace, Limits::default()).unwrap();
    assert!(matches!(replayed, Outcome::Same { .. }), "{replayed}");
    for known in ["\"suspend_pages\"", "\"last_pages\""] {
        let forgotten = trace.replacen(known, "\"of_another_lull\"", 1);
        let replayed = replay(&forgotten, Limits::default()).unwrap();
        assert!(matches!(replayed, Outcome::Different { .. }), "{replayed}");
    }
}

#[test]
fn a_figure_changed_is_found_and_named() {
    let (trace, _) = trace(&one_that_moves());
    let at = trace.find("\"action\":\"suspend\"").unwrap();
    let (before, after) = trace.split_at(at);
    let forged = format!(
        "{before}{}",
        after.replacen("\"dirty_pages\":", "\"dirty_pages\":1", 1)
    );
    let replayed = replay(&forged, Limits::default()).unwrap();
    assert!(matches!(replayed, Outcome::Different { .. }), "{replayed}");
    let said = replayed.to_string();
    assert!(said.contains("dirty_pages: 1"), "{said}");
}

#[test]
fn a_smaller_limit_says_what_would_have_been_done_instead() {
    let scenario = one_that_moves();
    let (trace, _) = trace(&scenario);
    let replayed = replay(&trace, limit(1)).unwrap();
    let Outcome::Instead { instead, .. } = &replayed else {
        panic!("{replayed}");
    };
    let instead = instead.as_deref().unwrap();
    assert_eq!(instead.action, "refuse");
    assert!(
        instead
            .reason
            .as_deref()
            .unwrap()
            .starts_with("fixed-costs")
    );
    assert!(replayed.to_string().contains("would do"), "{replayed}");
}

#[test]
fn a_larger_limit_would_have_moved_a_refused_guest() {
    let scenario = scenario(|simulated| match simulated.end {
        End::Refused(refusal) => {
            simulated.pause.is_none()
                && simulated.rounds > 2
                && refusal.figures.smallest_limit.is_some()
                && matches!(refusal.reason, lull_core::refusal::Reason::NotConverging(_))
        }
        _ => false,
    });
    let (trace, simulated) = trace(&scenario);
    let End::Refused(refusal) = simulated.end else {
        unreachable!("wanted so");
    };
    let enough = refusal.figures.smallest_limit.unwrap().as_millis_ceil();
    let replayed = replay(&trace, limit(enough)).unwrap();
    let Outcome::Instead { instead, .. } = &replayed else {
        panic!("{replayed}");
    };
    let stops = match scenario.config().hands_over {
        true => "hand-over",
        false => "suspend",
    };
    assert_eq!(instead.as_deref().unwrap().action, stops, "{replayed}");
}

#[test]
fn the_same_limit_asked_for_changes_nothing() {
    let scenario = one_that_moves();
    let (trace, _) = trace(&scenario);
    let replayed = replay(&trace, scenario.limits).unwrap();
    assert!(matches!(replayed, Outcome::NoMatter { .. }), "{replayed}");
}

#[test]
fn a_trace_cut_anywhere_is_said_to_be() {
    let (trace, _) = trace(&one_that_moves());
    let step = trace.len() / 200 + 1;
    for length in (0..trace.len() - 1).step_by(step) {
        let error = replay(&trace[..length], Limits::default()).unwrap_err();
        assert!(matches!(error, NoTrace::Truncated(_)), "{length}: {error}");
    }
}

#[test]
fn what_is_no_trace_is_said_to_be_none() {
    let (good, _) = trace(&one_that_moves());
    let header = good.lines().next().unwrap();
    for (spoilt, says) in [
        ("hello\n".to_owned(), "line 1 is not one of a trace"),
        ("{}\n".to_owned(), "line 1 is not one of a trace"),
        ("\u{0}\u{0}\n".to_owned(), "line 1 is not one of a trace"),
        ("[".repeat(4_000) + "\n", "line 1 is not one of a trace"),
        ("x".repeat(10_000), "line 1 is longer than any"),
        (
            header.replace("\"schema\":1", "\"schema\":2") + "\n",
            "schema 2",
        ),
        (
            format!("{header}\n{header}\n"),
            "line 2 cannot come where it is",
        ),
        (
            format!(
                "{header}\n{{\"type\":\"event\",\"at_us\":1,\"event\":\"counted\",\"dirty\":1}}\n"
            ),
            "cannot have come like this",
        ),
        (good.clone() + header + "\n", "cannot come where it is"),
    ] {
        let said = replay(&spoilt, Limits::default()).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn a_full_trace_says_so_and_still_replays() {
    const MAX_FILE_BYTES: usize = 100 << 10;
    let scenario = one_that_moves();
    let mut bytes = Vec::new();
    let mut recorder = Recorder::within(
        MAX_FILE_BYTES,
        Pipe::to(&mut bytes),
        "0.1.0",
        7,
        scenario.config(),
    );
    let mut machine = Machine::new(scenario.config());
    let begin = Event::Begin {
        pages: 1,
        took_bitmap: Micros::ZERO,
    };
    let action = machine.step(Micros::ZERO, begin).unwrap();
    recorder.record(Micros::ZERO, begin, &action, &machine);
    let tick = Event::Tick { dirty: Some(0) };
    for at in 0..10_000 {
        let action = machine.step(Micros(at), tick).unwrap();
        recorder.record(Micros(at), tick, &action, &machine);
    }
    recorder.end(How::Cancelled, "enough");
    assert!(bytes.len() <= MAX_FILE_BYTES);
    let replayed = replay(std::str::from_utf8(&bytes).unwrap(), Limits::default()).unwrap();
    assert!(
        replayed.to_string().contains("the trace was full"),
        "{replayed}"
    );
}

/// Traces of real attempts under the first edition of the estimate: two hosts, Xen 4.17,
/// over ssh, on a busy machine. The result does not depend on the limit.
#[test]
fn of_real_attempts_the_best_moment_is_taken_whatever_the_limit() {
    for (trace, expected) in [
        (
            // This guest was stopped with 8,382 pages left and paused for 10.7 s.
            include_str!("traces/two-hosts-limit-20s-moved.jsonl"),
            "another round after round 0",
        ),
        (
            // This attempt was refused after twelve rounds, with 152 pages left.
            include_str!("traces/two-hosts-limit-3s-refused.jsonl"),
            "suspend after round 5",
        ),
    ] {
        for seconds in [3, 6, 20, 60] {
            let said = replay(trace, limit(seconds * 1_000)).unwrap().to_string();
            assert!(said.contains(&format!("instead:  {expected}")), "{said}");
        }
    }
    let good = include_str!("traces/two-hosts-limit-6s-moved.jsonl");
    for seconds in [3, 6, 20, 60] {
        let replayed = replay(good, limit(seconds * 1_000)).unwrap();
        assert!(matches!(replayed, Outcome::NoMatter { .. }), "{replayed}");
    }
}

#[test]
fn any_bytes_are_a_trace_or_none() {
    let (whole, _) = trace(&Draw::anything(3).scenario(5).scenario);
    let start: String = whole.split_inclusive('\n').take(60).collect();
    any_bytes(&[start.as_bytes()], |bytes| {
        let reader = Reader::of(bytes);
        drop(Rerun::new(reader, limit(500), None).and_then(Rerun::run));
    });
}
