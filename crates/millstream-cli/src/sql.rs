//! `millstream sql`: a SELECT over files and declared tables, once or at a prompt.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use millstream::batch::{RejectedRows, answer_and_note, is_followed};
use millstream::pipeline::{LiveQuery, asked, query_dirs};
use millstream::plan::compile;
use millstream::sql::{PlannedQuery, Planner};
use millstream::{Error, Result, dropped, kept};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::out::say;
use crate::table::{render, thousands};

/// Rows at the most that are shown of an answer.
const ROWS_MAX: usize = 10_000;

/// Arguments of `sql`.
#[derive(Args)]
pub struct Sql {
    /// The SQL; without it, what stdin holds, or a prompt at a terminal.
    #[arg(short, long)]
    command: Option<String>,
    /// A pipeline's state directory: its dropped rows are tables, `<source>$rejected` and `<query>$late`, and so is what
    /// its operators remember: `state`, `"state.<operator>"`.
    #[arg(long)]
    state: Option<PathBuf>,
}

impl Sql {
    /// Answers the command, or what stdin holds; at a terminal it prompts until the end of input.
    pub async fn run(self) -> Result<()> {
        let mut planner = Planner::new(crate::connectors::installed(), Path::new("."))?;
        if let Some(state) = &self.state {
            let queries = query_dirs(&crate::status::state_dir(state)?)?;
            for (name, table) in dropped::tables(&queries)?.into_iter().chain(kept::tables(&queries)?) {
                planner.catalog().add_provider(name, table);
            }
        }
        match &self.command {
            Some(text) => execute(&mut planner, "command line", text).await,
            None if std::io::stdin().is_terminal() => prompt(&mut planner).await,
            None => {
                let mut text = String::new();
                let unread = |e| Error::input("stdin can't be read").caused_by(e);
                std::io::stdin().read_to_string(&mut text).map_err(unread)?;
                execute(&mut planner, "stdin", &text).await
            }
        }
    }
}

async fn execute(planner: &mut Planner, name: &str, text: &str) -> Result<()> {
    for query in planner.plan(name, text)?.queries {
        if query.sink.is_some() && !query.explain {
            return Err(Error::query("INSERT INTO starts a pipeline: put it into a file and use `millstream run`"));
        }
        show(planner, query).await?;
    }
    Ok(())
}

async fn show(planner: &Planner, query: PlannedQuery) -> Result<()> {
    let state = planner.state();
    let compiled = || compile(query.plan.clone(), asked(&query), state);
    if query.explain {
        let compiled = compiled().await.map_err(|r| r.at(&query))?;
        say!("{}", crate::check::describe_plan(&compiled));
        return Ok(());
    }
    if is_followed(&query.plan)? {
        let compiled = compiled().await.map_err(|r| r.at(&query))?;
        return live(LiveQuery::start(compiled).await?).await;
    }
    let failed = |e| query.error(&e);
    let rejected = RejectedRows::default();
    let rows = answer_and_note(query.plan.clone(), state, &BTreeMap::new(), &rejected).await;
    let mut rows = rows.map_err(failed)?;
    let schema = rows.schema();
    let mut shown = vec![];
    let (mut count, mut more) = (0, false);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|e| query.error_of_run(&e))?;
        let room = ROWS_MAX.saturating_sub(count);
        more |= batch.num_rows() > room;
        shown.push(batch.slice(0, batch.num_rows().min(room)));
        count += batch.num_rows();
    }
    if shown.is_empty() {
        shown.push(arrow::array::RecordBatch::new_empty(schema));
    }
    say!("{}", render(&shown)?);
    let note = if more { format!(", the first {ROWS_MAX} are shown") } else { String::new() };
    say!("{count} row{}{note}", if count == 1 { "" } else { "s" });
    if let Some((count, first)) = rejected.summary() {
        let rows = if count == 1 { "row was" } else { "rows were" };
        say!("{} {rows} rejected, by the columns that the query reads; first {first}", thousands(count));
    }
    Ok(())
}

/// Shows what a query over a followed source answers until a signal: in place on a terminal, else change by change.
async fn live(mut query: LiveQuery) -> Result<()> {
    if std::io::stdout().is_terminal() {
        return crate::live::show(query).await;
    }
    say!("a source is followed: changes are shown as they come, Ctrl-C ends");
    let mut signals = crate::signals::Signals::listen()?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut rejected = 0;
    loop {
        let heard = tokio::select! {
            rows = query.next() => match rows? {
                Some(rows) => say!("{}", render(&[rows])?),
                None => return Ok(()),
            },
            _ = tick.tick() => match query.rejected() {
                now if now > rejected => {
                    rejected = now;
                    say!("{} rows were rejected so far", thousands(now))
                }
                _ => true,
            },
            () = signals.received() => return query.stop().await,
        };
        if !heard {
            return query.stop().await;
        }
    }
}

async fn prompt(planner: &mut Planner) -> Result<()> {
    let no_prompt = |e| Error::config("the terminal can't be read").caused_by(e);
    let mut editor = DefaultEditor::new().map_err(no_prompt)?;
    let history = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".millstream_history"));
    if let Some(history) = &history {
        // The first time there is none.
        let _ = editor.load_history(history);
    }
    say!("millstream {}; end a statement with ; and leave with Ctrl-D", env!("CARGO_PKG_VERSION"));
    let mut text = String::new();
    loop {
        let line = match editor.readline(if text.is_empty() { "millstream> " } else { "        -> " }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                text.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(no_prompt(error)),
        };
        text.push_str(&line);
        text.push('\n');
        if !line.trim_end().ends_with(';') {
            continue;
        }
        let statement = std::mem::take(&mut text);
        let _ = editor.add_history_entry(statement.trim());
        if let Err(error) = execute(planner, "prompt", &statement).await {
            say!("error: {error}");
        }
    }
    if let Some(history) = &history {
        let _ = editor.save_history(history);
    }
    Ok(())
}
