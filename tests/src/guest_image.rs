//! The guest's initramfs: the guest model as PID 1, busybox for an occasional look inside,
//! and the modules of its network.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::{self, Key};
use crate::cpio::Archive;
use crate::dom0_image::Dom0Image;

/// A guest image that has been built.
pub struct GuestImage {
    folder: PathBuf,
}

impl GuestImage {
    /// Returns the image from the cache, or builds it around `model`.
    pub fn ready(dom0: &Dom0Image, model: &Path) -> Result<Self> {
        let model = fs::read(model)?;
        let busybox = fs::read(dom0.busybox())?;
        let modules = dom0.guest_modules()?;
        let mut key = Key::default()
            .with("model", &model)
            .with("busybox", &busybox);
        for module in &modules {
            key = key.with("module", &fs::read(module)?);
        }
        let name = format!("guest-{}", key.finish());
        let folder = cache::entry(&name, |place| {
            let mut archive = Archive::new(BufWriter::new(File::create(place.join("guest.cpio"))?));
            for folder in ["bin", "dev", "proc", "sys", "modules"] {
                archive.directory(folder)?;
            }
            archive.device("dev/console", 5, 1)?;
            archive.file("init", 0o755, &model)?;
            archive.file("bin/busybox", 0o755, &busybox)?;
            archive.symlink("bin/sh", "busybox")?;
            for (position, module) in modules.iter().enumerate() {
                // The names are numbered, because the model loads the modules in the order
                // of their names.
                let stem = module.file_name().unwrap_or_default().to_string_lossy();
                let name = format!("modules/{position:02}-{stem}");
                archive.file(&name, 0o644, &fs::read(module)?)?;
            }
            archive.finish()?;
            Ok(())
        })?;
        Ok(Self { folder })
    }

    /// Returns the path of the initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("guest.cpio")
    }
}
