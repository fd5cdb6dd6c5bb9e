//! `millstream check`: what is known of every query before it runs, or what is wrong with it.

use std::path::PathBuf;

use clap::Args;
use millstream::Result;
use millstream::core::sink::{Guarantee, OutputKind};
use millstream::core::source::Boundedness;
use millstream::pipeline::{Pipeline, PipelineQuery};
use millstream::plan::{Compiled, describe_nodes, describe_state};

use crate::out::say;

/// Arguments of `check`.
#[derive(Args)]
pub struct Check {
    /// The file of SQL.
    file: PathBuf,
}

impl Check {
    /// Checks every query of the file; nothing is read but what tells a file's schema.
    pub async fn run(self) -> Result<()> {
        let pipeline = Pipeline::load(&self.file, crate::connectors::installed()).await?;
        for query in &pipeline.queries {
            say!("{}", describe(query)?);
        }
        for (name, compiled) in &pipeline.explained {
            say!("{name}: explained, not run\n{}", describe_plan(compiled));
        }
        say!(
            "{}: {} quer{} can run",
            self.file.display(),
            pipeline.queries.len(),
            if pipeline.queries.len() == 1 { "y" } else { "ies" }
        );
        Ok(())
    }
}

/// Everything `check` says of a query.
fn describe(query: &PipelineQuery) -> Result<String> {
    let guarantee = match query.guarantee()? {
        Guarantee::ExactlyOnce => "exactly once",
        Guarantee::EffectivelyOnce => "effectively once: written by key",
        Guarantee::AtLeastOnce => "at least once: the sink keeps no marker",
    };
    Ok(format!("{}\n  sink       {}: {guarantee}\n{}", query.name, query.sink.name, describe_plan(&query.compiled)))
}

/// What is known of a compiled query.
pub fn describe_plan(compiled: &Compiled) -> String {
    let ends = match compiled.boundedness {
        Boundedness::Bounded => "runs until its input ends",
        Boundedness::Followed => "runs for ever: a source is followed",
    };
    let rows = match compiled.kind {
        OutputKind::Append => "insert-only",
        OutputKind::Changelog => "a changelog: its first column is op (+I, -U, +U, -D)",
    };
    let mut out = format!("  answer     {}, {rows}\n  input      {ends}\n", compiled.exactness);
    for line in describe_state(compiled) {
        out.push_str(&format!("  state      {line}\n"));
    }
    for input in &compiled.inputs {
        out.push_str(&format!("  source     {}\n", input.describe()));
    }
    out.push_str("  plan\n");
    for line in describe_nodes(compiled) {
        out.push_str(&format!("    {line}\n"));
    }
    out
}
