//! Serves operators while the guest lands: the helper, which served the control socket
//! before, has ended, and the destination has not been sent GO.

use std::time::Instant;

use lull_agents::control::server::Server;
use lull_agents::control::status_snapshot::StatusSnapshot;
use lull_store::running::folder::Folder;
use lull_wire::control::{Answer, End, Request};
use lull_wire::events::{Event, How};
use lull_xen::DomId;

/// The control socket of an attempt, from the helper's end to the attempt's.
pub struct LandingControl<'a> {
    folder: &'a Folder,
    stage: Stage,
}

enum Stage {
    /// The helper serves the control socket.
    Helper(StatusSnapshot),
    /// This process serves the control socket.
    Here(Server),
    /// No process serves it.
    Closed,
}

impl<'a> LandingControl<'a> {
    /// Follows guest `domid`; the socket is created in `folder`.
    pub fn of(domid: DomId, folder: &'a Folder) -> Self {
        let stage = Stage::Helper(StatusSnapshot::new(domid, Instant::now()));
        Self { folder, stage }
    }

    /// Takes note of the helper's events. Once the helper has ended with a complete stream,
    /// this process takes over the control socket.
    pub fn note(&mut self, event: &Event) {
        let Stage::Helper(snapshot) = &mut self.stage else {
            return;
        };
        snapshot.note(event);
        let Event::Ended(ended) = event else {
            return;
        };
        let stage = std::mem::replace(&mut self.stage, Stage::Closed);
        if let (Stage::Helper(snapshot), How::StreamComplete) = (stage, ended.how)
            // If the socket cannot be opened, ^C still works.
            && let Ok(server) = Server::showing(self.folder, snapshot.taken_over())
        {
            self.stage = Stage::Here(server);
        }
    }

    /// Serves the control socket once, without blocking. Returns true if a client asks to
    /// cancel; the caller must then [answer](Self::answer).
    pub fn turn(&mut self) -> bool {
        let Stage::Here(server) = &mut self.stage else {
            return false;
        };
        match server.turn() {
            Some(Request::Cancel) => true,
            Some(Request::Set { .. } | Request::SwitchNow) => {
                let why = "too late: the guest is paused, and the destination has all of it";
                server.answer(Answer::Refused { why: why.into() });
                false
            }
            // The server answers these itself.
            Some(Request::Status | Request::Watch) | None => false,
        }
    }

    /// Answers the client that asked to cancel.
    pub fn answer(&mut self, answer: Answer) {
        if let Stage::Here(server) = &mut self.stage {
            server.answer(answer);
        }
    }

    /// Reports the end of the attempt and closes the socket.
    pub fn end(&mut self, how: How, reason: &str) {
        if let Stage::Here(server) = &mut self.stage {
            server.end(End {
                how,
                reason: reason.to_owned(),
                advice: String::new(),
            });
        }
        self.stage = Stage::Closed;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use lull_wire::control::{Line, Phase};
    use lull_wire::events::Ended;

    struct Client(BufReader<UnixStream>);

    impl Client {
        fn of(folder: &Folder) -> Self {
            let [found] = folder.sockets().unwrap().try_into().unwrap();
            let socket = UnixStream::connect(found.path).unwrap();
            Self(BufReader::new(socket))
        }

        fn say(&mut self, command: &str) {
            let line = format!("{{\"schema\":1,\"command\":\"{command}\"}}\n");
            self.0.get_mut().write_all(line.as_bytes()).unwrap();
        }

        fn recv(&mut self) -> Answer {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            serde_json::from_str::<Line<Answer>>(&line).unwrap().said
        }
    }

    /// Serves until a client asks to cancel, for a limited number of turns.
    fn turns(control: &mut LandingControl<'_>) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            control.turn()
        })
    }

    fn ended(how: How) -> Event {
        Event::Ended(Ended::so(how))
    }

    #[test]
    fn there_is_a_socket_from_the_helpers_good_end_to_the_attempts() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let mut control = LandingControl::of(7, &folder);
        assert_eq!(folder.sockets().unwrap(), []);
        control.note(&ended(How::StreamComplete));

        let mut client = Client::of(&folder);
        client.say("status");
        assert!(!turns(&mut control));
        let Answer::Status(status) = client.recv() else {
            panic!("no status");
        };
        assert_eq!((status.domid, status.phase), (7, Phase::Landing));
        assert_eq!(status.ended, None);

        client.say("switch-now");
        assert!(!turns(&mut control));
        assert!(matches!(client.recv(), Answer::Refused { why } if why.contains("too late")));

        client.say("cancel");
        assert!(turns(&mut control));
        let said = "cancelling".to_owned();
        control.answer(Answer::Done { said: said.clone() });
        assert_eq!(client.recv(), Answer::Done { said });

        client.say("watch");
        assert!(!turns(&mut control));
        assert!(matches!(client.recv(), Answer::Status(status) if status.ended.is_none()));
        control.end(How::Cancelled, "cancelled");
        let Answer::Status(status) = client.recv() else {
            panic!("no status");
        };
        assert_eq!(status.ended.map(|end| end.how), Some(How::Cancelled));
        assert_eq!(folder.sockets().unwrap(), []);
    }

    #[test]
    fn after_a_helper_that_gave_up_there_is_nothing_to_ask() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::at(root.path().join("lull"));
        let mut control = LandingControl::of(7, &folder);
        control.note(&ended(How::TargetFailed));
        control.note(&ended(How::StreamComplete));
        assert!(!control.turn());
        assert_eq!(folder.sockets().unwrap(), []);
    }
}
