//! `vif-lull`: the script that libxl runs when a guest gets a network interface
//! or loses one, in place of Xen's `vif-bridge`. A landing waits for it while
//! the guest is stopped, and a shell script that starts a dozen programs takes
//! most of that time.
//!
//! In the order things happen: [`call`] reads what libxl asks for, [`plan`]
//! decides what is to be done, and [`net_link`](lull_base::net_link) asks the kernel for it.
//! What is not the plain case (an interface of its own backend, added to a
//! Linux bridge) is `vif-bridge`'s, which then takes this process over before
//! anything is changed. What both do leaves the same behind, in the kernel and
//! in xenstore (Xen 4.17, `tools/hotplug/Linux/vif-bridge`).

mod call;
mod plan;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use call::Call;
use lull_base::net_link::Links;
use lull_xen::xenstore::Xenstore;
pub use plan::Host;
use plan::{Attach, Detach, Keys, Work};

/// What the script is called, and how it knows itself.
pub const NAME: &str = "vif-lull";

/// Xen's own script.
pub const STOCK: &str = "vif-bridge";

/// Where libxl looks for both (`XEN_SCRIPT_DIR`).
pub const FOLDER: &str = "/etc/xen/scripts";

/// How long this may take, whatever hangs. libxl waits twice as long
/// (`LIBXL_HOTPLUG_TIMEOUT`, 40 s, libxl_internal.h, 4.17).
const LONGEST: Duration = Duration::from_secs(20);

/// The MAC of a backend's end: the largest that is no broadcast, so that no
/// bridge ever takes it for its own.
const MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Runs as the script.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words;
    let script = PathBuf::from(words.next().unwrap_or_default());
    let words: Vec<OsString> = words.collect();
    end_in_time();
    let done = match prepare(&script, &words) {
        Ok((mut store, call, work)) => carry_out(&work, &call, &mut store)
            .inspect_err(|why| report(&mut store, &call, why))
            .map_err(|why| format!("{NAME}: {why}")),
        Err(_) => Err(hand_over(&stock_beside(&script), &words)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Finds out what is to be done; changes nothing.
///
/// # Errors
/// Why it is `vif-bridge`'s to do.
fn prepare(script: &Path, words: &[OsString]) -> Result<(Xenstore, Call, Work), String> {
    let call = Call::read(words, |name| std::env::var(name).ok())?;
    let unread = |error: io::Error| format!("xenstore: {error}");
    let mut store = Xenstore::open().map_err(unread)?;
    let keys = Keys::read(&mut store, call.path()).map_err(unread)?;
    let host = Host::new(Path::new("/"), &folder_of(script));
    let work = plan::plan(&call, &keys, &host)?;
    Ok((store, call, work))
}

fn carry_out(work: &Work, call: &Call, store: &mut Xenstore) -> Result<(), String> {
    match work {
        Work::Attach(attach) => attach_port(attach, store)?,
        Work::Detach(detach) => return detach_port(detach),
    }
    let status = format!("{}/hotplug-status", call.path());
    let written = store.write(&status, "connected");
    written.map_err(|error| format!("{status} cannot be written: {error}"))
}

fn attach_port(attach: &Attach, store: &mut Xenstore) -> Result<(), String> {
    let Attach { bridge, .. } = attach;
    let name = attach.name();
    let failed = |what: &str, error: io::Error| format!("{name}: cannot {what}: {error}");
    let links = Links::open().map_err(|error| format!("no socket: {error}"))?;
    if let Some(new) = &attach.rename {
        let renamed = links.rename(&attach.device, new);
        renamed.map_err(|error| failed(&format!("rename {} so", attach.device), error))?;
    }
    let down = links.set_up(name, false);
    down.map_err(|error| failed("bring it down", error))?;
    // Neither stops vif-bridge: the guest has a network without.
    if let Err(error) = links.set_mac(name, MAC) {
        eprintln!("{NAME}: {}", failed("set its MAC", error));
    }
    if let Some(mtu) = attach.mtu {
        if let Err(error) = links.set_mtu(name, mtu) {
            eprintln!("{NAME}: {}", failed("set its MTU", error));
        }
        let written = store.write(&attach.frontend_mtu, &mtu.to_string());
        written.map_err(|error| failed("tell the guest its MTU", error))?;
    }
    let added = links.add_to_bridge(bridge, name);
    added.map_err(|error| failed(&format!("add it to bridge {bridge}"), error))?;
    let up = links.set_up(name, true);
    up.map_err(|error| failed("bring it up", error))
}

/// An interface may go at any time, with its backend: that is no error here.
fn detach_port(detach: &Detach) -> Result<(), String> {
    let Some(port) = &detach.port else {
        return Ok(());
    };
    let links = Links::open().map_err(|error| format!("no socket: {error}"))?;
    let _ = links.set_up(port, false);
    if detach.is_on_bridge {
        let _ = links.remove_from_bridge(&detach.bridge, port);
    }
    Ok(())
}

/// Where libxl reads why a device could not be attached.
fn report(store: &mut Xenstore, call: &Call, why: &str) {
    for (key, value) in [("hotplug-error", why), ("hotplug-status", "error")] {
        // It is told on standard error too, and the exit code is what counts.
        let _ = store.write(&format!("{}/{key}", call.path()), value);
    }
}

/// Becomes `vif-bridge`; comes back only with why not.
fn hand_over(stock: &Path, words: &[OsString]) -> String {
    let error = Command::new(stock).args(words).exec();
    format!("{NAME}: {} cannot be started: {error}", stock.display())
}

/// libxl calls a script by its whole path.
fn folder_of(script: &Path) -> PathBuf {
    match script.parent().filter(|folder| folder.is_absolute()) {
        Some(folder) => folder.to_owned(),
        None => FOLDER.into(),
    }
}

fn stock_beside(script: &Path) -> PathBuf {
    folder_of(script).join(STOCK)
}

/// Ends this process if it hangs; `vif-bridge`, should it take over, is libxl's
/// to end.
fn end_in_time() {
    thread::spawn(|| {
        thread::sleep(LONGEST);
        eprintln!("{NAME}: no end within {} s", LONGEST.as_secs());
        std::process::exit(1);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_script_is_looked_for_beside_this_one() {
        let beside = |script: &str| stock_beside(Path::new(script));
        assert_eq!(beside("/x/vif-lull"), Path::new("/x/vif-bridge"));
        let usual = Path::new("/etc/xen/scripts/vif-bridge");
        assert_eq!(beside("vif-lull"), usual);
        assert_eq!(beside("./vif-lull"), usual);
    }

    #[test]
    fn what_cannot_be_handed_over_is_said() {
        let said = hand_over(Path::new("/nowhere/vif-bridge"), &[]);
        assert!(said.contains("/nowhere/vif-bridge cannot be started"));
    }
}
