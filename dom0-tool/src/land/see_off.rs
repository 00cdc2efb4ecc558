//! `lull see-off`: the guard of `lull land`.
//!
//! `lull land` reads what another host sends, behind walls that let it start nothing. So
//! a second process, which hears two words of it and nothing of the source's, sees to it
//! that a copy which is not to be started does not stay: also when `lull land` is killed.

use std::io::{self, Read, Write};
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lull_base::hygiene;
use lull_xen::Xen;

use super::waiting::Identity;
use crate::host::Host;

/// The hidden subcommand.
const SUBCOMMAND: &str = "see-off";

/// How long a receiver may take to destroy a copy by itself.
const SEEING_OFF: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_secs(1);

/// What is said once the copy is the source's to start.
const LANDED: u8 = b'l';

/// What is said if the source could not be told so.
const UNTOLD: u8 = b'u';

/// `lull land`'s end.
pub struct SeeOff {
    pipe: ChildStdin,
}

impl SeeOff {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started: then no copy should be touched.
    pub fn start() -> io::Result<Self> {
        // Whoever waits for the end of what `lull land` says is not to wait for it.
        let mut child = Command::new("/proc/self/exe")
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe })
    }

    /// This copy is not to stay if it does not land.
    ///
    /// # Errors
    /// When nobody is there to see to it.
    pub fn watch(&mut self, copy: Identity) -> io::Result<()> {
        self.pipe.write_all(&copy.to_bytes())
    }

    /// It lands: whether it starts is the source's to say.
    pub fn lands(&mut self) {
        let _ = self.pipe.write_all(&[LANDED]);
    }

    /// The source was not told, and starts the guest at its own end.
    pub fn untold(&mut self) {
        let _ = self.pipe.write_all(&[UNTOLD]);
    }
}

/// Waits until `lull land` ends, and clears up after it.
pub fn main() -> ExitCode {
    hygiene::outlive_signals();
    hygiene::settle();
    hygiene::be_spared();
    let mut heard = Vec::new();
    let longest = Identity::BYTES as u64 + 2;
    let _ = io::stdin().take(longest).read_to_end(&mut heard);
    match left_behind(&heard).map_or(Ok(()), see_off) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lull land: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The copy that did not land, by what was heard.
fn left_behind(heard: &[u8]) -> Option<Identity> {
    let (copy, words) = heard.split_first_chunk()?;
    match words {
        [] | [LANDED, UNTOLD] => Identity::from_bytes(*copy),
        _ => None,
    }
}

/// Without Landed the source never gives permission, so nobody will ever start the copy.
/// Its receiver destroys it, unless it cannot report that: stock xl leaves one whose
/// connection has broken (`tools/xl/xl_migrate.c`, 4.17 to 4.22).
fn see_off(copy: Identity) -> io::Result<()> {
    let xen = Xen::open_here()?;
    let until = Instant::now() + SEEING_OFF;
    while Instant::now() < until {
        if !matches!(copy.waits(&xen), Ok(true)) {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
    let domain = copy.domain;
    let xl = Host::default().xl().map_err(|_| {
        io::Error::other(format!(
            "domain {domain} waits for nobody, and there is no xl"
        ))
    })?;
    eprintln!("lull land: domain {domain} was left waiting by its receiver; destroying it");
    // Once more: its number may have become another's meanwhile.
    if !matches!(copy.waits(&xen), Ok(true)) {
        return Ok(());
    }
    let destroyed = Command::new(xl)
        .args(["destroy", &domain.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    destroyed
        .map(drop)
        .map_err(|error| io::Error::new(error.kind(), format!("xl cannot be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_that_was_named_and_did_not_land_is_seen_off() {
        let copy = Identity::from_bytes([7; Identity::BYTES]).unwrap();
        let mut heard = copy.to_bytes().to_vec();
        assert_eq!(left_behind(&heard), Some(copy));
        heard.push(LANDED);
        assert_eq!(left_behind(&heard), None);
        heard.push(UNTOLD);
        assert_eq!(left_behind(&heard), Some(copy));
        for short in [0, 1, Identity::BYTES - 1] {
            assert_eq!(left_behind(&heard[..short]), None);
        }
    }
}
