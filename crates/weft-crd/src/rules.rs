//! `x-kubernetes-validations`: rules in CEL at the nodes of a schema.
//!
//! A node's rules are compiled against the types of its schema when they are first needed. They
//! see the value as `self` and, where it can be told what the value was before, the old one as
//! `oldSelf`: through objects, maps and lists of type map, not through other lists.

use crate::{
    Additional, ListType, Schema, Violation, ViolationKind, path::Path, schema::correlate::OldItems,
};
use serde_json::Value;
use weft_cel::{Bindings, Budget, CompileErrors, Env, EvalError, Program, Type};

/// Longest message that an expression may make.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// A rule as the schema states it.
#[derive(Debug, Default)]
pub(crate) struct Rule {
    source: String,
    message: String,
    message_expression: String,
    reason: String,
    field_path: String,
    optional_old: bool,
}

impl Rule {
    pub(crate) fn parse(json: &Value) -> Self {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            source: text("rule"),
            message: text("message"),
            message_expression: text("messageExpression"),
            reason: text("reason"),
            field_path: text("fieldPath"),
            optional_old: json.get("optionalOldSelf") == Some(&Value::Bool(true)),
        }
    }

    /// How errors call the rule.
    fn name(&self) -> &str {
        if self.message.is_empty() { self.source.trim() } else { self.message.trim() }
    }

    fn message(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.name())
        } else {
            self.name().to_owned()
        }
    }
}

/// A rule that compiles.
#[derive(Debug)]
pub(crate) struct Ready {
    program: Program,
    /// Whether it compares with the old value.
    transition: bool,
    message: Option<Result<Program, String>>,
    /// Where below the node the finding is.
    field: String,
}

/// Why a rule does not compile.
#[derive(Debug, Clone)]
pub(crate) struct NotCompiled(String);

/// A rule's compilation.
pub(crate) type Compiled = Result<Ready, NotCompiled>;

impl NotCompiled {
    pub(crate) fn rule(&self) -> String {
        self.0.clone()
    }
}

impl Ready {
    pub(crate) fn transition(&self) -> bool {
        self.transition
    }

    pub(crate) fn message_error(&self) -> Option<String> {
        match &self.message {
            Some(Err(why)) => Some(why.clone()),
            _ => None,
        }
    }
}

/// The rules of a node, compiled once; `resource` says that it is the root of a resource.
pub(crate) fn compile(schema: &Schema, resource: bool) -> &[Compiled] {
    schema.programs.get_or_init(|| {
        let Some(own) = type_of(schema, resource, "object") else {
            let why = "failed to convert to declType for CEL validation rules";
            return schema.rules.iter().map(|_| Err(NotCompiled(why.to_owned()))).collect();
        };
        let env = Env::new().variable("self", own.clone());
        let plain = env.clone().variable("oldSelf", own.clone());
        let optional = env.variable("oldSelf", Type::optional(own));
        let rules = schema.rules.iter();
        rules
            .map(|rule| one(schema, rule, if rule.optional_old { &optional } else { &plain }))
            .collect()
    })
}

fn one(schema: &Schema, rule: &Rule, env: &Env) -> Compiled {
    let program = env.compile(&rule.source).map_err(|errors| NotCompiled(failed(&errors)))?;
    if !matches!(program.result_type(), Type::Bool) {
        return Err(NotCompiled("cel expression must evaluate to a bool".to_owned()));
    }
    let message = (!rule.message_expression.is_empty()).then(|| {
        let program = env
            .compile(&rule.message_expression)
            .map_err(|errors| format!("messageExpression {}", failed(&errors)))?;
        match program.result_type() {
            Type::String => Ok(program),
            _ => Err("messageExpression must evaluate to a string".to_owned()),
        }
    });
    let transition = program.reads("oldSelf");
    let field = field_path(&rule.field_path, schema, true).map(|(text, _)| text);
    Ok(Ready { program, transition, message, field: field.unwrap_or_default() })
}

/// What the real API says of an expression that cannot be used. What its types allow may still be
/// refused when the program is made: a constant pattern that is none, for example.
fn failed(errors: &CompileErrors) -> String {
    let step = if errors.is_instantiation() { "program instantiation" } else { "compilation" };
    format!("{step} failed: {errors}")
}

/// The type that rules see; `None` for what they cannot see.
fn type_of(schema: &Schema, resource: bool, name: &str) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    let format = schema.values.as_ref().and_then(|v| v.format.as_ref()).map(|(n, _)| n.as_str());
    Some(match schema.type_name.as_str() {
        "array" => {
            let items = schema.items()?;
            let inner = type_of(items, items.embedded, &format!("{name}.@idx"))?;
            match schema.list {
                ListType::Atomic => Type::list(inner),
                ListType::Set => Type::set(inner),
                ListType::Map => Type::list_map(inner, schema.map_keys.iter().cloned()),
            }
        }
        "object" => {
            if let Additional::Schema(values) = &schema.additional {
                return Some(Type::map(type_of(
                    values,
                    values.embedded,
                    &format!("{name}.@elem"),
                )?));
            }
            let mut fields: Vec<(String, Type)> = Vec::with_capacity(schema.properties.len() + 3);
            let named = resource.then_some(["apiVersion", "kind"]).into_iter().flatten();
            fields.extend(named.map(|field| (field.to_owned(), Type::String)));
            if resource {
                let names = ["name", "generateName"].map(|n| (n.to_owned(), Type::String));
                let metadata = Type::object(format!("{name}.metadata"), names);
                fields.push(("metadata".to_owned(), metadata));
            }
            for (key, property) in &schema.properties {
                let given = matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
                if resource && given {
                    continue;
                }
                if let Some(of) = type_of(property, property.embedded, &format!("{name}.{key}")) {
                    fields.push((key.clone(), of));
                }
            }
            Type::object(name, fields)
        }
        "string" => match format {
            Some("byte") => Type::Bytes,
            Some("duration") => Type::Duration,
            Some("date" | "date-time") => Type::Timestamp,
            _ => Type::String,
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => return None,
    })
}

/// What the old value at a place was, for rules and for what may stay as it was.
#[derive(Clone, Copy, Default)]
struct Past<'a> {
    /// The old value here, if it is known which one it is.
    here: Option<&'a Value>,
    /// The nearest place above where that is known: the new value there and the old one.
    above: Option<(&'a Value, &'a Value)>,
}

impl<'a> Past<'a> {
    fn unchanged(&self, value: &Value) -> bool {
        match (self.here, self.above) {
            (Some(old), _) => old == value,
            (None, Some((new, old))) => new == old,
            (None, None) => false,
        }
    }

    fn below(&self, value: &'a Value, child: Option<&'a Value>) -> Self {
        match self.here {
            Some(old) => Self { here: child, above: Some((value, old)) },
            None => *self,
        }
    }
}

/// A place in the object, and what holds there.
#[derive(Clone, Copy)]
struct Here<'a, 'p> {
    schema: &'a Schema,
    /// Whether it has `apiVersion`, `kind` and `metadata`.
    resource: bool,
    value: &'a Value,
    /// The old value that rules see.
    old: Option<&'a Value>,
    past: Past<'a>,
    path: &'p Path<'p>,
}

/// One evaluation of all rules of an object.
struct Walk<'a, 'o> {
    /// Text before the field paths.
    prefix: &'o str,
    budget: Budget,
    out: &'o mut Vec<Violation>,
    warnings: &'o mut Vec<String>,
    /// Nothing more is evaluated.
    over: bool,
    marker: std::marker::PhantomData<&'a ()>,
}

/// Evaluates the rules of `schema` and of all below. Findings that hold for parts which the
/// update leaves alone become warnings.
pub(crate) fn evaluate(
    schema: &Schema,
    new: &Value,
    old: Option<&Value>,
    prefix: &str,
    out: &mut Vec<Violation>,
    warnings: &mut Vec<String>,
) {
    if !schema.any_rule {
        return;
    }
    let resource = prefix.is_empty() || schema.embedded;
    let marker = std::marker::PhantomData;
    let mut walk = Walk { prefix, budget: Budget::default(), out, warnings, over: false, marker };
    let past = Past { here: old, above: None };
    walk.node(Here { schema, resource, value: new, old, past, path: &Path::ROOT });
}

impl<'a> Walk<'a, '_> {
    fn node(&mut self, here: Here<'a, '_>) {
        let Here { schema, value, old, past, path, .. } = here;
        if value.is_null() || !schema.any_rule {
            return;
        }
        if !schema.rules.is_empty() {
            self.rules(here);
        }
        match value {
            Value::Object(members) => {
                let before = old.and_then(Value::as_object);
                for (name, value_below) in members {
                    if self.over {
                        return;
                    }
                    let property = schema.property(name);
                    let (inner, at) = match (property, &schema.additional) {
                        (Some(inner), _) => (inner, path.child(name)),
                        (None, Additional::Schema(inner)) => (&**inner, path.key(name)),
                        _ => continue,
                    };
                    if !inner.any_rule {
                        continue;
                    }
                    let old_below = before.and_then(|members| members.get(name));
                    let ratchet = past.here.and_then(|old| old.get(name));
                    let past = past.below(value, ratchet);
                    self.node(Here {
                        schema: inner,
                        resource: inner.embedded,
                        value: value_below,
                        old: old_below,
                        past,
                        path: &at,
                    });
                }
            }
            Value::Array(items) => {
                let Some(inner) = schema.items().filter(|s| s.any_rule) else { return };
                let olds = OldItems::of(schema, old);
                for (i, item) in items.iter().enumerate() {
                    if self.over {
                        return;
                    }
                    let old_item = olds.find(item);
                    let past = past.below(value, old_item);
                    self.node(Here {
                        schema: inner,
                        resource: inner.embedded,
                        value: item,
                        old: old_item,
                        past,
                        path: &path.index(i),
                    });
                }
            }
            _ => {}
        }
    }

    fn field(&self, path: &Path<'_>, below: &str) -> String {
        let mut text = self.prefix.to_owned();
        let path = path.to_string();
        for part in [path.as_str(), below] {
            if !text.is_empty() && !part.is_empty() && !part.starts_with('[') {
                text.push('.');
            }
            text.push_str(part);
        }
        text
    }

    fn rules(&mut self, here: Here<'a, '_>) {
        let Here { schema, resource, value, old, past, path } = here;
        let shown = schema.type_name.as_str();
        for (rule, compiled) in schema.rules.iter().zip(compile(schema, resource)) {
            if self.over {
                return;
            }
            let ready = match compiled {
                Ok(ready) => ready,
                Err(why) => {
                    let why = format!("rule compile error: {}", why.0);
                    self.out.push(Violation::invalid(self.field(path, ""), shown, why));
                    continue;
                }
            };
            // A transition needs something to come from.
            if ready.transition && old.is_none() && !rule.optional_old {
                continue;
            }
            let bindings = Bindings::new().json("self", value);
            let bindings = match (rule.optional_old, old) {
                (true, old) => bindings.optional("oldSelf", old),
                (false, Some(old)) => bindings.json("oldSelf", old),
                (false, None) => bindings,
            };
            let holds = match ready.program.eval(&bindings, &mut self.budget) {
                Ok(result) => result.as_bool() == Some(true),
                Err(error) => {
                    self.failed(rule, &error, shown, path);
                    continue;
                }
            };
            if holds {
                continue;
            }
            let Some(detail) = self.message(rule, ready, &bindings, shown, path) else { return };
            let finding = finding(rule, self.field(path, &ready.field), schema, value, detail);
            if !ready.transition && past.unchanged(value) {
                self.warnings.push(finding.to_string());
            } else {
                self.out.push(finding);
            }
        }
    }

    fn failed(&mut self, rule: &Rule, error: &EvalError, shown: &str, path: &Path<'_>) {
        let name = rule.name();
        let why = match error {
            EvalError::BudgetSpent => {
                self.over = true;
                error.to_string()
            }
            EvalError::CallLimit => {
                self.over = true;
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds \
                     limit for rule: {name}"
                )
            }
            EvalError::NoSuchOverload(_) => format!(
                "'{error}': call arguments did not match a supported operator, function or macro \
                 signature for rule: {name}"
            ),
            EvalError::Other(_) => format!("{error} evaluating rule: {name}"),
        };
        self.out.push(Violation::invalid(self.field(path, ""), shown, why));
    }

    /// What to say; `None` when making it has spent everything.
    fn message(
        &mut self,
        rule: &Rule,
        ready: &'a Ready,
        bindings: &Bindings<'a>,
        shown: &str,
        path: &Path<'_>,
    ) -> Option<String> {
        let Some(Ok(program)) = &ready.message else { return Some(rule.message()) };
        let expression = &rule.message_expression;
        let why = match program.eval(bindings, &mut self.budget) {
            Ok(value) => {
                let made = value.as_str().unwrap_or_default().trim();
                let fits =
                    !made.is_empty() && made.len() <= MESSAGE_BYTES_MAX && !made.contains('\n');
                return Some(if fits { made.to_owned() } else { rule.message() });
            }
            Err(EvalError::BudgetSpent) => {
                "messageExpression evaluation failed due to running out of cost budget, no further \
                 validation rules will be run"
                    .to_owned()
            }
            Err(EvalError::CallLimit) => format!(
                "no further validation rules will be run due to call cost exceeds limit for \
                 messageExpression: {expression:?}"
            ),
            Err(_) => return Some(rule.message()),
        };
        self.over = true;
        self.out.push(Violation::invalid(self.field(path, &ready.field), shown, why));
        None
    }
}

fn finding(
    rule: &Rule,
    field: String,
    schema: &Schema,
    value: &Value,
    detail: String,
) -> Violation {
    let shown = match schema.type_name.as_str() {
        "object" | "array" => None,
        _ => Some(value.clone()),
    };
    let (kind, shown, detail) = match rule.reason.as_str() {
        "FieldValueForbidden" => (ViolationKind::Forbidden, None, detail),
        "FieldValueRequired" => (ViolationKind::Required, None, detail),
        "FieldValueDuplicate" => (ViolationKind::Duplicate, shown, String::new()),
        _ => (ViolationKind::Invalid, shown, detail),
    };
    Violation::new(kind, field, shown, detail)
}

/// Follows a path such as `.spec.ports` or `.map['key']` through a schema: the path as field
/// errors write it, and the schema there.
pub(crate) fn field_path<'s>(
    path: &str,
    schema: &'s Schema,
    brackets: bool,
) -> Result<(String, &'s Schema), String> {
    let (mut rest, mut text, mut at) = (path, String::new(), schema);
    let lost = || "does not refer to a valid field".to_owned();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(first) = rest.chars().next() {
        let (name, after) = match first {
            '.' => {
                let name = &rest[1..];
                if name.is_empty() {
                    return Err(end());
                }
                let len = name.find(['.', '[', ']']).unwrap_or(name.len());
                // A delimiter by itself is a name, too: one that no schema has.
                let len = if len == 0 { 1 } else { len };
                (name[..len].to_owned(), &name[len..])
            }
            '[' if !brackets => return Err("array notation is not allowed".to_owned()),
            '[' => quoted(&rest[1..])?,
            _ => {
                let len = rest[1..].find(['.', '[', ']']).map_or(rest.len(), |at| at + 1);
                let token = rest.get(..len).unwrap_or(rest);
                return Err(format!("expected [ or . but got: {token}"));
            }
        };
        at = match (at.is_struct(), &at.additional) {
            (true, _) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&name);
                at.property(&name).ok_or_else(lost)?
            }
            (false, Additional::Schema(inner)) => {
                text.push('[');
                text.push_str(&name);
                text.push(']');
                inner
            }
            _ => return Err(lost()),
        };
        rest = after;
    }
    Ok((text, at))
}

/// A quoted key and the closing bracket.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut chars = text.char_indices();
    match chars.next() {
        None => return Err("unexpected end of JSON path".to_owned()),
        Some((_, '\'')) => {}
        Some(_) => {
            let token = text.split(['.', '[', ']']).next().unwrap_or_default();
            return Err(format!("expected single quoted string but got {token}"));
        }
    }
    let mut name = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => {
                let after = &text[at + 1..];
                return match after.strip_prefix(']') {
                    Some(after) => Ok((name, after)),
                    None if after.is_empty() => Err("unexpected end of JSON path".to_owned()),
                    None => Err(format!("expected ] but got {after}")),
                };
            }
            '\\' => match chars.next() {
                Some((_, 'a')) => name.push('\u{7}'),
                Some((_, 'b')) => name.push('\u{8}'),
                Some((_, 'f')) => name.push('\u{c}'),
                Some((_, 'n')) => name.push('\n'),
                Some((_, 'r')) => name.push('\r'),
                Some((_, 't')) => name.push('\t'),
                Some((_, 'v')) => name.push('\u{b}'),
                Some((_, c @ ('\'' | '\\'))) => name.push(c),
                Some((_, c)) => {
                    return Err(format!("invalid string literal: invalid escape char \\{c}"));
                }
                None => break,
            },
            c => name.push(c),
        }
    }
    Err("unexpected end of JSON path".to_owned())
}
