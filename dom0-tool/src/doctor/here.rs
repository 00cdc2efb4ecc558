//! The checks of this host.

use std::path::Path;
use std::process::Command;

use lull_agents::helper;
use lull_base::confine;
use lull_engine::stub::room::{self, Memory, Plan};
use lull_xen::host::Host;
use lull_xen::{self as xen, Xen, version, version::Version};

use super::ask;
use super::files;
use super::finding::{Finding, Findings};
use super::guests::{self, Seen};
use super::xl_info::XlInfo;
use crate::enable;

/// The facts with which the destination is compared.
#[derive(Debug, Default)]
pub struct Here {
    /// The output of `xl info`.
    pub info: XlInfo,
    /// The guests that could be moved.
    pub guests: Vec<Seen>,
}

/// Runs all checks of this host.
pub fn check(findings: &mut Findings) -> Here {
    let mut here = Here::default();
    if let Some(info) = basics(findings) {
        findings.add(log_dirty(&info));
        here.info = info;
        here.guests = guests::check(findings);
        stub_fits(&here, findings);
    }
    findings.add(match helper::stock() {
        Ok(path) => Finding::ok(
            "stock-helper",
            format!("Xen's own save helper is {}", path.display()),
        ),
        Err(why) => Finding::problem(
            "stock-helper",
            format!("{why}: `xl save` and `xl restore` need it"),
            "Install Xen's tools (Debian: xen-utils), or name it in LULL_STOCK_HELPER.",
        ),
    });
    findings.add(Finding::in_force("enabled-xl", enable::xl::in_force()));
    findings.add(match ask::within(ask::HERE, enable::libvirt::in_force) {
        Some(Some(seen)) => Finding::in_force("enabled-libvirt", seen),
        Some(None) => Finding::ok(
            "enabled-libvirt",
            "libvirt's Xen driver is not installed: no `virsh migrate` to keep limits",
        ),
        None => Finding::warning(
            "enabled-libvirt",
            "whether libvirt starts lull cannot be read in time",
            "Is the disk well, and /proc?",
        ),
    });
    findings.add(attaching());
    findings.add(walls());
    files::check(findings);
    here
}

/// The conditions of `lull migrate` that do not depend on the guest. Each check only makes
/// sense if the one before succeeded.
fn basics(findings: &mut Findings) -> Option<XlInfo> {
    let host = Host::default();
    if let Err(why) = Host::check_root() {
        findings.add(Finding::not_ready("root", &why));
        return None;
    }
    findings.add(Finding::ok("root", "lull runs as root"));
    if let Err(why) = host.check_xen() {
        findings.add(Finding::not_ready("xen", &why));
        return None;
    }
    let version = version::detect();
    findings.add(match &version {
        Ok(version) => known(*version),
        Err(why) => Finding::problem(
            "xen",
            why.to_string(),
            "Its interface may differ: use a lull that knows this Xen.",
        ),
    });
    for device in ["evtchn", "hypercall", "xenbus"] {
        let path = Path::new("/dev/xen").join(device);
        if !path.exists() {
            findings.add(Finding::problem(
                "devices",
                format!("{} is missing", path.display()),
                "Load its kernel module: `modprobe -a xen-privcmd xen-evtchn`; xenbus belongs to the kernel itself.",
            ));
        }
    }
    version.ok()?;
    findings.add(dom0());
    match host.xl() {
        Err(why) => {
            findings.add(Finding::not_ready("xl", &why));
            None
        }
        Ok(xl) => {
            let mut info = Command::new(&xl);
            info.arg("info");
            let said = ask::command(info, ask::HERE);
            findings.add(match &said {
                Ok(_) => Finding::ok("xl", format!("{} answers", xl.display())),
                Err(why) => Finding::problem(
                    "xl",
                    format!("`{} info` fails: {why}", xl.display()),
                    "Is xenstored running? `xl info` must work first.",
                ),
            });
            said.ok().map(|text| XlInfo::parse(&text))
        }
    }
}

/// Whether lull's tests run on this version of Xen.
fn known(version: Version) -> Finding {
    const CHECK: &str = "xen";
    match version.seen {
        version::Seen::Run => {
            Finding::ok(CHECK, format!("Xen {version}, which lull's tests run on"))
        }
        version::Seen::FromHeaders => Finding::warning(
            CHECK,
            format!("lull knows Xen {version} from its headers, and has not been run on it"),
            "Rehearse first: `lull rehearse --like GUEST HOST`.",
        ),
    }
}

/// The kinds of guests for which Xen can log dirty pages. Nested page tables work for the
/// guests that have them, PVH and HVM; shadow page tables work for all.
fn log_dirty(info: &XlInfo) -> Finding {
    const CHECK: &str = "log-dirty";
    let has = |way| info.ways.split_whitespace().any(|word| word == way);
    match (has("hap"), has("shadow")) {
        _ if info.ways.is_empty() => Finding::warning(
            CHECK,
            "`xl info` does not say of which guests Xen can log what they write",
            "A migration will find out, and nothing happens to its guest.",
        ),
        (_, true) => Finding::ok(
            CHECK,
            "what PVH, HVM and PV guests write can be logged (shadow paging)",
        ),
        (true, false) => Finding::ok(
            CHECK,
            "what PVH and HVM guests write can be logged (hap); not what PV guests do, which lull does not move",
        ),
        (false, false) => Finding::problem(
            CHECK,
            "what guests write cannot be logged: Xen has neither nested page tables (hap) nor shadow paging here",
            "Boot Xen without `hap=0`, or one that is built with shadow paging.",
        ),
    }
}

/// What attaches network interfaces. It need not be lull.
fn attaching() -> Finding {
    const CHECK: &str = "enabled-vif";
    match ask::within(ask::HERE, enable::vif::in_force) {
        Some(seen) if seen.cure.is_empty() => Finding::ok(CHECK, seen.found),
        Some(seen) => Finding::in_force(CHECK, seen),
        None => Finding::warning(
            CHECK,
            "what attaches network interfaces cannot be found out in time",
            "Is the disk well?",
        ),
    }
}

/// The confinement of the processes that read input from a stub or another host.
fn walls() -> Finding {
    const CHECK: &str = "walls";
    match confine::lacking()[..] {
        [] => Finding::ok(
            CHECK,
            "seccomp and landlock confine what reads the words of stubs and other hosts",
        ),
        ref lacking => Finding::warning(
            CHECK,
            format!(
                "this kernel has no {}: what reads the words of stubs and other hosts is less \
                 confined",
                lacking.join(" and no ")
            ),
            "Guests move all the same. Debian 12's kernel has both; landlock also needs its \
             name in `lsm=`, if that is given.",
        ),
    }
}

fn dom0() -> Finding {
    match ask::within(ask::HERE, || xen::state(0)) {
        Some(Ok(Some(state))) if state.hvm => Finding::problem(
            "dom0",
            "dom0 is a PVH domain, which cannot write another domain's page table",
            "Boot Xen without `dom0=pvh`.",
        ),
        Some(Ok(_)) => Finding::ok("dom0", "dom0 is a PV domain"),
        Some(Err(error)) => Finding::problem(
            "dom0",
            format!("the hypervisor does not answer: {error}"),
            "`xl list` must work first.",
        ),
        None => Finding::problem(
            "dom0",
            "the hypervisor does not answer",
            "`xl list` must work first.",
        ),
    }
}

/// Whether there is room for the stub that the largest guest needs.
fn stub_fits(here: &Here, findings: &mut Findings) {
    let largest = here.guests.iter().max_by_key(|guest| guest.frames);
    let (frames, whose) = match largest {
        Some(guest) => (guest.frames, format!("the stub for {}", guest.name)),
        None => (0, "a stub".to_owned()),
    };
    let memory = ask::within(ask::HERE, || {
        Xen::open_here().and_then(|xen| Memory::here(&xen))
    });
    if let Some(Ok(memory)) = memory {
        findings.add(stub_memory(&whose, frames, memory));
    }
}

fn stub_memory(whose: &str, frames: u64, memory: Memory) -> Finding {
    const CHECK: &str = "stub-memory";
    let (needed, plan) = match room::plan_for(frames, memory) {
        Ok(planned) => planned,
        Err(why) => {
            let found = format!("what {whose} needs cannot be said: {why}");
            return Finding::problem(CHECK, found, "Report it with this line.");
        }
    };
    let found = format!(
        "{whose} needs {} MiB of memory, {} MiB are free",
        needed.div_ceil(1024),
        memory.free / 1024
    );
    match plan {
        Plan::Fits => Finding::ok(CHECK, found),
        Plan::Take(_) => Finding::ok(
            CHECK,
            format!("{found}, and the rest is taken from dom0, as xl does (autoballoon)"),
        ),
        Plan::Short(short) => {
            Finding::problem(CHECK, format!("{found}, and {}", short.why()), short.cure())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn a_xen_that_lull_has_not_been_run_on_is_named_as_such() {
        for version in version::KNOWN {
            let finding = known(version);
            let has_run = matches!(version.minor, 17 | 20);
            assert_eq!(finding.level == Level::Ok, has_run, "{finding:?}");
            assert!(finding.found.contains(&format!("Xen {version}")));
            assert_eq!(finding.found.contains("from its headers"), !has_run);
        }
    }

    #[test]
    fn a_stub_that_xl_would_make_room_for_fits() {
        let finding = |free_mib: u64, autoballoon| {
            let memory = Memory {
                free: free_mib << 10,
                dom0: 1 << 20,
                autoballoon,
            };
            let finding = stub_memory("the stub for web1", 1 << 16, memory);
            (finding.level, finding.found, finding.cure)
        };
        let (level, found, _) = finding(100, false);
        assert_eq!(level, Level::Ok);
        assert_eq!(
            found,
            "the stub for web1 needs 17 MiB of memory, 100 MiB are free"
        );
        let (level, found, _) = finding(3, true);
        assert_eq!(level, Level::Ok);
        assert!(
            found.ends_with(
                "3 MiB are free, and the rest is taken from dom0, as xl does (autoballoon)"
            ),
            "{found}"
        );
        let (level, found, cure) = finding(3, false);
        assert_eq!(level, Level::Problem);
        assert!(found.contains("3 MiB are free, and xl is set"), "{found}");
        assert!(cure.contains("`xl mem-set 0 "), "{cure}");
    }

    #[test]
    fn whose_writes_can_be_logged_hangs_on_xens_paging() {
        for (ways, level, words) in [
            ("pv hvm hap shadow", Level::Ok, "PVH, HVM and PV"),
            ("hvm shadow", Level::Ok, "PVH, HVM and PV"),
            ("pv hvm hap gnttab-v1", Level::Ok, "not what PV guests do"),
            ("pv", Level::Problem, "cannot be logged"),
            ("", Level::Warning, "does not say"),
        ] {
            let finding = log_dirty(&XlInfo {
                ways: ways.into(),
                ..XlInfo::default()
            });
            assert_eq!(finding.level, level, "{ways}");
            assert!(finding.found.contains(words), "{ways}: {}", finding.found);
        }
    }
}
