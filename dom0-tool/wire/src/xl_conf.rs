//! xl's own configuration, `/etc/xen/xl.conf`, as xl reads it.
//!
//! Where a name is assigned twice, the last one holds (`libxlu_cfg.c`, Xen 4.17).

use std::mem;

/// The path at which xl looks for it.
pub const FILE: &str = "/etc/xen/xl.conf";

/// The largest size in bytes; a larger file is no `xl.conf`.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// What `name` is assigned last, as it stands there, and in which line (from 1).
pub fn assigned(text: &str, name: &str) -> Option<(usize, String)> {
    let statements = statements(text);
    let mut last_first = statements.iter().rev();
    last_first.find_map(|(line, statement)| {
        let (left, value) = statement.split_once('=')?;
        let left = left.trim().trim_end_matches('+').trim_end();
        (left == name).then(|| (*line, value.trim().to_owned()))
    })
}

/// What stands between the quotes; nothing where it takes more than that.
pub fn quoted(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|c| "\"'".contains(*c))?;
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains(['\\', quote])).then_some(inner)
}

/// Statements with their lines, comments left out (`libxlu_cfg_l.l`, 4.17).
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut statement = String::new();
        let mut quote = None;
        let mut chars = line.chars();
        while let Some(c) = chars.next() {
            match (quote, c) {
                (None, '#') => break,
                (None, ';') => {
                    all.push((number, mem::take(&mut statement)));
                    continue;
                }
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), _) if open == c => quote = None,
                _ => {}
            }
            statement.push(c);
            if quote.is_some() && c == '\\' {
                statement.extend(chars.next());
            }
        }
        all.push((number, statement));
    }
    all
}
