//! The command line libxl gives its save helper
//! (`tools/libs/light/libxl_save_callout.c`, 4.17 to 4.22).

use std::ffi::OsString;
use std::os::fd::RawFd;

use lull_engine::Verify;
use lull_xen::DomId;

/// The values of `XCFLAGS_LIVE` and `XCFLAGS_DEBUG` (`tools/include/xenguest.h`).
const LIVE: u64 = 1 << 0;
const DEBUG: u64 = 1 << 1;

/// A live, plain `--save-domain io_fd recv_fd domid flags cbflags stream_type`: a
/// migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveSave {
    /// The descriptor that the stream is written to.
    pub io_fd: RawFd,
    /// Used by Remus and COLO. For a plain stream it is a copy of libxl's standard input,
    /// and must not be read.
    pub recv_fd: RawFd,
    /// The domid of the guest.
    pub domain: DomId,
    /// Set by `xl migrate --debug`.
    pub verify: Verify,
}

/// A save that is not live: the guest is suspended at once, and stays suspended until all
/// of it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PausedSave {
    /// The descriptor that the stream is written to.
    pub io_fd: RawFd,
    /// The domid of the guest.
    pub domain: DomId,
}

impl LiveSave {
    /// Parses the command line. `None` means that it is not a plain live save, and lull
    /// does not handle it.
    pub fn parse(args: &[OsString]) -> Option<Self> {
        match Save::parse(args)? {
            Save::Live(save) => Some(save),
            Save::Paused(_) => None,
        }
    }
}

/// A plain save, live or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Save {
    Live(LiveSave),
    /// A save into a file, or a migration that is not live if the descriptor is a socket or
    /// a pipe.
    Paused(PausedSave),
}

impl Save {
    /// Parses the command line. `None` stands for anything else: a restore, Remus, COLO.
    pub fn parse(args: &[OsString]) -> Option<Self> {
        let [_, mode, numbers @ ..] = args else {
            return None;
        };
        if mode != "--save-domain" {
            return None;
        }
        let numbers: Option<Vec<u64>> = numbers
            .iter()
            .map(|number| number.to_str()?.parse().ok())
            .collect();
        let [io_fd, recv_fd, domain, flags, _callbacks, stream_type] = numbers?[..] else {
            return None;
        };
        const PLAIN: u64 = 0;
        if stream_type != PLAIN {
            return None;
        }
        let io_fd = RawFd::try_from(io_fd).ok()?;
        let domain = DomId::try_from(domain).ok()?;
        if flags & LIVE == 0 {
            return Some(Self::Paused(PausedSave { io_fd, domain }));
        }
        Some(Self::Live(LiveSave {
            io_fd,
            recv_fd: RawFd::try_from(recv_fd).ok()?,
            domain,
            verify: match flags & DEBUG {
                0 => Verify::No,
                _ => Verify::Yes,
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Option<LiveSave> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        LiveSave::parse(&args)
    }

    #[test]
    fn a_live_migration_is_ours() {
        let ours = LiveSave {
            io_fd: 12,
            recv_fd: 13,
            domain: 7,
            verify: Verify::No,
        };
        let verifying = LiveSave {
            verify: Verify::Yes,
            ..ours
        };
        assert_eq!(parse("helper --save-domain 12 13 7 1 136 0"), Some(ours));
        assert_eq!(
            parse("helper --save-domain 12 13 7 3 136 0"),
            Some(verifying)
        );
    }

    #[test]
    fn a_save_that_is_not_live_is_told_apart() {
        let args: Vec<OsString> = "helper --save-domain 12 13 7 0 136 0"
            .split(' ')
            .map(OsString::from)
            .collect();
        let paused = PausedSave {
            io_fd: 12,
            domain: 7,
        };
        assert_eq!(Save::parse(&args), Some(Save::Paused(paused)));
        assert_eq!(LiveSave::parse(&args), None);
    }

    #[test]
    fn everything_else_is_the_stock_helpers() {
        for line in [
            "helper",
            "helper --restore-domain 12 13 7 1 2 3 4 768 0",
            "helper --save-domain 12 13 7 0 136 0",
            "helper --save-domain 12 13 7 1 136 1",
            "helper --save-domain 12 13 7 1 136 2",
            "helper --save-domain 12 13 7 1 136",
            "helper --save-domain 12 13 7 1 136 0 0",
            "helper --save-domain 12 13 70000 1 136 0",
            "helper --save-domain 12 x 7 1 136 0",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_command_line_is_a_surprise(args in proptest::collection::vec(".*", 0..9)) {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            let _ = LiveSave::parse(&args);
        }
    }
}
