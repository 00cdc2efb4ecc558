//! Keeps the kernel modules that are needed, uncompressed, and removes the other 390 MB.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell_out::{output_of, program_of};

/// The suffix of the file of a compressed module (Debian 13).
const COMPRESSED: &str = ".xz";

/// The modules of one kernel in an unpacked tree.
pub struct Modules {
    folder: PathBuf,
    /// Maps a module file to the files that it needs, all below `folder`.
    needs: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the dependencies of the modules under `root`. The `depmod` of that tree
    /// runs, because this machine may have none.
    pub fn index(root: &Path, release: &str) -> Result<Self> {
        output_of(program_of(root, None, "bin/kmod").arg("--version"))?;
        // kmod is one program under many names, and acts according to the name.
        output_of(
            program_of(root, Some("depmod"), "bin/kmod")
                .arg("-b")
                .arg(root)
                .arg(release),
        )?;
        let folder = root.join("lib/modules").join(release);
        let text =
            fs::read_to_string(folder.join("modules.dep")).context("depmod left no modules.dep")?;
        let mut needs = BTreeMap::new();
        for line in text.lines() {
            if let Some((file, rest)) = line.split_once(':') {
                let rest = rest.split_whitespace().map(str::to_owned).collect();
                needs.insert(file.to_owned(), rest);
            }
        }
        Ok(Self { folder, needs })
    }

    /// Returns the files of a module and of all that it needs, in the order to load them.
    ///
    /// # Errors
    /// When there is no such module.
    pub fn load_order(&self, module: &str) -> Result<Vec<PathBuf>> {
        let is_it = |file: &str| {
            let name = file.rsplit('/').next().unwrap_or_default();
            let stem = name.strip_suffix(COMPRESSED).unwrap_or(name);
            stem.strip_suffix(".ko") == Some(module)
        };
        let (file, needs) = self
            .needs
            .iter()
            .find(|(file, _)| is_it(file))
            .with_context(|| format!("the kernel has no module {module}"))?;
        // modules.dep lists the nearest dependency first.
        let mut order: Vec<PathBuf> = needs.iter().rev().map(|f| self.folder.join(f)).collect();
        order.push(self.folder.join(file));
        Ok(order)
    }

    /// Removes every module that none of `wanted` needs, and uncompresses the rest, because
    /// that takes seconds under emulation. The index is out of date afterwards.
    pub fn keep_only(&self, wanted: &[&str]) -> Result<()> {
        let mut kept = BTreeSet::new();
        for module in wanted {
            kept.extend(self.load_order(module)?);
        }
        for file in self.needs.keys() {
            let path = self.folder.join(file);
            if !kept.contains(&path) {
                fs::remove_file(&path)?;
            } else if file.ends_with(COMPRESSED) {
                output_of(Command::new("xz").arg("--decompress").arg(&path))?;
            }
        }
        Ok(())
    }
}
