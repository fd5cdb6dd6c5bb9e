//! What a name in FROM or INSERT INTO means: declared tables, views, and files by their path.
//!
//! A declared table is opened when a query first reads it, and not before: one that is only written to never
//! is. DataFusion's planner gets a [`StreamTable`] to scan.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DataFusionError;
use datafusion::datasource::{TableProvider, provider_as_source};
use datafusion::logical_expr::{LogicalPlan, TableSource};
use millstream_core::Result;
use millstream_core::lookup::LookupTable;
use millstream_core::sink::{OutputKind, Sink};
use millstream_core::source::SourceTable;
use millstream_io::{Options, TableSpec};

use super::diagnostic::{SqlError, did_you_mean};
use super::parser::AS_OF;
use super::tables::{AsOfTable, Declared, Derived, Reading, StreamTable, scanned};
use crate::changelog::without_weight;

/// Opens what CREATE TABLE declares. Implement it to add connectors.
pub trait Connectors: Send + Sync + Debug {
    /// The source that the table's options describe; its schema is the table's.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing, wrong or unknown.
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>>;

    /// The table that a path in FROM stands for, with the columns its files seem to have.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] where there is no such file, or none that tells its columns.
    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec>;

    /// The sink that the table's options describe, for one query; not yet opened. `schema` is what will be published,
    /// with the `op` column where the output is a changelog.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing, wrong or unknown, or the sink can't take
    /// what the query answers.
    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>>;

    /// Those whose tables are looked up by key, where there are any.
    fn lookups(&self) -> Option<&dyn LookupConnectors> {
        None
    }
}

/// The connectors whose tables are looked up by key. Implement it beside [`Connectors`].
pub trait LookupConnectors: Send + Sync + Debug {
    /// Whether the table's connector is one of them.
    fn is_lookup(&self, table: &TableSpec) -> bool;

    /// The table as one that is looked up by these columns; the answers have the columns of `table`.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is missing, wrong or unknown, or it can't be looked up by
    /// these columns.
    fn lookup(&self, table: &TableSpec, key: &[String]) -> Result<Arc<dyn LookupTable>>;
}

/// The connectors that need no service.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltIn;

impl Connectors for BuiltIn {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn SourceTable>> {
        millstream_io::source::source_table(table)
    }

    fn infer(&self, path: &str, base_dir: &Path) -> Result<TableSpec> {
        millstream_io::source::infer_table(path, base_dir)
    }

    fn sink(&self, table: &TableSpec, query: &str, kind: OutputKind, schema: SchemaRef) -> Result<Box<dyn Sink>> {
        millstream_io::sink::sink(table, query, kind, schema)
    }
}

enum Entry {
    Declared { table: Declared, opened: Option<Arc<dyn TableSource>> },
    View(LogicalPlan),
    Provider(Arc<dyn TableProvider>),
}

impl Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Declared { .. } => "Declared",
            Self::View(_) => "View",
            Self::Provider(_) => "Provider",
        })
    }
}

/// The names that SQL can use.
#[derive(Debug)]
pub struct Catalog {
    entries: Mutex<BTreeMap<String, Entry>>,
    connectors: Arc<dyn Connectors>,
    base_dir: PathBuf,
    implied: Option<Arc<dyn ImpliedTables>>,
}

/// Tables that nobody declares and that are there all the same.
pub trait ImpliedTables: Send + Sync + Debug {
    /// The source of this name, where it is one of them.
    fn table(&self, name: &str) -> Option<Arc<dyn SourceTable>>;
}

impl Catalog {
    /// No names yet. Relative paths are relative to `base_dir`.
    pub fn new(connectors: Arc<dyn Connectors>, base_dir: impl Into<PathBuf>) -> Self {
        Self { entries: Mutex::default(), connectors, base_dir: base_dir.into(), implied: None }
    }

    /// Adds tables that need no declaration.
    pub fn imply(&mut self, tables: Arc<dyn ImpliedTables>) {
        self.implied = Some(tables);
    }

    /// What relative paths are relative to.
    pub fn base_dir(&self) -> &Path {
        &self.base_dir
    }

    /// Whether the name is taken.
    pub fn contains(&self, name: &str) -> bool {
        self.entries().contains_key(name)
    }

    /// Whether the name is a view's; `None` where it is nobody's.
    pub fn is_view(&self, name: &str) -> Option<bool> {
        self.entries().get(name).map(|entry| matches!(entry, Entry::View(_)))
    }

    /// All names, in order.
    pub fn names(&self) -> Vec<String> {
        self.entries().keys().cloned().collect()
    }

    /// Adds a declared table, in the place of what had its name.
    pub fn declare(&self, table: Declared) {
        self.entries().insert(table.spec.name.clone(), Entry::Declared { table, opened: None });
    }

    /// Adds a view, in the place of what had its name.
    pub fn add_view(&self, name: impl Into<String>, plan: LogicalPlan) {
        self.entries().insert(name.into(), Entry::View(plan));
    }

    /// Adds a table that is not declared in SQL: a stream of the caller's own ([`StreamTable`]), or any of
    /// DataFusion's tables.
    pub fn add_provider(&self, name: impl Into<String>, table: Arc<dyn TableProvider>) {
        self.entries().insert(name.into(), Entry::Provider(table));
    }

    /// Removes a name; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        self.entries().remove(name).is_some()
    }

    /// The table that an INSERT writes to.
    ///
    /// # Errors
    /// Where there is none of this name, or it can't be written to.
    pub fn sink(&self, name: &str) -> Result<TableSpec, SqlError> {
        let entries = self.entries();
        match entries.get(name) {
            Some(Entry::Declared { table, .. }) => Ok(table.spec.clone()),
            Some(Entry::View(_)) => {
                Err(SqlError::somewhere(format!("'{name}' is a view: INSERT INTO a table declared with CREATE TABLE")))
            }
            Some(Entry::Provider(_)) => {
                Err(SqlError::somewhere(format!("'{name}' can only be read: declare a sink with CREATE TABLE")))
            }
            None => Err(not_found(name, &entries)),
        }
    }

    /// Every declared table.
    pub fn declared(&self) -> Vec<TableSpec> {
        let spec = |entry: &Entry| match entry {
            Entry::Declared { table, .. } => Some(table.spec.clone()),
            _ => None,
        };
        self.entries().values().filter_map(spec).collect()
    }

    /// What FROM reads.
    ///
    /// # Errors
    /// Where there is nothing of this name, or its source can't be opened.
    pub fn table(&self, name: &str) -> Result<Arc<dyn TableSource>, SqlError> {
        if let Some(table) = name.strip_suffix(AS_OF) {
            return self.table_as_of(table);
        }
        let mut entries = self.entries();
        match entries.get_mut(name) {
            Some(Entry::Declared { opened: Some(table), .. }) => Ok(Arc::clone(table)),
            Some(Entry::Declared { table, opened }) => {
                let source = self.open(table)?;
                *opened = Some(Arc::clone(&source));
                Ok(source)
            }
            Some(Entry::View(plan)) => Ok(Arc::new(Derived::new(plan.clone()))),
            Some(Entry::Provider(provider)) => Ok(provider_as_source(Arc::clone(provider))),
            None if let Some(source) = self.implied.as_ref().and_then(|implied| implied.table(name)) => {
                let provider = Arc::new(self.implied_table(name, source));
                entries.insert(name.to_string(), Entry::Provider(provider.clone()));
                Ok(provider_as_source(provider))
            }
            None if !is_path(name) => Err(not_found(name, &entries)),
            None => {
                let spec = self.connectors.infer(name, &self.base_dir)?;
                let table = Declared {
                    spec: TableSpec { name: name.to_string(), ..spec },
                    watermark: None,
                    projection: vec![],
                };
                let source = self.open(&table)?;
                entries.insert(name.to_string(), Entry::Declared { table, opened: Some(Arc::clone(&source)) });
                Ok(source)
            }
        }
    }

    /// The table that `FOR SYSTEM_TIME AS OF` reads.
    fn table_as_of(&self, name: &str) -> Result<Arc<dyn TableSource>, SqlError> {
        let only_names = |what: &str| {
            Err(SqlError::somewhere(format!(
                "'{name}' is {what}, and FOR SYSTEM_TIME AS OF reads a table: declare it with CREATE TABLE .. WITH (..)"
            )))
        };
        let entries = self.entries();
        let table = match entries.get(name) {
            Some(Entry::Declared { table, .. }) => table.clone(),
            Some(Entry::View(_)) => return only_names("a view"),
            Some(Entry::Provider(provider)) => {
                let Some(table) = (provider.as_ref() as &dyn Any).downcast_ref::<StreamTable>() else {
                    return only_names("no table of a stream");
                };
                let (spec, watermark) = (table.spec.clone(), table.watermark.clone());
                let reading = Reading::Rows(Arc::clone(&table.source));
                return Ok(provider_as_source(Arc::new(AsOfTable { spec, watermark, reading })));
            }
            None if is_path(name) => return only_names("a path"),
            None => return Err(not_found(name, &entries)),
        };
        let keyed = self.connectors.lookups().is_some_and(|lookups| lookups.is_lookup(&table.spec));
        let reading = match keyed {
            true => Reading::Keys(Arc::clone(&self.connectors)),
            false => Reading::Rows(self.connectors.source(&table.spec).map_err(|e| e.at(format!("table '{name}'")))?),
        };
        let provider = AsOfTable { spec: table.spec.clone(), watermark: table.watermark.clone(), reading };
        scanned(name, &table, provider_as_source(Arc::new(provider)))
    }

    fn implied_table(&self, name: &str, source: Arc<dyn SourceTable>) -> StreamTable {
        let spec = TableSpec {
            name: name.to_string(),
            schema: without_weight(&source.schema()),
            options: Options::default(),
            partitioned_by: vec![],
            primary_key: vec![],
            base_dir: self.base_dir.clone(),
        };
        StreamTable { name: name.to_string(), spec, watermark: None, source }
    }

    fn open(&self, table: &Declared) -> Result<Arc<dyn TableSource>, SqlError> {
        let name = table.spec.name.clone();
        let source = self.connectors.source(&table.spec).map_err(|e| e.at(format!("table '{name}'")))?;
        let spec = table.spec.clone();
        let provider = Arc::new(StreamTable { name: name.clone(), spec, watermark: table.watermark.clone(), source });
        scanned(&name, table, provider_as_source(provider))
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(name: &str, entries: &BTreeMap<String, Entry>) -> SqlError {
    let names = || entries.keys().map(String::as_str);
    let known = match (entries.len(), did_you_mean(name, names())) {
        (0, _) => "; no table is declared: CREATE TABLE comes first, or read a file by its path in quotes".to_string(),
        (1..=20, hint) if hint.is_empty() => format!("; there are {}", names().collect::<Vec<_>>().join(", ")),
        (_, hint) => hint,
    };
    SqlError::somewhere(format!("there is no table '{name}'{known}"))
}

/// Whether a name in FROM is the path of files rather than that of a table.
fn is_path(name: &str) -> bool {
    name.contains(['/', '*', '?', '\\'])
        || name.rsplit_once('.').is_some_and(|(stem, end)| !stem.is_empty() && !end.is_empty())
}

impl From<SqlError> for Box<DataFusionError> {
    fn from(error: SqlError) -> Self {
        Box::new(error.into())
    }
}
