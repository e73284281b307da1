//! Aligned tables and short figures for people.

use std::fmt::Write as _;
use std::io::IsTerminal;

/// Which side a column's text is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// Rows of equal columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns
            .iter()
            .map(|(name, align)| ((*name).to_owned(), *align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row; what is missing is empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A control character would break the line it stands in.
        let clean = |cell: String| cell.replace(char::is_control, "?");
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Whether there are rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole table, a line end behind each line: as wide as it needs in pipes and files, cut to
    /// the width of a terminal.
    #[must_use]
    pub fn render(&self) -> String {
        match terminal_width() {
            Some(width) => cut(&self.whole(), width),
            None => self.whole(),
        }
    }

    fn whole(&self) -> String {
        let width = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = self.columns.iter().map(|(name, _)| width(name)).collect();
        for row in &self.rows {
            for (cell, widest) in row.iter().zip(&mut widths) {
                *widest = width(cell).max(*widest);
            }
        }
        let mut out = String::new();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for (index, (_, align)) in self.columns.iter().enumerate() {
                let cell = row.get(index).map_or("", String::as_str);
                let wide = widths[index];
                // Writing to a string cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:wide$}  "),
                    Align::Right => write!(line, "{cell:>wide$}  "),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// Columns of the terminal that standard output is, if it is one.
fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let (width, _) = crossterm::terminal::size().ok()?;
    // A terminal that does not know says 0.
    (width > 0).then_some(usize::from(width))
}

/// Each line cut to a width; what was cut ends in an ellipsis.
fn cut(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.chars().count() <= width {
            out.push_str(line);
        } else {
            out.extend(line.chars().take(width.saturating_sub(1)));
            out.push('…');
        }
        out.push('\n');
    }
    out
}

/// A duration in its two largest units: `5.2s`, `12m 03s`, `3h 05m`, `2d 04h`.
#[must_use]
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 60 {
        format!("{}.{}s", seconds, milliseconds % 1000 / 100)
    } else if minutes < 60 {
        format!("{minutes}m {:02}s", seconds % 60)
    } else if hours < 24 {
        format!("{hours}h {:02}m", minutes % 60)
    } else {
        format!("{days}d {:02}h", hours % 24)
    }
}

/// A size in binary units: `512 B`, `12.3 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_blanks_at_their_end() {
        let mut table = Table::new(&[("NAME", Align::Left), ("PID", Align::Right)]);
        table.row(["web.1".to_owned(), "7".to_owned()]);
        table.row(["longer\nname".to_owned(), "1234".to_owned()]);
        table.row(["x".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME          PID\nweb.1           7\nlonger?name  1234\nx\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_what_does_not_fit() {
        assert_eq!(cut("NAME  PID\nweb  7\n", 7), "NAME  …\nweb  7\n");
        assert_eq!(cut("äöü\n", 3), "äöü\n");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(duration(5_230), "5.2s");
        assert_eq!(duration(723_000), "12m 03s");
        assert_eq!(duration(11_100_000), "3h 05m");
        assert_eq!(duration(187_200_000), "2d 04h");
        assert_eq!(size(512), "512 B");
        assert_eq!(size(12_900_000), "12.3 MB");
    }
}
