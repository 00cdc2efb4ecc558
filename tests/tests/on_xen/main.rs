//! Tests on a real Xen host, which the first of them boots.
//!
//! A test ends as a success, a *failure* (the product did wrong) or an *error*
//! (the rig did); the message says which.
//!
//! [`sites`] are the hosts, and [`world`] is what scenarios share on one of them:
//! as long as it stays healthy, one guest. [`pace`] is how fast it is. [`attempt`] starts `lull migrate` and follows it; [`aftermath`] is
//! what must hold after every one. Then the scenarios: [`rig`] tests the rig
//! itself, [`moves`], [`fast`], [`disks`], [`rehearsal`], [`refusals`] and [`limits`] the
//! product at its work, [`table`] what happens when something goes wrong between any two of its
//! steps, [`deaths`] when its stub goes astray, [`steering`] when an operator
//! looks and has wishes, [`together`] when two guests move at once, [`virsh`] when
//! libvirt moves one, [`two_hosts`] what only two hosts show, [`explaining`] what is left to read, [`bad_input`] and
//! [`stock`] the rest; last, [`predictions`] of all that moved.

mod aftermath;
mod attempt;
mod bad_input;
mod deaths;
mod disks;
mod doctor;
mod explaining;
mod fast;
mod interface;
mod limits;
mod moves;
mod pace;
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

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};

use sites::Site;
use world::{World, everything, rig_scenario, scenario, scenario_at};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let mut trials = vec![
        rig_scenario("host-boots-and-xl-lists-dom0", rig::host_boots),
        rig_scenario("link-can-be-slowed", rig::link_is_shaped),
        rig_scenario("guest-answers-and-takes-a-load", rig::guest_takes_a_load),
        scenario("busy-guest-moves-within-its-limit", moves::within_a_limit),
        scenario("fast-landing-within-its-limit", fast::within_a_limit),
        scenario("source-and-destination-agree", moves::frames_agree),
        scenario("fast-landing-agrees", fast::frames_agree),
        scenario("no-fast-landing-without-lull", fast::falls_back),
        scenario("disk-used-through-a-move", disks::listed),
        scenario("guest-moves-without-limits", moves::without_limits),
        scenario("explained-afterwards", explaining::afterwards),
        scenario("predicted", explaining::predicted),
        scenario("ledger-cannot-stop-a-move", moves::with_a_broken_ledger),
        scenario("rehearsal-there-and-back", rehearsal::there_and_back),
        scenario("limit-below-fixed-costs", refusals::fixed_costs),
        scenario("hopeless-then-moved", refusals::hopeless_then_moved),
        scenario("burst-before-the-stop", refusals::burst_before_the_stop),
        scenario("timeout-while-copying", refusals::timeout),
        scenario("looked-at-and-cancelled", steering::looked_at_and_cancelled),
        scenario("steered-while-it-runs", steering::steered),
        scenario("two-at-once", together::two_at_once),
        scenario("limits-kept-by-plain-xl", limits::kept_by_plain_xl),
        scenario("interface-attached-by-lull", interface::attached_by_lull),
        scenario("limits-kept-by-virsh", virsh::keeps_limits),
        scenario("stub-astray", deaths::stub_astray),
        scenario("stub-stands-still", deaths::stub_stands_still),
        scenario("wrong-words", bad_input::wrong_words),
        scenario("doctor-finds-what-is-wrong", doctor::finds_what_is_wrong),
        scenario("unreachable-host", bad_input::unreachable_host),
        scenario("destination-without-memory", bad_input::no_memory),
        scenario("pv-guest", bad_input::pv_guest),
    ];
    if everything() {
        trials.extend([
            scenario("fast-landing-while-it-grows", fast::growing),
            scenario("fast-landing-while-it-shrinks", fast::shrinking),
            scenario("disk-vouched-for", disks::vouched_for),
            scenario("fast-landing-ten-times", fast::ten_times),
            scenario("fast-landing-of-two-processors", fast::two_processors),
            scenario(
                "rehearsal-there-classic-and-back",
                rehearsal::there_classic_and_back,
            ),
            scenario("rehearsal-killed", rehearsal::killed),
            scenario(
                "rehearsal-killed-then-before-a-move",
                rehearsal::killed_then_before_a_move,
            ),
            scenario("cancelled-while-landing", steering::cancelled_while_landing),
            scenario("steered-to-a-lower-limit", steering::limit_lowered),
            scenario("steered-under-a-cap", steering::capped),
            // libxl waits a minute for it.
            scenario("guest-ignores-the-suspend", bad_input::deaf_guest),
            scenario("clock-jumps-meanwhile", moves::while_the_clock_jumps),
            scenario("stock-save-and-restore", stock::save_and_restore),
            rig_scenario("stock-migration-keeps-every-page", stock::migration),
        ]);
    }
    trials.extend(table::trials());
    trials.extend(two_hosts::trials());
    let newer = |name: &str, run: fn(&mut World) -> Result<()>| {
        scenario_at(Site::Newer, format!("xen-4.20-{name}"), run)
    };
    trials.extend([
        newer("fast-landing-agrees", fast::frames_agree),
        newer("fast-landing-within-its-limit", fast::within_a_limit),
        newer("busy-guest-moves-within-its-limit", moves::within_a_limit),
        newer("limit-below-fixed-costs", refusals::fixed_costs),
        newer("burst-before-the-stop", refusals::burst_before_the_stop),
        newer("looked-at-and-cancelled", steering::looked_at_and_cancelled),
        newer("stub-astray", deaths::stub_astray),
    ]);
    if everything() {
        trials.push(scenario("pauses-with-history", predictions::with_history));
    }
    trials.push(Trial::test("pauses-in-all", predictions::tell));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The hosts die here rather than with the process: their folders go too.
    world::end();
    conclusion.exit_code()
}
