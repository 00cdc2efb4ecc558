//! The metadata of the sources: version, time and maintainer.

use std::path::Path;
use std::process::Command;

/// The metadata of the sources that the package contains.
pub struct Source {
    /// The version in Debian's syntax: of two commits the later one has the higher version.
    pub version: String,
    /// The time of everything in the package, in seconds since 1970: `SOURCE_DATE_EPOCH`,
    /// or else the commit's time.
    pub epoch: u64,
    /// The maintainer as `Name <address>`: `DEBFULLNAME` and `DEBEMAIL`, or else the
    /// committer.
    pub maintainer: String,
}

impl Source {
    /// Reads the metadata from git; outside of git only the release is known.
    pub fn look(workspace: &Path) -> Self {
        let git = |words: &[&str]| {
            let mut git = Command::new("git");
            // The git directory is given by name, because the sources may be unpacked
            // within another repository.
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

    /// Returns the time in a format of `date`.
    pub fn date(&self, how: &str) -> anyhow::Result<String> {
        let mut date = Command::new("date");
        date.args(["--utc", how, "--date", &format!("@{}", self.epoch)]);
        let text = crate::run(date.env("LC_ALL", "C"))?;
        Ok(String::from_utf8(text)?.trim().to_owned())
    }
}
