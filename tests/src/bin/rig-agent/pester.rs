//! Hostile clients of a control socket: they send garbage, stay silent, or watch and never
//! read.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// The interval between two pieces of garbage.
const PAUSE: Duration = Duration::from_millis(5);

const WATCH: &[u8] = b"{\"schema\":1,\"command\":\"watch\"}\n";

const GARBAGE: [&[u8]; 4] = [
    b"\n",
    b"{\"schema\":1,\"command\":\"",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
    &[b'x'; 9_000],
];

/// Sends garbage until the socket is gone, and prints the number of connections.
pub fn run(folder: &Path) -> Result<()> {
    let mut kept = Vec::new();
    let mut sent = 0_u64;
    while let Some(socket) = socket_in(folder) {
        let garbage = GARBAGE[sent as usize % GARBAGE.len()];
        if let Ok(mut client) = UnixStream::connect(&socket) {
            client.set_nonblocking(true)?;
            if sent < 4 {
                // These clients are silent or watch; neither ever reads.
                let _ = client.write(if sent < 2 { b"" } else { WATCH });
                kept.push(client);
            } else {
                let _ = client.write(garbage);
            }
            sent += 1;
        }
        thread::sleep(PAUSE);
    }
    println!("{sent}");
    Ok(())
}

/// Returns the path of a socket in the folder, which also holds other files.
fn socket_in(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let is_socket = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
    Some(entries.into_iter().find(is_socket)?.path())
}
