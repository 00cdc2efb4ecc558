//! One `lull migrate --json`, from its start to its last event.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lull_tests::ssh::quote;
use lull_tests::timeline::Timeline;
use lull_tests::{Guest, Host, Output, Spawned};
use serde_json::Value;

use crate::predictions;

/// The ledger with the times of earlier moves. It is deleted before each attempt, so that
/// the assumptions of an attempt do not depend on earlier scenarios.
pub const LEDGER: &str = "/var/lib/lull/ledger.json";

/// The longest time that an attempt may take; none in these tests takes that long by
/// itself.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Returns a shell command that waits until that guest is being copied, by `lull migrate`
/// or by another toolstack, and prints the state of the migration.
pub fn until_copying(guest: &str) -> String {
    let copies = "grep '\"phase\":\"copying\"'";
    format!("until lull status --json {guest} | {copies}; do sleep 0.2; done")
}

/// The options of an attempt that is still to be made.
#[derive(Debug, Clone)]
pub struct Plan {
    options: Vec<String>,
    destination: String,
    limit: Option<Duration>,
}

impl Plan {
    /// Moves the guest over ssh to the host itself, as a user would.
    pub fn over_ssh() -> Self {
        Self::to_host("localhost")
    }

    /// Moves the guest over ssh to the host of that name.
    pub fn to_host(name: &str) -> Self {
        Self {
            options: Vec::new(),
            destination: name.into(),
            limit: None,
        }
    }

    /// Moves the guest to that host over the rig's own connection, in place of ssh.
    pub fn called(host: &Host) -> Self {
        Self::with_ssh("rig-agent call", host)
    }

    /// Moves the guest to that host with a command in place of ssh.
    pub fn with_ssh(command: &str, host: &Host) -> Self {
        Self {
            options: vec!["-s".into(), command.into()],
            ..Self::to_host(&host.name())
        }
    }

    /// Moves the guest without ssh, which costs ten times as much under emulation as
    /// everything else.
    pub fn direct() -> Self {
        Self::by("")
    }

    /// Moves the guest without ssh, through the agent's transports: `throttle 4000000 --`.
    pub fn by(transport: &str) -> Self {
        let agent = match transport {
            "" => String::new(),
            words => format!("rig-agent {words} "),
        };
        Self::by_command(&format!("{agent}xl migrate-receive"))
    }

    /// Moves the guest without ssh; a shell runs `command` as the transport.
    pub fn by_command(command: &str) -> Self {
        Self {
            options: vec!["-s".into(), String::new()],
            ..Self::to_host(command)
        }
    }

    /// Moves the guest over a link of that many bytes a second.
    pub fn throttled(bytes_per_sec: u64) -> Self {
        Self::by(&format!("throttle {bytes_per_sec} --"))
    }

    /// Sets the order of landing.
    pub fn landing(mut self, order: &str) -> Self {
        self.options.extend(["--landing".into(), order.into()]);
        self
    }

    /// Sets the command that connects to `lull land`.
    pub fn land(mut self, command: &str) -> Self {
        self.options
            .extend(["--receiver-command".into(), command.into()]);
        self
    }

    /// Selects the fast landing, without ssh, through the agent's transports.
    pub fn fast_by(self, transport: &str) -> Self {
        let agent = match transport {
            "" => String::new(),
            words => format!("rig-agent {words} "),
        };
        self.landing("fast").land(&format!("exec {agent}lull land"))
    }

    /// Sets the number of connections of a fast landing.
    pub fn connections(mut self, number: u8) -> Self {
        self.options
            .extend(["--connections".into(), number.to_string()]);
        self
    }

    /// Adds `--debug`, which compares every page once more.
    pub fn debug(mut self) -> Self {
        self.options.push("--debug".into());
        self
    }

    /// Sets a limit on the pause.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        let text = format!("{}ms", limit.as_millis());
        self.options.extend(["--max-suspend-time".into(), text]);
        self
    }

    /// Uses the configuration in that file instead of the guest's own.
    pub fn configured(mut self, file: &str) -> Self {
        self.options.extend(["-C".into(), file.into()]);
        self
    }

    /// Adds a rehearsal before the move.
    pub fn rehearsed(mut self) -> Self {
        self.options.push("--rehearse".into());
        self
    }

    /// Sets a timeout.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let text = format!("{}ms", timeout.as_millis());
        self.options.extend(["--timeout".into(), text]);
        self
    }

    /// Sets a bandwidth cap.
    pub fn capped(mut self, rate: &str) -> Self {
        self.options.extend(["--bandwidth".into(), rate.into()]);
        self
    }

    /// Checks whether the test itself makes the pause longer, so that the pause says nothing
    /// about the prediction: it compares the guest's memory meanwhile, or holds the landing
    /// back.
    fn prolongs_the_pause(&self) -> bool {
        self.options
            .iter()
            .chain([&self.destination])
            .any(|word| word == "--debug" || word.contains("rig-agent hold-"))
    }

    /// Returns the command line, with more options in front.
    pub fn command(&self, more: &str, guest: &str) -> String {
        let words: Vec<String> = self
            .options
            .iter()
            .map(String::as_str)
            .chain([guest, &self.destination])
            .map(quote)
            .collect();
        format!("lull migrate {more} {}", words.join(" "))
    }

    /// Deletes the ledger and starts the attempt.
    pub fn start<'a>(&self, host: &'a Host, guest: &'a Guest) -> Result<Running<'a>> {
        host.run(&format!("rm -f {LEDGER}"))?.checked()?;
        self.start_as_it_is(host, guest)
    }

    /// Starts the attempt with the ledger as it is.
    pub fn start_as_it_is<'a>(&self, host: &'a Host, guest: &'a Guest) -> Result<Running<'a>> {
        let source = guest.domid()?;
        let command = self.command("--json", guest.name());
        Ok(Running {
            host,
            guest,
            plan: self.clone(),
            source,
            spawned: host.spawn(&command)?,
        })
    }

    /// Runs the attempt to its end.
    pub fn run(&self, host: &Host, guest: &Guest) -> Result<Ended> {
        self.start(host, guest)?.finish()
    }
}

/// An attempt that is under way.
pub struct Running<'a> {
    /// The host on which the attempt was started.
    pub host: &'a Host,
    guest: &'a Guest,
    plan: Plan,
    source: u32,
    spawned: Spawned<'a>,
}

impl Running<'_> {
    /// Waits for the first event that matches, and returns it.
    pub fn wait_for(&mut self, what: impl Fn(&Value) -> bool) -> Result<Value> {
        let start = Timeline::start();
        while start.seconds() < TIMEOUT.as_secs_f64() {
            if let Some(event) = parse(&self.spawned.stdout_so_far()).into_iter().find(&what) {
                return Ok(event);
            }
            if let Some(output) = self.spawned.wait(Duration::from_millis(20))? {
                bail!("it ended before that: {output:?}");
            }
        }
        bail!("it did not come: {}", self.spawned.stdout_so_far())
    }

    /// Waits until pages are being sent, and returns the event of the start.
    pub fn wait_until_copying(&mut self) -> Result<Value> {
        self.wait_for(|event| is(event, "progress") && event["pages_sent"].as_u64() > Some(0))?;
        self.wait_for(|event| is(event, "started"))
    }

    /// Sets the limit on the pause while the attempt runs, as an operator would.
    pub fn limit(&mut self, limit: Duration) -> Result<()> {
        let guest = self.guest.name();
        let limit_ms = limit.as_millis();
        self.beside(&format!("lull set --max-suspend-time {limit_ms}ms {guest}"))?;
        self.plan.limit = Some(limit);
        Ok(())
    }

    /// Runs a shell command on the same host while the attempt runs.
    pub fn beside(&self, command: &str) -> Result<()> {
        self.host.run(command)?.checked()?;
        Ok(())
    }

    /// Waits for the end of the attempt.
    pub fn finish(mut self) -> Result<Ended> {
        let output = self
            .spawned
            .wait(TIMEOUT)?
            .with_context(|| format!("no end: {}", self.spawned.stdout_so_far()))?;
        let events = parse(&output.stdout);
        if !self.plan.prolongs_the_pause() {
            predictions::note(&events);
        }
        Ok(Ended {
            events,
            plan: self.plan,
            source: self.source,
            guest: self.guest.name().to_owned(),
            output,
        })
    }
}

/// An attempt that is over.
#[derive(Debug)]
pub struct Ended {
    /// All events that the attempt printed.
    pub events: Vec<Value>,
    /// Exit code, standard output and standard error.
    pub output: Output,
    /// The guest's domid at the source, before the move.
    pub source: u32,
    plan: Plan,
    guest: String,
}

impl Ended {
    /// Returns the exit code.
    pub fn code(&self) -> i32 {
        self.output.status
    }

    /// Returns the last object, which is the result.
    pub fn result(&self) -> Result<&Value> {
        let last = self.events.last();
        last.filter(|event| is(event, "result"))
            .with_context(|| format!("no result at the end: {:?}", self.output))
    }

    /// Checks whether the advice contains these words.
    pub fn advises(&self, words: &str) -> bool {
        let advice = self.result().ok().and_then(|r| r["advice"].as_str());
        advice.is_some_and(|advice| advice.contains(words))
    }

    /// Returns the first event of that type, if there is one.
    pub fn event(&self, kind: &str) -> Option<&Value> {
        self.events.iter().find(|event| is(event, kind))
    }

    /// Returns the events of all rounds.
    pub fn rounds(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| is(event, "round"))
    }

    /// Checks that the attempt ended with this exit code, with the matching outcome, and
    /// with a result that agrees with the earlier events.
    pub fn expect(&self, code: i32) -> Result<&Value> {
        let (outcome, running_on) = match code {
            0 => ("moved", "destination"),
            3 => ("refused-downtime", "source"),
            4 => ("refused-timeout", "source"),
            5 => ("cancelled", "source"),
            6 => ("target-failed", "source"),
            7 => ("source-failed", "source"),
            8 => ("unknown", "unknown"),
            other => bail!("no outcome belongs to {other}"),
        };
        ensure!(
            self.code() == code,
            "exit code {} instead of {code}: {}",
            self.code(),
            self.in_short()
        );
        let result = self.result()?;
        ensure!(
            result["outcome"] == outcome && result["running_on"] == running_on,
            "exit code {code}, but {result}"
        );
        ensure!(
            self.events.iter().all(|event| event["schema"] == 1),
            "an object without its schema: {}",
            self.output.stdout
        );
        let rounds = self.rounds().count() as u64;
        ensure!(
            result["rounds"] == rounds,
            "{rounds} rounds were reported: {result}"
        );
        if let Some(ended) = self.event("ended") {
            ensure!(
                ended["pages_sent"] == result["pages_sent"],
                "{ended} and then {result}"
            );
        }
        let limit = self.plan.limit.map(|limit| limit.as_millis() as u64);
        ensure!(result["limit_ms"].as_u64() == limit, "{limit:?}: {result}");
        if let Some((limit, observed)) = limit.zip(result["observed_downtime_ms"].as_u64()) {
            ensure!(observed <= limit, "paused beyond its limit: {result}");
        }
        let guest = &self.guest;
        let destination = &self.plan.destination;
        let said = self.output.stderr.lines().last().unwrap_or_default();
        let says_where = match running_on {
            "source" => said == format!("{guest} runs at the source (this host)."),
            "destination" => said == format!("{guest} runs at the destination ({destination})."),
            _ => {
                let unknown = format!(
                    "Where {guest} runs is unknown: look at the source (this host) and at the destination ({destination})."
                );
                let not_seen =
                    format!("{guest} was not seen to run: at the source (this host) it ");
                said == unknown || said.starts_with(&not_seen)
            }
        };
        ensure!(says_where, "the last line is {said:?}");
        Ok(result)
    }

    /// Checks that the guest was never asked to suspend.
    pub fn expect_never_suspended(&self) -> Result<()> {
        let stopped = self.event("suspended").is_some();
        let asked = self.rounds().any(|round| round["decision"] == "suspend");
        ensure!(!stopped && !asked, "it was suspended: {}", self.in_short());
        Ok(())
    }

    /// Returns the events without progress and without what only a debugger reads.
    pub fn in_short(&self) -> String {
        let telling = |event: &&Value| !is(event, "progress") && event["level"] != "debug";
        let events = self.events.iter().filter(telling);
        let lines: Vec<String> = events.map(Value::to_string).collect();
        format!("{}\n{}", lines.join("\n"), self.output.stderr)
    }
}

/// Checks whether an event is of that type.
pub fn is(event: &Value, kind: &str) -> bool {
    event["type"] == kind
}

/// Parses the complete lines of the output; the last line may still be incomplete.
fn parse(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
