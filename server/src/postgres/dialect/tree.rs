//! Small pieces of a statement's tree, made and looked at.

use tagmill::datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, Value,
};

/// A call of a function.
pub(super) fn call(name: &str, arguments: impl IntoIterator<Item = Expr>) -> Expr {
    let unnamed = |argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument));
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        args: FunctionArguments::List(FunctionArgumentList {
            args: arguments.into_iter().map(unnamed).collect(),
            duplicate_treatment: None,
            clauses: Vec::new(),
        }),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// A value of another type.
pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// A value as it is written.
pub(super) fn value(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

/// A text.
pub(super) fn text(text: &str) -> Expr {
    value(Value::SingleQuotedString(text.to_owned()))
}

/// The text of a constant.
pub(super) fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Nested(inner) => text_of(inner),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text) => Some(text),
            Value::DollarQuotedString(quoted) => Some(&quoted.value),
            _ => None,
        },
        _ => None,
    }
}

/// The name that an identifier stands for: without quotes its case says nothing.
pub(super) fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The last level of a name.
pub(super) fn last(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default()
}

/// Whether an expression is a column of this name.
pub(super) fn is_column(expr: &Expr, name: &str) -> bool {
    match expr {
        Expr::Identifier(column) => normal(column) == name,
        Expr::CompoundIdentifier(levels) => {
            levels.last().is_some_and(|column| normal(column) == name)
        }
        _ => false,
    }
}
