//! Types of the macros: what each one's variables are, and what it comes to.

use super::{Checker, Typed, error};
use crate::{
    ast::{Comprehension, Macro},
    decls::Cost,
    plan::{self, Node},
    types::Type,
};

impl<'c> Checker<'c> {
    pub(super) fn comprehension(&mut self, pos: u32, c: &'c Comprehension) -> Typed {
        let (range, range_ty) = self.expr(&c.range);
        let range_ty = self.unifier.resolve(&range_ty, false);
        if matches!(c.kind, Macro::OptMap | Macro::OptFlatMap) {
            return self.opt_map(pos, c, range, range_ty);
        }
        let (first, second) = match &range_ty {
            Type::List(list) if c.var2.is_some() => (Type::Int, list.elem.clone()),
            Type::List(list) => (list.elem.clone(), Type::Error),
            Type::Map(map) => (map.key.clone(), map.value.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.unifier.assignable(&Type::Dyn, &range_ty);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.note(
                    c.range.pos,
                    format!("expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
                (Type::Error, Type::Error)
            }
        };
        let slot = self.locals.len() as u16;
        self.locals.push((&c.var, first.clone()));
        if let Some(var2) = &c.var2 {
            self.locals.push((var2, second));
        }
        self.locals_max = self.locals_max.max(self.locals.len() as u16);
        let filter = c.filter.as_ref().map(|f| (self.expr(f), f.pos));
        let (body, body_ty) = self.expr(&c.body);
        self.locals.truncate(slot as usize);

        let mut cost = Cost::One;
        let ty = match c.kind {
            Macro::All | Macro::Exists => {
                self.want_bool(c.body.pos, &body_ty);
                Type::Bool
            }
            Macro::ExistsOne => {
                self.chosen(pos, &body_ty, &Type::Int);
                Type::Bool
            }
            Macro::Filter => {
                let list = Type::list(first);
                self.chosen(pos, &body_ty, &list);
                list
            }
            Macro::Map | Macro::TransformList => {
                let list = Type::list(body_ty);
                if let Some(((_, ty), _)) = &filter {
                    self.chosen(pos, &ty.clone(), &list);
                }
                list
            }
            Macro::TransformMap => {
                let map = Type::map_of(first, body_ty);
                if let Some(((_, ty), _)) = &filter {
                    self.chosen(pos, &ty.clone(), &map);
                }
                map
            }
            Macro::TransformMapEntry => {
                let map = Type::map_of(self.unifier.var(), self.unifier.var());
                match self.resolve(pos, "@mapInsert", None, &[map, body_ty]) {
                    Some(resolved) => {
                        if let Some(((_, ty), _)) = &filter {
                            self.chosen(pos, &ty.clone(), &resolved.ty);
                        }
                        resolved.ty
                    }
                    None => Type::Error,
                }
            }
            Macro::SortBy => {
                let types = [range_ty, Type::list(body_ty)];
                match self.resolve(pos, "@sortByAssociatedKeys", Some(()), &types) {
                    Some(resolved) => {
                        cost = resolved.cost;
                        resolved.ty
                    }
                    None => Type::Error,
                }
            }
            Macro::OptMap | Macro::OptFlatMap => Type::Error,
        };
        let filter = filter.map(|((node, _), _)| node);
        let fold = Box::new(plan::Fold {
            kind: c.kind,
            range,
            slot,
            two: c.var2.is_some(),
            filter,
            body,
            cost,
        });
        let node = if c.kind == Macro::SortBy { Node::SortBy(fold) } else { Node::Fold(fold) };
        (node, ty)
    }

    /// A condition that chooses whether an element counts, as macros expand to it.
    fn chosen(&mut self, pos: u32, cond: &Type, result: &Type) {
        let types = [cond.clone(), result.clone(), result.clone()];
        self.resolve(pos, "_?_:_", None, &types);
    }

    fn opt_map(&mut self, pos: u32, c: &'c Comprehension, range: Node, range_ty: Type) -> Typed {
        let Some(_) = self.resolve(pos, "hasValue", Some(()), std::slice::from_ref(&range_ty))
        else {
            return error();
        };
        let Some(inner) = self.resolve(pos, "value", Some(()), &[range_ty]) else {
            return error();
        };
        let slot = self.locals.len() as u16;
        self.locals.push((&c.var, inner.ty));
        self.locals_max = self.locals_max.max(self.locals.len() as u16);
        let (body, body_ty) = self.expr(&c.body);
        self.locals.truncate(slot as usize);
        let (then, none) = match c.kind {
            Macro::OptMap => (Type::optional(body_ty), Type::optional(self.unifier.var())),
            _ => (body_ty, Type::optional(self.unifier.var())),
        };
        let Some(resolved) = self.resolve(pos, "_?_:_", None, &[Type::Bool, then, none]) else {
            return error();
        };
        let fold = plan::Fold {
            kind: c.kind,
            range,
            slot,
            two: false,
            filter: None,
            body,
            cost: Cost::One,
        };
        (Node::OptMap(Box::new(fold)), resolved.ty)
    }
}
