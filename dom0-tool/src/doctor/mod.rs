//! `lull doctor`: whether this host and the destination are ready for a migration.
//!
//! The command checks everything and changes nothing. [`here`] checks this host; its
//! [`guests`] and its [`files`] have modules of their own. One command over ssh checks the
//! destination ([`there`]). Each [`finding`] says what to do, and every [question](ask) has
//! a deadline.

mod ask;
mod files;
mod finding;
mod guests;
mod here;
mod there;
mod xl_info;

use std::process::ExitCode;

use clap::Args;
use lull_base::exit::{NOT_BEGUN, not_begun};
use lull_store::attempt::outcome::Outcome;

use crate::cli;
use finding::Findings;

/// The options of `lull doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  lull doctor
  lull doctor host2
  lull doctor --json host2 | jq 'select(.level == \"problem\")'

Nothing is changed, here or there. ssh is not allowed to ask for a password:
xl could not answer it either. With --json the last object has \"type\":\"checked\".

Exit codes: 0 ready, warnings or not; 2 wrong usage, or this host is not ready;
  6 this host is, the destination is not.")]
pub struct Options {
    /// Print one JSON object per line on standard output
    #[arg(long)]
    json: bool,

    /// Use this instead of ssh, as `lull migrate -s` does
    #[arg(short, value_name = "SSHCOMMAND", allow_hyphen_values = true)]
    pub ssh: Option<String>,

    /// A destination to look at too, as ssh knows it
    pub host: Option<String>,
}

pub fn main(options: &Options) -> ExitCode {
    let ssh = options.ssh.as_deref();
    let destination = options.host.as_deref();
    if let Some(Err(why)) = destination.map(|host| cli::check_host(ssh, host)) {
        return not_begun(&why);
    }
    let mut findings = Findings::new(options.json);
    let here = here::check(&mut findings);
    let here_is_ready = findings.ends("This host");
    let there_is_ready = destination.is_none_or(|host| {
        findings.begin(host);
        there::check(ssh, host, &here, &mut findings);
        findings.ends(host)
    });
    findings.close();
    match (here_is_ready, there_is_ready) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => Outcome::TargetFailed.into(),
        (false, _) => NOT_BEGUN.into(),
    }
}
