//! Compares two domains frame by frame, as the source and the destination of a migration
//! must agree before the destination runs. Neither domain may run during the comparison,
//! and both must be HVM or PVH, because a PV guest's page tables name machine frames.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::memory::Privcmd;

/// The number of frames mapped at a time.
const BATCH: u64 = 512;

/// The number of frames of each kind whose numbers are listed.
const NAMED: usize = 64;

/// The number of differing frames whose bytes are shown.
const SHOWN: usize = 12;

#[derive(Default, Serialize)]
struct Report {
    /// Frames that both domains have.
    compared: u64,
    /// Frames that differ.
    differing: u64,
    /// Frames that only one of the domains has.
    only_first: u64,
    only_second: u64,
    /// The first frames of each kind, by guest frame number, in ranges.
    differing_gfns: Vec<u64>,
    only_first_gfns: Vec<u64>,
    only_second_gfns: Vec<u64>,
    /// Frames of the first domain's grant table, which the domain may have mapped.
    first_grant_frames: u64,
    /// The pages of each domain's own. A page of Xen's can be mapped like them, so a copy
    /// that has a page of its own in such a frame shows only here.
    first_pages: u64,
    second_pages: u64,
    /// The differing bytes of the first frames that differ.
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Difference {
    gfn: u64,
    /// The first byte that differs, the last, and the number of bytes that differ.
    first: usize,
    last: usize,
    count: usize,
    /// Sixteen bytes of each domain, from the first difference on, rounded down.
    one: String,
    other: String,
}

/// Compares the domains and prints the report.
pub fn run(first: u16, second: u16) -> Result<()> {
    ensure!(first != second, "one domain compared with itself");
    let privcmd = Privcmd::open()?;
    let highest = privcmd
        .maximum_gpfn(first)?
        .max(privcmd.maximum_gpfn(second)?);
    let mut report = Report {
        first_grant_frames: privcmd.grant_frames(first)?.into(),
        first_pages: privcmd.pages(first)?,
        second_pages: privcmd.pages(second)?,
        ..Report::default()
    };
    let mut start = 0;
    while start <= highest {
        let end = (start + BATCH).min(highest + 1);
        let gfns: Vec<u64> = (start..end).collect();
        compare_batch(&privcmd, first, second, &gfns, &mut report)?;
        start = end;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn compare_batch(
    privcmd: &Privcmd,
    first: u16,
    second: u16,
    gfns: &[u64],
    report: &mut Report,
) -> Result<()> {
    let ours = privcmd.map(first, gfns)?;
    let theirs = privcmd.map(second, gfns)?;
    for (position, gfn) in gfns.iter().enumerate() {
        match (ours.get(position), theirs.get(position)) {
            (Some(a), Some(b)) => {
                report.compared += 1;
                if a != b {
                    report.differing += 1;
                    name(&mut report.differing_gfns, *gfn);
                    if report.differences.len() < SHOWN {
                        report.differences.extend(difference(*gfn, a, b));
                    }
                }
            }
            (Some(_), None) => {
                report.only_first += 1;
                name(&mut report.only_first_gfns, *gfn);
            }
            (None, Some(_)) => {
                report.only_second += 1;
                name(&mut report.only_second_gfns, *gfn);
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn difference(gfn: u64, one: &[u8], other: &[u8]) -> Option<Difference> {
    let differs = |at: &usize| one[*at] != other[*at];
    let places: Vec<usize> = (0..one.len()).filter(differs).collect();
    let (first, last) = (*places.first()?, *places.last()?);
    let from = first / 16 * 16;
    let hex = |page: &[u8]| {
        let bytes = page[from..].iter().take(16);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    };
    Some(Difference {
        gfn,
        first,
        last,
        count: places.len(),
        one: hex(one),
        other: hex(other),
    })
}

fn name(list: &mut Vec<u64>, gfn: u64) {
    if list.len() < NAMED {
        list.push(gfn);
    }
}
