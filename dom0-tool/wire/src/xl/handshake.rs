//! What xl's own words say about how far a migration has come.
//!
//! The lines are those of `tools/xl/xl_migrate.c`, the same from Xen 4.17 to
//! the newest. xl writes each in one piece before it takes the step, so a line
//! that did not come means a step not taken.
//!
//! Only a whole line of xl's own counts. What the destination, ssh or the guest's
//! name say may contain the same words: it comes by another pipe
//! ([`Handshake::there`]), and tells no step.

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
    /// Takes one line of xl's, and of the libraries in it.
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
        // Reading the banner or READY failed, or the transport's exit status
        // is reported: both name what they were about.
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

    /// Takes one line that came from the destination, or from what leads there. Who
    /// was at fault may be told by it, and never a step.
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

/// How lines of libxl's log begin.
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

    /// The stub's crash text, a guest's name and the destination may say anything.
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
