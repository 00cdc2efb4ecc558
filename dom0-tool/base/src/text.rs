//! Cleans text from untrusted sources: the destination, a stub, a guest's name.

/// Removes control characters that a terminal would act on, and Unicode's bidirectional
/// controls, which change the order in which text is read. A tab becomes a blank.
pub fn printable(text: &str) -> String {
    let kept = |c: char| match c {
        '\t' => Some(' '),
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            None
        }
        c => (!c.is_control()).then_some(c),
    };
    text.chars().filter_map(kept).collect()
}

/// Applies [`printable`] to each line of `text`.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert_eq!(printable("\u{1b}[2Jgo\u{9b}ne\r\n"), "[2Jgone");
        assert_eq!(printable("web\u{202e}1\tmöglich"), "web1 möglich");
    }
}
