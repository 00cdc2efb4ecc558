//! The operator's end of a control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lull_wire::control::{Answer, Line, Request, SCHEMA, Status};
use lull_xen::xenstore::Xenstore;

use super::folder::{Folder, Place};
use crate::host::{self, Guest, NotReady};

/// How long a helper may take to say a line: it may be reading a large bitmap.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long `lull migrate` may take to be there for its helper.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// Longest line taken from a helper.
const LONGEST: u64 = 1 << 20;

/// A line to one migration.
pub struct Connection {
    /// Which.
    pub place: Place,
    socket: BufReader<UnixStream>,
    /// The beginning of a line whose end has not come in time.
    line: Vec<u8>,
}

impl Connection {
    /// Connects; `None` when the helper has just gone.
    ///
    /// # Errors
    /// When it may not be connected to.
    pub fn to(place: Place) -> anyhow::Result<Option<Self>> {
        let socket = match UnixStream::connect(&place.path) {
            Err(error) if has_gone(&error) => return Ok(None),
            socket => socket.with_context(|| format!("{}", place.path.display()))?,
        };
        socket.set_write_timeout(Some(PATIENCE))?;
        let socket = BufReader::new(socket);
        let line = Vec::new();
        Ok(Some(Self {
            place,
            socket,
            line,
        }))
    }

    /// Asks.
    ///
    /// # Errors
    /// When the helper has gone.
    pub fn say(&mut self, request: Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line {
            schema: SCHEMA,
            said: request,
        })?;
        line.push(b'\n');
        self.socket.get_mut().write_all(&line)
    }

    /// The next answer; `None` when none came `within`, or the helper has gone:
    /// see [`Heard`].
    ///
    /// # Errors
    /// When it is none that this lull understands.
    pub fn hear(&mut self, within: Duration) -> anyhow::Result<Heard> {
        let until = Instant::now() + within;
        while !self.line.ends_with(b"\n") {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Heard::Nothing);
            }
            self.socket.get_ref().set_read_timeout(Some(left))?;
            let room = LONGEST.saturating_sub(self.line.len() as u64);
            let mut rest = self.socket.by_ref().take(room);
            match rest.read_until(b'\n', &mut self.line) {
                Ok(0) => return Ok(Heard::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Heard::End),
            }
        }
        let line = std::mem::take(&mut self.line);
        let line: Line<Answer> = serde_json::from_slice(&line)
            .context("the helper's answer is not understood: is it of another version?")?;
        Ok(Heard::Answer(line.said))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When none comes.
    pub fn ask(&mut self, request: Request) -> anyhow::Result<Answer> {
        let helper = self.place.helper;
        let asked = self.say(request).map(|()| self.hear(PATIENCE));
        match asked {
            Ok(heard) => match heard? {
                Heard::Answer(answer) => Ok(answer),
                Heard::Nothing => bail!(
                    "the helper, process {helper}, has not answered for {} s",
                    PATIENCE.as_secs()
                ),
                Heard::End => bail!("the helper, process {helper}, ended without an answer"),
            },
            Err(error) => Err(error).context(format!("the helper, process {helper}, has gone")),
        }
    }

    /// How its migration stands.
    ///
    /// # Errors
    /// When it does not say.
    pub fn status(&mut self) -> anyhow::Result<Status> {
        match self.ask(Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => bail!("no status, but {other:?}"),
        }
    }
}

/// See [`Connection::hear`].
#[derive(Debug)]
pub enum Heard {
    /// An answer.
    Answer(Answer),
    /// None in time.
    Nothing,
    /// The helper's part is over.
    End,
}

fn has_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// Where the migrations under way are.
///
/// # Errors
/// Without root's rights.
pub fn places() -> anyhow::Result<Vec<Place>> {
    if !rustix::process::geteuid().is_root() {
        return Err(NotReady::NotRoot.into());
    }
    let places = Folder::default().places();
    places.context("the migrations under way cannot be listed")
}

/// Lines to all migrations under way.
///
/// # Errors
/// Without root's rights.
pub fn all() -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for place in places()? {
        all.extend(Connection::to(place)?);
    }
    Ok(all)
}

/// The names of guests; none where nobody knows.
pub fn names() -> Vec<Guest> {
    Xenstore::open()
        .and_then(|mut store| host::domains(&mut store))
        .unwrap_or_default()
}

/// A line to the migration of `asked`, a guest's name or number, and the guest.
///
/// # Errors
/// When there is no such guest, or it is not being migrated: then those that
/// are, are named.
pub fn of(asked: &str) -> anyhow::Result<(Guest, Connection)> {
    let all = all()?;
    let guest = host::domain(asked)?;
    let mut others = Vec::new();
    for connection in all {
        if connection.place.guest == guest.domid {
            return Ok((guest, connection));
        }
        others.push(connection.place.guest);
    }
    bail!(NotMigrated::new(guest, &others, &names()))
}

/// A line to who has the guest of `before` land, whose part is over. `None` if
/// nobody can be asked, as when xl or libvirt began the migration.
pub fn landing(before: &Place) -> Option<Connection> {
    let until = Instant::now() + TAKE_OVER;
    while Instant::now() < until {
        let mut places = places().ok()?.into_iter();
        let next = places.find(|place| place.guest == before.guest && place != before);
        if let Some(Ok(Some(line))) = next.map(Connection::to) {
            return Some(line);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Nobody moves that guest.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is not being migrated, or is landing already.\nNothing was done. {}",
    in_words(others)
)]
pub struct NotMigrated {
    name: String,
    others: Vec<String>,
}

impl NotMigrated {
    /// `guest` is not; `others` are.
    pub fn new(guest: Guest, others: &[lull_xen::DomId], names: &[Guest]) -> Self {
        let name = |domid: &lull_xen::DomId| {
            let known = names.iter().find(|guest| guest.domid == *domid);
            known.map_or_else(|| domid.to_string(), |guest| guest.name.clone())
        };
        Self {
            name: guest.name,
            others: others.iter().map(name).collect(),
        }
    }
}

fn in_words(others: &[String]) -> String {
    match others {
        [] => "No migration that can be steered runs on this host.".to_owned(),
        others => format!("Being migrated: {}.", others.join(", ")),
    }
}
