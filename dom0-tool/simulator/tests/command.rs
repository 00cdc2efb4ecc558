//! The command itself.

use std::process::{Command, Output};

fn run(words: &[&str]) -> Output {
    let simulate = env!("CARGO_BIN_EXE_lull-simulate");
    Command::new(simulate).args(words).output().unwrap()
}

#[test]
fn a_simulation_can_be_repeated() {
    let words = ["--attempts", "2000", "--seed", "5", "--json"];
    let (first, second) = (run(&words), run(&words));
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert_eq!(first.stdout, second.stdout);
    let table = run(&words[..4]);
    let text = String::from_utf8_lossy(&table.stdout);
    assert!(
        text.contains("2,000 attempts, seed 5: 0 guests paused longer"),
        "{text}"
    );
}

#[test]
fn a_size_that_is_none_is_refused() {
    let output = run(&["--memory", "12parsecs"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
