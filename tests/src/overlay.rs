//! The files of one boot: keys that are made for it, and the programs of the working tree.
//! Linux unpacks concatenated archives one over the other, so the cached image stays
//! unchanged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::Result;

use crate::cpio::Archive;
use crate::dom0_image::MOST_HOSTS;
use crate::shell_out::output_of;

/// A file that is laid over dom0's image.
pub struct Extra {
    /// The path in dom0, without the leading slash. The folder must exist.
    pub path: &'static str,
    /// The file's permissions.
    pub mode: u32,
    /// The path of the file on this machine.
    pub source: PathBuf,
}

/// The rig's own files in dom0. They are not part of the image, because the image takes
/// minutes to make.
const OWN: [(&str, u32, &str); 4] = [
    ("init", 0o755, include_str!("../dom0/init")),
    // These files configure a host that is not as Debian installs it; see `init`.
    (
        "usr/local/etc/sshd_config",
        0o644,
        include_str!("../dom0/sshd_config"),
    ),
    (
        "usr/local/etc/ssh_config",
        0o644,
        include_str!("../dom0/ssh_config"),
    ),
    ("usr/local/etc/xl.conf", 0o644, "autoballoon=\"0\"\n"),
];

/// The files with the keys of one host.
pub struct Keys {
    /// The private key with which the rig, and each host, logs in to dom0.
    pub private: PathBuf,
    /// A known_hosts file that lists dom0's host key under all its names.
    pub known_hosts: PathBuf,
}

/// The keys of all hosts of this process, which log in to each other. They are made once.
struct KeyPairs {
    login: Vec<u8>,
    login_public: Vec<u8>,
    host: Vec<u8>,
    host_public: String,
}

impl KeyPairs {
    fn of_this_process() -> Result<&'static Self> {
        static PAIRS: Mutex<Option<&'static KeyPairs>> = Mutex::new(None);
        let mut pairs = PAIRS
            .lock()
            .map_err(|_| anyhow::anyhow!("no keys can be made"))?;
        if let Some(pairs) = *pairs {
            return Ok(pairs);
        }
        let made: &Self = Box::leak(Box::new(Self::make()?));
        Ok(*pairs.insert(made))
    }

    fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let pair = |name: &str| -> Result<(Vec<u8>, Vec<u8>)> {
            let key = folder.path().join(name);
            output_of(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                    .arg(&key),
            )?;
            Ok((fs::read(&key)?, fs::read(key.with_extension("pub"))?))
        };
        let (login, login_public) = pair("rig")?;
        let (host, host_public) = pair("dom0")?;
        Ok(Self {
            login,
            login_public,
            host,
            host_public: String::from_utf8(host_public)?,
        })
    }
}

/// Writes dom0's initramfs for one boot to `target`, and the keys into the same folder.
pub fn write(base: &Path, extras: &[Extra], target: &Path) -> Result<Keys> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let pairs = KeyPairs::of_this_process()?;
    let login = folder.join("id_ed25519");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&login)?;
    file.write_all(&pairs.login)?;
    let mut names = String::from("rig,localhost,dest,127.0.0.1,127.0.0.2");
    for number in 1..=MOST_HOSTS {
        names.push_str(&format!(",host{number},10.77.0.{number}"));
    }
    let known = format!("{names} {}", pairs.host_public);
    let known_hosts = folder.join("known_hosts");
    fs::write(&known_hosts, &known)?;

    let mut out = BufWriter::new(File::create(target)?);
    io::copy(&mut File::open(base)?, &mut out)?;
    let mut archive = Archive::new(out);
    archive.file("root/.ssh/authorized_keys", 0o600, &pairs.login_public)?;
    archive.file("root/.ssh/id_ed25519", 0o600, &pairs.login)?;
    archive.file("root/.ssh/known_hosts", 0o600, known.as_bytes())?;
    archive.file("etc/ssh/ssh_host_ed25519_key", 0o600, &pairs.host)?;
    for (path, mode, content) in OWN {
        archive.file(path, mode, content.as_bytes())?;
    }
    for extra in extras {
        archive.file(extra.path, extra.mode, &fs::read(&extra.source)?)?;
    }
    archive.finish()?;
    Ok(Keys {
        private: login,
        known_hosts,
    })
}
