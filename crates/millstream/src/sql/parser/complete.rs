//! Clauses that sqlparser reads and nobody after it looks at: refused, because an answer without them is a wrong one.
//!
//! Every struct is taken apart with all of its fields, so that a clause that a later sqlparser learns does not compile
//! before somebody has decided what it means here.

use datafusion::sql::sqlparser::ast::{
    Cte, ForClause, GroupByExpr, GroupByWithModifier, Join, OrderBy, OrderByKind, Query, Select, SetExpr, Spanned,
    TableAlias, TableFactor, TableVersion, TableWithJoins, With,
};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use super::words;
use crate::sql::diagnostic::SqlError;

/// The tokens of the statement: most of these clauses don't keep their place.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a>(pub &'a [TokenWithSpan]);

impl Places<'_> {
    /// An error at the first of these words in the statement; at `near` where they are not.
    pub fn refuse(self, words: &[&str], near: Span, instead: &str) -> SqlError {
        let found = (0..self.0.len()).find_map(|n| {
            let rest = self.0.get(n..).unwrap_or_default();
            words::begins(rest, words).then(|| super::span_of(rest.get(..words.len()).unwrap_or_default()))
        });
        SqlError::new(found.unwrap_or(near), format!("{} is not supported: {instead}", words.join(" ")))
    }
}

type Checked = Result<(), SqlError>;

/// The first of the problems that there is.
fn none_of<const N: usize>(problems: [(bool, &[&str], &str); N], near: Span, places: Places<'_>) -> Checked {
    match problems.into_iter().find(|(there, ..)| *there) {
        Some((_, words, instead)) => Err(places.refuse(words, near, instead)),
        None => Ok(()),
    }
}

/// Refuses the clauses of a query that have no meaning here.
pub fn query(query: &Query, places: Places<'_>) -> Checked {
    let Query {
        with,
        body,
        order_by,
        limit_clause: _,
        fetch,
        locks,
        for_clause,
        settings,
        format_clause,
        // Planned, or refused, by DataFusion.
        pipe_operators: _,
    } = query;
    of_body(body)?;
    let near = query.span();
    if matches!(body.as_ref(), SetExpr::Insert(_)) {
        let reason = "WITH stands behind the table that is written to: INSERT INTO t WITH q AS (..) SELECT .. FROM q";
        return Err(SqlError { message: reason.to_string(), ..places.refuse(&["INSERT"], near, "") });
    }
    if let Some(with) = with {
        of_with(with)?;
    }
    if let Some(OrderBy { kind: OrderByKind::Expressions(exprs), interpolate: _ }) = order_by
        && let Some(filled) = exprs.iter().find(|e| e.with_fill.is_some())
    {
        return Err(places.refuse(&["WITH", "FILL"], filled.span(), "join with the rows that are missing instead"));
    }
    let of_output: &[&str] = match for_clause {
        Some(ForClause::Json { .. }) => &["FOR", "JSON"],
        Some(ForClause::Xml { .. }) => &["FOR", "XML"],
        _ => &["FOR", "BROWSE"],
    };
    none_of(
        [
            (
                fetch.as_ref().is_some_and(|f| f.with_ties || f.percent),
                &["FETCH"],
                "with PERCENT or TIES: FETCH FIRST n ROWS ONLY is LIMIT n, and RANK() .. <= n has ties",
            ),
            (
                !locks.is_empty(),
                &["FOR"],
                "a stream is never changed in its place, so there is nothing to lock; remove it",
            ),
            (for_clause.is_some(), of_output, "the sink's 'format' says how rows are written; JSON_OBJECT builds JSON"),
            (settings.is_some(), &["SETTINGS"], "write SET 'key' = 'value' as a statement of its own before the query"),
            (format_clause.is_some(), &["FORMAT"], "the sink's option 'format' says how rows are written"),
        ],
        near,
        places,
    )
}

/// So many queries are put together with UNION ALL and the like: each is a plan within a plan.
const QUERIES_MAX: usize = 1_000;

fn of_body(body: &SetExpr) -> Checked {
    // A chain grows to the left; to the right there are parentheses, which the parser counts.
    let (mut first, mut queries) = (body, 1);
    while let SetExpr::SetOperation { left, .. } = first {
        (first, queries) = (left, queries + 1);
    }
    if queries <= QUERIES_MAX {
        return Ok(());
    }
    let reason = format!(
        "{queries} queries are put together, and {QUERIES_MAX} are the most: read their rows from one table, or write \
         several INSERTs"
    );
    let span = match first {
        SetExpr::Select(select) => select.select_token.0.span,
        _ => Span::empty(),
    };
    Err(SqlError::new(span, reason))
}

fn of_with(with: &With) -> Checked {
    let With { with_token, recursive, cte_tables } = with;
    if *recursive {
        let reason = "WITH RECURSIVE is not supported: over rows that never end a recursion has no last round. Write as \
                      many joins as there are levels, each over the one before, or keep the closure in a table that \
                      is joined";
        return Err(SqlError::new(with_token.0.span, reason));
    }
    for Cte { alias, query, from, materialized: _, closing_paren_token: _ } in cte_tables {
        if from.is_some() {
            return Err(SqlError::new(query.span(), "FROM after the query of a WITH is not supported: remove it"));
        }
        of_alias(Some(alias))?;
    }
    Ok(())
}

/// Refuses the clauses of a SELECT that have no meaning here.
pub fn select(select: &Select, places: Places<'_>) -> Checked {
    let Select {
        select_token: _,
        // Comments, to which nobody may give a meaning.
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        // TOP, LATERAL VIEW, CLUSTER BY and SORT BY are refused with the other words of other dialects.
        top: _,
        top_before_distinct: _,
        projection: _,
        exclude,
        into,
        from,
        lateral_views: _,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        cluster_by: _,
        distribute_by,
        sort_by: _,
        having: _,
        named_window: _,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor: _,
    } = select;
    let near = select.span();
    none_of(
        [
            (prewhere.is_some(), &["PREWHERE"], "write the condition into WHERE"),
            (!connect_by.is_empty(), &["CONNECT", "BY"], "write as many joins as there are levels"),
            (select_modifiers.is_some(), &["SELECT"], "remove the words between SELECT and the columns"),
            (exclude.is_some(), &["EXCLUDE"], "it belongs to a star, SELECT * EXCLUDE (column)"),
            (into.is_some(), &["INTO"], "write INSERT INTO table SELECT .. instead"),
            (!distribute_by.is_empty(), &["DISTRIBUTE", "BY"], "the engine spreads the rows itself; remove it"),
            (value_table_mode.is_some(), &["SELECT", "AS"], "select the columns one by one"),
        ],
        near,
        places,
    )?;
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    let instead = "write GROUP BY ROLLUP (..), CUBE (..) or GROUPING SETS ((..), ()) instead";
    match modifiers.first() {
        None => {}
        Some(GroupByWithModifier::Totals) => {
            let instead = "a row of totals is what GROUP BY GROUPING SETS ((..), ()) adds";
            return Err(places.refuse(&["WITH", "TOTALS"], near, instead));
        }
        Some(GroupByWithModifier::Rollup) => return Err(places.refuse(&["WITH", "ROLLUP"], near, instead)),
        Some(GroupByWithModifier::Cube) => return Err(places.refuse(&["WITH", "CUBE"], near, instead)),
        Some(GroupByWithModifier::GroupingSets(_)) => {
            return Err(places.refuse(&["GROUPING", "SETS"], near, "write it right after GROUP BY"));
        }
    }
    for TableWithJoins { relation: _, joins } in from {
        // What it joins by becomes ON, once the columns of the tables are known.
        for Join { relation, global, join_operator: _ } in joins {
            if *global {
                return Err(places.refuse(&["GLOBAL"], relation.span(), "there is one machine; remove it"));
            }
        }
    }
    Ok(())
}

/// Refuses what is said of a table in FROM and has no meaning here.
pub fn table(table: &TableFactor, places: Places<'_>) -> Checked {
    let near = table.span();
    match table {
        TableFactor::Table {
            name: _,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            of_alias(alias.as_ref())?;
            if let Some(partition) = partitions.first() {
                let reason = "PARTITION (..) of a table is not supported: say WHERE which rows are wanted";
                return Err(SqlError::new(partition.span, reason));
            }
            let settings = args.as_ref().is_some_and(|args| args.settings.is_some());
            let old = matches!(version, Some(version) if !matches!(version, TableVersion::ForSystemTimeAsOf(_)));
            none_of(
                [
                    (
                        !with_hints.is_empty(),
                        &["WITH"],
                        "of a table in FROM: a stream has no locks to be told of; remove it",
                    ),
                    (settings, &["SETTINGS"], "a function's arguments are all that it takes; remove it"),
                    (old, &["AS", "OF"], "an older version of a table can't be read"),
                    (*with_ordinality, &["WITH", "ORDINALITY"], "ROW_NUMBER() OVER (ORDER BY ..) numbers rows"),
                    (json_path.is_some(), &["FROM"], "a path into a table's JSON: use JSON_VALUE(column, '$.path')"),
                    (
                        sample.is_some(),
                        &["SAMPLE"],
                        "it gives other rows each time: filter by a hash of a column instead",
                    ),
                    (!index_hints.is_empty(), &["INDEX"], "a stream has no index; remove the hint"),
                ],
                near,
                places,
            )
        }
        TableFactor::Derived { lateral: _, subquery: _, alias, sample } => {
            of_alias(alias.as_ref())?;
            let instead = "it gives other rows each time: filter by a hash of a column instead";
            none_of([(sample.is_some(), &["SAMPLE"], instead)], near, places)
        }
        TableFactor::Function { lateral: _, name, args: _, with_ordinality, alias } => {
            of_alias(alias.as_ref())?;
            let instead = "ROW_NUMBER() OVER (ORDER BY ..) numbers rows";
            let unnest = name.to_string().eq_ignore_ascii_case("UNNEST");
            none_of([(*with_ordinality && !unnest, &["WITH", "ORDINALITY"], instead)], near, places)
        }
        // What these have is planned, or refused as a whole, by DataFusion.
        TableFactor::TableFunction { .. }
        | TableFactor::UNNEST { .. }
        | TableFactor::NestedJoin { .. }
        | TableFactor::JsonTable { .. }
        | TableFactor::OpenJsonTable { .. }
        | TableFactor::Pivot { .. }
        | TableFactor::Unpivot { .. }
        | TableFactor::MatchRecognize { .. }
        | TableFactor::XmlTable { .. }
        | TableFactor::SemanticView { .. } => Ok(()),
    }
}

fn of_alias(alias: Option<&TableAlias>) -> Checked {
    let Some(TableAlias { explicit: _, name: _, columns: _, at }) = alias else { return Ok(()) };
    match at {
        Some(at) => Err(SqlError::new(at.span, "AT of a table's alias is not supported: remove it")),
        None => Ok(()),
    }
}
