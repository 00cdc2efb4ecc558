//! The parsed content of the file, or its errors by line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use glob::Pattern;
use lull_base::connections::Connections;
use lull_base::duration::Span;
use lull_base::optional::{self, NONE};
use lull_base::quantity::Rate;
use lull_base::risk::Risk;
use lull_base::suggest::nearest;
use toml_edit::{Document, Item, Table, TableLike};

/// The settings of a section. New keys are added here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The limit on the pause.
    MaxSuspendTime,
    /// The limit on the time until the guest is suspended.
    Timeout,
    /// The bandwidth cap until the guest is suspended.
    Bandwidth,
    /// The number of connections over which a guest lands fast.
    Connections,
    /// The share of pauses that may be given up.
    Risk,
    /// Whether the guest's disks are trusted.
    Disks,
    /// Whether the guest is announced when it has landed on this host.
    Announce,
}

impl Key {
    /// All keys, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::MaxSuspendTime,
        Self::Timeout,
        Self::Bandwidth,
        Self::Connections,
        Self::Risk,
        Self::Disks,
        Self::Announce,
    ];

    /// The key as written in the file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxSuspendTime => "max-suspend-time",
            Self::Timeout => "timeout",
            Self::Bandwidth => "bandwidth",
            Self::Connections => "connections",
            Self::Risk => "risk",
            Self::Disks => "disks",
            Self::Announce => "announce",
        }
    }

    /// Parses the value of this key.
    ///
    /// # Errors
    /// A description of what is wrong with the text.
    pub fn understand(self, text: &str) -> Result<Limit, String> {
        let quoted = |error| format!("`{}` {error}", shown(text));
        let limit = match self {
            Self::MaxSuspendTime | Self::Timeout => optional::parse(text)?.map(Limit::Span),
            Self::Bandwidth => optional::parse(text).map_err(quoted)?.map(Limit::Rate),
            Self::Connections => Some(Limit::Connections(text.parse().map_err(quoted)?)),
            Self::Risk if text == NONE => {
                return Err(
                    "`none` is no risk: there is always one, 5% where it is not set".into(),
                );
            }
            Self::Risk => Some(Limit::Risk(text.parse().map_err(quoted)?)),
            Self::Disks => Some(one_word(text, TRUSTED, Limit::Trusted).map_err(quoted)?),
            Self::Announce => Some(one_word(text, RARP, Limit::Rarp).map_err(quoted)?),
        };
        Ok(limit.unwrap_or(Limit::None))
    }

    /// The default of the key; `None` means that nothing is limited.
    pub fn unless_set(self) -> Option<Limit> {
        match self {
            Self::Connections => Some(Limit::Connections(Connections::default())),
            Self::Risk => Some(Limit::Risk(Risk::default())),
            Self::Announce => Some(Limit::Rarp),
            Self::MaxSuspendTime | Self::Timeout | Self::Bandwidth | Self::Disks => None,
        }
    }

    /// The kind of value that the key expects, with an example.
    const fn wants(self) -> &'static str {
        match self {
            Self::MaxSuspendTime | Self::Timeout => "a duration in quotes: \"300ms\"",
            Self::Bandwidth => "a rate in quotes: \"50MiB/s\"",
            Self::Connections => "a number in quotes: \"4\"",
            Self::Risk => "a share in quotes: \"5%\"",
            Self::Disks => "a word in quotes: \"trusted\"",
            Self::Announce => "a word in quotes: \"none\"",
        }
    }
}

/// The value of a key: a limit, or the word for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The word for no limit.
    None,
    /// The limit on a time.
    Span(Span),
    /// The limit on a bandwidth.
    Rate(Rate),
    /// The number of connections.
    Connections(Connections),
    /// The share of pauses that may be given up.
    Risk(Risk),
    /// Two hosts may have the guest's disks open at the same time.
    Trusted,
    /// A RARP request announces the guest at the host that receives it.
    Rarp,
}

impl Limit {
    /// The value of a key that limits a time.
    pub const fn span(self) -> Option<Span> {
        match self {
            Self::Span(span) => Some(span),
            _ => None,
        }
    }

    /// The value of a key that limits the bandwidth.
    pub const fn rate(self) -> Option<Rate> {
        match self {
            Self::Rate(rate) => Some(rate),
            _ => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(NONE),
            // Without the blanks of `1m 30s`, as it is usually written.
            Self::Span(span) => f.write_str(&span.to_string().replace(' ', "")),
            Self::Rate(rate) => rate.fmt(f),
            Self::Connections(connections) => connections.fmt(f),
            Self::Risk(risk) => risk.fmt(f),
            Self::Trusted => f.write_str(TRUSTED),
            Self::Rarp => f.write_str(RARP),
        }
    }
}

const TRUSTED: &str = "trusted";
const RARP: &str = "rarp";

/// The limit that the only `word` beside [`NONE`] stands for.
fn one_word(text: &str, word: &str, limit: Limit) -> Result<Limit, String> {
    match text {
        NONE => Ok(Limit::None),
        text if text == word => Ok(limit),
        _ => Err(format!("is neither `{word}` nor `{NONE}`")),
    }
}

/// The guests to which a section applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Every guest.
    Default,
    /// The UUID in lower case.
    Uuid(String),
    /// The one guest of exactly this name.
    Name(String),
    /// A pattern for the name.
    Glob(Pattern),
}

/// The longest name of a section in bytes, far longer than that of any guest.
const NAME_MAX: usize = 255;

impl Selector {
    /// The guest or guests that `text` names.
    ///
    /// # Errors
    /// A description of what is wrong with the text.
    pub fn named(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
            return Err(format!("`{}` is no guest's name", text.escape_debug()));
        }
        if is_uuid(text) {
            return Ok(Self::Uuid(text.to_ascii_lowercase()));
        }
        if !text.contains(['*', '?', '[']) {
            return Ok(Self::Name(text.to_owned()));
        }
        let pattern = Pattern::new(text);
        pattern
            .map(Self::Glob)
            .map_err(|error| format!("`{text}` is no pattern: {}", error.msg))
    }
}

/// Formats it as in the header of a section.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Default => return f.write_str("[default]"),
            Self::Uuid(name) | Self::Name(name) => name,
            Self::Glob(pattern) => pattern.as_str(),
        };
        write!(f, "[guest.{}]", toml_edit::Key::new(name).display_repr())
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A limit and its position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The limit as it was parsed.
    pub limit: Limit,
    /// The line of the file, from 1.
    pub line: usize,
    /// The byte range of the value in the text.
    pub place: Range<usize>,
}

/// The settings for one guest or a group of guests.
#[derive(Debug, Clone)]
pub struct Section {
    /// The guests to which the section applies.
    pub selector: Selector,
    /// The line of its header, from 1.
    pub line: usize,
    /// The byte range of the header; `None` if the section has none.
    pub header: Option<Range<usize>>,
    /// What the section sets.
    pub settings: BTreeMap<Key, Setting>,
}

/// An error in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line of the file, from 1.
    pub line: usize,
    /// The line itself, or its beginning.
    pub text: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, text, what } = self;
        write!(f, "line {line}: {what}\n{line:>6} | {text}")
    }
}

/// All rules, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The sections, in the order of the file.
    pub sections: Vec<Section>,
}

impl Rules {
    /// Parses the file's text.
    ///
    /// # Errors
    /// All errors in the file, by line; at least one.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader {
            text,
            rules: Self::default(),
            problems: Vec::new(),
        };
        match Document::parse(text) {
            Ok(document) => reader.root(document.as_table()),
            Err(error) => reader.problem(error.span(), one_line(error.message())),
        }
        reader.problems.sort_by_key(|problem| problem.line);
        // The parser returns all guests' sections together, so restore the order of the
        // file.
        let sections = &mut reader.rules.sections;
        sections.sort_by_key(|section| section.line);
        match reader.problems.is_empty() {
            true => Ok(reader.rules),
            false => Err(reader.problems),
        }
    }

    /// The section that applies to `selector`.
    pub fn section(&self, selector: &Selector) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.selector == *selector)
    }
}

/// The beginning of a word, long enough to recognise it.
fn shown(word: &str) -> String {
    let word: String = word.chars().take(40).collect();
    word.escape_debug().to_string()
}

/// Shortens a parser message, which may have several lines, to one.
fn one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(", ")
}

/// The number of the line in which byte `at` stands, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

struct Reader<'t> {
    text: &'t str,
    rules: Rules,
    problems: Vec<Problem>,
}

const DEFAULT: &str = "default";
const GUEST: &str = "guest";

impl Reader<'_> {
    fn root(&mut self, root: &Table) {
        for (word, item) in root.iter() {
            let place = key_place(root, word, item);
            match (word, item.as_table_like()) {
                (DEFAULT, Some(table)) => self.section(Selector::Default, place, item, table),
                (GUEST, Some(guests)) => self.guests(guests),
                (DEFAULT | GUEST, None) => {
                    let what = format!("`{word}` is a section: `[default]`, `[guest.web1]`");
                    self.problem(place, what);
                }
                _ if Key::ALL.iter().any(|key| key.name() == word) => {
                    let what = format!(
                        "`{word}` belongs into a section: `[default]` for all guests, `[guest.web1]` for one"
                    );
                    self.problem(place, what);
                }
                _ => self.unknown(place, word, &[DEFAULT, GUEST]),
            }
        }
    }

    fn guests(&mut self, guests: &dyn TableLike) {
        for (name, item) in guests.iter() {
            let place = key_place(guests, name, item);
            match (Selector::named(name), item.as_table_like()) {
                (Ok(selector), Some(table)) => self.section(selector, place, item, table),
                (Ok(_), None) => {
                    let what = format!("`{name}` is to be a guest's section: `[guest.{name}]`");
                    self.problem(place, what);
                }
                (Err(what), _) => self.problem(place, what),
            }
        }
    }

    fn section(
        &mut self,
        selector: Selector,
        place: Option<Range<usize>>,
        item: &Item,
        table: &dyn TableLike,
    ) {
        let line = self.line(place.as_ref());
        if let Some(before) = self.rules.section(&selector) {
            let what = format!("{selector} is there already, on line {}", before.line);
            self.problem(place, what);
            return;
        }
        let mut settings = BTreeMap::new();
        for (word, item) in table.iter() {
            let place = key_place(table, word, item);
            let Some(key) = Key::ALL.into_iter().find(|key| key.name() == word) else {
                if item.is_table_like() {
                    let what = format!(
                        "`{word}` is a section in {selector}; a guest's name with dots in it wants quotes: [guest.\"a.b\"]"
                    );
                    self.problem(place, what);
                } else {
                    self.unknown(place, word, &Key::ALL.map(Key::name));
                }
                continue;
            };
            if let Some(setting) = self.setting(key, place, item) {
                settings.insert(key, setting);
            }
        }
        let header = item
            .as_table()
            .filter(|table| !table.is_dotted() && !table.is_implicit());
        self.rules.sections.push(Section {
            selector,
            line,
            header: header.and_then(Table::span),
            settings,
        });
    }

    fn setting(&mut self, key: Key, place: Option<Range<usize>>, item: &Item) -> Option<Setting> {
        let Some(text) = item.as_str() else {
            let what = format!("`{}` wants {}", key.name(), key.wants());
            self.problem(place, what);
            return None;
        };
        match key.understand(text) {
            Ok(limit) => Some(Setting {
                limit,
                line: self.line(item.span().as_ref()),
                place: item.span().unwrap_or_default(),
            }),
            Err(what) => {
                self.problem(item.span(), what);
                None
            }
        }
    }

    fn unknown(&mut self, place: Option<Range<usize>>, word: &str, known: &[&str]) {
        let nearest = nearest(word, known.iter().copied());
        let hint = match nearest.first() {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("known here: `{}`", known.join("`, `")),
        };
        self.problem(place, format!("`{}` is not known; {hint}", shown(word)));
    }

    fn line(&self, place: Option<&Range<usize>>) -> usize {
        place.map_or(1, |place| line_of(self.text, place.start))
    }

    fn problem(&mut self, place: Option<Range<usize>>, what: String) {
        // An accidental paste must not fill the terminal.
        const SHOWN: usize = 100;
        let line = self.line(place.as_ref());
        let text = self.text.lines().nth(line - 1).unwrap_or_default();
        let text: String = text.chars().take(SHOWN).collect();
        self.problems.push(Problem {
            line,
            text: text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"),
            what,
        });
    }
}

/// The position of a key; for a section, that of its header.
fn key_place(table: &dyn TableLike, word: &str, item: &Item) -> Option<Range<usize>> {
    let header = item.as_table().and_then(Table::span);
    let key = || table.get_key_value(word).and_then(|(key, _)| key.span());
    header.or_else(key).or_else(|| item.span())
}
