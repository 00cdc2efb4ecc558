//! `vif-lull`: the script that libxl runs when a guest gets or loses a network interface,
//! in place of Xen's `vif-bridge`. A landing waits for it while the guest is stopped, and a
//! shell script that starts a dozen programs takes most of that time.
//!
//! In the order of execution: [`call`] parses libxl's call, [`plan`] decides what to do,
//! and [`net_link`](lull_base::net_link) makes the requests to the kernel. The plain case
//! is an interface with its own backend, added to a Linux bridge. For any other case this
//! process executes `vif-bridge` before it has changed anything. Both leave the same state
//! in the kernel and in xenstore (Xen 4.17, `tools/hotplug/Linux/vif-bridge`).

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

/// The script's name, by which the binary recognises its role.
pub const NAME: &str = "vif-lull";

/// The name of Xen's own script.
pub const STOCK: &str = "vif-bridge";

/// The folder in which libxl looks for both (`XEN_SCRIPT_DIR`).
pub const FOLDER: &str = "/etc/xen/scripts";

/// The longest time this may take, whatever hangs. libxl waits twice as long
/// (`LIBXL_HOTPLUG_TIMEOUT`, 40 s, libxl_internal.h, 4.17).
const MAX_DURATION: Duration = Duration::from_secs(20);

/// The MAC address of the backend's end: the largest that is not a broadcast address, so
/// that no bridge ever adopts it.
const MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// Runs the binary as the script.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let mut words = words;
    let script = PathBuf::from(words.next().unwrap_or_default());
    let words: Vec<OsString> = words.collect();
    end_in_time();
    let done = match prepare(&script, &words) {
        Ok((mut store, call, work)) => carry_out(&work, &call, &mut store)
            .inspect_err(|why| report(&mut store, &call, why))
            .map_err(|why| format!("{NAME}: {why}")),
        Err(_) => Err(exec_stock(&stock_beside(&script), &words)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Determines what to do, without changing anything.
///
/// # Errors
/// Why `vif-bridge` must handle the call.
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
    // Neither failure stops vif-bridge: the guest has a network without it.
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

/// Detaches the port. An interface may vanish at any time with its backend, which is not an
/// error here.
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

/// Writes the error to where libxl reads why a device could not be attached.
fn report(store: &mut Xenstore, call: &Call, why: &str) {
    for (key, value) in [("hotplug-error", why), ("hotplug-status", "error")] {
        // The error also goes to standard error, and only the exit code counts.
        let _ = store.write(&format!("{}/{key}", call.path()), value);
    }
}

/// Executes `vif-bridge`; returns only the reason if that fails.
fn exec_stock(stock: &Path, words: &[OsString]) -> String {
    let error = Command::new(stock).args(words).exec();
    format!("{NAME}: {} cannot be started: {error}", stock.display())
}

/// The script's folder; libxl calls a script by its full path.
fn folder_of(script: &Path) -> PathBuf {
    match script.parent().filter(|folder| folder.is_absolute()) {
        Some(folder) => folder.to_owned(),
        None => FOLDER.into(),
    }
}

fn stock_beside(script: &Path) -> PathBuf {
    folder_of(script).join(STOCK)
}

/// Ends this process if it hangs. If `vif-bridge` takes over, libxl ends it.
fn end_in_time() {
    thread::spawn(|| {
        thread::sleep(MAX_DURATION);
        eprintln!("{NAME}: no end within {} s", MAX_DURATION.as_secs());
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
}
