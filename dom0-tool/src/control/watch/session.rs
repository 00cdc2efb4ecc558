//! The watched migrations: a connection to each helper, and its last status.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use lull_store::running::folder::ControlSocket;
use lull_wire::control::{Answer, Phase, Request, Status};
use lull_xen::host::Guest;
use lull_xen::{self as xen, DomId, DomainState};

use super::View;
use super::outcome::{self, Ending, Last};
use crate::control::client::{self, Connection, Received};

/// The most migrations watched at once. A host has far fewer.
const MAX_MIGRATIONS: usize = 16;

/// The interval between two searches for new migrations.
const SEARCH: Duration = Duration::from_secs(1);

/// How long one turn waits for one helper.
const LISTEN: Duration = Duration::from_millis(1);

/// The most lines taken from one helper in a turn.
const LINES: usize = 64;

/// What the session needs to know of the host.
pub trait Host {
    /// The control sockets of the migrations under way.
    fn sockets(&mut self) -> anyhow::Result<Vec<ControlSocket>>;
    /// The guests with their names. Empty if they cannot be read.
    fn names(&mut self) -> Vec<Guest>;
    /// The state of a guest's domain.
    fn state(&mut self, domid: DomId) -> io::Result<Option<DomainState>>;
}

/// The host on which this process runs.
pub struct ThisHost;

impl Host for ThisHost {
    fn sockets(&mut self) -> anyhow::Result<Vec<ControlSocket>> {
        client::sockets()
    }

    fn names(&mut self) -> Vec<Guest> {
        client::names()
    }

    fn state(&mut self, domid: DomId) -> io::Result<Option<DomainState>> {
        xen::state(domid)
    }
}

/// The migrations being watched.
pub struct Session<H> {
    host: H,
    only: Option<DomId>,
    names: HashMap<DomId, String>,
    all: Vec<Watched>,
    searched: Option<Instant>,
    left_out: usize,
    code: u8,
}

impl<H: Host> Session<H> {
    /// Watches every migration, or those of one guest.
    pub fn new(host: H, only: Option<DomId>) -> Self {
        Self {
            host,
            only,
            names: HashMap::new(),
            all: Vec::new(),
            searched: None,
            left_out: 0,
            code: 0,
        }
    }

    /// Searches for migrations that are not watched yet.
    ///
    /// # Errors
    /// When this process has no root rights.
    pub fn find(&mut self) -> anyhow::Result<()> {
        self.searched = Some(Instant::now());
        self.left_out = 0;
        for socket in self.host.sockets()? {
            // The process that takes over for the landing is not another migration of the
            // guest.
            let known = self.all.iter().any(|watched| {
                let under_way = watched.last().is_none();
                watched.socket == socket || (watched.socket.domid == socket.domid && under_way)
            });
            if known || self.only.is_some_and(|domid| domid != socket.domid) {
                continue;
            }
            if !self.has_room() {
                self.left_out += 1;
                continue;
            }
            let Some(line) = connect(&socket)? else {
                continue;
            };
            let title = self.title(socket.domid);
            self.all.push(Watched::new(socket, title, line));
        }
        Ok(())
    }

    /// Whether one more can be watched. Forgets a migration that is over, if that makes
    /// room.
    fn has_room(&mut self) -> bool {
        if self.all.len() >= MAX_MIGRATIONS {
            let over = self.all.iter().position(|watched| watched.last().is_some());
            over.map(|index| self.all.remove(index)).is_some()
        } else {
            true
        }
    }

    /// The guest's title. The name is read once, because xl renames a guest that has moved.
    fn title(&mut self, domid: DomId) -> String {
        if !self.names.contains_key(&domid) {
            let names = self.host.names();
            self.names
                .extend(names.into_iter().map(|guest| (guest.domid, guest.name)));
        }
        match self.names.get(&domid) {
            Some(name) => format!("{name} ({domid})"),
            None => format!("domain {domid}"),
        }
    }

    /// Reads from every helper, and reports each change through `report`.
    ///
    /// # Errors
    /// When this process has no root rights.
    pub fn turn(&mut self, report: &mut dyn FnMut(View<'_>)) -> anyhow::Result<()> {
        // A session for one guest ends with that migration, whatever follows.
        let due = self.searched.is_none_or(|at| at.elapsed() >= SEARCH);
        if due && (self.only.is_none() || self.searched.is_none()) {
            self.find()?;
        }
        for watched in &mut self.all {
            let name = self.names.get(&watched.socket.domid);
            watched.recv(name, report);
            let over = watched.follow(&mut self.host);
            if over {
                self.code = self.code.max(watched.last().map_or(0, |last| last.code));
                report(watched.view());
            }
        }
        Ok(())
    }

    /// Whether all watched migrations are over.
    pub fn is_over(&self) -> bool {
        self.all.iter().all(|watched| watched.last().is_some())
    }

    /// The exit code: the highest of all outcomes.
    pub const fn code(&self) -> u8 {
        self.code
    }

    /// The number of migrations beyond the most that can be watched.
    #[cfg(any(feature = "terminal", test))]
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Views of all migrations, with those under way first.
    #[cfg(any(feature = "terminal", test))]
    pub fn views(&self) -> Vec<View<'_>> {
        let mut views: Vec<_> = self.all.iter().map(Watched::view).collect();
        views.sort_by_key(|view| view.last.is_some());
        views
    }
}

fn connect(socket: &ControlSocket) -> anyhow::Result<Option<Connection>> {
    let mut line = Connection::to(socket.clone())?;
    // A helper that has gone meanwhile is noticed at the next read.
    if let Some(line) = &mut line {
        let _ = line.say(Request::Watch);
    }
    Ok(line)
}

struct Watched {
    socket: ControlSocket,
    title: String,
    status: Option<Status>,
    last_message_at: Instant,
    /// The helper has sent something since the last connect.
    answered: bool,
    stage: Stage,
}

enum Stage {
    /// The helper is connected.
    Live(Connection),
    /// The helper's part is over, and the session watches where the guest ends up.
    Follow { ending: Ending, since: Instant },
    /// The outcome is known.
    Over(Last),
}

impl Watched {
    fn new(socket: ControlSocket, title: String, line: Connection) -> Self {
        Self {
            socket,
            title,
            status: None,
            last_message_at: Instant::now(),
            answered: false,
            stage: Stage::Live(line),
        }
    }

    fn recv(&mut self, name: Option<&String>, report: &mut dyn FnMut(View<'_>)) {
        for _ in 0..LINES {
            let Stage::Live(line) = &mut self.stage else {
                return;
            };
            match line.recv(LISTEN) {
                Ok(Received::Nothing) => return,
                Ok(Received::Answer(Answer::Status(status))) => {
                    self.take(*status, name);
                    report(self.view());
                }
                Ok(Received::Answer(Answer::Refused { why } | Answer::Done { said: why })) => {
                    let why = format!("its helper does not let itself be watched: {why}");
                    return self.end(Ending::NotUnderstood(why));
                }
                Ok(Received::End) => return self.lost(),
                Err(error) => return self.end(Ending::NotUnderstood(format!("{error:#}"))),
            }
        }
    }

    fn take(&mut self, mut status: Status, name: Option<&String>) {
        status.name = name.cloned();
        self.last_message_at = Instant::now();
        self.answered = true;
        let ending = status.ended.clone();
        self.status = Some(status);
        if let Some(end) = ending {
            self.end(Ending::Reported(end));
        }
    }

    /// Handles a closed connection. A helper also closes it on a client that does not read
    /// for long, as behind a stopped terminal, so the helper may still be there. The
    /// session connects again only if the helper has sent something since the last time, so
    /// it does not retry without end.
    fn lost(&mut self) {
        let answered = std::mem::take(&mut self.answered);
        let again = answered.then(|| connect(&self.socket).ok().flatten());
        match again.flatten() {
            Some(line) => self.stage = Stage::Live(line),
            None => self.end(Ending::Died),
        }
    }

    fn end(&mut self, ending: Ending) {
        let since = Instant::now();
        self.stage = Stage::Follow { ending, since };
    }

    /// Checks where the guest is. Returns whether the migration has ended with that.
    fn follow(&mut self, host: &mut impl Host) -> bool {
        let Stage::Follow { ending, since } = &self.stage else {
            return false;
        };
        let state = host.state(self.socket.domid);
        match outcome::of(&self.title, ending, &state, since.elapsed()) {
            Some(last) => {
                self.stage = Stage::Over(last);
                true
            }
            None => false,
        }
    }

    const fn last(&self) -> Option<&Last> {
        match &self.stage {
            Stage::Over(last) => Some(last),
            Stage::Live(_) | Stage::Follow { .. } => None,
        }
    }

    fn view(&self) -> View<'_> {
        let silent = self.last_message_at.elapsed();
        let runs = |status: &Status| matches!(status.phase, Phase::Preparing | Phase::Copying);
        let since = match &self.stage {
            Stage::Live(_) if self.status.as_ref().is_some_and(runs) => silent.as_millis() as u64,
            _ => 0,
        };
        View {
            socket: &self.socket,
            title: &self.title,
            status: self.status.as_ref(),
            at_ms: (self.status.as_ref()).map_or(0, |status| status.at_ms.saturating_add(since)),
            #[cfg(feature = "terminal")]
            silent: match self.stage {
                Stage::Live(_) => silent,
                _ => Duration::ZERO,
            },
            last: self.last(),
        }
    }
}
