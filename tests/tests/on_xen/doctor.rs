//! `lull doctor` on a host that is ready, and on one that is not.

use anyhow::{Result, ensure};
use lull_tests::ssh::quote;

use crate::world::World;

/// Checks a healthy host with itself as the destination, and then the same host with a
/// defect.
pub fn finds_what_is_wrong(world: &mut World) -> Result<()> {
    world.guest()?;
    let host = &world.host;
    let output = host.run("lull doctor localhost")?;
    for words in [
        "which lull's tests run on",
        "dom0 is a PV domain",
        "guests write can be logged",
        "busy can be moved",
        "plain `xl migrate` knows no limits",
        "is this very host",
        "seccomp and landlock confine",
        "guests can land fast",
        "localhost is ready",
    ] {
        ensure!(output.stdout.contains(words), "no {words:?} in {output:?}");
    }
    ensure!(output.status == 0, "{output:?}");

    for (change, words, code) in [
        (
            "touch /run/rig/l && chmod 666 /run/rig/l && cp -p /run/rig/l /etc/lull.toml",
            "PROBLEM",
            2,
        ),
        (
            "busybox mount -t tmpfs nothing /usr/lib/xen-4.*/bin",
            "libxl-save-helper is in none",
            2,
        ),
    ] {
        let inner = format!("{change} && lull doctor");
        let output = host.run(&format!("unshare -m sh -c {}", quote(&inner)))?;
        host.run("rm -f /etc/lull.toml")?.checked()?;
        ensure!(
            output.status == code && output.stdout.contains(words),
            "{change}: {output:?}"
        );
    }
    let output = host.run("lull doctor nowhere.invalid")?;
    ensure!(
        output.status == 6 && output.stdout.contains("nowhere.invalid is not reached"),
        "{output:?}"
    );
    Ok(())
}
