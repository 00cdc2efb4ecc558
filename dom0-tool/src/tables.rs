//! Tables, all in one style.

use std::ops::Range;

use comfy_table::{CellAlignment, Table, presets};

/// A table with these columns; those of figures, `right`, are aligned so.
pub fn table(header: &[&str], right: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
