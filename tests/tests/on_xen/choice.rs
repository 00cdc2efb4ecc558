//! Selects what this run tries. What is left out is always reported.
//!
//! Without `LULL_EVERYTHING` a run tries a [sample] of the scenarios that rarely fail on
//! their own, and stops when its [budget](Budget) is used up. The scenarios outside the
//! sample are reported at the start and at the end, those beyond the budget at the end.

use std::fmt::Write;
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::Trial;
use lull_tests::plan::{Budget, Seed, sample};
use lull_tests::static_programs::workspace;

use crate::world::Scenario;

/// If set to any value, a run tries everything, however long that takes.
const EVERYTHING: &str = "LULL_EVERYTHING";

/// The seed that repeats an earlier sample.
const SEED: &str = "LULL_SEED";

/// The number of seconds after which no new scenario is begun.
const BUDGET: &str = "LULL_BUDGET";

const USUAL_BUDGET: u32 = 40 * 60;

/// Scenarios that take longer than this, in seconds on a quiet machine, are not drawn; one
/// of them would take the time of a dozen others.
const LONGEST_DRAWN: u32 = 90;

/// The progress of this run.
static PROGRESS: LazyLock<Mutex<Progress>> = LazyLock::new(|| {
    Mutex::new(Progress {
        start: Instant::now(),
        budget: Budget::unlimited(),
        essential: Vec::new(),
        not_drawn: Vec::new(),
        no_time: Vec::new(),
    })
});

struct Progress {
    start: Instant,
    budget: Budget,
    essential: Vec<String>,
    not_drawn: Vec<String>,
    no_time: Vec<String>,
}

/// Determines which scenarios are tried.
pub enum Choice {
    /// All scenarios are tried.
    Everything,
    /// A sample is drawn with this seed.
    Sample(Seed),
}

impl Choice {
    /// Reads the choice from the environment; the time of the budget starts now.
    ///
    /// # Errors
    /// When a variable cannot be parsed.
    pub fn made() -> Result<Self> {
        let variable = |name| std::env::var(name).ok();
        if std::env::var_os(EVERYTHING).is_some() {
            return Ok(Self::Everything);
        }
        let budget = Budget::new(variable(BUDGET).as_deref(), USUAL_BUDGET)?;
        with_progress(|progress| progress.budget = budget);
        let seed = Seed::new(variable(SEED).as_deref(), commit().as_deref())?;
        Ok(Self::Sample(seed))
    }

    /// Draws `count` scenarios, spread over the groups. The others are shown as ignored.
    pub fn draw(&self, what: &str, groups: Vec<Vec<Scenario>>, count: usize) -> Vec<Scenario> {
        let Self::Sample(seed) = self else {
            return groups.into_iter().flatten().collect();
        };
        let short = |scenario: &&Scenario| scenario.seconds <= LONGEST_DRAWN;
        let sizes: Vec<usize> = groups
            .iter()
            .map(|group| group.iter().filter(short).count())
            .collect();
        let drawn = sample(&sizes, count, &mut seed.draw(what));
        let mut number = 0;
        groups
            .into_iter()
            .flatten()
            .map(|scenario| {
                let is_short = short(&&scenario);
                let is_drawn = is_short && drawn.contains(&number);
                number += usize::from(is_short);
                match is_drawn {
                    true => scenario,
                    false => scenario.left_out(),
                }
            })
            .collect()
    }

    /// Orders the trials: `first`, then `others`. Scenarios on the same hosts stay
    /// together, since each change of hosts is a boot.
    pub fn in_order(first: Vec<Scenario>, others: Vec<Scenario>) -> Vec<Trial> {
        let trials = |scenarios: Vec<Scenario>| scenarios.into_iter().map(|one| one.trial);
        let (shown, tried): (Vec<Trial>, Vec<Trial>) =
            trials(others).partition(Trial::has_ignored_flag);
        trials(first).chain(tried).chain(shown).collect()
    }

    /// Prints the seed and the scenarios that were not drawn.
    pub fn print(&self, trials: &[Trial]) {
        let Self::Sample(seed) = self else {
            return;
        };
        let not_drawn = trials.iter().filter(|trial| trial.has_ignored_flag());
        let not_drawn: Vec<String> = not_drawn.map(|trial| trial.name().to_owned()).collect();
        eprintln!(
            "A sample is tried. The same again: {seed}; all: {EVERYTHING}=1; one by its \
             name: cargo test --test on_xen -- --include-ignored NAME\n{}",
            list("not in the sample", &not_drawn)
        );
        with_progress(|progress| progress.not_drawn = not_drawn);
    }
}

/// Returns why there is no time for a scenario, and records it for the report at the end;
/// `None` if there is time.
pub fn beyond_budget(name: &str, seconds: u32) -> Option<String> {
    with_progress(|progress| {
        let used = progress.start.elapsed().as_secs_f64();
        let why = progress.budget.has_room(used, seconds).err()?.to_string();
        progress.no_time.push(name.to_owned());
        Some(why)
    })
}

/// Records the time that a scenario took.
pub fn done(seconds: u32, taken: f64) {
    with_progress(|progress| progress.budget.done(seconds, taken));
}

/// Prints what was left out and how fast this machine was. Returns whether there was time
/// for all essential scenarios; a run without that proves nothing.
pub fn tell_left_out() -> bool {
    with_progress(|progress| {
        eprintln!(
            "{}{}What was tried took {:.1} times as long as on a quiet machine.",
            list("not in the sample", &progress.not_drawn),
            list("no time for it", &progress.no_time),
            progress.budget.slowness()
        );
        let missing = |name| progress.essential.contains(name);
        let missing: Vec<String> = progress
            .no_time
            .iter()
            .filter(|name| missing(name))
            .cloned()
            .collect();
        eprint!("{}", list("which no run may", &missing));
        missing.is_empty()
    })
}

fn list(why: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let mut lines = format!("left out, {why} ({}):\n", names.len());
    for names in names.chunks(4) {
        let _ = writeln!(lines, "  {}", names.join(", "));
    }
    lines
}

fn with_progress<T>(run: impl FnOnce(&mut Progress) -> T) -> T {
    // A scenario that panicked leaves no half-made change here.
    let progress = PROGRESS.lock();
    run(&mut progress.unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Returns the commit that these tests belong to, if git knows it.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(workspace());
    let output = git.output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(text).ok()?.trim().to_owned())
}
