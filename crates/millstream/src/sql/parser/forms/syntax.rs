//! The pieces of syntax that forms are built of.

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

pub fn text(text: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(text.to_string()))
}

fn unnamed(expr: Expr) -> FunctionArg {
    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
}

pub fn list(args: Vec<Expr>) -> FunctionArguments {
    let args = args.into_iter().map(unnamed).collect();
    FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] })
}

pub fn call(name: &str, span: Span, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::with_span(span, name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: list(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

pub fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

pub fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

pub fn plus(left: &Expr, op: BinaryOperator, right: &Expr) -> Expr {
    let (left, right) = (Box::new(left.clone()), Box::new(right.clone()));
    Expr::Nested(Box::new(Expr::BinaryOp { left, op, right }))
}

/// IF is CASE, so that only the branch that is taken is computed.
pub fn case(operand: Option<&Expr>, branches: Vec<(&Expr, &Expr)>, otherwise: Option<&Expr>) -> Expr {
    let branch =
        |(condition, result): (&Expr, &Expr)| CaseWhen { condition: condition.clone(), result: result.clone() };
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: operand.map(|o| Box::new(o.clone())),
        conditions: branches.into_iter().map(branch).collect(),
        else_result: otherwise.map(|o| Box::new(o.clone())),
    }
}

pub fn rename(function: &mut Function, name: &str, span: Span) {
    function.name = ObjectName::from(vec![Ident::with_span(span, name)]);
}
