//! `/etc/xen/xl.conf`: the script that xl uses for an interface that names none.
//!
//! If a name is assigned twice, the last assignment applies. lull therefore adds two lines
//! at the end and changes no other line; removing them restores the file exactly.

use std::path::Path;

use lull_agents::vif;
use lull_wire::xl_conf;

/// The line that identifies lull's two lines.
pub const MARK: &str =
    "# Made by `lull enable vif`; `lull disable vif` takes these two lines away.";

/// The name of the setting, and the name it had before 4.2, which the new one overrides.
const NAMES: [&str; 2] = ["vif.default.script", "vifscript"];

/// What xl uses for an interface that names no script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// The setting is absent: libxl's own choice, `vif-bridge`.
    Unset,
    /// The setting names `vif-bridge`.
    Stock,
    /// The setting names `vif-lull`.
    Lull,
    /// The setting names another script or is not valid.
    Other {
        /// The value as written in the file.
        value: String,
        /// The line of the file, from 1.
        line: usize,
    },
}

impl Setting {
    /// Parses the file as xl does.
    pub fn of(text: &str) -> Self {
        let assigned = |name| xl_conf::assigned(text, name);
        let Some((line, value)) = NAMES.into_iter().find_map(assigned) else {
            return Self::Unset;
        };
        let script = xl_conf::quoted(&value);
        let is = |name: &str| script.is_some_and(|script| is_script(script, name));
        if is(vif::STOCK) {
            Self::Stock
        } else if is(vif::NAME) {
            Self::Lull
        } else {
            Self::Other { value, line }
        }
    }
}

/// Whether libxl resolves `script` to the script `name`: a relative path is looked up in
/// the scripts' folder.
fn is_script(script: &str, name: &str) -> bool {
    Path::new(vif::FOLDER).join(script) == Path::new(vif::FOLDER).join(name)
}

fn block() -> String {
    format!("{MARK}\n{}=\"{}\"\n", NAMES[0], vif::NAME)
}

/// The file with lull's lines at its end; `None` if there was no file.
pub fn with_ours(text: Option<&str>) -> String {
    match text {
        None => block(),
        // The lines start on a new line, even if the last line has no newline.
        Some(text) => format!("{text}\n{}", block()),
    }
}

/// The file without lull's lines: `None` if it has none, and `Some(None)` if there was no
/// file before.
pub fn without_ours(text: &str) -> Option<Option<String>> {
    let block = block();
    if text == block {
        return Some(None);
    }
    // Other lines may have been added before or after them.
    let (at, length) = match text.find(&format!("\n{block}")) {
        Some(at) => (at, block.len() + 1),
        None if text.starts_with(&block) => (0, block.len()),
        None => return None,
    };
    Some(Some(format!("{}{}", &text[..at], &text[at + length..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_holds() {
        for (text, expected) in [
            ("", Setting::Unset),
            ("#vif.default.script=\"vif-route\"\n", Setting::Unset),
            (
                "vif.default.bridge=\"x\"; vif.default.script='vif-bridge'",
                Setting::Stock,
            ),
            (
                "vif.default.script = \"/etc/xen/scripts/vif-bridge\" # own\n",
                Setting::Stock,
            ),
            (
                "vifscript=\"vif-route\"\nvif.default.script=\"vif-lull\"\n",
                Setting::Lull,
            ),
            (
                "vif.default.script=\"vif-route\"\n vif.default.script=\"vif-bridge\"",
                Setting::Stock,
            ),
            (
                "a=\"#;\"\nlist=[\n'vif.default.script=1',\n]\n",
                Setting::Unset,
            ),
        ] {
            assert_eq!(Setting::of(text), expected, "{text}");
        }
    }

    #[test]
    fn another_script_is_named_with_its_line() {
        for value in [
            "\"vif-route\"",
            "\"/opt/vif-bridge\"",
            "7",
            "\"vif-\\x62ridge\"",
            "vif-lull",
        ] {
            let text = format!("autoballoon=0\nvif.default.script={value}\n");
            let expected = Setting::Other {
                value: value.to_owned(),
                line: 2,
            };
            assert_eq!(Setting::of(&text), expected);
        }
        let old = Setting::of("vifscript='vif-nat'\n");
        assert!(matches!(old, Setting::Other { line: 1, .. }), "{old:?}");
    }

    #[test]
    fn what_was_there_comes_back_to_the_byte() {
        for text in [
            "",
            "\n",
            "a=1",
            "a=1\n",
            "a=1\n\n",
            "# no end",
            "vif.default.script='vif-bridge'",
        ] {
            let ours = with_ours(Some(text));
            assert_eq!(Setting::of(&ours), Setting::Lull, "{ours}");
            assert_eq!(without_ours(&ours), Some(Some(text.to_owned())));
            assert_eq!(without_ours(text), None);
        }
        assert_eq!(without_ours(&with_ours(None)), Some(None));
    }

    #[test]
    fn what_came_later_stays() {
        let later = with_ours(None) + "a=1\n";
        assert_eq!(without_ours(&later), Some(Some("a=1\n".to_owned())));
        let both = with_ours(Some("a=1\n")) + "b=2\n";
        assert_eq!(without_ours(&both), Some(Some("a=1\nb=2\n".to_owned())));
        // An edited block is no longer lull's but the administrator's.
        let edited = with_ours(Some("")).replace("vif-lull", "vif-route");
        assert_eq!(without_ours(&edited), None);
    }
}
