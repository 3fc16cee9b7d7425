//! Tables on standard output.

use std::fmt::Write;

/// Rows with columns of their widest cell, two spaces apart.
pub fn aligned<R: AsRef<[String]>>(rows: &[R]) -> String {
    aligned_rows(rows.len(), |at| rows[at].as_ref().to_vec())
}

/// The same of `count` rows that are made when they are asked for, twice.
pub fn aligned_rows<R: AsRef<[String]>>(count: usize, row: impl Fn(usize) -> R) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for at in 0..count {
        for (column, cell) in row(at).as_ref().iter().enumerate() {
            widths.resize(widths.len().max(column + 1), 0);
            widths[column] = widths[column].max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for at in 0..count {
        let row = row(at);
        let cells = row.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end()); // writing to a String cannot fail
    }
    text
}
