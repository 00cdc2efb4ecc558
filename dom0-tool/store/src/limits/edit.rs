//! Changes one limit in the file's text and leaves every other byte as it is.
//!
//! A value is replaced in place; a line is added to its section or removed. The result is
//! parsed again, and is used only if it says the same as before, apart from this change.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;
use toml_edit::Value;

use super::rules::{Key, Limit, Rules, Section, Selector, line_of};

/// The change to make.
#[derive(Debug, Clone)]
pub struct Change {
    /// The guests whose limits change.
    pub selector: Selector,
    /// The new value of each key, `None` to remove it; other keys stay.
    pub keys: BTreeMap<Key, Option<Limit>>,
}

/// The file is written in a way that cannot be edited line by line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct CannotEdit {
    line: Option<usize>,
    text: String,
}

impl fmt::Display for CannotEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        match self.line {
            Some(line) => write!(
                f,
                ", line {line}: this is written in a way that lull changes nothing in: change it there yourself\n{line:>6} | {text}"
            ),
            None => f.write_str(
                " is written in a way that lull adds nothing to: add the limit there yourself",
            ),
        }
    }
}

impl Change {
    /// Returns the text with the change made.
    ///
    /// # Errors
    /// If the change cannot be made without touching anything else.
    pub fn apply(&self, text: &str, rules: &Rules) -> Result<String, CannotEdit> {
        let mut changed = text.to_owned();
        let mut now = rules.clone();
        for (&key, &limit) in &self.keys {
            changed = self.apply_one(&changed, &now, key, limit)?;
            now = self.checked(&changed, &now, key, limit)?;
        }
        Ok(changed)
    }

    fn apply_one(
        &self,
        text: &str,
        rules: &Rules,
        key: Key,
        limit: Option<Limit>,
    ) -> Result<String, CannotEdit> {
        let section = rules.section(&self.selector);
        let there = section.and_then(|section| section.settings.get(&key));
        match (limit, section, there) {
            (None, _, None) => Ok(text.to_owned()),
            (Some(limit), _, Some(setting)) if setting.limit == limit => Ok(text.to_owned()),
            (Some(limit), _, Some(setting)) => {
                let mut text = text.to_owned();
                text.replace_range(setting.place.clone(), &quoted(limit));
                Ok(text)
            }
            (Some(limit), Some(section), None) => add_line(text, section, &line(key, limit)),
            (Some(limit), None, None) => Ok(add_section(text, &self.selector, &line(key, limit))),
            (None, Some(section), Some(setting)) => {
                let text = without_line(text, setting.place.clone(), key)?;
                Ok(match section.settings.len() {
                    1 => without_header(&text, section),
                    _ => text,
                })
            }
            (None, None, Some(_)) => Ok(text.to_owned()),
        }
    }

    /// Parses the new text and returns its rules, if they are the intended ones.
    fn checked(
        &self,
        text: &str,
        before: &Rules,
        key: Key,
        limit: Option<Limit>,
    ) -> Result<Rules, CannotEdit> {
        let mut meant = said(before);
        let own = meant
            .iter_mut()
            .find(|(selector, _)| *selector == self.selector);
        match (own, limit) {
            (Some((_, own)), Some(limit)) => drop(own.insert(key, limit)),
            (Some((_, own)), None) => drop(own.remove(&key)),
            (None, Some(limit)) => {
                meant.push((self.selector.clone(), BTreeMap::from([(key, limit)])));
            }
            (None, None) => {}
        }
        meant.retain(|(_, settings)| !settings.is_empty());
        let after = Rules::parse(text).ok().filter(|after| {
            let mut reads = said(after);
            reads.retain(|(_, settings)| !settings.is_empty());
            reads == meant
        });
        let section = before.section(&self.selector);
        after.ok_or_else(|| CannotEdit {
            line: section.map(|section| section.line),
            text: section
                .map(|section| section.selector.to_string())
                .unwrap_or_default(),
        })
    }
}

/// The content of the rules, without their positions in the file.
fn said(rules: &Rules) -> Vec<(Selector, BTreeMap<Key, Limit>)> {
    let settings = |section: &Section| {
        let settings = section.settings.iter();
        settings
            .map(|(key, setting)| (*key, setting.limit))
            .collect()
    };
    let sections = rules.sections.iter();
    sections
        .map(|section| (section.selector.clone(), settings(section)))
        .collect()
}

fn quoted(limit: Limit) -> String {
    Value::from(limit.to_string()).to_string()
}

fn line(key: Key, limit: Limit) -> String {
    format!("{} = {}", key.name(), quoted(limit))
}

/// The line ending that this file uses.
fn ending(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

/// Adds the line below the section's last line, or below its header.
fn add_line(text: &str, section: &Section, line: &str) -> Result<String, CannotEdit> {
    let Some(header) = &section.header else {
        return Err(cannot(text, section.line));
    };
    let last = section
        .settings
        .values()
        .map(|setting| setting.place.end)
        .max();
    let after = last.unwrap_or(header.end);
    let end = ending(text);
    Ok(match text[after..].find('\n') {
        Some(at) => {
            let (above, below) = text.split_at(after + at + 1);
            format!("{above}{line}{end}{below}")
        }
        None => format!("{text}{end}{line}{end}"),
    })
}

/// Adds a section at the end of the file.
fn add_section(text: &str, selector: &Selector, line: &str) -> String {
    let end = ending(text);
    let gap = match text {
        "" => String::new(),
        text if text.ends_with('\n') => end.to_owned(),
        _ => end.repeat(2),
    };
    format!("{text}{gap}{selector}{end}{line}{end}")
}

/// Removes the value's whole line, including a trailing comment.
fn without_line(text: &str, value: std::ops::Range<usize>, key: Key) -> Result<String, CannotEdit> {
    let from = text[..value.start].rfind('\n').map_or(0, |at| at + 1);
    let to = text[value.end..]
        .find('\n')
        .map_or(text.len(), |at| value.end + at + 1);
    let before = text[from..value.start].trim();
    let after = text[value.end..to].trim();
    let name = before.strip_suffix('=').map(str::trim);
    let alone = name.is_some_and(|name| name.trim_matches(['"', '\'']) == key.name());
    if !alone || !(after.is_empty() || after.starts_with('#')) {
        return Err(cannot(text, line_of(text, value.start)));
    }
    Ok(format!("{}{}", &text[..from], &text[to..]))
}

/// Removes the header of an empty section and the blank line above it. The header stays if
/// a comment stands below it.
fn without_header(text: &str, section: &Section) -> String {
    let Some(header) = &section.header else {
        return text.to_owned();
    };
    let (above, rest) = text.split_at(header.start);
    let Some((line, below)) = rest.split_once('\n') else {
        return text.to_owned();
    };
    let next = below.lines().map(str::trim).find(|line| !line.is_empty());
    let lonely = next.is_none_or(|next| next.starts_with('[')) && !line.contains('#');
    let starts_line = above.is_empty() || above.ends_with('\n');
    if !lonely || !starts_line {
        return text.to_owned();
    }
    let end = ending(text);
    let blank = above
        .strip_suffix(end)
        .filter(|above| above.ends_with('\n'));
    // The blank line goes too: the one above the header, or, for the first section, the one
    // below.
    match (blank, below.strip_prefix(end)) {
        (Some(above), _) => format!("{above}{below}"),
        (None, Some(below)) if above.is_empty() => below.to_owned(),
        (None, _) => format!("{above}{below}"),
    }
}

fn cannot(text: &str, line: usize) -> CannotEdit {
    CannotEdit {
        line: Some(line),
        text: text.lines().nth(line - 1).unwrap_or_default().to_owned(),
    }
}
