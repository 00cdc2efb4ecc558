//! The command on a host where it cannot work.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};

fn lull(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lull"))
        .args(words)
        .env("NO_COLOR", "1")
        .output()
        .expect("lull can be started")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_bad_limit_is_usage_and_shows_a_good_one() {
    for bad in ["0", "-3s", "soon", "99999999999999999999"] {
        for option in ["--max-suspend-time", "--timeout"] {
            let output = lull(&["migrate", option, bad, "web1", "host2"]);
            assert_eq!(output.status.code(), Some(2), "{option} {bad}");
            let said = said(&output);
            assert!(said.contains(&format!("`{bad}`")), "{said}");
            assert!(said.contains(option) && said.contains("`250ms`"), "{said}");
        }
    }
}

/// Runs one command for every way in which a file with limits can be invalid.
#[test]
fn a_bad_file_of_limits_is_told_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lull.toml");
    let path = file.to_str().expect("a plain path");
    let other = folder.path().join("other.toml");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode));
    let good = "[default]\ntimeout = \"2s\"\n";
    let make = |what: &str| match what {
        "unknown" => fs::write(&file, "[default]\nmax-suspnd-time = \"2s\"\n"),
        "writable" => fs::write(&file, good).and_then(|()| mode(0o666)),
        "huge" => fs::File::create(&file).and_then(|file| file.set_len(1 << 40)),
        "cyclic" => symlink(&other, &file).and_then(|()| symlink(&file, &other)),
        "folder" => fs::create_dir(&file),
        _ => Ok(()),
    };
    for (what, words) in [
        ("unknown", "did you mean `max-suspend-time`?"),
        ("writable", "chmod go-w"),
        ("huge", "larger than 256 KiB"),
        ("cyclic", "leads nowhere"),
        ("folder", "is a folder"),
        ("none", "there is no"),
    ] {
        make(what).expect(what);
        let output = lull(&["limits", "check", path]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(
            said.contains(words) && said.contains(path),
            "{what}: {said}"
        );
        assert!(!said.contains('\u{1b}'), "{what}: {said}");
        match what {
            "folder" => fs::remove_dir(&file).expect(what),
            _ => drop(fs::remove_file(&file)),
        }
    }
}

#[test]
fn a_host_that_is_not_ready_is_told_why_and_that_nothing_was_done() {
    if std::path::Path::new("/sys/hypervisor/type").exists() {
        eprintln!("skipped: this host may be ready");
        return;
    }
    let output = lull(&["migrate", "--json", "web1", "host2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let said = said(&output);
    // The message says either that the user is not root, or that there is no Xen.
    assert!(said.starts_with("lull: this "), "{said}");
    assert!(said.contains("Nothing was done."), "{said}");
}

/// On a host without Xen no migration is lull's: Xen's own xl replaces it, with the same
/// words, environment, output and exit code.
#[test]
fn what_lull_cannot_move_becomes_xens_own_xl() {
    let folder = tempfile::tempdir().expect("a folder");
    let xl = folder.path().join("xl");
    let script =
        "#!/bin/sh\nprintf '%s|' $$ \"$LIBXL_SAVE_HELPER\" \"$@\"\necho asked >&2\nexit 7\n";
    fs::write(&xl, script).expect("a script");
    fs::set_permissions(&xl, fs::Permissions::from_mode(0o755)).expect("a mode");
    for words in [
        &["migrate", "--live", "web1", "host2"][..],
        &["migrate", "-s", "ssh -p 2222", "-C", "a b", "web1", "host2"],
        &["migrate", "-p", "--", "-x", "$y"],
        &["migrate"],
        &["-vf", "list", "", "--"],
    ] {
        let mut lull = Command::new(env!("CARGO_BIN_EXE_lull"));
        lull.args(["plain-xl", "--"]).arg(&xl).args(words);
        lull.env("LIBXL_SAVE_HELPER", "/helper");
        lull.stdout(Stdio::piped()).stderr(Stdio::piped());
        let lull = lull.spawn().expect("lull can be started");
        let process = lull.id();
        let output = lull.wait_with_output().expect("its output");
        let expected = format!("{process}|/helper|{}|", words.join("|"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        assert_eq!(said(&output), "asked\n");
        assert_eq!(output.status.code(), Some(7));
    }
}

/// A failed exec changes how its process takes SIGPIPE, so this is no unit test.
#[test]
fn a_call_that_cannot_be_handed_to_xens_own_script_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("vif-lull");
    symlink(env!("CARGO_BIN_EXE_lull"), &script).expect("a link");
    let output = Command::new(&script).arg("online").output();
    let output = output.expect("the script can be started");
    assert_eq!(output.status.code(), Some(1));
    let stock = folder.path().join("vif-bridge");
    let told = format!("{} cannot be started", stock.display());
    assert!(said(&output).contains(&told), "{}", said(&output));
}
