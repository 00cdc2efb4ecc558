//! Tests of whole attempts against an `xl` that is a script. The script prints what the
//! real xl prints, and acts as the helper on the socket that the helper would inherit. The
//! tests cover the judgement, the report and the connections between processes, not a
//! migration.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use clap::Parser;
use lull_xen::DomainState;

use super::source::tests::{Script, state};
use super::*;
use crate::cli::{Cli, Command};

/// Functions for the script: `say` writes one event as the helper does.
const PRELUDE: &str = r#"#!/bin/bash
say() { echo "$1" >&"$LULL_FRONT_END_FD"; }
started='{"schema":1,"type":"started","domid":7,"helper_pid":1,"guest_pages":49152,"limit_ms":500,"timeout_ms":null,"stub_domid":8,"stub_memory_bytes":16777216,"stub_boot_ms":12,"fixed_costs":{}}'
round='{"schema":1,"type":"round","at_ms":900,"round":0,"pages_sent":49152,"pages_dirtied":120,"duration_ms":900,"transfer_rate":223696213,"dirty_rate":133,"predicted_downtime_ms":480,"decision":"suspend"}'
suspended() { echo '{"schema":1,"type":"suspended","requested_at_ms":901,"stopped_at_ms":950,"dirty_pages":120,"requested_monotonic_ns":'"$(now)"',"predicted":{"suspend_ms":200,"landing_ms":250},"predicted_downtime_ms":480}'; }
now() { read -r up _ </proc/uptime; echo "${up/./}0000000"; }
ended() { echo '{"schema":1,"type":"ended","at_ms":1000,"how":"'"$1"'","reason":"'"$2"'","advice":"","smallest_limit_ms":'"${3:-null}"',"needed_rate":'"${4:-null}"',"refused_pause_ms":'"${5:-null}"',"observed":{"suspend_ms":49,"final_bitmap_ms":1,"pages_ms":20,"cpu_state_ms":8},"pages_sent":49272,"bytes_sent":201818112,"monotonic_ns":'"$(now)"',"helper_cpu_ms":300,"helper_peak_bytes":4194304,"stub_cpu_ms":200}'; }
xl() { echo "migration sender: $1" >&2; }
there() { echo "$1" >&"$LULL_WORDS_FD"; }
# And what `lull transport` would: receives commands, emits events.
command_is() { read -r command <&"$LULL_TRANSPORT_FD"; echo "$command" | grep -q "\"$1\""; }
carry() { echo "$1" >&"$LULL_TRANSPORT_FD"; }
answered() { echo '{"schema":1,"type":"answered","go_monotonic_ns":'"$1"',"answer_monotonic_ns":'"$(now)"'}'; }
ready() { echo '{"schema":1,"type":"ready","came_monotonic_ns":'"$(now)"',"passed_monotonic_ns":'"$(now)"'}'; }
hung_up() { echo '{"schema":1,"type":"hung-up","why":"'"$1"'","ready_monotonic_ns":'"${2:-null}"',"decided_monotonic_ns":'"$(now)"',"guest":"'"${4:-resumed}"'","error":"","refused_pause_ms":'"${3:-null}"',"resume_ms":7}'; }
"#;

struct Run {
    outcome: Outcome,
    seen: Option<Seen>,
    paragraph: String,
    last_line: String,
    result: lull_wire::events::Outcome,
    tables: String,
    resumed: u32,
    ledger: Known,
}

const ALIVE: fn() -> [Option<DomainState>; 2] = || [Some(state(1)), Some(state(2))];

fn options(extra: &str) -> Migrate {
    let line = format!("lull migrate {extra} web1 host2");
    let Command::Migrate(options) = Cli::parse_from(line.split_whitespace()).command else {
        panic!("{line}");
    };
    options
}

fn attempt(script: &str) -> Run {
    attempt_with(script, "", &ALIVE(), |_| {})
}

fn attempt_with(
    script: &str,
    extra: &str,
    states: &[Option<DomainState>],
    meanwhile: impl FnOnce(&Inbox),
) -> Run {
    attempt_since(now_ns(), script, extra, states, meanwhile)
}

/// An attempt of a command that started at `begun`, in nanoseconds of `CLOCK_MONOTONIC`.
fn attempt_since(
    begun: u64,
    script: &str,
    extra: &str,
    states: &[Option<DomainState>],
    meanwhile: impl FnOnce(&Inbox),
) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let xl = folder.path().join("xl");
    fs::write(&xl, format!("{PRELUDE}{script}")).unwrap();
    fs::set_permissions(&xl, fs::Permissions::from_mode(0o755)).unwrap();

    let options = options(&format!("--max-suspend-time 500ms {extra}"));
    let guest = Guest {
        domid: 7,
        name: "web1".to_owned(),
    };
    let source = Script::new(states);
    let ledger = Ledger::at(folder.path().join("ledger.json"));
    let mut watcher = Watcher::new(&options);
    let inbox = Inbox::new();
    meanwhile(&inbox);
    let known = ledger.known("host2", guest.name.as_str(), Landing::Classic, |line| {
        panic!("{line}")
    });
    let plan = xl::Plan {
        xl: &xl,
        lull: Path::new("/nonexistent/lull"),
        guest: &guest,
        options: &options,
        known: &known,
        control: &Folder::at(folder.path().join("control")),
        landing: Landing::Classic,
        claim: None,
        begun,
    };
    let attempted = attempt::run(&plan, None, &inbox, &mut watcher).unwrap();
    let (judgement, seen) = conclude(&attempted, &source);
    remember(
        &options,
        &guest,
        &attempted.observed,
        &known,
        &ledger,
        &watcher,
    );
    let report = Report {
        guest: &guest,
        options: &options,
        observed: &attempted.observed,
        outcome: judgement.outcome,
        why: judgement.why,
        seen: seen.as_ref(),
        monitor_lost: None,
        known: &known,
        why_classic: "no lull answers there",
        why_fewer: "",
        duration_ms: 1_234,
    };
    Run {
        outcome: judgement.outcome,
        paragraph: report.paragraph(),
        last_line: report.last_line(),
        result: report.result(),
        tables: report.tables().to_string(),
        resumed: source.resumed.get(),
        ledger: ledger.known("host2", "web1", Landing::Classic, |line| panic!("{line}")),
        seen,
    }
}

/// An attempt that leaves nothing of the guest on this host.
fn attempt_and_go(script: &str) -> Run {
    attempt_with(script, "", &[None], |_| {})
}

const MOVED: &str = r#"
say "$started"; say "$round"; say "$(suspended)"; say "$(ended stream-complete "")"
carry "$(ready)"
xl "Target has acknowledged transfer."
xl "Giving target permission to start."
sleep 0.05
xl "Target reports successful startup."
echo "Migration successful." >&2
"#;

#[test]
fn a_move_is_a_move_and_its_pause_is_remembered() {
    let run = attempt_and_go(MOVED);
    assert_eq!(run.outcome, Outcome::Moved);
    assert_eq!(run.seen, None);
    assert_eq!(run.last_line, "web1 runs at the destination (host2).");
    let observed = run.result.observed_downtime_ms.unwrap();
    assert!((50..5_000).contains(&observed), "{observed}");
    assert_eq!(run.result.predicted_downtime_ms, Some(480));
    assert_eq!(run.result.rounds, 1);
    assert_eq!(run.ledger.landings, 1);
    let bounds = run.ledger.bounds;
    assert!(bounds.landing >= Duration::from_millis(50));
    assert!(bounds.suspend >= Duration::from_millis(49));
}

#[test]
fn the_report_shows_prediction_and_observation_side_by_side() {
    let tables = attempt_and_go(MOVED).tables;
    for words in [
        "49,152",
        "213.3 MiB/s",
        "predicted, at most",
        "200 ms",
        "49 ms",
        "49,272 pages",
        "(192.4 MiB/s)",
        "stub      200 ms of CPU, 16.0 MiB of memory",
        "helper    300 ms of CPU, 4.0 MiB of memory",
    ] {
        assert!(tables.contains(words), "{words}:\n{tables}");
    }
}

#[test]
fn a_refusal_says_what_would_have_fitted() {
    let run = attempt(
        r#"
say "$started"; say "$round"
say "$(ended refused-downtime "the pause would be 2,100 ms at least" 2100 125829120)"
echo "libxl: error: a stack of them" >&2
echo "Migration failed, failed to suspend at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::RefusedDowntime);
    assert_eq!(
        run.paragraph,
        "Refused to move web1 to host2: the pause would be 2,100 ms at least. \
         It was never paused, and what had been begun was undone. \
         It would have fitted with `--max-suspend-time 2100ms`, or a link that carries 120.0 MiB/s. \
         What a landing at host2 takes was only assumed: `lull rehearse host2` measures it, or `--rehearse` first."
    );
    assert_eq!(run.last_line, "web1 runs at the source (this host).");
    assert_eq!(run.result.outcome, "refused-downtime");
    assert!(!run.ledger.has_history());
}

#[test]
fn a_refusal_after_the_suspend_tells_its_own_pause() {
    let run = attempt(
        r#"
say "$started"; say "$round"; say "$(suspended)"
say "$(ended refused-downtime "a burst of writes" 900 null 61)"
echo "Migration failed, resuming at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome.code(), 3);
    assert!(
        run.paragraph
            .contains("paused for 61 ms and was resumed at once")
    );
    assert_eq!(run.result.observed_downtime_ms, Some(61));
}

/// The limit that counts is the one of that pause.
#[test]
fn a_pause_given_up_beyond_its_limit_is_told_as_one() {
    let paragraph = |pause_ms: u64| {
        let script = format!(
            r#"
say "$started"; say "$round"
say "$(suspended | sed 's/"predicted":/"limit_us":2000000,&/')"
say '{{"schema":1,"type":"ran-on","at_ms":9000,"pause_ms":{pause_ms},"reason":"too slow"}}'
say '{{"schema":1,"type":"limits","at_ms":9500,"limit_ms":9000,"timeout_ms":null}}'
say "$(ended refused-timeout "5m are over")"
exit 1"#
        );
        attempt(&script).paragraph
    };
    let over = paragraph(8_000);
    let expected =
        "A pause in vain was 8,000 ms, longer than the limit of 2,000 ms: please report this.";
    assert!(over.contains(expected), "{over}");
    let within = paragraph(2_000);
    assert!(within.contains("paused for 2,000 ms in vain"), "{within}");
    assert!(!within.contains("longer than"), "{within}");
}

#[test]
fn out_of_time_is_its_own_refusal() {
    let run = attempt(r#"say "$started"; say "$(ended refused-timeout "5m are over")"; exit 1"#);
    assert_eq!(run.outcome.code(), 4);
}

#[test]
fn an_unreachable_host_is_told_in_sshs_words() {
    let run = attempt(
        r#"
there "ssh: connect to host host2 port 22: No route to host"
echo "libxl: error: libxl_utils.c:507:libxl_read_exactly: file/stream truncated reading banner from migration receiver stream" >&2
echo "libxl: info: libxl_exec.c:117:libxl_report_child_exitstatus: migration transport process [7] exited with error status 255" >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::TargetFailed);
    assert!(run.paragraph.contains("No route to host"));
    assert!(!run.paragraph.contains("libxl"), "{}", run.paragraph);
}

#[test]
fn a_destination_without_memory_is_told_in_its_words() {
    let run = attempt(
        r#"
say "$started"
there "failed to free memory for the domain"
there "migration target: Domain creation failed (code -3)."
say "$(ended target-failed "the connection to the destination broke")"
echo "Migration failed, failed to suspend at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome.code(), 6);
    assert!(
        run.paragraph
            .contains("failed to free memory for the domain")
    );
}

#[test]
fn an_xl_that_fails_by_itself_is_the_sources_fault() {
    let run = attempt(r#"echo "unable to retrieve domain configuration" >&2; exit 1"#);
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert!(run.paragraph.contains("domain configuration"));
}

#[test]
fn a_target_that_fails_before_go_leaves_the_guest_here() {
    let run = attempt(
        r#"
say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"
there "no bridge for the interface"
echo "Migration failed, resuming at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::TargetFailed);
    assert!(run.paragraph.contains("no bridge"));
}

#[test]
fn a_target_that_gives_the_guest_back_failed() {
    let run = attempt(
        r#"
say "$started"; say "$(ended stream-complete "")"; carry "$(ready)"
xl "Target has acknowledged transfer."
xl "Giving target permission to start."
xl "Target reports startup failure (status code 3)."
xl "Trying to resume at our end."
xl "Resumed OK."
echo "Migration failed due to problems at target." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::TargetFailed);
}

#[test]
fn silence_after_go_is_unknown_and_nothing_is_resumed() {
    let suspended = DomainState {
        shutdown: Some(2),
        ..DomainState::IDLE
    };
    let run = attempt_with(
        r#"
say "$started"; say "$(ended stream-complete "")"; carry "$(ready)"
xl "Target has acknowledged transfer."
xl "Giving target permission to start."
echo "** Migration failed during final handshake **" >&2
echo "Domain state is now undefined !" >&2
exit 1"#,
        "",
        &[Some(suspended)],
        |_| {},
    );
    assert_eq!(run.outcome, Outcome::Unknown);
    assert_eq!(run.resumed, 0);
    assert!(run.last_line.contains("host2") && run.last_line.contains("this host"));
    assert!(run.paragraph.contains("Nothing was destroyed"));
}

#[test]
fn an_xl_killed_after_go_leaves_it_unknown() {
    let run = attempt(
        r#"
say "$started"; say "$(ended stream-complete "")"; carry "$(ready)"
xl "Giving target permission to start."
kill -KILL $$"#,
    );
    assert_eq!(run.outcome, Outcome::Unknown);
}

#[test]
fn an_xl_killed_before_go_leaves_a_guest_that_lull_resumes() {
    let suspended = DomainState {
        shutdown: Some(2),
        ..DomainState::IDLE
    };
    let run = attempt_with(
        r#"say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"; kill -KILL $$"#,
        "",
        &[Some(suspended)],
        |_| {},
    );
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert_eq!((run.seen, run.resumed), (Some(Seen::Rescued), 1));
    assert_eq!(run.last_line, "web1 runs at the source (this host).");
}

#[test]
fn an_xl_killed_after_the_report_has_moved_the_guest() {
    let run = attempt_and_go(
        r#"
say "$started"; say "$(ended stream-complete "")"; carry "$(ready)"
xl "Giving target permission to start."
xl "Target reports successful startup."
kill -KILL $$"#,
    );
    assert_eq!(run.outcome, Outcome::Moved);
    assert!(run.paragraph.contains("xl destroy 7"), "{}", run.paragraph);
}

#[test]
fn a_guest_that_died_runs_nowhere() {
    let crashed = DomainState {
        shutdown: Some(3),
        ..DomainState::IDLE
    };
    for (shown, how) in [(None, "is gone"), (Some(crashed), "has crashed")] {
        let run = attempt_with(
            r#"say "$started"; say "$(ended source-failed "the guest cannot be mapped")"; exit 1"#,
            "",
            &[shown],
            |_| {},
        );
        assert_eq!(run.outcome.code(), 7);
        assert_eq!(run.result.running_on, "nowhere");
        // The guest may exist again when the operator looks.
        let paragraph = &run.paragraph;
        assert!(paragraph.contains("started anew"), "{paragraph}");
        assert_eq!(
            run.last_line,
            format!(
                "web1 runs nowhere: at the source (this host) it {how}; the destination (host2) was not told to start it."
            )
        );
    }
}

#[test]
fn the_timeout_holds_also_while_no_helper_has_begun() {
    let run = attempt_with(
        r#"
command_is hang-up && carry "$(hung_up cancelled null null left-alone)"
exit 1"#,
        "--timeout 100ms",
        &ALIVE(),
        |_| {},
    );
    assert_eq!(run.outcome, Outcome::RefusedTimeout);
    assert!(
        run.paragraph.contains("the timeout was over"),
        "{}",
        run.paragraph
    );
}

/// The destination took most of the time to answer the questions that come before xl.
#[test]
fn the_timeout_counts_from_the_start_of_the_command() {
    let begun = now_ns().saturating_sub(59 * 60 * 1_000_000_000);
    let script = format!(
        r#"
case "$LULL_MIGRATION" in
    *'"started_monotonic_ns":{begun},'*) ;;
    *) exit 0 ;;
esac
command_is hang-up && carry "$(hung_up cancelled null null left-alone)"
exit 1"#
    );
    let over = now_ns() - begun + 100_000_000;
    let timeout = format!("--timeout {}ms", over / 1_000_000);
    let run = attempt_since(begun, &script, &timeout, &ALIVE(), |_| {});
    assert_eq!(run.outcome, Outcome::RefusedTimeout);
}

#[test]
fn a_connection_that_breaks_at_the_end_may_leave_a_copy_and_that_is_said() {
    let run = attempt(
        r#"
say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"
carry "$(hung_up peer-gone null 77)"
echo "libxl: error: libxl_utils.c:507:libxl_read_exactly: file/stream truncated reading ready message from migration receiver stream" >&2
echo "Migration failed, resuming at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::TargetFailed);
    assert!(
        run.paragraph.contains("`xl destroy web1--incoming`"),
        "{}",
        run.paragraph
    );
}

#[test]
fn a_helper_killed_before_its_first_word_is_not_the_destinations_fault() {
    let run = attempt(
        r#"
echo "libxl: error: libxl_exec.c:129:libxl_report_child_exitstatus: domain 7 save/restore helper [31] died due to fatal signal Killed" >&2
there "migration target: Domain creation failed (code -3)."
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert!(
        run.paragraph.contains("helper was killed"),
        "{}",
        run.paragraph
    );
}

#[test]
fn a_helper_that_dies_without_a_word_is_the_sources_fault() {
    let run =
        attempt(r#"say "$started"; echo "Migration failed, resuming at sender." >&2; exit 1"#);
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert!(run.paragraph.contains("helper died"));
}

/// The guest may have stopped, and the guard may have resumed it.
#[test]
fn a_pause_that_was_not_measured_is_not_denied() {
    for (asked, expected) in [
        (":", "It was never paused, and what"),
        (
            r#"say "$round""#,
            "It was asked to suspend, and a pause was not measured; what",
        ),
        (
            r#"say "$round"; say "$(suspended)""#,
            "It was paused, and for how long was not measured; what",
        ),
    ] {
        let run = attempt(&format!(r#"say "$started"; {asked}; exit 1"#));
        assert_eq!(run.outcome, Outcome::SourceFailed);
        assert!(run.paragraph.contains(expected), "{}", run.paragraph);
    }
}

#[test]
fn a_guest_that_is_not_seen_to_run_is_never_claimed_to() {
    let paused = DomainState {
        paused: true,
        ..DomainState::IDLE
    };
    let run = attempt_with(
        r#"say "$started"; say "$(ended refused-downtime "too busy")"; exit 1"#,
        "",
        &[Some(paused)],
        |_| {},
    );
    assert_eq!(run.outcome, Outcome::Unknown);
    assert!(run.last_line.contains("is paused"), "{}", run.last_line);
    assert_eq!(run.result.running_on, "unknown");
}

#[test]
fn garbage_from_the_helper_changes_nothing() {
    let run = attempt_and_go(&format!(
        r#"
say "}}{{"; say '{{"schema":1,"type":"unheard-of"}}'; head -c 100000 /dev/urandom >&"$LULL_FRONT_END_FD"; say ""
{MOVED}"#
    ));
    assert_eq!(run.outcome, Outcome::Moved);
}

#[test]
fn the_wish_to_cancel_reaches_the_helper() {
    let run = attempt_with(
        r#"
say "$started"
read -r line <&"$LULL_FRONT_END_FD"
case $line in *cancel*) say "$(ended cancelled "cancelled by the operator")";; esac
exit 1"#,
        "",
        &ALIVE(),
        Inbox::ask_to_stop,
    );
    assert_eq!(run.outcome.code(), 5);
    assert_eq!(run.last_line, "web1 runs at the source (this host).");
}

#[test]
fn cancelling_ends_the_wait_for_an_unreachable_host() {
    let run = attempt_with(
        r#"
command_is cancel && carry "$(hung_up cancelled null null left-alone)"
echo "libxl: info: migration transport process [7] died" >&2
exit 1"#,
        "",
        &ALIVE(),
        Inbox::ask_to_stop,
    );
    assert_eq!(run.outcome, Outcome::Cancelled);
}

#[test]
fn xl_gets_its_own_options_and_the_helper_its_limits() {
    let run = attempt_with(
        r#"
spec=$(echo "$LULL_MIGRATION" | sed 's/.*\("max_.*\),"band.*"costs_us":\([^}]*}\).*\("suspend_pages[^}]*}\).*/\1 \2 \3/')
echo "$* | $spec $LIBXL_SAVE_HELPER" >&2; exit 1"#,
        "--timeout 1m -s rsh -C web.cfg -e --debug",
        &ALIVE(),
        |_| {},
    );
    let expected = r#"migrate -s '/nonexistent/lull' transport -- rsh -C web.cfg -e --debug 7 host2 | "max_suspend_us":500000,"timeout_us":60000000 {"suspend":200000,"final_bitmap":10000,"cpu_state":50000,"landing":3000000,"resume":50000} "suspend_pages":{"expected":350,"most":450} /nonexistent/lull"#;
    assert!(run.paragraph.contains(expected), "{}", run.paragraph);
}

#[test]
fn an_xl_that_goes_its_own_way_is_told_on() {
    let run = attempt_and_go(r#"carry "$(ready)"; echo "Migration successful." >&2"#);
    assert_eq!(run.outcome, Outcome::Moved);
    assert!(run.paragraph.contains("no limit was kept"));
}

/// The transport outlives xl and keeps its pipe open.
#[test]
fn permission_given_in_the_last_breath_is_heard() {
    let run = attempt(
        r#"
say "$started"; say "$(ended stream-complete "")"; carry "$(ready)"
sleep 3 &
xl "Giving target permission to start."
kill -KILL $$"#,
    );
    assert_eq!(run.outcome, Outcome::Unknown);
}

#[test]
fn the_result_is_an_object_with_type_and_schema() {
    let result = attempt_and_go(MOVED).result;
    let line = lull_wire::events::Line {
        schema: lull_wire::events::SCHEMA,
        event: Event::Result(Box::new(result)),
    };
    let object = serde_json::to_value(line).unwrap();
    assert_eq!(object["type"], "result");
    assert_eq!(object["schema"], 1);
    assert_eq!(object["outcome"], "moved");
    assert_eq!(object["running_on"], "destination");
    assert_eq!(object["limit_ms"], 500);
}

#[test]
fn xl_is_deaf_to_the_terminals_signals() {
    let run = attempt_and_go(&format!(
        r#"
for signal in INT HUP TERM QUIT TSTP; do kill -$signal $$; done
{MOVED}"#
    ));
    assert_eq!(run.outcome, Outcome::Moved);
}

#[test]
fn the_helper_and_the_transport_share_a_socket() {
    let run = attempt_and_go(
        r#"
say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"
echo committed >&"$LULL_GATE_FD"
read -r message <&"$LULL_TRANSPORT_ENGINE_FD"; [ "$message" = committed ] && sleep 0.05 && carry "$(ready)"
xl "Giving target permission to start."
go=$(now); sleep 0.05; carry "$(answered $go)"
xl "Target reports successful startup."
"#,
    );
    assert_eq!(run.outcome, Outcome::Moved);
    let observed = run.result.observed_downtime_ms.unwrap();
    let estimate = run.result.observed_downtime_estimate_ms.unwrap();
    assert!(estimate + 20 <= observed, "{estimate} {observed}");
    let (until, after) = (run.result.until_ready_ms, run.result.after_ready_ms);
    assert!(
        until.is_some() && after.unwrap() >= 50,
        "{until:?} {after:?}"
    );
    assert!(run.tables.contains("until READY"), "{}", run.tables);
}

const REFUSED_BY_THE_TRANSPORT: &str = r#"
say "$started"; say "$round"; suspended=$(suspended); say "$suspended"; say "$(ended stream-complete "")"
carry "$(hung_up WHY READY 431)"
echo "Migration failed, resuming at sender." >&2
exit 1"#;

#[test]
fn a_destination_that_is_late_is_refused_and_the_pause_told() {
    let late = REFUSED_BY_THE_TRANSPORT
        .replace("WHY", "ready-too-late")
        .replace("READY", r#""$(now)""#);
    let run = attempt(&late);
    assert_eq!(run.outcome.code(), 3);
    assert_eq!(run.result.observed_downtime_ms, Some(431));
    for words in [
        "the destination was ready too late",
        "It had been paused for 431 ms and was resumed at once.",
        "It would have fitted with `--max-suspend-time ",
    ] {
        assert!(run.paragraph.contains(words), "{}", run.paragraph);
    }
    assert_eq!(run.last_line, "web1 runs at the source (this host).");
    learned_from_lateness(&run.ledger);
    let silent = REFUSED_BY_THE_TRANSPORT
        .replace("WHY", "not-ready")
        .replace("READY", "null");
    let run = attempt(&silent);
    assert_eq!(run.outcome.code(), 3);
    assert!(run.paragraph.contains("was not ready"), "{}", run.paragraph);
    learned_from_lateness(&run.ledger);
}

/// Without this, the next attempt would predict the same pause again.
fn learned_from_lateness(known: &Known) {
    assert_eq!(known.landings, 1);
    // The time until the refusal, and the assumed remainder.
    assert!(known.bounds.landing >= Duration::from_millis(250));
    assert_eq!(known.bounds.suspend, Duration::from_millis(75));
    assert_eq!(known.bounds.resume, Duration::from_millis(12));
}

/// xl's end proves nothing in this case; it may even have been killed.
#[test]
fn a_refusal_by_the_transport_outlives_xl() {
    let killed = REFUSED_BY_THE_TRANSPORT
        .replace("WHY", "not-ready")
        .replace("READY", "null")
        .replace("exit 1", "kill -KILL $$");
    assert_eq!(attempt(&killed).outcome, Outcome::RefusedDowntime);
}

#[test]
fn a_cancel_between_stream_end_and_ready_is_done_by_the_transport() {
    let run = attempt_with(
        r#"
say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"
command_is cancel && carry "$(hung_up cancelled null 77)"
echo "Migration failed, resuming at sender." >&2
exit 1"#,
        "",
        &ALIVE(),
        Inbox::ask_to_stop,
    );
    assert_eq!(run.outcome, Outcome::Cancelled);
    assert_eq!(run.result.observed_downtime_ms, Some(77));
}

/// What the transport reports never outweighs that the destination was told to start the
/// guest.
#[test]
fn a_transport_that_contradicts_xl_is_not_believed() {
    let run = attempt(
        r#"
say "$started"; say "$(ended stream-complete "")"
carry "$(hung_up not-ready)"
xl "Giving target permission to start."
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::Unknown);
}

/// The stub's last messages, the destination's messages and a guest's name may look like
/// xl's.
#[test]
fn nobodys_words_but_xls_move_a_guest() {
    for words in [
        "Migration successful.",
        "migration sender: Target reports successful startup.",
    ] {
        for script in [
            format!(
                r#"
say "$started"; say "$(ended source-failed "the stub died: panic: {words}")"
echo "libxl: error: web1 was not moved: the stub domain died: panic: {words}" >&2
echo "Migration failed, failed to suspend at sender." >&2
exit 1"#
            ),
            format!(
                r#"
there "{words}"; say "$started"; say "$(ended source-failed "no")"
echo "Migration failed, resuming at sender." >&2
exit 1"#
            ),
        ] {
            let run = attempt(&script);
            assert_eq!(run.outcome, Outcome::SourceFailed, "{script}");
            assert_eq!(run.last_line, "web1 runs at the source (this host).");
        }
    }
}

/// Whatever the messages claim, the guest is here.
#[test]
fn a_guest_that_moved_and_runs_here_is_looked_for_at_both() {
    let run = attempt(MOVED);
    assert_eq!(run.outcome, Outcome::Unknown);
    assert!(
        run.paragraph.contains("runs at the source"),
        "{}",
        run.paragraph
    );
}

/// Two moves of one guest, where the other's destination is about to be told to start it.
#[test]
fn a_suspension_that_was_not_asked_for_is_somebody_elses() {
    let suspended = DomainState {
        shutdown: Some(2),
        ..DomainState::IDLE
    };
    let run = attempt_with(
        r#"say "$started"; say "$(ended source-failed "another lull has its log")"; exit 1"#,
        "",
        &[Some(suspended)],
        |_| {},
    );
    assert_eq!(run.resumed, 0);
    assert_eq!(run.outcome, Outcome::Unknown);
}

#[test]
fn so_it_is_while_pages_are_being_sent() {
    let run = attempt(
        r#"
say "$started"; say "$(ended target-failed "the stream cannot be written")"
echo "libxl: info: libxl_exec.c:127:libxl_report_child_exitstatus: migration transport process [2911] died due to fatal signal Killed" >&2
echo "Migration failed, failed to suspend at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert!(
        run.paragraph.contains("`lull transport` was killed"),
        "{}",
        run.paragraph
    );
}

#[test]
fn a_transport_that_is_killed_is_the_sources_fault() {
    let run = attempt(
        r#"
say "$started"; say "$(suspended)"; say "$(ended stream-complete "")"
echo "libxl: info: libxl_exec.c:127:libxl_report_child_exitstatus: migration transport process [2911] died due to fatal signal Killed" >&2
echo "Migration failed, resuming at sender." >&2
exit 1"#,
    );
    assert_eq!(run.outcome, Outcome::SourceFailed);
    assert!(
        run.paragraph.contains("lull transport"),
        "{}",
        run.paragraph
    );
}

#[test]
fn a_guest_that_was_not_asked_to_suspend_lands_classic_where_lull_land_was_lost() {
    use lull_wire::events::{Ended, How};

    let attempted = |land_lost: bool, intent: Intent| {
        let mut observed = ObservedAttempt::default();
        observed.helper_said(Event::Ended(Ended {
            reason: "the connection to lull land was lost: it broke".to_owned(),
            land_lost,
            ..Ended::so(How::TargetFailed)
        }));
        Attempted { observed, intent }
    };
    let lost = || attempted(true, Intent::Move);
    let why = classic_instead(&options(""), Landing::Fast, &lost()).unwrap();
    assert!(why.contains("lull land was lost"), "{why}");
    let suspended = r#"{"type":"suspended","requested_at_ms":1,"stopped_at_ms":2,"dirty_pages":3,
        "requested_monotonic_ns":4,"predicted":{},"predicted_downtime_ms":null}"#;
    let mut stopped = lost();
    stopped
        .observed
        .helper_said(serde_json::from_str(suspended).unwrap());
    for (extra, landing, attempted) in [
        ("--landing fast", Landing::Fast, lost()),
        ("", Landing::Classic, lost()),
        ("", Landing::Fast, attempted(false, Intent::Move)),
        ("", Landing::Fast, attempted(true, Intent::Cancel)),
        ("", Landing::Fast, stopped),
    ] {
        let why = classic_instead(&options(extra), landing, &attempted);
        assert_eq!(why, None, "{extra} {landing:?}");
    }
}

#[test]
fn a_classic_attempt_does_not_follow_once_the_operator_has_cancelled_or_time_is_up() {
    let begun = now_ns().saturating_sub(3_600_000_000_000);
    let again = Inbox::new();
    for plenty in ["", "--timeout 2h"] {
        assert_eq!(may_follow(&again, &options(plenty), begun), Ok(()));
    }
    let (outcome, why) = may_follow(&again, &options("--timeout 1ms"), begun).unwrap_err();
    assert_eq!(outcome, Outcome::RefusedTimeout);
    assert!(why.contains("the timeout was over"), "{why}");
    again.ask_to_stop();
    let (outcome, why) = may_follow(&again, &options(""), begun).unwrap_err();
    assert_eq!(outcome, Outcome::Cancelled);
    assert!(why.contains("cancelled"), "{why}");
}

/// `lull set` answers that they hold from now on, and the guest may land in a second attempt.
#[test]
fn the_limits_that_were_set_hold_for_the_classic_attempt_that_follows() {
    let as_set = |extra: &str, set: &str| {
        let mut observed = ObservedAttempt::default();
        if !set.is_empty() {
            let line = format!(r#"{{"type":"limits","at_ms":5,{set}}}"#);
            observed.helper_said(serde_json::from_str(&line).unwrap());
        }
        let options = options_as_set(options(extra), &observed);
        let micros = |limit: Option<Span>| limit.map(Span::as_micros);
        (
            micros(options.pause_limit()),
            micros(options.time_limit()),
            options.bandwidth.unwrap_or_default().bytes(),
        )
    };
    let given = "--max-suspend-time 1900us --timeout 10min --bandwidth 8MiB/s";
    let mib = 1024 * 1024;
    assert_eq!(as_set(given, ""), (Some(1_900), Some(600_000_000), 8 * mib));
    // What is reported unchanged stays as exact as it was given.
    let only_the_cap = r#""limit_ms":1,"timeout_ms":600000,"bandwidth":null"#;
    assert_eq!(
        as_set(given, only_the_cap),
        (Some(1_900), Some(600_000_000), 0)
    );
    let all = r#""limit_ms":500,"timeout_ms":60000,"bandwidth":1048576"#;
    let expected = (Some(500_000), Some(60_000_000), mib);
    assert_eq!(as_set(given, all), expected);
    assert_eq!(as_set("", all), expected);
    // A limit below a millisecond is reported as 0, and is still a limit.
    let short = r#""limit_ms":0,"timeout_ms":null,"bandwidth":null"#;
    assert_eq!(as_set("", short), (Some(1), None, 0));
}

#[test]
fn a_limit_of_part_of_a_millisecond_is_compared_as_it_was_set() {
    let options = options("--max-suspend-time 1900us");
    let guest = Guest {
        domid: 7,
        name: "web1".to_owned(),
    };
    let known = Ledger::at("/nonexistent/ledger").known("host2", "web1", Landing::Classic, |_| {});
    let suspended = r#"{"type":"suspended","requested_at_ms":1,"stopped_at_ms":2,"dirty_pages":3,
        "requested_monotonic_ns":1000000000,"limit_us":1900,"predicted":{},
        "predicted_downtime_ms":null}"#;
    let paragraph = |pause_ns: u64| {
        let mut observed = ObservedAttempt::default();
        observed.helper_said(serde_json::from_str(suspended).unwrap());
        observed.target_started_ns = Some(1_000_000_000 + pause_ns);
        let report = Report {
            guest: &guest,
            options: &options,
            observed: &observed,
            outcome: Outcome::Moved,
            why: "",
            seen: None,
            monitor_lost: None,
            known: &known,
            why_classic: "",
            why_fewer: "",
            duration_ms: 1,
        };
        report.paragraph()
    };
    assert_eq!(paragraph(1_800_000), "");
    assert_eq!(
        paragraph(2_000_000),
        "The pause was 2 ms, longer than the limit of 1.9 ms: please report this."
    );
}
