//! CREATE TABLE to a declared table: its physical columns, computed columns, event time, key and options.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::DFSchema;
use datafusion::common::metadata::FieldMetadata;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr as SqlExpr, Ident};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use millstream_io::{METADATA_KEY, TableSpec, VIRTUAL_KEY};

use super::casts;
use super::catalog::Catalog;
use super::diagnostic::{SqlError, did_you_mean};
use super::names::Names;
use super::parser::{ColumnKind, CreateTable, Spanned, WatermarkClause};
use super::tables::{Declared, Watermark};
use super::window_functions::interval_us;
use crate::window::{EPOCH_KEY, with_watermark};

/// `json.epoch.<column>` and its kin: the column is a number of these units since 1970 in the source.
const EPOCH_OPTIONS: [&str; 4] = ["json.epoch.", "csv.epoch.", "debezium-json.epoch.", "canal-json.epoch."];

/// The connectors whose tables may have METADATA columns.
const METADATA_CONNECTORS: [&str; 2] = ["kafka", "upsert-kafka"];

/// The table that a CREATE TABLE declares.
pub fn declare(
    create: &CreateTable,
    names: &Names<'_>,
    catalog: &Catalog,
    tokens: &[TokenWithSpan],
) -> Result<Declared, SqlError> {
    check_names(create)?;
    let mut fields = physical_fields(create)?;
    let unmarked = dfschema(&fields)?;
    let watermark = create.watermark.as_ref().map(|clause| delay(clause, names, &unmarked, tokens)).transpose()?;
    let mut projection = vec![];
    let mut event_time = None;
    for column in &create.columns {
        let delay_us = create.watermark.as_ref().filter(|w| w.column.value == column.name.value).and(watermark);
        let expr = match &column.kind {
            ColumnKind::Physical { .. } => {
                if let (Some(delay_us), Some(field)) =
                    (delay_us, fields.iter_mut().find(|f| *f.name() == column.name.value))
                {
                    check_timestamp(field.data_type(), &column.name)?;
                    *field = with_watermark(field, delay_us);
                }
                bare_column(&column.name.value)
            }
            ColumnKind::Computed(expr) => {
                let mut expr = expr.as_ref().clone();
                super::parser::rewrite_expression(&mut expr)?;
                let planned = names.expr(expr, &unmarked).and_then(|expr| casts::exact(expr, &unmarked));
                planned.map_err(|e| SqlError::from_datafusion(&e, tokens))?
            }
        };
        if let Some(delay_us) = delay_us {
            let data_type = expr.get_type(&unmarked).map_err(|e| SqlError::from_datafusion(&e, tokens))?;
            check_timestamp(&data_type, &column.name)?;
            event_time = Some(Watermark { column: column.name.value.clone(), delay_us, expr: expr.clone() });
        }
        projection.push(match (&column.kind, delay_us) {
            (ColumnKind::Physical { .. }, _) => qualified(&create.name, &column.name),
            (ColumnKind::Computed(_), None) => expr.alias(&column.name.value),
            (ColumnKind::Computed(_), Some(delay_us)) => {
                let marked = with_watermark(&Field::new("", DataType::Null, true), delay_us);
                expr.alias_with_metadata(&column.name.value, Some(FieldMetadata::from(&marked)))
            }
        });
    }
    if let (Some(clause), None) = (&create.watermark, &event_time) {
        return Err(no_such_column(&clause.column, create));
    }
    if create.columns.iter().all(|c| matches!(c.kind, ColumnKind::Physical { .. })) {
        projection.clear();
    }
    let idents = |idents: &[Ident]| idents.iter().map(|i| i.value.clone()).collect();
    let spec = TableSpec {
        name: create.name.value.clone(),
        schema: Arc::new(Schema::new(fields)),
        options: create.options.iter().map(|(k, v)| (today(create, &k.node), v.node.clone())).collect(),
        partitioned_by: idents(&create.partitioned_by),
        primary_key: idents(&create.primary_key),
        base_dir: catalog.base_dir().to_path_buf(),
    };
    // Asking makes the names known: they are ours, and no connector's.
    for prefix in EPOCH_OPTIONS {
        spec.options.with_prefix(prefix);
    }
    Ok(Declared { spec, watermark: event_time, projection })
}

/// The name of an option; Flink's first options for files had other names.
fn today(create: &CreateTable, key: &str) -> String {
    let is_old = |(k, v): &(Spanned<String>, Spanned<String>)| k.node == "connector.type" && v.node == "filesystem";
    let key = match key {
        "connector.type" if create.options.iter().any(is_old) => "connector",
        "connector.path" if create.options.iter().any(is_old) => "path",
        "format.type" if create.options.iter().any(is_old) => "format",
        key => key,
    };
    key.to_string()
}

fn dfschema(fields: &[Field]) -> Result<DFSchema, SqlError> {
    DFSchema::try_from(Schema::new(fields.to_vec())).map_err(|e| SqlError::from_datafusion(&e, &[]))
}

fn bare_column(name: &str) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}

fn qualified(table: &Ident, column: &Ident) -> Expr {
    let relation = datafusion::common::TableReference::bare(table.value.as_str());
    Expr::Column(datafusion::common::Column::new(Some(relation), column.value.as_str()))
}

fn check_names(create: &CreateTable) -> Result<(), SqlError> {
    for (n, column) in create.columns.iter().enumerate() {
        if create.columns.iter().take(n).any(|c| c.name.value == column.name.value) {
            return Err(SqlError::new(column.name.span, format!("there are two columns '{}'", column.name.value)));
        }
    }
    for ident in create.primary_key.iter().chain(&create.partitioned_by) {
        if !create.columns.iter().any(|c| c.name.value == ident.value) {
            return Err(no_such_column(ident, create));
        }
    }
    Ok(())
}

fn no_such_column(ident: &Ident, create: &CreateTable) -> SqlError {
    let hint = did_you_mean(&ident.value, create.columns.iter().map(|c| c.name.value.as_str()));
    SqlError::new(ident.span, format!("there is no column '{}' in this table{hint}", ident.value))
}

fn physical_fields(create: &CreateTable) -> Result<Vec<Field>, SqlError> {
    let mut fields = vec![];
    for column in &create.columns {
        let ColumnKind::Physical { data_type, nullable, metadata } = &column.kind else { continue };
        // The columns of a key can't be NULL, whether they say so or not.
        let key = create.primary_key.iter().any(|k| k.value == column.name.value);
        let mut field = Field::new(&column.name.value, data_type.clone(), *nullable && !key);
        if let Some(metadata) = metadata {
            check_metadata(create, &column.name)?;
            field.metadata_mut().insert(METADATA_KEY.to_string(), metadata.key.clone());
            if metadata.read_only {
                field.metadata_mut().insert(VIRTUAL_KEY.to_string(), "true".to_string());
            }
        }
        fields.push(field);
    }
    for (option, unit) in &create.options {
        let Some(name) = EPOCH_OPTIONS.iter().find_map(|prefix| option.node.strip_prefix(prefix)) else { continue };
        let Some(field) = fields.iter_mut().find(|f| f.name() == name) else {
            let hint = did_you_mean(name, create.columns.iter().map(|c| c.name.value.as_str()));
            return Err(SqlError::new(option.span, format!("there is no column '{name}' in this table{hint}")));
        };
        if !["s", "ms", "us", "ns"].contains(&unit.node.as_str()) {
            let reason = format!("'{}' is no unit of an epoch: it is one of 's', 'ms', 'us', 'ns'", unit.node);
            return Err(SqlError::new(unit.span, reason));
        }
        if !matches!(field.data_type(), DataType::Timestamp(..)) {
            return Err(SqlError::new(option.span, format!("'{name}' is {} and no TIMESTAMP", field.data_type())));
        }
        field.metadata_mut().insert(EPOCH_KEY.to_string(), unit.node.clone());
    }
    Ok(fields)
}

/// Only some connectors have records with more than a value.
fn check_metadata(create: &CreateTable, column: &Ident) -> Result<(), SqlError> {
    let connector =
        create.options.iter().find(|(key, _)| key.node == "connector").map(|(_, value)| value.node.as_str());
    match connector {
        Some(connector) if !METADATA_CONNECTORS.contains(&connector) => Err(SqlError::new(
            column.span,
            format!(
                "the connector '{connector}' has no METADATA: {} have; leave the column out",
                METADATA_CONNECTORS.join(" and ")
            ),
        )),
        _ => Ok(()),
    }
}

fn check_timestamp(data_type: &DataType, column: &Ident) -> Result<(), SqlError> {
    match data_type {
        DataType::Timestamp(..) => Ok(()),
        other => Err(SqlError::new(
            column.span,
            format!(
                "the event time '{}' is {other}: it must be a TIMESTAMP; make one with a computed column, \
                 event_time AS TO_TIMESTAMP_LTZ({}, 3)",
                column.value, column.value
            ),
        )),
    }
}

/// The delay that `column - INTERVAL ..`, or `column`, declares.
fn delay(
    clause: &WatermarkClause,
    names: &Names<'_>,
    schema: &DFSchema,
    tokens: &[TokenWithSpan],
) -> Result<i64, SqlError> {
    let refused = || {
        SqlError::new(
            clause.span,
            format!(
                "a watermark stays a constant time behind: write {0} - INTERVAL '5' SECOND, or {0}",
                clause.column.value
            ),
        )
    };
    let is_column = |expr: &SqlExpr| matches!(expr, SqlExpr::Identifier(i) if i.value == clause.column.value);
    match &clause.expr {
        expr if is_column(expr) => Ok(0),
        SqlExpr::BinaryOp { left, op: BinaryOperator::Minus, right } if is_column(left) => {
            let planned =
                names.expr(right.as_ref().clone(), schema).map_err(|e| SqlError::from_datafusion(&e, tokens))?;
            match interval_us(&planned).map_err(|e| e.or_at(clause.span))? {
                us if us >= 0 => Ok(us),
                _ => Err(refused()),
            }
        }
        _ => Err(refused()),
    }
}
