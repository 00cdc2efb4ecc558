//! Files of Debian packages that are laid over a running dom0. They are installed on
//! request, because few scenarios need them and every boot would take longer.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cache;
use crate::cpio;
use crate::debian::Release;
use crate::dom0_image::Dom0Image;
use crate::host::Host;
use crate::shell_out::output_of;

/// The description of a layer.
pub struct Layer {
    /// The layer's name, for the cache and the file in dom0.
    pub name: &'static str,
    /// The version of the recipe; raised when `unpack` changes what it does.
    pub version: &'static str,
    /// The packages, for the cache key.
    pub packages: String,
    /// The prefixes of the paths that are taken from the packages, beside libraries.
    pub wanted: &'static [&'static str],
    /// The release that the packages are of.
    pub release: Release,
    /// Unpacks the packages of a release into an empty folder.
    pub unpack: fn(&Path, Release) -> Result<()>,
}

const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

impl Layer {
    /// Lays the files over the root folder of dom0, and starts nothing.
    ///
    /// # Errors
    /// When the packages cannot be fetched or installed, which is the rig's fault.
    pub fn install(&self, host: &Host, dom0: &Dom0Image) -> Result<()> {
        let layer = self.ready(dom0)?;
        let remote = format!("/run/rig/{}.tar.gz", self.name);
        host.put(&layer, &remote)?;
        host.run(&format!("busybox tar -xzf {remote} -C / && rm {remote}"))?
            .checked()?;
        Ok(())
    }

    /// Returns a tar file with everything that the packages need and dom0 does not have.
    ///
    /// # Errors
    /// When the packages cannot be fetched.
    pub fn ready(&self, dom0: &Dom0Image) -> Result<PathBuf> {
        let key = cache::Key::default()
            .with("recipe", self.version.as_bytes())
            .with("packages", self.packages.as_bytes())
            .with("files", format!("{:?}", self.wanted).as_bytes())
            .with("dom0", dom0.initramfs().to_string_lossy().as_bytes())
            .finish();
        let name = format!("{}-{key}", self.name);
        let place = cache::entry(&name, |place| self.build(place, &dom0.initramfs()))?;
        Ok(place.join("layer.tar.gz"))
    }

    fn build(&self, place: &Path, dom0: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(place.parent().unwrap_or(place))?;
        let root = scratch.path().join("root");
        (self.unpack)(&root, self.release)?;
        let there: HashSet<String> = cpio::names(dom0)?.into_iter().collect();
        let mut files = Vec::new();
        list(&root, "", &mut files)?;
        files.retain(|file| self.is_wanted(file) && !there.contains(file));
        let list = scratch.path().join("files");
        fs::write(&list, files.join("\n"))?;
        output_of(
            Command::new("tar")
                .args(["--create", "--gzip", "--owner=0", "--group=0", "--file"])
                .arg(place.join("layer.tar.gz"))
                .arg("--directory")
                .arg(&root)
                .arg("--files-from")
                .arg(&list),
        )?;
        Ok(())
    }

    fn is_wanted(&self, file: &str) -> bool {
        let library = file
            .rsplit_once('/')
            .is_some_and(|(folder, name)| LIBRARIES.contains(&folder) && name.contains(".so"));
        library || self.wanted.iter().any(|wanted| file.starts_with(wanted))
    }
}

/// Lists every file below `folder` in `root`, by its path there.
fn list(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = match folder {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        match entry.file_type()?.is_dir() {
            true => list(root, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
