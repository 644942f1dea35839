//! Expressions back to source, for the tests: every operation in parentheses.

use crate::ast::{BinaryOp, Expr, Kind, Macro, SelectMode, UnaryOp};
use std::fmt::Write;

pub(crate) fn print(expr: &Expr) -> String {
    let mut out = String::new();
    put(&mut out, expr);
    out
}

fn list<'e>(out: &mut String, items: impl Iterator<Item = &'e Expr>) {
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        put(out, item);
    }
}

fn quoted(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for b in bytes {
        match b {
            b' '..=b'~' if !b"\\\"".contains(b) => out.push(*b as char),
            b => _ = write!(out, "\\x{b:02x}"),
        }
    }
    out.push('"');
}

fn symbol(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::In => "in",
        op => op.function().trim_matches('_'),
    }
}

fn macro_name(kind: Macro) -> &'static str {
    match kind {
        Macro::All => "all",
        Macro::Exists => "exists",
        Macro::ExistsOne => "exists_one",
        Macro::Filter => "filter",
        Macro::Map => "map",
        Macro::TransformList => "transformList",
        Macro::TransformMap => "transformMap",
        Macro::TransformMapEntry => "transformMapEntry",
        Macro::SortBy => "sortBy",
        Macro::OptMap => "optMap",
        Macro::OptFlatMap => "optFlatMap",
    }
}

fn put(out: &mut String, expr: &Expr) {
    match &expr.kind {
        Kind::Null => out.push_str("null"),
        Kind::Bool(b) => _ = write!(out, "{b}"),
        // In parentheses, or a sign before and a method after would read otherwise.
        Kind::Int(n) => _ = write!(out, "({n})"),
        Kind::Uint(n) => _ = write!(out, "({n}u)"),
        Kind::Double(n) => _ = write!(out, "({n:e})"),
        Kind::String(s) => {
            out.push('"');
            for c in s.chars() {
                match c {
                    ' '..='~' if !"\\\"".contains(c) => out.push(c),
                    c => _ = write!(out, "\\U{:08x}", u32::from(c)),
                }
            }
            out.push('"');
        }
        Kind::Bytes(b) => {
            out.push('b');
            quoted(out, b);
        }
        Kind::Ident(name) => out.push_str(name),
        Kind::Select(select) => {
            let test = select.mode == SelectMode::Test;
            out.push_str(if test { "has(" } else { "" });
            out.push('(');
            put(out, &select.operand);
            out.push_str(if select.mode == SelectMode::Optional { ").?" } else { ")." });
            out.push_str(&select.field);
            out.push_str(if test { ")" } else { "" });
        }
        Kind::Unary(op, operand) => {
            out.push_str(if *op == UnaryOp::Not { "!(" } else { "-(" });
            put(out, operand);
            out.push(')');
        }
        Kind::Binary(op, sides) => {
            out.push('(');
            put(out, &sides[0]);
            _ = write!(out, ") {} (", symbol(*op));
            put(out, &sides[1]);
            out.push(')');
        }
        Kind::Ternary(parts) => {
            for (part, after) in parts.iter().zip([" ? ", " : ", ""]) {
                out.push('(');
                put(out, part);
                out.push(')');
                out.push_str(after);
            }
        }
        Kind::Index { args, optional } => {
            out.push('(');
            put(out, &args[0]);
            out.push_str(if *optional { ")[?" } else { ")[" });
            put(out, &args[1]);
            out.push(']');
        }
        Kind::Call(call) => {
            if let Some(target) = &call.target {
                out.push('(');
                put(out, target);
                out.push_str(").");
            }
            out.push_str(&call.name);
            out.push('(');
            list(out, call.args.iter());
            out.push(')');
        }
        Kind::List(elements) => {
            out.push('[');
            for element in elements {
                out.push_str(if element.optional { "?" } else { "" });
                put(out, &element.expr);
                out.push(',');
            }
            out.push(']');
        }
        Kind::Map(entries) => {
            out.push('{');
            for entry in entries {
                out.push_str(if entry.optional { "?" } else { "" });
                put(out, &entry.key);
                out.push(':');
                put(out, &entry.value);
                out.push(',');
            }
            out.push('}');
        }
        Kind::Message(name) => _ = write!(out, "{name}{{}}"),
        Kind::Comprehension(c) => {
            out.push('(');
            put(out, &c.range);
            _ = write!(out, ").{}({}, ", macro_name(c.kind), c.var);
            if let Some(var2) = &c.var2 {
                _ = write!(out, "{var2}, ");
            }
            list(out, c.filter.iter().chain([&c.body]));
            out.push(')');
        }
    }
}
