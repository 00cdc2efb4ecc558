//! The checks of the destination, by one command over ssh. Its output is only shown and
//! compared.

use std::fs;
use std::time::Duration;

use lull_base::suggest::did_you_mean;
use lull_base::text::printable;
use lull_store::ledger::{self, Ledger};
use lull_wire::channel::Greeting;
use lull_wire::xl::markers::BANNER;

use super::ask;
use super::finding::{Finding, Findings};
use super::here::Here;
use super::xl_info::XlInfo;
use crate::destination::RULE;
use crate::rehearse::{BATCH, RemoteShell};

/// How long the command may take, including a slow login.
const ANSWER: Duration = Duration::from_secs(45);

/// A file that identifies the machine and its current boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The command. xl must be on the PATH of a command over ssh, because that is how it is
/// called.
const QUESTIONS: &str = "echo lull: there; echo boot: $(cat /proc/sys/kernel/random/boot_id)
echo uid: $(id -u); echo xl: $(command -v xl)
echo land: $(lull land </dev/null 2>/dev/null)
test ! -x /etc/xen/scripts/vif-lull || echo vif-lull: there
echo info:; xl info 2>&1; echo list:; xl list; exit 0";

pub fn check(ssh: Option<&str>, host: &str, here: &Here, findings: &mut Findings) {
    let ssh = ssh.unwrap_or("ssh");
    let remote = RemoteShell::new(Some(ssh), host);
    if !remote.takes_commands() {
        findings.add(Finding::warning(
            "reachable",
            "the way there only runs `xl migrate-receive`: the destination cannot be looked at",
            "Name the host, and how ssh gets there.",
        ));
        return;
    }
    // xl has no terminal on which ssh could ask.
    let question = remote.without_a_terminal().command(QUESTIONS);
    match ask::command(question, ANSWER) {
        Ok(text) => match Answer::of(&text) {
            Answer::Ours { greeting, answer } => {
                let boot = fs::read_to_string(BOOT).unwrap_or_default();
                There::parse(answer).judge(host, here, boot.trim(), findings);
                if let Some(greeting) = greeting {
                    findings.add(Finding::warning(
                        "greeting",
                        format!(
                            "the login shell at {host} prints something before each command \
                             (`{}`), which stock `xl migrate` takes for a broken receiver; lull \
                             drops it",
                            printable(greeting)
                        ),
                        "Print it in interactive shells only (`case $- in *i*)`).",
                    ));
                }
            }
            Answer::OnlyReceives => findings.add(Finding::warning(
                "reachable",
                format!(
                    "the key for {host} may only run `xl migrate-receive`: guests move there and \
                     land the classic way; nothing else can be looked at"
                ),
                "Give `-s` a key that may run `lull land`, or look at it from there.",
            )),
            Answer::AnothersWords => findings.add(Finding::problem(
                "reachable",
                format!("{host} answers something else than what was asked"),
                format!("`{ssh} {host} id` must run `id` there, and nothing else."),
            )),
        },
        Err(why) => findings.add(Finding::problem(
            "reachable",
            format!("{host} is not reached: {why}{}", slip(host)),
            format!("`{ssh} {BATCH} {host} id` must work, without a password."),
        )),
    }
}

/// The kinds of answers that ssh may bring.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'t> {
    /// The questions were answered.
    Ours {
        /// The first line of what a login shell printed before.
        greeting: Option<&'t str>,
        answer: &'t str,
    },
    /// The log-in runs `xl migrate-receive`, whatever it is asked.
    OnlyReceives,
    /// The log-in runs something else.
    AnothersWords,
}

impl<'t> Answer<'t> {
    fn of(text: &'t str) -> Self {
        const FIRST: &str = "lull: there\n";
        if let Some(at) = text.find(FIRST) {
            let (before, answer) = text.split_at(at);
            let greeting = before.lines().find(|line| !line.trim().is_empty());
            return Self::Ours { greeting, answer };
        }
        let banner = String::from_utf8_lossy(BANNER);
        match text.contains(banner.trim_end()) {
            true => Self::OnlyReceives,
            false => Self::AnothersWords,
        }
    }
}

/// A hint with a similar name, if lull knows another destination.
fn slip(host: &str) -> String {
    did_you_mean(&Ledger::at(ledger::FILE).like(host))
}

/// The output of the command.
#[derive(Debug, Default)]
struct There {
    boot: String,
    is_root: bool,
    xl: String,
    /// The output of `lull land`.
    land: String,
    has_vif_lull: bool,
    /// The output of `xl info`.
    said: String,
    info: XlInfo,
    /// The names of the domains.
    names: Vec<String>,
}

impl There {
    fn parse(text: &str) -> Self {
        let (head, rest) = text.split_once("\ninfo:\n").unwrap_or((text, ""));
        // If xl fails, there may be nothing before the list.
        let rest = format!("\n{rest}");
        let (info, list) = rest.split_once("\nlist:\n").unwrap_or((&rest, ""));
        let value = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let names = list.lines().skip(1);
        Self {
            boot: value("boot:"),
            is_root: value("uid:") == "0",
            xl: value("xl:"),
            land: value("land:"),
            has_vif_lull: value("vif-lull:") == "there",
            said: info.trim().to_owned(),
            info: XlInfo::parse(info),
            // The columns are padded: a name ends at the first space.
            names: names
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned)
                .collect(),
        }
    }

    fn judge(&self, host: &str, here: &Here, boot: &str, findings: &mut Findings) {
        let is_here = !boot.is_empty() && self.boot == boot;
        findings.add(Finding::ok(
            "reachable",
            match is_here {
                true => format!("{host} is reached, and is this very host"),
                false => format!("{host} is reached"),
            },
        ));
        if !self.is_root {
            findings.add(Finding::problem(
                "root",
                format!("the log-in at {host} is not root's"),
                format!("Name it, root@{host}, or set `User root` for it in ~/.ssh/config."),
            ));
        }
        if self.xl.is_empty() {
            findings.add(Finding::problem(
                "xl",
                format!("{host} finds no `xl` for a command over ssh"),
                format!("Install Xen's tools there; `ssh {host} xl info` must work."),
            ));
            return;
        }
        let Some(version) = self.info.version else {
            let why = self.said.lines().last().unwrap_or("it says nothing");
            findings.add(Finding::problem(
                "xen",
                format!("`xl info` fails at {host}: {why}"),
                "Boot it with Xen, and log in to its dom0 as root.",
            ));
            return;
        };
        findings.add(self.xen(version, host, here));
        findings.add(self.processor(host, here));
        findings.add(self.memory(host, here));
        findings.add(self.landing(host));
        if let Some(finding) = self.interfaces(host, here) {
            findings.add(finding);
        }
        if !is_here {
            findings.add(self.name_clash(host, here));
        }
    }

    fn xen(&self, (major, minor): (u32, u32), host: &str, here: &Here) -> Finding {
        let found = format!("{host} runs Xen {major}.{minor}");
        if !self.info.guests.contains("hvm-3.0-x86_64") {
            return Finding::problem(
                "xen",
                format!("{found} without hardware virtualisation, which PVH guests need"),
                "Switch on VT-x or AMD-V in its firmware.",
            );
        }
        match here.info.version {
            Some(ours) if ours > (major, minor) => Finding::problem(
                "xen",
                format!("{found}, older than {}.{} here", ours.0, ours.1),
                format!("Upgrade it first: {RULE}."),
            ),
            _ => Finding::ok("xen", found),
        }
    }

    fn processor(&self, host: &str, here: &Here) -> Finding {
        match self.info.processor == here.info.processor {
            true => Finding::ok("processor", "its processor has the same features"),
            false => Finding::warning(
                "processor",
                format!("the processors of {host} have other features than those here"),
                "A guest that uses what is missing there fails: level them (`cpuid` in xl.cfg).",
            ),
        }
    }

    fn memory(&self, host: &str, here: &Here) -> Finding {
        let Some(free) = self.info.free else {
            return Finding::warning(
                "memory",
                format!("{host} does not say how much memory is free"),
                format!("`ssh {host} xl info` shows it."),
            );
        };
        let mib = free >> 20;
        let too_large = here.guests.iter().filter(|guest| guest.memory > free);
        let names: Vec<&str> = too_large.map(|guest| guest.name.as_str()).collect();
        match names.as_slice() {
            [] => Finding::ok(
                "memory",
                format!("{mib} MiB are free there, for any guest here"),
            ),
            names => Finding::warning(
                "memory",
                format!(
                    "{mib} MiB are free there: too little for {}",
                    names.join(", ")
                ),
                "Make room there: `xl mem-set 0 SIZE`, or move its guests elsewhere.",
            ),
        }
    }

    fn landing(&self, host: &str) -> Finding {
        let cure = "Install this lull there too: a pause there is then a fraction of what it is.";
        match serde_json::from_str::<Greeting>(&self.land) {
            Ok(greeting) if greeting.common().is_some() => Finding::ok(
                "fast landing",
                format!(
                    "lull {} answers at {host}: guests can land fast",
                    greeting.lull
                ),
            ),
            Ok(greeting) => Finding::warning(
                "fast landing",
                format!(
                    "lull {} at {host} and this one do not understand each other: guests land the classic way",
                    greeting.lull
                ),
                cure,
            ),
            Err(_) => Finding::warning(
                "fast landing",
                format!("no lull answers at {host}: guests land the classic way"),
                cure,
            ),
        }
    }

    /// Whether the guests that need `vif-lull` find it at the destination, if any guest
    /// does.
    fn interfaces(&self, host: &str, here: &Here) -> Option<Finding> {
        let wanting = here.guests.iter().filter(|guest| guest.wants_vif_lull);
        let names: Vec<&str> = wanting.map(|guest| guest.name.as_str()).collect();
        if names.is_empty() {
            return None;
        }
        Some(match self.has_vif_lull {
            true => Finding::ok(
                "interfaces",
                format!("{host} has the vif-lull that guests here were started with"),
            ),
            false => Finding::warning(
                "interfaces",
                format!(
                    "{host} has no vif-lull, which must attach the interfaces of {}",
                    names.join(", ")
                ),
                "Until then it refuses them: `lull enable vif` there.",
            ),
        })
    }

    fn name_clash(&self, host: &str, here: &Here) -> Finding {
        let ours = here.guests.iter().map(|guest| guest.name.as_str());
        let both: Vec<&str> = ours
            .filter(|name| self.names.iter().any(|theirs| theirs == name))
            .collect();
        match both.as_slice() {
            [] => Finding::ok("names", "no guest there has the name of one here"),
            both => Finding::warning(
                "names",
                format!(
                    "{host} has a guest of that name already: {}",
                    both.join(", ")
                ),
                "Rename one: `xl rename`. If they are the same guest, one must go.",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::guests::Seen;
    use super::*;
    use lull_store::ledger::Machine;

    #[test]
    fn a_greeting_and_a_key_that_only_receives_are_known() {
        let of = Answer::of;
        let answer = "lull: there\nboot: 1\n";
        let plain = Answer::Ours {
            greeting: None,
            answer,
        };
        assert_eq!(of(answer), plain);
        let greeted = format!("\nwelcome to host2\n{answer}");
        let greeting = Some("welcome to host2");
        assert_eq!(of(&greeted), Answer::Ours { greeting, answer });
        let receives = "xl migration receiver ready, send binary domain data.\n";
        assert_eq!(of(receives), Answer::OnlyReceives);
        assert_eq!(
            of("This account is not available.\n"),
            Answer::AnothersWords
        );
        assert_eq!(of(""), Answer::AnothersWords);
    }
    use lull_base::fuzz::any_bytes;

    const ANSWER: &str = "lull: there\nboot: b-1\nuid: 0\nxl: /usr/sbin/xl\ninfo:\n\
        hw_caps : 1:2\nfree_memory : 100\nxen_major : 4\nxen_minor : 17\n\
        xen_caps : hvm-3.0-x86_64\nlist:\nName   ID\nDomain-0   0\nweb1   3\n";

    fn here() -> Here {
        let guest = |name: &str, mib: u64| Seen {
            machine: Machine::Plain,
            name: name.to_owned(),
            memory: mib << 20,
            frames: mib << 8,
            wants_vif_lull: name == "big",
        };
        Here {
            info: XlInfo {
                version: Some((4, 17)),
                processor: "1:2".to_owned(),
                ..XlInfo::default()
            },
            guests: vec![guest("web1", 50), guest("big", 500)],
        }
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let there = There::parse(ANSWER);
        assert_eq!(there.boot, "b-1");
        assert!(there.is_root && there.xl == "/usr/sbin/xl");
        assert_eq!(there.info.version, Some((4, 17)));
        assert_eq!(there.names, ["Domain-0", "web1"]);
        let there = There::parse("lull: there\nuid: 1000\nxl:\ninfo:\nlist:\n");
        assert!(!there.is_root && there.xl.is_empty() && there.names.is_empty());
    }

    #[test]
    fn what_concerns_one_guest_names_it() {
        let there = There::parse(ANSWER);
        let memory = there.memory("host2", &here());
        assert_eq!(memory.level, Level::Warning);
        assert!(memory.found.ends_with("for big"), "{memory:?}");
        let names = there.name_clash("host2", &here());
        assert!(names.found.ends_with(": web1"), "{names:?}");
        let lacks = there.interfaces("host2", &here()).unwrap();
        assert!(lacks.level == Level::Warning && lacks.found.ends_with("of big"));
        let has = ANSWER.replace("\ninfo:", "\nvif-lull: there\ninfo:");
        let has = There::parse(&has).interfaces("host2", &here()).unwrap();
        assert_eq!(has.level, Level::Ok);
        let same = there.processor("host2", &here());
        assert_eq!(same.level, Level::Ok);
    }

    #[test]
    fn whether_guests_land_fast_is_told() {
        let level = |land: &str| {
            let answer = ANSWER.replace("info:", &format!("land: {land}\ninfo:"));
            There::parse(&answer).landing("host2").level
        };
        assert_eq!(level(r#"{"land":[1,2],"lull":"0.3.0"}"#), Level::Ok);
        assert_eq!(level(r#"{"land":[99,99],"lull":"0.3.0"}"#), Level::Warning);
        assert_eq!(level(""), Level::Warning);
    }

    #[test]
    fn no_guest_goes_to_an_older_xen() {
        let there = There::parse(&ANSWER.replace("minor : 17", "minor : 16"));
        let found = there.xen((4, 16), "host2", &here());
        assert_eq!(found.level, Level::Problem);
        assert_eq!(there.xen((4, 18), "host2", &here()).level, Level::Ok);
    }

    /// The output of the destination may contain any bytes.
    #[test]
    fn any_bytes_are_an_answer() {
        let sample =
            b"boot:x\nuid:0\nxl:/usr/sbin/xl\ninfo:\nxen_major : 4\nlist:\nName ID\nweb1 3\n";
        any_bytes(&[sample], |bytes| {
            drop(There::parse(&String::from_utf8_lossy(bytes)));
        });
    }
}
