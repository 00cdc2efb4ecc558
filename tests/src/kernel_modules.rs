//! Kernel modules: keeps the ones that are needed, uncompressed, and drops the
//! other 390 MB.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell_out::output_of;

/// How the file of a compressed module ends (Debian 13).
const COMPRESSED: &str = ".xz";

/// The modules of one kernel in an unpacked tree.
pub struct Modules {
    folder: PathBuf,
    /// Module file → the files it needs, both below `folder`.
    needs: BTreeMap<String, Vec<String>>,
}

impl Modules {
    /// Reads the dependencies of the modules under `root`, whose `depmod` is
    /// run by its own loader: this machine may have none.
    pub fn index(root: &Path, release: &str) -> Result<Self> {
        let libraries = format!(
            "{0}/lib/x86_64-linux-gnu:{0}/usr/lib/x86_64-linux-gnu",
            root.display()
        );
        output_of(
            Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
                .args(["--library-path", &libraries])
                .arg(root.join("bin/kmod"))
                .arg("--version"),
        )?;
        // kmod is one program under many names, and looks at its own.
        output_of(
            Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
                .args(["--argv0", "depmod", "--library-path", &libraries])
                .arg(root.join("bin/kmod"))
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

    /// The file of a module and of all it needs, in the order to load them.
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
        // modules.dep lists the nearest need first.
        let mut order: Vec<PathBuf> = needs.iter().rev().map(|f| self.folder.join(f)).collect();
        order.push(self.folder.join(file));
        Ok(order)
    }

    /// Removes every module that none of `wanted` needs. Uncompresses the rest:
    /// under emulation that takes seconds. The index no longer fits then.
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
