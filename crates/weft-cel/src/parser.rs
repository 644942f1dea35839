//! Tokens to expressions: precedence climbing, with limits on everything.
//!
//! Texts and places of errors are those of the reference implementation where it names one
//! mistake; after a syntax error the parser stops, it does not guess on.

use crate::{
    ast::*,
    escape::is_reserved,
    lexer::{Lexer, Token, unquote},
};
use std::ops::Range;

/// Longest source, in characters.
const SOURCE_MAX: usize = 100_000;
/// Deepest nesting, of brackets and of expressions: recursion over an expression goes no deeper.
/// cel-go has 250 for each rule of its grammar.
pub(crate) const DEPTH_MAX: u16 = 250;
/// Errors that are told at most.
const ERRORS_MAX: usize = 100;

/// What can start an expression, as ANTLR lists it.
const STARTS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// A message and the byte offset where it belongs.
pub(crate) type Found = (u32, String);

/// Parsing stops here; the error is noted.
struct Stop;

type Parsed<T = Expr> = Result<T, Stop>;

/// Parses `source`; on failure at least one error comes back.
pub(crate) fn parse(source: &str) -> Result<Expr, Vec<Found>> {
    let size = source.chars().take(SOURCE_MAX + 1).count();
    if size > SOURCE_MAX {
        let size = source.chars().count();
        let message =
            format!("expression code point size exceeds limit: size: {size}, limit {SOURCE_MAX}");
        return Err(vec![(0, message)]);
    }
    let mut parser = Parser {
        source,
        lexer: Lexer::new(source),
        token: Token::End,
        range: 0..0,
        nesting: 0,
        errors: Vec::new(),
    };
    let parsed = parser.start();
    match parsed {
        Ok(expr) if parser.errors.is_empty() => Ok(expr),
        _ => Err(parser.errors),
    }
}

struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    /// The token to look at, and where it is.
    token: Token,
    range: Range<usize>,
    nesting: u16,
    errors: Vec<Found>,
}

impl Parser<'_> {
    fn start(&mut self) -> Parsed {
        self.advance();
        let expr = self.expr()?;
        if self.token != Token::End {
            let message =
                format!("Syntax error: extraneous input {} expecting <EOF>", self.shown());
            return self.stop(message);
        }
        Ok(expr)
    }

    /// Takes the next token. What is no token is told and skipped.
    fn advance(&mut self) {
        loop {
            let (token, range) = self.lexer.next();
            if token != Token::Bad {
                (self.token, self.range) = (token, range);
                return;
            }
            let text = &self.source[range.clone()];
            self.note(range.start, format!("Syntax error: token recognition error at: '{text}'"));
        }
    }

    fn note(&mut self, at: usize, message: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((at as u32, message));
        }
    }

    fn stop<T>(&mut self, message: String) -> Parsed<T> {
        self.note(self.range.start, message);
        Err(Stop)
    }

    fn mismatched<T>(&mut self, expected: &str) -> Parsed<T> {
        let message =
            format!("Syntax error: mismatched input {} expecting {expected}", self.shown());
        self.stop(message)
    }

    /// The current token as errors show it.
    fn shown(&self) -> String {
        match self.token {
            Token::End => "'<EOF>'".to_owned(),
            _ => format!("'{}'", self.text()),
        }
    }

    fn text(&self) -> &str {
        &self.source[self.range.clone()]
    }

    fn pos(&self) -> u32 {
        self.range.start as u32
    }

    fn eat(&mut self, token: Token) -> bool {
        let found = self.token == token;
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, token: Token, expected: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { self.mismatched(expected) }
    }

    /// Builds an expression over others, the deepest of them `below`, unless it is too deep.
    fn made(&mut self, pos: u32, below: u16, kind: Kind) -> Parsed {
        if below >= DEPTH_MAX {
            self.note(0, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            return Err(Stop);
        }
        Ok(Expr { pos, depth: below + 1, kind })
    }

    fn expr(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > DEPTH_MAX {
            self.note(0, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
            return Err(Stop);
        }
        let cond = self.logic(BinaryOp::Or)?;
        let expr = if self.token == Token::Question {
            let pos = self.pos();
            self.advance();
            let then = self.logic(BinaryOp::Or)?;
            self.expect(Token::Colon, "':'")?;
            let otherwise = self.expr()?;
            let below = cond.depth.max(then.depth).max(otherwise.depth);
            self.made(pos, below, Kind::Ternary(Box::new([cond, then, otherwise])))?
        } else {
            cond
        };
        self.nesting -= 1;
        Ok(expr)
    }

    /// `||` or `&&`: a chain becomes a balanced tree, so that long ones are not deep.
    fn logic(&mut self, op: BinaryOp) -> Parsed {
        let or = op == BinaryOp::Or;
        let sign = if or { Token::OrOr } else { Token::AndAnd };
        let mut terms = Vec::new();
        let mut signs = Vec::new();
        loop {
            terms.push(if or { self.logic(BinaryOp::And)? } else { self.binary(0)? });
            if self.token != sign {
                break;
            }
            signs.push(self.pos());
            self.advance();
        }
        let mut terms: Vec<Option<Expr>> = terms.into_iter().map(Some).collect();
        self.balance(op, &mut terms, &signs)
    }

    fn balance(&mut self, op: BinaryOp, terms: &mut [Option<Expr>], signs: &[u32]) -> Parsed {
        if signs.is_empty() {
            return Ok(terms[0].take().expect("invariant: each term is taken once"));
        }
        let middle = signs.len() / 2;
        let (left, right) = terms.split_at_mut(middle + 1);
        let left = self.balance(op, left, &signs[..middle])?;
        let right = self.balance(op, right, &signs[middle + 1..])?;
        let below = left.depth.max(right.depth);
        self.made(signs[middle], below, Kind::Binary(op, Box::new([left, right])))
    }

    /// Relations (level 0), sums (1) and products (2), all from left to right.
    fn binary(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((op, op_level)) = operator(self.token) {
            if op_level < level {
                break;
            }
            let pos = self.pos();
            self.advance();
            let right = self.binary(op_level + 1)?;
            let below = left.depth.max(right.depth);
            left = self.made(pos, below, Kind::Binary(op, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let (sign, op) = match self.token {
            Token::Not => (Token::Not, UnaryOp::Not),
            Token::Minus => (Token::Minus, UnaryOp::Negate),
            _ => return self.member(),
        };
        let pos = self.pos();
        let start = self.range.start;
        let mut count = 0_usize;
        while self.eat(sign) {
            count += 1;
        }
        // One minus before a number is the number's own.
        if count == 1 && op == UnaryOp::Negate && matches!(self.token, Token::Int | Token::Double) {
            let number = self.number(start, true)?;
            return self.suffixes(number);
        }
        let operand = if op == UnaryOp::Not && self.token == Token::Minus {
            let start = self.range.start;
            self.advance();
            if !matches!(self.token, Token::Int | Token::Double) {
                return self.mismatched("{NUM_FLOAT, NUM_INT}");
            }
            let number = self.number(start, true)?;
            self.suffixes(number)?
        } else {
            self.member()?
        };
        // As in cel-go an even number cancels out, whatever the operand.
        if count.is_multiple_of(2) {
            return Ok(operand);
        }
        let below = operand.depth;
        self.made(pos, below, Kind::Unary(op, Box::new(operand)))
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    fn suffixes(&mut self, mut expr: Expr) -> Parsed {
        loop {
            let pos = self.pos();
            if self.eat(Token::Dot) {
                let optional = self.eat(Token::Question);
                if self.token == Token::Quoted {
                    return self.stop("unsupported syntax: '`'".to_owned());
                }
                if self.token != Token::Ident {
                    let message = match self.token {
                        Token::True | Token::False | Token::Null => format!(
                            "Syntax error: mismatched input {} expecting IDENTIFIER",
                            self.shown()
                        ),
                        Token::End => "Syntax error: no viable alternative at input '.'".to_owned(),
                        _ => format!(
                            "Syntax error: no viable alternative at input '.{}'",
                            self.text()
                        ),
                    };
                    // The word is an operator where it is no name, and taken as that.
                    if self.token == Token::In {
                        self.note(self.range.start, message);
                        return Ok(expr);
                    }
                    return self.stop(message);
                }
                let field = self.text().to_owned();
                self.advance();
                let open = self.pos();
                if !optional && self.eat(Token::OpenParen) {
                    let args = self.args()?;
                    expr = self.member_call(open, expr, field, args)?;
                    continue;
                }
                let mode = if optional { SelectMode::Optional } else { SelectMode::Plain };
                let below = expr.depth;
                let select = Select { operand: expr, field, mode };
                expr = self.made(pos, below, Kind::Select(Box::new(select)))?;
                // A message literal is the only brace that may follow.
                if self.token == Token::OpenBrace {
                    expr = self.message(expr)?;
                }
            } else if self.eat(Token::OpenBracket) {
                let optional = self.eat(Token::Question);
                let index = self.expr()?;
                self.expect(Token::CloseBracket, "']'")?;
                let below = expr.depth.max(index.depth);
                let args = Box::new([expr, index]);
                expr = self.made(pos, below, Kind::Index { args, optional })?;
            } else {
                return Ok(expr);
            }
        }
    }

    /// Arguments after the opening parenthesis, up to and with the closing one.
    fn args(&mut self) -> Parsed<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(Token::CloseParen) {
            return Ok(args);
        }
        if self.token == Token::End {
            return self.mismatched(&STARTS.replacen("'.'", "')', '.'", 1));
        }
        loop {
            args.push(self.expr()?);
            if self.eat(Token::CloseParen) {
                return Ok(args);
            }
            self.expect(Token::Comma, "{')', ','}")?;
        }
    }

    fn primary(&mut self) -> Parsed {
        let pos = self.pos();
        match self.token {
            Token::Int | Token::Uint | Token::Double => self.number(self.range.start, false),
            Token::String | Token::Bytes => self.literal_string(),
            Token::True | Token::False | Token::Null => {
                let kind = match self.token {
                    Token::True => Kind::Bool(true),
                    Token::False => Kind::Bool(false),
                    _ => Kind::Null,
                };
                self.advance();
                self.made(pos, 0, kind)
            }
            Token::OpenParen => {
                self.advance();
                let expr = self.expr()?;
                if self.token != Token::CloseParen {
                    let message = if self.token == Token::End {
                        "Syntax error: missing ')' at '<EOF>'".to_owned()
                    } else {
                        format!("Syntax error: mismatched input {} expecting ')'", self.shown())
                    };
                    return self.stop(message);
                }
                self.advance();
                Ok(expr)
            }
            Token::OpenBracket => self.list(),
            Token::OpenBrace => self.map(),
            Token::Dot | Token::Ident => self.name(),
            Token::End | Token::Quoted => self.mismatched(STARTS),
            _ => {
                // ANTLR drops one token where that helps; then it calls it extraneous.
                let mut ahead = Lexer::new(self.source);
                ahead.seek(self.range.end);
                let helps = matches!(
                    ahead.next().0,
                    Token::Int
                        | Token::Uint
                        | Token::Double
                        | Token::String
                        | Token::Bytes
                        | Token::Ident
                        | Token::True
                        | Token::False
                        | Token::Null
                        | Token::OpenParen
                        | Token::OpenBracket
                        | Token::OpenBrace
                        | Token::Minus
                        | Token::Not
                        | Token::Dot
                );
                let what = if helps { "extraneous" } else { "mismatched" };
                let message =
                    format!("Syntax error: {what} input {} expecting {STARTS}", self.shown());
                self.stop(message)
            }
        }
    }

    fn name(&mut self) -> Parsed {
        let pos = self.pos();
        let mut name = String::new();
        if self.eat(Token::Dot) {
            name.push('.');
            if self.token != Token::Ident {
                let message =
                    format!("Syntax error: mismatched input {} expecting IDENTIFIER", self.shown());
                return self.stop(message);
            }
        }
        let word = self.text().to_owned();
        name.push_str(&word);
        self.advance();
        if is_reserved(&word) && self.token != Token::OpenBrace {
            self.note(pos as usize, format!("reserved identifier: {word}"));
        }
        let open = self.pos();
        if self.eat(Token::OpenParen) {
            let args = self.args()?;
            return self.global_call(open, name, args);
        }
        let ident = self.made(pos, 0, Kind::Ident(name))?;
        if self.token == Token::OpenBrace { self.message(ident) } else { Ok(ident) }
    }

    /// `a.b.Name{…}`: read in full, and refused by the checker.
    fn message(&mut self, name: Expr) -> Parsed {
        let Some(name) = qualified_name(&name) else {
            return self.mismatched("<EOF>");
        };
        let pos = self.pos();
        self.advance();
        let mut below = 0;
        while !self.eat(Token::CloseBrace) {
            self.eat(Token::Question);
            if self.token != Token::Ident {
                return self.mismatched("{'}', ',', '?', IDENTIFIER}");
            }
            self.advance();
            self.expect(Token::Colon, "':'")?;
            below = self.expr()?.depth.max(below);
            if !self.eat(Token::Comma) && self.token != Token::CloseBrace {
                return self.mismatched("{'}', ','}");
            }
        }
        self.made(pos, below, Kind::Message(name))
    }

    fn list(&mut self) -> Parsed {
        let pos = self.pos();
        self.advance();
        let mut elements = Vec::new();
        while !self.eat(Token::CloseBracket) {
            // `[,]` is a list too.
            if elements.is_empty() && self.eat(Token::Comma) {
                self.expect(Token::CloseBracket, "']'")?;
                break;
            }
            let optional = self.eat(Token::Question);
            let expr = self.expr()?;
            elements.push(Element { expr, optional });
            if !self.eat(Token::Comma) && self.token != Token::CloseBracket {
                return self.mismatched("{']', ','}");
            }
        }
        let below = elements.iter().map(|e| e.expr.depth).max().unwrap_or(0);
        self.made(pos, below, Kind::List(elements))
    }

    fn map(&mut self) -> Parsed {
        let pos = self.pos();
        self.advance();
        let mut entries = Vec::new();
        while !self.eat(Token::CloseBrace) {
            if entries.is_empty() && self.eat(Token::Comma) {
                self.expect(Token::CloseBrace, "'}'")?;
                break;
            }
            let optional = self.eat(Token::Question);
            let key = self.expr()?;
            self.expect(Token::Colon, "':'")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.eat(Token::Comma) && self.token != Token::CloseBrace {
                return self.mismatched("{'}', ','}");
            }
        }
        let below = entries.iter().map(|e| e.key.depth.max(e.value.depth)).max().unwrap_or(0);
        self.made(pos, below, Kind::Map(entries))
    }

    fn number(&mut self, start: usize, negative: bool) -> Parsed {
        let text = self.text();
        let body = match self.token {
            Token::Uint => &text[..text.len() - 1],
            _ => text,
        };
        let sign = if negative { "-" } else { "" };
        let (radix, digits) = match body.strip_prefix("0x") {
            Some(hex) if self.token != Token::Double => (16, hex),
            _ => (10, body),
        };
        let kind = match self.token {
            Token::Uint => u64::from_str_radix(digits, radix).map(Kind::Uint).map_err(|_| "uint"),
            Token::Int => i64::from_str_radix(&format!("{sign}{digits}"), radix)
                .map(Kind::Int)
                .map_err(|_| "int"),
            _ => match body.parse::<f64>() {
                Ok(number) if number.is_finite() => {
                    Ok(Kind::Double(if negative { -number } else { number }))
                }
                _ => Err("double"),
            },
        };
        self.advance();
        match kind {
            Ok(kind) => self.made(start as u32, 0, kind),
            Err(what) => {
                self.note(start, format!("invalid {what} literal"));
                self.made(start as u32, 0, Kind::Null)
            }
        }
    }

    fn literal_string(&mut self) -> Parsed {
        let pos = self.pos();
        let bytes = self.token == Token::Bytes;
        let text = if bytes { &self.text()[1..] } else { self.text() };
        let kind = match unquote(text, bytes) {
            Ok(value) if bytes => Kind::Bytes(value),
            Ok(value) => Kind::String(
                String::from_utf8(value).expect("invariant: only characters are put in a string"),
            ),
            Err(message) => {
                self.note(pos as usize, message.to_owned());
                Kind::Null
            }
        };
        self.advance();
        self.made(pos, 0, kind)
    }

    fn global_call(&mut self, pos: u32, name: String, mut args: Vec<Expr>) -> Parsed {
        if name == "has" && args.len() == 1 {
            return match args.pop() {
                Some(Expr { depth, kind: Kind::Select(select), .. })
                    if select.mode == SelectMode::Plain =>
                {
                    let select = Select { mode: SelectMode::Test, ..*select };
                    Ok(Expr { pos, depth, kind: Kind::Select(Box::new(select)) })
                }
                arg => {
                    let at = arg.map_or(pos, |e| e.pos);
                    self.note(at as usize, "invalid argument to has() macro".to_owned());
                    self.made(pos, 0, Kind::Bool(false))
                }
            };
        }
        let below = args.iter().map(|e| e.depth).max().unwrap_or(0);
        self.made(pos, below, Kind::Call(Box::new(Call { name, target: None, args })))
    }

    fn member_call(&mut self, pos: u32, target: Expr, name: String, args: Vec<Expr>) -> Parsed {
        if let Some((kind, vars)) = macro_of(&name, args.len()) {
            return self.comprehension(pos, kind, vars, target, args);
        }
        let below = args.iter().map(|e| e.depth).max().unwrap_or(0).max(target.depth);
        let call = Call { name, target: Some(target), args };
        self.made(pos, below, Kind::Call(Box::new(call)))
    }

    fn comprehension(
        &mut self,
        pos: u32,
        kind: Macro,
        vars: usize,
        range: Expr,
        args: Vec<Expr>,
    ) -> Parsed {
        let below = args.iter().map(|e| e.depth).max().unwrap_or(0).max(range.depth);
        let mut args = args.into_iter();
        let mut names = Vec::with_capacity(2);
        for arg in args.by_ref().take(vars) {
            let Kind::Ident(name) = arg.kind else {
                self.note(arg.pos as usize, not_a_name(kind).to_owned());
                return self.made(pos, 0, Kind::Bool(false));
            };
            if names.contains(&name) {
                self.note(arg.pos as usize, format!("duplicate variable name: {name}"));
            }
            if name == "__result__" && !matches!(kind, Macro::OptMap | Macro::OptFlatMap) {
                let message = "iteration variable overwrites accumulator variable";
                self.note(arg.pos as usize, message.to_owned());
            }
            names.push(name);
        }
        let body = args.next_back().expect("invariant: every macro has a body");
        let filter = args.next();
        let mut names = names.into_iter();
        let var = names.next().expect("invariant: every macro has a variable");
        let comprehension = Comprehension { kind, range, var, var2: names.next(), filter, body };
        self.made(pos, below, Kind::Comprehension(Box::new(comprehension)))
    }
}

fn operator(token: Token) -> Option<(BinaryOp, u8)> {
    Some(match token {
        Token::EqualEqual => (BinaryOp::Equal, 0),
        Token::NotEqual => (BinaryOp::NotEqual, 0),
        Token::Less => (BinaryOp::Less, 0),
        Token::LessEqual => (BinaryOp::LessEqual, 0),
        Token::Greater => (BinaryOp::Greater, 0),
        Token::GreaterEqual => (BinaryOp::GreaterEqual, 0),
        Token::In => (BinaryOp::In, 0),
        Token::Plus => (BinaryOp::Add, 1),
        Token::Minus => (BinaryOp::Subtract, 1),
        Token::Star => (BinaryOp::Multiply, 2),
        Token::Slash => (BinaryOp::Divide, 2),
        Token::Percent => (BinaryOp::Modulo, 2),
        _ => return None,
    })
}

/// The macro with this name and number of arguments, and how many of them are variables.
fn macro_of(name: &str, args: usize) -> Option<(Macro, usize)> {
    Some(match (name, args) {
        ("all", 2) => (Macro::All, 1),
        ("all", 3) => (Macro::All, 2),
        ("exists", 2) => (Macro::Exists, 1),
        ("exists", 3) => (Macro::Exists, 2),
        ("exists_one", 2) => (Macro::ExistsOne, 1),
        ("exists_one" | "existsOne", 3) => (Macro::ExistsOne, 2),
        ("filter", 2) => (Macro::Filter, 1),
        ("map", 2 | 3) => (Macro::Map, 1),
        ("transformList", 3 | 4) => (Macro::TransformList, 2),
        ("transformMap", 3 | 4) => (Macro::TransformMap, 2),
        ("transformMapEntry", 3 | 4) => (Macro::TransformMapEntry, 2),
        ("sortBy", 2) => (Macro::SortBy, 1),
        ("optMap", 2) => (Macro::OptMap, 1),
        ("optFlatMap", 2) => (Macro::OptFlatMap, 1),
        _ => return None,
    })
}

fn not_a_name(kind: Macro) -> &'static str {
    match kind {
        Macro::OptMap => "optMap() variable name must be a simple identifier",
        Macro::OptFlatMap => "optFlatMap() variable name must be a simple identifier",
        Macro::Map | Macro::Filter | Macro::SortBy => "argument is not an identifier",
        _ => "argument must be a simple name",
    }
}

/// `a.b.c` as one name, where it could be one.
pub(crate) fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.clone()),
        Kind::Select(select) if select.mode == SelectMode::Plain => {
            let mut name = qualified_name(&select.operand)?;
            name.push('.');
            name.push_str(&select.field);
            Some(name)
        }
        _ => None,
    }
}
