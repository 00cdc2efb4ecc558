//! Commands on another host as ssh runs them, without ssh: under emulation its
//! encryption takes ten times as long as everything else.
//!
//! The caller sends a line with the command, and then its standard input. Back
//! come frames: a byte for their kind, four for their length (little endian),
//! and their content.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::streams::pump;

/// Where commands are taken.
const PORT: u16 = 7514;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;

/// Kinds of frames.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;

/// What ssh exits with when its connection breaks.
const BROKEN: u8 = 255;

/// Runs a shell command at the host, and ends as it does.
pub fn call(host: &str, words: &[&str]) -> Result<ExitCode> {
    let mut to = TcpStream::connect((host, PORT)).with_context(|| format!("no way to {host}"))?;
    to.write_all(format!("{}\n", words.join(" ")).as_bytes())?;
    let mut from = to.try_clone()?;
    thread::spawn(move || {
        // Its end is passed on; so is that of a host which listens no more.
        let _ = pump(io::stdin(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    loop {
        let mut header = [0; 5];
        if from.read_exact(&mut header).is_err() {
            return Ok(BROKEN.into());
        }
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if length > CHUNK {
            bail!("{host} sends what is no frame");
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        let passed_on = match header[0] {
            STDOUT => io::stdout()
                .write_all(&content)
                .and_then(|()| io::stdout().flush()),
            STDERR => io::stderr().write_all(&content),
            EXIT => return Ok(content.first().copied().unwrap_or(BROKEN).into()),
            _ => bail!("{host} sends what is no frame"),
        };
        match passed_on {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
}

/// Runs what callers ask for, until it is killed.
pub fn answer() -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    for caller in listener.incoming().flatten() {
        thread::spawn(move || {
            if let Err(error) = run(caller) {
                eprintln!("rig-agent: {error:#}");
            }
        });
    }
    Ok(())
}

fn run(caller: TcpStream) -> Result<()> {
    let to = Arc::new(Mutex::new(caller.try_clone()?));
    let mut from = BufReader::new(caller);
    let mut command = String::new();
    from.read_line(&mut command)?;
    let mut child = Command::new("sh")
        .args(["-c", command.trim_end()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take().context("no standard input")?;
    // Not by `io::copy`, which splices a socket into a pipe: while that waits for
    // the socket nobody can read from the pipe.
    thread::spawn(move || pump(from, stdin));
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let errors = thread::spawn({
        let to = Arc::clone(&to);
        move || pass_on(STDERR, stderr, &to)
    });
    pass_on(STDOUT, stdout, &to);
    let _ = errors.join();
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    frame(EXIT, &[code.unwrap_or(BROKEN)], &to)?;
    Ok(())
}

fn pass_on(kind: u8, mut from: impl Read, to: &Mutex<TcpStream>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        // Read to its end all the same: a command does not die of its caller.
        let _ = frame(kind, &chunk[..length], to);
    }
}

fn frame(kind: u8, content: &[u8], to: &Mutex<TcpStream>) -> io::Result<()> {
    let mut bytes = vec![kind];
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    let mut to = to.lock().map_err(|_| io::Error::other("poisoned"))?;
    to.write_all(&bytes)
}
