//! Plain `xl migrate` after `lull enable xl` is a move by lull, with xl's exit codes.

use std::time::Duration;

use anyhow::{Result, ensure};
use lull_tests::ssh::quote;
use lull_tests::{Guest, Host, Load, Output};

use crate::aftermath;
use crate::attempt::LEDGER;
use crate::world::World;

/// The longest time that a migration may take; none in here takes that long.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Moves a small guest so.
pub fn lands_fast(world: &mut World) -> Result<()> {
    let guest = world.small_guest()?;
    moves(&world.host, &guest)
}

/// The guest lands fast, stays because of its limit, and is left to Xen's own xl if lull
/// cannot do what the words ask for.
pub fn moves(host: &Host, guest: &Guest) -> Result<()> {
    guest.set_load(Load::QUIET)?;
    host.run(&format!("rm -f {LEDGER}; lull enable xl"))?
        .checked()?;
    let done = move_about(host, guest);
    // This runs whatever the result was, so that later scenarios have Xen's own xl.
    let undone = host.run("lull disable xl; rm -f /etc/lull.toml");
    done?;
    undone?.checked().map(drop)
}

fn move_about(host: &Host, guest: &Guest) -> Result<()> {
    let name = quote(guest.name());
    let before = guest.domid()?;
    let moved = host.run_for(&format!("xl migrate --live {name} localhost"), TIMEOUT)?;
    eprintln!("{}", moved.stderr);
    ensure!(
        moved.status == 0 && says(&moved, "landing   fast"),
        "it did not land fast: {moved:?}"
    );
    ensure!(guest.domid()? != before, "it was not moved");
    aftermath::check_whole(host, guest)?;

    host.run("lull limits set --default --max-suspend-time 1ms")?
        .checked()?;
    let before = guest.domid()?;
    let refused = host.run_for(&format!("xl migrate {name} localhost"), TIMEOUT)?;
    ensure!(
        refused.status == 1 && says(&refused, "Refused to move"),
        "it was not refused: {refused:?}"
    );
    ensure!(guest.domid()? == before, "it was moved beyond its limit");
    aftermath::check_whole(host, guest)?;

    // Stock xl abbreviates its options, and lull does not know this one in full either.
    host.run("rm /etc/lull.toml")?.checked()?;
    let stock = format!("xl migrate --liv -s '' {name} 'xl migrate-receive'");
    let moved = host.run_for(&stock, TIMEOUT)?;
    ensure!(
        moved.status == 0 && says(&moved, "Migration successful."),
        "not by xl itself: {moved:?}"
    );
    ensure!(guest.domid()? != before, "it was not moved by xl itself");
    aftermath::check_whole(host, guest)
}

/// xl prints nothing on standard output.
fn says(output: &Output, words: &str) -> bool {
    output.stderr.contains(words) && output.stdout.is_empty()
}
