//! Tables on standard output, as wide as the terminal is: where there is no terminal, as wide as they are.

use console::Term;
use std::fmt::Write;

/// Spaces between columns.
const GAP: usize = 2;
/// Least room for the text of a last column that is broken into lines.
const ROOM: usize = 16;

/// Columns of the terminal that standard output is; very many where it is none.
pub fn terminal() -> usize {
    Term::stdout().size_checked().map_or(usize::MAX, |(_, columns)| usize::from(columns))
}

/// What comes out of a file on a terminal: without control characters.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows with columns of their widest cell, two spaces apart. Where a row is wider than the terminal, the text of its last column goes
/// on below itself.
pub fn aligned<R: AsRef<[String]>>(rows: &[R]) -> String {
    aligned_within(terminal(), rows)
}

/// The same within so many columns.
pub fn aligned_within<R: AsRef<[String]>>(columns: usize, rows: &[R]) -> String {
    rows_within(columns, rows.len(), |at| rows[at].as_ref().to_vec())
}

/// A sentence in lines within so many columns.
pub fn wrapped(columns: usize, text: &str) -> String {
    broken(text, columns).join("\n") + "\n"
}

/// The same of rows below a head. Where the columns before the last do not fit either, each row is a list of its cells, each named.
pub fn headed<R: AsRef<[String]>>(rows: &[R]) -> String {
    headed_within(terminal(), rows.len(), |at| rows[at].as_ref().to_vec())
}

/// The same of `count` rows that are made when they are asked for, twice; the first is the head.
pub fn headed_rows<R: AsRef<[String]>>(count: usize, row: impl Fn(usize) -> R) -> String {
    headed_within(terminal(), count, row)
}

fn headed_within<R: AsRef<[String]>>(columns: usize, count: usize, row: impl Fn(usize) -> R) -> String {
    let widths = widths(count, &row);
    let before: usize = widths.iter().rev().skip(1).map(|width| width + GAP).sum();
    let last = widths.last().copied().unwrap_or(0);
    if count < 2 || before + last.min(ROOM) <= columns {
        return rows_of(&widths, columns, count, row);
    }
    let head = row(0);
    let list = |at: usize| {
        let cells = row(at);
        let named = head.as_ref().iter().zip(cells.as_ref()).filter(|(_, cell)| !cell.is_empty());
        let named: Vec<[String; 2]> = named.map(|(name, cell)| [name.clone(), cell.clone()]).collect();
        rows_within(columns, named.len(), |at| &named[at])
    };
    (1..count).map(list).collect::<Vec<_>>().join("\n")
}

fn widths<R: AsRef<[String]>>(count: usize, row: impl Fn(usize) -> R) -> Vec<usize> {
    let mut widths: Vec<usize> = Vec::new();
    for at in 0..count {
        for (column, cell) in row(at).as_ref().iter().enumerate() {
            widths.resize(widths.len().max(column + 1), 0);
            widths[column] = widths[column].max(cell.chars().count());
        }
    }
    widths
}

fn rows_within<R: AsRef<[String]>>(columns: usize, count: usize, row: impl Fn(usize) -> R) -> String {
    rows_of(&widths(count, &row), columns, count, row)
}

fn rows_of<R: AsRef<[String]>>(widths: &[usize], columns: usize, count: usize, row: impl Fn(usize) -> R) -> String {
    let mut text = String::new();
    for at in 0..count {
        let row = row(at);
        let Some((last, cells)) = row.as_ref().split_last() else { continue };
        let cells: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<0$}", width + GAP)).collect();
        let left = cells.chars().count();
        // without room beside the others it stands below them
        let (below, left) = if left + ROOM.min(last.chars().count()) <= columns { (false, left) } else { (true, GAP) };
        if below {
            let _ = writeln!(text, "{}", cells.trim_end()); // writing to a String cannot fail
        }
        for (index, line) in broken(last, columns.saturating_sub(left).max(1)).iter().enumerate() {
            let line = match index {
                0 if !below => format!("{cells}{line}"),
                _ => format!("{:left$}{line}", ""),
            };
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

/// A text in lines of at most `columns`, broken at spaces where there are any.
fn broken(text: &str, columns: usize) -> Vec<String> {
    if text.chars().count() <= columns {
        return vec![text.to_owned()];
    }
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let used = lines.last().map_or(0, |line| line.chars().count());
        let length = word.chars().count();
        if used > 0 && used + 1 + length <= columns {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
                line.push_str(word);
            }
            continue;
        }
        let letters: Vec<char> = word.chars().collect();
        let parts = letters.chunks(columns).map(|part| part.iter().collect());
        if used == 0 {
            lines.pop();
        }
        lines.extend(parts);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect()
    }

    #[test]
    fn a_last_column_goes_on_below_itself() {
        let facts = rows(&[&["model", "toyland on cpu in f32, 2 threads"], &["steps", "8"]]);
        let of = |columns| rows_within(columns, facts.len(), |at| &facts[at]);
        assert_eq!(of(usize::MAX), "model  toyland on cpu in f32, 2 threads\nsteps  8\n");
        assert_eq!(of(27), "model  toyland on cpu in\n       f32, 2 threads\nsteps  8\n");
        assert_eq!(of(20), "model\n  toyland on cpu in\n  f32, 2 threads\nsteps  8\n");
        assert!(of(40).lines().all(|line| line.chars().count() <= 40));
        let path = rows(&[&["place", "/a/very/long/path/of/a/model"]]);
        assert_eq!(rows_within(24, 1, |at| &path[at]), "place  /a/very/long/path\n       /of/a/model\n");
    }

    #[test]
    fn rows_that_do_not_fit_become_lists() {
        let table = rows(&[
            &["job", "state", "seed", "took", "output"],
            &["evening", "render", "18446744073709551615", "-", "evening.mp4"],
            &["b", "skip", "4", "", "b.mp4"],
        ]);
        let of = |columns| headed_within(columns, table.len(), |at| &table[at]);
        let whole = of(usize::MAX);
        assert_eq!(whole.lines().count(), 3, "{whole}");
        assert_eq!(
            of(40),
            "job     evening\nstate   render\nseed    18446744073709551615\ntook    -\noutput  evening.mp4\n\n\
             job     b\nstate   skip\nseed    4\noutput  b.mp4\n"
        );
    }
}
