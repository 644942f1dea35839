//! Types and names: from the tree of the parser to the tree of the evaluator, in one walk.

use crate::{
    ast::{self, BinaryOp, Expr, Kind, SelectMode, UnaryOp},
    decls::{self, Cost, Function},
    eval,
    library::{
        format,
        lists::{self, ScalarSet},
    },
    parser::{Found, qualified_name},
    plan::{self, Node, RegexCall},
    regex::Pattern,
    types::{Opaque, Type},
    unify::{Unifier, instantiate},
    value::{OpaqueValue, TypeName, Value},
};
use std::sync::Arc;

mod literals;
mod macros;

/// What a whole expression became.
pub(crate) struct Checked {
    pub node: Node,
    pub ty: Type,
    /// Which of the declared variables it reads.
    pub reads: Vec<bool>,
    /// How many places the variables of its macros need.
    pub locals: u16,
}

/// Why an expression is no program.
pub(crate) enum Refused {
    /// Mistakes, each with its place.
    Found(Vec<Found>),
    /// A constant part has no value.
    Constant(String),
}

/// Checks an expression against the variables.
pub(crate) fn check(expr: &Expr, variables: &[(String, Type)]) -> Result<Checked, Refused> {
    let mut checker = Checker {
        variables,
        reads: vec![false; variables.len()],
        locals: Vec::new(),
        locals_max: 0,
        unifier: Unifier::default(),
        found: Vec::new(),
        late: Vec::new(),
        constant: None,
        alike: Vec::new(),
        formats: 0,
        formatted: Vec::new(),
    };
    let (node, ty) = checker.expr(expr);
    let ty = checker.unifier.resolve(&ty, true);
    if checker.unifier.exhausted() && checker.found.is_empty() {
        checker.found.push((0, "the types of this expression are too large".to_owned()));
    }
    // Literals are looked at only in expressions whose types are right.
    if checker.found.is_empty() {
        checker.compare_alike();
        checker.found = checker.late;
    }
    if !checker.found.is_empty() {
        return Err(Refused::Found(checker.found));
    }
    match checker.constant {
        Some(message) => Err(Refused::Constant(message)),
        None => Ok(Checked { node, ty, reads: checker.reads, locals: checker.locals_max }),
    }
}

struct Checker<'c> {
    variables: &'c [(String, Type)],
    reads: Vec<bool>,
    /// Variables of the macros around, innermost last.
    locals: Vec<(&'c str, Type)>,
    locals_max: u16,
    unifier: Unifier,
    found: Vec<Found>,
    /// Mistakes in literals.
    late: Vec<Found>,
    constant: Option<String>,
    /// Types of the parts of literals that have to be alike.
    alike: Vec<Vec<(u32, Type)>>,
    /// Calls of `format` around.
    formats: u32,
    /// The parts of the last list literal in one.
    formatted: Vec<(u32, Type)>,
}

type Typed = (Node, Type);

/// What a call resolved to.
struct Resolved {
    ty: Type,
    cost: Cost,
}

impl<'c> Checker<'c> {
    fn note(&mut self, pos: u32, message: String) {
        if self.found.len() < 100 {
            self.found.push((pos, message));
        }
    }

    /// An error: a node that is never run, and a type that causes no further errors.
    fn wrong(&mut self, pos: u32, message: String) -> Typed {
        self.note(pos, message);
        (Node::Const(Value::Null), Type::Error)
    }

    fn undeclared(&mut self, pos: u32, name: &str) -> Typed {
        self.wrong(pos, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn expr(&mut self, expr: &'c Expr) -> Typed {
        match &expr.kind {
            Kind::Null => (Node::Const(Value::Null), Type::Null),
            Kind::Bool(b) => (Node::Const(Value::Bool(*b)), Type::Bool),
            Kind::Int(n) => (Node::Const(Value::Int(*n)), Type::Int),
            Kind::Uint(n) => (Node::Const(Value::Uint(*n)), Type::Uint),
            Kind::Double(n) => (Node::Const(Value::Double(*n)), Type::Double),
            Kind::String(s) => (Node::Const(Value::str(s.as_str())), Type::String),
            Kind::Bytes(b) => (Node::Const(Value::Bytes(b.as_slice().into())), Type::Bytes),
            Kind::Ident(name) => match self.name(name) {
                Some(typed) => typed,
                None => self.undeclared(expr.pos, name),
            },
            Kind::Select(select) => self.select(expr, select),
            Kind::Unary(op, operand) => self.unary(expr.pos, *op, operand),
            Kind::Binary(op, sides) => self.binary(expr.pos, *op, sides),
            Kind::Ternary(parts) => self.ternary(expr.pos, parts),
            Kind::Index { args, optional } => self.index(expr.pos, args, *optional),
            Kind::Call(call) => self.call(expr, call),
            Kind::List(elements) => self.list(elements),
            Kind::Map(entries) => self.map(entries),
            Kind::Message(name) => self.undeclared(expr.pos, name),
            Kind::Comprehension(c) => self.comprehension(expr.pos, c),
        }
    }

    /// A variable of a macro, a declared one, or a type; with a leading dot no macro's.
    fn name(&mut self, name: &str) -> Option<Typed> {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if plain.len() == name.len()
            && let Some(at) = self.locals.iter().rposition(|(local, _)| *local == name)
        {
            return Some((Node::Local(at as u16), self.locals[at].1.clone()));
        }
        if let Some(at) = self.variables.iter().position(|(variable, _)| variable == plain) {
            self.reads[at] = true;
            return Some((Node::Global(at as u16), self.variables[at].1.clone()));
        }
        let (name, of) = self.type_name(plain)?;
        Some((Node::Const(Value::Type(TypeName(name))), Type::Type(Arc::new(of))))
    }

    fn type_name(&mut self, name: &str) -> Option<(&'static str, Type)> {
        Some(match name {
            "bool" => ("bool", Type::Bool),
            "bytes" => ("bytes", Type::Bytes),
            "double" => ("double", Type::Double),
            "int" => ("int", Type::Int),
            "uint" => ("uint", Type::Uint),
            "string" => ("string", Type::String),
            "null_type" => ("null_type", Type::Null),
            "type" => ("type", Type::Type(Arc::new(Type::Dyn))),
            "list" => ("list", Type::list(self.unifier.var())),
            "map" => ("map", Type::map_of(self.unifier.var(), self.unifier.var())),
            "optional_type" => ("optional_type", Type::optional(self.unifier.var())),
            "google.protobuf.Timestamp" => ("google.protobuf.Timestamp", Type::Timestamp),
            "google.protobuf.Duration" => ("google.protobuf.Duration", Type::Duration),
            "net.IP" => ("net.IP", Type::Opaque(Opaque::Ip)),
            "net.CIDR" => ("net.CIDR", Type::Opaque(Opaque::Cidr)),
            _ => return None,
        })
    }

    fn select(&mut self, expr: &'c Expr, select: &'c ast::Select) -> Typed {
        if let Some(name) = qualified_name(expr)
            && !self.shadowed(&name)
            && let Some(typed) = self.name(&name)
        {
            return typed;
        }
        let (operand, ty) = self.expr(&select.operand);
        let ty = self.unifier.resolve(&ty, false);
        let (target, was_optional) = match &ty {
            Type::Optional(of) => ((**of).clone(), true),
            _ => (ty.clone(), false),
        };
        let mut known = None;
        let result = match &target {
            Type::Map(map) => map.value.clone(),
            Type::Object(object) => match object.field(&select.field) {
                Some(field) => {
                    let at = object.fields().iter().position(|f| f.json == field.json);
                    if !was_optional {
                        known = at.map(|at| (object.clone(), at as u32));
                    }
                    field.ty.clone()
                }
                None => {
                    self.note(expr.pos, format!("undefined field '{}'", select.field));
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.unifier.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            Type::Opaque(opaque) if is_struct(*opaque) => {
                self.note(expr.pos, format!("undefined field '{}'", select.field));
                Type::Error
            }
            other => {
                self.note(expr.pos, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        let ty = match select.mode {
            SelectMode::Test => Type::Bool,
            SelectMode::Optional => Type::optional(result),
            SelectMode::Plain if was_optional => Type::optional(result),
            SelectMode::Plain => self.unifier.resolve(&result, false),
        };
        let base = base_cost(&operand);
        let field = select.field.as_str().into();
        let node =
            Node::Select(Box::new(plan::Select { operand, field, mode: select.mode, known, base }));
        (node, ty)
    }

    /// Whether the first part of a dotted name is a macro's variable.
    fn shadowed(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        self.locals.iter().any(|(local, _)| *local == first)
    }

    fn unary(&mut self, pos: u32, op: UnaryOp, operand: &'c Expr) -> Typed {
        let (node, ty) = self.expr(operand);
        let name = match op {
            UnaryOp::Not => "!_",
            UnaryOp::Negate => "-_",
        };
        let Some(resolved) = self.resolve(pos, name, None, &[ty]) else { return error() };
        let node = match op {
            UnaryOp::Not => Node::Not(Box::new(node)),
            UnaryOp::Negate => Node::Negate(Box::new(node)),
        };
        (node, resolved.ty)
    }

    fn binary(&mut self, pos: u32, op: BinaryOp, sides: &'c [Expr; 2]) -> Typed {
        let (left, left_ty) = self.expr(&sides[0]);
        let (right, right_ty) = self.expr(&sides[1]);
        if matches!(op, BinaryOp::And | BinaryOp::Or) {
            let mut fine = true;
            for (side, ty) in [(&sides[0], &left_ty), (&sides[1], &right_ty)] {
                fine &= self.want_bool(side.pos, ty);
            }
            if !fine {
                return error();
            }
            let sides = Box::new([left, right]);
            let node = if op == BinaryOp::And { Node::And(sides) } else { Node::Or(sides) };
            return (node, Type::Bool);
        }
        let types = [left_ty, right_ty];
        let Some(resolved) = self.resolve(pos, op.function(), None, &types) else {
            return error();
        };
        if op == BinaryOp::In
            && resolved.cost == Cost::Second
            && let Some(node) = self.in_constants(&right)
        {
            return match node {
                Some(set) => (Node::InSet(Box::new(plan::InSet { item: left, set })), Type::Bool),
                None => (Node::Const(Value::Bool(false)), Type::Bool),
            };
        }
        let cost = resolved.cost;
        (Node::Binary(Box::new(plan::Binary { op, left, right, cost })), resolved.ty)
    }

    /// The set of a constant list of scalars, nothing for an empty one; `None` for what is no
    /// such list.
    fn in_constants(&self, node: &Node) -> Option<Option<ScalarSet<'static>>> {
        let Node::Const(Value::List(list)) = node else { return None };
        if list.is_empty() {
            return Some(None);
        }
        let mut set = ScalarSet::default();
        for item in list.iter() {
            let item = item.ok()?;
            match item {
                Value::Bool(_)
                | Value::Int(_)
                | Value::Uint(_)
                | Value::Double(_)
                | Value::String(_) => set.insert_scalar(item),
                _ => return None,
            }
        }
        Some(Some(set))
    }

    fn want_bool(&mut self, pos: u32, ty: &Type) -> bool {
        let fine = self.unifier.assignable(ty, &Type::Bool);
        if !fine {
            self.note(pos, format!("expected type 'bool' but found '{ty}'"));
        }
        fine
    }

    fn ternary(&mut self, pos: u32, parts: &'c [Expr; 3]) -> Typed {
        let (cond, cond_ty) = self.expr(&parts[0]);
        let (then, then_ty) = self.expr(&parts[1]);
        let (other, other_ty) = self.expr(&parts[2]);
        let types = [cond_ty, then_ty, other_ty];
        match self.resolve(pos, "_?_:_", None, &types) {
            Some(resolved) => (Node::Ternary(Box::new([cond, then, other])), resolved.ty),
            None => error(),
        }
    }

    fn index(&mut self, pos: u32, args: &'c [Expr; 2], optional: bool) -> Typed {
        let (operand, operand_ty) = self.expr(&args[0]);
        let (index, index_ty) = self.expr(&args[1]);
        let name = if optional { "_[?_]" } else { "_[_]" };
        match self.resolve(pos, name, None, &[operand_ty, index_ty]) {
            Some(resolved) => {
                let base = base_cost(&operand);
                let node = plan::Index { operand, index, optional, base };
                (Node::Index(Box::new(node)), resolved.ty)
            }
            None => error(),
        }
    }

    /// Finds the overloads that take these types; without any an error is noted. `types` has
    /// the receiver first, if there is one.
    fn resolve(
        &mut self,
        pos: u32,
        name: &str,
        receiver: Option<()>,
        types: &[Type],
    ) -> Option<Resolved> {
        let function = decls::lookup(name).expect("invariant: operators are in the table");
        self.resolve_in(pos, function, receiver.is_some(), types)
    }

    fn resolve_in(
        &mut self,
        pos: u32,
        function: &'static Function,
        member: bool,
        types: &[Type],
    ) -> Option<Resolved> {
        let mut result: Option<Type> = None;
        let mut costs = Vec::new();
        for overload in &function.overloads {
            if overload.member != member || overload.params.len() != types.len() {
                continue;
            }
            let first = self.unifier.fresh(overload.vars);
            let params: Vec<Type> = overload.params.iter().map(|p| instantiate(p, first)).collect();
            let pairs: Vec<(&Type, &Type)> = types.iter().zip(&params).collect();
            if !self.unifier.all_assignable(&pairs) {
                continue;
            }
            costs.push(overload);
            let ty = instantiate(&overload.result, first);
            let ty = self.unifier.resolve(&ty, false);
            result = Some(match result {
                None => ty,
                Some(Type::Dyn) => Type::Dyn,
                Some(previous) if self.unifier.same(&previous, &ty) => previous,
                Some(_) => Type::Dyn,
            });
        }
        let Some(ty) = result else {
            let mut shown =
                types.iter().map(|t| self.unifier.resolve(t, true).to_string()).collect::<Vec<_>>();
            let receiver = if member { format!("{}.", shown.remove(0)) } else { String::new() };
            let name = function.name;
            let args = shown.join(", ");
            self.note(
                pos,
                format!("found no matching overload for '{name}' applied to '{receiver}({args})'"),
            );
            return None;
        };
        let cost = match costs[..] {
            [only] => only.cost,
            [first, ..] if first.cost_by_name => first.cost,
            _ => Cost::One,
        };
        Some(Resolved { ty, cost })
    }

    fn call(&mut self, expr: &'c Expr, call: &'c ast::Call) -> Typed {
        let mut nodes = Vec::with_capacity(call.args.len() + 1);
        let mut types = Vec::with_capacity(call.args.len() + 1);
        let formats = call.target.is_some() && call.name == "format";
        self.formats += u32::from(formats);
        self.formatted.clear();
        for arg in &call.args {
            let (node, ty) = self.expr(arg);
            nodes.push(node);
            types.push(ty);
        }
        self.formats -= u32::from(formats);
        let formatted = std::mem::take(&mut self.formatted);
        if formats {
            self.format_literal(expr.pos, call, formatted);
        }
        let Some(target) = &call.target else {
            let name = call.name.strip_prefix('.').unwrap_or(&call.name);
            return match decls::lookup(name).filter(|f| is_callable(f)) {
                Some(function) => self.resolved_call(expr, call, function, false, nodes, types),
                None => self.undeclared(expr.pos, &call.name),
            };
        };
        // `sets.contains` is a function, not a method of something called `sets`.
        if let Some(prefix) = qualified_name(target) {
            let name = format!("{}.{}", prefix.strip_prefix('.').unwrap_or(&prefix), call.name);
            if let Some(function) = decls::lookup(&name) {
                return self.resolved_call(expr, call, function, false, nodes, types);
            }
            if let Some(format) = name.strip_prefix("format.").and_then(format::named) {
                if !nodes.is_empty() {
                    let args = types.iter().map(|t| self.unifier.resolve(t, true).to_string());
                    let args = args.collect::<Vec<_>>().join(", ");
                    let message =
                        format!("found no matching overload for '{name}' applied to '({args})'");
                    return self.wrong(expr.pos, message);
                }
                let value = Value::opaque(OpaqueValue::Format(format));
                let node = plan::Call {
                    name: "format",
                    native: crate::library::misc::identity,
                    args: vec![Node::Const(value)],
                    cost: Cost::One,
                };
                return (Node::Call(Box::new(node)), Type::Opaque(Opaque::Format));
            }
        }
        let (node, ty) = self.expr(target);
        nodes.insert(0, node);
        types.insert(0, ty);
        match decls::lookup(&call.name).filter(|f| is_callable(f)) {
            Some(function) => self.resolved_call(expr, call, function, true, nodes, types),
            None => self.undeclared(expr.pos, &call.name),
        }
    }

    fn resolved_call(
        &mut self,
        expr: &'c Expr,
        call: &'c ast::Call,
        function: &'static Function,
        member: bool,
        nodes: Vec<Node>,
        types: Vec<Type>,
    ) -> Typed {
        let Some(Resolved { ty, cost }) = self.resolve_in(expr.pos, function, member, &types)
        else {
            return error();
        };
        self.literals(call, function.name, member);
        let Some(native) = function.native else {
            let value = function.name == "orValue";
            let args: Result<Box<[Node; 2]>, _> = nodes.into_boxed_slice().try_into();
            let args = args.expect("invariant: both have two arguments");
            return (Node::OptionalOr { args, value }, ty);
        };
        let native = match (function.name, &ty) {
            ("sum", Type::Uint) => lists::sum_uint,
            ("sum", Type::Double) => lists::sum_double,
            ("sum", Type::Duration) => lists::sum_duration,
            _ => native,
        };
        let regex = match function.name {
            "matches" => Some(RegexCall::Matches),
            "find" => Some(RegexCall::Find),
            "findAll" => Some(RegexCall::FindAll),
            _ => None,
        };
        if let Some(regex) = regex
            && let Some(Node::Const(Value::String(pattern))) = nodes.get(1)
        {
            return match Pattern::new(pattern) {
                Ok(pattern) => {
                    let mut nodes = nodes.into_iter();
                    let subject = nodes.next().expect("invariant: the text is the first argument");
                    let limit = nodes.nth(1);
                    let node = plan::Regex { call: regex, subject, pattern, limit, cost };
                    (Node::Regex(Box::new(node)), ty)
                }
                Err(message) => {
                    self.constant.get_or_insert(message);
                    (Node::Const(Value::Null), ty)
                }
            };
        }
        let folds = is_conversion(function.name)
            && matches!(nodes[..], [Node::Const(_)])
            && self.found.is_empty();
        let node =
            Node::Call(Box::new(plan::Call { name: function.name, native, args: nodes, cost }));
        if folds { (self.fold(node), ty) } else { (node, ty) }
    }

    /// The value of a node without variables, in its place.
    fn fold(&mut self, node: Node) -> Node {
        match eval::constant(&node) {
            Ok(value) => Node::Const(value),
            Err(error) => {
                self.constant.get_or_insert(error.to_string());
                node
            }
        }
    }
}

fn error() -> Typed {
    (Node::Const(Value::Null), Type::Error)
}

/// What reading through a value costs that is no variable, field or element itself.
fn base_cost(operand: &Node) -> u64 {
    match operand {
        Node::Global(_) | Node::Local(_) | Node::Select(_) | Node::Index(_) | Node::Ternary(_) => 0,
        _ => 1,
    }
}

/// Types of cel-go that are objects without fields.
fn is_struct(opaque: Opaque) -> bool {
    matches!(opaque, Opaque::Url | Opaque::Format)
}

/// Operators have functions that nobody can spell.
fn is_callable(function: &Function) -> bool {
    function.native.is_some() || matches!(function.name, "or" | "orValue")
}

fn is_conversion(name: &str) -> bool {
    matches!(
        name,
        "bool"
            | "bytes"
            | "double"
            | "duration"
            | "dyn"
            | "int"
            | "string"
            | "timestamp"
            | "type"
            | "uint"
    )
}

/// The name that values of a type have when the expression runs.
fn runtime_name(ty: &Type) -> &'static str {
    match ty {
        Type::Dyn | Type::Var(_) | Type::Error => "dyn",
        Type::Null => "null_type",
        Type::Bool => "bool",
        Type::Int => "int",
        Type::Uint => "uint",
        Type::Double => "double",
        Type::String => "string",
        Type::Bytes => "bytes",
        Type::Timestamp => "google.protobuf.Timestamp",
        Type::Duration => "google.protobuf.Duration",
        Type::List(_) => "list",
        Type::Map(_) => "map",
        Type::Object(_) => "object",
        Type::Optional(_) => "optional_type",
        Type::Type(_) => "type",
        Type::Opaque(opaque) => opaque.name(),
    }
}
