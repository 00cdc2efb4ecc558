//! The limits file. Its content is not trusted when it is read, and it is always replaced
//! as a whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lull_base::{atomic_file, file_lock};
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

use super::choose::Standing;
use super::edit::{CannotEdit, Change};
use super::rules::{Problem, Rules};

/// The largest file in bytes; a larger one is not a limits file.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// How long to wait for another `lull limits set`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The number of problems in a file that are reported.
const TOLD: usize = 8;

/// Why the limits cannot be determined. The caller reports what was done about it.
#[derive(Debug, Error)]
pub enum LimitsError {
    /// The file exists and cannot be read.
    #[error("the limits in {path} cannot be read: {source}")]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The path is a symbolic link to nothing.
    #[error(
        "{path} is a symbolic link that leads nowhere: put the file in its place, or remove it"
    )]
    Nowhere {
        /// The path of the file.
        path: PathBuf,
    },
    /// The path is no regular file.
    #[error("{path} is {what}, not a file with limits: move it away")]
    NotAFile {
        /// The path of the file.
        path: PathBuf,
        /// What it is instead, with its article.
        what: &'static str,
    },
    /// The file is larger than any list of limits.
    #[error("{path} is larger than {} KiB, which no list of limits is", MAX_FILE_BYTES >> 10)]
    Huge {
        /// The path of the file.
        path: PathBuf,
    },
    /// Another user than root, or than the caller, owns the file.
    #[error("{path} belongs to user {owner}, who could lift every limit: `chown root {path}`")]
    Foreign {
        /// The path of the file.
        path: PathBuf,
        /// The user number of the owner.
        owner: u32,
    },
    /// Others than its owner may write the file.
    #[error(
        "{path} can be written by others than its owner, who could lift every limit: `chmod go-w {path}`"
    )]
    Writable {
        /// The path of the file.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("{path}, line {line}: this is not text in UTF-8")]
    NotText {
        /// The path of the file.
        path: PathBuf,
        /// The first such line, from 1.
        line: usize,
    },
    /// The file is read and not understood.
    #[error("{}", rendered(path, problems))]
    Wrong {
        /// The path of the file.
        path: PathBuf,
        /// The lines that are wrong, and why.
        problems: Vec<Problem>,
    },
    /// Another lull holds the lock on the folder.
    #[error("another lull is changing {path}; try again")]
    Busy {
        /// The path of the file.
        path: PathBuf,
    },
    /// The changed file cannot be written.
    #[error("{path}: {source}")]
    Unwritten {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The file cannot be changed without changing other lines.
    #[error("{path}{source}")]
    Edit {
        /// The path of the file.
        path: PathBuf,
        /// Where and why it cannot be edited.
        source: CannotEdit,
    },
}

fn rendered(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .take(TOLD)
        .map(|problem| format!("{}, {problem}", path.display()))
        .collect();
    let more = match problems.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    lines.join("\n") + &more
}

/// The limits file, which need not exist.
#[derive(Debug)]
pub struct LimitsFile {
    path: PathBuf,
}

impl LimitsFile {
    /// The limits file at that path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Reads the rules; there are none if the file does not exist.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn rules(&self) -> Result<Standing, LimitsError> {
        let text = self.read()?.unwrap_or_default();
        self.understand(&text)
    }

    /// Applies `change` and returns whether anything changed.
    ///
    /// # Errors
    /// If the file cannot be read, parsed or written; it is then unchanged.
    pub fn change(&self, change: &Change) -> Result<bool, LimitsError> {
        // Follow symbolic links, so that they stay in place.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let unwritten = |source| LimitsError::Unwritten {
            path: path.clone(),
            source,
        };
        // Lock the folder: a lock on the file itself would go away when the file is
        // replaced.
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = File::open(folder).map_err(unwritten)?;
        if !file_lock::lock(&folder, TIMEOUT).map_err(unwritten)? {
            let path = self.path.clone();
            return Err(LimitsError::Busy { path });
        }
        let text = self.read()?.unwrap_or_default();
        let rules = self.understand(&text)?.rules;
        let changed = change
            .apply(&text, &rules)
            .map_err(|source| LimitsError::Edit {
                path: self.path.clone(),
                source,
            })?;
        if changed == text {
            return Ok(false);
        }
        atomic_file::replace(&path, changed.as_bytes(), 0o644).map_err(unwritten)?;
        Ok(true)
    }

    fn understand(&self, text: &str) -> Result<Standing, LimitsError> {
        let file = self.path.clone();
        match Rules::parse(text) {
            Ok(rules) => Ok(Standing { rules, file }),
            Err(problems) => Err(LimitsError::Wrong {
                path: file,
                problems,
            }),
        }
    }

    /// The file's text; `None` if there is no file. Checks the opened file before reading
    /// it.
    fn read(&self) -> Result<Option<String>, LimitsError> {
        let path = || self.path.clone();
        let opened = File::options()
            .read(true)
            // Opening must not block, whatever kind of file it is.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match fs::symlink_metadata(&self.path) {
                    Ok(_) => Err(LimitsError::Nowhere { path: path() }),
                    Err(_) => Ok(None),
                };
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                return Err(LimitsError::Nowhere { path: path() });
            }
            Err(source) => return Err(self.unreadable(source)),
        };
        let about = file.metadata().map_err(|source| self.unreadable(source))?;
        if !about.is_file() {
            let what = if about.is_dir() {
                "a folder"
            } else {
                "a device or a pipe"
            };
            return Err(LimitsError::NotAFile { path: path(), what });
        }
        // The owner must be root, or the caller if it is not root.
        let owner = about.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(LimitsError::Foreign {
                path: path(),
                owner,
            });
        }
        if about.mode() & 0o022 != 0 {
            return Err(LimitsError::Writable { path: path() });
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|source| self.unreadable(source))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(LimitsError::Huge { path: path() });
        }
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let newlines = valid.iter().filter(|byte| **byte == b'\n').count();
            LimitsError::NotText {
                path: path(),
                line: newlines + 1,
            }
        })
    }

    fn unreadable(&self, source: io::Error) -> LimitsError {
        LimitsError::Unreadable {
            path: self.path.clone(),
            source,
        }
    }
}
