//! A transport for `xl migrate -s` that stops the migration at its most revealing moment:
//! the source is suspended, the destination is built and paused, and its READY is about to
//! be passed on.

use std::io::{Read, Write};
use std::process::Command;

use anyhow::{Context, Result};

use crate::streams::{Transport, pump};

/// The message that `xl migrate-receive` sends when its domain is built and waits to be
/// started; its closing NUL is sent too (Xen 4.17, tools/xl/xl.h).
const READY: &[u8] = b"domain received, ready to unpause\0";

/// Relays, and runs `command` through a shell before READY is passed on. The command's
/// output goes to standard error unless the command redirects it.
pub fn run(command: &str, transport: &[&str]) -> Result<()> {
    let mut transport = Transport::start(transport)?;
    let to_child = transport.take_stdin()?;
    let mut from_child = transport.take_stdout()?;
    std::thread::spawn(move || pump(std::io::stdin(), to_child));

    let mut out = std::io::stdout();
    let mut matcher = Matcher::default();
    let mut chunk = [0; 4096];
    loop {
        let length = from_child.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        for byte in &chunk[..length] {
            if matcher.push(*byte) {
                hold(command)?;
            }
            out.write_all(&matcher.take_settled())?;
        }
        out.flush()?;
    }
    out.write_all(&matcher.held)?;
    out.flush()?;
    transport.finish()
}

fn hold(command: &str) -> Result<()> {
    eprintln!("rig-agent: READY held for: {command}");
    let status = Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        // Standard output belongs to the migration.
        .stdout(std::io::stderr())
        .status()
        .context("cannot run the command")?;
    eprintln!("rig-agent: READY passed on, the command ended with {status}");
    Ok(())
}

/// Searches a stream for READY and holds back what may be its beginning.
#[derive(Default)]
pub struct Matcher {
    /// The bytes that are held back.
    pub held: Vec<u8>,
}

impl Matcher {
    /// Takes a byte, and returns true if it completes READY.
    pub fn push(&mut self, byte: u8) -> bool {
        self.held.push(byte);
        self.held == READY
    }

    /// Returns the bytes that can be passed on: all of a completed READY, or bytes that can
    /// no longer be the beginning of one.
    pub fn take_settled(&mut self) -> Vec<u8> {
        if self.held == READY {
            return std::mem::take(&mut self.held);
        }
        let settled = (0..=self.held.len())
            .find(|from| READY.starts_with(&self.held[*from..]))
            .unwrap_or(0);
        self.held.drain(..settled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(bytes: &[u8]) -> (Vec<u8>, Vec<usize>) {
        let mut matcher = Matcher::default();
        let mut out = Vec::new();
        let mut hits = Vec::new();
        for byte in bytes {
            if matcher.push(*byte) {
                hits.push(out.len());
            }
            out.extend(matcher.take_settled());
        }
        out.extend(&matcher.held);
        (out, hits)
    }

    #[test]
    fn ready_is_found_behind_a_false_start_and_nothing_is_lost() {
        let stream = [b"banner\ndomain re".as_slice(), READY, b"rest"].concat();
        let (out, hits) = feed(&stream);
        assert_eq!(out, stream);
        assert_eq!(hits, [16]);
    }
}
