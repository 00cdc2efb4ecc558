//! The host's domains, as `xl list` tells of them.

use anyhow::{Context, Result};

use crate::console::Mark;
use crate::host::Host;

/// One domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name; `(null)` while a domain is being built or torn down.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Its memory.
    pub memory_mib: u64,
    /// Its state.
    pub state: State,
}

/// What a domain does. Several may hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// On a processor right now.
    pub running: bool,
    /// Waiting for something.
    pub blocked: bool,
    /// Held by the toolstack.
    pub paused: bool,
    /// Shut down: powered off, rebooting, or suspended.
    pub shutdown: bool,
    /// Its kernel crashed.
    pub crashed: bool,
    /// On its way out.
    pub dying: bool,
}

impl State {
    /// Whether the guest's code runs, or would if it had anything to do.
    pub fn is_alive(self) -> bool {
        !(self.paused || self.shutdown || self.crashed || self.dying)
    }
}

impl Host {
    /// The host's domains, dom0 first.
    pub fn domains(&self) -> Result<Vec<Domain>> {
        parse_list(&self.run("xl list")?.checked()?)
    }

    /// The domain of that name, if there is one.
    pub fn domain(&self, name: &str) -> Result<Option<Domain>> {
        Ok(self.domains()?.into_iter().find(|d| d.name == name))
    }

    /// Whether the hypervisor logs which pages of a domain get dirty.
    ///
    /// Asks for the hypervisor's dump of all domains and reads it back from
    /// its log; `None` when the domain is not in it.
    pub fn log_dirty_state(&self, id: u32) -> Result<Option<bool>> {
        let mark = self.console().mark();
        self.run("xl debug-keys q")?.checked()?;
        Ok(log_dirty_in(&self.dump_since(mark), id))
    }

    /// The dump that `xl debug-keys q` has made since the mark.
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

/// Whether a dump says so of a domain; `None` when it is not in it.
pub(crate) fn log_dirty_in(dump: &str, id: u32) -> Option<bool> {
    let start = dump.find(&format!("General information for domain {id}:"))?;
    let rest = &dump[start..];
    let end = rest[1..]
        .find("General information for domain")
        .map_or(rest.len(), |at| at + 1);
    Some(
        rest[..end]
            .lines()
            .any(|line| line.contains("paging assistance") && line.contains("log_dirty")),
    )
}

/// What `xl list` prints.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Domain>> {
    text.lines().skip(1).map(parse).collect()
}

fn parse(line: &str) -> Result<Domain> {
    // Name, id, memory, processors, state, time: only the name may hold
    // blanks, so the rest is taken from the end.
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
    }
}
