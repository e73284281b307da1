//! Figures of many contestants, as a table in Markdown: medians, spread, and ratios to the limit.

use kingpole_tests::measure::median;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    /// Rates.
    More,
    /// Times, losses, memory.
    Less,
}

/// One row: a figure of everybody.
pub(super) struct Row {
    /// What is measured, with its unit.
    pub(super) name: String,
    /// Which way is better.
    pub(super) better: Better,
    /// What is asked of us against the limit, or alone where there is none.
    pub(super) wanted: Option<f64>,
    figures: BTreeMap<String, Vec<f64>>,
    notes: BTreeMap<String, String>,
}

/// Whom everybody is measured against.
pub(super) const LIMIT: &str = "limit";

impl Row {
    /// An empty one.
    pub(super) fn new(name: impl Into<String>, better: Better, wanted: Option<f64>) -> Self {
        Self {
            name: name.into(),
            better,
            wanted,
            figures: BTreeMap::new(),
            notes: BTreeMap::new(),
        }
    }

    /// Adds a measurement of a round.
    pub(super) fn add(&mut self, contestant: &str, figure: f64) {
        let figures = self.figures.entry(contestant.to_owned()).or_default();
        figures.push(figure);
    }

    /// Says why there is none, or what has to be known of it.
    pub(super) fn note(&mut self, contestant: &str, text: impl Into<String>) {
        self.notes.insert(contestant.to_owned(), text.into());
    }

    fn median_of(&self, contestant: &str) -> Option<f64> {
        let figures = self.figures.get(contestant)?;
        Some(median(figures.clone()))
    }

    /// Ours against the limit, and whether that is what is wanted.
    fn verdict(&self, ours: &str) -> String {
        let Some(own) = self.median_of(ours) else {
            return String::new();
        };
        let limit = self.median_of(LIMIT);
        let value = limit.map_or(own, |limit| own / limit);
        let shown = limit.map_or(String::new(), |_| format!("{value:.2}; "));
        match self.wanted {
            None => shown.trim_end_matches("; ").to_owned(),
            Some(wanted) => {
                let good = match self.better {
                    Better::More => value >= wanted,
                    Better::Less => value <= wanted,
                };
                let verdict = if good { "good" } else { "**missed**" };
                let side = match self.better {
                    Better::More => "at least",
                    Better::Less => "at most",
                };
                format!("{shown}{side} {wanted}: {verdict}")
            }
        }
    }

    fn cell(&self, contestant: &str) -> String {
        let mut text = String::new();
        if let Some(figures) = self.figures.get(contestant) {
            let lowest = figures.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            text = shown(median(figures.clone()));
            if figures.len() > 1 {
                let _ = write!(text, " ({} to {})", shown(lowest), shown(highest));
            }
        }
        match (self.notes.get(contestant), text.is_empty()) {
            (Some(note), true) => note.clone(),
            (Some(note), false) => format!("{text}, {note}"),
            (None, true) => "-".to_owned(),
            (None, false) => text,
        }
    }
}

/// Three digits that count.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        value_abs if value_abs >= 100.0 => format!("{value:.0}"),
        value_abs if value_abs >= 10.0 => format!("{value:.1}"),
        value_abs if value_abs >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints rows for these contestants, ours being the first of them.
pub(super) fn print(rows: &[Row], contestants: &[&str]) {
    let ours = contestants.first().copied().unwrap_or_default();
    println!(
        "\n| | {LIMIT} | {} | ours against the limit, wanted |",
        contestants.join(" | ")
    );
    println!("|{}", "---|".repeat(contestants.len() + 3));
    for row in rows {
        let cells: Vec<String> = contestants.iter().map(|name| row.cell(name)).collect();
        println!(
            "| {} | {} | {} | {} |",
            row.name,
            row.cell(LIMIT),
            cells.join(" | "),
            row.verdict(ours)
        );
    }
}
