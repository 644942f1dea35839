//! Literals: lists and maps whose parts are alike, and texts whose form functions dictate.

use super::{Checker, Typed, runtime_name};
use crate::{
    ast::{self, Kind},
    library::{strings, time},
    plan::{self, Node},
    regex::Pattern,
    types::{ListKind, ListType, MapType, Type},
    value::{Value, map_literal},
};
use std::sync::Arc;

impl<'c> Checker<'c> {
    pub(super) fn compare_alike(&mut self) {
        for types in std::mem::take(&mut self.alike) {
            let mut types = types.into_iter();
            let Some((_, first)) = types.next() else { continue };
            let first = self.unifier.resolve(&first, true);
            for (pos, ty) in types {
                let ty = self.unifier.resolve(&ty, true);
                if !self.unifier.same(&first, &ty) {
                    self.late.push((pos, format!("expected type '{first}' but found '{ty}'")));
                    break;
                }
            }
        }
    }

    /// Literals whose form functions dictate.
    pub(super) fn literals(&mut self, call: &'c ast::Call, name: &str, member: bool) {
        let at = usize::from(name == "matches" && !member);
        let Some(arg) = call.args.get(at) else { return };
        let fine = match (name, &arg.kind) {
            ("duration", Kind::String(s)) => time::parse_duration(s).is_some(),
            ("duration", Kind::Int(_)) => false,
            ("timestamp", Kind::String(s)) => time::parse_time(s).is_some(),
            ("timestamp", Kind::Int(n)) => time::Time::new(*n, 0, 0).is_ok(),
            ("matches", Kind::String(s)) => self.constant.is_none() && Pattern::new(s).is_ok(),
            _ => true,
        };
        if !fine {
            self.late.push((arg.pos, format!("invalid {name} argument")));
        }
    }

    /// A constant text for `format` is checked against the types of a list literal.
    pub(super) fn format_literal(
        &mut self,
        pos: u32,
        call: &'c ast::Call,
        types: Vec<(u32, Type)>,
    ) {
        let (Some(target), [arg]) = (&call.target, &call.args[..]) else { return };
        let (Kind::String(text), Kind::List(elements)) = (&target.kind, &arg.kind) else { return };
        let types: Vec<(u32, &str)> = types
            .into_iter()
            .map(|(pos, ty)| (pos, runtime_name(&self.unifier.resolve(&ty, true))))
            .collect();
        if types.len() != elements.len() {
            return;
        }
        if let Err((at, message)) = strings::check_format(text, &types) {
            self.late.push((at.unwrap_or(pos), message));
        }
    }

    /// Widens what an aggregate's elements have in common by one more.
    fn join(&mut self, joined: &mut Option<Type>, ty: &Type) {
        let Some(previous) = joined.take() else {
            *joined = Some(ty.clone());
            return;
        };
        if self.unifier.assignable(&previous, ty) {
            *joined = Some(self.unifier.general(&previous, ty));
        } else {
            *joined = Some(Type::Dyn);
        }
    }

    /// Notes parts of a literal that have to be of one type, unless they are what `format`
    /// prints. What their types are is known in the end.
    fn alike(&mut self, types: Vec<(u32, Type)>) {
        if self.formats == 0 && types.len() > 1 {
            self.alike.push(types);
        } else if self.formats > 0 {
            self.formatted = types;
        }
    }

    /// The type in an optional element.
    fn unwrapped(&mut self, pos: u32, optional: bool, ty: Type) -> Type {
        if !optional {
            return ty;
        }
        match ty {
            Type::Optional(of) => (*of).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let wanted = Type::optional(other.clone());
                self.note(pos, format!("expected type '{wanted}' but found '{other}'"));
                other
            }
        }
    }

    pub(super) fn list(&mut self, elements: &'c [ast::Element]) -> Typed {
        let mut joined = None;
        let mut nodes = Vec::with_capacity(elements.len());
        let mut types = Vec::with_capacity(elements.len());
        for element in elements {
            let (node, ty) = self.expr(&element.expr);
            let ty = self.unwrapped(element.expr.pos, element.optional, ty);
            self.join(&mut joined, &ty);
            nodes.push((node, element.optional));
            types.push((element.expr.pos, ty));
        }
        self.alike(types);
        let elem = joined.unwrap_or_else(|| self.unifier.var());
        let ty = Type::List(Arc::new(ListType { elem, kind: ListKind::Atomic }));
        if nodes.iter().all(|(node, optional)| matches!(node, Node::Const(_)) && !optional) {
            let values = nodes.into_iter().filter_map(|(node, _)| match node {
                Node::Const(value) => Some(value),
                _ => None,
            });
            return match Value::list(values.collect()) {
                Ok(list) => (Node::Const(list), ty),
                Err(error) => {
                    self.constant.get_or_insert(error.to_string());
                    (Node::Const(Value::Null), ty)
                }
            };
        }
        (Node::List(nodes), ty)
    }

    pub(super) fn map(&mut self, entries: &'c [ast::Entry]) -> Typed {
        let (mut keys, mut values) = (None, None);
        let (mut key_types, mut value_types) = (Vec::new(), Vec::new());
        let mut nodes = Vec::with_capacity(entries.len());
        for entry in entries {
            let (key, ty) = self.expr(&entry.key);
            self.join(&mut keys, &ty);
            key_types.push((entry.key.pos, ty));
            let (value, ty) = self.expr(&entry.value);
            let ty = self.unwrapped(entry.value.pos, entry.optional, ty);
            self.join(&mut values, &ty);
            value_types.push((entry.value.pos, ty));
            nodes.push(plan::Entry { key, value, optional: entry.optional });
        }
        self.alike(key_types);
        self.alike(value_types);
        let key = keys.unwrap_or_else(|| self.unifier.var());
        let value = values.unwrap_or_else(|| self.unifier.var());
        let ty = Type::Map(Arc::new(MapType { key, value }));
        let constant = nodes
            .iter()
            .all(|e| matches!((&e.key, &e.value), (Node::Const(_), Node::Const(_))) && !e.optional);
        if !constant {
            return (Node::Map(nodes), ty);
        }
        let pairs = nodes.into_iter().filter_map(|e| match (e.key, e.value) {
            (Node::Const(key), Node::Const(value)) => Some((key, value)),
            _ => None,
        });
        match map_literal(pairs) {
            Ok(map) => (Node::Const(map), ty),
            Err(error) => {
                self.constant.get_or_insert(error.to_string());
                (Node::Const(Value::Null), ty)
            }
        }
    }
}
