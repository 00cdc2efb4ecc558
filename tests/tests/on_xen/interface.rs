//! A guest's network interface that is attached by lull in place of Xen's script.

use anyhow::{Result, ensure};
use lull_tests::{Guest, Host};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::World;

const CONF: &str = "/etc/xen/xl.conf";
const SCRIPT: &str = "/etc/xen/scripts/vif-lull";

/// The configuration from which the rig made the shared guest.
const GUEST_CONFIG: &str = "/run/rig/busy.cfg";

/// The log that Xen's own scripts open before anything else (4.17, xen-hotplug-common.sh).
/// If it does not exist, none has run.
const STOCK_LOG: &str = "/var/log/xen/xen-hotplug.log";

/// The directory of hooks that Xen's own script runs last; lull cannot run them.
const HOOKS: &str = "/etc/xen/scripts/vif-post.d";

/// lull's script is enabled, the guest moves twice, moves once with a setting that only
/// Xen's script supports, and the script is disabled.
pub fn attached_by_lull(world: &mut World) -> Result<()> {
    let conf = world.host.run(&format!("cat {CONF}"))?.checked()?;
    let done = attached(world);
    // This runs whatever the result was, so that later guests are the usual ones. The
    // script stays as long as a guest uses it.
    let gone = world.bury_guest();
    let undone = world.host.run(&format!(
        "rm -rf {HOOKS}; lull disable vif; test ! -e {SCRIPT}"
    ));
    done?;
    gone?;
    undone?.checked()?;
    let after = world.host.run(&format!("cat {CONF}"))?.checked()?;
    ensure!(after == conf, "{CONF} was {conf:?}, and is {after:?}");
    Ok(())
}

fn attached(world: &mut World) -> Result<()> {
    let guest = world.guest()?;
    let host = &world.host.clone();
    let stock = Port::of(host, &guest)?;
    ensure!(stock.script.ends_with("/vif-bridge"), "{stock:?}");
    for words in ["are started from now on", "already"] {
        let said = host.run("lull enable vif")?.checked()?;
        ensure!(said.contains(words), "{said}");
    }

    // The first move gives the guest the new default script; the second finds it in place.
    let plans = [Plan::direct().configured(GUEST_CONFIG), Plan::direct()];
    for plan in plans {
        stock_has_run(host)?;
        let ours = moved(host, &guest, &plan)?;
        ensure!(
            ours.script == SCRIPT && ours.state == stock.state,
            "Xen's: {stock:?}, lull's: {ours:?}"
        );
    }
    // After the first move lull detached the interface that it had attached.
    ensure!(!stock_has_run(host)?, "it was left to Xen's script");
    let said = host.run("lull doctor localhost")?.stdout;
    for words in ["of guests started here", "localhost has the vif-lull"] {
        ensure!(said.contains(words), "no {words:?}: {said}");
    }
    let said = host.run("lull disable vif")?.checked()?;
    ensure!(said.contains("stays for those"), "{said}");

    host.run(&format!(
        "mkdir {HOOKS} && echo 'echo $command $dev >>/run/rig/hooked' >{HOOKS}/a.hook && \
         chmod +x {HOOKS}/a.hook"
    ))?
    .checked()?;
    let left = moved(host, &guest, &Plan::direct())?;
    ensure!(
        left.script == SCRIPT && left.state == stock.state && stock_has_run(host)?,
        "what Xen's script alone can do: {left:?}"
    );
    let vif = format!("online vif{}.0", guest.domid()?);
    let hooked = host.run("cat /run/rig/hooked; rm /run/rig/hooked")?;
    ensure!(hooked.checked()?.contains(&vif), "the hook was not run");
    host.run(&format!("rm -r {HOOKS}"))?.checked()?;

    guest.destroy()?;
    let left = "ls -d /sys/class/net/vif* /sys/class/net/xenbr0/brif/vif* 2>/dev/null";
    let left = host.run(left)?.stdout;
    ensure!(left.is_empty(), "left behind: {left}");
    ensure!(!stock_has_run(host)?, "Xen's script took it away");
    aftermath::no_leaks(host, &[])
}

/// Moves the guest and inspects its interface. The test waits only for the destination's
/// interface: the source's is gone by then, whichever script it had.
fn moved(host: &Host, guest: &Guest, plan: &Plan) -> Result<Port> {
    let ended = plan.run(host, guest)?;
    ended.expect(0)?;
    aftermath::check(host, guest, &ended)?;
    Port::of(host, guest)
}

/// Checks whether Xen's script has run since the last check.
fn stock_has_run(host: &Host) -> Result<bool> {
    let asked = host.run(&format!("test ! -e {STOCK_LOG} || rm -v {STOCK_LOG}"))?;
    Ok(!asked.checked()?.is_empty())
}

/// The guest's port on the bridge.
#[derive(Debug)]
struct Port {
    /// The script that attached the port.
    script: String,
    /// All state that a script can set.
    state: String,
}

impl Port {
    fn of(host: &Host, guest: &Guest) -> Result<Self> {
        let id = guest.domid()?;
        let backend = format!("/local/domain/0/backend/vif/{id}/0");
        let script = host.run(&format!("xenstore-read {backend}/script"))?;
        // The state as ip prints it: bridge, MAC, MTU, flags and addresses, without the
        // counters.
        let state = host.run(&format!(
            "cd /sys/class/net/vif{id}.0 && basename $(readlink master) && \
             cat address mtu flags brport/state && \
             ip -o address show dev vif{id}.0 | sed 's/^[0-9]*: vif[0-9.]* *//' && \
             xenstore-read {backend}/hotplug-status && \
             xenstore-read /local/domain/{id}/device/vif/0/mtu && \
             ! xenstore-exists {backend}/hotplug-error"
        ))?;
        Ok(Self {
            script: script.checked()?.trim().to_owned(),
            state: state.checked()?,
        })
    }
}
