//! Checks whether an attempt ended as it must.

use anyhow::{Context, Result, ensure};
use lull_tests::{Guest, Status};

use super::cells::Then;
use crate::aftermath::{no_leaks, runs_whole_since};
use crate::attempt::Ended;
use crate::world::World;

/// The exit codes from here on say that a signal ended the process.
const KILLED_FROM: i32 = 128;

/// Inspects the host after the attempt.
pub fn judge(
    world: &mut World,
    guest: &Guest,
    before: &Status,
    ended: &Ended,
    then: Then,
) -> Result<()> {
    match then {
        Then::Stays(code) | Then::Moves(code) => {
            said(ended, code)?;
            runs_whole_since(guest, before)?;
            let now = guest.domid()?;
            ensure!(
                (now == ended.source) == matches!(then, Then::Stays(_)),
                "the guest was domain {} and is {now}",
                ended.source
            );
            if code == 8 {
                waits(world, ended.source)?;
                let command = format!("xl destroy {}", ended.source);
                world.host.run(&command)?.checked()?;
            }
            if ended.advises("xl destroy") {
                destroy_copy(world, guest)?;
            }
            next_command(world, ended)?;
            no_leaks(&world.host, &[guest])
        }
        Then::Dies => {
            ensure!(ended.code() == 7, "exit code {}", ended.code());
            let result = ended.result()?;
            ensure!(
                result["outcome"] == "source-failed" && result["running_on"] == "nowhere",
                "{result}"
            );
            let last = ended.output.stderr.lines().last().unwrap_or_default();
            ensure!(
                last.starts_with(&format!("{} runs nowhere: ", guest.name())),
                "the last line is {last:?}"
            );
            world.bury_guest()
        }
        Then::Undecided => {
            said(ended, 8)?;
            let source = ended.source;
            waits(world, source)?;
            destroy_copy(world, guest)?;
            let host = &world.host;
            host.run(&format!("lull resume {source}"))?.checked()?;
            runs_whole_since(guest, before)?;
            ensure!(guest.domid()? == source, "another runs");
            no_leaks(host, &[guest])
        }
    }
}

/// Checks lull's own report: there is none if lull was killed.
fn said(ended: &Ended, code: i32) -> Result<()> {
    if code < KILLED_FROM {
        return ended.expect(code).map(drop);
    }
    ensure!(
        ended.code() == code && ended.result().is_err(),
        "it was not killed"
    );
    Ok(())
}

/// Runs the next lull command on the host. It clears away the files of an attempt whose
/// front end was killed; no process of that attempt is left to do it.
fn next_command(world: &World, ended: &Ended) -> Result<()> {
    if ended.code() >= KILLED_FROM {
        world.host.run("lull status")?;
    }
    Ok(())
}

/// Destroys the copy as an operator would at the destination, which is the same host here.
/// A receiver whose connection broke may leave a copy that was never started.
fn destroy_copy(world: &World, guest: &Guest) -> Result<()> {
    let copy = format!("{}--incoming", guest.name());
    if let Some(copy) = world.host.domain(&copy)? {
        ensure!(!copy.state.is_alive(), "two run: {copy:?}");
        // The copy may be about to disappear by itself.
        world.host.run(&format!("xl destroy {}", copy.id))?;
    }
    Ok(())
}

/// Checks that the guest's own domain at the source still exists and does not run.
fn waits(world: &World, source: u32) -> Result<()> {
    let domains = world.host.domains()?;
    let copy = domains.iter().find(|domain| domain.id == source);
    let copy = copy.context("the source's copy is gone")?;
    ensure!(!copy.state.is_alive(), "two run: {domains:?}");
    Ok(())
}
