//! Evaluation: one recursive walk over the plan, with every step charged.

use crate::{
    ast::{BinaryOp, Macro, SelectMode},
    budget::Meter,
    decls::Cost,
    env::Source,
    error::EvalError,
    library::{self, arith, misc},
    plan::{self, Node, RegexCall},
    types::Type,
    value::{Map, MapKey, MapRepr, OpaqueValue, Str, Value, equals, map_literal},
};
use std::{cmp::Ordering, collections::BTreeMap};

/// A function of the libraries: its arguments, the receiver first.
pub(crate) type Native = for<'a> fn(&mut Meter, &[Value<'a>]) -> Evaluated<'a>;

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Run<'a> {
    pub variables: &'a [(String, Type)],
    /// What each variable is bound to.
    pub globals: Vec<Option<Source<'a>>>,
    /// The variables of macros.
    pub locals: Vec<Value<'a>>,
    pub meter: Meter,
}

/// The value of a node that reads no variable.
pub(crate) fn constant(node: &Node) -> Result<Value<'static>, EvalError> {
    // Only calls with constant arguments come here; the arguments are copied so that the
    // result borrows nothing.
    let Node::Call(call) = node else { return Err(EvalError::no_such_overload()) };
    let args: Vec<Value<'static>> = call
        .args
        .iter()
        .filter_map(|arg| match arg {
            Node::Const(value) => Some(value.clone()),
            _ => None,
        })
        .collect();
    invoke(call, &args, &mut Meter::default())
}

/// Calls a function; one that does not take these values is named, as cel-go does it.
fn invoke<'a>(call: &plan::Call, args: &[Value<'a>], meter: &mut Meter) -> Evaluated<'a> {
    let mut result = (call.native)(meter, args);
    if let Err(EvalError::NoSuchOverload(text)) = &mut result
        && text.is_empty()
        && !matches!(call.name, "startsWith" | "endsWith" | "contains" | "matches")
    {
        let kinds: Vec<&str> = args.iter().map(Value::type_name).collect();
        *text = format!("{}({})", call.name, kinds.join(", ")).into();
    }
    result
}

impl<'a> Run<'a> {
    pub fn eval(&mut self, node: &'a Node) -> Evaluated<'a> {
        match node {
            Node::Const(Value::String(text)) => Ok(Value::String(Str::Ref(text))),
            Node::Const(value) => Ok(value.clone()),
            Node::Global(at) => {
                self.meter.charge(1)?;
                self.global(*at as usize)
            }
            Node::Local(at) => {
                self.meter.charge(1)?;
                Ok(self.locals[*at as usize].clone())
            }
            Node::Select(select) => self.select(select),
            Node::Index(index) => self.index(index),
            Node::Not(operand) => {
                let value = self.eval(operand);
                self.meter.charge(1)?;
                match value? {
                    Value::Bool(b) => Ok(Value::Bool(!b)),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::Negate(operand) => {
                let value = self.eval(operand);
                self.meter.charge(1)?;
                arith::negate(&value?)
            }
            Node::And(sides) => self.logic(sides, false),
            Node::Or(sides) => self.logic(sides, true),
            Node::Ternary(parts) => {
                let [cond, then, other] = &**parts;
                let chosen = match self.eval(cond)? {
                    Value::Bool(true) => then,
                    Value::Bool(false) => other,
                    _ => return Err(EvalError::no_such_overload()),
                };
                let value = self.eval(chosen);
                // Reading is free where a branch is nothing but that, as in cel-go.
                if is_read(chosen) {
                    self.meter.refund(1);
                }
                value
            }
            Node::Binary(binary) => self.binary(binary),
            Node::InSet(node) => {
                let item = self.eval(&node.item)?;
                node.set.contains(&item, &mut self.meter).map(Value::Bool)
            }
            Node::Call(call) => self.call(call),
            Node::Regex(regex) => self.regex(regex),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Fold(fold) => self.fold(fold),
            Node::SortBy(fold) => self.sort_by(fold),
            Node::OptMap(fold) => self.opt_map(fold),
            Node::OptionalOr { args, value } => self.optional_or(args, *value),
        }
    }

    fn global(&mut self, at: usize) -> Evaluated<'a> {
        let variables = self.variables;
        let (name, ty) = &variables[at];
        match &self.globals[at] {
            None => Err(EvalError::text(format!("no such attribute(s): {name}"))),
            Some(Source::Json(json)) => Value::from_json(json, ty),
            Some(Source::Value(value)) => Ok(value.clone()),
        }
    }

    /// `&&` and `||`: whichever side decides, decides, even if the other is an error.
    fn logic(&mut self, sides: &'a [Node; 2], decisive: bool) -> Evaluated<'a> {
        let mut first = None;
        for side in sides {
            match self.eval(side) {
                Ok(Value::Bool(b)) if b == decisive => return Ok(Value::Bool(b)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => {
                    first.get_or_insert_with(EvalError::no_such_overload);
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    fn select(&mut self, select: &'a plan::Select) -> Evaluated<'a> {
        let operand = self.eval(&select.operand);
        if select.mode == SelectMode::Test {
            // What is asked about costs, but not reading the variable that it starts from.
            if is_read(&select.operand) {
                self.meter.refund(1);
            }
            return self.test(operand?, select);
        }
        self.meter.charge(select.base)?;
        let operand = operand?;
        let (operand, was_optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, false),
        };
        let found = match &operand {
            Value::Map(map) => known_field(map, select),
            Value::List(_) => {
                self.meter.charge(1)?;
                return Err(EvalError::text("unsupported index type 'string' in list"));
            }
            _ => None,
        };
        match (select.mode, found) {
            (SelectMode::Optional, None) => Ok(Value::Optional(None)),
            (SelectMode::Plain, None) if was_optional => Ok(Value::Optional(None)),
            (SelectMode::Plain | SelectMode::Test, None) => {
                self.meter.charge(1)?;
                Err(EvalError::text(format!("no such key: {}", select.field)))
            }
            (mode, Some(value)) => {
                self.meter.charge(1)?;
                if mode == SelectMode::Optional || was_optional {
                    Value::some(value?)
                } else {
                    value
                }
            }
        }
    }

    /// `has(operand.field)`
    fn test(&mut self, operand: Value<'a>, select: &'a plan::Select) -> Evaluated<'a> {
        let operand = match operand {
            Value::Optional(None) => return Ok(Value::Bool(false)),
            Value::Optional(Some(value)) => (*value).clone(),
            value => value,
        };
        self.meter.charge(1)?;
        match &operand {
            Value::Map(map) => Ok(Value::Bool(known_field(map, select).transpose()?.is_some())),
            Value::List(_) => Err(EvalError::text("unsupported index type 'string' in list")),
            _ => Ok(Value::Bool(false)),
        }
    }

    fn index(&mut self, index: &'a plan::Index) -> Evaluated<'a> {
        let operand = self.eval(&index.operand);
        self.meter.charge(index.base)?;
        let operand = operand?;
        let (operand, was_optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, false),
        };
        let key = self.eval(&index.index)?;
        if is_read(&index.index) {
            self.meter.refund(1);
        }
        let optional = index.optional || was_optional;
        let found = match misc::element(&operand, &key) {
            Ok(found) => found,
            Err(error) => {
                self.meter.charge(1)?;
                return Err(error);
            }
        };
        match found {
            Some(value) => {
                self.meter.charge(1)?;
                if optional { Value::some(value) } else { Ok(value) }
            }
            None if optional => Ok(Value::Optional(None)),
            None => {
                self.meter.charge(1)?;
                let what = match operand {
                    Value::List(_) => "index out of bounds",
                    _ => "no such key",
                };
                Err(EvalError::text(format!("{what}: {}", misc::shown(&key))))
            }
        }
    }

    fn binary(&mut self, binary: &'a plan::Binary) -> Evaluated<'a> {
        // Both sides are looked at even if the first one failed: that is what it costs.
        let left = self.eval(&binary.left);
        if matches!(&left, Err(error) if error.is_fatal()) {
            return left;
        }
        let right = self.eval(&binary.right);
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, right),
            (left, right) => return self.failed(binary.cost, [left, right]),
        };
        match binary.cost {
            Cost::One => self.meter.charge(1)?,
            cost => {
                let cost = cost_before(cost, &[&left, &right]);
                self.meter.charge(cost)?;
            }
        }
        let meter = &mut self.meter;
        match binary.op {
            BinaryOp::Equal => equals(&left, &right, meter).map(Value::Bool),
            BinaryOp::NotEqual => match equals(&left, &right, meter) {
                Ok(same) => Ok(Value::Bool(!same)),
                Err(error) if error.is_fatal() => Err(error),
                // What cannot be compared is not equal.
                Err(_) => Ok(Value::Bool(true)),
            },
            BinaryOp::Less => ordered(binary.op, &left, &right, Ordering::is_lt),
            BinaryOp::LessEqual => ordered(binary.op, &left, &right, Ordering::is_le),
            BinaryOp::Greater => ordered(binary.op, &left, &right, Ordering::is_gt),
            BinaryOp::GreaterEqual => ordered(binary.op, &left, &right, Ordering::is_ge),
            BinaryOp::In => misc::is_in(meter, &left, &right).map(Value::Bool),
            BinaryOp::Add => arith::add(meter, &left, &right),
            BinaryOp::Subtract => arith::subtract(&left, &right),
            BinaryOp::Multiply => arith::multiply(&left, &right),
            BinaryOp::Divide => arith::divide(&left, &right),
            BinaryOp::Modulo => arith::modulo(&left, &right),
            BinaryOp::And | BinaryOp::Or => Err(EvalError::no_such_overload()),
        }
    }

    /// An operation whose operand failed costs too, as if the error were a value of size one.
    fn failed<const N: usize>(&mut self, cost: Cost, args: [Evaluated<'a>; N]) -> Evaluated<'a> {
        let sizes = args.each_ref().map(|arg| arg.as_ref().unwrap_or(&Value::Null));
        let cost = match cost {
            Cost::Made | Cost::Flatten => 12,
            cost => cost_before(cost, &sizes),
        };
        let fatal = args.iter().find_map(|arg| arg.as_ref().err().filter(|e| e.is_fatal()));
        if let Some(error) = fatal {
            return Err(error.clone());
        }
        self.meter.charge(cost)?;
        let error = args.into_iter().find_map(Result::err);
        Err(error.unwrap_or_else(EvalError::no_such_overload))
    }

    fn call(&mut self, call: &'a plan::Call) -> Evaluated<'a> {
        match &call.args[..] {
            [] => self.native(call, &[]),
            [a] => match self.eval(a) {
                Ok(a) => self.native(call, &[a]),
                failed => self.failed(call.cost, [failed]),
            },
            [a, b] => {
                let a = self.eval(a);
                if matches!(&a, Err(error) if error.is_fatal()) {
                    return a;
                }
                match (a, self.eval(b)) {
                    (Ok(a), Ok(b)) => self.native(call, &[a, b]),
                    (a, b) => self.failed(call.cost, [a, b]),
                }
            }
            // The first argument that fails ends the call before it is counted.
            many => {
                let args = many.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                self.native(call, &args)
            }
        }
    }

    fn native(&mut self, call: &'a plan::Call, args: &[Value<'a>]) -> Evaluated<'a> {
        match call.cost {
            Cost::One => self.meter.charge(1)?,
            Cost::Result | Cost::Made => {}
            Cost::Elements => {
                let cost = match args.first() {
                    Some(value) => misc::traversal(&mut self.meter, value)?,
                    None => 1,
                };
                self.meter.charge(cost)?;
            }
            cost => {
                let refs: [Option<&Value>; 2] = [args.first(), args.get(1)];
                let cost = match refs {
                    [Some(a), Some(b)] => cost_before(cost, &[a, b]),
                    [Some(a), None] => cost_before(cost, &[a]),
                    _ => 1,
                };
                self.meter.charge(cost)?;
            }
        }
        let result = invoke(call, args, &mut self.meter);
        let size = result.as_ref().map_or(1, Value::size);
        match call.cost {
            Cost::Result => self.meter.charge((size * 2).div_ceil(10))?,
            Cost::Made => self.meter.charge(size.saturating_add(11))?,
            _ => {}
        }
        result
    }

    fn regex(&mut self, node: &'a plan::Regex) -> Evaluated<'a> {
        let subject = self.eval(&node.subject)?;
        let limit = node.limit.as_ref().map(|limit| self.eval(limit)).transpose()?;
        let cost = match node.cost {
            Cost::Regex => regex_cost(subject.size(), node.pattern.size),
            _ => 1,
        };
        self.meter.charge(cost)?;
        let Value::String(text) = &subject else { return Err(EvalError::no_such_overload()) };
        let regex = &node.pattern.regex;
        match node.call {
            RegexCall::Matches => Ok(Value::Bool(regex.is_match(text))),
            RegexCall::Find => Ok(library::strings::found(regex, text)),
            RegexCall::FindAll => {
                library::strings::all_found(&mut self.meter, regex, text, limit.as_ref())
            }
        }
    }

    fn list(&mut self, elements: &'a [(Node, bool)]) -> Evaluated<'a> {
        // The list costs even if an element fails.
        self.meter.charge(10)?;
        let mut items = Vec::with_capacity(elements.len());
        for (node, optional) in elements {
            match (self.eval(node)?, optional) {
                (value, false) => items.push(value),
                (Value::Optional(value), true) => items.extend(value.map(|v| (*v).clone())),
                (value, true) => {
                    let kind = value.type_name();
                    return Err(EvalError::text(format!(
                        "cannot initialize optional list element from non-optional value {kind}"
                    )));
                }
            }
        }
        Value::list(items)
    }

    fn map(&mut self, entries: &'a [plan::Entry]) -> Evaluated<'a> {
        self.meter.charge(30)?;
        let mut pairs = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = self.eval(&entry.key)?;
            match (self.eval(&entry.value)?, entry.optional) {
                (value, false) => pairs.push((key, value)),
                (Value::Optional(value), true) => {
                    pairs.extend(value.map(|value| (key, (*value).clone())));
                }
                (value, true) => {
                    let kind = value.type_name();
                    return Err(EvalError::text(format!(
                        "cannot initialize optional entry '{}' from non-optional value {kind}",
                        misc::shown(&key)
                    )));
                }
            }
        }
        map_literal(pairs.into_iter())
    }

    fn optional_or(&mut self, args: &'a [Node; 2], value: bool) -> Evaluated<'a> {
        match self.eval(&args[0])? {
            Value::Optional(Some(found)) if value => Ok((*found).clone()),
            Value::Optional(None) => self.eval(&args[1]),
            found => Ok(found),
        }
    }

    fn opt_map(&mut self, fold: &'a plan::Fold) -> Evaluated<'a> {
        let before = self.meter.cost();
        let target = self.eval(&fold.range)?;
        let spent = self.meter.cost() - before;
        self.meter.charge(1)?;
        let found = match target {
            Value::Optional(Some(value)) => (*value).clone(),
            Value::Optional(None) => {
                self.meter.charge(1)?;
                return Ok(Value::Optional(None));
            }
            _ => return Err(EvalError::no_such_overload()),
        };
        // The macro as cel-go writes it out evaluates its target twice.
        self.meter.charge(spent + 1)?;
        self.locals[fold.slot as usize] = found;
        let value = self.eval(&fold.body)?;
        if fold.kind == Macro::OptFlatMap {
            return Ok(value);
        }
        self.meter.charge(1)?;
        Value::some(value)
    }

    /// Calls `step` for each element with the variables set; `step` says whether to go on.
    fn each(
        &mut self,
        fold: &'a plan::Fold,
        mut step: impl FnMut(&mut Self) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        let range = self.eval(&fold.range)?;
        let slot = fold.slot as usize;
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let item = list.get(i).unwrap_or(Ok(Value::Null))?;
                    if fold.two {
                        self.locals[slot] = Value::Int(i as i64);
                        self.locals[slot + 1] = item;
                    } else {
                        self.locals[slot] = item;
                    }
                    if !step(self)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    if fold.two {
                        let value = map.get(&key).unwrap_or(Ok(Value::Null))?;
                        self.locals[slot + 1] = value;
                    }
                    self.locals[slot] = key;
                    if !step(self)? {
                        break;
                    }
                }
            }
            other => {
                let kind = go_type(&other);
                return Err(EvalError::text(if fold.two {
                    format!("unsupported comprehension range type: {kind}")
                } else {
                    format!("got '{kind}', expected iterable type")
                }));
            }
        }
        Ok(())
    }

    fn fold(&mut self, fold: &'a plan::Fold) -> Evaluated<'a> {
        match fold.kind {
            Macro::All => self.quantify(fold, false),
            Macro::Exists => self.quantify(fold, true),
            Macro::ExistsOne => {
                let mut count = 0_u64;
                self.each(fold, |run| {
                    let yes = run.condition(&fold.body)?;
                    run.meter.charge(if yes { 2 } else { 0 })?;
                    count += u64::from(yes);
                    Ok(true)
                })?;
                self.meter.charge(2)?;
                Ok(Value::Bool(count == 1))
            }
            Macro::TransformMap | Macro::TransformMapEntry => self.transform_map(fold),
            _ => {
                let items = self.collect(fold)?;
                Value::list(items)
            }
        }
    }

    fn condition(&mut self, node: &'a Node) -> Result<bool, EvalError> {
        match self.eval(node)? {
            Value::Bool(b) => Ok(b),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// `all` and `exists`: an element that decides, decides, even after errors.
    fn quantify(&mut self, fold: &'a plan::Fold, decisive: bool) -> Evaluated<'a> {
        // What cel-go's loop around the predicate costs: asking whether to go on, and reading
        // what it came to.
        let ask = if decisive { 3 } else { 2 };
        let mut first = None;
        let mut decided = false;
        let mut left = 0_usize;
        self.each(fold, |run| {
            if decided {
                left += 1;
                run.meter.charge(ask)?;
                return Ok(false);
            }
            run.meter.charge(ask + 1)?;
            match run.eval(&fold.body) {
                Ok(Value::Bool(b)) => decided = b == decisive,
                Ok(_) => {
                    first.get_or_insert_with(EvalError::no_such_overload);
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
            Ok(true)
        })?;
        self.meter.charge(1)?;
        match first {
            _ if decided => Ok(Value::Bool(decisive)),
            Some(error) => Err(error),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    /// The elements of `filter`, `map`, `transformList` and the keys of `sortBy`.
    fn collect(&mut self, fold: &'a plan::Fold) -> Result<Vec<Value<'a>>, EvalError> {
        let mut items = Vec::new();
        let only_filters = fold.kind == Macro::Filter;
        self.each(fold, |run| {
            let filter = if only_filters { Some(&fold.body) } else { fold.filter.as_ref() };
            if let Some(filter) = filter
                && !run.condition(filter)?
            {
                return Ok(true);
            }
            // Reading the list so far, making a list of one, joining the two.
            run.meter.charge(12)?;
            let item = if only_filters {
                run.meter.charge(1)?;
                run.locals[fold.slot as usize].clone()
            } else {
                run.eval(&fold.body)?
            };
            items.push(item);
            Ok(true)
        })?;
        self.meter.charge(1)?;
        Ok(items)
    }

    fn transform_map(&mut self, fold: &'a plan::Fold) -> Evaluated<'a> {
        let mut entries: BTreeMap<MapKey<'a>, Value<'a>> = BTreeMap::new();
        let mut insert = |key: Value<'a>, value: Value<'a>| {
            let Some(of) = MapKey::of(&key) else {
                return Err(EvalError::text(format!("unsupported key type: {}", key.type_name())));
            };
            if entries.insert(of, value).is_some() {
                let key = misc::shown(&key);
                return Err(EvalError::text(format!("insert failed: key {key} already exists")));
            }
            Ok(())
        };
        self.each(fold, |run| {
            if let Some(filter) = &fold.filter
                && !run.condition(filter)?
            {
                return Ok(true);
            }
            run.meter.charge(2)?;
            let value = run.eval(&fold.body)?;
            if fold.kind == Macro::TransformMap {
                run.meter.charge(1)?;
                insert(run.locals[fold.slot as usize].clone(), value)?;
                return Ok(true);
            }
            let Value::Map(map) = &value else { return Err(EvalError::no_such_overload()) };
            for key in map.keys() {
                run.meter.burn(1)?;
                let value = map.get(&key).unwrap_or(Ok(Value::Null))?;
                insert(key, value)?;
            }
            Ok(true)
        })?;
        self.meter.charge(1)?;
        Value::map(entries)
    }

    fn sort_by(&mut self, fold: &'a plan::Fold) -> Evaluated<'a> {
        let range = self.eval(&fold.range)?;
        let Value::List(list) = &range else { return Err(EvalError::no_such_overload()) };
        let mut keys = Vec::with_capacity(list.len());
        for item in list.iter() {
            self.locals[fold.slot as usize] = item?;
            self.meter.charge(12)?;
            keys.push(self.eval(&fold.body)?);
        }
        self.meter.charge(3)?;
        let keys = Value::list(keys)?;
        let cost = cost_before(Cost::Square(0), &[&keys]);
        self.meter.charge(if matches!(fold.cost, Cost::Square(_)) { cost } else { 1 })?;
        library::lists::sort_by_keys(list, &keys)
    }
}

fn ordered<'a>(
    op: BinaryOp,
    left: &Value<'a>,
    right: &Value<'a>,
    test: fn(Ordering) -> bool,
) -> Evaluated<'a> {
    let has_order = !matches!(
        left,
        Value::Null
            | Value::List(_)
            | Value::Map(_)
            | Value::Type(_)
            | Value::Optional(_)
            | Value::Opaque(_)
    );
    if !has_order {
        return Err(EvalError::NoSuchOverload(op.function().into()));
    }
    arith::compare(left, right).map(|order| Value::Bool(test(order)))
}

/// The field or entry that a selection names.
fn known_field<'a>(map: &Map<'a>, select: &'a plan::Select) -> Option<Evaluated<'a>> {
    if let (MapRepr::Object(json, ty), Some((known, at))) = (&map.0, &select.known)
        && std::ptr::eq(*ty, &**known)
    {
        let field = &ty.fields()[*at as usize];
        let value = json.get(&field.json)?;
        return (!value.is_null()).then(|| Value::from_json(value, &field.ty));
    }
    map.get_str(&select.field)
}

/// Whether a node does nothing but read a variable and on from there.
fn is_read(node: &Node) -> bool {
    matches!(node, Node::Global(_) | Node::Local(_) | Node::Select(_) | Node::Index(_))
}

/// The name that cel-go's message has for a value that cannot be walked.
fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Duration(_) => "types.Duration",
        Value::Type(_) => "*types.Type",
        Value::Optional(_) => "*types.Optional",
        _ => "ref.Val",
    }
}

fn regex_cost(text: u64, pattern: u64) -> u64 {
    (text + 1).div_ceil(10) * pattern.div_ceil(4)
}

/// What a call costs, where its arguments tell.
pub(crate) fn cost_before(cost: Cost, args: &[&Value<'_>]) -> u64 {
    let size = |at: usize| args.get(at).map_or(1, |v| v.size());
    match cost {
        Cost::One | Cost::Result | Cost::Made | Cost::Elements => 1,
        Cost::Traverse(times) => (size(0) * times).div_ceil(10),
        Cost::Smaller => size(0).min(size(1)).div_ceil(10),
        Cost::Both => (size(0) + size(1)).div_ceil(10),
        Cost::Second => size(1),
        Cost::Regex => regex_cost(size(0), size(1)),
        Cost::Contains => size(0).div_ceil(10) * size(1).div_ceil(10),
        Cost::Product(times) => size(0).saturating_mul(size(1)).saturating_mul(times) + 1,
        Cost::Flatten => {
            let levels = match args.get(1) {
                Some(Value::Int(n)) => (*n).max(0) as u64,
                _ => 1,
            };
            size(0).saturating_mul(levels).saturating_add(11)
        }
        Cost::Square(at) => {
            let Some(Value::List(list)) = args.get(at) else { return 11 };
            let size = list.len() as u64;
            let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
            let square = size.saturating_mul(size);
            square.saturating_mul(2) + if text { square / 10 } else { 0 } + 11
        }
        Cost::ContainsIp { parses } => {
            let own = (size(0) * 2).div_ceil(10);
            own + if parses { size(1).div_ceil(10) } else { 0 }
        }
        Cost::ContainsCidr { parses } => {
            let own = (size(0) * 2).div_ceil(10) + size(0).div_ceil(10) + 1;
            own + if parses { size(1).div_ceil(10) } else { 0 }
        }
        Cost::Validate => match args {
            [Value::Opaque(format), _] => match &**format {
                OpaqueValue::Format(format) => regex_cost(size(1), format.regex_size),
                _ => 1,
            },
            _ => 1,
        },
    }
}
