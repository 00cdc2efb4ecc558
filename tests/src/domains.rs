//! The host's domains, as `xl list` reports them.

use anyhow::{Context, Result};

use crate::console::Mark;
use crate::host::Host;

/// One domain of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// The name; `(null)` while a domain is being built or torn down.
    pub name: String,
    /// The domain number on this host.
    pub id: u32,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The state of the domain.
    pub state: State,
}

/// The state flags of a domain. Several may be set at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// The domain runs on a processor right now.
    pub running: bool,
    /// The domain waits for an event.
    pub blocked: bool,
    /// The toolstack has paused the domain.
    pub paused: bool,
    /// The domain has shut down: powered off, rebooting, or suspended.
    pub shutdown: bool,
    /// The domain's kernel has crashed.
    pub crashed: bool,
    /// The domain is being torn down.
    pub dying: bool,
}

impl State {
    /// Checks whether the guest's code runs, or would run if it had work.
    pub fn is_alive(self) -> bool {
        !(self.paused || self.shutdown || self.crashed || self.dying)
    }
}

impl Host {
    /// Returns the host's domains, dom0 first.
    pub fn domains(&self) -> Result<Vec<Domain>> {
        parse_list(&self.run("xl list")?.checked()?)
    }

    /// Returns the domain of that name, if it exists.
    pub fn domain(&self, name: &str) -> Result<Option<Domain>> {
        Ok(self.domains()?.into_iter().find(|d| d.name == name))
    }

    /// Checks whether the hypervisor logs the dirty pages of a domain.
    ///
    /// This requests the hypervisor's dump of all domains and reads it back from its log;
    /// `None` when the domain is not in the dump.
    pub fn log_dirty_state(&self, id: u32) -> Result<Option<bool>> {
        let mark = self.console().mark();
        self.run("xl debug-keys q")?.checked()?;
        Ok(log_dirty_in(&self.dump_since(mark), id))
    }

    /// Checks whether the hypervisor keeps shadow page tables for a domain; `None` when it
    /// does not tell.
    pub fn shadow_state(&self, id: u32) -> Result<Option<bool>> {
        let mark = self.console().mark();
        self.run("xl debug-keys q")?.checked()?;
        Ok(assistance_in(&self.dump_since(mark), id, "shadow"))
    }

    /// Returns the dump that `xl debug-keys q` has made since the mark.
    pub(crate) fn dump_since(&self, mark: Mark) -> String {
        // The dump is written before the key's hypercall returns, but QEMU's
        // serial line may lag behind it.
        let mut previous = String::new();
        loop {
            let text = self.console().since(mark);
            if !text.is_empty() && text == previous {
                return text;
            }
            previous = text;
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// Checks whether a dump reports log-dirty mode for a domain; `None` when the domain is not
/// in it.
pub(crate) fn log_dirty_in(dump: &str, id: u32) -> Option<bool> {
    assistance_in(dump, id, "log_dirty")
}

/// Checks whether a dump names that kind of paging assistance for a domain.
fn assistance_in(dump: &str, id: u32, kind: &str) -> Option<bool> {
    let start = dump.find(&format!("General information for domain {id}:"))?;
    let rest = &dump[start..];
    let end = rest[1..]
        .find("General information for domain")
        .map_or(rest.len(), |at| at + 1);
    Some(
        rest[..end]
            .lines()
            .any(|line| line.contains("paging assistance") && line.contains(kind)),
    )
}

/// Parses the output of `xl list`.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Domain>> {
    text.lines().skip(1).map(parse).collect()
}

fn parse(line: &str) -> Result<Domain> {
    // The fields are name, id, memory, processors, state and time. Only the name may
    // contain blanks, so the other fields are taken from the end.
    let mut words = line.split_whitespace().rev();
    let mut next = || words.next().with_context(|| format!("xl list: {line:?}"));
    let _time = next()?;
    let state = next()?;
    let _vcpus = next()?;
    let memory_mib = next()?.parse()?;
    let id = next()?.parse()?;
    let mut name: Vec<&str> = words.collect();
    name.reverse();
    let has = |flag| state.contains(flag);
    Ok(Domain {
        name: name.join(" "),
        id,
        memory_mib,
        state: State {
            running: has('r'),
            blocked: has('b'),
            paused: has('p'),
            shutdown: has('s'),
            crashed: has('c'),
            dying: has('d'),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_xl_list_is_understood() {
        let line =
            "guest--incoming                              7   192     1     --p---       0.4";
        let domain = parse(line).expect("a well-formed line");
        assert_eq!(domain.name, "guest--incoming");
        assert_eq!((domain.id, domain.memory_mib), (7, 192));
        assert!(domain.state.paused && !domain.state.is_alive());
    }

    #[test]
    fn log_dirty_is_read_for_the_right_domain() {
        let dump = "General information for domain 0:\n paging assistance: \n\
                    General information for domain 3:\n paging assistance: hap refcounts log_dirty translate external \n";
        assert_eq!(log_dirty_in(dump, 0), Some(false));
        assert_eq!(log_dirty_in(dump, 3), Some(true));
        assert_eq!(log_dirty_in(dump, 4), None);
        assert_eq!(assistance_in(dump, 3, "shadow"), Some(false));
    }
}
