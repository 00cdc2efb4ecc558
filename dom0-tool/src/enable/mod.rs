//! `lull enable` and `lull disable`: whether plain `xl migrate` and libvirt keep the limits
//! too, whether lull attaches network interfaces, and the state of each.

pub mod libvirt;
pub mod vif;
pub mod xl;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use lull_base::atomic_file;
use lull_base::exit::done_or_not;

/// The options of `lull enable`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull enable xl        # from now on `xl migrate` is a `lull migrate`
  lull enable libvirt   # and `virsh migrate --live`
  lull enable vif       # landings take less time: no shell for network interfaces

xl: installs a script, /usr/local/sbin/xl, that runs `lull migrate` in place of
  an `xl migrate` whose arguments lull understands, and the installed xl for
  everything else: with lull as its save helper (LIBXL_SAVE_HELPER) if it is a
  migration. It works wherever `xl` is looked up on Debian's PATH: root's shells, `ssh HOST xl`, `sudo xl`, systemd's
  services, and crontabs that set PATH as /etc/crontab does. It has no effect on
  callers of /usr/sbin/xl. In a shell that has already run xl, type `hash -r`.
libvirt: makes systemd start libvirt's daemon with a copy of lull as its save
  helper, and restarts the daemon unless a guest is being moved; guests keep
  running. Enable it again after an upgrade of lull.
vif: puts a copy of lull beside Xen's scripts (/etc/xen/scripts/vif-lull) and
  names it in /etc/xen/xl.conf (vif.default.script). It does what vif-bridge
  does, and hands anything else over to vif-bridge, for example if iptables is
  installed. It applies to guests started from then on, which need it on each
  host they move to. A running guest gets it by a move with -C and its
  configuration.

Exit codes: 0 in force, also if it was before; 2 not, and why.")]
pub struct Enable {
    /// What should keep the limits, or be done by lull
    #[arg(value_enum)]
    what: What,
}

/// The options of `lull disable`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull disable xl       # `xl migrate` is Xen's own again
  lull disable libvirt  # `virsh migrate` is libvirt's own again
  lull disable vif      # guests started from now on have Xen's own script

Exit codes: 0 undone, also if there was nothing to undo; 2 not, and why.")]
pub struct Disable {
    /// What to restore
    #[arg(value_enum)]
    what: What,
}

/// What lull may have a part in beside `lull migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// `xl migrate` as typed by hand
    Xl,
    /// `virsh migrate --live`, and whatever else uses libvirt's Xen driver
    Libvirt,
    /// Attaching network interfaces, in place of Xen's vif-bridge
    Vif,
}

/// The state of one integration; also used by `lull doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is in force.
    pub in_force: bool,
    /// What was found, as a sentence.
    pub found: String,
    /// What to do if it is not in force; may be empty.
    pub cure: String,
}

/// Runs `lull enable`.
pub fn enable(options: &Enable) -> ExitCode {
    done_or_not(match options.what {
        What::Xl => xl::enable(),
        What::Libvirt => libvirt::enable(),
        What::Vif => vif::enable(),
    })
}

/// Runs `lull disable`.
pub fn disable(options: &Disable) -> ExitCode {
    done_or_not(match options.what {
        What::Xl => xl::disable(),
        What::Libvirt => libvirt::disable(),
        What::Vif => vif::disable(),
    })
}

/// Writes a file and creates the folders above it.
fn put(file: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let place = || format!("{} cannot be written", file.display());
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).with_context(place)?;
    atomic_file::replace(file, content, mode).with_context(place)
}

/// Whether both files exist and have the same content.
fn same_content(one: &Path, other: &Path) -> bool {
    let sizes = (
        fs::metadata(one).map(|f| f.len()),
        fs::metadata(other).map(|f| f.len()),
    );
    matches!(sizes, (Ok(a), Ok(b)) if a == b)
        && matches!((fs::read(one), fs::read(other)), (Ok(a), Ok(b)) if a == b)
}
