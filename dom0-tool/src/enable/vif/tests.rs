use std::os::unix::fs::PermissionsExt;

use super::*;

/// A host with Xen's own script and a lull.
fn host() -> (tempfile::TempDir, Places, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let places = Places {
        root: root.path().to_owned(),
    };
    fs::create_dir_all(places.script("x").parent().unwrap()).unwrap();
    fs::write(places.script(STOCK), "#!/bin/bash\n").unwrap();
    let lull = root.path().join("lull");
    fs::write(&lull, format!("a lull: {MARK}")).unwrap();
    (root, places, lull)
}

fn nobody() -> io::Result<Vec<String>> {
    Ok(Vec::new())
}

#[test]
fn it_is_in_force_until_it_is_undone() {
    for before in [None, Some("autoballoon=\"0\"\n"), Some("# no end")] {
        let (_root, places, lull) = host();
        if let Some(before) = before {
            fs::write(places.conf(), before).unwrap();
        }
        assert!(!places.in_force(&lull).in_force);
        places.enable(&lull).unwrap();
        let found = places.in_force(&lull);
        assert!(found.in_force && found.cure.is_empty(), "{found:?}");
        let mode = fs::metadata(places.script(NAME)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o755);
        let text = fs::read(places.conf()).unwrap();
        let again = places.enable(&lull).unwrap();
        assert!(again.contains("already"), "{again}");
        assert_eq!(fs::read(places.conf()).unwrap(), text);

        places.disable(nobody()).unwrap();
        assert_eq!(fs::read_to_string(places.conf()).ok().as_deref(), before);
        assert!(!places.script(NAME).exists());
        let again = places.disable(nobody()).unwrap();
        assert!(again.contains("nothing to undo"), "{again}");
    }
}

#[test]
fn mode_and_link_of_the_file_stay() {
    let (root, places, lull) = host();
    let real = root.path().join("real.conf");
    fs::write(&real, "a=1\n").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    let link = root.path().join("etc/xen/xl.conf");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    places.enable(&lull).unwrap();
    places.disable(nobody()).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"a=1\n");
    let mode = fs::metadata(&real).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn another_script_is_not_replaced() {
    let (_root, places, lull) = host();
    let text = "a=1\nvif.default.script=\"vif-openvswitch\"\n";
    fs::write(places.conf(), text).unwrap();
    let said = places.enable(&lull).unwrap_err().to_string();
    assert!(
        said.contains("line 2") && said.contains("\"vif-openvswitch\""),
        "{said}"
    );
    assert!(said.contains("Nothing was done."), "{said}");
    assert_eq!(fs::read_to_string(places.conf()).unwrap(), text);
    assert!(!places.script(NAME).exists());
}

#[test]
fn what_is_not_ours_stays() {
    let (_root, places, lull) = host();
    fs::write(places.script(NAME), "#!/bin/sh\n").unwrap();
    assert!(places.enable(&lull).is_err());
    let said = places.disable(nobody()).unwrap();
    assert!(said.contains("nothing to undo"), "{said}");
    assert!(places.script(NAME).exists() && !places.conf().exists());
}

#[test]
fn without_xens_own_script_there_is_nothing_to_hand_over_to() {
    let (_root, places, lull) = host();
    fs::remove_file(places.script(STOCK)).unwrap();
    let said = places.enable(&lull).unwrap_err().to_string();
    assert!(said.contains("Install Xen's tools"), "{said}");
}

#[test]
fn a_script_that_guests_were_started_with_stays() {
    let (_root, places, lull) = host();
    places.enable(&lull).unwrap();
    let said = places.disable(Ok(vec!["web1".into()])).unwrap();
    assert!(said.contains("stays") && said.contains("web1"), "{said}");
    assert!(places.script(NAME).exists() && !places.conf().exists());
    let unknown = Err(io::ErrorKind::TimedOut.into());
    assert!(places.disable(unknown).unwrap().contains("xenstore"));
    places.disable(nobody()).unwrap();
    assert!(!places.script(NAME).exists());
}

#[test]
fn a_line_of_the_administrators_is_not_undone() {
    let (_root, places, lull) = host();
    let text = "vif.default.script=\"vif-lull\"\n";
    fs::write(places.conf(), text).unwrap();
    assert!(places.in_force(&lull).found.contains("not there"));
    places.enable(&lull).unwrap();
    assert!(places.in_force(&lull).in_force);
    let said = places.disable(nobody()).unwrap();
    assert!(said.contains("not lull's"), "{said}");
    assert_eq!(fs::read_to_string(places.conf()).unwrap(), text);
    assert!(places.script(NAME).exists());
}

#[test]
fn after_an_upgrade_the_new_build_takes_the_old_ones_place() {
    let (_root, places, lull) = host();
    places.enable(&lull).unwrap();
    fs::write(&lull, format!("a newer lull: {MARK}")).unwrap();
    let found = places.in_force(&lull);
    assert!(found.in_force && !found.cure.is_empty(), "{found:?}");
    places.enable(&lull).unwrap();
    assert!(places.in_force(&lull).cure.is_empty());
}

#[test]
fn a_later_line_is_overruled_again() {
    let (_root, places, lull) = host();
    places.enable(&lull).unwrap();
    let later = fs::read_to_string(places.conf()).unwrap() + "vif.default.script='vif-bridge'\n";
    fs::write(places.conf(), later).unwrap();
    assert!(!places.in_force(&lull).in_force);
    places.enable(&lull).unwrap();
    assert!(places.in_force(&lull).in_force);
    places.disable(nobody()).unwrap();
    let text = fs::read_to_string(places.conf()).unwrap();
    assert_eq!(text, "vif.default.script='vif-bridge'\n");
}

#[test]
fn where_all_is_left_to_xens_script_that_is_said() {
    let (root, places, lull) = host();
    let hooks = root.path().join("etc/xen/scripts/vif-post.d");
    fs::create_dir(&hooks).unwrap();
    fs::write(hooks.join("a.hook"), "").unwrap();
    let said = places.enable(&lull).unwrap();
    assert!(said.contains("leaves all to vif-bridge"), "{said}");
    assert!(places.in_force(&lull).found.contains("hooks"));
}
