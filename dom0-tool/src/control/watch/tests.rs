//! Sessions against the helper's real server, and against one that misbehaves.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Instant;

use lull_agents::control::server::Server;
use lull_agents::control::status_snapshot::StatusSnapshot;
use lull_store::running::folder::Folder;
use lull_wire::control::Status;
use lull_wire::events::{Ended, Event, How, Progress, Round};
use lull_xen::host::Guest;
use lull_xen::{DomId, DomainState};
use tempfile::TempDir;

use super::session::Host;
use super::*;
use crate::control::show::as_json;

/// The state of every guest of a fixture; `None` where Xen cannot be asked.
type Fares = Rc<Cell<Option<Option<DomainState>>>>;

struct Fixture {
    root: TempDir,
    servers: Vec<Server>,
    fares: Fares,
    json: bool,
    said: Vec<u8>,
}

struct Pretended {
    folder: Folder,
    fares: Fares,
}

impl Host for Pretended {
    fn sockets(&mut self) -> anyhow::Result<Vec<ControlSocket>> {
        Ok(self.folder.sockets()?)
    }

    fn names(&mut self) -> Vec<Guest> {
        let name = "web1".to_owned();
        vec![Guest { domid: 7, name }]
    }

    fn state(&mut self, _: DomId) -> io::Result<Option<DomainState>> {
        self.fares.get().ok_or_else(|| io::Error::other("no Xen"))
    }
}

impl Fixture {
    fn new(guests: &[DomId]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let open = |domid: &DomId| Server::open(&folder, *domid, Instant::now()).unwrap();
        Self {
            servers: guests.iter().map(open).collect(),
            root,
            fares: Rc::new(Cell::new(Some(Some(DomainState::IDLE)))),
            json: false,
            said: Vec::new(),
        }
    }

    fn session(&self, only: Option<DomId>) -> Session<Pretended> {
        let folder = Folder::at(self.root.path().join("lull"));
        let fares = Rc::clone(&self.fares);
        let mut session = Session::new(Pretended { folder, fares }, only);
        session.find().unwrap();
        session
    }

    /// Runs both loops in turn until `done`.
    fn until(&mut self, session: &mut Session<Pretended>, done: impl Fn(&[View<'_>]) -> bool) {
        let mut lines = Lines::new(&mut self.said, self.json);
        for _ in 0..5_000 {
            for server in &mut self.servers {
                assert_eq!(server.turn(), None);
            }
            session.turn(&mut |view| lines.print(&view)).unwrap();
            if done(&session.views()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("it does not come to that: {:?}", session.views());
    }

    fn said(&self) -> String {
        String::from_utf8(self.said.clone()).unwrap()
    }
}

fn is_over(views: &[View<'_>]) -> bool {
    views.iter().all(|view| view.last.is_some())
}

fn is_answered(views: &[View<'_>]) -> bool {
    views.iter().all(|view| view.status.is_some())
}

fn progress(round: u32) -> Event {
    Event::Progress(Progress {
        at_ms: 1_000,
        round,
        round_sent: 256,
        round_pages: 512,
        pages_sent: 51_200,
        dirty_pages: Some(4_210),
        transfer_rate: Some(85 << 20),
        dirty_rate: Some(1_024),
        predicted_downtime_ms: Some(480),
        expected_downtime_ms: Some(150),
    })
}

fn round(round: u32, decision: &str) -> Event {
    Event::Round(Round {
        at_ms: 2_000,
        round,
        pages_sent: 512,
        pages_dirtied: 300,
        duration_ms: 100,
        transfer_rate: None,
        dirty_rate: None,
        predicted_downtime_ms: Some(460),
        expected_downtime_ms: Some(150),
        rests_on: None,
        decision: decision.to_owned(),
    })
}

fn ended(how: How, reason: &str) -> Event {
    Event::Ended(Ended {
        reason: reason.to_owned(),
        ..Ended::so(how)
    })
}

#[test]
fn a_migration_is_followed_until_its_guest_has_gone() {
    let mut fixture = Fixture::new(&[7]);
    let mut session = fixture.session(Some(7));
    fixture.until(&mut session, is_answered);
    fixture.servers[0].note(&progress(0));
    fixture.until(&mut session, |views| {
        views[0]
            .status
            .is_some_and(|status| status.progress.is_some())
    });
    fixture.servers[0].note(&round(0, "suspend"));
    fixture.until(&mut session, |views| {
        views[0]
            .status
            .is_some_and(|status| !status.rounds.is_empty())
    });
    let suspended = DomainState {
        shutdown: Some(2),
        ..DomainState::IDLE
    };
    fixture.fares.set(Some(Some(suspended)));
    fixture.servers[0].note(&ended(How::StreamComplete, ""));
    fixture.until(&mut session, |views| {
        views[0].status.is_some_and(|status| status.ended.is_some())
    });
    fixture.servers.clear();
    for _ in 0..20 {
        fixture.until(&mut session, |_| true);
    }
    assert!(!session.is_over(), "it is landing");
    fixture.fares.set(Some(None));
    fixture.until(&mut session, is_over);
    assert_eq!(session.code(), 0);
    let said = fixture.said();
    assert!(said.starts_with("web1 (7): preparing; "), "{said}");
    assert!(said.contains("web1 (7): suspending"), "{said}");
    assert!(said.contains("round 0: suspend, pause 460 ms\n"), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("web1 (7): moved: it is gone from here"),
        "{said}"
    );
}

#[test]
fn a_helper_that_dies_in_the_middle_is_said_to_have() {
    let mut fixture = Fixture::new(&[7]);
    let mut session = fixture.session(None);
    fixture.servers[0].note(&progress(3));
    fixture.until(&mut session, is_answered);
    fixture.servers.clear();
    fixture.until(&mut session, is_over);
    assert_eq!(session.code(), 7);
    assert!(
        fixture
            .said()
            .ends_with("web1 (7): its helper died or was killed. It runs here.\n"),
        "{}",
        fixture.said()
    );
}

#[test]
fn of_two_the_other_goes_on_and_the_worse_code_counts() {
    let mut fixture = Fixture::new(&[7, 9]);
    fixture.json = true;
    let mut session = fixture.session(None);
    fixture.until(&mut session, is_answered);
    fixture.servers[1].note(&ended(How::RefusedDowntime, "too long"));
    fixture.until(&mut session, |views| views.iter().any(|v| v.last.is_some()));
    assert!(!session.is_over());
    assert_eq!(session.views()[0].title, "web1 (7)", "who runs comes first");
    fixture.servers[0].note(&ended(How::Cancelled, "asked to"));
    fixture.until(&mut session, is_over);
    assert_eq!(session.code(), 5);
    let said = fixture.said();
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().all(|line| line["schema"] == 1));
    let outcomes: Vec<_> = lines
        .iter()
        .filter(|line| line["type"] == "outcome")
        .map(|line| {
            (
                line["domid"].as_u64().unwrap(),
                line["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(outcomes, [(9, "refused-downtime"), (7, "cancelled")]);
    assert_eq!(lines.last().unwrap()["name"], "web1");
}

/// A helper's end of the socket that sends arbitrary bytes.
struct Scripted {
    listener: UnixListener,
}

impl Scripted {
    fn new(fixture: &Fixture) -> Self {
        let folder = Folder::at(fixture.root.path().join("lull"));
        let path = folder.prepare(7).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        Self { listener }
    }

    /// Accepts a client and reads its request to watch.
    fn accept(&self) -> UnixStream {
        let (socket, _) = self.listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line).unwrap();
        assert_eq!(line, "{\"schema\":1,\"command\":\"watch\"}\n");
        socket
    }
}

fn status() -> Status {
    StatusSnapshot::new(7, Instant::now()).status().clone()
}

fn status_line() -> String {
    as_json(status()) + "\n"
}

#[test]
fn a_line_in_two_halves_is_one_line() {
    let mut fixture = Fixture::new(&[]);
    let helper = Scripted::new(&fixture);
    let mut session = fixture.session(None);
    let mut socket = helper.accept();
    let line = status_line();
    let (one, other) = line.as_bytes().split_at(40);
    socket.write_all(one).unwrap();
    fixture.until(&mut session, |_| true);
    fixture.until(&mut session, |_| true);
    assert!(!is_answered(&session.views()));
    socket.write_all(other).unwrap();
    fixture.until(&mut session, is_answered);
}

#[test]
fn who_was_hung_up_on_asks_again_as_long_as_it_is_answered() {
    let mut fixture = Fixture::new(&[]);
    let helper = Scripted::new(&fixture);
    let mut session = fixture.session(None);
    helper.accept().write_all(status_line().as_bytes()).unwrap();
    fixture.until(&mut session, is_answered);
    fixture.until(&mut session, |_| true);
    assert!(!session.is_over());
    // When the helper hangs up without an answer, the session takes it for dead.
    drop(helper.accept());
    fixture.until(&mut session, is_over);
    assert_eq!(session.code(), 7);
}

#[test]
fn what_is_not_understood_ends_the_watching_and_says_so() {
    for line in [
        "nonsense\n",
        "{\"schema\":1,\"type\":\"refused\",\"why\":\"this lull speaks schema 2\"}\n",
    ] {
        let mut fixture = Fixture::new(&[]);
        let helper = Scripted::new(&fixture);
        let mut session = fixture.session(None);
        helper.accept().write_all(line.as_bytes()).unwrap();
        fixture.until(&mut session, is_over);
        assert_eq!(session.code(), 8);
        assert!(
            fixture.said().contains("is not known"),
            "{}",
            fixture.said()
        );
    }
}

#[test]
fn a_reader_who_has_gone_is_noticed() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new(&[7]);
    let mut lines = Lines::new(Gone, false);
    let session = fixture.session(None);
    lines.print(&session.views()[0]);
    assert!(!lines.is_closed(), "nothing was to be said yet");
    let status = status();
    let view = View {
        status: Some(&status),
        ..session.views()[0].clone()
    };
    lines.print(&view);
    assert!(lines.is_closed());
}

#[test]
fn there_is_an_end_to_how_many_are_watched() {
    let guests: Vec<DomId> = (1..=20).collect();
    let fixture = Fixture::new(&guests);
    let session = fixture.session(None);
    assert_eq!((session.views().len(), session.left_out()), (16, 4));
}
