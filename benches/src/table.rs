//! Tables as Markdown, so that a run can be pasted where it is read.

use std::fmt::Write;

/// A table: a title, column names, rows of texts.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_string(),
            columns: columns.iter().map(|column| (*column).to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing are empty.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |row: &[String], i: usize| row.get(i).cloned().unwrap_or_default();
        let lines = || std::iter::once(&self.columns).chain(&self.rows);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| lines().map(|row| cell(row, i).chars().count()).max().unwrap_or(0).max(3))
            .collect();
        writeln!(f, "\n## {}\n", self.title)?;
        for (n, row) in lines().enumerate() {
            let mut line = String::from("|");
            for (i, width) in widths.iter().enumerate() {
                let text = cell(row, i);
                // The first column is a name; what follows are numbers, whose ends line up.
                if i == 0 { write!(line, " {text:<width$} |")? } else { write!(line, " {text:>width$} |")? }
            }
            writeln!(f, "{line}")?;
            if n == 0 {
                let rule = |(i, width): (usize, &usize)| {
                    if i == 0 { "-".repeat(width + 2) } else { format!("{}:", "-".repeat(width + 1)) }
                };
                writeln!(f, "|{}|", widths.iter().enumerate().map(rule).collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }
}

/// How a measured value stands to the most it may be.
pub fn against(value: f64, budget: f64) -> String {
    if value <= budget { "met".to_string() } else { format!("missed by {:.0} %", (value / budget - 1.0) * 100.0) }
}

/// Bytes for a person.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        _ if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        _ if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.0} kB", n / 1e3),
    }
}

/// A count with its thousands apart.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_as_markdown() {
        let mut table = Table::new("events", &["query", "us"]);
        table.row(vec!["q0".into(), "1.25".into()]);
        table.row(vec!["words".into()]);
        let expected = "\n## events\n\n| query |   us |\n|-------|-----:|\n| q0    | 1.25 |\n| words |      |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_missed_budget_says_by_how_much() {
        assert_eq!(against(1.5, 2.0), "met");
        assert_eq!(against(3.0, 2.0), "missed by 50 %");
    }

    #[test]
    fn numbers_are_written_for_a_person() {
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(count(12), "12");
        assert_eq!(bytes(2_500_000_000), "2.50 GB");
        assert_eq!(bytes(20_000), "20 kB");
    }
}
