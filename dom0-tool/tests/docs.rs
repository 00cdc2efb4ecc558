//! Checks the statements of the book and README: commands exist, messages are the
//! program's, and links have a target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::DocumentMut;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns all pages with their names.
fn pages() -> Vec<(String, String)> {
    let root = workspace();
    let mut paths = vec![
        root.join("README.md"),
        root.join("ARCHITECTURE.md"),
        root.join("CONTRIBUTING.md"),
        root.join("SECURITY.md"),
        root.join("CHANGELOG.md"),
    ];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(&root).unwrap();
            (name.display().to_string(), text)
        })
        .collect()
}

/// Returns the help of a subcommand from its snapshot.
fn help(words: &[&str]) -> Option<String> {
    let name = format!("lull-{}.snap", words.join("-"));
    fs::read_to_string(workspace().join("dom0-tool/tests/cli").join(name)).ok()
}

#[test]
fn commands_in_the_book_exist_with_their_options() {
    let mut seen = 0;
    for (page, text) in pages() {
        for line in text.lines() {
            let Some(command) = line
                .strip_prefix("# lull ")
                .or(line.strip_prefix("$ lull "))
            else {
                continue;
            };
            let command = command.split(" # ").next().unwrap();
            let words: Vec<&str> = command.split_whitespace().collect();
            let help = help(&words[..words.len().min(2)])
                .or_else(|| help(&words[..1]))
                .unwrap_or_else(|| panic!("{page}: no such command: {line}"));
            for option in words.iter().filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap();
                assert!(help.contains(option), "{page}: no {option}: {line}");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} commands found");
}

/// Collects source texts; string literals over several lines are joined.
fn source(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut continued = false;
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = if continued { line.trim_start() } else { line };
                continued = line.ends_with('\\');
                into.push_str(line.trim_end_matches('\\'));
                if !continued {
                    into.push('\n');
                }
            }
        }
    }
}

#[test]
fn messages_in_troubleshooting_are_the_programs() {
    let mut text = String::new();
    for folder in [
        "src",
        "agents/src",
        "base/src",
        "engine/src",
        "store/src",
        "wire/src",
        "xen/src",
    ] {
        source(&workspace().join("dom0-tool").join(folder), &mut text);
    }
    let page = fs::read_to_string(workspace().join("docs/troubleshooting.md")).unwrap();
    let messages: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert!(messages.len() > 10);
    for message in messages {
        assert!(text.contains(message), "lull never says {message:?}");
    }
}

/// Returns the name of a heading's link, as forges and mdbook make it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches(['#', ' '])
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let root = workspace();
    for (page, text) in pages() {
        let folder = root.join(&page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => root.join(&page),
                file => folder.join(file),
            };
            assert!(target.exists(), "{page}: no {link}");
            if !fragment.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == fragment),
                    "{page}: no heading for {link}"
                );
            }
        }
    }
}

/// The names in a page's tables, of crates: `a`, or `a`, `b`.
fn crates_named(page: &str) -> BTreeSet<&str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = cells.filter_map(|line| line.split_once("` |"));
    cells.flat_map(|(cell, _)| cell.split("`, `")).collect()
}

#[test]
fn every_dependency_of_the_binary_is_explained() {
    let page = fs::read_to_string(workspace().join("docs/dependencies.md")).unwrap();
    let mut used = BTreeSet::new();
    for folder in [
        "core",
        "stubdom",
        "dom0-tool",
        "dom0-tool/base",
        "dom0-tool/xen",
        "dom0-tool/wire",
        "dom0-tool/store",
        "dom0-tool/engine",
        "dom0-tool/agents",
        "dom0-tool/simulator",
    ] {
        let manifest = workspace().join(folder).join("Cargo.toml");
        let manifest: DocumentMut = fs::read_to_string(manifest).unwrap().parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        used.extend(dependencies.iter().map(|(name, _)| name.to_owned()));
    }
    used.retain(|name| !name.starts_with("lull-"));
    let used: BTreeSet<&str> = used.iter().map(String::as_str).collect();
    assert_eq!(crates_named(&page), used);
}

#[test]
fn every_page_is_in_the_book() {
    let summary = fs::read_to_string(workspace().join("docs/SUMMARY.md")).unwrap();
    for (page, _) in pages() {
        if let Some(name) = page.strip_prefix("docs/")
            && name != "SUMMARY.md"
        {
            assert!(summary.contains(&format!("({name})")), "{page}");
        }
    }
}

#[test]
fn readme_stays_short() {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 150);
}
