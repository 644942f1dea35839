//! What the checker hands to the evaluator: a tree with everything looked up.

use crate::{
    ast::{BinaryOp, Macro, SelectMode},
    decls::Cost,
    eval::Native,
    library::lists::ScalarSet,
    regex::Pattern,
    types::ObjectType,
    value::Value,
};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A declared variable, by its number.
    Global(u16),
    /// A variable of a macro, by its place.
    Local(u16),
    Select(Box<Select>),
    Index(Box<Index>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Ternary(Box<[Node; 3]>),
    /// Every operator of two operands but the logical ones.
    Binary(Box<Binary>),
    /// `x in [constants]`
    InSet(Box<InSet>),
    Call(Box<Call>),
    /// `matches`, `find` or `findAll` with a constant pattern.
    Regex(Box<Regex>),
    List(Vec<(Node, bool)>),
    Map(Vec<Entry>),
    Fold(Box<Fold>),
    SortBy(Box<Fold>),
    OptMap(Box<Fold>),
    /// `a.or(b)`, or with `value` `a.orValue(b)`: `b` is looked at only if needed.
    OptionalOr {
        args: Box<[Node; 2]>,
        value: bool,
    },
}

#[derive(Debug)]
pub(crate) struct Select {
    pub operand: Node,
    pub field: Box<str>,
    pub mode: SelectMode,
    /// The operand's type and the number of the field in it, where they are known.
    pub known: Option<(Arc<ObjectType>, u32)>,
    /// What the operand adds because it is no attribute itself.
    pub base: u64,
}

#[derive(Debug)]
pub(crate) struct Index {
    pub operand: Node,
    pub index: Node,
    pub optional: bool,
    pub base: u64,
}

#[derive(Debug)]
pub(crate) struct Binary {
    pub op: BinaryOp,
    pub left: Node,
    pub right: Node,
    pub cost: Cost,
}

#[derive(Debug)]
pub(crate) struct InSet {
    pub item: Node,
    pub set: ScalarSet<'static>,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub name: &'static str,
    pub native: Native,
    pub args: Vec<Node>,
    pub cost: Cost,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RegexCall {
    Matches,
    Find,
    FindAll,
}

#[derive(Debug)]
pub(crate) struct Regex {
    pub call: RegexCall,
    pub subject: Node,
    pub pattern: Pattern,
    /// How many matches `findAll` wants.
    pub limit: Option<Node>,
    pub cost: RegexCost,
}

/// Whether the call costs text times pattern, or one.
pub(crate) type RegexCost = Cost;

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: Node,
    pub value: Node,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub kind: Macro,
    pub range: Node,
    /// The place of the variable; a second one is in the next place.
    pub slot: u16,
    pub two: bool,
    pub filter: Option<Node>,
    pub body: Node,
    /// What the function behind the macro costs, where there is one.
    pub cost: Cost,
}
