//! Just enough of a lexer for expressions: which values an expression looks up, and what stands around them.
//!
//! It judges nothing about syntax, which is minijinja's; see `expression` for what is refused, and `scope` for what a
//! path leads to.

/// A piece of an expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    /// A name, a keyword or the digits of a number.
    Name(&'a str),
    /// What stands between quotes, with its escapes.
    Text(&'a str),
    /// Anything else, one character at a time.
    Other(char),
}

impl Token<'_> {
    /// Whether a value can end with it, so that a bracket after it is an index or a call.
    pub fn ends_value(self) -> bool {
        match self {
            Self::Name(name) => !matches!(name, "and" | "or" | "not" | "in" | "is" | "if" | "else"),
            Self::Text(_) => true,
            Self::Other(c) => matches!(c, ')' | ']'),
        }
    }
}

/// Tokens one after the other. To look ahead, copy it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    /// From the beginning.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What follows, without moving.
    pub fn peek(mut self) -> Option<Token<'a>> {
        self.next()
    }

    fn string(&mut self, rest: &'a str, quote: char) -> Token<'a> {
        let mut escaped = false;
        for (i, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if c == quote => {
                    self.at += i + 1;
                    return Token::Text(&rest[1..i]);
                }
                _ => {}
            }
        }
        self.at = self.text.len();
        Token::Text(&rest[1..])
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        let first = rest.chars().next()?;
        if first == '\'' || first == '"' {
            return Some(self.string(rest, first));
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        if is_name(first) {
            let mut end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            // `1.5` is one number, and `a.b` three tokens.
            let fraction = rest[end..].strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if let Some(fraction) = fraction.filter(|_| rest[..end].bytes().all(|c| c.is_ascii_digit())) {
                end += 1 + fraction.find(|c| !is_name(c)).unwrap_or(fraction.len());
            }
            self.at += end;
            return Some(Token::Name(&rest[..end]));
        }
        self.at += first.len_utf8();
        Some(Token::Other(first))
    }
}

/// An expression with a number in the place of each text. `Err` has a text that stands right behind another.
pub fn without_texts(expression: &str) -> Result<String, &str> {
    let (mut scan, mut done, mut is_behind_text) = (Scan::new(expression), String::new(), false);
    loop {
        let rest = &expression[scan.at..];
        let token = scan.next();
        match token {
            Some(Token::Text(text)) if is_behind_text => return Err(text),
            Some(Token::Text(_)) => {
                done.push_str(&rest[..rest.len() - rest.trim_start().len()]);
                done.push_str(" 0 ");
            }
            Some(_) => done.push_str(&rest[..rest.len() - (expression.len() - scan.at)]),
            None => {
                done.push_str(rest);
                return Ok(done);
            }
        }
        is_behind_text = matches!(token, Some(Token::Text(_)));
    }
}

/// A piece of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Piece<'a> {
    /// Stays as it is.
    Plain(&'a str),
    /// The expression between `{{` and `}}`, which stand outside of strings.
    Placeholder(&'a str),
}

/// Cuts a field into its pieces. `Err` has the text after a `{{` that nothing closes.
pub fn pieces(text: &str) -> Result<Vec<Piece<'_>>, &str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        if start > 0 {
            found.push(Piece::Plain(&rest[..start]));
        }
        let inner = &rest[start + 2..];
        let end = end_of_placeholder(inner).ok_or(inner)?;
        found.push(Piece::Placeholder(&inner[..end]));
        rest = &inner[end + 2..];
    }
    if !rest.is_empty() {
        found.push(Piece::Plain(rest));
    }
    Ok(found)
}

/// Where `}}` stands outside of strings.
fn end_of_placeholder(text: &str) -> Option<usize> {
    let mut scan = Scan::new(text);
    while let Some(token) = scan.next() {
        if token == Token::Other('}') && text[scan.at..].starts_with('}') {
            return Some(scan.at - 1);
        }
    }
    None
}

/// What expressions may look at.
pub const ROOTS: [&str; 3] = ["tasks", "inputs", "execution"];

/// A value that an expression looks up: `tasks.build.output.files[0]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Path<'a> {
    /// One of [`ROOTS`].
    pub root: &'a str,
    /// The names and numbers after it.
    pub steps: Vec<&'a str>,
    /// As it is written.
    pub text: &'a str,
    /// The token before it.
    pub before: Option<Token<'a>>,
    /// What follows it.
    pub after: Scan<'a>,
    /// Whether it goes on with an index that must be computed.
    pub goes_on: bool,
}

impl Path<'_> {
    /// Whether the expression is this look-up and nothing else.
    pub fn is_whole(&self) -> bool {
        self.before.is_none() && !self.goes_on && self.after.peek().is_none()
    }
}

/// A path, or a token that is not part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Word<'a> {
    /// A look-up.
    Path(Path<'a>),
    /// Anything else.
    Token(Token<'a>),
}

impl<'a> Word<'a> {
    /// The look-up, if it is one.
    pub fn path(&self) -> Option<&Path<'a>> {
        match self {
            Self::Path(path) => Some(path),
            Self::Token(_) => None,
        }
    }
}

/// An expression with its look-ups found.
pub fn words(expression: &str) -> Vec<Word<'_>> {
    let mut scan = Scan::new(expression);
    let mut before = None;
    let mut found = Vec::new();
    while let Some(token) = scan.next() {
        match token {
            // Not an attribute, a filter or a test of that name.
            Token::Name(root) if ROOTS.contains(&root) && !matches!(before, Some(Token::Other('.' | '|'))) => {
                let path = one_path(expression, root, before, scan);
                scan = path.after;
                before = Some(Token::Other(']'));
                found.push(Word::Path(path));
            }
            _ => {
                before = Some(token);
                found.push(Word::Token(token));
            }
        }
    }
    found
}

/// Every value that an expression looks up, in its order.
pub fn paths(expression: &str) -> Vec<Path<'_>> {
    let words = words(expression).into_iter();
    words.filter_map(|word| if let Word::Path(path) = word { Some(path) } else { None }).collect()
}

fn one_path<'a>(expression: &'a str, root: &'a str, before: Option<Token<'a>>, mut scan: Scan<'a>) -> Path<'a> {
    let start = scan.at - root.len();
    let mut steps = Vec::new();
    let goes_on = loop {
        let mut ahead = scan;
        match (ahead.next(), ahead.next()) {
            (Some(Token::Other('.')), Some(Token::Name(name))) => steps.push(name),
            (Some(Token::Other('[')), Some(index)) => {
                let literal = match index {
                    Token::Text(key) if !key.contains('\\') => Some(key),
                    Token::Name(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => Some(digits),
                    _ => None,
                };
                match literal {
                    Some(step) if ahead.next() == Some(Token::Other(']')) => steps.push(step),
                    _ => break true,
                }
            }
            // A method.
            (Some(Token::Other('(')), _) => break true,
            _ => break false,
        }
        scan = ahead;
    };
    Path { root, steps, text: &expression[start..scan.at], before, after: scan, goes_on }
}
