//! Clients of a control socket as nobody wants them: garbage, silence, and
//! watchers that never read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// Between two pieces of garbage.
const PAUSE: Duration = Duration::from_millis(5);

const WATCH: &[u8] = b"{\"schema\":1,\"command\":\"watch\"}\n";

const GARBAGE: [&[u8]; 4] = [
    b"\n",
    b"{\"schema\":1,\"command\":\"",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    &[b'x'; 9_000],
];

/// Annoys until the socket has gone; prints how often.
pub fn run(folder: &Path) -> Result<()> {
    let mut kept = Vec::new();
    let mut told = 0_u64;
    while let Some(socket) = socket_in(folder) {
        let garbage = GARBAGE[told as usize % GARBAGE.len()];
        if let Ok(mut client) = UnixStream::connect(&socket) {
            client.set_nonblocking(true)?;
            if told < 4 {
                // Silent, or a watcher; neither ever reads.
                let _ = client.write(if told < 2 { b"" } else { WATCH });
                kept.push(client);
            } else {
                let _ = client.write(garbage);
            }
            told += 1;
        }
        thread::sleep(PAUSE);
    }
    println!("{told}");
    Ok(())
}

/// There are also files that are none.
fn socket_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    Some(entries.into_iter().find(is_socket)?.path())
}
