//! Fast landings over several connections, on a link that carries each TCP connection at a
//! rate of its own.

use anyhow::{Context, Result, ensure};
use lull_tests::timeline::Timeline;
use serde_json::Value;

use crate::attempt::{Ended, Plan};
use crate::sites::Pair;
use crate::two_hosts::{Before, arrived, guest};

/// Bytes a second for each connection: far less than the emulated hosts carry over four.
const RATE: u64 = 1_000_000;

/// The rate of the first pass over four connections, at least, as a multiple of that over
/// one. It is less than four because each batch is sent in turn, and a connection that
/// starts a batch has to fill its buffers again. Here 2.4 was seen, and a busy machine makes
/// it less.
const FASTER: f64 = 1.5;

/// Moves a guest over one connection, and once more over four. Four of them carry the first
/// pass faster.
pub fn four_are_faster(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let mut rates = Vec::new();
    for connections in [1, 4] {
        let before = Before::of(&guest)?;
        let plan = Plan::called(&there)
            .landing("fast")
            .connections(connections);
        pair.link.shape_flows(Some(RATE));
        let ended = plan.run(&here, &guest);
        pair.link.shape_flows(None);
        let ended = ended?;
        let result = ended.expect(0)?;
        ensure!(
            result["connections"] == connections && result["connections_reason"] == "",
            "{}",
            ended.in_short()
        );
        rates.push(first_pass(&ended)?);
        let moved = arrived(&guest, &before, &here, &there)?;
        // Back, for the next time.
        let back = Plan::called(&here).landing("fast").connections(1);
        let before = Before::of(&moved)?;
        back.run(&there, &moved)?.expect(0)?;
        arrived(&moved, &before, &there, &here)?;
    }
    let ratio = rates[1] / rates[0];
    Timeline::start().phase(format_args!(
        "first pass: {:.0} KB/s over one connection, {:.0} KB/s over four, ratio {ratio:.2}",
        rates[0] / 1e3,
        rates[1] / 1e3,
    ));
    ensure!(
        ratio >= FASTER,
        "four connections are {ratio:.2} times as fast as one"
    );
    Ok(())
}

/// Bytes of pages a second in round 0.
fn first_pass(ended: &Ended) -> Result<f64> {
    let round = ended.rounds().next().context("no round")?;
    let number = |key: &str| {
        round[key]
            .as_u64()
            .with_context(|| format!("{key}: {round}"))
    };
    let bytes = number("pages_sent")? * 4096;
    Ok(bytes as f64 * 1e3 / number("duration_ms")?.max(1) as f64)
}

/// A `lull land --join` is killed in the first pass. The other connections carry the guest,
/// which arrives whole.
pub fn one_dies(pair: &mut Pair<'_>) -> Result<()> {
    let guest = guest(pair)?;
    let (here, there) = (pair.here.host.clone(), pair.there.host.clone());
    let before = Before::of(&guest)?;
    pair.link.shape_flows(Some(RATE));
    let plan = Plan::called(&there).landing("fast").connections(4);
    let struck = plan.start(&here, &guest).and_then(|mut running| {
        running.wait_until_copying()?;
        // The name of the command alone: a shell that runs it has a longer line.
        there
            .run("kill -KILL $(pgrep -o -f '^lull land --join ')")?
            .checked()?;
        running.wait_for(|event| event["type"] == "connection-lost")?;
        running.finish()
    });
    pair.link.shape_flows(None);
    let ended = struck?;
    let result = ended.expect(0)?;
    let lost = ended.event("connection-lost").map(|event| &event["left"]);
    ensure!(
        lost == Some(&Value::from(3)) && result["connections"] == 3,
        "{}",
        ended.in_short()
    );
    let first = ended.rounds().next().map(|round| &round["round"]);
    ensure!(first == Some(&Value::from(0)), "{}", ended.in_short());
    arrived(&guest, &before, &here, &there).map(drop)
}
