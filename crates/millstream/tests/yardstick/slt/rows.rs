//! `INSERT INTO t [(column, ..)] VALUES ..`: the rows of one partition of a table, as lines of JSON.
//!
//! Numbers, texts, TRUE and NULL are written as they stand, so that nothing is rounded or cast on the way; an array is
//! `ARRAY[..]`, a ROW or a MAP is `{name: value, ..}`. A column that is left out is missing in the record.
//!
//! Two columns can be named beside those of the table. `late` says which rows a stream leaves out for being late: they
//! are not there in batch, and a stream must count as many. `op` is `+I`, `-U`, `+U` or `-D`, for a table whose format
//! is `debezium-json` or `canal-json`: a change is written as that database would tell of it.

use datafusion::sql::sqlparser::ast::{Expr, Insert, SetExpr, Statement, TableObject, UnaryOperator, Value};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use millstream::io::TableSpec;
use millstream::{Error, Result};

/// A row: its lines, and whether it is late.
#[derive(Debug)]
pub struct Line {
    pub text: String,
    pub late: bool,
}

/// The table and its rows, if the statement inserts values.
pub fn inserted(sql: &str) -> Option<(String, Insert)> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, sql).ok()?;
    let Some(Statement::Insert(insert)) = statements.pop() else { return None };
    let values = insert.source.as_ref().is_some_and(|q| matches!(q.body.as_ref(), SetExpr::Values(_)));
    let name = match &insert.table {
        TableObject::TableName(name) => name.to_string(),
        _ => return None,
    };
    values.then_some((name, insert))
}

/// The rows as lines of the table's format.
pub fn lines(insert: &Insert, table: &TableSpec) -> Result<Vec<Line>> {
    let named: Vec<String> =
        insert.columns.iter().map(|c| c.to_string().trim_matches(['`', '"']).to_string()).collect();
    let declared = || table.schema.fields().iter().map(|f| f.name().clone()).collect();
    let columns: Vec<String> = if named.is_empty() { declared() } else { named };
    let Some(SetExpr::Values(values)) = insert.source.as_ref().map(|q| q.body.as_ref()) else { return Ok(vec![]) };
    let format = table.options.get("format").unwrap_or("json").to_string();
    let mut lines: Vec<Line> = vec![];
    let mut taken_back: Option<String> = None;
    for row in &values.rows {
        let row = &row.content;
        if row.len() != columns.len() {
            return Err(Error::input(format!("{row:?} has {} values, for {columns:?}", row.len())));
        }
        let (mut fields, mut op, mut late) = (vec![], None, false);
        for (column, value) in columns.iter().zip(row) {
            let text = json(value)?;
            match column.as_str() {
                "op" => op = Some(text.trim_matches('"').to_string()),
                "late" => late = text == "true",
                name if table.schema.field_with_name(name).is_ok() => fields.push(format!("{name:?}:{text}")),
                name => return Err(Error::input(format!("the table {} has no column {name}", table.name))),
            }
        }
        let record = format!("{{{}}}", fields.join(","));
        let text = match (format.as_str(), op.as_deref()) {
            (_, None) => record,
            (_, Some("-U")) => {
                taken_back = Some(record);
                continue;
            }
            ("debezium-json", Some(op)) => debezium(op, taken_back.take(), &record),
            ("canal-json", Some(op)) => canal(op, taken_back.take(), &record),
            (other, Some(_)) => return Err(Error::input(format!("an op is no part of the format {other}"))),
        };
        lines.push(Line { text, late });
    }
    Ok(lines)
}

fn debezium(op: &str, before: Option<String>, record: &str) -> String {
    let before = before.unwrap_or_else(|| "null".to_string());
    match op {
        "-D" => format!(r#"{{"before":{record},"after":null,"op":"d"}}"#),
        "+U" => format!(r#"{{"before":{before},"after":{record},"op":"u"}}"#),
        _ => format!(r#"{{"before":null,"after":{record},"op":"c"}}"#),
    }
}

fn canal(op: &str, old: Option<String>, record: &str) -> String {
    match (op, old) {
        ("-D", _) => format!(r#"{{"data":[{record}],"type":"DELETE"}}"#),
        ("+U", Some(old)) => format!(r#"{{"data":[{record}],"old":[{old}],"type":"UPDATE"}}"#),
        ("+U", None) => format!(r#"{{"data":[{record}],"old":null,"type":"UPDATE"}}"#),
        _ => format!(r#"{{"data":[{record}],"type":"INSERT"}}"#),
    }
}

fn json(value: &Expr) -> Result<String> {
    let text = |text: &str| serde_json::to_string(text).map_err(|e| Error::input("a text").caused_by(e));
    let list = |values: &[Expr]| values.iter().map(json).collect::<Result<Vec<_>>>();
    Ok(match value {
        Expr::Value(value) => match &value.value {
            Value::Number(number, _) => number.clone(),
            Value::SingleQuotedString(quoted) => text(quoted)?,
            Value::Boolean(is) => is.to_string(),
            Value::Null => "null".to_string(),
            other => return Err(Error::input(format!("{other} is no value of a row here"))),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => format!("-{}", json(expr)?),
        Expr::Array(array) => format!("[{}]", list(&array.elem)?.join(",")),
        Expr::Dictionary(fields) => {
            let fields = fields.iter().map(|f| Ok(format!("{}:{}", text(&f.key.value)?, json(&f.value)?)));
            format!("{{{}}}", fields.collect::<Result<Vec<_>>>()?.join(","))
        }
        other => return Err(Error::input(format!("{other} is no value of a row here: write a literal"))),
    })
}
