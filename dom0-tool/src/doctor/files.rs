//! lull's own files: the limits and the records.

use std::io;
use std::path::Path;

use lull_base::fmt::Bytes;
use lull_store::{ledger, limits, runs, trace};
use rustix::fs::{Access, access, statvfs};

use super::ask;
use super::finding::{Finding, Findings};

/// With fewer free bytes than this, records would soon be lost.
const ROOM: u64 = 64 << 20;

/// Checks the limits file and the folders of records.
pub fn check(findings: &mut Findings) {
    findings.add(limits());
    let ledger = Path::new(ledger::FILE).parent().unwrap_or(Path::new("/"));
    let folders = [ledger, Path::new(trace::FOLDER), Path::new(runs::FOLDER)];
    let bad = folders.iter().find_map(|folder| records_in(folder).err());
    findings.add(bad.unwrap_or_else(|| {
        let found = format!("records can be kept in {}", ledger.display());
        Finding::ok("records", found)
    }));
}

fn limits() -> Finding {
    const CURE: &str = "Until it is mended nothing is moved under its limits: `lull limits check`.";
    let file = limits::FILE;
    match ask::within(ask::HERE, || limits::effective("", None)) {
        Some(Ok(_)) if !Path::new(file).exists() => Finding::ok(
            "limits",
            format!("there is no {file}: no limits but those on the command line"),
        ),
        Some(Ok(_)) => Finding::ok("limits", format!("{file} is in order")),
        Some(Err(why)) => Finding::problem("limits", why.to_string(), CURE),
        None => Finding::problem("limits", format!("{file} cannot be read in time"), CURE),
    }
}

/// # Errors
/// Why no record could be kept there. A migration never fails because of it.
fn records_in(folder: &Path) -> Result<(), Finding> {
    const CURE: &str = "Migrations go on without: no history, nothing to explain afterwards.";
    let warning = |found| Finding::warning("records", found, CURE);
    // A missing folder will be created, so check the nearest existing one above it.
    let there = folder.ancestors().find(|folder| folder.exists());
    let there = there.unwrap_or(Path::new("/")).to_owned();
    let asked = there.clone();
    let looked = ask::within(ask::HERE, move || -> io::Result<u64> {
        access(&asked, Access::WRITE_OK | Access::EXEC_OK)?;
        let disk = statvfs(&asked)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    });
    match looked {
        Some(Ok(free)) if there.is_dir() && free >= ROOM => Ok(()),
        Some(Ok(_)) if !there.is_dir() => {
            Err(warning(format!("{} is not a folder", there.display())))
        }
        Some(Ok(free)) => Err(Finding::warning(
            "records",
            format!("only {} are free in {}", Bytes(free), there.display()),
            "Make room: lull keeps at most some 300 MiB of records, by itself.",
        )),
        Some(Err(error)) => Err(warning(format!(
            "{} cannot be written to: {error}",
            there.display()
        ))),
        None => Err(warning(format!("{} does not answer", there.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_to_come_is_judged_by_what_is_there() {
        let root = tempfile::tempdir().unwrap();
        let found = records_in(&root.path().join("not/yet"));
        // The disk that runs the tests may be full.
        assert!(found.is_ok() || found.is_err_and(|why| why.found.contains("are free")));
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let found = records_in(&file.join("traces")).unwrap_err();
        assert!(!found.cure.is_empty(), "{found:?}");
    }
}
