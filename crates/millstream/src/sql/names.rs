//! What DataFusion's planner asks about names, answered from the catalog and the session's functions.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::catalog::{TableFunctionArgs, TableProvider};
use datafusion::common::{DFSchema, Result, TableReference, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Query, Statement};

use super::catalog::Catalog;
use super::diagnostic::did_you_mean;
use super::session_state::Types;
use super::tables::StreamTable;

/// The schema of the tables that operators keep: `state.<operator>`.
const STATE: &str = "state";

/// The names of one planning.
pub struct Names<'a> {
    state: &'a SessionState,
    catalog: &'a Catalog,
    types: Arc<dyn TypePlanner>,
}

impl<'a> Names<'a> {
    /// The names of this catalog, and the functions of this session.
    pub fn new(state: &'a SessionState, catalog: &'a Catalog) -> Self {
        Self { state, catalog, types: Arc::new(Types) }
    }

    /// Plans a query.
    pub fn plan(&self, query: Query) -> Result<LogicalPlan> {
        self.planner().sql_statement_to_plan(Statement::Query(Box::new(query)))
    }

    /// Plans an expression over some columns.
    pub fn expr(&self, expr: SqlExpr, schema: &datafusion::common::DFSchema) -> Result<Expr> {
        self.planner().sql_to_expr(expr, schema, &mut PlannerContext::new())
    }

    fn planner(&self) -> SqlToRel<'_, Self> {
        SqlToRel::new_with_options(self, ParserOptions::from(&self.options().sql_parser))
    }
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        // What an operator keeps has two names, and is one table: state.<operator>.
        if name.schema() == Some(STATE) {
            return Ok(self.catalog.table(&format!("{STATE}.{}", name.table()))?);
        }
        Ok(self.catalog.table(name.table())?)
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>> {
        let Some(function) = self.state.table_functions().get(name) else {
            let hint = did_you_mean(name, self.state.table_functions().keys().map(String::as_str));
            return plan_err!("there is no table function '{name}'{hint}");
        };
        let simplifier = ExprSimplifier::new(
            SimplifyContext::builder().with_config_options(Arc::clone(self.state.config_options())).build(),
        );
        let none = DFSchema::empty();
        let args = args.into_iter().map(|arg| simplifier.coerce(arg, &none).and_then(|arg| simplifier.simplify(arg)));
        let args = args.collect::<Result<Vec<_>>>()?;
        let table = function.create_table_provider_with_args(TableFunctionArgs::new(&args, self.state))?;
        // The log knows a stream by its name, which has to tell the arguments apart.
        let stream = (table.as_ref() as &dyn std::any::Any).downcast_ref::<StreamTable>();
        let table: Arc<dyn TableProvider> = match stream {
            Some(stream) => {
                let args = args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Arc::new(StreamTable { name: format!("{name}({args})"), ..stream.clone() })
            }
            None => table,
        };
        Ok(provider_as_source(table))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        self.state.relation_planners()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::clone(&self.types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}
