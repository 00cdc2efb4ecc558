//! Tables, all in one style.

use std::ops::Range;

pub use comfy_table::Table;
use comfy_table::{CellAlignment, LineStyle, TableStyle};

/// A rule below the header and no other line.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with these columns. Columns in `right`, which hold figures, are
/// right-aligned.
pub fn table(header: &[&str], right: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(header.iter().copied());
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
