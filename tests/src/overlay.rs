//! What belongs to one boot: keys made for it, and the programs of the working
//! tree. Linux unpacks concatenated archives one over the other, so the cached
//! image stays as it is.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cpio::Archive;
use crate::shell_out::output_of;

/// A file to lay over dom0's image.
pub struct Extra {
    /// Where dom0 finds it, without the leading slash. The folder exists.
    pub path: &'static str,
    /// Its permissions.
    pub mode: u32,
    /// Where it comes from.
    pub source: PathBuf,
}

/// The key with which the rig, and dom0 itself, log in to dom0.
pub struct Keys {
    /// The private key's file.
    pub private: PathBuf,
    /// A file that names dom0's host key for `localhost` and `rig`.
    pub known_hosts: PathBuf,
}

/// Writes dom0's initramfs for one boot to `target`, and the keys beside it.
pub fn write(base: &Path, extras: &[Extra], target: &Path) -> Result<Keys> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let login = folder.join("id_ed25519");
    let host = folder.join("ssh_host_ed25519_key");
    for (key, comment) in [(&login, "rig"), (&host, "dom0")] {
        output_of(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
                .arg(key),
        )?;
    }
    let login_public = fs::read(login.with_extension("pub"))?;
    let host_public = fs::read_to_string(host.with_extension("pub"))?;
    let known = format!("rig,localhost,dest,127.0.0.1,127.0.0.2 {host_public}");
    let known_hosts = folder.join("known_hosts");
    fs::write(&known_hosts, &known)?;

    let mut out = BufWriter::new(File::create(target)?);
    io::copy(&mut File::open(base)?, &mut out)?;
    let mut archive = Archive::new(out);
    archive.file("root/.ssh/authorized_keys", 0o600, &login_public)?;
    archive.file("root/.ssh/id_ed25519", 0o600, &fs::read(&login)?)?;
    archive.file("root/.ssh/known_hosts", 0o600, known.as_bytes())?;
    archive.file("etc/ssh/ssh_host_ed25519_key", 0o600, &fs::read(&host)?)?;
    for extra in extras {
        archive.file(extra.path, extra.mode, &fs::read(&extra.source)?)?;
    }
    archive.finish()?;
    Ok(Keys {
        private: login,
        known_hosts,
    })
}
