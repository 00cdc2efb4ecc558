//! `lull limits`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use lull_base::duration::Span;
use lull_base::exit::done_or_not;
use lull_base::suggest::{did_you_mean, nearest};
use lull_base::table::table;
use lull_base::terminal::to_stderr;
use lull_core::units::PAGE_SIZE;
use lull_store::limits::{
    Change, Chosen, Effective, FILE, Key, Limit, LimitsError, LimitsFile, Selector, Standing,
    effective,
};
use lull_xen::host::{self, Guest};
use serde::Serialize;

use crate::control;

/// The limits of a guest for which nothing has been started yet.
///
/// # Errors
/// If they cannot be determined. The error includes what the caller should do.
pub fn of_guest(guest: &Guest) -> anyhow::Result<Effective> {
    let uuid = host::uuid(guest.domid).context("the guest's UUID cannot be read from xenstore")?;
    effective(&guest.name, Some(&uuid)).map_err(|error| {
        anyhow::anyhow!("{error}\nNothing was done. `lull limits check` looks at it again.")
    })
}

/// What `lull limits` can do.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  lull limits show web1
  lull limits set --default --timeout 10min
  lull limits set 'web-*' --max-suspend-time 300ms
  lull limits unset web1 --timeout

The file, /etc/lull.toml, may be edited by hand as well; nothing has to be
restarted:

  [default]                    # for every guest
  timeout = \"10min\"
  [guest.\"web-*\"]              # by pattern: * ? [0-9]
  max-suspend-time = \"300ms\"
  [guest.web-7]                # by name, or by UUID
  max-suspend-time = \"none\"
  bandwidth = \"50MiB/s\"        # sent at most until the pause
  connections = \"4\"            # over which it lands fast, 1 to 8
  risk = \"1%\"                  # pauses that may be given up, of all
  disks = \"trusted\"            # may be open on two hosts at once
  announce = \"none\"            # no RARP when it has landed on this host

For each key the first of these that has it is used: the command line, the
guest's UUID, its name, the pattern that spells out most of it (of several, the
upper one), the default.")]
pub enum Command {
    /// Show the limits that apply, and which line of the file sets them
    Show(Show),

    /// Set limits
    Set(Set),

    /// Take limits out of the file
    Unset(Unset),

    /// Check the file
    Check(Check),
}

/// The options of `lull limits show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull limits show           # the whole file
  lull limits show web1      # what applies to one guest, here or elsewhere
  lull limits show --json web1

Exit codes: 0 shown; 2 the file cannot be understood.")]
pub struct Show {
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,

    /// A guest's name, number or UUID
    domain: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// For every guest without a rule of its own or a pattern
    #[arg(long)]
    default: bool,

    /// A guest's name or UUID, or a pattern such as 'web-*'
    domain: Option<String>,
}

/// The options of `lull limits set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull limits set web1 --max-suspend-time 300ms --timeout 2min
  lull limits set --default --max-suspend-time 1s
  lull limits set 'web-*' --bandwidth 50MiB/s
  lull limits set batch --max-suspend-time none    # though there is a default

Comments and every other line stay as they are.

Exit codes: 0 set; 2 not, and why: the file is as it was.")]
pub struct Set {
    #[command(flatten)]
    target: Target,

    /// The longest pause, or `none`
    #[arg(
        long,
        value_name = "DURATION",
        allow_hyphen_values = true,
        value_parser = |text: &str| Key::MaxSuspendTime.understand(text),
        required_unless_present_any = ["timeout", "bandwidth", "connections", "risk", "disks", "announce"]
    )]
    max_suspend_time: Option<Limit>,

    /// The longest time until the pause, or `none`
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = |text: &str| Key::Timeout.understand(text),
        allow_hyphen_values = true
    )]
    timeout: Option<Limit>,

    /// The bandwidth cap until the pause, or `none`
    #[arg(long, value_name = "RATE", value_parser = |text: &str| Key::Bandwidth.understand(text))]
    bandwidth: Option<Limit>,

    /// The connections of a fast landing, 1 to 8
    #[arg(long, value_name = "NUMBER", value_parser = |text: &str| Key::Connections.understand(text))]
    connections: Option<Limit>,

    /// The share of pauses that the estimate may get wrong: such a pause is given up
    /// within the limit
    #[arg(long, value_name = "SHARE", value_parser = |text: &str| Key::Risk.understand(text))]
    risk: Option<Limit>,

    /// `trusted`: two hosts may have its disks open at once; or `none`
    ///
    /// Then it lands fast whatever its disks are.
    #[arg(long, value_name = "WORD", value_parser = |text: &str| Key::Disks.understand(text))]
    disks: Option<Limit>,

    /// `rarp`: announce it when it has landed fast on this host; or `none`
    ///
    /// A RARP request for each network interface tells switches where it is.
    #[arg(long, value_name = "WORD", value_parser = |text: &str| Key::Announce.understand(text))]
    announce: Option<Limit>,
}

/// The options of `lull limits unset`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull limits unset web1               # all its limits
  lull limits unset --default --timeout

Exit codes: 0 gone, also if it was not there; 2 not, and why.")]
pub struct Unset {
    #[command(flatten)]
    target: Target,

    /// Only this
    #[arg(long)]
    max_suspend_time: bool,

    /// Only this
    #[arg(long)]
    timeout: bool,

    /// Only this
    #[arg(long)]
    bandwidth: bool,

    /// Only this
    #[arg(long)]
    connections: bool,

    /// Only this
    #[arg(long)]
    risk: bool,

    /// Only this
    #[arg(long)]
    disks: bool,

    /// Only this
    #[arg(long)]
    announce: bool,
}

/// The options of `lull limits check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull limits check
  lull limits check ./lull.toml && install -m 644 lull.toml /etc/

Exit codes: 0 it is right; 2 it is not: each line that is wrong is shown.")]
pub struct Check {
    /// Another file
    #[arg(default_value = FILE)]
    file: PathBuf,
}

pub fn main(command: &Command) -> ExitCode {
    done_or_not(match command {
        Command::Show(options) => show(options),
        Command::Set(options) => set(options),
        Command::Unset(options) => unset(options),
        Command::Check(options) => check(options),
    })
}

fn show(options: &Show) -> Result<String, String> {
    let standing = LimitsFile::at(FILE).rules().map_err(broken)?;
    let Some(domain) = &options.domain else {
        return Ok(match options.json {
            true => in_json(&rows(&standing)),
            false => everything(&standing),
        });
    };
    warn_of_slip(domain, &standing);
    let (name, uuid) = who(domain);
    let limits = standing.for_guest(&name, uuid.as_deref());
    Ok(match options.json {
        true => in_json(&rows_of(&name, &limits)),
        false => in_words(&name, &limits),
    })
}

fn broken(error: LimitsError) -> String {
    format!("{error}\nUntil that is put right no migration begins, with xl or without.")
}

/// Prints a hint if the name is similar to a known one. It may still be the name of a guest
/// that runs elsewhere.
fn warn_of_slip(asked: &str, standing: &Standing) {
    if let Some(hint) = slip(asked, &control::names(), standing) {
        to_stderr(&format!("lull: {hint}"));
    }
}

/// For a name that neither a guest of this host nor a section has: a hint with similar
/// names.
fn slip(asked: &str, here: &[Guest], standing: &Standing) -> Option<String> {
    let Ok(Selector::Name(asked)) = Selector::named(asked) else {
        return None;
    };
    let sections = standing.rules.sections.iter();
    let sections = sections.filter_map(|section| match &section.selector {
        Selector::Name(name) => Some(name.as_str()),
        _ => None,
    });
    let known: Vec<&str> = host::guests(here).chain(sections).collect();
    let is_number = asked.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || known.contains(&asked.as_str()) {
        return None;
    }
    let like = nearest(&asked, known);
    let hint = did_you_mean(&like);
    let file = standing.file.display();
    (!like.is_empty()).then(|| {
        format!("`{asked}` is no guest of this host, and {file} has no section for it{hint}")
    })
}

/// The name and UUID of a guest on this host, or else the name as given.
fn who(asked: &str) -> (String, Option<String>) {
    if let Ok(guest) = host::domain(asked) {
        let uuid = host::uuid(guest.domid).ok();
        return (guest.name, uuid);
    }
    match Selector::named(asked) {
        Ok(Selector::Uuid(uuid)) => {
            let here = host::by_uuid(&uuid).ok().flatten();
            let name = here.map_or_else(|| uuid.clone(), |guest| guest.name);
            (name, Some(uuid))
        }
        _ => (asked.to_owned(), None),
    }
}

/// One limit of a guest.
#[derive(Debug, Serialize)]
struct Row {
    /// The guest or section; the JSON field keeps its published name.
    #[serde(rename = "whom")]
    selector: String,
    key: &'static str,
    /// The limit as text; absent if there is none.
    limit: Option<String>,
    /// A limit on a time, in microseconds.
    limit_us: Option<u64>,
    /// A bandwidth cap, in bytes a second.
    limit_bytes_per_sec: Option<u64>,
    /// The section that sets it; absent if no section does.
    section: Option<String>,
    line: Option<usize>,
}

fn row(selector: &str, key: Key, chosen: Option<&Chosen<Limit>>) -> Row {
    let limit = Chosen::limit_of(chosen);
    let span = limit.and_then(Limit::span);
    let rate = limit.and_then(Limit::rate);
    Row {
        selector: selector.to_owned(),
        key: key.name(),
        limit: limit.map(|limit| limit.to_string()),
        limit_us: span.map(Span::as_micros),
        limit_bytes_per_sec: rate.map(|rate| rate.pages * PAGE_SIZE),
        section: chosen.map(|chosen| chosen.section.clone()),
        line: chosen.map(|chosen| chosen.line),
    }
}

fn rows_of(name: &str, limits: &Effective) -> Vec<Row> {
    let each = limits.each().into_iter();
    each.map(|(key, chosen)| row(name, key, chosen.as_ref()))
        .collect()
}

fn rows(standing: &Standing) -> Vec<Row> {
    let sections = standing.rules.sections.iter();
    sections
        .flat_map(|section| {
            section.settings.iter().map(|(key, setting)| {
                let selector = section.selector.to_string();
                let chosen = Chosen {
                    limit: Some(setting.limit).filter(|limit| *limit != Limit::None),
                    section: selector.clone(),
                    line: setting.line,
                    file: standing.file.clone(),
                };
                row(&selector, *key, Some(&chosen))
            })
        })
        .collect()
}

fn in_json(rows: &[Row]) -> String {
    let object = serde_json::json!({
        "type": "limits",
        "schema": lull_wire::events::SCHEMA,
        "file": FILE,
        "limits": rows,
    });
    object.to_string()
}

fn everything(standing: &Standing) -> String {
    let rows = rows(standing);
    if rows.is_empty() {
        return format!(
            "{FILE} sets no limits: a guest is paused for as long as it takes. `lull limits set` changes that."
        );
    }
    let mut table = table(&["section", "key", "limit", "line"], 2..4);
    for row in rows {
        let limit = row.limit.unwrap_or_else(|| "none".to_owned());
        let line = row.line.map(|line| line.to_string()).unwrap_or_default();
        table.add_row([row.selector, row.key.to_owned(), limit, line]);
    }
    format!("{FILE}:\n{table}")
}

fn in_words(name: &str, limits: &Effective) -> String {
    let mut table = table(&["key", "limit", "from"], 1..2);
    for (key, chosen) in limits.each() {
        let limit = Chosen::limit_of(chosen.as_ref()).or_else(|| key.unless_set());
        let limit = limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        let from = match chosen {
            Some(chosen) => chosen.to_string(),
            None => "not set".to_owned(),
        };
        table.add_row([key.name().to_owned(), limit, from]);
    }
    format!("{name}:\n{table}")
}

impl Target {
    fn selector(&self) -> Result<Selector, String> {
        match &self.domain {
            Some(domain) => Selector::named(domain),
            None => Ok(Selector::Default),
        }
    }
}

fn set(options: &Set) -> Result<String, String> {
    let keys = [
        (Key::MaxSuspendTime, options.max_suspend_time),
        (Key::Timeout, options.timeout),
        (Key::Bandwidth, options.bandwidth),
        (Key::Connections, options.connections),
        (Key::Risk, options.risk),
        (Key::Disks, options.disks),
        (Key::Announce, options.announce),
    ];
    let keys = keys.into_iter().filter(|(_, limit)| limit.is_some());
    change(options.target.selector()?, keys.collect())
}

fn unset(options: &Unset) -> Result<String, String> {
    let all = !(options.max_suspend_time
        || options.timeout
        || options.bandwidth
        || options.connections
        || options.risk
        || options.disks
        || options.announce);
    let keys = [
        (Key::MaxSuspendTime, all || options.max_suspend_time),
        (Key::Timeout, all || options.timeout),
        (Key::Bandwidth, all || options.bandwidth),
        (Key::Connections, all || options.connections),
        (Key::Risk, all || options.risk),
        (Key::Disks, all || options.disks),
        (Key::Announce, all || options.announce),
    ];
    let keys = keys.into_iter().filter(|(_, chosen)| *chosen);
    change(
        options.target.selector()?,
        keys.map(|(key, _)| (key, None)).collect(),
    )
}

fn change(selector: Selector, keys: BTreeMap<Key, Option<Limit>>) -> Result<String, String> {
    let file = LimitsFile::at(FILE);
    if let (Selector::Name(name), Ok(before)) = (&selector, file.rules()) {
        warn_of_slip(name, &before);
    }
    let change = Change { selector, keys };
    let changed = file
        .change(&change)
        .map_err(|error| format!("{error}\nNothing was changed."))?;
    let standing = file.rules().map_err(broken)?;
    let what = if changed { "changed" } else { "was so already" };
    let said = match standing.rules.section(&change.selector) {
        Some(section) if !section.settings.is_empty() => {
            let settings = section.settings.iter();
            let settings =
                settings.map(|(key, setting)| format!("{} = {}", key.name(), setting.limit));
            settings.collect::<Vec<_>>().join(", ")
        }
        _ => "nothing".to_owned(),
    };
    Ok(format!(
        "{FILE} {what}: {} now says {said}.",
        change.selector
    ))
}

fn check(options: &Check) -> Result<String, String> {
    let file = options.file.display();
    if !options.file.exists() && options.file.symlink_metadata().is_err() {
        return match options.file == Path::new(FILE) {
            true => Ok(format!("There is no {file}: no limits.")),
            false => Err(format!("there is no {file}.")),
        };
    }
    let standing = LimitsFile::at(&options.file).rules();
    let rules = standing.map_err(|error| error.to_string())?.rules;
    let limits: usize = rules
        .sections
        .iter()
        .map(|section| section.settings.len())
        .sum();
    Ok(format!(
        "{file} is right: {} sections, {limits} limits.",
        rules.sections.len()
    ))
}

#[cfg(test)]
mod tests {
    use lull_store::limits::Rules;

    use super::*;

    #[test]
    fn a_name_like_a_known_one_is_told_and_a_known_one_is_not() {
        let rules = Rules::parse("[guest.database]\n[guest.\"web*\"]\n").unwrap();
        let file = FILE.into();
        let standing = Standing { rules, file };
        let guest = |domid, name: &str| Guest {
            domid,
            name: name.to_owned(),
        };
        let here = [guest(0, "Domain-0"), guest(3, "web1")];
        for (asked, meant) in [("wbe1", "`web1`"), ("databse", "`database`")] {
            let said = slip(asked, &here, &standing).unwrap();
            assert!(said.contains(meant) && said.contains(asked), "{said}");
        }
        for plain in ["web1", "database", "3", "mail", "Domain-1", "web?"] {
            assert_eq!(slip(plain, &here, &standing), None, "{plain}");
        }
    }
}
