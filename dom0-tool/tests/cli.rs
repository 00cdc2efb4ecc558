//! Compares lull's description of itself word for word: each command's help, and the
//! messages after a mistyped command. After an intended change:
//!
//! ```console
//! $ INSTA_UPDATE=always cargo test -p lull --test cli
//! ```

use std::process::{Command, Output};

use insta::{Settings, assert_snapshot};

fn lull(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lull"))
        .args(words)
        .output()
        .expect("lull can be started")
}

/// Compares with `tests/cli/NAME.snap`.
fn compare(name: &str, text: &str) {
    let mut settings = Settings::new();
    settings.set_snapshot_path("cli");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| assert_snapshot!(name, text));
}

/// Returns the commands that a help lists below `Commands:`.
fn commands(help: &str) -> Vec<&str> {
    let below = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    below
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect()
}

fn compare_help(words: &[&str]) {
    let output = lull(&[words, &["--help"]].concat());
    assert!(output.status.success(), "{words:?}: {output:?}");
    let help = String::from_utf8_lossy(&output.stdout);
    compare(&[&["lull"], words].concat().join("-"), &help);
    for below in commands(&help) {
        compare_help(&[words, &[below]].concat());
    }
}

#[test]
fn every_help() {
    // The snapshots are those of the binary as most have it.
    if cfg!(feature = "terminal") {
        compare_help(&[]);
    }
}

#[cfg(not(feature = "terminal"))]
#[test]
fn what_is_left_out_is_refused_and_not_in_any_help() {
    for words in [
        ["generate", "man", "."],
        ["report", "--plot", "x.svg"],
        ["predict", "web1", "--plot=x.svg"],
    ] {
        assert_eq!(lull(&words).status.code(), Some(2), "{words:?}");
    }
    for command in ["report", "predict", "status"] {
        let output = lull(&[command, "--help"]);
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && help.contains("Exit codes: "),
            "{help}"
        );
        assert!(!help.contains("plot") && !help.contains("q, Esc"), "{help}");
    }
}

#[test]
fn usual_slips() {
    let mut said = String::new();
    for line in [
        "migarte web1 host2",
        "keep-trce 7",
        "migrate web1",
        "migrate --max-suspend-tim 2 web1 host2",
        "migrate --max-suspend-time soon web1 host2",
        "predict --bandwidth 12parsecs web1",
        "replay /nowhere.jsonl",
    ] {
        let output = lull(&line.split_whitespace().collect::<Vec<_>>());
        let code = output.status.code().expect("it exits");
        let text = String::from_utf8_lossy(&output.stderr);
        said.push_str(&format!("$ lull {line}\n{text}exit code {code}\n\n"));
    }
    compare("slips", &said);
}

/// The first message depends on the user, and even root cannot move guests where there is
/// no Xen.
#[test]
fn a_move_where_none_can_be() {
    let line = "migrate -p --max-suspend-time 2 web1 host2";
    let output = lull(&line.split_whitespace().collect::<Vec<_>>());
    let why = match rustix::process::geteuid().is_root() {
        true => {
            "this host does not run on Xen (there is no /sys/hypervisor/type).\n\
             Nothing was done. Boot the host with Xen, and run lull in its dom0."
        }
        false => {
            "this needs root: only root may ask the hypervisor.\n\
             Nothing was done. Run it again with `sudo`."
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, format!("lull: {why}\n"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_version_names_commit_and_stub() {
    let output = lull(&["--version"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let (release, build) = said.trim_end().split_once(" (").expect(&said);
    assert_eq!(release, concat!("lull ", env!("CARGO_PKG_VERSION")));
    let (commit, stub) = build.split_once(", ").expect(build);
    assert!(commit.starts_with("commit ") && !commit.contains('/'));
    let stub = stub.strip_prefix("stub ").and_then(|s| s.strip_suffix(')'));
    let is_hex = |id: &str| id.len() == 12 && id.chars().all(|c| c.is_ascii_hexdigit());
    assert!(stub.is_some_and(is_hex), "{said}");
}

/// Runs lull on a terminal of its own, which `script` makes; `None` where there is no
/// `script`.
fn on_a_terminal(variables: &[(&str, &str)]) -> Option<String> {
    let lull = env!("CARGO_BIN_EXE_lull");
    let output = Command::new("script")
        .args(["-qec", &format!("{lull} migrate --help"), "/dev/null"])
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .output();
    Some(String::from_utf8_lossy(&output.ok()?.stdout).into_owned())
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    const ESCAPE: char = '\u{1b}';
    let piped = lull(&["migrate", "--help"]);
    assert!(!String::from_utf8_lossy(&piped.stdout).contains(ESCAPE));
    let Some(coloured) = on_a_terminal(&[]) else {
        eprintln!("skipped: there is no `script` here");
        return;
    };
    assert!(coloured.contains(ESCAPE), "{coloured}");
    let plain = on_a_terminal(&[("NO_COLOR", "1")]).expect("as before");
    assert!(!plain.contains(ESCAPE), "{plain}");
}
