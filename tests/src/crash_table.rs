//! `docs/crash-points.md`: a table per test that kills somebody, or takes something away, at every point
//! there is. Each test writes its own section when `KINGPOLE_WRITE_DOCS` is set, and otherwise finds its
//! rows there.

use crate::binaries;

/// A table, and what it is about.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What stands above the table.
    pub introduction: &'static str,
    /// The names of the three columns.
    pub columns: [&'static str; 3],
}

/// A row: what happens where, to whom, and what was verified.
pub type Row = [String; 3];

impl Section {
    /// Writes the rows into the document, or makes sure that it has them (what was verified may have
    /// been counted in another run).
    ///
    /// # Panics
    /// When it has not.
    pub fn publish(&self, rows: &[Row]) {
        let path = binaries::workspace().join("docs/crash-points.md");
        let documented = std::fs::read_to_string(&path).expect("docs/crash-points.md");
        if std::env::var_os("KINGPOLE_WRITE_DOCS").is_some() {
            std::fs::write(&path, self.put_into(&documented, rows)).expect("write the document");
            return;
        }
        for [what, who, _] in rows {
            let cells = format!("| {what} | {who} |");
            assert!(
                documented.contains(&cells),
                "docs/crash-points.md has no row {cells}; KINGPOLE_WRITE_DOCS=1 writes it"
            );
        }
    }

    fn put_into(&self, documented: &str, rows: &[Row]) -> String {
        let heading = format!("## {}\n", self.title);
        let mut section = format!("{heading}\n{}\n\n", self.introduction);
        section += &format!("| {} |\n|---|---|---|\n", self.columns.join(" | "));
        for row in rows {
            section += &format!("| {} |\n", row.join(" | "));
        }
        match documented.find(&heading) {
            None => format!("{}\n\n{section}", documented.trim_end()),
            Some(start) => {
                let (before, rest) = documented.split_at(start);
                let behind = rest.get(heading.len()..).unwrap_or_default();
                let after = behind.find("\n## ").and_then(|at| behind.get(at..));
                format!("{before}{section}{}", after.unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: Section = Section {
        title: "Two",
        introduction: "About two.",
        columns: ["a", "b", "c"],
    };

    #[test]
    fn a_section_is_replaced_where_it_stands_or_added() {
        let rows = [["1", "2", "3"].map(str::to_owned)];
        let table = "About two.\n\n| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n";
        assert_eq!(
            SECTION.put_into("# T\n\n## One\n\nx\n", &rows),
            format!("# T\n\n## One\n\nx\n\n## Two\n\n{table}")
        );
        assert_eq!(
            SECTION.put_into("# T\n\n## Two\n\nold\n\n## Three\n\nz\n", &rows),
            format!("# T\n\n## Two\n\n{table}\n## Three\n\nz\n")
        );
    }
}
