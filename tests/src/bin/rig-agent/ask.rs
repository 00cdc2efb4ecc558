//! Sends one line to a guest and reads one line back.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Sends the line and prints the answer. Keeps trying to connect for that many seconds.
pub fn run(address: &str, line: &str, seconds: u64) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut stream = connect(address, deadline)?;
    stream.set_read_timeout(Some(Duration::from_secs(seconds.max(1))))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("no answer")?;
    if answer.is_empty() {
        bail!("the connection was closed without an answer");
    }
    print!("{answer}");
    Ok(())
}

fn connect(address: SocketAddr, deadline: Instant) -> Result<TcpStream> {
    loop {
        match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot connect to {address}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}
