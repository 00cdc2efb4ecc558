//! Which of the rules applies to a guest.
//!
//! Each key is looked up separately: in the section of the guest's UUID, then of its name,
//! then of the patterns that match its name, then in the default. The first section that
//! has the key is used. Of two patterns, the one that spells out more characters of the
//! name comes first; at the same number of characters, the one that is earlier in the file.

use std::cmp::Reverse;
use std::fmt;
use std::path::PathBuf;

use lull_base::connections::Connections;
use lull_base::duration::Span;
use lull_base::quantity::Rate;
use lull_base::risk::Risk;
use lull_core::units::PageRate;

use super::rules::{Key, Limit, Rules, Section, Selector};

/// What the operator states about a guest's disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// No statement; the list of devices known to be safe decides.
    #[default]
    List,
    /// All of the guest's disks may be opened at both ends at once.
    Vouched,
}

/// The limits that apply to a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// The limit on the pause; `None` if no section sets it.
    pub max_suspend_time: Option<Chosen>,
    /// The limit on the time until the guest is suspended.
    pub timeout: Option<Chosen>,
    /// The bandwidth cap until the guest is suspended.
    pub bandwidth: Option<Chosen<PageRate>>,
    /// The number of connections of a fast landing.
    pub connections: Option<Chosen<Connections>>,
    /// The share of pauses that may be given up.
    pub risk: Option<Chosen<Risk>>,
    /// Whether the guest's disks are trusted.
    pub disks: Option<Chosen<Trust>>,
    /// Whether the guest is announced when it has landed here; without a limit it is not.
    pub announce: Option<Chosen<()>>,
}

/// The setting that applies for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen<T = Span> {
    /// The limit; `None` if the file explicitly sets none.
    pub limit: Option<T>,
    /// The section that sets it.
    pub section: String,
    /// The line of the file, from 1.
    pub line: usize,
    /// The path of the file.
    pub file: PathBuf,
}

impl Effective {
    /// The trust in the guest's disks; by default the list of known disks decides.
    pub fn trust(&self) -> Trust {
        Chosen::limit_of(self.disks.as_ref()).unwrap_or_default()
    }

    /// Whether a guest that has landed on this host is announced.
    pub fn is_announced(&self) -> bool {
        self.announce
            .as_ref()
            .is_none_or(|chosen| chosen.limit.is_some())
    }

    /// Whether a limit or a bandwidth cap applies: a migration that lull cannot begin must
    /// not be done without it.
    pub fn is_limited(&self) -> bool {
        let span = |chosen: &Option<Chosen>| Chosen::limit_of(chosen.as_ref()).is_some();
        span(&self.max_suspend_time)
            || span(&self.timeout)
            || Chosen::limit_of(self.bandwidth.as_ref()).is_some()
    }

    /// The setting that applies for each key.
    pub fn each(&self) -> [(Key, Option<Chosen<Limit>>); Key::ALL.len()] {
        let span = |chosen: &Option<Chosen>| Some(chosen.as_ref()?.as_limit(Limit::Span));
        let rate = |PageRate(pages)| Limit::Rate(Rate { pages });
        let (bandwidth, disks) = (self.bandwidth.as_ref(), self.disks.as_ref());
        let risk = self.risk.as_ref();
        [
            (Key::MaxSuspendTime, span(&self.max_suspend_time)),
            (Key::Timeout, span(&self.timeout)),
            (
                Key::Bandwidth,
                bandwidth.map(|chosen| chosen.as_limit(rate)),
            ),
            (
                Key::Connections,
                self.connections
                    .as_ref()
                    .map(|chosen| chosen.as_limit(Limit::Connections)),
            ),
            (Key::Risk, risk.map(|chosen| chosen.as_limit(Limit::Risk))),
            (
                Key::Disks,
                disks.map(|chosen| chosen.as_limit(|_| Limit::Trusted)),
            ),
            (
                Key::Announce,
                self.announce
                    .as_ref()
                    .map(|chosen| chosen.as_limit(|()| Limit::Rarp)),
            ),
        ]
    }
}

impl<T: Copy> Chosen<T> {
    fn as_limit(&self, limit: impl Fn(T) -> Limit) -> Chosen<Limit> {
        Chosen {
            limit: self.limit.map(limit),
            section: self.section.clone(),
            line: self.line,
            file: self.file.clone(),
        }
    }

    /// The limit of a setting, if there is one.
    pub fn limit_of(chosen: Option<&Self>) -> Option<T> {
        chosen.and_then(|chosen| chosen.limit)
    }
}

/// Formats the place at which the limit is set.
impl<T> fmt::Display for Chosen<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} line {}, {}",
            self.file.display(),
            self.line,
            self.section
        )
    }
}

/// Rules, and the file that contains them.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The rules that the file contains.
    pub rules: Rules,
    /// The path of the file.
    pub file: PathBuf,
}

impl Standing {
    /// The limits of a guest with that name and UUID.
    pub fn for_guest(&self, name: &str, uuid: Option<&str>) -> Effective {
        let sections = self.rules.in_order(name, uuid);
        let span = |key| self.chosen(&sections, key, Limit::span);
        Effective {
            max_suspend_time: span(Key::MaxSuspendTime),
            timeout: span(Key::Timeout),
            bandwidth: self.chosen(&sections, Key::Bandwidth, |limit| {
                limit.rate().map(|rate| PageRate(rate.pages))
            }),
            connections: self.chosen(&sections, Key::Connections, |limit| match limit {
                Limit::Connections(connections) => Some(connections),
                _ => None,
            }),
            risk: self.chosen(&sections, Key::Risk, |limit| match limit {
                Limit::Risk(risk) => Some(risk),
                _ => None,
            }),
            disks: self.chosen(&sections, Key::Disks, |limit| {
                (limit == Limit::Trusted).then_some(Trust::Vouched)
            }),
            announce: self.chosen(&sections, Key::Announce, |limit| {
                (limit == Limit::Rarp).then_some(())
            }),
        }
    }

    /// Returns the setting of the first section that has the key.
    fn chosen<T>(
        &self,
        sections: &[&Section],
        key: Key,
        limit: impl Fn(Limit) -> Option<T>,
    ) -> Option<Chosen<T>> {
        let mut sections = sections.iter();
        let (section, setting) =
            sections.find_map(|section| Some((section, section.settings.get(&key)?)))?;
        Some(Chosen {
            limit: limit(setting.limit),
            section: section.selector.to_string(),
            line: setting.line,
            file: self.file.clone(),
        })
    }
}

impl Rules {
    /// The sections that apply to this guest, in descending order of precedence.
    fn in_order(&self, name: &str, uuid: Option<&str>) -> Vec<&Section> {
        let mut sections: Vec<(Rank, &Section)> = self
            .sections
            .iter()
            .filter_map(|section| Some((rank(&section.selector, name, uuid)?, section)))
            .collect();
        // The sort is stable, so equals stay in the order of the file.
        sections.sort_by_key(|(rank, _)| *rank);
        sections.into_iter().map(|(_, section)| section).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Uuid,
    Name,
    /// Ordered by the number of characters that the pattern spells out, most first.
    Glob(Reverse<usize>),
    Default,
}

fn rank(selector: &Selector, name: &str, uuid: Option<&str>) -> Option<Rank> {
    let (fits, rank) = match selector {
        Selector::Uuid(own) => (
            uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(own)),
            Rank::Uuid,
        ),
        Selector::Name(own) => (name == own, Rank::Name),
        Selector::Glob(pattern) => (
            pattern.matches(name),
            Rank::Glob(Reverse(spelt_out(pattern.as_str()))),
        ),
        Selector::Default => (true, Rank::Default),
    };
    fits.then_some(rank)
}

/// The number of characters in a pattern that match only themselves.
fn spelt_out(pattern: &str) -> usize {
    let mut count = 0;
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let mut next = first.len_utf8();
        match first {
            '*' | '?' => {}
            // `]` may be the first member of a class and then stands for itself.
            '[' => {
                let members = rest[1..].strip_prefix('!').unwrap_or(&rest[1..]);
                let skipped = rest.len() - members.len();
                let end = members.char_indices().skip(1).find(|(_, c)| *c == ']');
                next = end.map_or(rest.len(), |(at, _)| skipped + at + 1);
            }
            _ => count += 1,
        }
        rest = &rest[next..];
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "5e6f4a0c-1111-2222-3333-0123456789ab";

    fn limit(text: &str, name: &str) -> String {
        let rules = Rules::parse(text).unwrap();
        let file = "/etc/lull.toml".into();
        let limits = Standing { rules, file }.for_guest(name, Some(UUID));
        let chosen = limits.max_suspend_time.unwrap();
        let limit = chosen
            .limit
            .map_or("none".to_owned(), |limit| limit.to_string());
        format!("{limit}, {}", chosen.section)
    }

    fn file(sections: &[&str]) -> String {
        let section = |(number, selector): (usize, &&str)| {
            format!("[{selector}]\nmax-suspend-time = \"{}s\"\n", number + 1)
        };
        sections.iter().enumerate().map(section).collect()
    }

    #[test]
    fn the_narrowest_rule_is_heard() {
        let upper = format!("guest.{}", UUID.to_uppercase());
        let all = [
            "default",
            "guest.\"w*\"",
            "guest.\"web-?\"",
            "guest.web-1",
            &upper,
        ];
        for (count, expected) in [
            (1, "1s, [default]".to_owned()),
            (2, "2s, [guest.\"w*\"]".to_owned()),
            (3, "3s, [guest.\"web-?\"]".to_owned()),
            (4, "4s, [guest.web-1]".to_owned()),
            (5, format!("5s, [guest.{UUID}]")),
        ] {
            assert_eq!(limit(&file(&all[..count]), "web-1"), expected);
            // The result does not depend on the order in the file.
            let backwards: Vec<&str> = all[..count].iter().rev().copied().collect();
            let said = limit(&file(&backwards), "web-1");
            assert!(
                said.ends_with(expected.split_once(", ").unwrap().1),
                "{said}"
            );
        }
    }

    #[test]
    fn of_patterns_that_say_as_much_the_upper_one_is_heard() {
        let said = limit(&file(&["guest.\"*b1\"", "guest.\"we*\""]), "web1");
        assert_eq!(said, "1s, [guest.\"*b1\"]");
        let said = limit(&file(&["guest.\"we*\"", "guest.\"*b1\""]), "web1");
        assert_eq!(said, "1s, [guest.\"we*\"]");
    }

    #[test]
    fn each_key_is_looked_up_for_itself_and_none_is_a_word() {
        let text = "[default]\nmax-suspend-time = \"1s\"\ntimeout = \"2min\"\n\
                    [guest.web1]\nmax-suspend-time = \"none\"\n";
        let rules = Rules::parse(text).unwrap();
        let file = PathBuf::from("/etc/lull.toml");
        let limits = Standing { rules, file }.for_guest("web1", None);
        assert_eq!(Chosen::limit_of(limits.max_suspend_time.as_ref()), None);
        assert_eq!(limits.max_suspend_time.unwrap().line, 5);
        let timeout = limits.timeout.unwrap();
        assert_eq!(timeout.limit.unwrap().to_string(), "2m");
        assert_eq!(timeout.to_string(), "/etc/lull.toml line 3, [default]");
    }

    #[test]
    fn a_bandwidth_is_looked_up_like_any_other_key() {
        let text = "[default]\nbandwidth = \"10MiB/s\"\n[guest.\"web*\"]\nbandwidth = \"none\"\n\
                    [guest.web1]\nbandwidth = \"4MiB/s\"\n";
        let rules = Rules::parse(text).unwrap();
        let file = PathBuf::from("/etc/lull.toml");
        let standing = Standing { rules, file };
        for (name, cap, line) in [
            ("db", Some(PageRate(2_560)), 2),
            ("web2", None, 4),
            ("web1", Some(PageRate(1_024)), 6),
        ] {
            let limits = standing.for_guest(name, None);
            assert_eq!(limits.timeout, None);
            let chosen = limits.bandwidth.unwrap();
            assert_eq!((chosen.limit, chosen.line), (cap, line), "{name}");
        }
    }

    #[test]
    fn what_a_pattern_spells_out() {
        for (pattern, count) in [
            ("*", 0),
            ("web-*", 4),
            ("web-[0-9]?", 4),
            ("[]a]b[!]]c", 2),
            ("[é]ü*", 1),
            ("[", 0),
        ] {
            assert_eq!(spelt_out(pattern), count, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_is_a_surprise(pattern in "\\PC{0,40}", name in "\\PC{0,40}") {
            let _ = spelt_out(&pattern);
            if let Ok(selector) = Selector::named(&pattern) {
                let _ = rank(&selector, &name, None);
            }
        }

        #[test]
        fn a_name_without_wildcards_is_heard_before_any_pattern(name in "[a-z.-]{1,20}") {
            let selector = Selector::named(&name).unwrap();
            prop_assert_eq!(rank(&selector, &name, None), Some(Rank::Name));
            prop_assert!(Rank::Name < Rank::Glob(Reverse(usize::MAX)));
        }
    }
}
