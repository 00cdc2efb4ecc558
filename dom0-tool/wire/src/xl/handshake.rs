//! Reads from xl's own messages how far a migration has come.
//!
//! The lines are those of `tools/xl/xl_migrate.c`, unchanged from Xen 4.17 to the
//! newest. xl writes each line in one piece before it takes the step, so a missing line
//! means that the step was not taken.
//!
//! Only a complete line from xl itself counts. Output of the destination or of ssh, or
//! the guest's name, may contain the same text. The destination's output arrives on
//! another pipe ([`Handshake::there`]) and never indicates a step.

/// How far xl and the destination got, and how xl says it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The last step that xl announced.
    pub step: Step,
    /// The last failure that xl reported.
    pub failure: Option<Failure>,
    /// Whether the connection to the destination failed.
    pub transport_failed: bool,
    /// Whether a signal killed the process that connects to the destination, which is
    /// lull's own transport. An ssh that dies makes the transport exit, and does not
    /// count.
    pub transport_killed: bool,
    /// Whether a signal killed a save helper, at the source or at the destination.
    pub helper_killed: bool,
    /// Whether the destination reported that it could not build the domain.
    pub target_failed: bool,
}

/// The steps after the stream, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The destination has not sent READY.
    #[default]
    Streaming,
    /// The destination has sent READY: it holds the whole guest, paused.
    Acknowledged,
    /// xl is about to write GO, or has written it. There is no way back from here.
    PermissionGiven,
    /// The destination had GO, but could not start the guest.
    StartFailed,
    /// The destination has destroyed its copy and given the guest back.
    GivenBack,
    /// The guest runs at the destination.
    TargetStarted,
}

/// What xl reports when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// xl resumes the guest at the source.
    Resuming,
    /// xl believes that the guest never stopped.
    FailedToSuspend,
    /// The destination failed after GO, and the migration was undone.
    AtTarget,
    /// xl does not know where the guest is.
    Undefined,
}

impl Handshake {
    /// Processes one line from xl or from the libraries in it.
    pub fn line(&mut self, line: &str) {
        let startup_failure = "migration sender: Target reports startup failure (status code ";
        let step = match line {
            "migration sender: Target has acknowledged transfer." => Step::Acknowledged,
            "migration sender: Giving target permission to start." => Step::PermissionGiven,
            "migration sender: Trying to resume at our end." => Step::GivenBack,
            "migration sender: Target reports successful startup." | "Migration successful." => {
                Step::TargetStarted
            }
            line if line.starts_with(startup_failure) => Step::StartFailed,
            _ => Step::Streaming,
        };
        self.step = self.step.max(step);
        self.failure = match line {
            "Migration failed, resuming at sender." => Some(Failure::Resuming),
            "Migration failed, failed to suspend at sender." => Some(Failure::FailedToSuspend),
            "Migration failed due to problems at target." => Some(Failure::AtTarget),
            "** Migration failed during final handshake **" | "Domain state is now undefined !" => {
                Some(Failure::Undefined)
            }
            _ => self.failure,
        };
        // The library reports that reading the banner or READY failed, or reports the
        // transport's exit status. Each of these messages names its subject.
        let is_librarys = line.starts_with(LIBXL);
        self.transport_failed |= line.starts_with("migration receiver stream ")
            || is_librarys
                && (line.contains("migration receiver stream")
                    || line.contains("migration transport"));
        self.transport_killed |= is_librarys
            && line.contains("migration transport process")
            && line.contains("died due to fatal signal");
        self.look_for_helper(line);
    }

    /// Processes one line that came from the destination or from the connection to it.
    /// Such a line may show which part failed, but never a step.
    pub fn there(&mut self, line: &str) {
        self.look_for_helper(line);
        self.target_failed |= line.starts_with("migration target: Domain creation failed");
    }

    fn look_for_helper(&mut self, line: &str) {
        self.helper_killed |= line.starts_with(LIBXL)
            && line.contains("save/restore helper")
            && line.contains("died due to fatal signal");
    }
}

/// The prefix of lines in libxl's log.
const LIBXL: &str = "libxl: ";

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

    /// The stub's crash text, a guest's name and the destination's output may contain
    /// anything.
    #[test]
    fn words_within_a_line_or_from_elsewhere_tell_no_step() {
        for words in [
            "migration sender: Giving target permission to start.",
            "migration sender: Target reports successful startup.",
            "migration sender: Trying to resume at our end.",
            "Migration successful.",
            "Migration failed, resuming at sender.",
        ] {
            let handshake = after(&[
                &format!("libxl: error: small was not moved: the stub domain died: panic: {words}"),
                &format!("lull: {words} runs on here."),
                &format!("{words} "),
                &format!("x{words}"),
            ]);
            assert_eq!(handshake, Handshake::default(), "{words}");
            let mut handshake = Handshake::default();
            handshake.there(words);
            assert_eq!(handshake, Handshake::default(), "{words}");
        }
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
