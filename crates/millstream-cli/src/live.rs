//! The answer of a query that never ends, as a table that changes in its place.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream::Result;
use millstream::core::sink::OutputKind;
use millstream::pipeline::LiveQuery;

use crate::table::{render, thousands};

/// The view is drawn at most so often: nobody reads faster.
const FRAME: Duration = Duration::from_millis(100);

/// Shows the answer until it ends or a signal comes.
pub async fn show(mut query: LiveQuery) -> Result<()> {
    let mut answer = Answer::new(query.kind());
    let mut screen = Screen::default();
    let mut signals = crate::signals::Signals::listen()?;
    let mut tick = tokio::time::interval(FRAME);
    let ended = loop {
        tokio::select! {
            rows = query.next() => match rows {
                Ok(Some(rows)) => answer.take(&rows)?,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            },
            _ = tick.tick() => {
                answer.note_rejected(query.rejected());
                screen.draw(&mut answer)?;
            }
            () = signals.received() => break Ok(()),
        }
    };
    answer.note_rejected(query.rejected());
    answer.fresh = true;
    screen.draw(&mut answer)?;
    query.stop().await?;
    ended
}

/// The rows of the answer so far, as text.
struct Answer {
    kind: OutputKind,
    columns: Vec<String>,
    /// Of a changelog: each row, and how often it is there.
    current: BTreeMap<Vec<String>, i64>,
    /// Of an insert-only answer: the newest rows.
    newest: VecDeque<Vec<String>>,
    rows: u64,
    rejected: u64,
    fresh: bool,
    since: Instant,
}

impl Answer {
    /// Rows of an insert-only answer that are kept to be shown.
    const NEWEST_MAX: usize = 100;

    fn new(kind: OutputKind) -> Self {
        let (current, newest) = (BTreeMap::new(), VecDeque::new());
        Self { kind, columns: vec![], current, newest, rows: 0, rejected: 0, fresh: false, since: Instant::now() }
    }

    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let options = FormatOptions::default().with_null("NULL").with_display_error(true);
        let cells = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        let skip = usize::from(self.kind == OutputKind::Changelog);
        self.columns = batch.schema().fields().iter().skip(skip).map(|f| f.name().clone()).collect();
        for row in 0..batch.num_rows() {
            let mut text = cells.iter().map(|c| c.value(row).to_string());
            if self.kind == OutputKind::Append {
                self.newest.push_back(text.collect());
                if self.newest.len() > Self::NEWEST_MAX {
                    self.newest.pop_front();
                }
                continue;
            }
            let op = text.next().unwrap_or_default();
            let weight = if op.starts_with('+') { 1 } else { -1 };
            let row: Vec<String> = text.collect();
            let count = self.current.entry(row.clone()).or_default();
            *count += weight;
            if *count == 0 {
                self.current.remove(&row);
            }
        }
        self.rows += batch.num_rows() as u64;
        self.fresh = true;
        Ok(())
    }

    fn note_rejected(&mut self, rows: u64) {
        self.fresh |= rows != self.rejected;
        self.rejected = rows;
    }

    /// The table, with at most so many lines, and a line that says how much it is of.
    fn text(&self, lines: usize) -> Result<String> {
        let rejected = match self.rejected {
            0 => String::new(),
            n => format!("; {} rejected", thousands(n)),
        };
        if self.columns.is_empty() {
            return Ok(format!("waiting for rows{rejected}; Ctrl-C ends"));
        }
        // Borders, the header and the last line.
        let room = lines.saturating_sub(6).max(1);
        let seconds = self.since.elapsed().as_secs();
        let (shown, note) = match self.kind {
            OutputKind::Append => {
                let shown: Vec<_> = self.newest.iter().skip(self.newest.len().saturating_sub(room)).collect();
                let note = format!("{} rows, the newest {} are shown", thousands(self.rows), shown.len());
                (shown, note)
            }
            OutputKind::Changelog => {
                let all = self.current.iter().flat_map(|(row, n)| (0..*n).map(move |_| row));
                let shown: Vec<_> = all.take(room).collect();
                let rows: i64 = self.current.values().sum();
                let rows = thousands(u64::try_from(rows).unwrap_or(0));
                let note = format!("{rows} rows, {} are shown; {} changes", shown.len(), thousands(self.rows));
                (shown, note)
            }
        };
        let column = |i: usize| -> ArrayRef {
            Arc::new(shown.iter().map(|row| row.get(i).map(String::as_str)).collect::<StringArray>())
        };
        let fields: Vec<Field> = self.columns.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let table = RecordBatch::try_new(Arc::new(Schema::new(fields)), (0..self.columns.len()).map(column).collect())?;
        Ok(format!("{}\n{note}{rejected}; {seconds} s; Ctrl-C ends", render(&[table])?))
    }
}

/// What stands on the terminal.
#[derive(Default)]
struct Screen {
    lines: usize,
}

impl Screen {
    fn draw(&mut self, answer: &mut Answer) -> Result<()> {
        if !std::mem::take(&mut answer.fresh) && self.lines > 0 {
            return Ok(());
        }
        let (width, height) = size(crossterm::terminal::size().ok());
        let text = answer.text(usize::from(height))?;
        let mut out = std::io::stdout().lock();
        let mut frame = String::new();
        if self.lines > 0 {
            frame.push_str(&format!("\x1b[{}A\x1b[0J", self.lines));
        }
        self.lines = 0;
        for line in text.lines() {
            // A line that wraps would be two.
            frame.extend(line.chars().take(usize::from(width).saturating_sub(1)));
            frame.push('\n');
            self.lines += 1;
        }
        let written = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
        // A terminal that is gone needs no view.
        written.ok();
        Ok(())
    }
}

/// The columns and lines of a terminal, where it says how many it has; some report none.
fn size(reported: Option<(u16, u16)>) -> (u16, u16) {
    reported.filter(|(width, height)| *width > 0 && *height > 0).unwrap_or((120, 40))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_that_reports_no_size_is_taken_for_a_common_one() {
        assert_eq!([size(Some((0, 0))), size(None), size(Some((80, 24)))], [(120, 40), (120, 40), (80, 24)]);
    }

    #[test]
    fn rejected_rows_are_shown_though_no_row_came() {
        let mut answer = Answer::new(OutputKind::Append);
        answer.note_rejected(1234);
        assert!(answer.fresh);
        assert_eq!(answer.text(40).unwrap(), "waiting for rows; 1,234 rejected; Ctrl-C ends");
    }

    fn changes(rows: &[(&str, &str, i64)]) -> RecordBatch {
        let ops: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.0)).collect::<StringArray>());
        let words: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.1)).collect::<StringArray>());
        let counts: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.2)).collect::<arrow::array::Int64Array>());
        RecordBatch::try_from_iter([("op", ops), ("word", words), ("n", counts)]).unwrap()
    }

    #[test]
    fn a_changelog_is_shown_as_the_rows_that_are_there() {
        let mut answer = Answer::new(OutputKind::Changelog);
        answer.take(&changes(&[("+I", "a", 1), ("+I", "b", 1)])).unwrap();
        answer.take(&changes(&[("-U", "a", 1), ("+U", "a", 2), ("-D", "b", 1)])).unwrap();
        let text = answer.text(40).unwrap();
        assert!(text.contains("| a    | 2 |") && !text.contains("| b "), "{text}");
        assert!(text.contains("1 rows, 1 are shown; 5 changes"), "{text}");
    }

    #[test]
    fn an_insert_only_answer_shows_its_newest_rows() {
        let mut answer = Answer::new(OutputKind::Append);
        let rows: ArrayRef = Arc::new((0..500).collect::<arrow::array::Int64Array>());
        answer.take(&RecordBatch::try_from_iter([("n", rows)]).unwrap()).unwrap();
        let text = answer.text(16).unwrap();
        assert!(text.contains("| 499 |") && text.contains("| 490 |") && !text.contains("| 489 |"), "{text}");
        assert!(text.contains("500 rows, the newest 10 are shown"), "{text}");
    }
}
