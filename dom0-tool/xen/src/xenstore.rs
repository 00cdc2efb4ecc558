//! A xenstore client over `/dev/xen/xenbus` (`xen/include/public/io/xs_wire.h`, 4.17).

use std::fs::File;
use std::io::{self, Read, Write};

use super::DomId;

/// Message types (`enum xsd_sockmsg_type`).
mod kind {
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const WRITE: u32 = 11;
    pub const RM: u32 = 13;
    pub const ERROR: u32 = 16;
    pub const RESUME: u32 = 18;
}

/// `XENSTORE_PAYLOAD_MAX`, the longest payload in bytes.
const PAYLOAD_MAX: usize = 4096;

/// Maximum number of attempts of a transaction that conflicts with others.
const TRIES: u32 = 20;

/// The transaction id of requests outside a transaction.
const NONE: u32 = 0;

/// A separate connection to xenstored, which answers requests in order.
pub struct Xenstore {
    bus: File,
}

impl Xenstore {
    /// Opens a connection to xenstored.
    pub fn open() -> io::Result<Self> {
        let bus = File::options()
            .read(true)
            .write(true)
            .open("/dev/xen/xenbus")?;
        Ok(Self { bus })
    }

    /// Reads the value at `path`, or `None` if there is no such node.
    pub fn read(&mut self, path: &str) -> io::Result<Option<String>> {
        let value = self.request(kind::READ, &[path.as_bytes(), b"\0"])?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Lists the names below `path`; the list is empty if there is no such node.
    pub fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let names = self.request(kind::DIRECTORY, &[path.as_bytes(), b"\0"])?;
        let names = names.unwrap_or_default();
        Ok(names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    /// Writes `value` at `path`.
    pub fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.request(kind::WRITE, &[path.as_bytes(), b"\0", value.as_bytes()])
            .map(|_| ())
    }

    /// Removes `path` and everything below it, if it exists.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        self.request(kind::RM, &[path.as_bytes(), b"\0"])
            .map(|_| ())
    }

    /// Writes `new` at `path` if the value there is `old`, and returns whether it was.
    pub fn replace(&mut self, path: &str, old: &str, new: &str) -> io::Result<bool> {
        for _ in 0..TRIES {
            let id = self.request(kind::TRANSACTION_START, &[b"\0"])?;
            let id = String::from_utf8_lossy(&id.unwrap_or_default())
                .trim_end_matches('\0')
                .parse()
                .map_err(io::Error::other)?;
            let replaced = self.replace_within(id, path, old, new);
            let end: &[u8] = match replaced {
                Ok(true) => b"T\0",
                _ => b"F\0",
            };
            let ended = self.request_within(id, kind::TRANSACTION_END, &[end]);
            let replaced = replaced?;
            match ended {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(replaced),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn replace_within(&mut self, id: u32, path: &str, old: &str, new: &str) -> io::Result<bool> {
        let path = [path.as_bytes(), b"\0"].concat();
        let stands = self.request_within(id, kind::READ, &[&path])?;
        if stands.as_deref() != Some(old.as_bytes()) {
            return Ok(false);
        }
        self.request_within(id, kind::WRITE, &[&path, new.as_bytes()])?;
        Ok(true)
    }

    /// Tells xenstored that a domain which had shut down runs again.
    pub fn resume(&mut self, domain: DomId) -> io::Result<()> {
        let domain = domain.to_string();
        self.request(kind::RESUME, &[domain.as_bytes(), b"\0"])
            .map(|_| ())
    }

    fn request(&mut self, kind: u32, parts: &[&[u8]]) -> io::Result<Option<Vec<u8>>> {
        self.request_within(NONE, kind, parts)
    }

    /// Sends one request and reads its answer; ENOENT becomes `None`.
    fn request_within(
        &mut self,
        transaction: u32,
        kind: u32,
        parts: &[&[u8]],
    ) -> io::Result<Option<Vec<u8>>> {
        let body = parts.concat();
        if body.len() > PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Header: type, request id, transaction id, length.
        let mut message = Vec::with_capacity(16 + body.len());
        for word in [kind, 0, transaction, body.len() as u32] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(&body);
        self.bus.write_all(&message)?;

        let mut header = [0; 16];
        self.bus.read_exact(&mut header)?;
        let word = |n: usize| u32::from_ne_bytes(header[4 * n..][..4].try_into().expect("4 bytes"));
        let (answer, len) = (word(0), word(3) as usize);
        if len > PAYLOAD_MAX {
            return Err(io::Error::other("xenstore sent an overlong answer"));
        }
        let mut body = vec![0; len];
        self.bus.read_exact(&mut body)?;
        match answer {
            answer if answer == kind => Ok(Some(body)),
            kind::ERROR => {
                let name = String::from_utf8_lossy(&body);
                match name.trim_end_matches('\0') {
                    "ENOENT" => Ok(None),
                    "EAGAIN" => Err(io::ErrorKind::WouldBlock.into()),
                    "EACCES" => Err(io::ErrorKind::PermissionDenied.into()),
                    name => Err(io::Error::other(format!("xenstore: {name}"))),
                }
            }
            other => Err(io::Error::other(format!(
                "xenstore answered with type {other}"
            ))),
        }
    }
}
