use std::os::unix::fs::PermissionsExt;

use super::*;

/// A host with these units and a lull.
fn host(units: &[&str]) -> (tempfile::TempDir, Paths, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("lib/systemd/system");
    fs::create_dir_all(&folder).unwrap();
    for unit in units {
        fs::write(folder.join(unit), "").unwrap();
    }
    let driver = root.path().join(DRIVER_FOLDERS[0]).join(DRIVER);
    put(&driver, b"", 0o644).unwrap();
    let lull = root.path().join("lull");
    fs::write(&lull, "one").unwrap();
    let paths = Paths {
        root: root.path().to_owned(),
    };
    (root, paths, lull)
}

/// A process of that name with this initial environment.
fn process(paths: &Paths, number: u32, name: &str, environment: &str) {
    let folder = paths.root.join(format!("proc/{number}"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
    fs::write(folder.join("environ"), environment).unwrap();
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_or_empty(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn files_or_empty(folder: &Path) -> Vec<PathBuf> {
    let below = files(folder);
    match below.is_empty() {
        true => vec![folder.to_owned()],
        false => below,
    }
}

#[test]
fn it_is_in_force_until_it_is_undone_and_leaves_nothing() {
    let (root, paths, lull) = host(&UNITS);
    fs::create_dir_all(root.path().join("etc/systemd/system")).unwrap();
    fs::create_dir_all(root.path().join("usr/lib")).unwrap();
    let before = files(root.path());
    assert!(!paths.in_force(&lull).unwrap().in_force);
    for _ in 0..2 {
        paths.enable(&lull).unwrap();
        let finding = paths.in_force(&lull).unwrap();
        assert!(finding.in_force && finding.cure.is_empty(), "{finding:?}");
    }
    let mode = fs::metadata(paths.helper()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    paths.disable().unwrap();
    assert_eq!(files(root.path()), before);
    assert!(paths.disable().unwrap().contains("nothing to undo"));
}

#[test]
fn without_libvirt_nothing_is_done() {
    let (_root, paths, lull) = host(&[]);
    let said = paths.enable(&lull).unwrap_err().to_string();
    assert!(said.contains("libvirt was not found"), "{said}");
    assert!(!paths.helper().exists() && paths.in_force(&lull).is_none());
}

#[test]
fn without_its_xen_driver_libvirt_is_left_alone() {
    let (root, paths, lull) = host(&UNITS);
    fs::remove_file(root.path().join(DRIVER_FOLDERS[0]).join(DRIVER)).unwrap();
    let said = paths.enable(&lull).unwrap_err().to_string();
    assert!(said.contains("without its Xen driver"), "{said}");
    assert!(!paths.helper().exists() && paths.in_force(&lull).is_none());
}

#[test]
fn what_is_not_ours_stays() {
    let (_root, paths, lull) = host(&UNITS[..1]);
    let theirs = paths.drop_in(UNITS[0]);
    put(&theirs, b"[Service]\n", 0o644).unwrap();
    assert!(paths.enable(&lull).is_err() && !paths.helper().exists());
    paths.disable().unwrap();
    assert_eq!(fs::read(theirs).unwrap(), b"[Service]\n");
}

#[test]
fn another_lull_is_seen_and_replaced() {
    let (_root, paths, lull) = host(&UNITS[1..]);
    paths.enable(&lull).unwrap();
    fs::write(&lull, "two").unwrap();
    let finding = paths.in_force(&lull).unwrap();
    assert!(finding.found.contains("another build"), "{finding:?}");
    paths.enable(&lull).unwrap();
    assert_eq!(fs::read(paths.helper()).unwrap(), b"two");
}

#[test]
fn a_daemon_keeps_its_helper_until_it_is_restarted() {
    let (_root, paths, lull) = host(&UNITS[..1]);
    process(&paths, 7, "libvirtd", "A=b\0");
    process(&paths, 8, "bash", "A=b\0");
    let said = paths.enable(&lull).unwrap();
    assert!(said.contains("start libvirtd anew"), "{said}");
    let finding = paths.in_force(&lull).unwrap();
    assert!(!finding.in_force && finding.cure.contains("restart libvirtd"));

    process(
        &paths,
        7,
        "libvirtd",
        &format!("A=b\0{VARIABLE}={HELPER}\0"),
    );
    assert!(paths.in_force(&lull).unwrap().in_force);
    let said = paths.disable().unwrap();
    assert!(said.contains("stays until then"), "{said}");
    assert!(paths.helper().exists());

    process(&paths, 7, "libvirtd", "A=b\0");
    paths.disable().unwrap();
    assert!(!paths.helper().exists());
}
