//! The hosts that scenarios run on, each booted when the first of them needs it.

use anyhow::{Context, Result};
use lull_tests::{HostConfig, Hypervisor, Link};

use crate::world::World;

/// How far the clock of every other host is ahead of the first one's, seconds.
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
        };
        HostConfig {
            link: Some(link.clone()),
            ..config
        }
    }
}

/// Two hosts, and the link between them.
pub struct Pair<'a> {
    /// Where guests are made.
    pub here: &'a mut World,
    /// Where they go.
    pub there: &'a mut World,
    /// Between them.
    pub link: &'a Link,
}

/// All hosts that were needed so far.
#[derive(Default)]
pub struct Sites {
    link: Option<Link>,
    worlds: [Option<World>; 3],
}

impl Sites {
    /// Nothing is booted yet.
    pub const fn new() -> Self {
        Self {
            link: None,
            worlds: [const { None }; 3],
        }
    }

    /// Boots those of the hosts that are not there yet. Others but the first are
    /// ended: even an idle one takes part of this machine.
    ///
    /// # Errors
    /// When one cannot be booted.
    pub fn need(&mut self, sites: &[Site]) -> Result<()> {
        for other in [Site::Installed, Site::Newer] {
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

    /// One that was booted.
    ///
    /// # Errors
    /// When it was not.
    pub fn at(&mut self, site: Site) -> Result<&mut World> {
        self.worlds[site as usize]
            .as_mut()
            .with_context(|| format!("{site:?} was not booted"))
    }

    /// The first and another.
    ///
    /// # Errors
    /// When one of them was not booted.
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
