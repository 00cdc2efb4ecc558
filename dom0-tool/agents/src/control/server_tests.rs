use std::io::{BufRead, BufReader};
use std::path::Path;

use lull_wire::events::{Ended, How};
use tempfile::TempDir;

use super::*;

struct Fixture {
    _root: TempDir,
    server: Server,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let server = Server::open(&folder, 7, Instant::now()).unwrap();
        Self {
            _root: root,
            server,
        }
    }

    fn connect(&self) -> BufReader<UnixStream> {
        let socket = UnixStream::connect(&self.server.path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        BufReader::new(socket)
    }

    /// Runs turns of the loop until an answer arrives, or many turns have brought none.
    fn until_answered(&mut self, client: &mut BufReader<UnixStream>) -> Option<Answer> {
        let mut line = String::new();
        for _ in 0..1_000 {
            assert_eq!(self.server.turn(), None);
            match client.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) if line.ends_with('\n') => {
                    return Some(serde_json::from_str::<Line<Answer>>(&line).unwrap().said);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                _ => {}
            }
        }
        panic!("neither an answer nor an end");
    }

    fn until_request(&mut self) -> Request {
        for _ in 0..1_000 {
            if let Some(request) = self.server.turn() {
                return request;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no request came");
    }

    fn until_clients(&mut self, count: usize) {
        for _ in 0..1_000 {
            self.server.turn();
            if self.server.clients.len() == count {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("{} clients", self.server.clients.len());
    }
}

fn say(client: &mut BufReader<UnixStream>, text: &str) {
    client.get_mut().write_all(text.as_bytes()).unwrap();
}

const STATUS: &str = "{\"schema\":1,\"command\":\"status\"}\n";
const WATCH: &str = "{\"schema\":1,\"command\":\"watch\"}\n";
const CANCEL: &str = "{\"schema\":1,\"command\":\"cancel\"}\n";

fn ended() -> Event {
    Event::Ended(Ended {
        reason: "because".to_owned(),
        ..Ended::so(How::Cancelled)
    })
}

#[test]
fn a_status_is_answered_and_asked_for_again() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    for _ in 0..3 {
        say(&mut client, STATUS);
        let Some(Answer::Status(status)) = fixture.until_answered(&mut client) else {
            panic!("no status");
        };
        assert_eq!((status.domid, status.phase), (7, Phase::Preparing));
    }
}

#[test]
fn who_closes_its_half_still_hears_the_answer() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    say(&mut client, STATUS);
    client
        .get_ref()
        .shutdown(std::net::Shutdown::Write)
        .unwrap();
    assert!(matches!(
        fixture.until_answered(&mut client),
        Some(Answer::Status(_))
    ));
    fixture.until_clients(0);
}

#[test]
fn a_request_is_passed_on_and_its_answer_goes_to_its_client() {
    let mut fixture = Fixture::new();
    let (mut other, mut client) = (fixture.connect(), fixture.connect());
    say(&mut client, CANCEL);
    assert_eq!(fixture.until_request(), Request::Cancel);
    let first = fixture.server.asking;
    // The server hands out one request at a time.
    say(&mut other, CANCEL);
    for _ in 0..50 {
        assert_eq!(fixture.server.turn(), None);
    }
    let said = "cancelling".to_owned();
    fixture.server.answer(Answer::Done { said: said.clone() });
    assert_eq!(
        fixture.until_answered_after_requests(&mut client),
        Answer::Done { said }
    );
    assert!(fixture.server.asking.is_some() && fixture.server.asking != first);
}

impl Fixture {
    fn until_answered_after_requests(&mut self, client: &mut BufReader<UnixStream>) -> Answer {
        let mut line = String::new();
        for _ in 0..1_000 {
            self.server.turn();
            if client.read_line(&mut line).is_ok_and(|length| length > 0) && line.ends_with('\n') {
                return serde_json::from_str::<Line<Answer>>(&line).unwrap().said;
            }
        }
        panic!("no answer");
    }
}

#[test]
fn garbage_in_any_form_is_dropped() {
    for garbage in [
        "\n",
        "hello\n",
        "{\"schema\":1,\"command\":\"explode\"}\n",
        "{\"schema\":2,\"command\":\"status\"}\n",
        "{\"command\":\"status\"}\n",
        "[[[[[[[[[[[[[[[[\n",
        "\0\0\0\n",
    ] {
        let mut fixture = Fixture::new();
        let mut client = fixture.connect();
        say(&mut client, garbage);
        let answer = fixture.until_answered(&mut client);
        assert!(
            matches!(answer, Some(Answer::Refused { .. })),
            "{garbage:?}"
        );
        fixture.until_clients(0);
    }
}

#[test]
fn an_endless_line_is_dropped() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    say(&mut client, &"x".repeat(4 * MAX_LINE_BYTES));
    assert_eq!(fixture.until_answered(&mut client), None);
    fixture.until_clients(0);
}

#[test]
fn who_says_nothing_is_dropped_in_time_and_makes_room() {
    let mut fixture = Fixture::new();
    fixture.server.patience = Duration::from_millis(300);
    let dead: Vec<_> = (0..2 * CLIENTS).map(|_| fixture.connect()).collect();
    fixture.until_clients(CLIENTS);
    let mut client = fixture.connect();
    say(&mut client, STATUS);
    assert!(fixture.until_answered(&mut client).is_some());
    drop(dead);
}

#[test]
fn who_watches_and_never_reads_costs_no_memory_and_goes() {
    let mut fixture = Fixture::new();
    let mut slow = fixture.connect();
    say(&mut slow, WATCH);
    fixture.until_clients(1);
    let mut most = 0;
    for _ in 0..2_000 {
        fixture.server.note(&ended_round());
        fixture.server.turn();
        let unsent = fixture.server.clients.first().map(|c| c.unsent.len());
        most = most.max(unsent.unwrap_or(0));
    }
    assert!(most < 32 << 10, "{most} bytes are kept");
    fixture.server.patience = Duration::ZERO;
    fixture.until_clients(0);
}

fn ended_round() -> Event {
    Event::Round(lull_wire::events::Round {
        at_ms: 1,
        round: 1,
        pages_sent: 1,
        pages_dirtied: 1,
        duration_ms: 1,
        transfer_rate: Some(1),
        dirty_rate: Some(1),
        predicted_downtime_ms: Some(1),
        expected_downtime_ms: Some(150),
        rests_on: None,
        decision: "another-round".to_owned(),
    })
}

#[test]
fn who_asks_and_never_reads_is_not_answered_for_ever() {
    let mut fixture = Fixture::new();
    let mut slow = fixture.connect();
    slow.get_ref()
        .set_write_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let mut most = 0;
    for _ in 0..300 {
        let _ = slow.get_mut().write(STATUS.as_bytes());
        fixture.server.turn();
        let unsent = fixture.server.clients.first().map(|c| c.unsent.len());
        most = most.max(unsent.unwrap_or(0));
    }
    assert!(most < 32 << 10, "{most} bytes are kept");
}

#[test]
fn a_watcher_sees_every_change_and_the_end() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    say(&mut client, WATCH);
    assert!(fixture.until_answered(&mut client).is_some());
    fixture.server.note(&ended_round());
    let Some(Answer::Status(status)) = fixture.until_answered(&mut client) else {
        panic!("no change");
    };
    assert_eq!(status.rounds.len(), 1);
    fixture.server.note(&ended());
    let Some(Answer::Status(status)) = fixture.until_answered(&mut client) else {
        panic!("no end");
    };
    assert_eq!(status.ended.unwrap().reason, "because");
}

#[test]
fn however_many_watch_there_is_room_to_cancel() {
    let mut fixture = Fixture::new();
    let mut watching = Vec::new();
    for _ in 0..WATCHERS {
        let mut client = fixture.connect();
        say(&mut client, WATCH);
        assert!(fixture.until_answered(&mut client).is_some());
        watching.push(client);
    }
    let mut more = fixture.connect();
    say(&mut more, WATCH);
    let refused = fixture.until_answered(&mut more);
    assert!(matches!(refused, Some(Answer::Refused { .. })));
    let mut client = fixture.connect();
    say(&mut client, CANCEL);
    let request = std::iter::repeat_with(|| {
        std::thread::sleep(Duration::from_millis(1));
        fixture.server.turn()
    });
    let request = request.take(1_000).flatten().next();
    assert!(matches!(request, Some(Request::Cancel)));
}

/// The number of turns of the loop, [`GAP`] apart, until it returns a request.
fn turns_until_request(server: &mut Server) -> usize {
    for turns in 1..1_000 {
        std::thread::sleep(GAP);
        if server.turn().is_some() {
            return turns;
        }
    }
    panic!("no request came");
}

#[test]
fn who_cancels_does_not_queue_behind_a_crowd() {
    let mut fixture = Fixture::new();
    let _silent: Vec<_> = (1..CLIENTS).map(|_| fixture.connect()).collect();
    fixture.until_clients(CLIENTS - 1);
    let garbage = ["\n", "", "{\"schema\":1,", "[[[[\n"];
    let crowd = 64;
    for garbage in garbage.iter().cycle().take(crowd) {
        say(&mut fixture.connect(), garbage);
    }
    let mut client = fixture.connect();
    say(&mut client, CANCEL);
    let turns = turns_until_request(&mut fixture.server);
    assert!(turns <= crowd / ARRIVALS + 1, "{turns} turns");
}

#[test]
fn many_requests_of_one_client_do_not_hold_up_another() {
    let mut fixture = Fixture::new();
    let mut many = fixture.connect();
    say(
        &mut many,
        &"{\"schema\":1,\"command\":\"set\"}\n".repeat(20),
    );
    fixture.until_request();
    let mut client = fixture.connect();
    say(&mut client, CANCEL);
    fixture.until_clients(2);
    let said = || "no".to_owned();
    fixture.server.answer(Answer::Done { said: said() });
    let requests = [fixture.until_request(), {
        fixture.server.answer(Answer::Done { said: said() });
        fixture.until_request()
    }];
    assert!(requests.contains(&Request::Cancel), "{requests:?}");
}

#[test]
fn whose_words_lie_unread_is_not_sent_away() {
    let mut fixture = Fixture::new();
    let mut waiting: Vec<_> = (0..CLIENTS).map(|_| fixture.connect()).collect();
    fixture.until_clients(CLIENTS);
    // Simulate a stall of the server: everything happens before the next turn.
    say(&mut waiting[5], CANCEL);
    let _newcomers: Vec<_> = (0..CLIENTS).map(|_| fixture.connect()).collect();
    for client in &mut fixture.server.clients {
        client.moved_at -= PATIENCE_IN_A_CROWD;
    }
    assert_eq!(turns_until_request(&mut fixture.server), 1);
}

#[test]
fn who_lets_us_wait_gives_its_place_to_who_has_something_to_say() {
    let mut fixture = Fixture::new();
    let _silent: Vec<_> = (0..CLIENTS).map(|_| fixture.connect()).collect();
    fixture.until_clients(CLIENTS);
    let mut client = fixture.connect();
    say(&mut client, CANCEL);
    std::thread::sleep(GAP);
    assert_eq!(
        fixture.server.turn(),
        None,
        "they may take their time at first"
    );
    fixture.server.clients[3].moved_at -= PATIENCE_IN_A_CROWD;
    let slow = fixture.server.clients[3].id;
    assert_eq!(turns_until_request(&mut fixture.server), 1);
    assert_eq!(fixture.server.clients.len(), CLIENTS);
    assert!(
        fixture
            .server
            .clients
            .iter()
            .all(|client| client.id != slow)
    );
}

#[test]
fn a_loop_is_not_made_to_spin() {
    let mut fixture = Fixture::new();
    let mut client = fixture.connect();
    say(&mut client, &STATUS[..10]);
    fixture.until_clients(1);
    for _ in 0..100 {
        let _ = fixture.server.turn();
    }
    // The client was read a moment ago, so neither it nor a newcomer wakes the loop again.
    say(&mut client, &STATUS[10..20]);
    let _newcomer = fixture.connect();
    fixture.server.accepted = Some(Instant::now());
    fixture.server.clients[0].read_at = Some(Instant::now());
    assert_eq!(fixture.server.wake_on().len(), 0);
    // A client that has closed its end does not wake it either, however often it is polled.
    let mut gone = Fixture::new();
    let client = gone.connect();
    gone.until_clients(1);
    drop(client);
    gone.until_clients(0);
}

#[test]
fn the_path_goes_with_the_server() {
    let fixture = Fixture::new();
    let path = fixture.server.path.clone();
    assert!(Path::new(&path).exists());
    drop(fixture.server);
    assert!(!Path::new(&path).exists());
}
