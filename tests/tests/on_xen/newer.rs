//! What is tried on Xen 4.20 as Debian 13 installs it: one host, source and
//! destination at once. Moves there from Xen 4.17 are in [`crate::two_hosts`].

use anyhow::Result;

use crate::sites::Site;
use crate::world::{Scenario, World, scenario_at};
use crate::{fast, moves, refusals, steering, table};

/// Both landings, each gate, an operator who cancels, parts that die.
pub fn scenarios() -> Vec<Scenario> {
    let newer = |name: &str, seconds, run: fn(&mut World) -> Result<()>| {
        scenario_at(Site::Newer, format!("xen-4.20-{name}"), seconds, run)
    };
    let mut scenarios = vec![
        newer("fast-landing-agrees", 60, fast::frames_agree),
        newer("fast-landing-within-its-limit", 60, fast::within_a_limit),
        newer(
            "busy-guest-moves-within-its-limit",
            60,
            moves::within_a_limit,
        ),
        newer("limit-below-fixed-costs", 10, refusals::fixed_costs),
        newer("burst-before-the-stop", 40, refusals::burst_before_the_stop),
        newer(
            "looked-at-and-cancelled",
            40,
            steering::looked_at_and_cancelled,
        ),
    ];
    scenarios.extend(table::on_newer());
    scenarios
}
