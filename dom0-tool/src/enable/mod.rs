//! `lull enable` and `lull disable`: that plain `xl migrate` and the like keep
//! the limits too, and whether they do.

pub mod libvirt;
pub mod xl;

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::migrate::NOT_BEGUN;
use crate::migrate::progress::to_stdout;

/// The options of `lull enable`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull enable xl        # from now on `xl migrate` keeps the limits of /etc/lull.toml
  lull enable libvirt   # and `virsh migrate --live`

xl: makes /usr/local/sbin/xl, which starts the xl there is with lull as its save
  helper (LIBXL_SAVE_HELPER). It holds wherever `xl` is looked up on Debian's
  PATH: for root's shells, `ssh HOST xl`, `sudo xl`, systemd's services, and
  crontabs that set PATH as /etc/crontab does. It does not hold for who calls
  /usr/sbin/xl by its full path. A shell that knows xl already wants `hash -r`.
libvirt: has systemd start libvirt's daemon with a copy of lull as its save
  helper, and restarts the daemon, whose guests run on, unless a guest is being
  moved. After an upgrade of lull it wants to be enabled again.

Exit codes: 0 in force, also if it was before; 2 not, and why.")]
pub struct Enable {
    /// What is to keep the limits
    #[arg(value_enum)]
    what: What,
}

/// The options of `lull disable`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull disable xl       # `xl migrate` is Xen's own again
  lull disable libvirt  # `virsh migrate` is libvirt's own again

Exit codes: 0 undone, also if there was nothing to undo; 2 not, and why.")]
pub struct Disable {
    /// What is to be as it was
    #[arg(value_enum)]
    what: What,
}

/// What may keep the limits beside `lull migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// `xl migrate` as typed by hand
    Xl,
    /// `virsh migrate --live`, and whatever else uses libvirt's Xen driver
    Libvirt,
}

/// Whether something keeps the limits; for `lull doctor` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it does.
    pub in_force: bool,
    /// What was found, a sentence.
    pub found: String,
    /// What to do, if it does not; may be empty.
    pub cure: String,
}

/// Runs `lull enable`.
pub fn enable(options: &Enable) -> ExitCode {
    tell(match options.what {
        What::Xl => xl::enable(),
        What::Libvirt => libvirt::enable(),
    })
}

/// Runs `lull disable`.
pub fn disable(options: &Disable) -> ExitCode {
    tell(match options.what {
        What::Xl => xl::disable(),
        What::Libvirt => libvirt::disable(),
    })
}

fn tell(done: anyhow::Result<String>) -> ExitCode {
    match done {
        Ok(words) => {
            to_stdout(&words);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("lull: {error:#}");
            NOT_BEGUN.into()
        }
    }
}
