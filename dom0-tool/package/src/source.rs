//! What the sources say of themselves: which version, when, whose.

use std::path::Path;
use std::process::Command;

/// See the fields.
pub struct Source {
    /// As Debian writes it: of two commits the later one has the higher.
    pub version: String,
    /// Seconds since 1970 that everything in the package is dated by:
    /// `SOURCE_DATE_EPOCH`, else the commit's time.
    pub epoch: u64,
    /// `Name <address>`: `DEBFULLNAME` and `DEBEMAIL`, else the committer.
    pub maintainer: String,
}

impl Source {
    /// Asks git; outside of git only the release is known.
    pub fn look(workspace: &Path) -> Self {
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            // Named, for sources unpacked within another repository.
            git.arg("--git-dir").arg(workspace.join(".git"));
            git.arg("--work-tree").arg(workspace).args(words);
            let output = git.env("TZ", "UTC").output().ok()?;
            let text = output.status.success().then_some(output.stdout)?;
            Some(String::from_utf8(text).ok()?.trim().to_owned())
        };
        let commit = |format: &str| git(&["log", "-1", "--date=format-local:%Y%m%d%H%M%S", format]);
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let time = variable("SOURCE_DATE_EPOCH").or_else(|| commit("--format=%ct"));
        let debian = variable("DEBFULLNAME").zip(variable("DEBEMAIL"));
        let debian = debian.map(|(name, address)| format!("{name} <{address}>"));
        let release = env!("CARGO_PKG_VERSION");
        let version = match commit("--format=git%cd.%h") {
            Some(commit) => format!("{release}+{commit}"),
            None => release.to_owned(),
        };
        Self {
            version,
            epoch: time.and_then(|time| time.parse().ok()).unwrap_or(0),
            maintainer: debian
                .or_else(|| commit("--format=%cn <%ce>"))
                .unwrap_or_else(|| "lull <root@localhost>".to_owned()),
        }
    }

    /// The time as `date` writes it.
    pub fn date(&self, how: &str) -> anyhow::Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", how, "--date", &format!("@{}", self.epoch)]);
        let text = crate::run(date.env("LC_ALL", "C"))?;
        Ok(String::from_utf8(text)?.trim().to_owned())
    }
}
