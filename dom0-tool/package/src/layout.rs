//! The place of each file in the package.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::source::Source;
use crate::{folder, put, run, workspace};

/// Fills `root` with the files that are installed.
pub fn fill(root: &Path, lull: &Path, source: &Source) -> Result<()> {
    let share = root.join("usr/share");
    // The binary is put beside `xl`, because only root has a use for it.
    put(&root.join("usr/sbin/lull"), small(lull)?, 0o755)?;
    // A host that crashes may leave a FIFO in the place of the state of a guest's QEMU, at which
    // a stock receiver would wait for ever.
    let swept = root.join("usr/lib/tmpfiles.d/lull.conf");
    put(&swept, "r! /var/lib/xen/qemu-resume.*\n", 0o644)?;
    manual(lull, &share.join("man/man8"))?;
    completions(lull, &share)?;
    let doc = share.join("doc/lull");
    for paper in [
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
    ] {
        put(&doc.join(paper), of_workspace(paper)?, 0o644)?;
    }
    book(&doc.join("docs"))?;
    put(&doc.join("copyright"), copyright()?, 0o644)?;
    put(&doc.join("changelog.gz"), changelog(source)?, 0o644)?;
    // The package contains an example and no /etc/lull.toml. Without that file nothing is
    // limited, and its content is the administrator's.
    let example = include_bytes!("../debian/lull.toml");
    put(&doc.join("examples/lull.toml"), example, 0o644)
}

/// Installs the pages of the book, as they are read in a terminal.
fn book(into: &Path) -> Result<()> {
    folder(into)?;
    for page in fs::read_dir(workspace().join("docs"))? {
        let page = page?.path();
        if let Some(name) = page
            .file_name()
            .filter(|_| page.extension() == Some("md".as_ref()))
        {
            put(&into.join(name), fs::read(&page)?, 0o644)?;
        }
    }
    Ok(())
}

fn of_workspace(name: &str) -> Result<Vec<u8>> {
    fs::read(workspace().join(name)).context(name.to_owned())
}

/// The most bytes that the binary may have. A dom0 may have its root in memory.
const MAX_BYTES: usize = 6_000_000;

/// Returns the binary. The profile in Cargo.toml strips it and makes it small.
///
/// # Errors
/// When it is too large.
fn small(lull: &Path) -> Result<Vec<u8>> {
    let binary = fs::read(lull).with_context(|| lull.display().to_string())?;
    ensure!(
        binary.len() <= MAX_BYTES,
        "{} has {} bytes, more than {MAX_BYTES}: see [profile.release] in Cargo.toml",
        lull.display(),
        binary.len()
    );
    Ok(binary)
}

fn manual(lull: &Path, into: &Path) -> Result<()> {
    let pages = generated(lull, "man")?;
    folder(into)?;
    for page in fs::read_dir(&pages)? {
        let page = page?;
        let name = page.file_name().into_string().unwrap_or_default();
        put(
            &into.join(format!("{name}.gz")),
            gzipped(&page.path())?,
            0o644,
        )?;
    }
    Ok(())
}

fn completions(lull: &Path, share: &Path) -> Result<()> {
    let made = generated(lull, "completions")?;
    for (from, to) in [
        ("lull.bash", "bash-completion/completions/lull"),
        ("_lull", "zsh/vendor-completions/_lull"),
        ("lull.fish", "fish/vendor_completions.d/lull.fish"),
    ] {
        put(
            &share.join(to),
            fs::read(made.path().join(from)).context(from)?,
            0o644,
        )?;
    }
    Ok(())
}

/// Runs `lull generate`, and returns the folder with its output.
fn generated(lull: &Path, what: &str) -> Result<tempfile::TempDir> {
    let made = tempfile::tempdir()?;
    run(Command::new(lull).args(["generate", what]).arg(made.path()))?;
    Ok(made)
}

/// Compresses a file without name and time, which would differ between builds.
fn gzipped(file: &Path) -> Result<Vec<u8>> {
    run(Command::new("gzip").args(["-9nc"]).arg(file))
}

fn changelog(source: &Source) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("changelog");
    let (version, maintainer) = (&source.version, &source.maintainer);
    let date = source.date("--rfc-email")?;
    let text = format!(
        "lull ({version}) unstable; urgency=medium\n\n  \
         * The changes are listed in CHANGELOG.md.\n\n \
         -- {maintainer}  {date}\n"
    );
    fs::write(&file, text)?;
    gzipped(&file)
}

/// Returns lull's own licences, and those of the crates that are linked into it.
fn copyright() -> Result<String> {
    let mit = String::from_utf8(of_workspace("LICENSE-MIT")?)?;
    let mut text = String::from(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: lull\n\n\
         Files: *\nCopyright: the authors of lull\nLicense: MIT or Apache-2.0\n\n\
         License: Apache-2.0\n The text is in /usr/share/common-licenses/Apache-2.0.\n\n\
         License: MIT\n",
    );
    for line in mit.lines() {
        text.push(' ');
        text.push_str(if line.is_empty() { "." } else { line });
        text.push('\n');
    }
    text.push_str("\nComment: These crates are linked into lull, under their own licences:\n");
    for crate_and_licence in linked()? {
        text.push_str(&format!(" {crate_and_licence}\n"));
    }
    Ok(text)
}

/// Returns lines such as `anyhow v1.0.1: MIT OR Apache-2.0`, each crate once.
fn linked() -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .current_dir(workspace())
        .args([
            "tree",
            "--locked",
            "--package",
            "lull",
            "--edges",
            "normal,no-proc-macro",
        ])
        .args(["--prefix", "none", "--format", "{p}: {l}"])
        .output()?;
    let text = String::from_utf8(tree.stdout)?;
    let foreign = text.lines().filter(|line| !line.contains(" (/"));
    let mut crates: Vec<String> = foreign
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect();
    crates.sort();
    crates.dedup();
    anyhow::ensure!(!crates.is_empty(), "cargo tree names nothing");
    Ok(crates)
}

#[cfg(test)]
mod tests {
    use spdx::Expression;
    use toml_edit::{DocumentMut, Item};

    use super::*;

    #[test]
    fn a_binary_of_more_than_six_megabytes_is_not_packed() {
        let folder = tempfile::tempdir().unwrap();
        let lull = folder.path().join("lull");
        let sized = |bytes: usize| {
            fs::write(&lull, vec![0; bytes]).unwrap();
            small(&lull)
        };
        assert_eq!(sized(6_000_000).unwrap().len(), 6_000_000);
        let why = sized(6_000_001).unwrap_err().to_string();
        assert!(why.contains("6000001 bytes"), "{why}");
    }

    /// The crates that are linked into lull have licences that `deny.toml` allows.
    #[test]
    fn licences() {
        let deny = String::from_utf8(of_workspace("deny.toml").unwrap()).unwrap();
        let deny: DocumentMut = deny.parse().unwrap();
        let names = |list: &Item| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let allowed = names(&deny["licenses"]["allow"]);
        let exceptions = deny["licenses"]["exceptions"].as_array_of_tables().unwrap();
        let excepted = |of: &str| {
            let tables = exceptions.iter();
            let mut tables = tables.filter(|table| table["crate"].as_str() == Some(of));
            tables
                .next()
                .map_or(Vec::new(), |table| names(&table["allow"]))
        };
        assert!(!allowed.iter().any(|name| name.contains("GPL")));
        let linked = linked().unwrap();
        assert!(linked.len() > 50);
        for line in linked {
            let (name, licence) = line.rsplit_once(": ").unwrap();
            let also = excepted(name.split(' ').next().unwrap());
            // Old manifests separate licences with a slash.
            let licence = Expression::parse(&licence.replace('/', " OR ")).unwrap();
            assert!(
                licence.evaluate(|one| {
                    let one = one.to_string();
                    allowed.contains(&one) || also.contains(&one)
                }),
                "{line} is not allowed"
            );
        }
    }
}
