//! A guest's network interface, attached by lull in place of Xen's script.

use anyhow::{Result, ensure};
use lull_tests::{Guest, Host};

use crate::aftermath;
use crate::attempt::Plan;
use crate::world::World;

const CONF: &str = "/etc/xen/xl.conf";
const SCRIPT: &str = "/etc/xen/scripts/vif-lull";

/// What the rig made the shared guest with.
const GUEST_CONFIG: &str = "/run/rig/busy.cfg";

/// Xen's own scripts open it before anything else (4.17,
/// xen-hotplug-common.sh): where it is not, none has run.
const STOCK_LOG: &str = "/var/log/xen/xen-hotplug.log";

/// A shell script that Xen's own runs last, and that only it can.
const HOOKS: &str = "/etc/xen/scripts/vif-post.d";

/// Enabled, moved twice, moved with what only Xen's script can do, and undone.
pub fn attached_by_lull(world: &mut World) -> Result<()> {
    let conf = world.host.run(&format!("cat {CONF}"))?.checked()?;
    let done = attached(world);
    // Whatever became of it, the guests to come are the usual ones. The script
    // stays as long as a guest has it.
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

    // It takes the new default from here, and then has it.
    let plans = [Plan::direct().configured(GUEST_CONFIG), Plan::direct()];
    for plan in plans {
        stock_has_run(host)?;
        let ours = moved(host, &guest, &plan)?;
        ensure!(
            ours.script == SCRIPT && ours.state == stock.state,
            "Xen's: {stock:?}, lull's: {ours:?}"
        );
    }
    // The first time it took away what it had attached.
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

/// Moves it, and looks at its interface. Only what happens at the destination
/// is waited for: the source's, whichever script it had, has gone by then.
fn moved(host: &Host, guest: &Guest, plan: &Plan) -> Result<Port> {
    let ended = plan.run(host, guest)?;
    ended.expect(0)?;
    aftermath::check(host, guest, &ended)?;
    Port::of(host, guest)
}

/// Since this was last asked.
fn stock_has_run(host: &Host) -> Result<bool> {
    let asked = host.run(&format!("test ! -e {STOCK_LOG} || rm -v {STOCK_LOG}"))?;
    Ok(!asked.checked()?.is_empty())
}

/// A guest's end of the bridge.
#[derive(Debug)]
struct Port {
    /// What attached it.
    script: String,
    /// All that a script can have a hand in.
    state: String,
}

impl Port {
    fn of(host: &Host, guest: &Guest) -> Result<Self> {
        let id = guest.domid()?;
        let backend = format!("/local/domain/0/backend/vif/{id}/0");
        let script = host.run(&format!("xenstore-read {backend}/script"))?;
        // As ip shows it: bridge, MAC, MTU, flags, addresses. Without what counts.
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
