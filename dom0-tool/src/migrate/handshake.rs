//! What xl's own words say about how far a migration has come.
//!
//! The lines are those of `tools/xl/xl_migrate.c`, the same from Xen 4.17 to
//! the newest. xl writes each in one piece before it takes the step, so a line
//! that did not come means a step not taken.

/// How far xl and the destination got, and how xl says it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The last step that was announced.
    pub step: Step,
    /// What xl said went wrong, the last of it.
    pub failure: Option<Failure>,
    /// The connection to the destination was at fault.
    pub transport_failed: bool,
    /// What connected to the destination was killed: lull's own process. An ssh
    /// that dies is an exit of it.
    pub transport_killed: bool,
    /// A save helper was killed, here or there.
    pub helper_killed: bool,
    /// The destination said that it could not build the domain.
    pub target_failed: bool,
}

/// The steps after the stream, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The destination has not said READY.
    #[default]
    Streaming,
    /// It has: it holds the whole guest, paused.
    Acknowledged,
    /// xl is about to write GO, or has. No way back from here.
    PermissionGiven,
    /// The destination had GO, but could not start the guest.
    StartFailed,
    /// The destination has destroyed its copy and given the guest back.
    GivenBack,
    /// The guest runs at the destination.
    TargetStarted,
}

/// xl's last words when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It resumes the guest at the source.
    Resuming,
    /// It holds that the guest never stopped.
    FailedToSuspend,
    /// The destination's fault, after GO, and undone.
    AtTarget,
    /// It does not know where the guest is.
    Undefined,
}

impl Handshake {
    /// Takes one line of xl's, whatever else stands in it: the destination
    /// writes to the same pipe.
    pub fn line(&mut self, line: &str) {
        for (phrase, step) in [
            ("Target has acknowledged transfer", Step::Acknowledged),
            ("Giving target permission to start", Step::PermissionGiven),
            ("Target reports startup failure", Step::StartFailed),
            ("Trying to resume at our end", Step::GivenBack),
            ("Target reports successful startup", Step::TargetStarted),
            ("Migration successful", Step::TargetStarted),
        ] {
            if line.contains(phrase) {
                self.step = self.step.max(step);
            }
        }
        for (phrase, failure) in [
            ("Migration failed, resuming at sender", Failure::Resuming),
            (
                "Migration failed, failed to suspend at sender",
                Failure::FailedToSuspend,
            ),
            (
                "Migration failed due to problems at target",
                Failure::AtTarget,
            ),
            (
                "Migration failed during final handshake",
                Failure::Undefined,
            ),
            ("Domain state is now undefined", Failure::Undefined),
        ] {
            if line.contains(phrase) {
                self.failure = Some(failure);
            }
        }
        // Reading the banner or READY failed, or the transport's exit status
        // is reported: both name what they were about.
        self.transport_failed |=
            line.contains("migration receiver stream") || line.contains("migration transport");
        self.transport_killed |= line.contains("migration transport process")
            && line.contains("died due to fatal signal");
        self.helper_killed |=
            line.contains("save/restore helper") && line.contains("died due to fatal signal");
        self.target_failed |= line.contains("migration target: Domain creation failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Handshake {
        let mut handshake = Handshake::default();
        for line in lines {
            handshake.line(line);
        }
        handshake
    }

    #[test]
    fn steps_only_go_forward() {
        let handshake = after(&[
            "migration sender: Giving target permission to start.",
            "migration sender: Target has acknowledged transfer.",
        ]);
        assert_eq!(handshake.step, Step::PermissionGiven);
    }

    #[test]
    fn a_line_mixed_with_the_destinations_is_still_recognised() {
        let handshake =
            after(&["migration target: Transmigration sender: Giving target permission to start."]);
        assert_eq!(handshake.step, Step::PermissionGiven);
    }

    #[test]
    fn success_comes_after_permission() {
        let handshake = after(&[
            "migration sender: Target has acknowledged transfer.",
            "migration sender: Giving target permission to start.",
            "migration sender: Target reports successful startup.",
            "Migration successful.",
        ]);
        assert_eq!(handshake.step, Step::TargetStarted);
        assert_eq!(handshake.failure, None);
    }

    #[test]
    fn the_transports_death_is_told_from_xls_own() {
        assert!(
            after(&["libxl: error: libxl_utils.c:507:libxl_read_exactly: file/stream truncated reading banner from migration receiver stream"])
                .transport_failed
        );
        assert!(
            after(&["libxl: info: libxl_exec.c:117:libxl_report_child_exitstatus: migration transport process [7] exited with error status 255"])
                .transport_failed
        );
        assert!(!after(&["unable to retrieve domain configuration"]).transport_failed);
    }
}
