//! Runs commands on another host as ssh does, but without ssh, because under emulation its
//! encryption takes ten times as long as everything else.
//!
//! The caller sends a line with the command, followed by its standard input. The answer
//! consists of frames: one byte for the kind, four for the length (little endian), and the
//! content.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::streams::pump;

/// The TCP port on which commands are accepted.
const PORT: u16 = 7514;

/// The number of bytes read at a time.
const CHUNK: usize = 64 << 10;

/// The kinds of frames.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;

/// The exit code of ssh when its connection breaks.
const BROKEN: u8 = 255;

/// Runs a shell command at the host, and exits as that does.
pub fn call(host: &str, words: &[&str]) -> Result<ExitCode> {
    let mut to = TcpStream::connect((host, PORT)).with_context(|| format!("no way to {host}"))?;
    to.write_all(format!("{}\n", words.join(" ")).as_bytes())?;
    let mut from = to.try_clone()?;
    thread::spawn(move || {
        // The end of the input is passed on; a host that no longer listens ends the copy
        // too.
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

/// Serves the commands of callers until it is killed.
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
    // `io::copy` is not used here. It splices a socket into a pipe, and while it waits for
    // the socket, nothing can read from the pipe.
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
        // The output is read to its end in any case, so that a command does not die with
        // its caller.
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
