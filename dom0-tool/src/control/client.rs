//! The client end of a control socket.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use lull_agents::name;
use lull_base::lines::{Lines, TooLong};
use lull_store::running::folder::{ControlSocket, Folder};
use lull_wire::control::{Answer, Line, Request, SCHEMA, Status};
use lull_wire::json;
use lull_xen::host::{self, Guest, NotReady};
use lull_xen::xenstore::Xenstore;

/// How long a helper may take to send a line. It may be reading a large bitmap.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long `lull migrate` may take to open its socket after its helper has finished.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// The longest line accepted from a helper, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A connection to one migration's control socket.
pub struct Connection {
    /// The socket and the migration it belongs to.
    pub socket: ControlSocket,
    stream: UnixStream,
    lines: Lines,
}

impl Connection {
    /// Connects. Returns `None` when the helper has just gone.
    ///
    /// # Errors
    /// When the connection is not permitted.
    pub fn to(socket: ControlSocket) -> anyhow::Result<Option<Self>> {
        let stream = match UnixStream::connect(&socket.path) {
            Err(error) if has_gone(&error) => return Ok(None),
            stream => stream.with_context(|| format!("{}", socket.path.display()))?,
        };
        stream.set_write_timeout(Some(TIMEOUT))?;
        let lines = Lines::of(MAX_LINE_BYTES);
        Ok(Some(Self {
            socket,
            stream,
            lines,
        }))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the helper has gone.
    pub fn say(&mut self, request: Request) -> io::Result<()> {
        let line = Line {
            schema: SCHEMA,
            said: request,
        };
        self.stream.write_all(&json::line(&line)?)
    }

    /// The next answer. [`Received`] also says if no answer came `within` that time, or if
    /// the helper has ended.
    ///
    /// # Errors
    /// When this lull does not understand the answer.
    pub fn recv(&mut self, within: Duration) -> anyhow::Result<Received> {
        let until = Instant::now() + within;
        let line = loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && !self.lines.has_next() {
                return Ok(Received::Nothing);
            }
            // No timeout at all would be zero.
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left))?;
            match self.lines.read(&mut self.stream) {
                Ok(Some(Ok(line))) => break line,
                Ok(Some(Err(TooLong)) | None) => return Ok(Received::End),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(Received::End),
            }
        };
        let line: Line<Answer> = serde_json::from_slice(&line)
            .context("the helper's answer is not understood: is it of another version?")?;
        Ok(Received::Answer(line.said))
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn ask(&mut self, request: Request) -> anyhow::Result<Answer> {
        let helper = self.socket.helper;
        let asked = self.say(request).map(|()| self.recv(TIMEOUT));
        match asked {
            Ok(received) => match received? {
                Received::Answer(answer) => Ok(answer),
                Received::Nothing => bail!(
                    "the helper, process {helper}, has not answered for {} s",
                    TIMEOUT.as_secs()
                ),
                Received::End => bail!("the helper, process {helper}, ended without an answer"),
            },
            Err(error) => Err(error).context(format!("the helper, process {helper}, has gone")),
        }
    }

    /// The state of the migration.
    ///
    /// # Errors
    /// When the helper does not send it.
    pub fn status(&mut self) -> anyhow::Result<Status> {
        match self.ask(Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => bail!("no status, but {other:?}"),
        }
    }
}

/// The result of [`Connection::recv`].
#[derive(Debug)]
pub enum Received {
    /// An answer has arrived.
    Answer(Answer),
    /// No answer has arrived in time.
    Nothing,
    /// The helper has closed the connection, because its part is over.
    End,
}

fn has_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// The sockets of all migrations under way.
///
/// # Errors
/// When this process has no root rights.
pub fn sockets() -> anyhow::Result<Vec<ControlSocket>> {
    if !rustix::process::geteuid().is_root() {
        return Err(NotReady::NotRoot.into());
    }
    let sockets = Folder::default().sockets();
    sockets.context("the migrations under way cannot be listed")
}

/// Connections to all migrations under way.
///
/// # Errors
/// When this process has no root rights.
pub fn all() -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::new();
    for socket in sockets()? {
        all.extend(Connection::to(socket)?);
    }
    Ok(all)
}

/// The guests on this host with their names. Empty if xenstore cannot be read.
pub fn names() -> Vec<Guest> {
    Xenstore::open()
        .and_then(|mut store| host::domains(&mut store))
        .unwrap_or_default()
}

/// The guest `asked`, by name or number, and a connection to its migration.
///
/// # Errors
/// When there is no such guest, or it is not being migrated. The error then names the
/// guests that are.
pub fn of(asked: &str) -> anyhow::Result<(Guest, Connection)> {
    let all = all()?;
    let guest = match handed_over(asked, &all) {
        Some(guest) => guest,
        None => host::domain(asked)?,
    };
    let mut others = Vec::new();
    for connection in all {
        if connection.socket.domid == guest.domid {
            return Ok((guest, connection));
        }
        others.push(connection.socket.domid);
    }
    bail!(NotMigrated::new(guest, &others, &names()))
}

/// The guest of that name which xl has renamed for the handshake, while it still runs here.
fn handed_over(asked: &str, moving: &[Connection]) -> Option<Guest> {
    let away = format!("{asked}{}", name::SUFFIX);
    let is_it = |guest: &Guest| {
        let moves = moving.iter().any(|one| one.socket.domid == guest.domid);
        guest.name == away && moves
    };
    let guest = names().into_iter().find(is_it)?;
    Some(Guest {
        name: asked.to_owned(),
        ..guest
    })
}

/// Connects to the process that took over from `before` for the landing. `None` if there is
/// none, as when xl or libvirt began the migration.
pub fn landing(before: &ControlSocket) -> Option<Connection> {
    let until = Instant::now() + TAKE_OVER;
    while Instant::now() < until {
        let mut sockets = sockets().ok()?.into_iter();
        let next = sockets.find(|socket| socket.domid == before.domid && socket != before);
        if let Some(Ok(Some(line))) = next.map(Connection::to) {
            return Some(line);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// The named guest is not being migrated.
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
    /// The error for `guest`; `others` are the guests that are being migrated.
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
