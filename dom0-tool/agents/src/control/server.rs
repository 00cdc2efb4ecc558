//! The server end of a control socket. The helper serves it and, once the helper's part is
//! over, `lull migrate` does.
//!
//! The server is a part of the engine's loop. So nothing here blocks, and a turn costs a
//! bounded number of system calls whatever the clients do. Each client is read at most once
//! every [`GAP`]. A line is never longer than [`MAX_LINE_BYTES`]. A watching client gets a new
//! snapshot only after it has read the one before. A client that sends an invalid line, or
//! takes too long, is dropped. When all slots are taken, a new client replaces the slowest
//! one, so that `cancel` always gets through.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lull_base::lines::Lines;
use lull_store::running::folder::{self, Folder};
use lull_wire::control::{Answer, End, Line, MAX_LINE_BYTES, Phase, Request, SCHEMA};
use lull_wire::events::Event;
use lull_wire::json;
use lull_xen::DomId;
use rustix::net::sockopt::socket_peercred;

use super::status_snapshot::StatusSnapshot;

/// The most clients at once. More wait until one leaves, or is a [`Server::laggard`].
const CLIENTS: usize = 8;

/// The most times that one turn accepts new clients. This bounds clients that leave at
/// once.
const ARRIVALS: usize = 8;

/// The most clients that may watch. They may do so for ever, so places are kept free for
/// others.
const WATCHERS: usize = CLIENTS - 2;

/// The interval between two reads of the same client, and between two turns that accept new
/// ones.
const GAP: Duration = Duration::from_millis(20);

/// How long a client may take to send or to read a line.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The same while other clients wait for its place.
const PATIENCE_IN_A_CROWD: Duration = Duration::from_secs(1);

/// A control socket and its clients.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    snapshot: StatusSnapshot,
    clients: Vec<Client>,
    accepted: Option<Instant>,
    patience: Duration,
    next_id: u64,
    /// The id of the client that waits for the engine's answer.
    asking: Option<u64>,
}

impl Server {
    /// Opens the socket of a new migration.
    ///
    /// # Errors
    /// When the socket cannot be opened. The migration can then not be shown or steered.
    pub fn open(folder: &Folder, domid: DomId, start: Instant) -> io::Result<Self> {
        Self::showing(folder, StatusSnapshot::new(domid, start))
    }

    /// Opens the socket of a migration whose state is already known.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn showing(folder: &Folder, mut snapshot: StatusSnapshot) -> io::Result<Self> {
        let path = folder.prepare(snapshot.status().domid)?;
        let listener = UnixListener::bind(&path)?;
        let server = Self {
            listener,
            path,
            snapshot,
            clients: Vec::new(),
            accepted: None,
            patience: TIMEOUT,
            next_id: 0,
            asking: None,
        };
        server.listener.set_nonblocking(true)?;
        Ok(server)
    }

    /// Updates the snapshot with an event, and sends the last one to the watching clients.
    pub fn note(&mut self, event: &Event) {
        self.snapshot.note(event);
        if let Event::Ended(_) = event {
            self.send_all();
        }
    }

    /// Tells the watching clients that the migration is over.
    pub fn end(&mut self, end: End) {
        self.snapshot.end(end);
        self.send_all();
    }

    /// The migration's present phase.
    pub const fn phase(&self) -> Phase {
        self.snapshot.phase()
    }

    /// One turn: reads, answers and sends. Returns a request that only the engine can
    /// answer, one at a time: see [`Self::answer`].
    pub fn turn(&mut self) -> Option<Request> {
        // Read the connected clients before accepting new ones: requests may wait after a
        // stall here.
        let mut for_engine = self.recv();
        self.send_all();
        let mut more = self.may_accept();
        for _ in 0..ARRIVALS {
            more = more && self.accept();
            for_engine = for_engine.or_else(|| self.recv());
            self.send_all();
            if !more {
                break;
            }
        }
        for_engine
    }

    /// Reads from every client and answers. Returns a request that is meant for the engine.
    fn recv(&mut self) -> Option<Request> {
        let mut for_engine = None;
        let mut watchers = self.clients.iter().filter(|c| c.watches.is_some()).count();
        let mut turns = 0;
        for client in &mut self.clients {
            turns += 1;
            client.read();
            // One request at a time, and none of a client that has not read its last
            // answer.
            if self.asking.is_some() || !client.unsent.is_empty() {
                continue;
            }
            let Some(request) = client.request() else {
                continue;
            };
            match request {
                Request::Status => {
                    let status = Box::new(self.snapshot.status().clone());
                    client.say(Answer::Status(status));
                }
                Request::Watch if client.watches.is_some() => {}
                Request::Watch if watchers >= WATCHERS => {
                    client.refuse_words(&format!("{WATCHERS} watch it already"));
                }
                Request::Watch => {
                    client.watches = Some(None);
                    watchers += 1;
                }
                steer => {
                    self.asking = Some(client.id);
                    for_engine = Some(steer);
                    break;
                }
            }
        }
        if for_engine.is_some() {
            // The other clients' requests come before the next one of this client.
            self.clients.rotate_left(turns);
        }
        for_engine
    }

    /// Answers the request that [`Self::turn`] returned last.
    pub fn answer(&mut self, answer: Answer) {
        let asking = self.asking.take();
        if let Some(client) = self.clients.iter_mut().find(|c| Some(c.id) == asking) {
            client.say(answer);
        }
        self.send_all();
    }

    /// The descriptors to poll. Clients that were read a moment ago are left out, so that
    /// no client can make the loop spin.
    pub fn wake_on(&self) -> Vec<BorrowedFd<'_>> {
        let clients = self.clients.iter().filter(|client| client.may_be_read());
        let mut fds: Vec<_> = clients.map(|client| client.socket.as_fd()).collect();
        if self.may_accept() {
            fds.push(self.listener.as_fd());
        }
        fds
    }

    fn may_accept(&self) -> bool {
        let rested = self.accepted.is_none_or(|at| at.elapsed() >= GAP);
        rested && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.clients.len() < CLIENTS || self.laggard().is_some()
    }

    /// Accepts as many clients as there is room for. Returns whether any came.
    fn accept(&mut self) -> bool {
        let mut came = false;
        for _ in 0..CLIENTS {
            if !self.has_room() {
                break;
            }
            let Ok((socket, _)) = self.listener.accept() else {
                break;
            };
            came = true;
            self.accepted = Some(Instant::now());
            if is_ours(&socket) && socket.set_nonblocking(true).is_ok() {
                if self.clients.len() >= CLIENTS
                    && let Some(index) = self.laggard()
                {
                    self.clients.remove(index);
                }
                self.next_id += 1;
                self.clients.push(Client::new(self.next_id, socket));
            }
        }
        came
    }

    /// The index of the slowest client that a newcomer may replace. It has neither sent nor
    /// read anything for longer than is permitted in a crowd, and the server does not owe
    /// it an answer.
    fn laggard(&self) -> Option<usize> {
        let patience = self.patience.min(PATIENCE_IN_A_CROWD);
        let slow = |client: &Client| {
            self.asking != Some(client.id)
                && !client.has_seen_all()
                && !client.waits_for_us()
                && client.moved_at.elapsed() >= patience
        };
        let clients = self.clients.iter().enumerate();
        let slow = clients.filter(|(_, client)| slow(client));
        let longest = slow.min_by_key(|(_, client)| client.moved_at);
        longest.map(|(index, _)| index)
    }

    fn send_all(&mut self) {
        let changes = self.snapshot.changes();
        let mut fresh = None;
        for client in &mut self.clients {
            let behind = client.watches.is_some_and(|seen| seen != Some(changes));
            let last_word = matches!(self.snapshot.phase(), Phase::Landing | Phase::Ended);
            if behind && (client.unsent.is_empty() || last_word) {
                let status = fresh.get_or_insert_with(|| self.snapshot.status().clone());
                client.watches = Some(Some(changes));
                client.say(Answer::Status(Box::new(status.clone())));
            }
            client.send();
        }
        let (asking, patience) = (self.asking, self.patience);
        self.clients.retain(|client| {
            let waits = asking == Some(client.id) && !client.broken;
            waits || client.is_kept(patience)
        });
    }
}

/// Removes the socket, so that no client finds it any more.
impl Drop for Server {
    fn drop(&mut self) {
        folder::remove(&self.path);
    }
}

/// The folder keeps other users out. This check holds even if its permissions were changed.
fn is_ours(socket: &UnixStream) -> bool {
    let ourselves = rustix::process::geteuid();
    socket_peercred(socket).is_ok_and(|peer| peer.uid.is_root() || peer.uid == ourselves)
}

struct Client {
    id: u64,
    socket: UnixStream,
    /// What was read and not answered yet.
    lines: Lines,
    unsent: Vec<u8>,
    /// Set for a watching client: the change count of the last snapshot sent to it.
    watches: Option<Option<u64>>,
    read_at: Option<Instant>,
    /// When the client last sent or accepted something.
    moved_at: Instant,
    /// The client has closed its sending end.
    silent: bool,
    broken: bool,
}

impl Client {
    fn new(id: u64, socket: UnixStream) -> Self {
        Self {
            id,
            socket,
            // Of these bytes one ends the line.
            lines: Lines::of(MAX_LINE_BYTES - 1),
            unsent: Vec::new(),
            watches: None,
            read_at: None,
            moved_at: Instant::now(),
            silent: false,
            broken: false,
        }
    }

    fn may_be_read(&self) -> bool {
        let rested = self.read_at.is_none_or(|at| at.elapsed() >= GAP);
        rested && !self.silent && !self.broken && self.lines.held() < MAX_LINE_BYTES
    }

    fn is_kept(&self, patience: Duration) -> bool {
        let busy = !self.unsent.is_empty() || self.lines.has_next();
        let done = self.silent && !busy && self.watches.is_none();
        let bides = self.has_seen_all() || self.waits_for_us();
        !self.broken && !done && (bides || self.moved_at.elapsed() < patience)
    }

    /// Whether the client has sent a request that is not handled yet.
    fn waits_for_us(&self) -> bool {
        self.unsent.is_empty() && self.lines.has_next()
    }

    /// Whether the client watches and has read everything. It then has nothing to do.
    fn has_seen_all(&self) -> bool {
        self.watches.is_some() && self.unsent.is_empty()
    }

    fn read(&mut self) {
        if !self.may_be_read() {
            return;
        }
        let mut chunk = [0; MAX_LINE_BYTES];
        // Read twice, to see the end of a client that has sent a line and left.
        for _ in 0..2 {
            let room = MAX_LINE_BYTES.saturating_sub(self.lines.held());
            if room == 0 {
                return;
            }
            match self.socket.read(&mut chunk[..room]) {
                Ok(0) => self.silent = true,
                Ok(length) => {
                    self.read_at = Some(Instant::now());
                    self.lines.push(&chunk[..length]);
                    continue;
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => self.broken = true,
            }
            return;
        }
    }

    /// The next request. A client that sends anything else is dropped.
    fn request(&mut self) -> Option<Request> {
        let Ok(line) = self.lines.next_line()? else {
            self.broken = true;
            return None;
        };
        self.moved_at = Instant::now();
        match serde_json::from_slice::<Line<Request>>(&line) {
            Ok(line) if line.schema == SCHEMA => Some(line.said),
            Ok(_) => self.refuse_words(&format!("this lull speaks schema {SCHEMA}")),
            Err(_) => self.refuse_words("no request"),
        }
    }

    fn refuse_words(&mut self, why: &str) -> Option<Request> {
        let why = why.to_owned();
        self.say(Answer::Refused { why });
        self.send();
        self.broken = true;
        None
    }

    /// At most one answer to a request is under way, and one snapshot, so memory is bounded
    /// by the number of clients.
    fn say(&mut self, answer: Answer) {
        let line = Line {
            schema: SCHEMA,
            said: answer,
        };
        if self.unsent.is_empty() {
            self.moved_at = Instant::now();
        }
        self.unsent.extend(json::line(&line).unwrap_or_default());
    }

    fn send(&mut self) {
        if self.unsent.is_empty() || self.broken {
            return;
        }
        match self.socket.write(&self.unsent) {
            Ok(0) => self.broken = true,
            Ok(count) => {
                self.unsent.drain(..count);
                self.moved_at = Instant::now();
            }
            Err(error) if is_passing(&error) => {}
            Err(_) => self.broken = true,
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
