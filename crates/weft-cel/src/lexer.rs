//! Source text to tokens.

use std::ops::Range;

/// A token; its text is the source at its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Ident,
    /// `` `a-b` ``: of the newer grammar; Kubernetes does not enable it.
    Quoted,
    True,
    False,
    Null,
    In,
    OrOr,
    AndAnd,
    EqualEqual,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Not,
    Question,
    Colon,
    Dot,
    Comma,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    OpenBrace,
    CloseBrace,
    End,
    /// A character, or the start of a literal, that is no token.
    Bad,
}

/// Takes tokens off the source one by one.
pub(crate) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub fn new(source: &'s str) -> Lexer<'s> {
        Lexer { source, at: 0 }
    }

    /// Goes on at this byte, the end of a token.
    pub fn seek(&mut self, at: usize) {
        self.at = at;
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.source.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_while(&mut self, test: impl Fn(u8) -> bool) {
        while self.at < self.source.len() && test(self.peek(0)) {
            self.at += 1;
        }
    }

    fn skip_blanks(&mut self) {
        loop {
            self.skip_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0x0c));
            if self.peek(0) == b'/' && self.peek(1) == b'/' {
                self.skip_while(|b| b != b'\n');
            } else {
                return;
            }
        }
    }

    /// The next token. At the end of the source it is [`Token::End`], for ever.
    pub fn next(&mut self) -> (Token, Range<usize>) {
        self.skip_blanks();
        let start = self.at;
        let token = self.token();
        (token, start..self.at)
    }

    fn one(&mut self, token: Token) -> Token {
        self.at += 1;
        token
    }

    fn either(&mut self, second: u8, with: Token, without: Token) -> Token {
        if self.peek(1) == second {
            self.at += 2;
            return with;
        }
        self.at += 1;
        if without == Token::Bad {
            // What follows is lost with it.
            self.at += self.source[self.at..].chars().next().map_or(0, char::len_utf8);
        }
        without
    }

    fn token(&mut self) -> Token {
        if self.at >= self.source.len() {
            return Token::End;
        }
        match self.peek(0) {
            b'=' => self.either(b'=', Token::EqualEqual, Token::Bad),
            b'!' => self.either(b'=', Token::NotEqual, Token::Not),
            b'<' => self.either(b'=', Token::LessEqual, Token::Less),
            b'>' => self.either(b'=', Token::GreaterEqual, Token::Greater),
            b'&' => self.either(b'&', Token::AndAnd, Token::Bad),
            b'|' => self.either(b'|', Token::OrOr, Token::Bad),
            b'+' => self.one(Token::Plus),
            b'-' => self.one(Token::Minus),
            b'*' => self.one(Token::Star),
            b'/' => self.one(Token::Slash),
            b'%' => self.one(Token::Percent),
            b'?' => self.one(Token::Question),
            b':' => self.one(Token::Colon),
            b',' => self.one(Token::Comma),
            b'(' => self.one(Token::OpenParen),
            b')' => self.one(Token::CloseParen),
            b'[' => self.one(Token::OpenBracket),
            b']' => self.one(Token::CloseBracket),
            b'{' => self.one(Token::OpenBrace),
            b'}' => self.one(Token::CloseBrace),
            b'.' if !self.peek(1).is_ascii_digit() => self.one(Token::Dot),
            b'.' | b'0'..=b'9' => self.number(),
            b'"' | b'\'' => self.string(Token::String, false),
            b'`' => self.quoted(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(),
            _ => {
                self.at += self.source[self.at..].chars().next().map_or(1, char::len_utf8);
                Token::Bad
            }
        }
    }

    fn number(&mut self) -> Token {
        if self.peek(0) == b'0' && self.peek(1) == b'x' && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            self.skip_while(|b| b.is_ascii_hexdigit());
            return self.unsigned(Token::Int);
        }
        self.skip_while(|b| b.is_ascii_digit());
        let mut token = Token::Int;
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            token = Token::Double;
            self.at += 1;
            self.skip_while(|b| b.is_ascii_digit());
        }
        if matches!(self.peek(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                token = Token::Double;
                self.at += 1 + sign;
                self.skip_while(|b| b.is_ascii_digit());
            }
        }
        if token == Token::Int { self.unsigned(token) } else { token }
    }

    fn unsigned(&mut self, otherwise: Token) -> Token {
        if matches!(self.peek(0), b'u' | b'U') { self.one(Token::Uint) } else { otherwise }
    }

    /// A string from its first quote on.
    fn string(&mut self, token: Token, raw: bool) -> Token {
        let quote = self.peek(0);
        let triple = self.peek(1) == quote && self.peek(2) == quote;
        let width = if triple { 3 } else { 1 };
        let bytes = self.source.as_bytes();
        let mut at = self.at + width;
        loop {
            match bytes.get(at) {
                None => break,
                Some(b'\\') if !raw => at += 2,
                Some(b'\n' | b'\r') if !triple => break,
                Some(b) if *b == quote => {
                    if !triple
                        || (bytes.get(at + 1) == Some(&quote) && bytes.get(at + 2) == Some(&quote))
                    {
                        self.at = at + width;
                        return token;
                    }
                    at += 1;
                }
                Some(_) => at += 1,
            }
        }
        // Not closed: the error points at the start and says what follows it.
        self.at = at.min(bytes.len());
        while !self.source.is_char_boundary(self.at) {
            self.at += 1;
        }
        Token::Bad
    }

    fn quoted(&mut self) -> Token {
        let start = self.at;
        self.at += 1;
        self.skip_while(|b| b.is_ascii_alphanumeric() || b"_.-/ ".contains(&b));
        if self.peek(0) == b'`' && self.at > start + 1 {
            self.one(Token::Quoted)
        } else {
            Token::Bad
        }
    }

    fn word(&mut self) -> Token {
        // r"" b"" rb"" br"": the grammar knows bytes of raw strings, b before r.
        let lower = |b: u8| b.to_ascii_lowercase();
        let quote = |b: u8| b == b'"' || b == b'\'';
        if lower(self.peek(0)) == b'r' && quote(self.peek(1)) {
            self.at += 1;
            return self.string(Token::String, true);
        }
        if lower(self.peek(0)) == b'b' && quote(self.peek(1)) {
            self.at += 1;
            return self.string(Token::Bytes, false);
        }
        if lower(self.peek(0)) == b'b' && lower(self.peek(1)) == b'r' && quote(self.peek(2)) {
            self.at += 2;
            return self.string(Token::Bytes, true);
        }
        let start = self.at;
        self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
        match &self.source[start..self.at] {
            "true" => Token::True,
            "false" => Token::False,
            "null" => Token::Null,
            "in" => Token::In,
            _ => Token::Ident,
        }
    }
}

/// The value of a string token (without the `b` of a bytes token), or what is wrong with it.
pub(crate) fn unquote(text: &str, bytes: bool) -> Result<Vec<u8>, &'static str> {
    let (raw, text) = match text.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let width = if text.len() >= 6 && (text.starts_with("\"\"\"") || text.starts_with("'''")) {
        3
    } else {
        1
    };
    let text =
        text.get(width..text.len().saturating_sub(width)).ok_or("unable to unescape string")?;
    // Both kinds of line ends mean one, as in the reference implementation.
    let text = if text.contains('\r') {
        std::borrow::Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        std::borrow::Cow::Borrowed(text)
    };
    if raw || !text.contains('\\') {
        return Ok(text.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = escape(&rest[at + 1..], bytes, &mut out)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// One escape after its backslash; returns what follows it.
fn escape<'t>(text: &'t str, bytes: bool, out: &mut Vec<u8>) -> Result<&'t str, &'static str> {
    const BAD: &str = "unable to unescape string";
    let first =
        text.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
    let after = &text[first.len_utf8()..];
    let plain = match first {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => first as u8,
        _ => 0,
    };
    if plain != 0 {
        out.push(plain);
        return Ok(after);
    }
    let (digits, radix, from) = match first {
        'x' | 'X' => (2, 16, after),
        'u' if !bytes => (4, 16, after),
        'U' if !bytes => (8, 16, after),
        '0'..='3' => (3, 8, text),
        _ => return Err(BAD),
    };
    let code =
        from.get(..digits).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(BAD)?;
    let code = u32::from_str_radix(code, radix).map_err(|_| BAD)?;
    if bytes {
        out.push(u8::try_from(code).map_err(|_| BAD)?);
    } else {
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(&from[digits..])
}
