//! DataFusion, set up as SQL is spoken here: identifiers keep their case, `0.5` is a decimal, the time zone is
//! UTC, and every planned column knows its place in the text.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef};
use datafusion::common::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::context::SessionConfig;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::sql::sqlparser::ast::DataType as SqlType;

use super::casts::Casts;
use super::map_access::MapAccess;
use super::not_in::NotInWithConditions;
use super::set_functions::SetFunctions;
use super::simplify::Simplify;
use super::unnest::UnnestBeside;
use super::window_functions::WindowFunctions;
use super::{functions, parser};

/// A session with all of DataFusion's functions, Flink's names for some, and window functions in FROM.
///
/// # Errors
/// Where DataFusion refuses a function: a bug.
pub fn session_state() -> millstream_core::Result<SessionState> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    let options = config.options_mut();
    options.sql_parser.enable_ident_normalization = false;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = true;
    options.execution.time_zone = Some("UTC".into());
    let mut builder = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_type_planner(Arc::new(Types))
        .with_optimizer_rules(optimizer_rules())
        .with_relation_planners(vec![Arc::new(WindowFunctions), Arc::new(SetFunctions), Arc::new(UnnestBeside)]);
    // The first that plans an expression has it.
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(MapAccess));
    let mut state = builder.build();
    // After types were coerced.
    state.add_analyzer_rule(Arc::new(Casts));
    let bug = |e| millstream_core::Error::bug("a function can't be registered").caused_by(e);
    functions::register(&mut state).map_err(bug)?;
    // It could make a column look like an event time or the end of a window.
    state.deregister_udf("with_metadata").map_err(bug)?;
    Ok(state)
}

/// The rules of a batch job: DataFusion's, where they answer what was asked.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![];
    for rule in Optimizer::new().rules {
        match rule.name() {
            "simplify_expressions" => rules.push(Arc::new(Simplify::default())),
            "decorrelate_predicate_subquery" => rules.extend([rule, Arc::new(NotInWithConditions)]),
            _ => rules.push(rule),
        }
    }
    rules
}

/// The types of `CAST(x AS type)`, as in CREATE TABLE.
#[derive(Debug)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let Some(data_type) = parser::from_sql_type(sql_type) else { return Ok(None) };
        // DataFusion passes the metadata of what is cast on, unless the target field has a name: what is cast
        // must not look like an event time, or like the end of a window, any more.
        Ok(Some(Arc::new(Field::new("cast", data_type?, true))))
    }
}
