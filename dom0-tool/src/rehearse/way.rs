//! The way to the destination and back, which runs nothing but stock Xen and
//! need not be able to reach this host: everything goes over the connection
//! that is made from here.

use std::ffi::OsStr;
use std::io::{self, PipeReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::scene::SUFFIXES;
use crate::migrate::inbox::{Inbox, Message};
use crate::migrate::lines::each_line;
use crate::migrate::transport::quoted;
use crate::migrate::words::Words;
use crate::migrate::xl::{deaf, deaf_shell};

/// How long the guest may take to come back.
const COMING_BACK: Duration = Duration::from_secs(120);

/// How long one end of the connection may outlive the other.
const FOLLOWING: Duration = Duration::from_secs(10);

/// How long the destination may take to clear up.
const CLEARING: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What ssh is told besides where nobody is to be asked for a password.
pub const BATCH: &str = "-o BatchMode=yes -o ConnectTimeout=15";

/// How xl is told to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Shell text, as after xl's `-s`.
    ssh: String,
    /// The destination; without ssh, the command that leads there.
    host: String,
}

/// Why the guest did not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBack {
    /// A sentence without a full stop.
    Failed(String),
    /// The operator stopped it.
    Cancelled,
}

impl Way {
    /// As `lull migrate` takes them.
    pub fn new(ssh: Option<&str>, host: &str) -> Self {
        Self {
            ssh: ssh.unwrap_or("ssh").to_owned(),
            host: host.to_owned(),
        }
    }

    /// The destination, as the operator named it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether commands can be given there: a command that is only good for
    /// `xl migrate-receive` leads nowhere else.
    pub fn takes_commands(&self) -> bool {
        !self.ssh.is_empty()
    }

    /// The same way, on which ssh asks nobody for anything.
    pub fn without_a_terminal(&self) -> Self {
        let ssh = match self.ssh.split_whitespace().next() {
            Some("ssh") => format!("{} {BATCH}", self.ssh),
            _ => self.ssh.clone(),
        };
        Self {
            ssh,
            host: self.host.clone(),
        }
    }

    /// A shell's command line that runs `script` there. Neither signals of the
    /// terminal nor another kind of login shell change what it does.
    fn line(&self, script: &str) -> String {
        let script = format!("exec sh -c {}", word(script));
        format!("exec {} {} {}", self.ssh, self.host, word(&script))
    }

    /// What runs `script` there.
    pub fn command(&self, script: &str) -> Command {
        deaf_shell(&self.line(script))
    }

    /// Removes the guest there, whatever it is called by now.
    ///
    /// # Errors
    /// When it cannot be said that it is gone.
    pub fn clear(&self, name: &str, uuid: &str) -> anyhow::Result<()> {
        if !self.takes_commands() {
            anyhow::bail!("a command was given instead of a host");
        }
        let mut child = self
            .command(&clearing(name, uuid))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("no shell could be started")?;
        let status = wait(&mut child, Instant::now() + CLEARING);
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => anyhow::bail!("it could not be removed there: {status}"),
            None => anyhow::bail!("no answer from there"),
        }
    }

    /// Brings the guest back: stock xl there sends, stock xl here receives.
    ///
    /// # Errors
    /// Why it did not come. Nothing of the attempt goes on here then; it may
    /// for a moment there.
    pub fn bring_back(
        &self,
        name: &str,
        uuid: &str,
        xl: &Path,
        inbox: &Inbox,
    ) -> Result<(), NotBack> {
        let mut back = Back::start(self, name, uuid, xl).map_err(|error| {
            NotBack::Failed(format!("the way back could not be begun: {error}"))
        })?;
        let ended = back.watch(inbox);
        back.stop();
        match ended {
            Ended::Both(sender, receiver) if sender.success() && receiver.success() => Ok(()),
            Ended::Both(..) => Err(NotBack::Failed(back.words())),
            Ended::TooLate => Err(NotBack::Failed(format!(
                "it did not come within {} s",
                COMING_BACK.as_secs()
            ))),
            Ended::Cancelled => Err(NotBack::Cancelled),
        }
    }
}

/// What runs there to send the guest. The connection's input and output are
/// kept on descriptors 3 and 4, out of xl's way, and xl's transport is two cats
/// between them and itself. A background job has its input elsewhere, unless
/// told so.
///
/// A guest that could not be sent is destroyed at once: the xl that looked
/// after it left when it was suspended, and the connection may have broken.
fn sending(name: &str, uuid: &str) -> String {
    let relay = word("cat <&3 4>&- & exec cat >&4 3<&-");
    format!(
        "exec 3<&0 4>&1 >&2 </dev/null\n\
         xl migrate -s '' {name} {relay} && exit\n\
         exec 3<&- 4>&- >/dev/null 2>&1\n\
         ({})\n\
         exit 1",
        clearing(name, uuid)
    )
}

/// What runs there to remove it, and the logs that xl and xenconsoled keep for
/// each name. Nobody else's guest, whatever that is called.
fn clearing(name: &str, uuid: &str) -> String {
    let names = SUFFIXES.map(|end| format!("{name}{end}"));
    let ours = names.each_ref().map(|name| format!("{uuid}/{name}"));
    format!(
        "all=$(xl vm-list </dev/null) || exit 1\n\
         r=0\n\
         while read -r uuid id name; do\n\
         case $uuid/$name in {}) xl destroy $id </dev/null || r=1 ;; esac\n\
         done <<end\n\
         $all\n\
         end\n\
         for n in {}; do\n\
         rm -f /var/log/xen/xl-$n.log* /var/log/xen/guest-$n.log* /var/log/xen/console/guest-$n.log*\n\
         done\n\
         exit $r",
        ours.join("|"),
        names.join(" "),
    )
}

fn word(text: &str) -> String {
    quoted(OsStr::new(text)).to_string_lossy().into_owned()
}

fn wait(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    while Instant::now() < until {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The way back, under way.
struct Back {
    sender: Child,
    receiver: Child,
    said: Receiver<String>,
}

enum Ended {
    /// The sender, the receiver.
    Both(ExitStatus, ExitStatus),
    TooLate,
    Cancelled,
}

impl Back {
    fn start(way: &Way, name: &str, uuid: &str, xl: &Path) -> io::Result<Self> {
        let (words, for_words) = io::pipe()?;
        let mut sender = way
            .command(&sending(name, uuid))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(for_words.try_clone()?)
            .spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let input = sender.stdin.take().ok_or_else(missing)?;
        let output = sender.stdout.take().ok_or_else(missing)?;
        let receiver = deaf(xl)
            .arg("migrate-receive")
            .stdin(output)
            .stdout(input)
            .stderr(for_words)
            .spawn();
        match receiver {
            Ok(receiver) => Ok(Self {
                sender,
                receiver,
                said: listen(words),
            }),
            Err(error) => {
                let _ = sender.kill();
                let _ = sender.wait();
                Err(error)
            }
        }
    }

    fn watch(&mut self, inbox: &Inbox) -> Ended {
        let until = Instant::now() + COMING_BACK;
        let mut one_ended = None;
        loop {
            let sender = self.sender.try_wait().ok().flatten();
            let receiver = self.receiver.try_wait().ok().flatten();
            if let (Some(sender), Some(receiver)) = (sender, receiver) {
                return Ended::Both(sender, receiver);
            }
            if sender.is_some() || receiver.is_some() {
                let since = *one_ended.get_or_insert_with(Instant::now);
                if since.elapsed() >= FOLLOWING {
                    self.stop();
                }
            }
            if Instant::now() >= until {
                return Ended::TooLate;
            }
            if matches!(inbox.next(LOOK), Some(Message::Stop)) {
                return Ended::Cancelled;
            }
        }
    }

    /// The sender first: the receiver then finds its input at an end, and
    /// destroys what it has built.
    fn stop(&mut self) {
        let _ = self.sender.kill();
        let _ = self.sender.wait();
        wait(&mut self.receiver, Instant::now() + FOLLOWING);
    }

    /// What was said of the reason.
    fn words(&self) -> String {
        let mut words = Words::default();
        while let Ok(line) = self.said.recv_timeout(LOOK) {
            words.push(&line);
        }
        let telling = words.telling();
        match telling.is_empty() {
            true => "xl failed without a word".to_owned(),
            false => telling.join(" / "),
        }
    }
}

/// Reads all that is said, so that nobody waits to say it.
fn listen(words: PipeReader) -> Receiver<String> {
    let (line, said) = channel();
    thread::spawn(move || each_line(words, |text| drop(line.send(text.to_owned()))));
    said
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// An `xl` that exchanges a word with its transport, as sender or receiver.
    const XL: &str = r#"#!/bin/sh
case "$1" in
migrate)
    [ "$2 $3 $4" = "-s  name" ] || exit 9
    mkfifo "$0.up" "$0.down"
    sh -c "$5" <"$0.up" >"$0.down" & transport=$!
    exec 8>"$0.up" 9<"$0.down"
    echo stream >&8; read answer <&9
    exec 8>&-; wait $transport
    [ "$answer" = ready ] ;;
migrate-receive)
    read stream; echo "got $stream" >&2; echo ready
    [ "$stream" = stream ] ;;
*) exit 8 ;;
esac
"#;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// An ssh that does here what it should do there.
    fn way(folder: &Path) -> Way {
        let there = format!(
            "#!/bin/sh\nhost=$1; shift; PATH={}:$PATH; [ $host = host2 ] && exec sh -c \"$*\"\n",
            folder.display()
        );
        let ssh = script(folder, "ssh", &there);
        Way::new(Some(&ssh.display().to_string()), "host2")
    }

    #[test]
    fn stream_and_answer_cross_between_the_two() {
        let folder = tempfile::tempdir().unwrap();
        let xl = script(folder.path(), "xl", XL);
        let way = way(folder.path());
        assert_eq!(way.bring_back("name", "u-1", &xl, &Inbox::new()), Ok(()));
    }

    #[test]
    fn what_went_wrong_there_is_told_here() {
        let folder = tempfile::tempdir().unwrap();
        let xl = script(
            folder.path(),
            "xl",
            "#!/bin/sh\necho no such domain >&2; exit 1\n",
        );
        let said = way(folder.path()).bring_back("name", "u-1", &xl, &Inbox::new());
        let Err(NotBack::Failed(why)) = said else {
            panic!("{said:?}");
        };
        assert!(why.contains("no such domain"), "{why}");
    }

    #[test]
    fn the_operator_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let xl = script(folder.path(), "xl", "#!/bin/sh\nexec sleep 60\n");
        let inbox = Inbox::new();
        inbox.ask_to_stop();
        let begun = Instant::now();
        let said = way(folder.path()).bring_back("name", "u-1", &xl, &inbox);
        assert_eq!(said, Err(NotBack::Cancelled));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_is_there_under_any_of_its_names_is_destroyed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let text = format!(
            "#!/bin/sh
case $1 in
destroy) echo $2 >>{} ;;
vm-list) echo 'UUID                                  ID    name
u-1   3    name
u-2   4    name
u-1   5    name--migratedaway
u-1   6    name2
u-3   7    web1' ;;
esac
",
            said.display()
        );
        script(folder.path(), "xl", &text);
        way(folder.path()).clear("name", "u-1").unwrap();
        assert_eq!(fs::read_to_string(&said).unwrap(), "3\n5\n");
    }

    #[test]
    fn a_guest_that_cannot_be_sent_is_destroyed_there() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let text = format!(
            "#!/bin/sh
case $1 in
destroy) echo $2 >>{} ;;
vm-list) echo 'u-1   3    name' ;;
*) exit 1 ;;
esac
",
            said.display()
        );
        let xl = script(folder.path(), "xl", &text);
        let back = way(folder.path()).bring_back("name", "u-1", &xl, &Inbox::new());
        assert!(matches!(back, Err(NotBack::Failed(_))));
        assert_eq!(fs::read_to_string(&said).unwrap(), "3\n");
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_called_gone() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "xl", "#!/bin/sh\nexit 1\n");
        assert!(way(folder.path()).clear("name", "u-1").is_err());
    }

    #[test]
    fn a_command_instead_of_a_host_takes_no_others() {
        assert!(!Way::new(Some(""), "xl migrate-receive").takes_commands());
        assert!(Way::new(None, "host2").takes_commands());
        assert!(Way::new(Some(""), "true").clear("name", "u-1").is_err());
    }
}
