//! Tests on a real Xen host, which the first of them boots.
//!
//! A test ends as a success, a *failure* (the product did wrong) or an *error*
//! (the rig did); the message says which.
//!
//! [`sites`] are the hosts, and [`world`] is what scenarios share on one of them, including
//! one guest for as long as it stays healthy. [`pace`] measures how fast the host is.
//! [`attempt`] starts `lull migrate` and follows it; [`aftermath`] is what must hold after
//! every attempt. [`choice`] leaves out what there is no time for.
//!
//! The scenarios follow. [`rig`] tests the rig itself. [`moves`], [`fast`], [`disks`],
//! [`rehearsal`], [`refusals`] and [`limits`] test the product at its usual work. [`table`]
//! injects faults between any two steps of a migration, and [`deaths`] makes the stub
//! crash. [`steering`] observes and steers attempts, [`together`] moves two guests at once,
//! and in [`virsh`] libvirt moves one. [`two_hosts`] tests what only two hosts show, and
//! [`noise`] tests the estimate where dom0 has other work. [`newer`] holds what is tried on
//! Xen 4.20 too. [`guests`] are guests as they occur in practice, [`hvm`] those of that type, and [`habits`] are
//! actions of operators and hosts during a move. [`explaining`] tests the output that
//! remains of attempts; [`bad_input`] and [`stock`] test the rest. Last, [`predictions`]
//! evaluates all moves of the run.

mod aftermath;
mod announced;
mod attempt;
mod bad_input;
mod choice;
mod connections;
mod deaths;
mod disks;
mod doctor;
mod explaining;
mod fast;
mod guests;
mod habits;
mod hvm;
mod interface;
mod limits;
mod moves;
mod newer;
mod noise;
mod pace;
mod plain_xl;
mod predictions;
mod refusals;
mod rehearsal;
mod rig;
mod sites;
mod steering;
mod stock;
mod table;
mod together;
mod two_hosts;
mod virsh;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use choice::Choice;
use world::{Scenario, rig_scenario, scenario};

/// The number of scenarios of each kind that a run tries beside the essential ones. All
/// together take some 18 minutes on a quiet machine.
const USUAL_DRAWN: usize = 8;
const SELDOM_DRAWN: usize = 1;
const GUESTS_DRAWN: usize = 1;
const HVM_DRAWN: usize = 1;
const CELLS_DRAWN: usize = 7;
const PAIR_DRAWN: usize = 2;
const NEWER_DRAWN: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let choice = match Choice::made() {
        Ok(choice) => choice,
        Err(error) => {
            eprintln!("Error (rig): {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut others = choice.draw("scenarios", vec![usual()], USUAL_DRAWN);
    others.extend(choice.draw("seldom", vec![seldom()], SELDOM_DRAWN));
    others.extend(choice.draw("guests", vec![guests::scenarios()], GUESTS_DRAWN));
    others.extend(choice.draw("hvm", vec![hvm::scenarios()], HVM_DRAWN));
    others.extend(choice.draw("cells", table::others(), CELLS_DRAWN));
    let pair = vec![two_hosts::scenarios(), announced::scenarios()];
    others.extend(choice.draw("two-hosts", pair, PAIR_DRAWN));
    others.extend(choice.draw("newer", vec![newer::scenarios()], NEWER_DRAWN));
    others.extend(choice.draw("long", vec![hvm::long(), noise::scenarios()], 0));
    others.extend(choice.draw("unseen", vec![guests::unseen()], 0));
    let mut trials = Choice::in_order(essential(), others);
    trials.push(Trial::test("faults-in-all", table::print));
    trials.push(Trial::test("pauses-in-all", predictions::print));

    let runs = !arguments.list;
    if runs && !arguments.include_ignored && !arguments.ignored {
        choice.print(&trials);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The hosts are ended here rather than with the process, so that their folders are
    // removed too.
    world::end();
    if runs && !choice::tell_left_out() {
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Returns the scenarios that come first: a host boots, guests move intact and within their
/// limits, and they survive faults at the worst moments.
fn essential() -> Vec<Scenario> {
    let mut scenarios = vec![
        rig_scenario("host-boots-and-xl-lists-dom0", 2, rig::host_boots),
        rig_scenario("link-can-be-slowed", 4, rig::link_is_shaped),
        rig_scenario(
            "guest-answers-and-takes-a-load",
            12,
            rig::guest_takes_a_load,
        ),
        scenario(
            "busy-guest-moves-within-its-limit",
            35,
            moves::within_a_limit,
        ),
        scenario("fast-landing-within-its-limit", 25, fast::within_a_limit),
        scenario("source-and-destination-agree", 33, moves::frames_agree),
        scenario("fast-landing-agrees", 33, fast::frames_agree),
        scenario("limit-below-fixed-costs", 5, refusals::fixed_costs),
    ];
    scenarios.extend(table::essential());
    scenarios
}

/// Returns the scenarios of the product's daily work; a part of them is drawn.
fn usual() -> Vec<Scenario> {
    vec![
        scenario("no-fast-landing-without-lull", 30, fast::falls_back),
        scenario("fast-landing-as-before", 25, fast::as_before),
        scenario("fast-landing-urgent", 25, fast::urgent),
        scenario(
            "fast-landing-first-pass-in-the-stream",
            35,
            fast::first_pass_in_the_stream,
        ),
        scenario(
            "fast-landing-few-bytes-for-zero-pages",
            45,
            fast::few_bytes_for_zero_pages,
        ),
        scenario("disk-used-through-a-move", 45, disks::listed),
        scenario("guest-moves-without-limits", 25, moves::without_limits),
        scenario("explained-afterwards", 25, explaining::afterwards),
        scenario("predicted", 20, explaining::predicted),
        scenario("ledger-cannot-stop-a-move", 25, moves::with_a_broken_ledger),
        scenario("rehearsal-there", 20, rehearsal::there),
        scenario("hopeless-then-moved", 40, refusals::hopeless_then_moved),
        scenario("burst-before-the-stop", 30, refusals::burst_before_the_stop),
        scenario("refused-pause-tried-again", 60, refusals::tried_again),
        scenario("timeout-while-copying", 20, refusals::timeout),
        scenario(
            "looked-at-and-cancelled",
            25,
            steering::looked_at_and_cancelled,
        ),
        scenario("steered-while-it-runs", 30, steering::steered),
        scenario("two-at-once", 50, together::two_at_once),
        scenario("two-behind-xls-lock", 90, together::two_behind_xls_lock),
        scenario("limits-kept-by-plain-xl", 50, limits::kept_by_plain_xl),
        scenario("plain-xl-lands-fast", 60, plain_xl::lands_fast),
        scenario(
            "interface-attached-by-lull",
            50,
            interface::attached_by_lull,
        ),
        scenario("limits-kept-by-virsh", 90, virsh::keeps_limits),
        scenario("stub-astray", 15, deaths::stub_astray),
        scenario("stub-stands-still", 30, deaths::stub_stands_still),
        scenario("wrong-words", 10, bad_input::wrong_words),
        scenario(
            "doctor-finds-what-is-wrong",
            15,
            doctor::finds_what_is_wrong,
        ),
        scenario("unreachable-host", 10, bad_input::unreachable_host),
        scenario("swallowing-host", 45, bad_input::swallowing_host),
        scenario("no-room-for-the-stub", 15, bad_input::no_room_for_the_stub),
        scenario("destination-without-memory", 20, bad_input::no_memory),
        scenario("pv-guest", 20, bad_input::pv_guest),
        scenario("moved-twice-at-once", 30, habits::second_move),
        scenario("resumed-by-another", 30, habits::resumed_by_another),
        scenario("front-end-stands-still", 70, habits::front_end_stands_still),
        scenario("dirty-log-reset", 20, habits::log_reset),
        scenario("balloon-in-motion", 45, habits::balloon_in_motion),
        scenario("host-goes-down", 25, habits::host_goes_down),
        scenario("shell-greets", 25, habits::greeting),
        scenario("cannot-suspend", 10, habits::cannot_suspend),
        scenario(
            "cancelled-while-it-stops",
            40,
            habits::cancelled_while_it_stops,
        ),
        scenario("slow-to-stop", 60, habits::slow_to_stop),
    ]
}

/// Returns scenarios that take long or rarely fail on their own; a part of them is drawn.
fn seldom() -> Vec<Scenario> {
    vec![
        scenario("suspended-by-another", 70, habits::suspended_by_another),
        scenario("fast-landing-while-it-grows", 30, fast::growing),
        scenario("fast-landing-while-it-shrinks", 30, fast::shrinking),
        scenario("disk-vouched-for", 30, disks::vouched_for),
        scenario(
            "moves-without-the-terminal",
            90,
            moves::without_the_terminal,
        ),
        scenario("fast-landing-ten-times", 150, fast::ten_times),
        scenario("fast-landing-loses-lull-land", 60, fast::lull_land_lost),
        scenario("fast-landing-hears-nothing", 140, fast::lull_land_silent),
        scenario("fast-landing-of-two-processors", 30, fast::two_processors),
        scenario("rehearsal-there-classic", 25, rehearsal::there_classic),
        scenario("rehearsal-killed", 30, rehearsal::killed),
        scenario(
            "rehearsal-killed-then-before-a-move",
            40,
            rehearsal::killed_then_before_a_move,
        ),
        scenario(
            "cancelled-while-landing",
            25,
            steering::cancelled_while_landing,
        ),
        scenario("steered-to-a-lower-limit", 30, steering::limit_lowered),
        scenario("steered-under-a-cap", 40, steering::capped),
        // libxl waits a minute for the guest.
        scenario("guest-ignores-the-suspend", 80, bad_input::deaf_guest),
        scenario(
            "guest-ignores-the-suspend-fast",
            60,
            bad_input::deaf_guest_fast,
        ),
        scenario("stub-burns", 50, deaths::stub_burns),
        scenario("clock-jumps-meanwhile", 30, moves::while_the_clock_jumps),
        scenario("stock-save-and-restore", 25, stock::save_and_restore),
        rig_scenario("stock-migration-keeps-every-page", 30, stock::migration),
        scenario("pauses-with-history", 150, predictions::with_history),
        scenario("larger-limit-is-no-longer-pause", 70, noise::larger_limits),
    ]
}
