//! Inference: what type parameters stand for, and which types may meet.
//!
//! The relation is cel-go's: gradual (`dyn` meets everything), with the more general of two
//! types kept for a parameter that meets both.

use crate::types::{ListKind, ListType, MapType, Type};
use std::sync::Arc;

/// Steps that the types of one expression may take; only types built to explode need more.
const STEPS_MAX: u32 = 1_000_000;

#[derive(Default)]
pub(crate) struct Unifier {
    /// What each type parameter stands for.
    bound: Vec<Option<Type>>,
    /// Bindings that were replaced, to undo them.
    trail: Vec<(u32, Option<Type>)>,
    steps: u32,
}

impl Unifier {
    /// Room for `count` new type parameters; the first one's number.
    pub fn fresh(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.resize(self.bound.len() + count as usize, None);
        first
    }

    /// A new type parameter.
    pub fn var(&mut self) -> Type {
        Type::Var(self.fresh(1))
    }

    /// Whether the types grew beyond reason; what was inferred then means nothing.
    pub fn exhausted(&self) -> bool {
        self.steps > STEPS_MAX
    }

    fn step(&mut self) -> bool {
        self.steps += 1;
        !self.exhausted()
    }

    /// Whether a value of type `from` may be where `to` is wanted. Bindings that this needs are
    /// kept if so, and undone if not.
    pub fn assignable(&mut self, to: &Type, from: &Type) -> bool {
        self.all_assignable(&[(to, from)])
    }

    pub fn all_assignable(&mut self, pairs: &[(&Type, &Type)]) -> bool {
        self.trail.clear();
        if pairs.iter().all(|(to, from)| self.meet(to, from)) {
            return true;
        }
        while let Some((var, old)) = self.trail.pop() {
            self.bound[var as usize] = old;
        }
        false
    }

    fn bind(&mut self, var: u32, to: Type) {
        let old = self.bound[var as usize].replace(to);
        self.trail.push((var, old));
    }

    fn meet(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return false;
        }
        if let Type::Var(var) = b {
            match self.substitute(a, *var) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Var(var) = a {
            return self.substitute(b, *var).0;
        }
        match (a, b) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, other) | (other, Type::Null) => matches!(
                other,
                Type::Null
                    | Type::Optional(_)
                    | Type::Opaque(_)
                    | Type::Object(_)
                    | Type::Timestamp
                    | Type::Duration
            ),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.meet(&a.elem, &b.elem),
            (Type::Map(a), Type::Map(b)) => {
                self.meet(&a.key, &b.key) && self.meet(&a.value, &b.value)
            }
            (Type::Optional(a), Type::Optional(b)) => self.meet(a, b),
            (a, b) => a == b,
        }
    }

    /// Whether `ty` may stand for the parameter, and whether something did already.
    fn substitute(&mut self, ty: &Type, var: u32) -> (bool, bool) {
        if matches!(ty, Type::Var(other) if *other == var) {
            return (true, true);
        }
        if let Some(old) = self.bound[var as usize].clone() {
            if self.same(ty, &old) {
                return (true, true);
            }
            if !self.meet(ty, &old) {
                return (false, true);
            }
            let general = self.general(ty, &old);
            if !self.occurs(var, &general) {
                self.bind(var, general);
            }
            return (true, true);
        }
        if self.occurs(var, ty) {
            return (false, false);
        }
        self.bind(var, ty.clone());
        (true, false)
    }

    /// The less specific of two types that meet.
    pub fn general(&mut self, a: &Type, b: &Type) -> Type {
        if self.covers(a, b) { a.clone() } else { b.clone() }
    }

    fn covers(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match (a, b) {
            (Type::Dyn | Type::Var(_), _) => true,
            (_, Type::Dyn | Type::Var(_)) => false,
            (Type::List(a), Type::List(b)) => self.covers(&a.elem, &b.elem),
            (Type::Map(a), Type::Map(b)) => {
                self.covers(&a.key, &b.key) && self.covers(&a.value, &b.value)
            }
            (Type::Optional(a), Type::Optional(b)) => self.covers(a, b),
            (Type::Type(_), Type::Type(_)) => true,
            (a, b) => self.same(a, b),
        }
    }

    /// Whether two types are one, their lists' kinds aside.
    pub fn same(&mut self, a: &Type, b: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match (a, b) {
            (Type::List(a), Type::List(b)) => self.same(&a.elem, &b.elem),
            (Type::Map(a), Type::Map(b)) => {
                self.same(&a.key, &b.key) && self.same(&a.value, &b.value)
            }
            (Type::Optional(a), Type::Optional(b)) | (Type::Type(a), Type::Type(b)) => {
                self.same(a, b)
            }
            (a, b) => a == b,
        }
    }

    fn occurs(&mut self, var: u32, ty: &Type) -> bool {
        if !self.step() {
            return true;
        }
        match ty {
            Type::Var(other) if *other == var => true,
            Type::Var(other) => match self.bound[*other as usize].clone() {
                Some(bound) => self.occurs(var, &bound),
                None => false,
            },
            Type::List(list) => self.occurs(var, &list.elem),
            Type::Map(map) => self.occurs(var, &map.key) || self.occurs(var, &map.value),
            Type::Optional(of) | Type::Type(of) => self.occurs(var, of),
            _ => false,
        }
    }

    /// The type with its parameters replaced by what they stand for; those without become
    /// `dyn` if asked.
    pub fn resolve(&mut self, ty: &Type, open_to_dyn: bool) -> Type {
        if !self.step() {
            return Type::Dyn;
        }
        match ty {
            Type::Var(var) => match self.bound[*var as usize].clone() {
                Some(bound) => self.resolve(&bound, open_to_dyn),
                None if open_to_dyn => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(list) if has_vars(&list.elem) => Type::List(Arc::new(ListType {
                elem: self.resolve(&list.elem, open_to_dyn),
                kind: list.kind.clone(),
            })),
            Type::Map(map) if has_vars(&map.key) || has_vars(&map.value) => {
                Type::Map(Arc::new(MapType {
                    key: self.resolve(&map.key, open_to_dyn),
                    value: self.resolve(&map.value, open_to_dyn),
                }))
            }
            Type::Optional(of) if has_vars(of) => Type::optional(self.resolve(of, open_to_dyn)),
            Type::Type(of) if has_vars(of) => Type::Type(Arc::new(self.resolve(of, open_to_dyn))),
            _ => ty.clone(),
        }
    }
}

/// Whether type parameters are left in it. Declared types have none and are not walked far: an
/// object is a leaf.
fn has_vars(ty: &Type) -> bool {
    let mut stack = vec![ty];
    // A type that was built to explode is taken to have some: resolving it runs out of steps.
    for _ in 0..10_000 {
        match stack.pop() {
            None => return false,
            Some(Type::Var(_)) => return true,
            Some(Type::List(list)) => stack.push(&list.elem),
            Some(Type::Map(map)) => stack.extend([&map.key, &map.value]),
            Some(Type::Optional(of) | Type::Type(of)) => stack.push(of),
            Some(_) => {}
        }
    }
    true
}

/// A signature's type with its parameters counted from `first`.
pub(crate) fn instantiate(ty: &Type, first: u32) -> Type {
    match ty {
        Type::Var(n) => Type::Var(first + n),
        Type::List(list) => Type::List(Arc::new(ListType {
            elem: instantiate(&list.elem, first),
            kind: ListKind::Atomic,
        })),
        Type::Map(map) => Type::Map(Arc::new(MapType {
            key: instantiate(&map.key, first),
            value: instantiate(&map.value, first),
        })),
        Type::Optional(of) => Type::optional(instantiate(of, first)),
        Type::Type(of) => Type::Type(Arc::new(instantiate(of, first))),
        _ => ty.clone(),
    }
}
