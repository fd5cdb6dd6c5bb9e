//! The table that is written to: created where that is asked for, and compared with the query before the first batch.

use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_core::{Error, Result};
use millstream_io::options::nearest;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use crate::failure::failed;
use crate::name::{TableName, quoted};
use crate::wire::{PgType, Wire, created, fit, meant, sql_name};

/// What the query will publish.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The columns, without `op`.
    pub(crate) schema: SchemaRef,
    /// The columns as the table was declared; they say what is NOT NULL.
    pub(crate) declared: SchemaRef,
    /// The columns of the PRIMARY KEY.
    pub(crate) key: Vec<String>,
}

impl Wanted {
    /// Whether the declaration says NOT NULL, as a key does.
    fn never_null(&self, field: &Field) -> bool {
        let declared = self.declared.field_with_name(field.name()).ok();
        self.key.contains(field.name()) || !declared.is_none_or(Field::is_nullable)
    }
}

/// A table of the server, by the name that it has there.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    oid: u32,
    /// Its schema and name in quotes.
    pub(crate) name: String,
    /// The name of its schema.
    pub(crate) schema_name: String,
}

/// A column that is written.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) wire: Wire,
    /// The parameter type of one value, of many, and its number.
    pub(crate) one: Type,
    pub(crate) many: Type,
    pub(crate) oid: u32,
    pub(crate) not_null: bool,
}

/// A column of the server.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    not_null: bool,
    /// As the server writes it, with its modifier.
    type_text: String,
    generated: bool,
    has_default: bool,
    deterministic: bool,
    pg: PgType,
}

impl Table {
    /// Finds the table, by the search path where its schema was not said.
    pub(crate) async fn find(client: &Client, name: &TableName) -> Result<Option<Self>> {
        const SQL: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass($1)";
        let found = client.query_typed(SQL, &[(&name.to_string(), Type::TEXT)]).await;
        let rows = found.map_err(|e| failed(format_args!("the table {name} can't be looked for"), e))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (oid, schema, table, kind): (u32, String, String, String) =
            (value(row, 0)?, value(row, 1)?, value(row, 2)?, value(row, 3)?);
        if kind != "r" && kind != "p" {
            return Err(Error::config(format!(
                "{name} is no table but a view, a foreign table or the like, which can't take rows and a marker in one \
                 transaction: name a table"
            )));
        }
        let name = format!("{}.{}", quoted(&schema), quoted(&table));
        Ok(Some(Self { oid, name, schema_name: schema }))
    }

    /// Creates the table for what is wanted.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a column has no type there.
    pub(crate) async fn create(client: &Client, name: &TableName, wanted: &Wanted) -> Result<()> {
        let mut parts = Vec::new();
        for field in wanted.schema.fields() {
            let kind = created(field.data_type()).ok_or_else(|| {
                Error::config(format!(
                    "the column '{}' is {}, for which PostgreSQL has no type: CAST it to STRING in the query",
                    field.name(),
                    sql_name(field.data_type())
                ))
            })?;
            let null = if wanted.never_null(field) { " NOT NULL" } else { "" };
            parts.push(format!("{} {kind}{null}", quoted(field.name())));
        }
        if !wanted.key.is_empty() {
            let key: Vec<_> = wanted.key.iter().map(|column| quoted(column)).collect();
            parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        // Room for a new version of every row beside the old one: a batch that updates all rows of a page leaves the indexes
        // alone, which costs the server two thirds of what it costs with 70.
        let room = if wanted.key.is_empty() { "" } else { " WITH (fillfactor = 50)" };
        create_once(client, &format!("CREATE TABLE IF NOT EXISTS {name} ({}){room}", parts.join(", ")))
            .await
            .map_err(|e| e.at(format_args!("the table {name}")))
    }

    /// Compares the table with what will be published.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] that names the column, both types and the remedy.
    pub(crate) async fn check(&self, client: &Client, wanted: &Wanted) -> Result<(Vec<Target>, Option<u32>)> {
        let columns = self.columns(client).await?;
        let targets = wanted.schema.fields().iter().map(|field| self.target(field, wanted, &columns));
        let targets = targets.collect::<Result<Vec<_>>>()?;
        for column in &columns {
            let written = wanted.schema.field_with_name(&column.name).is_ok();
            if !written && column.not_null && !column.has_default && !column.generated {
                return Err(Error::config(format!(
                    "the column {} of the table {} is NOT NULL without a default, and the query does not write it: add it \
                     to the query, or ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL",
                    quoted(&column.name),
                    self.name,
                    self.name,
                    quoted(&column.name)
                )));
            }
        }
        let index = match wanted.key.is_empty() {
            true => None,
            false => Some(self.check_key(client, wanted, &columns).await?),
        };
        Ok((targets, index))
    }

    fn target(&self, field: &Field, wanted: &Wanted, columns: &[Column]) -> Result<Target> {
        let (table, quoted_name) = (&self.name, quoted(field.name()));
        let Some(column) = columns.iter().find(|column| column.name == *field.name()) else {
            let hint = nearest(field.name(), columns.iter().map(|column| column.name.as_str()));
            let hint = hint.map(|near| format!(" (there is '{near}')")).unwrap_or_default();
            let kind = created(field.data_type()).unwrap_or_else(|| "text".into());
            return Err(Error::config(format!(
                "the table {table} has no column {quoted_name}{hint}: rename it in the query and in CREATE TABLE, or ALTER \
                 TABLE {table} ADD COLUMN {quoted_name} {kind}"
            )));
        };
        if column.generated {
            return Err(Error::config(format!(
                "the column {quoted_name} of the table {table} is generated by PostgreSQL: leave it out of the query"
            )));
        }
        let Some(wire) = fit(field.data_type(), &column.pg) else {
            return Err(self.mismatch(field, column));
        };
        if column.not_null && !wanted.never_null(field) {
            return Err(Error::config(format!(
                "the column {quoted_name} of the table {table} is NOT NULL, and the query may give NULL: declare it \
                 '{} {} NOT NULL' in CREATE TABLE, or ALTER TABLE {table} ALTER COLUMN {quoted_name} DROP NOT NULL",
                field.name(),
                sql_name(field.data_type())
            )));
        }
        let pg = &column.pg;
        Ok(Target {
            name: field.name().clone(),
            one: parameter(&pg.name, pg.oid),
            many: parameter(&format!("_{}", pg.name), pg.array_oid),
            oid: pg.oid,
            not_null: column.not_null,
            wire,
        })
    }

    /// The types of these columns, and as the server writes them.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where one is not there.
    pub(crate) async fn types(&self, client: &Client, schema: &SchemaRef) -> Result<Vec<(PgType, String)>> {
        let columns = self.columns(client).await?;
        let types = schema.fields().iter().map(|field| {
            let column = columns.iter().find(|column| column.name == *field.name());
            let column = column.ok_or_else(|| {
                let hint = nearest(field.name(), columns.iter().map(|column| column.name.as_str()));
                let hint = hint.map(|near| format!(": there is '{near}'")).unwrap_or_default();
                Error::config(format!("the table {} has no column {}{hint}", self.name, quoted(field.name())))
            })?;
            Ok((column.pg.clone(), column.type_text.clone()))
        });
        types.collect()
    }

    /// A column by which is asked.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where its type is no type of a key.
    pub(crate) fn key_target(&self, field: &Field, pg: &PgType, type_text: &str) -> Result<Target> {
        let wire = fit(field.data_type(), pg).filter(|_| pg.is_enum || KEY_TYPES.contains(&pg.name.as_str()));
        let wire = wire.ok_or_else(|| {
            Error::config(format!(
                "the table {} can't be looked up by {}, which is {} in the query and {type_text} there",
                self.name,
                quoted(field.name()),
                sql_name(field.data_type())
            ))
        })?;
        Ok(Target {
            name: field.name().clone(),
            one: parameter(&pg.name, pg.oid),
            many: parameter(&format!("_{}", pg.name), pg.array_oid),
            oid: pg.oid,
            not_null: false,
            wire,
        })
    }

    fn mismatch(&self, field: &Field, column: &Column) -> Error {
        let (table, name) = (&self.name, quoted(field.name()));
        let mut remedies = Vec::new();
        if let Some(meant) = meant(&column.pg) {
            remedies.push(format!("declare it as {meant} in CREATE TABLE and CAST it in the query"));
        }
        if let Some(kind) = created(field.data_type()) {
            remedies.push(format!("ALTER TABLE {table} ALTER COLUMN {name} TYPE {kind}"));
        }
        if remedies.is_empty() {
            remedies.push("CAST it to STRING in the query, into a column of type text".into());
        }
        Error::config(format!(
            "the column {name} is {} in the query and {} in the table {table}, which can't hold every value of it as it is: {}",
            sql_name(field.data_type()),
            column.type_text,
            remedies.join("; or ")
        ))
    }

    async fn columns(&self, client: &Client) -> Result<Vec<Column>> {
        const SQL: &str = "SELECT a.attname::text, a.attnotnull OR t.typnotnull, \
             pg_catalog.format_type(a.atttypid, a.atttypmod), \
             CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END, \
             a.attgenerated <> '' OR a.attidentity = 'a', a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, \
             coalesce(l.collisdeterministic, true), b.oid, b.typarray, b.typname::text, b.typtype = 'e', \
             e.oid, e.typarray, e.typname::text, e.typtype = 'e' \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END \
             LEFT JOIN pg_catalog.pg_type e ON e.oid = b.typelem AND b.typcategory = 'A' \
             LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let rows = client.query_typed(SQL, &[(&self.oid, Type::OID)]).await;
        let rows = rows.map_err(|e| failed(format_args!("the columns of {} can't be read", self.name), e))?;
        rows.iter().map(column).collect()
    }

    /// What ON CONFLICT relies on: a unique index over exactly the key, and the server's equality being ours.
    async fn check_key(&self, client: &Client, wanted: &Wanted, columns: &[Column]) -> Result<u32> {
        const SQL: &str = "SELECT array(SELECT a.attname::text FROM pg_catalog.pg_attribute a \
             WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), i.indexrelid \
             FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid \
             AND i.indpred IS NULL AND i.indexprs IS NULL";
        let key: Vec<_> = wanted.key.iter().map(|column| quoted(column)).collect();
        let key = key.join(", ");
        for name in &wanted.key {
            let column = columns.iter().find(|column| column.name == *name);
            if let Some(column) = column.filter(|column| !may_be_key(column)) {
                return Err(Error::config(format!(
                    "the column {} of type {} can't be part of the PRIMARY KEY of a table that is written to: which keys are \
                     equal there can't be told from their values here. Use text or a number",
                    quoted(name),
                    column.type_text
                )));
            }
        }
        let rows = client.query_typed(SQL, &[(&self.oid, Type::OID)]).await;
        let rows = rows.map_err(|e| failed(format_args!("the keys of {} can't be read", self.name), e))?;
        for row in &rows {
            let columns: Vec<String> = value(row, 0)?;
            if columns.len() == wanted.key.len() && columns.iter().all(|column| wanted.key.contains(column)) {
                return value(row, 1);
            }
        }
        Err(Error::config(format!(
            "the table {} has no primary key or unique index over ({key}), the PRIMARY KEY that was declared: ALTER TABLE {} \
             ADD PRIMARY KEY ({key})",
            self.name, self.name
        )))
    }
}

/// Runs a CREATE .. IF NOT EXISTS, which several may do at the same time.
pub(crate) async fn create_once(client: &Client, sql: &str) -> Result<()> {
    match client.batch_execute(sql).await {
        Ok(()) => Ok(()),
        // Two that create the same thing meet in the catalog, and one is refused: it is there then.
        Err(e) if e.code().is_some_and(|c| matches!(c.code(), "23505" | "42P07" | "42710")) => Ok(()),
        Err(e) => Err(failed("it can't be created", e)),
    }
}

/// A field of a row of the catalog.
pub(crate) fn value<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, n: usize) -> Result<T> {
    row.try_get(n).map_err(|e| failed("PostgreSQL's answer is not understood", e))
}

fn column(row: &Row) -> Result<Column> {
    let modifier = value(row, 3)?;
    let element: Option<u32> = value(row, 11)?;
    let element = match element {
        None => None,
        Some(oid) => Some(Box::new(PgType {
            oid,
            array_oid: value(row, 12)?,
            name: value(row, 13)?,
            is_enum: value(row, 14)?,
            modifier,
            element: None,
        })),
    };
    let pg = PgType {
        oid: value(row, 7)?,
        array_oid: value(row, 8)?,
        name: value(row, 9)?,
        is_enum: value(row, 10)?,
        modifier,
        element,
    };
    Ok(Column {
        name: value(row, 0)?,
        not_null: value(row, 1)?,
        type_text: value(row, 2)?,
        generated: value(row, 4)?,
        has_default: value(row, 5)?,
        deterministic: value(row, 6)?,
        pg,
    })
}

/// The types of which we know what is equal.
const KEY_TYPES: [&str; 15] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "text",
    "varchar",
    "uuid",
    "bytea",
    "date",
    "time",
    "timestamp",
    "timestamptz",
];

fn may_be_key(column: &Column) -> bool {
    column.deterministic && (column.pg.is_enum || KEY_TYPES.contains(&column.pg.name.as_str()))
}

/// The type of a parameter; the client library needs no more of it than its number.
fn parameter(name: &str, oid: u32) -> Type {
    let unknown = || Type::new(name.to_string(), oid, tokio_postgres::types::Kind::Simple, "pg_catalog".to_string());
    Type::from_oid(oid).unwrap_or_else(unknown)
}

/// Whether many values of this form can be one array parameter: an array of arrays is another thing there.
pub(crate) fn can_be_element(wire: &Wire) -> bool {
    !matches!(wire, Wire::Array { .. })
}

/// Whether a type has a place there at all, without asking the server.
pub(crate) fn has_place(data_type: &DataType) -> bool {
    created(data_type).is_some()
}
