//! The subcommands, and the options of `lull migrate`.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use lull_agents::{helper, land, spoolers, transport};
use lull_base::bandwidth::Bandwidth;
use lull_base::connections::Connections;
use lull_base::duration::{Span, TimeLimit};
use lull_base::risk::Risk;

use crate::landing::Wanted;
use crate::{
    control, doctor, enable, ledger, limits, plain_xl, predict, rehearse, replay, report, resume,
};

/// A part of a help text: with the feature `terminal` the first, without it the second.
#[cfg(feature = "terminal")]
macro_rules! if_terminal {
    ($with:literal, $without:literal) => {
        $with
    };
}
#[cfg(not(feature = "terminal"))]
macro_rules! if_terminal {
    ($with:literal, $without:literal) => {
        $without
    };
}
pub(crate) use if_terminal;

/// Live-migrates a Xen guest that is never paused longer than you allow.
#[derive(Debug, Parser)]
#[command(
    name = "lull",
    version = crate::version(),
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example: move web1 to host2, paused for half a second at most:
  lull migrate --max-suspend-time 500ms web1 host2"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What was asked for; on a slip the process ends here, with words for it.
pub fn parse() -> Cli {
    let mut given = Cli::try_parse().unwrap_or_else(|mut slip| {
        keep_hidden(&mut slip);
        slip.exit()
    });
    match &mut given.command {
        Command::Migrate(options) => as_hands_write(&mut options.ssh, &mut options.host),
        Command::Rehearse(options) => as_hands_write(&mut options.ssh, &mut options.host),
        Command::Doctor(options) => {
            if let Some(host) = &mut options.host {
                as_hands_write(&mut options.ssh, host);
            }
        }
        _ => {}
    }
    given
}

/// HOST as scripts for xl have it: empty, and the host named behind `-s`; or an address
/// in brackets, which ssh does not take.
pub fn as_hands_write(ssh: &mut Option<String>, host: &mut String) {
    if host.is_empty()
        && let Some((command, named)) = ssh.as_ref().and_then(|ssh| ssh.trim().rsplit_once(' '))
    {
        *host = named.to_owned();
        *ssh = Some(command.trim_end().to_owned());
    }
    let (user, address) = match host.split_once('@') {
        Some((user, address)) => (format!("{user}@"), address),
        None => (String::new(), host.as_str()),
    };
    let inner = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = inner {
        *host = format!("{user}{inner}");
    }
}

/// Suggests no command that is only lull's own to call, and the likeliest
/// first.
fn keep_hidden(slip: &mut clap::Error) {
    let Some(ContextValue::Strings(suggested)) = slip.remove(ContextKind::SuggestedSubcommand)
    else {
        return;
    };
    let all = Cli::command();
    let is_hidden =
        |name: &String| matches!(all.find_subcommand(name), Some(found) if found.is_hide_set());
    let suggested = suggested.into_iter().rev();
    let shown: Vec<String> = suggested.filter(|name| !is_hidden(name)).collect();
    if shown.is_empty() {
        // Is empty as well, and would be room for nothing.
        slip.remove(ContextKind::Suggested);
        return;
    }
    let shown = ContextValue::Strings(shown);
    slip.insert(ContextKind::SuggestedSubcommand, shown);
}

/// What lull can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move a running guest to another host
    ///
    /// Runs stock `xl migrate` with lull as its save helper. If a limit cannot be
    /// kept, the guest keeps running at the source and the destination discards its
    /// copy. Without limits it migrates as xl does, with a report.
    Migrate(Migrate),

    /// Measure how long a landing at a host takes, with a probe guest
    ///
    /// A guest of a few MiB with a network interface and no disk moves there and
    /// is destroyed. Nothing of it is left on either host.
    Rehearse(rehearse::Options),

    /// Show running migrations
    Status(control::show::Options),

    /// Change the limits of a running migration
    Set(control::set::Options),

    /// Suspend a migration's guest after this round, if the pause fits
    SwitchNow(control::set::SwitchNow),

    /// Cancel a migration; the guest keeps running here
    ///
    /// Works like ^C in `lull migrate`, for every migration lull takes part in.
    Cancel(control::cancel::Options),

    /// Predict a migration's outcome without moving anything
    ///
    /// Samples for a few seconds how the guest writes. The same rules then decide
    /// over a modelled link.
    Predict(predict::Options),

    /// Run a recorded attempt through the same rules again
    ///
    /// With other limits it shows what they would have changed.
    Replay(replay::Options),

    /// Resume a guest that a migration left suspended here
    ///
    /// For a guest whose destination had permission to start it and did not
    /// report. Never use it while the guest may run there: both copies would
    /// write to the same disks.
    Resume(resume::Options),

    /// Show what earlier pauses took, by destination and guest
    ///
    /// The bound for the next pause is the worst of each part plus half of it. From
    /// four pauses on, the margin is the distance from the median to the worst.
    Ledger(ledger::Options),

    /// Explain an attempt afterwards
    ///
    /// Covers every attempt on this host, also those that xl or virsh began with
    /// lull as their helper.
    Report(report::Options),

    /// Hold what is told of an attempt until it is over; lull starts it
    #[command(hide = true)]
    KeepRun(spoolers::runs::Options),

    /// Check whether this host, and optionally a destination, is ready
    ///
    /// Changes nothing. Each finding says what to do about it.
    Doctor(doctor::Options),

    /// Write man pages and shell completions, as the package has them
    #[cfg(feature = "terminal")]
    #[command(hide = true)]
    Generate(crate::generate::Options),

    /// Show, set or check the limits of /etc/lull.toml
    ///
    /// For all guests, or for some by name, UUID or pattern. Options of `lull
    /// migrate` take precedence.
    #[command(subcommand)]
    Limits(limits::Command),

    /// Make plain `xl migrate` or virsh keep the limits, or shorten landings
    Enable(enable::Enable),

    /// Undo `lull enable`
    Disable(enable::Disable),

    /// Move a guest as plain `xl migrate` asks for; the xl of `lull enable xl` starts it
    #[command(hide = true)]
    PlainXl(plain_xl::Options),

    /// Hold an attempt's trace until it is over; the helper starts it
    #[command(hide = true)]
    KeepTrace(spoolers::trace::Options),

    /// Clear up after a rehearsal that died; it starts it itself
    #[command(hide = true)]
    GuardRehearsal,

    /// Carry xl's connection to the destination; `lull migrate` starts it
    #[command(hide = true)]
    Transport(transport::Options),

    /// Move a guest that lands fast; `lull migrate` starts it
    #[command(hide = true)]
    Engine(helper::EngineOptions),

    /// Bring a waiting guest up to date; `lull migrate` starts it at the
    /// destination
    #[command(hide = true)]
    Land(land::Options),

    /// Clear up after a landing that failed; `lull land` starts it
    #[command(hide = true)]
    SeeOff(land::see_off::Options),

    /// Keep the state of a waiting guest's QEMU; `lull land` starts it
    #[command(hide = true)]
    HoldState,
}

/// The options of `lull migrate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  lull migrate --max-suspend-time 500ms --timeout 5min web1 host2
  lull migrate --json -s 'ssh -p 2222' web1 host2

Durations: 250ms, 2s, 5min, 1m30s; a bare number is seconds (2, 0.5). A limit
that is not given is taken from /etc/lull.toml (`lull limits`); `none` lifts it.

Exit codes: 0 moved; 2 wrong usage or host not ready, nothing was done;
  3 refused, the pause would be too long; 4 refused, out of time or not converging;
  5 cancelled; 6 destination failed; 7 source failed; after 3 to 7 the guest
  runs at the source, unless it has crashed by itself; 8 unknown, look at both hosts.")]
pub struct Migrate {
    /// Never pause the guest longer than this
    ///
    /// The pause counts from the request to suspend until the guest runs at the
    /// destination, or again at the source. The limit is never raised or rounded.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub max_suspend_time: Option<TimeLimit>,

    /// Give up if the guest could not be suspended within this time
    ///
    /// It counts from the start of the command: waiting for the destination, and a
    /// rehearsal, are part of it.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub timeout: Option<TimeLimit>,

    /// Send no more than this until the guest is asked to stop: 50MiB/s, 1Gbit/s
    ///
    /// If nothing is known of the link beyond that rate, the pause is predicted
    /// with it. `lull set` changes it.
    #[arg(long, value_name = "RATE")]
    pub bandwidth: Option<Bandwidth>,

    /// Carry a guest that lands fast over so many connections, 1 to 8 [default: one
    /// for each processor of dom0, 4 at most]
    ///
    /// Each is an ssh of its own, and encrypts on a processor of its own. If not all
    /// of them can be opened, fewer carry it, and the report says why.
    #[arg(long, value_name = "NUMBER")]
    pub connections: Option<Connections>,

    /// The share of pauses that the estimate may get wrong [default: 5%]
    ///
    /// Such a pause is given up within the limit, and the guest keeps running here.
    /// A smaller share refuses sooner.
    #[arg(long, value_name = "SHARE")]
    pub risk: Option<Risk>,

    /// Rehearse first if nothing is known of a landing at HOST yet
    ///
    /// Like `lull rehearse --like DOMAIN HOST`. If it fails, DOMAIN is not
    /// migrated.
    #[arg(long)]
    pub rehearse: bool,

    /// Print one JSON object per line on standard output; the last has
    /// "type":"result"
    #[arg(long)]
    pub json: bool,

    /// Show what xl and the helper say; twice for more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Use this instead of ssh (xl migrate -s); empty: HOST is itself the
    /// command that runs `xl migrate-receive`
    #[arg(short, value_name = "SSHCOMMAND", allow_hyphen_values = true)]
    pub ssh: Option<String>,

    /// Send this configuration instead of the guest's own (xl migrate -C)
    #[arg(short = 'C', value_name = "CONFIG")]
    pub config: Option<PathBuf>,

    /// Do not wait in the background for the guest's death at the destination
    /// (xl migrate -e)
    #[arg(short = 'e')]
    pub no_monitor: bool,

    /// Do not go into the background at the destination (xl migrate -F)
    #[arg(short = 'F')]
    pub foreground: bool,

    /// Keep the guest's number at the destination (xl migrate -D)
    #[arg(short = 'D')]
    pub keep_number: bool,

    /// Accepted and ignored, as by xl
    #[arg(long, hide = true)]
    pub live: bool,

    /// Leave the guest paused at the destination (xl migrate -p)
    ///
    /// Cannot be combined with a limit on the pause.
    #[arg(short = 'p')]
    pub leave_paused: bool,

    /// Have the destination compare every page once more (xl migrate --debug)
    #[arg(long)]
    pub debug: bool,

    /// How the guest lands at the destination
    ///
    /// Fast: the destination attaches all devices before the guest stops. That
    /// needs lull there and disks that two hosts may have open.
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    pub landing: Wanted,

    /// Reach `lull land` by this command instead of `ssh HOST lull land`
    #[arg(
        long,
        alias = "land",
        value_name = "COMMAND",
        allow_hyphen_values = true
    )]
    pub receiver_command: Option<String>,

    /// The guest's name or number
    pub domain: String,

    /// The destination, as ssh knows it
    pub host: String,
}

impl Migrate {
    /// The limit on the pause.
    pub fn pause_limit(&self) -> Option<Span> {
        self.max_suspend_time.and_then(|limit| limit.0)
    }

    /// On the time until then.
    pub fn time_limit(&self) -> Option<Span> {
        self.timeout.and_then(|limit| limit.0)
    }

    /// See [`check_host`].
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn check_host(&self) -> Result<(), String> {
        check_host(self.ssh.as_deref(), &self.host)
    }
}

/// Is HOST a word that ssh takes for a host and a shell takes for one word? Words may
/// follow that run what stands behind them: `host2 sudo`. xl hands it to a shell, unquoted.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_host(ssh: Option<&str>, host: &str) -> Result<(), String> {
    if ssh == Some("") {
        return Ok(());
    }
    let plain = |c: char| c.is_alphanumeric() || "._-:@%[]/+ ".contains(c);
    if host.trim().is_empty() || host.starts_with(['-', ' ']) || !host.chars().all(plain) {
        return Err(format!(
            "`{}` is not a host's name; for example `host2`, `root@192.0.2.7` or `'host2 sudo'`. Options for ssh go to `-s`: -s 'ssh -p 2222'",
            host.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Migrate, String> {
        let words = line.split_whitespace();
        match Cli::try_parse_from(words) {
            Ok(Cli {
                command: Command::Migrate(migrate),
            }) => Ok(migrate),
            Ok(_) => Err("another command".to_owned()),
            Err(mut error) => {
                keep_hidden(&mut error);
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string);
            let name = command.get_name();
            assert!(
                command.has_subcommands() && name != "lull"
                    || help.is_some_and(|help| help.contains("Example")),
                "no example: {name}"
            );
            let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            shown.for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn limits_and_xls_options_are_taken() {
        let given = parse(
            "lull migrate --max-suspend-time 250ms --timeout 5min --json -v -s rsh -C web.cfg -e --debug web1 host2",
        )
        .unwrap();
        assert_eq!(given.pause_limit().unwrap().as_micros(), 250_000);
        assert_eq!(given.time_limit().unwrap().to_string(), "5m");
        assert_eq!(given.ssh.as_deref(), Some("rsh"));
        assert_eq!(
            (given.domain.as_str(), given.host.as_str()),
            ("web1", "host2")
        );
        assert!(given.json && given.no_monitor && given.debug && given.verbose == 1);
    }

    #[test]
    fn a_bad_duration_is_shown_with_a_good_one() {
        for bad in ["0", "-5", "-5s", "soon", "9999999999999999999999"] {
            let said = parse(&format!("lull migrate --timeout {bad} web1 host2")).unwrap_err();
            assert!(said.contains(&format!("`{bad}`")), "{said}");
            assert!(said.contains("`250ms`"), "{said}");
        }
    }

    #[test]
    fn a_slip_brings_the_nearest_word() {
        let said = parse("lull migrate --max-suspend-tim 2 web1 host2").unwrap_err();
        assert!(said.contains("--max-suspend-time"), "{said}");
        let said = parse("lull migarte web1 host2").unwrap_err();
        assert!(said.contains("'migrate'"), "{said}");
        let said = parse("lull limits chekc web1").unwrap_err();
        assert!(said.contains("'check'"), "{said}");
    }

    #[test]
    fn no_slip_brings_a_command_that_is_not_for_people() {
        let all = Cli::command();
        let hidden = all.get_subcommands().filter(|sub| sub.is_hide_set());
        for command in hidden {
            let slip = format!("{}x", command.get_name());
            let said = parse(&format!("lull {slip}")).unwrap_err();
            assert!(said.contains(&slip), "{said}");
            assert!(
                !said.contains(&format!("'{}'", command.get_name())),
                "{said}"
            );
        }
    }

    #[test]
    fn none_is_given_and_no_limit() {
        let given = parse("lull migrate --max-suspend-time none web1 host2").unwrap();
        assert_eq!(given.max_suspend_time, Some(TimeLimit(None)));
        assert_eq!((given.pause_limit(), given.timeout), (None, None));
    }

    #[test]
    fn what_xl_takes_is_taken() {
        let given = parse("lull migrate --live -D -F -e web1 host2").unwrap();
        assert!(given.live && given.keep_number && given.foreground && given.no_monitor);
        for (ssh, host, understood) in [
            (Some("ssh root@host2"), "", (Some("ssh"), "root@host2")),
            (
                Some("ssh -i key  root@host2 "),
                "",
                (Some("ssh -i key"), "root@host2"),
            ),
            (None, "[::1]", (None, "::1")),
            (None, "root@[2001:db8::1]", (None, "root@2001:db8::1")),
            (None, "host2", (None, "host2")),
            (
                Some(""),
                "xl migrate-receive",
                (Some(""), "xl migrate-receive"),
            ),
            (Some("ssh"), "", (Some("ssh"), "")),
        ] {
            let mut given = (ssh.map(str::to_owned), host.to_owned());
            as_hands_write(&mut given.0, &mut given.1);
            assert_eq!((given.0.as_deref(), given.1.as_str()), understood);
        }
    }

    #[test]
    fn a_host_is_one_word_for_the_shell() {
        let host = |name: &str| {
            let mut given = parse("lull migrate web1 host2").unwrap();
            name.clone_into(&mut given.host);
            given
        };
        for good in [
            "host2",
            "root@192.0.2.7",
            "2001:db8::1",
            "ssh://h:22",
            "a@host2 sudo",
        ] {
            host(good).check_host().unwrap();
        }
        for bad in [
            "",
            " ",
            "-oProxyCommand=x",
            " a",
            "a;b",
            "$(x)",
            "a\nb",
            "a 'b'",
        ] {
            assert!(host(bad).check_host().is_err(), "{bad}");
        }
        let mut command = host("cat >file");
        command.ssh = Some(String::new());
        command.check_host().unwrap();
    }
}
