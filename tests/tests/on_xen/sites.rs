//! The hosts that scenarios run on. Each boots when the first scenario needs it.

use anyhow::{Context, Result};
use lull_tests::{HostConfig, Hypervisor, Link};

use crate::world::World;

/// The number of seconds by which the clock of every other host is ahead of the first
/// one's.
const AHEAD: i64 = 3600;

/// One of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// Xen 4.17, tuned so that tests take less time under emulation.
    First,
    /// Xen 4.17 as Debian 12 installs it.
    Installed,
    /// Xen 4.20 as Debian 13 installs it.
    Newer,
    /// Xen 4.17 with shadow paging, otherwise as the first host.
    Shadow,
}

impl Site {
    fn config(self, link: &Link) -> HostConfig {
        let other = |hypervisor, number| HostConfig {
            clock_ahead: AHEAD,
            ..HostConfig::as_installed(hypervisor, number)
        };
        let config = match self {
            Self::First => HostConfig::default(),
            Self::Installed => other(Hypervisor::Xen417, 2),
            Self::Newer => other(Hypervisor::Xen420, 3),
            Self::Shadow => HostConfig {
                hypervisor: Hypervisor::Xen417Shadow,
                number: 4,
                ..HostConfig::default()
            },
        };
        HostConfig {
            link: Some(link.clone()),
            ..config
        }
    }
}

/// The two hosts of a scenario, and the link between them.
pub struct Pair<'a> {
    /// The host on which guests are made.
    pub here: &'a mut World,
    /// The host to which guests move.
    pub there: &'a mut World,
    /// The link between the two hosts.
    pub link: &'a Link,
}

/// All hosts that have been needed so far.
#[derive(Default)]
pub struct Sites {
    link: Option<Link>,
    worlds: [Option<World>; 4],
}

impl Sites {
    /// Returns a set in which nothing is booted yet.
    pub const fn new() -> Self {
        Self {
            link: None,
            worlds: [const { None }; 4],
        }
    }

    /// Boots those of the hosts that do not run yet. All others except the first are ended,
    /// because even an idle host takes processor time of this machine.
    ///
    /// # Errors
    /// When a host cannot be booted.
    pub fn need(&mut self, sites: &[Site]) -> Result<()> {
        for other in [Site::Installed, Site::Newer, Site::Shadow] {
            if !sites.contains(&other) {
                self.worlds[other as usize] = None;
            }
        }
        for site in sites {
            let world = &mut self.worlds[*site as usize];
            if world.is_none() {
                let link = match &mut self.link {
                    Some(link) => link,
                    link => link.insert(Link::new()?),
                };
                *world = Some(World::boot(&site.config(link))?);
            }
        }
        Ok(())
    }

    /// Returns a host that was booted.
    ///
    /// # Errors
    /// When the host was not booted.
    pub fn at(&mut self, site: Site) -> Result<&mut World> {
        self.worlds[site as usize]
            .as_mut()
            .with_context(|| format!("{site:?} was not booted"))
    }

    /// Returns the first host and another.
    ///
    /// # Errors
    /// When one of the two was not booted.
    pub fn pair(&mut self, other: Site) -> Result<Pair<'_>> {
        let [first, others @ ..] = &mut self.worlds;
        let there = others.get_mut((other as usize).wrapping_sub(1));
        let there = there.and_then(Option::as_mut);
        Ok(Pair {
            here: first.as_mut().context("the first host was not booted")?,
            there: there.with_context(|| format!("{other:?} was not booted"))?,
            link: self.link.as_ref().context("there is no link")?,
        })
    }
}
