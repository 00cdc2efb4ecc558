//! Scenarios for Xen 4.20 as Debian 13 installs it: one host is source and destination.
//! Moves there from Xen 4.17 are in [`crate::two_hosts`], and those of HVM guests in
//! [`crate::hvm`].

use anyhow::Result;

use crate::sites::Site;
use crate::table::{self, Fault, Phase};
use crate::world::{Scenario, World, scenario_at};
use crate::{fast, moves, refusals, steering};

/// Returns scenarios with both landings, the gates, an operator who cancels, and parts that
/// die.
pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = vec![
        newer("fast-landing-agrees", 60, fast::frames_agree),
        newer("fast-landing-within-its-limit", 80, fast::within_a_limit),
        newer("burst-before-the-stop", 60, refusals::burst_before_the_stop),
    ];
    scenarios.extend(table::on_newer(&[(Phase::Preparing, Fault::Helper)]));
    scenarios.extend([
        newer(
            "busy-guest-moves-within-its-limit",
            90,
            moves::within_a_limit,
        ),
        newer("limit-below-fixed-costs", 10, refusals::fixed_costs),
        newer(
            "looked-at-and-cancelled",
            40,
            steering::looked_at_and_cancelled,
        ),
    ]);
    scenarios.extend(table::on_newer(table::NEWER));
    scenarios
}

/// Returns a scenario on that host, which is part of its name.
pub fn newer(name: &str, seconds: u32, run: fn(&mut World) -> Result<()>) -> Scenario {
    scenario_at(Site::Newer, format!("xen-4.20-{name}"), seconds, run)
}
