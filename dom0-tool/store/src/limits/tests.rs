//! Valid and invalid files; and a change to the file changes nothing else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use lull_base::fuzz::any_bytes;
use proptest::prelude::*;

use super::edit::Change;
use super::file::LimitsFile;
use super::rules::{Key, Limit, Rules, Selector};

fn complaint(text: &str) -> String {
    let problems = Rules::parse(text).expect_err(text);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn what_is_wrong_is_shown_with_its_line_and_the_nearest_word() {
    for (text, words) in [
        (
            "[defualt]\ntimeout = \"2s\"",
            &["line 1: ", "`default`", "| [defualt]"][..],
        ),
        (
            "[default]\nmax-suspnd-time = \"2s\"",
            &["line 2: ", "did you mean `max-suspend-time`?"],
        ),
        (
            "[guest.a]\nzzz = 1",
            &["line 2: ", "`max-suspend-time`, `timeout`, `bandwidth`"],
        ),
        (
            "[default]\ntimeout = \"0\"",
            &["line 2: ", "is zero", "timeout = \"0\""],
        ),
        (
            "[default]\ntimeout = \"soon\"",
            &["`soon` is not a duration", "`none`"],
        ),
        ("[default]\ntimeout = 2", &["line 2: ", "in quotes"]),
        (
            "[default]\nbandwidth = 50",
            &["line 2: ", "a rate in quotes: \"50MiB/s\""],
        ),
        (
            "[default]\nbandwidth = \"2s\"",
            &["line 2: `2s` is not a rate", "`none`"],
        ),
        (
            "[default]\nbandwith = \"2MiB/s\"",
            &["did you mean `bandwidth`?"],
        ),
        ("bandwidth = \"2MiB/s\"", &["line 1: ", "[default]"]),
        ("timeout = \"2s\"", &["line 1: ", "[default]"]),
        (
            "[default]\ntimeout = \"1s\"\ntimeout = \"2s\"",
            &["line 3: ", "duplicate"],
        ),
        ("[guest.a]\n[guest.a]\n", &["line 2: ", "duplicate"]),
        (
            "[guest.aaaaaaaa-1111-2222-3333-444444444444]\n[guest.AAAAAAAA-1111-2222-3333-444444444444]\n",
            &["line 2: ", "there already, on line 1"],
        ),
        ("[guest.a.example]\ntimeout = \"2s\"", &["wants quotes"]),
        ("[guest.\"a[\"]\n", &["line 1: ", "is no pattern"]),
        ("[guest.\"\"]\n", &["is no guest's name"]),
        ("guest = 3", &["line 1: ", "is a section"]),
        ("[guest]\na = 3", &["line 2: ", "[guest.a]"]),
        ("[default\n", &["line 1: "]),
        ("[[default]]\n", &["is a section"]),
    ] {
        let said = complaint(text);
        for word in words {
            assert!(said.contains(word), "{text:?}: {said}");
        }
    }
}

#[test]
fn all_that_is_wrong_is_shown() {
    let said = complaint("[default]\ntimeout = \"0\"\n[guest.a]\ntimout = \"2s\"\n");
    assert!(
        said.contains("line 2: ") && said.contains("line 4: "),
        "{said}"
    );
}

#[test]
fn the_example_limits_nothing_and_is_right_when_it_is_made_to() {
    let example = include_str!("../../../package/debian/lull.toml");
    assert!(Rules::parse(example).unwrap().sections.is_empty());
    // Prose starts with `# `; a setting that can be enabled starts with `#`.
    let switched_on: Vec<&str> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
            _ => line,
        })
        .collect();
    let rules = Rules::parse(&switched_on.join("\n")).unwrap();
    let keys: Vec<usize> = rules.sections.iter().map(|s| s.settings.len()).collect();
    assert_eq!(keys, [4, 1, 2, 1]);
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: impl AsRef<[u8]>) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.file(), text).unwrap();
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("lull.toml")
    }

    fn complaint(&self) -> String {
        let said = LimitsFile::at(self.file()).rules().expect_err("it is bad");
        said.to_string()
    }
}

const GOOD: &str = "[default]\ntimeout = \"2s\"\n";

#[test]
fn no_file_is_no_limit_and_any_other_trouble_is_an_error() {
    let folder = Folder::with(GOOD);
    let path = folder.file();
    assert_eq!(
        LimitsFile::at(&path).rules().unwrap().rules.sections.len(),
        1
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(
        folder.complaint().contains("chmod go-w"),
        "{}",
        folder.complaint()
    );
    fs::remove_file(&path).unwrap();
    assert!(
        LimitsFile::at(&path)
            .rules()
            .unwrap()
            .rules
            .sections
            .is_empty()
    );

    fs::write(&path, GOOD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(folder.complaint().contains("chmod go-w"));
    // Permissions do not stop root from reading, but a path below a regular file does.
    let below = LimitsFile::at(path.join("lull.toml"));
    let said = below.rules().unwrap_err().to_string();
    assert!(said.contains("cannot be read"), "{said}");
    fs::remove_file(&path).unwrap();

    symlink(&path, &path).unwrap();
    assert!(folder.complaint().contains("leads nowhere"));
    fs::remove_file(&path).unwrap();
    let other = folder.0.path().join("other.toml");
    symlink(&other, &path).unwrap();
    symlink(&path, &other).unwrap();
    assert!(folder.complaint().contains("leads nowhere"));
    fs::remove_file(&path).unwrap();
    symlink("/nonexistent/lull.toml", &path).unwrap();
    assert!(folder.complaint().contains("leads nowhere"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(folder.complaint().contains("is a folder"));
    fs::remove_dir(&path).unwrap();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &path,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert!(folder.complaint().contains("a pipe"));
}

#[test]
fn what_is_no_text_or_too_much_of_it_is_refused() {
    assert!(
        Folder::with(b"[default]\n\xff")
            .complaint()
            .contains("line 2: ")
    );
    assert!(
        Folder::with(vec![b'#'; 300 << 10])
            .complaint()
            .contains("larger than 256 KiB")
    );
    let deep = format!("guest = {}", "[".repeat(100_000));
    assert!(!Folder::with(deep).complaint().is_empty());
}

#[test]
fn a_file_of_somebody_else_is_refused() {
    let folder = Folder::with(GOOD);
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    std::os::unix::fs::chown(folder.file(), Some(1), None).unwrap();
    assert!(
        folder.complaint().contains("chown root"),
        "{}",
        folder.complaint()
    );
}

fn change(selector: &str, keys: &[(Key, Option<&str>)]) -> Change {
    let selector = match selector {
        "" => Selector::Default,
        selector => Selector::named(selector).unwrap(),
    };
    let limit = |(key, text): &(Key, Option<&str>)| {
        let limit = text.map(|text| key.understand(text).unwrap());
        (*key, limit)
    };
    Change {
        selector,
        keys: keys.iter().map(limit).collect(),
    }
}

fn changed(text: &str, selector: &str, key: Key, limit: Option<&str>) -> Result<String, String> {
    let change = change(selector, &[(key, limit)]);
    let changed = change.apply(text, &Rules::parse(text).unwrap());
    changed.map_err(|error| error.to_string())
}

const WRITTEN: &str = "# ours\n\n[default] # all\ntimeout = \"2min\" # patience\n\n\
                       [guest.'web-*']\n# of the SLA\nmax-suspend-time = '300ms'\n# end\n";

#[test]
fn one_line_changes_and_no_other() {
    let set = |selector, key, limit| changed(WRITTEN, selector, key, Some(limit)).unwrap();
    assert_eq!(
        set("", Key::Timeout, "90s"),
        WRITTEN.replace("\"2min\"", "\"1m30s\"")
    );
    assert_eq!(
        set("", Key::MaxSuspendTime, "1"),
        WRITTEN.replace("# patience\n", "# patience\nmax-suspend-time = \"1s\"\n")
    );
    assert_eq!(
        set("web-*", Key::Timeout, "none"),
        WRITTEN.replace("'300ms'\n", "'300ms'\ntimeout = \"none\"\n")
    );
    assert_eq!(
        set("a.b", Key::Timeout, "1s"),
        format!("{WRITTEN}\n[guest.\"a.b\"]\ntimeout = \"1s\"\n")
    );
    assert_eq!(
        changed(WRITTEN, "web-*", Key::MaxSuspendTime, None).unwrap(),
        WRITTEN.replace("max-suspend-time = '300ms'\n", "")
    );
    assert_eq!(changed(WRITTEN, "db", Key::Timeout, None).unwrap(), WRITTEN);
    assert_eq!(set("web-*", Key::MaxSuspendTime, "0.3"), WRITTEN);
    assert_eq!(
        set("web-*", Key::Bandwidth, "0.5GiB/s"),
        WRITTEN.replace("'300ms'\n", "'300ms'\nbandwidth = \"512MiB/s\"\n")
    );
}

#[test]
fn guests_and_default_may_stand_in_any_order() {
    let mixed = "[guest.\"b*\"]\ntimeout = \"4s\"\n\n[default]\ntimeout = \"5s\"\n";
    let set = changed(mixed, "busy", Key::Timeout, Some("9s")).unwrap();
    assert_eq!(set, format!("{mixed}\n[guest.busy]\ntimeout = \"9s\"\n"));
    assert_eq!(changed(&set, "busy", Key::Timeout, None).unwrap(), mixed);
}

#[test]
fn what_stands_otherwise_is_changed_where_it_can_be_and_else_left() {
    let inline = "guest = { web1 = { timeout = \"2s\" } }\n";
    let longer = changed(inline, "web1", Key::Timeout, Some("3s")).unwrap();
    assert_eq!(longer, inline.replace("2s", "3s"));
    for (selector, key, limit) in [
        ("web1", Key::MaxSuspendTime, Some("1s")),
        ("web1", Key::Timeout, None),
        ("web2", Key::Timeout, Some("1s")),
    ] {
        let said = changed(inline, selector, key, limit).unwrap_err();
        assert!(said.contains("yourself"), "{said}");
    }
    let windows = "[default]\r\ntimeout = \"2s\"\r\n";
    assert_eq!(
        changed(windows, "", Key::MaxSuspendTime, Some("1s")).unwrap(),
        format!("{windows}max-suspend-time = \"1s\"\r\n")
    );
}

#[test]
fn the_file_keeps_its_mode_and_a_link_stays_a_link() {
    let folder = Folder::with(WRITTEN);
    let (path, link) = (folder.file(), folder.0.path().join("link.toml"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&path, &link).unwrap();
    let file = LimitsFile::at(&link);
    let edit = change("db", &[(Key::Timeout, Some("1s"))]);
    assert!(file.change(&edit).unwrap());
    assert!(!file.change(&edit).unwrap(), "it was so already");
    assert!(link.is_symlink());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 2);
    let undone = change("db", &[(Key::Timeout, None)]);
    file.change(&undone).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), WRITTEN);
}

#[test]
fn a_broken_file_is_not_changed() {
    let folder = Folder::with("[default]\ntimeout = \"0\"\n");
    let error = LimitsFile::at(folder.file()).change(&change("", &[(Key::Timeout, Some("1s"))]));
    assert!(error.unwrap_err().to_string().contains("line 2: "));
}

/// A key and a valid value for it.
fn setting() -> impl Strategy<Value = (Key, String)> {
    let key = proptest::sample::select(Key::ALL.to_vec());
    key.prop_flat_map(|key| {
        let limit = match key {
            Key::MaxSuspendTime | Key::Timeout => "[1-9][0-9]{0,2}(ms|s|min)",
            Key::Disks => "trusted",
            Key::Announce => "rarp",
            Key::Risk => "[1-9](\\.[1-9])?%",
            Key::Bandwidth => "[1-9][0-9]{0,2}(MB|MiB|Mbit)/s",
            Key::Connections => "[1-8]",
        };
        let none = match key {
            // The estimate always has a risk.
            Key::Risk => "5%",
            Key::Connections => "1",
            _ => "none",
        };
        (Just(key), prop_oneof![limit, Just(none.to_owned())])
    })
}

/// Files as administrators write them: sections, comments, blank lines, odd spaces.
fn files() -> impl Strategy<Value = String> {
    let line = (
        setting(),
        "( # [a-z =\\[\\]\"]{0,9})?",
        "(#[a-z ]{0,9}\n|\n)?",
    )
        .prop_map(|((key, value), comment, more)| {
            let line = format!("{} =  \"{value}\"{comment}\n{more}", key.name());
            (key, line)
        });
    let lines = proptest::collection::vec(line, 0..4).prop_map(|mut lines| {
        lines.sort_by_key(|(key, _)| *key);
        lines.dedup_by_key(|(key, _)| *key);
        lines.into_iter().map(|(_, line)| line).collect::<String>()
    });
    let name = prop_oneof!["[a-z]{1,3}", "[a-z.*?]{1,4}"];
    let section = (name, "(# [a-z]{1,5}\n|\n){0,2}", lines);
    let sections = proptest::collection::vec(section, 0..5).prop_map(|mut sections| {
        sections.sort_by(|a, b| a.0.cmp(&b.0));
        sections.dedup_by(|a, b| a.0 == b.0);
        sections
            .into_iter()
            .map(|(name, above, lines)| format!("{above}[guest.\"{name}\"]\n{lines}"))
            .collect::<String>()
    });
    sections.prop_filter("a pattern that is none", |text| Rules::parse(text).is_ok())
}

/// A section, its name in `files`, and a setting.
fn edits() -> impl Strategy<Value = (String, Key, String)> {
    ("([a-z]{1,3}|[a-z*.]{1,4})?", setting())
        .prop_filter("a pattern that is none", |(selector, _)| {
            selector.is_empty() || Selector::named(selector).is_ok()
        })
        .prop_map(|(selector, (key, limit))| (selector, key, limit))
}

fn limit_in(text: &str, selector: &str, key: Key) -> Option<Limit> {
    let selector = change(selector, &[]).selector;
    let rules = Rules::parse(text).unwrap();
    let setting = rules.section(&selector)?.settings.get(&key)?;
    Some(setting.limit)
}

proptest! {
    #[test]
    fn no_text_is_a_surprise(text in "\\PC{0,200}") {
        let _ = Rules::parse(&text);
    }

    #[test]
    fn nothing_that_looks_like_toml_is_a_surprise(text in "[\\[\\]{}a-z.\"'=#\n,0-9 -]{0,120}") {
        let _ = Rules::parse(&text);
    }

    #[test]
    fn a_limit_that_is_set_is_there_and_all_other_lines_stay(
        text in files(), (selector, key, limit) in edits(),
    ) {
        let after = changed(&text, &selector, key, Some(&limit)).unwrap();
        prop_assert_eq!(limit_in(&after, &selector, key), Some(key.understand(&limit).unwrap()));
        let was_there = limit_in(&text, &selector, key).is_some();
        // Apart from the changed or added line and a new section's header, the text is the
        // same.
        let (mut old, mut new) = (text.lines().peekable(), after.lines());
        let mut others = 0;
        for line in &mut new {
            if old.peek() == Some(&line) {
                old.next();
            } else {
                others += 1;
                if was_there {
                    old.next();
                }
            }
        }
        prop_assert!(old.next().is_none(), "lost: {text:?} {after:?}");
        prop_assert!(others <= 3, "{others} lines differ: {text:?} {after:?}");
    }

    #[test]
    fn what_is_set_anew_and_unset_leaves_the_file_as_it_was(
        text in files(), (selector, key, limit) in edits(),
    ) {
        prop_assume!(Rules::parse(&text).unwrap().section(&change(&selector, &[]).selector).is_none());
        let set = changed(&text, &selector, key, Some(&limit)).unwrap();
        prop_assert_eq!(changed(&set, &selector, key, None).unwrap(), text);
    }

    #[test]
    fn what_is_unset_is_gone_and_no_comment_with_it(text in files(), (selector, key, _) in edits()) {
        let after = changed(&text, &selector, key, None).unwrap();
        prop_assert_eq!(limit_in(&after, &selector, key), None);
        let comments = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
        prop_assert_eq!(comments(&text), comments(&after));
    }
}

#[test]
fn there_is_always_a_risk() {
    let said = Key::Risk.understand("none").unwrap_err();
    assert!(said.contains("there is always one, 5%"), "{said}");
    assert_eq!(
        Key::Risk.unless_set(),
        Some(Key::Risk.understand("5%").unwrap())
    );
}

#[test]
fn any_bytes_are_rules_or_problems() {
    let sample =
        b"[default]\nmax_suspend_time = \"500ms\"\nrisk = \"5%\"\n[\"web*\"]\ntimeout = 30\n";
    any_bytes(&[sample], |bytes| {
        drop(Rules::parse(&String::from_utf8_lossy(bytes)));
    });
}
