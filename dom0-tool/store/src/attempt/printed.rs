//! The last lines that xl, ssh and the destination printed, and the choice of those that an
//! operator should see when the migration failed.

use std::collections::VecDeque;

use lull_base::text::printable;

/// Number of lines kept.
const KEPT: usize = 200;

/// Number of lines shown.
const SHOWN: usize = 3;

/// The last lines that were printed.
#[derive(Debug, Default)]
pub struct Printed {
    lines: VecDeque<String>,
    /// The destination's first error that names a cause.
    cause: Option<String>,
}

impl Printed {
    /// Adds one line, without what a terminal would obey.
    pub fn push(&mut self, line: &str) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(printable(line));
    }

    /// Adds one line from the destination.
    pub fn push_there(&mut self, line: &str) {
        self.push(line);
        let cause = cause(line).filter(|_| self.cause.is_none());
        self.cause = cause.map(printable).or(self.cause.take());
    }

    /// The part of the destination that failed, in the words of libxl there: a bridge, a
    /// disk or a script.
    pub fn cause_there(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The lines that explain the failure, oldest first: those that ssh, a shell or the
    /// destination's xl printed themselves. If there are none, libxl's first error, because
    /// the following errors are consequences.
    pub fn explaining(&self) -> Vec<&str> {
        let own: Vec<&str> = self
            .lines
            .iter()
            .map(|line| line.trim())
            .filter(|line| !is_routine(line) && !is_library(line))
            .collect();
        if !own.is_empty() {
            return own[own.len().saturating_sub(SHOWN)..].to_vec();
        }
        self.lines
            .iter()
            .filter(|line| is_library(line) && line.contains("error"))
            .map(|line| line.trim())
            .take(1)
            .collect()
    }
}

/// The cause that a line of libxl names, without the source location: the output of a
/// hotplug script, a missing disk, memory that is not available. Most other lines of libxl
/// are consequences.
fn cause(line: &str) -> Option<&str> {
    let said = line.strip_prefix("libxl: error: ")?;
    // The format is FILE:LINE:FUNCTION:, followed in most lines by Domain N:.
    let (_, said) = said.split_once(": ")?;
    let said = match said.split_once(':') {
        Some((domain, rest)) if domain.starts_with("Domain ") => rest.trim_start(),
        _ => said,
    };
    let is_cause = [
        "script: ",
        "Disk ",
        "failed to stat",
        "No such file",
        "not enough memory",
    ];
    let names_one = is_cause.iter().any(|words| said.contains(words));
    names_one.then_some(said)
}

/// Whether the line is printed on success too, or concerns xl's own steps.
fn is_routine(line: &str) -> bool {
    const ROUTINE: [&str; 17] = [
        "migration sender:",
        "migration target: Ready",
        "migration target: Transfer complete",
        "migration target: Got permission",
        "Migration failed",
        "Saving to migration stream",
        "Loading new save file",
        "Savefile contains",
        "Parsing config",
        "Connection to",
        "Warning: Permanently added",
        "** ",
        // These are the remaining lines that xl prints when it has lost the destination.
        // The report says the same and names the hosts.
        "Domain state is now undefined",
        "Please CHECK AT BOTH ENDS",
        "resuming at most one instance",
        "would probably result in SEVERE",
        "responsibility to avoid that",
    ];
    line.is_empty() || ROUTINE.iter().any(|start| line.starts_with(start))
}

/// Whether a library printed the line, with file and line number: it helps only to debug
/// that library.
fn is_library(line: &str) -> bool {
    [
        "libxl: ",
        "xc: ",
        "libxl-save-helper: ",
        "xencall: ",
        "lull: ",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lull_base::fuzz::any_bytes;
    use lull_base::lines::each_line;
    use lull_wire::xl::handshake::Handshake;

    fn explaining(lines: &[&str]) -> Vec<String> {
        let mut printed = Printed::default();
        for line in lines {
            printed.push(line);
        }
        printed
            .explaining()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn sshs_own_words_come_before_libxls() {
        let said = explaining(&[
            "ssh: connect to host host2 port 22: No route to host",
            "libxl: error: libxl_utils.c:507:libxl_read_exactly: file/stream truncated reading banner from migration receiver stream",
            "libxl: info: libxl_exec.c:117:libxl_report_child_exitstatus: migration transport process [7] exited with error status 255",
        ]);
        assert_eq!(
            said,
            ["ssh: connect to host host2 port 22: No route to host"]
        );
    }

    #[test]
    fn the_destinations_complaint_is_found_among_routine() {
        let said = explaining(&[
            "migration target: Ready to receive domain.",
            "Saving to migration stream new xl format (info 0x3/0x0/1234)",
            "Loading new save file <incoming migration stream> (new xl fmt info 0x3/0x0/1234)",
            " Savefile contains xl domain config in JSON format",
            "Parsing config from <saved>",
            "libxl: error: libxl_mem.c:1:x: no",
            "failed to free memory for the domain",
            "migration target: Domain creation failed (code -3).",
            "Migration failed, resuming at sender.",
        ]);
        assert_eq!(
            said,
            [
                "failed to free memory for the domain",
                "migration target: Domain creation failed (code -3)."
            ]
        );
    }

    /// The messages are those of libxl 4.17 and 4.20.
    #[test]
    fn the_destinations_cause_is_found_in_its_librarys_words() {
        for (line, cause) in [
            (
                "libxl: error: libxl_device.c:1259:device_hotplug_child_death_cb: script: Could not find bridge device xenbr1",
                Some("script: Could not find bridge device xenbr1"),
            ),
            (
                "libxl: error: libxl_device.c:326:libxl__device_disk_set_backend: Disk vdev=xvda failed to stat: /dev/x: No such file or directory",
                Some("Disk vdev=xvda failed to stat: /dev/x: No such file or directory"),
            ),
            (
                "libxl: error: libxl_create.c:1896:domcreate_attach_devices: Domain 5:unable to add vif devices",
                None,
            ),
            ("script: no library's", None),
        ] {
            let mut printed = Printed::default();
            printed.push_there(line);
            printed.push_there("libxl: error: x.c:1:f: script: a later one");
            let first = cause.unwrap_or("script: a later one");
            assert_eq!(printed.cause_there(), Some(first));
        }
        let mut printed = Printed::default();
        printed.push("libxl: error: x.c:1:f: script: here");
        assert_eq!(printed.cause_there(), None);
    }

    #[test]
    fn xls_own_alarm_is_left_to_the_report() {
        let said = explaining(&[
            "packet_write_wait: Connection to host2 port 22: Broken pipe",
            "** Migration failed during final handshake **",
            "Domain state is now undefined !",
            "Please CHECK AT BOTH ENDS for running instances, before renaming and",
            " resuming at most one instance.  Two simultaneous instances of the domain",
            " would probably result in SEVERE DATA LOSS and it is now your",
            " responsibility to avoid that.  Sorry.",
        ]);
        assert_eq!(
            said,
            ["packet_write_wait: Connection to host2 port 22: Broken pipe"]
        );
    }

    #[test]
    fn with_nothing_better_libxls_first_error_is_shown() {
        let said = explaining(&["libxl: error: first", "libxl: error: second"]);
        assert_eq!(said, ["libxl: error: first"]);
    }

    #[test]
    fn the_terminal_is_safe_from_the_destination() {
        assert_eq!(explaining(&["\u{1b}[2Jgone"]), ["[2Jgone"]);
    }

    /// The input is what xl, ssh, a shell and the destination print.
    #[test]
    fn any_bytes_are_shown() {
        let samples: [&[u8]; 3] = [
            b"migration sender: Target reports successful startup.\nMigration successful.\n",
            b"libxl: error: libxl_device.c:1259:f: Domain 5:script: no bridge\r\n",
            b"migration target: Domain creation failed (code -3).\n\xff\x1b[2J",
        ];
        any_bytes(&samples, |bytes| {
            let (mut printed, mut handshake) = (Printed::default(), Handshake::default());
            each_line(bytes, |line| {
                handshake.line(line);
                handshake.there(line);
                printed.push(line);
                printed.push_there(line);
            })
            .unwrap();
            let said = printed
                .explaining()
                .into_iter()
                .chain(printed.cause_there());
            assert!(said.flat_map(str::chars).all(|c| !c.is_control()));
        });
    }
}
