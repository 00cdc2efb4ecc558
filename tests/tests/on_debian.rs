//! Tests lull's Debian package in a separate Debian: it is installed, used, upgraded,
//! removed and purged.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lull_tests::small_debian::SmallDebian;
use lull_tests::static_programs;
use lull_tests::timeline::Timeline;

const WRAPPER: &str = "usr/local/sbin/xl";
const DROP_IN: &str = "etc/systemd/system/libvirtd.service.d/lull.conf";
const COPY: &str = "usr/lib/xen-lull/bin/libxl-save-helper";
const SCRIPT: &str = "etc/xen/scripts/vif-lull";

#[test]
fn it_comes_and_goes_without_a_trace() -> Result<()> {
    let timeline = Timeline::start();
    let lull = static_programs::build_lull(&timeline)?;
    let package = static_programs::build_package(&timeline)?;
    let debian = SmallDebian::fresh()?;
    let root = debian.root();
    stand_ins(&root)?;
    fs::copy(&package, root.join("tmp/lull.deb"))?;
    let before = debian.files()?;

    debian.run("dpkg --install /tmp/lull.deb")?;
    timeline.phase("the package installed");
    works(&debian, &lull)?;
    is_well_kept(&debian)?;

    knows_its_own(&debian)?;
    debian.run("dpkg --install /tmp/lull.deb")?;

    debian.run("lull enable xl && lull enable libvirt && lull enable vif")?;
    let said = debian.run("xl migrate web1 host2")?;
    ensure!(said == "/usr/sbin/lull: migrate web1 host2\n", "{said:?}");
    debian.run("lull limits set --default --timeout 10min && mkdir -p /var/lib/lull/runs")?;
    debian.run(&format!("echo old >/{COPY}; echo older >>/{SCRIPT}"))?;
    debian.run(&format!(
        "cp /{WRAPPER} /run/made; echo '# older' >>/{WRAPPER}"
    ))?;
    debian.run("dpkg --install /tmp/lull.deb")?;
    debian
        .run(&format!("cmp /run/made /{WRAPPER} && rm /run/made"))
        .context("xl's script is not the new lull's")?;
    for kept in [WRAPPER, DROP_IN, SCRIPT] {
        ensure!(root.join(kept).exists(), "{kept} did not stay");
    }
    for copy in [COPY, SCRIPT] {
        debian
            .run(&format!("cmp /usr/sbin/lull /{copy}"))
            .with_context(|| format!("{copy} is not the new one"))?;
    }

    stays_while_a_guest_is_moved(&debian)?;
    debian.run("dpkg --remove lull")?;
    for gone in [WRAPPER, DROP_IN, COPY, SCRIPT, "usr/sbin/lull"] {
        ensure!(!root.join(gone).exists(), "{gone} is still there");
    }
    let said = debian.run("xl migrate web1 host2")?;
    ensure!(said == ": migrate web1 host2\n", "{said:?}");
    for kept in ["etc/lull.toml", "var/lib/lull/runs"] {
        ensure!(root.join(kept).exists(), "{kept} did not stay");
    }
    debian.run("dpkg --purge lull")?;
    same(&before, &debian.files()?)?;
    timeline.phase("the package removed and purged");
    Ok(())
}

/// Installs stand-ins: an xl that prints how it was called, xl's script for interfaces, and
/// a file that looks like libvirt.
fn stand_ins(root: &Path) -> Result<()> {
    let scripts = root.join("etc/xen/scripts");
    fs::create_dir_all(&scripts)?;
    fs::write(scripts.join("vif-bridge"), "#!/bin/sh\n")?;
    let xl = root.join("usr/sbin/xl");
    fs::write(&xl, "#!/bin/sh\necho \"$LIBXL_SAVE_HELPER: $*\"\n")?;
    fs::set_permissions(&xl, Permissions::from_mode(0o755))?;
    let units = root.join("etc/systemd/system");
    fs::create_dir_all(&units)?;
    fs::write(units.join("libvirtd.service"), "[Service]\n")?;
    let drivers = root.join("usr/lib/x86_64-linux-gnu/libvirt/connection-driver");
    fs::create_dir_all(&drivers)?;
    Ok(fs::write(drivers.join("libvirt_driver_libxl.so"), "")?)
}

/// Checks that the binary runs, and that manual, completions and example are in the usual
/// places.
fn works(debian: &SmallDebian, lull: &Path) -> Result<()> {
    let here = Command::new(lull).arg("--version").output()?.stdout;
    let there = debian.run("lull --version")?;
    ensure!(there.as_bytes() == here, "{there}");
    // ldd has one message for a position-independent static binary, and another for a fixed
    // one.
    debian.run("ldd /usr/sbin/lull 2>&1 | grep -e 'statically linked' -e 'not a dynamic'")?;
    for page in ["lull", "lull-migrate", "lull-limits-set"] {
        let found = debian.run(&format!("man --where {page}"))?;
        ensure!(found.starts_with("/usr/share/man/man8/"), "{found}");
    }
    let words = debian.run("man lull-migrate")?;
    ensure!(words.contains("--max-suspend-time"), "{words}");
    debian.run(
        "bash -c '. /usr/share/bash-completion/completions/lull && complete -p lull' &&
         grep -q '^#compdef lull' /usr/share/zsh/vendor-completions/_lull &&
         grep -q 'complete -c lull' /usr/share/fish/vendor_completions.d/lull.fish",
    )?;
    let said = debian.run("lull limits check /usr/share/doc/lull/examples/lull.toml")?;
    ensure!(said.contains("0 limits"), "{said}");
    let said = debian.run("lull limits check")?;
    ensure!(said.contains("no limits"), "{said}");
    Ok(())
}

/// Checks that all files belong to root, that only root can write them, and that they match
/// the sums of the package.
fn is_well_kept(debian: &SmallDebian) -> Result<()> {
    let wrong = debian.run("dpkg --verify lull")?;
    ensure!(wrong.is_empty(), "{wrong}");
    let wrong = debian.run(
        "dpkg --listfiles lull | sed 1d | tr '\\n' '\\0' |
         xargs -0 -I{} find {} -maxdepth 0 '(' ! -user root -o ! -group root -o -perm /022 ')'",
    )?;
    ensure!(wrong.is_empty(), "{wrong}");
    let documents =
        debian.run("cat /usr/share/doc/lull/copyright; zcat /usr/share/doc/lull/*.gz")?;
    ensure!(
        documents.contains("Apache-2.0") && documents.contains("lull ("),
        "{documents}"
    );
    Ok(())
}

/// The package leaves an xl alone that starts a lull from another path.
fn knows_its_own(debian: &SmallDebian) -> Result<()> {
    let said = debian.run(
        "cp /usr/sbin/lull /usr/local/bin/ && /usr/local/bin/lull enable xl >/dev/null
         dpkg --remove lull >/dev/null && xl migrate web1 host2
         /usr/local/bin/lull disable xl >/dev/null && rm /usr/local/bin/lull",
    )?;
    ensure!(
        said == "/usr/local/bin/lull: migrate web1 host2\n",
        "{said:?}"
    );
    Ok(())
}

/// Checks that the package stays while a guest is moved. A move is recognised by its
/// control socket and by the process that holds it, whose name is lull; here that is a
/// process that sleeps.
fn stays_while_a_guest_is_moved(debian: &SmallDebian) -> Result<()> {
    debian.run("mkdir /run/lull /run/sleeps && cp /bin/sleep /run/sleeps/lull")?;
    let refused = debian.run("/run/sleeps/lull 60 & touch /run/lull/7.$!.sock; dpkg --remove lull");
    let said = refused.err().context("it was removed")?.to_string();
    ensure!(said.contains("a guest is being moved"), "{said}");
    let said = debian.run("xl migrate web1 host2")?;
    ensure!(said.starts_with("/usr/sbin/lull: "), "{said:?}");
    // A socket whose process is gone does not count.
    debian.run("mv /run/lull/7.*.sock /run/lull/7.4194305.sock; rm -r /run/sleeps")?;
    // A socket of a process with another name does not count either; here it is the shell
    // that runs this command.
    debian.run("touch /run/lull/7.1.sock")?;
    Ok(())
}

fn same(before: &[String], after: &[String]) -> Result<()> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) =
        (before.iter().collect(), after.iter().collect());
    let lost: Vec<_> = before.difference(&after).collect();
    let left: Vec<_> = after.difference(&before).collect();
    ensure!(
        lost.is_empty() && left.is_empty(),
        "lost: {lost:#?}, left behind: {left:#?}"
    );
    Ok(())
}

#[test]
fn the_same_sources_are_the_same_package() -> Result<()> {
    let lull = static_programs::build_lull(&Timeline::start())?;
    let folder = tempfile::tempdir()?;
    let make = |name: &str| -> Result<Vec<u8>> {
        Ok(fs::read(lull_package::build(
            &lull,
            &folder.path().join(name),
        )?)?)
    };
    ensure!(make("one")? == make("two")?, "they differ");
    Ok(())
}
