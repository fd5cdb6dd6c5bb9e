//! From a file of SQL to DataFusion's logical plans.
//!
//! [`Planner::plan`] parses a text ([`parser`]), keeps what it declares in a [`Catalog`], and answers the
//! queries that are to be run as plans: types checked, columns matched to their sink, nothing optimized. It
//! reads no data; a source is opened when a query first names it. Whatever is wrong is said with its place in
//! the text ([`diagnostic`]). What can be planned but has no meaning on a stream is refused later, by `plan`.

mod as_of;
mod casts;
pub mod catalog;
mod declare;
pub mod diagnostic;
pub mod functions;
mod insert;
mod map_access;
mod merged;
mod misread;
mod names;
mod not_in;
mod option_place;
pub mod parser;
mod planned;
mod planner_errors;
pub mod session_state;
mod set_functions;
mod simplify;
mod tables;
#[cfg(test)]
mod tests;
mod unnest;
mod window_functions;

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};
use millstream_core::Result;
use millstream_io::TableSpec;

pub use as_of::{AsOfTime, joins as joins_as_of, table_of};
pub use catalog::{BuiltIn, Catalog, Connectors, ImpliedTables, LookupConnectors};
pub use diagnostic::{SourceText, SqlError};
pub use not_in::NotInWithConditions;
pub use parser::{Emit, StateHint};
pub use planned::PlannedQuery;
pub use planner_errors::{SUBQUERY, asks_queries, of_optimizer};
pub use session_state::session_state;
pub use simplify::Simplify;
pub use tables::{AsOfTable, Declared, Reading, StreamTable, Watermark};

use crate::settings::Settings;
use crate::stack::on_large_stack;
use names::Names;
use option_place::OptionPlaces;
use parser::{CreateView, Dropped, Existing, Insert, Parsed, Statement, StreamQuery};

/// What a text of SQL asks for.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    /// What SET says at the end of the text.
    pub settings: Settings,
    /// The declared tables, in the order of their names.
    pub tables: Vec<TableSpec>,
    /// The queries, in the order of the text.
    pub queries: Vec<PlannedQuery>,
}

/// Plans texts of SQL, one after the other, over one catalog.
#[derive(Debug)]
pub struct Planner {
    state: SessionState,
    catalog: Catalog,
    settings: Settings,
}

impl Planner {
    /// A planner with an empty catalog. Relative paths are relative to `base_dir`.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Bug`] where the session can't be set up.
    pub fn new(connectors: Arc<dyn Connectors>, base_dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::with_state(session_state()?, connectors, base_dir))
    }

    /// The same over a session of the caller's, which began as [`session_state()`]: with functions of its own.
    pub fn with_state(state: SessionState, connectors: Arc<dyn Connectors>, base_dir: impl Into<PathBuf>) -> Self {
        Self { state, catalog: Catalog::new(connectors, base_dir), settings: Settings::default() }
    }

    /// The tables and views.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The tables and views, to add tables that need no declaration.
    pub fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// The session that plans were made with.
    pub fn state(&self) -> &SessionState {
        &self.state
    }

    /// The session, to add functions to.
    pub fn state_mut(&mut self) -> &mut SessionState {
        &mut self.state
    }

    /// Takes in a text: what it declares stays, what it asks is answered. `name` is what errors call it.
    ///
    /// # Errors
    /// The first thing that is wrong with it, with its place. What was declared before that place stays.
    pub fn plan(&mut self, name: &str, text: &str) -> Result<Pipeline> {
        on_large_stack(|| self.plan_here(name, text))?
    }

    fn plan_here(&mut self, name: &str, text: &str) -> Result<Pipeline> {
        let source = SourceText::new(name, text);
        let statements = parser::parse(&source).map_err(|e| source.error_of(&e))?;
        let mut queries: Vec<PlannedQuery> = vec![];
        let mut options = OptionPlaces::default();
        for parsed in statements {
            if let Statement::CreateTable(create) = &parsed.statement {
                options.add(create);
            }
            let first = parsed.tokens.first().map_or(parsed.span, |t| t.span);
            let planned = self.statement(&parsed).map_err(|e| source.error_of(&options.locate(e).or_at(first)))?;
            let Some(Planned { name, sink, emit, explain, plan }) = planned else { continue };
            let (span, sql) = (parsed.span, source.slice(parsed.span).to_string());
            let (source, tokens, hints) = (Arc::clone(&source), parsed.tokens, parsed.hints);
            let name = free_name(&name, &queries);
            let settings = self.settings.clone();
            let options = OptionPlaces::default();
            queries.push(PlannedQuery {
                name,
                sql,
                sink,
                emit,
                explain,
                settings,
                hints,
                plan,
                source,
                span,
                tokens,
                options,
            });
        }
        queries.iter_mut().for_each(|query| query.options = options.clone());
        Ok(Pipeline { settings: self.settings.clone(), tables: self.catalog.declared(), queries })
    }

    fn statement(&mut self, parsed: &Parsed) -> Result<Option<Planned>, SqlError> {
        let runs = matches!(parsed.statement, Statement::Insert(_) | Statement::Query(_) | Statement::Explain(_));
        if let (false, Some(hint)) = (runs, parsed.hints.first()) {
            let reason =
                "STATE_TTL belongs to the query that is run: put it into the INSERT or the SELECT that reads this";
            return Err(SqlError::new(hint.span, reason));
        }
        match &parsed.statement {
            Statement::CreateTable(create) => {
                if self.is_free(&create.name.value, create.existing, create.name.span)? {
                    let table = declare::declare(create, &self.names(), &self.catalog, &parsed.tokens)?;
                    self.catalog.declare(table);
                }
                Ok(None)
            }
            Statement::CreateView(create) => {
                if self.is_free(&create.name.value, create.existing, create.name.span)? {
                    let plan = self.view(create, &parsed.tokens)?;
                    self.catalog.add_view(&create.name.value, plan);
                }
                Ok(None)
            }
            Statement::CreateFunction(name) => {
                if self.state.scalar_functions().contains_key(&name.value.to_ascii_lowercase()) {
                    return Ok(None);
                }
                let reason = format!("the function '{}' is not built in, and Java classes can't be loaded", name.value);
                Err(SqlError::new(name.span, reason))
            }
            Statement::Set { key, value } => {
                self.settings.set(key, value)?;
                Ok(None)
            }
            Statement::Reset(key) => {
                self.settings.reset(key)?;
                Ok(None)
            }
            Statement::Drop { what, name, if_exists } => self.drop(*what, name, *if_exists).map(|()| None),
            Statement::Explain(inner) => {
                let planned = self.query(inner, &parsed.tokens)?;
                Ok(planned.map(|planned| Planned { explain: true, ..planned }))
            }
            query => self.query(query, &parsed.tokens),
        }
    }

    fn drop(&mut self, what: Dropped, name: &Ident, if_exists: bool) -> Result<(), SqlError> {
        let there = match self.catalog.is_view(&name.value) {
            Some(true) => Some(Dropped::View),
            Some(false) => Some(Dropped::Table),
            None => None,
        };
        match there {
            Some(there) if there == what => {
                self.catalog.remove(&name.value);
                Ok(())
            }
            _ if if_exists => Ok(()),
            Some(there) => Err(SqlError::new(
                name.span,
                format!("'{}' is no {what} but a {there}: write DROP {}", name.value, there.to_string().to_uppercase()),
            )),
            None => Err(SqlError::new(name.span, format!("there is no {what} '{}'", name.value))),
        }
    }

    fn query(&self, statement: &Statement, tokens: &[TokenWithSpan]) -> Result<Option<Planned>, SqlError> {
        match statement {
            Statement::Insert(insert) => self.insert(insert, tokens).map(Some),
            Statement::Query(query) => {
                let plan = self.plan_query(query, tokens)?;
                let name = "query".to_string();
                Ok(Some(Planned { name, sink: None, emit: query.emit, explain: false, plan }))
            }
            _ => Ok(None),
        }
    }

    fn insert(&self, insert: &Insert, tokens: &[TokenWithSpan]) -> Result<Planned, SqlError> {
        let table = self.catalog.sink(&insert.table.value).map_err(|e| e.or_at(insert.table.span))?;
        let plan = match self.plan_query(&insert.query, tokens) {
            // Columns are matched by position: two of one name are two columns.
            Err(error) => match insert::with_names(&insert.query) {
                Some(named) => self.plan_query(&named, tokens).map_err(|_| error)?,
                None => return Err(error),
            },
            Ok(plan) => plan,
        };
        let plan = insert::into_table(plan, insert, &table)?;
        Ok(Planned { name: table.name.clone(), sink: Some(table), emit: insert.query.emit, explain: false, plan })
    }

    fn view(&self, create: &CreateView, tokens: &[TokenWithSpan]) -> Result<LogicalPlan, SqlError> {
        let plan = self.plan_query(&create.query, tokens)?;
        if create.columns.is_empty() {
            return Ok(plan);
        }
        let columns = plan.schema().columns();
        if columns.len() != create.columns.len() {
            let reason =
                format!("the view names {} columns, but its query has {}", create.columns.len(), columns.len());
            return Err(SqlError::new(create.name.span, reason));
        }
        let renamed = columns.into_iter().zip(&create.columns).map(|(c, name)| Expr::Column(c).alias(&name.value));
        let plan = LogicalPlanBuilder::from(plan).project(renamed).and_then(LogicalPlanBuilder::build);
        plan.map_err(|e| SqlError::from_datafusion(&e, tokens))
    }

    fn plan_query(&self, query: &StreamQuery, tokens: &[TokenWithSpan]) -> Result<LogicalPlan, SqlError> {
        let failed = |e: DataFusionError| SqlError::from_datafusion(&e, tokens);
        let query = merged::columns(&query.query, &self.names())?;
        let plan = match (self.names().plan(query.clone()), parser::by_alias(&query)) {
            (Err(_), Some(qualified)) => self.names().plan(qualified).map_err(failed)?,
            (plan, _) => plan.map_err(failed)?,
        };
        let plan = unnest::beside_rows(plan).and_then(as_of::joins).map_err(failed)?;
        misread::check(&plan, tokens)?;
        // Types are checked now, while the text is at hand; the plan stays as it is, because what `now()` means
        // must be settled before it is analyzed.
        self.state
            .analyzer()
            .execute_and_check(plan.clone(), self.state.config_options(), |_, _| {})
            .map_err(failed)?;
        Ok(plan)
    }

    fn names(&self) -> Names<'_> {
        Names::new(&self.state, &self.catalog)
    }

    /// Whether CREATE is to go on.
    fn is_free(&self, name: &str, existing: Existing, span: Span) -> Result<bool, SqlError> {
        match (self.catalog.contains(name), existing) {
            (true, Existing::Keep) => Ok(false),
            (true, Existing::Refuse) => Err(SqlError::new(
                span,
                format!("there is a table or view '{name}' already: DROP it, or write IF NOT EXISTS or OR REPLACE"),
            )),
            _ => Ok(true),
        }
    }
}

struct Planned {
    name: String,
    sink: Option<TableSpec>,
    emit: Option<Emit>,
    explain: bool,
    plan: LogicalPlan,
}

/// What is only explained takes no name from what runs.
fn free_name(name: &str, taken: &[PlannedQuery]) -> String {
    let free = |candidate: &String| taken.iter().all(|q| q.explain || q.name != *candidate);
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    std::iter::once(name.to_string()).chain(numbered).find(free).unwrap_or_default()
}

/// What the SETs of a text come to; nothing is planned.
///
/// # Errors
/// Where it can't be parsed, or a setting is not known.
pub fn settings_of(name: &str, text: &str) -> Result<Settings> {
    let source = SourceText::new(name, text);
    let mut settings = Settings::default();
    for parsed in parser::parse(&source).map_err(|e| source.error_of(&e))? {
        let first = parsed.tokens.first().map_or(parsed.span, |t| t.span);
        let done = match &parsed.statement {
            Statement::Set { key, value } => settings.set(key, value),
            Statement::Reset(key) => settings.reset(key),
            _ => Ok(()),
        };
        done.map_err(|e| source.error_of(&SqlError::from(e).or_at(first)))?;
    }
    Ok(settings)
}

/// Plans one text over an empty catalog.
///
/// # Errors
/// The first thing that is wrong with it, with its place.
pub fn plan_file(
    name: &str,
    text: &str,
    base_dir: impl Into<PathBuf>,
    connectors: Arc<dyn Connectors>,
) -> Result<Pipeline> {
    Planner::new(connectors, base_dir)?.plan(name, text)
}
