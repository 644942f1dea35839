//! What the parser makes of an expression.
//!
//! Macros stay what they were written as (a `Comprehension`, not a fold over an accumulator), so
//! that the checker and the evaluator treat each in one place, and fast.

/// An expression and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    /// Byte offset in the source, where errors about it point: the operator of an operation,
    /// the parenthesis of a call, the start of all else.
    pub pos: u32,
    /// Levels of expressions below and with this one: what recursion over it needs.
    pub depth: u16,
    pub kind: Kind,
}

/// Positions and depths do not count: two expressions are equal when they mean the same.
impl PartialEq for Expr {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// A name; one with a leading dot keeps it.
    Ident(String),
    Select(Box<Select>),
    Unary(UnaryOp, Box<Expr>),
    Binary(BinaryOp, Box<[Expr; 2]>),
    /// `cond ? then : else`
    Ternary(Box<[Expr; 3]>),
    /// `operand[index]`, or `operand[?index]`.
    Index {
        args: Box<[Expr; 2]>,
        optional: bool,
    },
    Call(Box<Call>),
    List(Vec<Element>),
    Map(Vec<Entry>),
    /// `Name{field: value}`: no type of Kubernetes can be made so; kept for the error.
    Message(String),
    Comprehension(Box<Comprehension>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Select {
    pub operand: Expr,
    pub field: String,
    pub mode: SelectMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelectMode {
    /// `a.b`
    Plain,
    /// `has(a.b)`
    Test,
    /// `a.?b`
    Optional,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub name: String,
    pub target: Option<Expr>,
    pub args: Vec<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Element {
    pub expr: Expr,
    /// `[?x]`
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    /// `{?k: v}`
    pub optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum UnaryOp {
    Not,
    Negate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BinaryOp {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl BinaryOp {
    /// The name of its function, as errors print it.
    pub fn function(self) -> &'static str {
        match self {
            BinaryOp::Or => "_||_",
            BinaryOp::And => "_&&_",
            BinaryOp::Equal => "_==_",
            BinaryOp::NotEqual => "_!=_",
            BinaryOp::Less => "_<_",
            BinaryOp::LessEqual => "_<=_",
            BinaryOp::Greater => "_>_",
            BinaryOp::GreaterEqual => "_>=_",
            BinaryOp::In => "@in",
            BinaryOp::Add => "_+_",
            BinaryOp::Subtract => "_-_",
            BinaryOp::Multiply => "_*_",
            BinaryOp::Divide => "_/_",
            BinaryOp::Modulo => "_%_",
        }
    }
}

/// A macro that walks a list or a map, or binds a name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comprehension {
    pub kind: Macro,
    pub range: Expr,
    /// The variable; with `var2` the index or the key.
    pub var: String,
    pub var2: Option<String>,
    /// A condition on the elements of those that transform.
    pub filter: Option<Expr>,
    /// The predicate or the transformation.
    pub body: Expr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Macro {
    All,
    Exists,
    /// Spelled `exists_one`, with two variables also `existsOne`.
    ExistsOne,
    Filter,
    Map,
    TransformList,
    TransformMap,
    TransformMapEntry,
    SortBy,
    OptMap,
    OptFlatMap,
}
