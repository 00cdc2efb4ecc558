use super::book::{KEPT, KEPT_IN_ALL};
use super::*;
use lull_core::downtime::SuspendPages;

fn ledger() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::at(folder.path().join("deep/ledger.json"));
    (folder, ledger)
}

fn holding(text: &str) -> (tempfile::TempDir, Ledger) {
    let (folder, ledger) = ledger();
    fs::create_dir_all(ledger.file.parent().unwrap()).unwrap();
    fs::write(&ledger.file, text).unwrap();
    (folder, ledger)
}

fn landed(guest: &str, ms: u64) -> Entry {
    Entry {
        guest: Some(guest.to_owned()),
        landing_ms: Some(ms),
        ..Entry::default()
    }
}

fn silent(said: &str) {
    panic!("unexpected: {said}");
}

fn landing(ledger: &Ledger, guest: &str) -> Duration {
    ledger
        .known("host2", guest, Landing::Classic, silent)
        .bounds
        .landing
}

#[test]
fn what_was_added_is_known_to_the_next_process() {
    let (_folder, ledger) = ledger();
    assert!(
        !ledger
            .known("host2", "web1", Landing::Classic, silent)
            .has_history()
    );
    ledger.add("host2", landed("web1", 799), silent).unwrap();
    let again = Ledger::at(&ledger.file);
    assert_eq!(landing(&again, "web1"), Duration::from_millis(1_200));
}

#[test]
fn the_newest_of_each_guest_are_kept() {
    let (_folder, ledger) = ledger();
    ledger.add("host2", landed("web1", 60_000), silent).unwrap();
    ledger.add("host2", landed("db1", 7_999), silent).unwrap();
    for _ in 0..KEPT {
        ledger.add("host2", landed("web1", 79), silent).unwrap();
    }
    assert_eq!(landing(&ledger, "web1"), Duration::from_millis(90));
    assert_eq!(landing(&ledger, "db1"), Duration::from_secs(12));
}

#[test]
fn however_many_guests_there_are_the_file_stays_small() {
    let mut book = Book::default();
    for number in 0..KEPT_IN_ALL + 50 {
        let guest = format!("guest{number}");
        let host = format!("host{}", number % 7);
        book.add(&host, landed(&guest, 1), number as u64);
    }
    let kept = book.destinations.values().map(Vec::len).sum::<usize>();
    assert_eq!(kept, KEPT_IN_ALL);
    let newest = format!("guest{}", KEPT_IN_ALL + 49);
    assert!(
        book.destinations
            .values()
            .flatten()
            .any(|e| e.is_of(&newest))
    );
    assert!(serde_json::to_vec_pretty(&book).unwrap().len() < MAX_FILE_BYTES as usize / 2);
}

#[test]
fn the_first_schema_is_read_and_dated() {
    let old = r#"{"schema":1,"destinations":{"host2":[
        {"suspend_ms":79,"final_bitmap_ms":1,"cpu_state_ms":3,"landing_ms":799}]}}"#;
    let (_folder, ledger) = holding(old);
    let known = ledger.known("host2", "web1", Landing::Classic, silent);
    assert_eq!(known.bounds.landing, Duration::from_millis(1_200));
    assert_eq!(known.bounds.suspend, Duration::from_millis(120));
    ledger.add("host3", landed("web1", 1), silent).unwrap();
    let book = ledger.try_read().unwrap();
    assert_eq!(book.schema, SCHEMA);
    assert!(book.destinations["host2"][0].at.is_some());
}

/// What is not known is not written: an entry without the pages is the same as ever.
#[test]
fn pages_of_a_stop_are_kept_and_absent_from_older_entries() {
    let old = r#"{"schema":2,"destinations":{"host2":[{"guest":"web1","landing_ms":799}]}}"#;
    let (_folder, ledger) = holding(old);
    let pages = || ledger.known_wherever("web1", silent).suspend_pages;
    assert_eq!(pages(), SuspendPages::DEFAULT);
    ledger.add("host2", landed("web1", 799), silent).unwrap();
    let text = || fs::read_to_string(&ledger.file).unwrap();
    assert!(!text().contains("suspend_pages"));
    let stopped = Entry {
        guest: Some("web1".to_owned()),
        suspend_pages: Some(200),
        ..Entry::default()
    };
    assert!(!stopped.is_empty());
    ledger.add("host2", stopped, silent).unwrap();
    assert!(text().contains("\"suspend_pages\": 200"));
    let seen = SuspendPages {
        expected: 200,
        most: 450,
    };
    assert_eq!(pages(), seen);
}

#[test]
fn garbage_is_set_aside_and_said() {
    let whole = r#"{"schema":2,"destinations":{"host2":[{"landing_ms":7}]}}"#;
    let truncated = (0..whole.len()).map(|length| whole[..length].to_owned());
    let others = [
        "[]",
        r#"{"schema":9,"destinations":{}}"#,
        "\u{0}",
        "\u{feff}{}",
    ];
    for garbage in truncated.chain(others.map(str::to_owned)) {
        let (_folder, ledger) = holding(&garbage);
        let mut said = String::new();
        let known = ledger.known("host2", "web1", Landing::Classic, |line| {
            said.push_str(line);
        });
        assert!(!known.has_history());
        assert!(said.contains("is not understood"), "{garbage}: {said}");
        // A lookup moves nothing aside.
        assert_eq!(fs::read_to_string(&ledger.file).unwrap(), garbage);
        let entry = landed("web1", 1);
        let set_aside = |line: &str| assert!(line.contains("set aside"), "{garbage}: {line}");
        ledger.add("host2", entry, set_aside).unwrap();
        let aside = ledger.file.with_extension("unreadable");
        assert_eq!(fs::read_to_string(aside).unwrap(), garbage);
    }
}

#[test]
fn a_ledger_that_cannot_be_read_stays_where_it_is() {
    let (_folder, ledger) = ledger();
    fs::create_dir_all(&ledger.file).unwrap();
    let mut said = String::new();
    let known = ledger.known("host2", "web1", Landing::Classic, |line| {
        said.push_str(line);
    });
    assert!(!known.has_history());
    assert!(said.contains("cannot be read"), "{said}");
    let added = ledger.add("host2", landed("web1", 1), silent);
    assert!(added.is_err() && ledger.file.is_dir());
}

#[test]
fn what_could_not_be_written_is_as_it_was() {
    let (_folder, ledger) = holding(r#"{"schema":2,"destinations":{}}"#);
    let fresh = ledger.file.with_extension("new");
    fs::create_dir(&fresh).unwrap();
    assert!(ledger.add("host2", landed("web1", 1), silent).is_err());
    fs::remove_dir(&fresh).unwrap();
    assert_eq!(ledger.try_read().unwrap().schema, SCHEMA);
    ledger.add("host2", landed("web1", 1), silent).unwrap();
}

/// A figure that includes xl's handshake is not taken for one that does not, and it stays so
/// when the file is written anew.
#[test]
fn a_fast_landing_of_an_older_lull_had_its_handshake_last() {
    let older = r#"{"schema":2,"destinations":{"host2":[{"at":4000000000,"guest":"web1","landing":"fast","landing_ms":599}]}}"#;
    let (_folder, ledger) = holding(older);
    let newer = Entry {
        landing: Landing::Fast,
        ..landed("web1", 79)
    };
    for (added, fast) in [(None, 1_000), (Some(newer), 120)] {
        if let Some(entry) = added {
            ledger.add("host2", entry, silent).unwrap();
        }
        for (landing, ms) in [(Landing::FastHandshakeLast, 900), (Landing::Fast, fast)] {
            let known = ledger.known("host2", "web1", landing, silent);
            assert_eq!(
                known.bounds.landing,
                Duration::from_millis(ms),
                "{landing:?}"
            );
        }
    }
}

#[test]
fn a_destination_can_be_forgotten() {
    let (_folder, ledger) = ledger();
    assert_eq!(ledger.forget("host2", silent).unwrap(), 0);
    ledger.add("host2", landed("web1", 799), silent).unwrap();
    ledger.add("host3", landed("web1", 799), silent).unwrap();
    assert_eq!(ledger.forget("host2", silent).unwrap(), 1);
    assert!(
        !ledger
            .known("host2", "web1", Landing::Classic, silent)
            .has_history()
    );
    assert!(
        ledger
            .known("host3", "web1", Landing::Classic, silent)
            .has_history()
    );
}

#[test]
fn a_guest_can_be_forgotten_wherever_it_went() {
    let (_folder, ledger) = ledger();
    for (host, guest) in [("host2", "web1"), ("host3", "web1"), ("host3", "web2")] {
        ledger.add(host, landed(guest, 799), silent).unwrap();
    }
    assert_eq!(ledger.forget_guest("web1", silent).unwrap(), 2);
    assert_eq!(ledger.forget_guest("web1", silent).unwrap(), 0);
    let landings = |host| {
        let known = ledger.known(host, "web2", Landing::Classic, silent);
        known.landings
    };
    assert_eq!((landings("host2"), landings("host3")), (0, 1));
}

#[test]
fn a_destination_that_is_not_known_brings_those_like_it() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::at(folder.path().join("ledger.json"));
    assert!(ledger.like("host2").is_empty());
    for known in ["host2", "mars"] {
        ledger.add(known, Entry::default(), |_| {}).unwrap();
    }
    assert_eq!(ledger.like("hsot2"), ["host2"]);
    assert!(ledger.like("192.0.2.7").is_empty());
}
