//! The folder of the control sockets. Each migration has one, named after the guest and the
//! helper's process, so that no process removes another's socket.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lull_base::processes;
use lull_wire::channel::Token;
use lull_xen::DomId;

use super::claim;

/// The folder's path. Only root may enter it.
pub const PATH: &str = "/run/lull";

const SUFFIX: &str = "sock";

/// The file name extension of the claims.
const CLAIM: &str = "log";

const TAKEN: &str = "dom0-memory";

/// The file name extension of the sockets at which connections join a `lull land`.
const JOIN_SOCKET: &str = "land";

/// The most files looked at, which is more than a host can have migrations.
const MAX_ENTRIES: usize = 1024;

/// A folder of sockets.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// A socket that was found in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlSocket {
    /// The domain number of the guest being moved.
    pub domid: DomId,
    /// The process number of the helper that moves it.
    pub helper: u32,
    /// The path of the socket.
    pub path: PathBuf,
}

impl Default for Folder {
    fn default() -> Self {
        Self::at(PATH)
    }
}

impl Folder {
    /// The folder at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Creates the folder for this user only, and removes what dead processes left in it.
    /// Returns the path for a new socket.
    ///
    /// # Errors
    /// When the folder cannot be created, or is not ours alone.
    pub fn prepare(&self, domid: DomId) -> io::Result<PathBuf> {
        self.make()?;
        self.clear_away()?;
        let path = self.socket(domid, std::process::id());
        remove(&path);
        Ok(path)
    }

    /// Creates the folder for this user only.
    ///
    /// # Errors
    /// When the folder cannot be created, or is not ours alone.
    pub fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let folder = fs::symlink_metadata(&self.path)?;
        let ours = folder.is_dir() && folder.uid() == rustix::process::geteuid().as_raw();
        if !ours {
            let text = format!("{} is not a folder of lull's", self.path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if folder.mode() & 0o077 != 0 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Removes what killed processes left: their sockets, and the claims that no process
    /// holds.
    ///
    /// # Errors
    /// When the folder cannot be read. A missing folder is no error.
    pub fn clear_away(&self) -> io::Result<()> {
        // The listing removes the rest as it finds it.
        self.sockets().map(drop)
    }

    /// The path of a helper's socket.
    pub fn socket(&self, domid: DomId, helper: u32) -> PathBuf {
        self.path.join(format!("{domid}.{helper}.{SUFFIX}"))
    }

    /// The path of the claim on a guest's dirty log (`claim`).
    pub fn claim(&self, domid: DomId) -> PathBuf {
        self.path.join(format!("{domid}.{CLAIM}"))
    }

    /// The path of the socket at which connections join a `lull land`
    /// (`land::join_socket` of the agents).
    pub fn join_socket(&self, token: Token) -> PathBuf {
        self.path.join(format!("{token}.{JOIN_SOCKET}"))
    }

    /// The path of the note about what a process has taken from dom0's memory
    /// (`lull_engine::stub::room`).
    pub fn taken(&self, process: u32) -> PathBuf {
        self.path.join(format!("{process}.{TAKEN}"))
    }

    /// All these notes, with the process numbers of their owners.
    ///
    /// # Errors
    /// When the folder cannot be read. A missing folder is no error.
    pub fn all_taken(&self) -> io::Result<Vec<(u32, PathBuf)>> {
        let process = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let (process, kind) = name.split_once('.')?;
            process.parse().ok().filter(|_| kind == TAKEN)
        };
        let paths = self.entries()?;
        let notes = paths
            .into_iter()
            .filter_map(|path| Some((process(&path)?, path)));
        Ok(notes.collect())
    }

    /// The paths in the folder. Empty if there is no folder.
    fn entries(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries
            .take(MAX_ENTRIES)
            .map(|entry| Ok(entry?.path()))
            .collect()
    }

    /// All sockets, ordered by guest. Those of dead helpers, and claims that no process
    /// holds, are removed.
    ///
    /// # Errors
    /// When the folder cannot be read. A missing folder is no error.
    pub fn sockets(&self) -> io::Result<Vec<ControlSocket>> {
        let mut sockets = Vec::new();
        for path in self.entries()? {
            if is_claim(&path) {
                claim::remove_if_free(&path);
                continue;
            }
            if let Some(token) = join_socket(&path) {
                if !processes::is_lulls(token.process) {
                    remove(&path);
                }
                continue;
            }
            let Some(socket) = ControlSocket::of(path) else {
                continue;
            };
            if processes::is_lulls(socket.helper) {
                sockets.push(socket);
            } else {
                remove(&socket.path);
            }
        }
        sockets.sort_by_key(|socket| (socket.domid, socket.helper));
        Ok(sockets)
    }
}

impl ControlSocket {
    fn of(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.split('.');
        let (domid, helper) = (parts.next()?, parts.next()?);
        if (parts.next()?, parts.next()) != (SUFFIX, None) {
            return None;
        }
        Some(Self {
            domid: domid.parse().ok()?,
            helper: helper.parse().ok()?,
            path,
        })
    }
}

/// Whether a path is that of a claim.
fn is_claim(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    let parts = name.and_then(|name| name.split_once('.'));
    parts.is_some_and(|(domid, kind)| domid.parse::<DomId>().is_ok() && kind == CLAIM)
}

/// The token in the path of such a socket.
fn join_socket(path: &Path) -> Option<Token> {
    let name = path.file_name()?.to_str()?;
    let (token, kind) = name.rsplit_once('.')?;
    token.parse().ok().filter(|_| kind == JOIN_SOCKET)
}

/// Removes a socket if it exists.
pub fn remove(socket: &Path) {
    let _ = fs::remove_file(socket);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_cleared_away_and_strangers_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lull");
        assert_eq!(Folder::at(&path).sockets().unwrap(), []);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        let folder = Folder::at(&path);
        let ours = folder.prepare(7).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        // This process number is higher than any real one.
        let dead = folder.socket(7, u32::MAX);
        for file in [&ours, &dead, &path.join("notes"), &path.join("x.y.sock")] {
            fs::write(file, "").unwrap();
        }
        let sockets = folder.sockets().unwrap();
        assert_eq!(
            sockets,
            [ControlSocket {
                domid: 7,
                helper: std::process::id(),
                path: ours
            }]
        );
        assert!(!dead.exists() && path.join("notes").exists() && path.join("x.y.sock").exists());
    }

    #[test]
    fn what_is_no_folder_of_ours_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(root.path(), &link).unwrap();
        assert!(Folder::at(link).prepare(7).is_err());
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Folder::at(file).prepare(7).is_err());
    }
}
