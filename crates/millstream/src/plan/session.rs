//! SESSION, made incremental: the rows of a session go out when it closes, or as it changes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::incremental::{ColumnFact, Edge, EmitMode, Rewrite, Rewritten};
use super::nodes::extension;
use super::refuse::Refusal;
use crate::changelog::WEIGHT;
use crate::exec::EmitMode as SessionEmit;
use crate::window::{Length, SessionTable, WindowPart};

/// Sessions whose rows are kept from batch to batch.
#[derive(Clone, Debug)]
pub struct StreamSession {
    /// The rows and their sessions.
    pub table: SessionTable,
    /// When rows go out.
    pub emit: SessionEmit,
    /// How far rows can be behind the frontier when they come: a session closes so much later. In microseconds.
    pub lag_us: i64,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called.
    pub name: String,
}

impl Rewrite {
    /// SESSION in FROM.
    pub(super) fn session(&self, node: &SessionTable) -> Rewritten {
        let input = self.node(&node.input)?;
        if input.changelog {
            return Err(Refusal::new(
                "SESSION",
                "a session over a result that changes has no end: a row of a closed session could still be taken back",
                "put the session on the rows themselves, or aggregate per window first",
            ));
        }
        let Some(lag_us) = input.lag_us else {
            return Err(Refusal::new(
                "SESSION",
                "a session over a join that keeps its rows for ever never knows when it has them all",
                "bound the join in event time (b.ts BETWEEN a.ts AND a.ts + INTERVAL ..)",
            ));
        };
        let table = SessionTable::try_new(input.plan, node.time.clone(), node.keys.clone(), node.gap_us)?;
        let spec = table.spec();
        let emit = if self.emit == EmitMode::Changes { SessionEmit::Changes } else { SessionEmit::OnClose };
        // A row is as old as its session when it comes out: of its own columns none is its event time any more.
        let mut facts = vec![ColumnFact::Plain; input.facts.len()];
        let parts = [WindowPart::Start, WindowPart::End, WindowPart::Time];
        facts.extend(parts.map(|part| ColumnFact::Window { part, spec, of_rows: false }));
        let name = {
            let keys: Vec<String> = table.keys.iter().map(|k| k.flat_name()).collect();
            let (gap, input) = (table.gap_us, table.input.display_indent());
            let text = format!("{}|{}|{gap}|{emit:?}|{input}", table.time, keys.join(","));
            format!("session-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
        };
        let changelog = emit == SessionEmit::Changes;
        if changelog {
            facts.push(ColumnFact::Plain);
        }
        let plan = extension(StreamSession::try_new(table, emit, lag_us, name)?);
        Ok(Edge { plan, changelog, key: None, facts, lag_us: Some(lag_us) })
    }
}

impl StreamSession {
    fn try_new(table: SessionTable, emit: SessionEmit, lag_us: i64, name: String) -> Result<Self> {
        let mut schema = Arc::clone(&table.schema);
        if emit == SessionEmit::Changes {
            let mut fields: Vec<_> = schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
            fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
            schema = Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?);
        }
        Ok(Self { table, emit, lag_us, schema, name })
    }

    /// What is kept, and for how long, for a person.
    pub fn describe(&self) -> String {
        let keys: Vec<String> = self.table.keys.iter().map(|k| k.name.clone()).collect();
        let keys = if keys.is_empty() { String::new() } else { format!(" by ({})", keys.join(", ")) };
        let emit = match self.emit {
            SessionEmit::OnClose => "put out once, on close",
            SessionEmit::Changes => "put out as they change",
        };
        let gap = Length(self.table.gap_us);
        format!(
            "{}: the rows of open sessions{keys}, until the watermark is {gap} past a session's last row; {emit}",
            self.name
        )
    }

    fn identity(&self) -> (&SessionTable, SessionEmit, &String) {
        (&self.table, self.emit, &self.name)
    }
}

impl PartialEq for StreamSession {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamSession {}

impl PartialOrd for StreamSession {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamSession {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamSession {
    fn name(&self) -> &str {
        "StreamSession"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.table.inputs()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.table.expressions()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let keys: Vec<String> = self.table.keys.iter().map(|k| k.flat_name()).collect();
        let (gap, time) = (Length(self.table.gap_us), &self.table.time);
        write!(
            f,
            "StreamSession: gap {gap} over {time} by [{}], emit={:?}, state={}",
            keys.join(", "),
            self.emit,
            self.name
        )
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        if inputs.len() != 1 {
            return internal_err!("sessions have one input");
        }
        let table = self.table.with_exprs_and_inputs(exprs, inputs)?;
        Self::try_new(table, self.emit, self.lag_us, self.name.clone())
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        self.table.necessary_children_exprs(output_columns)
    }
}
