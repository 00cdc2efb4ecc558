//! `/etc/xen/xl.conf`: which script xl names for an interface that names none.
//!
//! Where a name is assigned twice, the last one holds: so lull adds two lines at
//! the end, changes none, and what stood there before comes back to the byte when
//! they go.

use std::path::Path;

use crate::{vif, xl_conf};

/// By this line lull's two are known.
pub const MARK: &str =
    "# Made by `lull enable vif`; `lull disable vif` takes these two lines away.";

/// The name, and the one it had before 4.2, which it beats.
const NAMES: [&str; 2] = ["vif.default.script", "vifscript"];

/// What xl does with an interface that names no script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// libxl's own choice: `vif-bridge`.
    Unset,
    /// `vif-bridge` by name.
    Stock,
    /// `vif-lull`.
    Lull,
    /// Another, or what is no name; and the line that says so.
    Other {
        /// As it stands there.
        value: String,
        /// From 1.
        line: usize,
    },
}

impl Setting {
    /// Reads it as xl does.
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

/// Whether libxl takes `script` for the one of that name: a relative one is
/// looked for in its folder.
fn is_script(script: &str, name: &str) -> bool {
    Path::new(vif::FOLDER).join(script) == Path::new(vif::FOLDER).join(name)
}

fn block() -> String {
    format!("{MARK}\n{}=\"{}\"\n", NAMES[0], vif::NAME)
}

/// The file with lull's lines at its end; `None` is no file.
pub fn with_ours(text: Option<&str>) -> String {
    match text {
        None => block(),
        // A line of its own, whether or not the last one was ended.
        Some(text) => format!("{text}\n{}", block()),
    }
}

/// The file as it was before lull's lines: nothing where there are none, and
/// `None` where there was no file.
pub fn without_ours(text: &str) -> Option<Option<String>> {
    let block = block();
    if text == block {
        return Some(None);
    }
    // Lines may have come after them, or before.
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
        // Not to be known for lull's any more: the administrator's.
        let edited = with_ours(Some("")).replace("vif-lull", "vif-route");
        assert_eq!(without_ours(&edited), None);
    }
}
