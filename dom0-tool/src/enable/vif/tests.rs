use std::os::unix::fs::PermissionsExt;

use super::*;

/// A host with Xen's own script and a lull.
fn host() -> (tempfile::TempDir, Paths, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths {
        root: root.path().to_owned(),
    };
    fs::create_dir_all(paths.script("x").parent().unwrap()).unwrap();
    fs::write(paths.script(STOCK), "#!/bin/bash\n").unwrap();
    let lull = root.path().join("lull");
    fs::write(&lull, format!("a lull: {MARK}")).unwrap();
    (root, paths, lull)
}

fn nobody() -> io::Result<Vec<String>> {
    Ok(Vec::new())
}

#[test]
fn it_is_in_force_until_it_is_undone() {
    for before in [None, Some("autoballoon=\"0\"\n"), Some("# no end")] {
        let (_root, paths, lull) = host();
        if let Some(before) = before {
            fs::write(paths.conf(), before).unwrap();
        }
        assert!(!paths.in_force(&lull).in_force);
        paths.enable(&lull).unwrap();
        let found = paths.in_force(&lull);
        assert!(found.in_force && found.cure.is_empty(), "{found:?}");
        let mode = fs::metadata(paths.script(NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755);
        let text = fs::read(paths.conf()).unwrap();
        let again = paths.enable(&lull).unwrap();
        assert!(again.contains("already"), "{again}");
        assert_eq!(fs::read(paths.conf()).unwrap(), text);

        paths.disable(nobody()).unwrap();
        assert_eq!(fs::read_to_string(paths.conf()).ok().as_deref(), before);
        assert!(!paths.script(NAME).exists());
        let again = paths.disable(nobody()).unwrap();
        assert!(again.contains("nothing to undo"), "{again}");
    }
}

#[test]
fn mode_and_link_of_the_file_stay() {
    let (root, paths, lull) = host();
    let real = root.path().join("real.conf");
    fs::write(&real, "a=1\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    let link = root.path().join("etc/xen/xl.conf");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    paths.enable(&lull).unwrap();
    paths.disable(nobody()).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"a=1\n");
    let mode = fs::metadata(&real).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn another_script_is_not_replaced() {
    let (_root, paths, lull) = host();
    let text = "a=1\nvif.default.script=\"vif-openvswitch\"\n";
    fs::write(paths.conf(), text).unwrap();
    let said = paths.enable(&lull).unwrap_err().to_string();
    assert!(
        said.contains("line 2") && said.contains("\"vif-openvswitch\""),
        "{said}"
    );
    assert!(said.contains("Nothing was done."), "{said}");
    assert_eq!(fs::read_to_string(paths.conf()).unwrap(), text);
    assert!(!paths.script(NAME).exists());
}

#[test]
fn what_is_not_ours_stays() {
    let (_root, paths, lull) = host();
    fs::write(paths.script(NAME), "#!/bin/sh\n").unwrap();
    assert!(paths.enable(&lull).is_err());
    let said = paths.disable(nobody()).unwrap();
    assert!(said.contains("nothing to undo"), "{said}");
    assert!(paths.script(NAME).exists() && !paths.conf().exists());
}

#[test]
fn without_xens_own_script_there_is_nothing_to_hand_over_to() {
    let (_root, paths, lull) = host();
    fs::remove_file(paths.script(STOCK)).unwrap();
    let said = paths.enable(&lull).unwrap_err().to_string();
    assert!(said.contains("Install Xen's tools"), "{said}");
}

#[test]
fn a_script_that_guests_were_started_with_stays() {
    let (_root, paths, lull) = host();
    paths.enable(&lull).unwrap();
    let said = paths.disable(Ok(vec!["web1".into()])).unwrap();
    assert!(said.contains("stays") && said.contains("web1"), "{said}");
    assert!(paths.script(NAME).exists() && !paths.conf().exists());
    let unknown = Err(io::ErrorKind::TimedOut.into());
    assert!(paths.disable(unknown).unwrap().contains("xenstore"));
    paths.disable(nobody()).unwrap();
    assert!(!paths.script(NAME).exists());
}

#[test]
fn a_line_of_the_administrators_is_not_undone() {
    let (_root, paths, lull) = host();
    let text = "vif.default.script=\"vif-lull\"\n";
    fs::write(paths.conf(), text).unwrap();
    assert!(paths.in_force(&lull).found.contains("not there"));
    paths.enable(&lull).unwrap();
    assert!(paths.in_force(&lull).in_force);
    let said = paths.disable(nobody()).unwrap();
    assert!(said.contains("not lull's"), "{said}");
    assert_eq!(fs::read_to_string(paths.conf()).unwrap(), text);
    assert!(paths.script(NAME).exists());
}

#[test]
fn after_an_upgrade_the_new_build_takes_the_old_ones_place() {
    let (_root, paths, lull) = host();
    paths.enable(&lull).unwrap();
    fs::write(&lull, format!("a newer lull: {MARK}")).unwrap();
    let found = paths.in_force(&lull);
    assert!(found.in_force && !found.cure.is_empty(), "{found:?}");
    paths.enable(&lull).unwrap();
    assert!(paths.in_force(&lull).cure.is_empty());
}

#[test]
fn a_later_line_is_overruled_again() {
    let (_root, paths, lull) = host();
    paths.enable(&lull).unwrap();
    let later = fs::read_to_string(paths.conf()).unwrap() + "vif.default.script='vif-bridge'\n";
    fs::write(paths.conf(), later).unwrap();
    assert!(!paths.in_force(&lull).in_force);
    paths.enable(&lull).unwrap();
    assert!(paths.in_force(&lull).in_force);
    paths.disable(nobody()).unwrap();
    let text = fs::read_to_string(paths.conf()).unwrap();
    assert_eq!(text, "vif.default.script='vif-bridge'\n");
}

#[test]
fn where_all_is_left_to_xens_script_that_is_said() {
    let (root, paths, lull) = host();
    let hooks = root.path().join("etc/xen/scripts/vif-post.d");
    fs::create_dir(&hooks).unwrap();
    fs::write(hooks.join("a.hook"), "").unwrap();
    let said = paths.enable(&lull).unwrap();
    assert!(said.contains("leaves all to vif-bridge"), "{said}");
    assert!(paths.in_force(&lull).found.contains("hooks"));
}
