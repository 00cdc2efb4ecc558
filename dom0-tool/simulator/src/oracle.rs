//! Whether a decision that knows the future would have moved the guest.
//!
//! The oracle runs the same rounds in the same world, and at the end of each round knows
//! the pause that would follow if it stopped the guest then. It needs no bounds and keeps
//! no reserve. It does not give up before the timeout, or, without a timeout, before
//! [`ROUNDS`] rounds. It cannot stop a guest in the middle of a round, or leave the link
//! idle to wait for a quieter moment.

use crate::link::Grain;
use crate::random::at_place;
use crate::scenario::{Mishap, Scenario};
use crate::world::World;

/// The number of rounds that the oracle tries: as many as the machine ever does.
pub const ROUNDS: u32 = lull_core::policy::WithinLimit::MAX_ROUNDS;

/// What would have become of the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foresight {
    /// If stopped after this round (0 is the full pass), the guest would have had a pause
    /// of this length, which is within the limit.
    WouldHaveMoved {
        /// The number of the round.
        round: u32,
        /// The length of the pause in µs.
        pause: u64,
    },
    /// No decision could have moved the guest within the limit.
    NoWay,
}

/// Looks for a round after which the guest could have been moved.
pub fn foresee(scenario: &Scenario) -> Foresight {
    if matches!(scenario.mishap, Mishap::NeverStops) {
        return Foresight::NoWay;
    }
    let timeout = scenario
        .limits
        .timeout
        .map_or(u64::MAX, |timeout| timeout.micros().0);
    let mut world = World::new(scenario);
    for round in 0..ROUNDS {
        send(&mut world, round);
        if world.now().saturating_add(scenario.actual.suspend) > timeout {
            return Foresight::NoWay;
        }
        let pause = pause_now(world.clone());
        if pause <= scenario.limit() {
            return Foresight::WouldHaveMoved { round, pause };
        }
    }
    Foresight::NoWay
}

/// The number of alternative courses of the same link, which tell luck from skill.
const COURSES: u64 = 100;

/// Whether a rule that cannot see the future could have moved the guest at the stated risk.
/// This holds if there is one round, the same in all of [`COURSES`] other courses of the
/// same link, after which the pause is within the limit in all but the risk's share of
/// them.
pub fn could_be_known(scenario: &Scenario) -> bool {
    let timeout = scenario
        .limits
        .timeout
        .map_or(u64::MAX, |timeout| timeout.micros().0);
    let may_fail = usize::from(scenario.risk.get()) * COURSES as usize / 1_000;
    let mut fits = [0_usize; ROUNDS as usize];
    for course in 0..COURSES {
        let mut other = scenario.clone();
        other.link.seed = at_place(scenario.link.seed, course);
        let mut world = World::new(&other);
        for (fits, round) in fits.iter_mut().zip(0..) {
            send(&mut world, round);
            if world.now().saturating_add(other.actual.suspend) > timeout {
                break;
            }
            *fits += usize::from(pause_now(world.clone()) <= other.limit());
        }
    }
    fits.iter().any(|fits| fits + may_fail >= COURSES as usize)
}

/// The shortest possible pause after any of the first `rounds` rounds, in µs. `None` if no
/// such pause is within the limit.
pub fn best_of(scenario: &Scenario, rounds: u32) -> Option<u64> {
    let mut world = World::new(scenario);
    let mut best = None;
    for round in 0..rounds {
        send(&mut world, round);
        let pause = Some(pause_now(world.clone())).filter(|pause| *pause < u64::MAX);
        best = best.min(pause).or(best).or(pause);
    }
    best
}

/// Sends a round, after which the guest may be stopped. If it must be handed over first,
/// that begins after the full pass and goes on beside a round; what is dirtied until it is
/// over makes another.
fn send(world: &mut World<'_>, round: u32) {
    if round > 0 {
        let pages = world.take_bitmap();
        return world.send_round(pages);
    }
    world.send_round(world.scenario().guest.pages);
    if let Some(takes) = world.scenario().actual.handover {
        let over = world.now().saturating_add(takes);
        for _ in 0..2 {
            let pages = world.take_bitmap();
            world.send_round(pages);
            world.pass_until(over);
        }
    }
}

/// The pause if the guest were asked to stop now; [`u64::MAX`] if it is far beyond the
/// limit.
fn pause_now(mut world: World<'_>) -> u64 {
    let actual = world.scenario().actual;
    let requested = world.now();
    world.request();
    world.pass(actual.suspend);
    world.stop();
    let dirty = world.take_bitmap();
    let scenario = world.scenario();
    if scenario.link.least_time(dirty) > scenario.limit() {
        return u64::MAX;
    }
    if dirty > 0
        && let Some(answered) = world.round_trip()
    {
        world.pass_until(answered);
    }
    let written = world.write(dirty, Grain::Fine);
    world.pass_until(written);
    world.pass(actual.cpu_state);
    let landed = world
        .flush()
        .saturating_add(actual.until_ready)
        .saturating_add(actual.after_ready);
    landed - requested
}
