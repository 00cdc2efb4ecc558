//! xl's monitor of a guest: the process that `xl create` and `xl migrate-receive` leave
//! behind. It carries out `on_reboot`, `on_poweroff` and `on_crash`.
//!
//! Up to Xen 4.19 the monitor takes a suspend for the guest's end and exits
//! (`handle_domain_death` in `tools/xl/xl_vmcontrol.c`; since 4.20 it stays). A guest that
//! is resumed here would then stay dead after its next reboot. So lull stops the monitor
//! (SIGSTOP) before it asks the guest to suspend. It continues the monitor (SIGCONT) once
//! the guest runs again or its domain is gone: the process that resumes the guest does so,
//! and the guard after it. libxl then looks at the domain's present state, not at its past
//! one.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lull_xen::DomId;
use lull_xen::version::{self, Version};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The first release whose xl stays after a suspend.
const STAYS: (u32, u32) = (4, 20);

/// The number of bytes read from the end of the monitor's log. The last message about any
/// domain is the one about the monitored domain.
const TAIL: u64 = 256 << 10;

/// The most processes that the search looks at.
const MAX_PROCESSES: usize = 1 << 20;

/// A monitor that is running.
#[derive(Debug)]
pub struct Monitor {
    process: OwnedFd,
    number: u32,
}

impl Monitor {
    /// The monitor of `domain`, if there is one on this host.
    pub fn of(domain: DomId) -> Option<Self> {
        let processes = fs::read_dir("/proc").ok()?;
        processes.flatten().take(MAX_PROCESSES).find_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let is_it = || watches(&entry.path(), number) == Some(domain);
            if !is_it() {
                return None;
            }
            let monitor = Self::open(number)?;
            // Check again after the open, because the process number may have been reused.
            is_it().then_some(monitor)
        })
    }

    /// The process of this number, whatever it is.
    pub(crate) fn open(number: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { process, number })
    }

    /// Whether a suspend makes the monitor of this Xen release exit.
    pub const fn leaves_at_a_suspend(xen: Version) -> bool {
        let (major, minor) = STAYS;
        xen.major < major || xen.major == major && xen.minor < minor
    }

    /// The monitor's process number, for messages.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether the monitor is stopped. Only lull has a reason to stop it.
    pub fn is_held(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.number));
        // The process name before the state may contain anything but a newline.
        status.is_ok_and(|line| {
            let state = line.rsplit_once(") ").map(|(_, rest)| rest);
            state.is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// Stops the monitor, so that it sees nothing from now on. Returns whether that
    /// succeeded.
    pub fn hold(&self) -> bool {
        pidfd_send_signal(&self.process, Signal::STOP).is_ok()
    }

    /// Continues the monitor, which then sees the present state.
    pub fn let_go(&self) {
        // An error means that the monitor has gone, which is just as good.
        let _ = pidfd_send_signal(&self.process, Signal::CONT);
    }
}

/// Where libvirt keeps the state of each running Xen guest.
const LIBVIRTS: &str = "/run/libvirt/libxl";

/// Time that the guard has to let the monitor go on, before that is said to stand still. It
/// removes the stub first.
const LETTING_GO: Duration = Duration::from_secs(5);

/// Interval between two checks whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The process that carries out the guest's next reboot or shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// An xl.
    Xl,
    /// An xl, process of this number, once it is no longer stopped.
    Stopped(u32),
    /// No process.
    None,
}

/// The warning about a guest that was paused and runs on: its next reboot or shutdown will
/// no longer be carried out. `None` if it will be.
pub fn lost(name: &str, domain: DomId) -> Option<String> {
    let stays = version::detect().is_ok_and(|xen| !Monitor::leaves_at_a_suspend(xen));
    let waiting = || match stays {
        true => Waiting::Xl,
        false => Monitor::of(domain).map_or(Waiting::None, |monitor| look(&monitor)),
    };
    warning(name, is_libvirts(name), waiting)
}

/// Checks whether the monitor runs. The guard may be about to continue it.
fn look(monitor: &Monitor) -> Waiting {
    let until = Instant::now() + LETTING_GO;
    while monitor.is_held() {
        if Instant::now() >= until {
            return Waiting::Stopped(monitor.number());
        }
        thread::sleep(POLL_INTERVAL);
    }
    Waiting::Xl
}

fn warning(name: &str, is_libvirts: bool, waiting: impl FnOnce() -> Waiting) -> Option<String> {
    if is_libvirts {
        // libxl's `shutdown_reported` permits one report for each watch on the domain.
        return Some(format!(
            "libvirt has taken {name}'s pause for its end, and will not carry out its next \
             reboot or shutdown: `systemctl restart libvirtd` makes it look again."
        ));
    }
    match waiting() {
        Waiting::Xl => None,
        Waiting::Stopped(number) => Some(format!(
            "The xl that waits for {name}'s end (process {number}) stands still, and would not \
             carry out its next reboot or shutdown. lull's guard lets it go on within minutes; \
             if `lull doctor` finds it standing still after that, `kill -CONT {number}`."
        )),
        Waiting::None => Some(format!(
            "No xl waits for {name}'s end any more: after its next reboot or shutdown `xl \
             destroy {name}` and `xl create` are yours to do."
        )),
    }
}

/// Whether libvirt started the guest of that name.
pub fn is_libvirts(name: &str) -> bool {
    !name.contains('/') && Path::new(LIBVIRTS).join(format!("{name}.xml")).exists()
}

/// The domain that a process monitors. The process must be root's, and an xl whose log says
/// so; any user may name a process xl.
fn watches(process: &Path, number: u32) -> Option<DomId> {
    let exe = fs::read_link(process.join("exe")).ok()?;
    // After an upgrade the replaced binary is called "xl (deleted)".
    let name = exe.file_name()?.to_str()?;
    if name.trim_end_matches(" (deleted)") != "xl" || fs::metadata(process).ok()?.uid() != 0 {
        return None;
    }
    let output = process.join("fd/1");
    let log = fs::read_link(&output).ok()?;
    if !log.file_name()?.to_str()?.starts_with("xl-") {
        return None;
    }
    let mut log = File::open(output).ok()?;
    let length = log.metadata().ok().filter(fs::Metadata::is_file)?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut text = Vec::new();
    log.take(TAIL).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find_map(|line| waits_for(line, number))
}

/// The domain for which process `number` says that it waits (`LOG` in `create_domain` of
/// `tools/xl/xl_vmcontrol.c`, 4.17 to 4.22). The guest's name comes first and may contain
/// anything, so the line is parsed from its end.
fn waits_for(line: &str, number: u32) -> Option<DomId> {
    let (rest, pid) = line.strip_suffix(']')?.rsplit_once(" to die [pid ")?;
    let (before, domain) = rest.strip_suffix(')')?.rsplit_once(" (domid ")?;
    let is_its = before.starts_with("Waiting for domain ") && pid.parse() == Ok(number);
    domain.parse().ok().filter(|_| is_its)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_base::fuzz::any_bytes;

    #[test]
    fn what_it_waits_for_is_read_from_its_log() {
        let line = "Waiting for domain web1 (domid 7) to die [pid 1234]";
        assert_eq!(waits_for(line, 1234), Some(7));
        assert_eq!(waits_for(line, 123), None);
        let named = "Waiting for domain x (domid 9) to die [pid 5] (domid 7) to die [pid 1234]";
        assert_eq!(waits_for(named, 1234), Some(7));
        assert_eq!(waits_for(named, 5), None);
        for other in [
            "",
            "Domain 7 has shut down, reason code 2 0x2",
            "Waiting for domain web1 (domid x) to die [pid 1234]",
            "x Waiting for domain web1 (domid 7) to die [pid 1234]",
        ] {
            assert_eq!(waits_for(other, 1234), None, "{other}");
        }
    }

    #[test]
    fn who_lost_its_monitor_is_told_what_is_left_to_do() {
        assert_eq!(warning("web1", false, || Waiting::Xl), None);
        let lost = warning("web1", false, || Waiting::None).unwrap();
        assert!(lost.contains("`xl destroy web1`"), "{lost}");
        // The guard, which would let it go on, may have been killed.
        let lost = warning("web1", false, || Waiting::Stopped(123)).unwrap();
        assert!(lost.contains("`kill -CONT 123`"), "{lost}");
        // libvirt's daemon stays, and has spent its one report all the same.
        let lost = warning("web1", true, || Waiting::Xl).unwrap();
        assert!(lost.contains("`systemctl restart libvirtd`"), "{lost}");
    }

    #[test]
    fn no_process_of_this_test_monitors_a_guest() {
        assert!(Monitor::of(7).is_none());
    }

    #[test]
    fn xl_leaves_up_to_4_19() {
        for xen in version::KNOWN {
            assert_eq!(Monitor::leaves_at_a_suspend(xen), xen.minor < 20, "{xen}");
        }
    }

    #[test]
    fn any_bytes_are_a_log() {
        let sample = b"Waiting for domain web1 (domid 7) to die [pid 1234]\n";
        any_bytes(&[sample], |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for line in text.lines() {
                let _ = waits_for(line, 1234);
            }
        });
    }
}
