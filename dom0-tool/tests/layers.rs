//! Checks which crate uses which: dependencies point downwards, so neither the core nor the
//! hypervisor's crate can name a command.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::DocumentMut;

/// Each crate's folder, and those of our crates that it may use.
const LAYERS: [(&str, &[&str]); 11] = [
    ("core", &[]),
    ("stubdom", &["lull-core"]),
    ("dom0-tool/base", &["lull-core"]),
    ("dom0-tool/xen", &["lull-core", "lull-base"]),
    ("dom0-tool/wire", &["lull-core", "lull-base", "lull-xen"]),
    (
        "dom0-tool/store",
        &["lull-core", "lull-base", "lull-xen", "lull-wire"],
    ),
    (
        "dom0-tool/engine",
        &[
            "lull-core",
            "lull-base",
            "lull-xen",
            "lull-wire",
            "lull-store",
        ],
    ),
    (
        "dom0-tool/agents",
        &[
            "lull-core",
            "lull-base",
            "lull-xen",
            "lull-wire",
            "lull-store",
            "lull-engine",
        ],
    ),
    ("dom0-tool/simulator", &["lull-core", "lull-base"]),
    (
        "dom0-tool",
        &[
            "lull-core",
            "lull-base",
            "lull-xen",
            "lull-wire",
            "lull-store",
            "lull-engine",
            "lull-agents",
            "lull-simulator",
        ],
    ),
    ("dom0-tool/package", &[]),
];

#[test]
fn arrows_point_downwards() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (folder, allowed) in LAYERS {
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
        let manifest: DocumentMut = manifest.parse().unwrap();
        let mut used = BTreeSet::new();
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(table).and_then(|table| table.as_table()) else {
                continue;
            };
            used.extend(table.iter().map(|(name, _)| name.to_owned()));
        }
        for name in used.iter().filter(|name| name.starts_with("lull-")) {
            assert!(
                allowed.contains(&name.as_str()),
                "{folder} must not use {name}"
            );
        }
    }
}

/// Unsafe code is only where an ABI needs it.
#[test]
fn the_tool_forbids_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "src/main.rs",
        "wire/src/lib.rs",
        "store/src/lib.rs",
        "engine/src/lib.rs",
        "agents/src/lib.rs",
        "simulator/src/lib.rs",
    ] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

/// What a binary for machines only leaves out is all that may be left out.
#[test]
fn the_terminal_feature_is_all_that_is_optional() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: DocumentMut = fs::read_to_string(manifest).unwrap().parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    let is_optional = |of: &toml_edit::Item| {
        let optional = of.get("optional").and_then(toml_edit::Item::as_bool);
        optional == Some(true)
    };
    let optional: BTreeSet<String> = dependencies
        .iter()
        .filter(|(_, of)| is_optional(of))
        .map(|(name, _)| format!("dep:{name}"))
        .collect();
    let feature = |name: &str| -> BTreeSet<String> {
        let enables = manifest["features"][name].as_array().unwrap();
        let enables = enables.iter().map(|each| each.as_str().unwrap().to_owned());
        enables.collect()
    };
    assert!(!optional.is_empty());
    assert_eq!(optional, feature("terminal"));
    assert_eq!(feature("default"), BTreeSet::from(["terminal".to_owned()]));
}

/// What the ground does for all: the file that does it, and the words that no other file may
/// have.
const ONCE: [(&str, &[&str]); 3] = [
    (
        "base/src/lines.rs",
        &["BufRead", ".read_until(", ".read_line("],
    ),
    ("base/src/child.rs", &[".try_wait("]),
    (
        "base/src/atomic_file.rs",
        &[".sync_all(", "File::create_new("],
    ),
];

/// Lines are cut, children waited for and files replaced in one place each. Tests may do it
/// their own way.
#[test]
fn what_the_ground_does_is_done_there_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [
        "src",
        "base/src",
        "xen/src",
        "wire/src",
        "store/src",
        "engine/src",
        "agents/src",
        "simulator/src",
    ] {
        list(&root.join(folder), &mut files);
    }
    assert!(files.len() > 150, "only {} files", files.len());
    for path in files {
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for (place, words) in ONCE {
            let does_it = words.iter().find(|word| text.contains(**word));
            if let Some(word) = does_it
                && name != place
            {
                panic!("{name} has {word}, which {place} does for all");
            }
        }
    }
}

/// Lists the sources below `folder` that are no tests.
fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            list(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
