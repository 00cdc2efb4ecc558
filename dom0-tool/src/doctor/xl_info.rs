//! The output of `xl info` on one host.

/// The part that matters to a migration. `None` is a value that was not printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XlInfo {
    /// The major and minor version of Xen.
    pub version: Option<(u32, u32)>,
    /// Memory in bytes that no domain uses.
    pub free: Option<u64>,
    /// The kinds of guests that can run, such as `hvm-3.0-x86_64`.
    pub guests: String,
    /// The ways in which Xen can run them, such as `hap shadow`.
    pub ways: String,
    /// The processor's features, as words in hexadecimal.
    pub processor: String,
}

impl XlInfo {
    /// Parses the lines, each `name : value`.
    pub fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(found, value)| (found.trim() == name).then_some(value.trim()))
        };
        let number = |name| value(name).and_then(|value| value.parse::<u32>().ok());
        Self {
            version: number("xen_major").zip(number("xen_minor")),
            free: number("free_memory").map(|mib| u64::from(mib) << 20),
            guests: value("xen_caps").unwrap_or_default().to_owned(),
            ways: value("virt_caps").unwrap_or_default().to_owned(),
            processor: value("hw_caps").unwrap_or_default().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_matter_are_found() {
        let info = XlInfo::parse(
            "host                   : dom0\nhw_caps                : 178bfbfd:fefa3203:2c100800\n\
             free_memory            : 2950\nxen_major              : 4\nxen_minor              : 17\n\
             xen_version            : 4.17.7\nxen_caps               : xen-3.0-x86_64 hvm-3.0-x86_64 \n\
             virt_caps              : pv hvm hap shadow\n",
        );
        let expected = XlInfo {
            version: Some((4, 17)),
            free: Some(2950 << 20),
            guests: "xen-3.0-x86_64 hvm-3.0-x86_64".to_owned(),
            ways: "pv hvm hap shadow".to_owned(),
            processor: "178bfbfd:fefa3203:2c100800".to_owned(),
        };
        assert_eq!(info, expected);
        assert_eq!(XlInfo::parse("free_memory : lots"), XlInfo::default());
    }
}
