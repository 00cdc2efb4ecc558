//! Runs commands in dom0 over one shared ssh connection, because each new connection costs
//! a key exchange under emulation.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The result of a command.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status; ssh also uses 255 when the connection breaks.
    pub status: i32,
    /// The standard output of the command.
    pub stdout: String,
    /// The standard error of the command.
    pub stderr: String,
}

impl Output {
    /// Checks whether the command exited with zero.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Returns the standard output if the command succeeded.
    ///
    /// # Errors
    /// With the output of the command, if it failed.
    pub fn checked(self) -> Result<String> {
        if self.success() {
            Ok(self.stdout)
        } else {
            bail!(
                "status {}: {}{}",
                self.status,
                self.stdout.trim_end(),
                self.stderr.trim_end()
            )
        }
    }
}

/// The ssh connection to dom0.
pub struct Connection {
    port: u16,
    key: PathBuf,
    known_hosts: PathBuf,
    control: PathBuf,
    master: Option<Child>,
    spawned: AtomicU32,
}

impl Connection {
    /// Returns a connection that is not open yet. `folder` takes its control socket; its
    /// path must be short (a socket's path is limited to 108 bytes).
    pub fn new(port: u16, key: &Path, known_hosts: &Path, folder: &Path) -> Self {
        Self {
            port,
            key: key.to_owned(),
            known_hosts: known_hosts.to_owned(),
            control: folder.join("ssh"),
            master: None,
            spawned: AtomicU32::new(0),
        }
    }

    /// Opens the connection that all commands share.
    pub fn open(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut command = self.ssh();
        command
            .args(["-o", "ControlMaster=yes", "-N", "rig"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut master = command.spawn().context("cannot start ssh")?;
        while !self.control.exists() {
            if let Some(status) = master.try_wait()? {
                let mut words = String::new();
                if let Some(mut stderr) = master.stderr.take() {
                    stderr.read_to_string(&mut words)?;
                }
                bail!("ssh to dom0: {status}: {}", words.trim());
            }
            if Instant::now() > deadline {
                let _ = master.kill();
                let _ = master.wait();
                bail!("ssh to dom0 took more than {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.master = Some(master);
        Ok(())
    }

    /// Returns the command line with which a person logs in.
    pub fn for_people(&self) -> String {
        format!(
            "ssh -p {} -i {} -o UserKnownHostsFile={} -o HostKeyAlias=rig root@127.0.0.1",
            self.port,
            self.key.display(),
            self.known_hosts.display()
        )
    }

    /// Runs a shell command to its end.
    ///
    /// # Errors
    /// When it takes longer than `limit` (it is then killed in dom0, with all processes
    /// that it started) or ssh cannot be started. A command that fails is not an error
    /// here; see [`Output::checked`].
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output> {
        let mut running = self.spawn(command)?;
        match running.wait(limit)? {
            Some(output) => Ok(output),
            None => {
                running.kill();
                let output = running.wait(Duration::from_secs(5))?;
                bail!(
                    "`{command}` took more than {} s; until then: {output:?}",
                    limit.as_secs()
                )
            }
        }
    }

    /// Starts a shell command in the background.
    pub fn spawn(&self, command: &str) -> Result<Spawned<'_>> {
        let number = self.spawned.fetch_add(1, Ordering::Relaxed);
        let pid_file = format!("/run/rig/job-{number}");
        // The command gets its own session, so that a kill reaches all processes that it
        // started.
        let wrapped = format!(
            "setsid -w sh -c {}; s=$?; rm -f {pid_file}; exit $s",
            quote(&format!("echo $$ >{pid_file}; {command}"))
        );
        let mut ssh = self
            .ssh()
            .arg("rig")
            .arg(wrapped)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start ssh")?;
        let stdout = Drain::of(ssh.stdout.take());
        let stderr = Drain::of(ssh.stderr.take());
        Ok(Spawned {
            connection: self,
            pid_file,
            ssh,
            stdout,
            stderr,
        })
    }

    /// Copies a file into dom0, with its permissions.
    pub fn put(&self, local: &Path, remote: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::File::open(local)
            .with_context(|| format!("cannot read {}", local.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let target = quote(remote);
        let status = self
            .ssh()
            .arg("rig")
            .arg(format!(
                "cat >{target}.part && chmod {mode:o} {target}.part && mv {target}.part {target}"
            ))
            .stdin(file)
            .status()
            .context("cannot start ssh")?;
        if !status.success() {
            bail!("cannot put {} to {remote}", local.display());
        }
        Ok(())
    }

    /// Copies a file out of dom0.
    pub fn get(&self, remote: &str, local: &Path) -> Result<()> {
        let file = std::fs::File::create(local)
            .with_context(|| format!("cannot write {}", local.display()))?;
        let status = self
            .ssh()
            .arg("rig")
            .arg(format!("cat {}", quote(remote)))
            .stdin(Stdio::null())
            .stdout(file)
            .status()
            .context("cannot start ssh")?;
        if !status.success() {
            bail!("cannot get {remote}");
        }
        Ok(())
    }

    fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-F").arg("none");
        command.args(["-p", &self.port.to_string(), "-i"]);
        command.arg(&self.key);
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts.display());
        let control = format!("ControlPath={}", self.control.display());
        for option in [
            known_hosts.as_str(),
            control.as_str(),
            "HostName=127.0.0.1",
            "HostKeyAlias=rig",
            "User=root",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            "ServerAliveInterval=30",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(mut master) = self.master.take() {
            let _ = master.kill();
            let _ = master.wait();
        }
    }
}

/// A command that runs in dom0. It is killed there when this is dropped.
pub struct Spawned<'a> {
    connection: &'a Connection,
    pid_file: String,
    ssh: Child,
    stdout: Drain,
    stderr: Drain,
}

impl Spawned<'_> {
    /// Waits for the end of the command; `None` when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<Output>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ssh.try_wait()? {
                return Ok(Some(Output {
                    status: status.code().unwrap_or(-1),
                    stdout: self.stdout.read_to_end(),
                    stderr: self.stderr.read_to_end(),
                }));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns what the command has written to its standard output so far.
    pub fn stdout_so_far(&self) -> String {
        self.stdout.so_far()
    }

    /// Returns what the command has written to its standard error so far.
    pub fn stderr_so_far(&self) -> String {
        self.stderr.so_far()
    }

    /// Asks the command, and all processes that it started, to end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Kills the command and all processes that it started.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// Sends a signal to the command and all processes that it started.
    pub fn signal(&self, name: &str) {
        let pid_file = &self.pid_file;
        let _ = self
            .connection
            .ssh()
            .arg("rig")
            .arg(format!(
                "test -f {pid_file} && kill -{name} -- -$(cat {pid_file})"
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Spawned<'_> {
    fn drop(&mut self) {
        if matches!(self.ssh.try_wait(), Ok(None)) {
            self.kill();
            let _ = self.ssh.kill();
            let _ = self.ssh.wait();
        }
    }
}

/// Quotes a word for a shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Reads a pipe to its end in a thread, so that a command with much output never blocks.
struct Drain {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Drain {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                if let Ok(mut bytes) = sink.lock() {
                    bytes.extend(&chunk[..length]);
                }
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn so_far(&self) -> String {
        let bytes = self.bytes.lock().map(|bytes| bytes.clone());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    fn read_to_end(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            // The thread ends with the pipe, and its result holds no information.
            let _ = reader.join();
        }
        self.so_far()
    }
}
