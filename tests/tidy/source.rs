//! The files of the tree, and just enough of Rust to look at them: code without comments and texts, code without tests,
//! and every path that is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What is not ours, or is made.
const NOT_OURS: &[&str] = &["target", ".git", "node_modules", ".venv", "__pycache__"];

/// One file of the tree.
pub struct Source {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments and the insides of texts made blank; the same lines.
    pub code: String,
    /// The same without what is compiled for tests only.
    pub product: String,
}

/// A path that the code names, such as `crate::store::Store`, in one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    pub line: usize,
    pub path: Vec<String>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { without_comments_and_texts(text) } else { String::new() };
        let product = without_tests(&code);
        Self { path: path.into(), text: text.into(), code, product }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is compiled for tests only.
    pub fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// Lines without tests.
    pub fn length(&self) -> usize {
        let tests = self.code.lines().zip(self.product.lines()).filter(|(code, product)| code != product).count();
        self.text.lines().count() - tests
    }

    /// Every path of the code that ships, with `super`, `self` and `crate` resolved: `crate` is first in our own.
    pub fn named(&self) -> Vec<Named> {
        let mut named = paths(&self.product);
        let here = module_of(&self.path);
        for one in &mut named {
            resolve(&mut one.path, &here);
        }
        named
    }
}

/// Every file of the tree that is text and ours.
pub fn all(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(root)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("the tree can be listed").flatten() {
            let path = entry.path();
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let name = path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
                found.push(Source::new(&name, &text));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Blanks comments, the insides of texts and character literals, and keeps the lines.
fn without_comments_and_texts(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |from: usize, to: usize| {
        for byte in &mut out[from..to.min(bytes.len())] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word_before = at > 0 && is_word(bytes[at - 1]);
        if rest.starts_with(b"//") {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length);
            blank(at, end);
            at = end;
        } else if rest.starts_with(b"/*") {
            let end = find(rest, b"*/").map_or(bytes.len(), |length| at + length + 2);
            blank(at, end);
            at = end;
        } else if let Some(hashes) = raw_text(rest).filter(|_| !word_before || bytes[at - 1] == b'b') {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let inside = at + hashes + 2;
            let end = find(&bytes[inside..], &close).map_or(bytes.len(), |length| inside + length);
            blank(inside, end);
            at = end + close.len();
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            blank(at + 1, end);
            at = end + 1;
        } else if bytes[at] == b'\'' {
            at += character(rest).inspect(|length| blank(at + 1, at + length - 1)).unwrap_or(1);
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).expect("only whole texts were made blank")
}

/// How many `#` open a raw text here.
fn raw_text(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// How long the character literal here is; `None`: it is a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return rest.iter().skip(3).position(|byte| *byte == b'\'').map(|length| length + 4);
    }
    let width = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = code.to_string();
    let mut from = 0;
    while let Some(start) = out[from..].find("#[cfg(test)]").map(|at| from + at) {
        let end = end_of_item(&out, start);
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    out
}

/// Where the item that begins at `start` ends: at its `;`, or at the `}` that closes its first `{`.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, character) in code[start..].char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every path in the code, those of `use` trees one by one.
pub fn paths(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut named = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        // `use<…>` in a type is a bound, and no tree.
        if tokens[at].1 == "use" && tokens.get(at + 1).is_some_and(|next| next.1 != "<") {
            at = tree(&tokens, at + 1, &[], &mut named);
        } else if is_name(tokens[at].1) && tokens.get(at + 1).is_some_and(|next| next.1 == "::") {
            let (line, mut path) = (tokens[at].0, vec![tokens[at].1.to_string()]);
            while tokens.get(at + 1).is_some_and(|next| next.1 == "::")
                && tokens.get(at + 2).is_some_and(|next| is_name(next.1))
            {
                at += 2;
                path.push(tokens[at].1.to_string());
            }
            named.push(Named { line, path });
            at += 1;
        } else {
            at += 1;
        }
    }
    named
}

/// The paths of a `use` tree that begins at `at`, and where it ends.
fn tree(tokens: &[(usize, &str)], mut at: usize, before: &[String], named: &mut Vec<Named>) -> usize {
    let mut path = before.to_vec();
    while let Some((line, token)) = tokens.get(at).copied() {
        match token {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    at = tree(tokens, at, &path, named);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.1 == ","));
                }
                return at + 1;
            }
            "::" => at += 1,
            "as" => at += 2,
            "," | "}" | ";" => {
                return at;
            }
            _ => {
                path.push(token.to_string());
                at += 1;
                if tokens.get(at).is_none_or(|next| next.1 != "::") {
                    named.push(Named { line, path: path.clone() });
                }
            }
        }
    }
    at
}

/// Words and the marks that paths are made of, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let length = match bytes[at] {
            byte if is_word(byte) => bytes[at..].iter().take_while(|byte| is_word(**byte)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            _ => 1,
        };
        line += usize::from(bytes[at] == b'\n');
        if let Some(token) = code.get(at..at + length).filter(|token| !token.trim().is_empty()) {
            found.push((line, token));
        }
        at += length;
    }
    found
}

fn is_name(token: &str) -> bool {
    token.bytes().all(is_word) && !token.starts_with(|first: char| first.is_ascii_digit())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// `src/store/layout/mod.rs` is `store::layout`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    if path.starts_with("src/bin/") || matches!(inner, "lib" | "main") {
        return Vec::new();
    }
    inner.split('/').map(String::from).collect()
}

fn resolve(path: &mut Vec<String>, here: &[String]) {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let first = match path[0].as_str() {
        "super" => here[..here.len().saturating_sub(ups)].to_vec(),
        "self" => here.to_vec(),
        "noxd" => Vec::new(),
        _ => return,
    };
    let rest = path.split_off(ups.max(1));
    *path = [vec!["crate".to_string()], first, rest].concat();
}

#[test]
fn texts_and_comments_are_blank_and_lines_stay() {
    let source = Source::new(
        "src/a.rs",
        "let x = \"dbg!( // \\\" no\"; // todo!()\n/* use tokio\n*/ let c = '\"'; let l: &'a str = r#\"un\"wrap\"#; b();\n",
    );
    assert!(!source.code.contains("dbg") && !source.code.contains("todo") && !source.code.contains("tokio"));
    assert!(!source.code.contains("wrap") && source.code.contains("b();") && source.code.contains("&'a str"));
    assert_eq!(source.code.lines().count(), source.text.lines().count());
}

#[test]
fn trees_of_use_are_taken_apart_and_resolved() {
    let text = "use crate::{\n    store::{self, disk::Disk as D},\n    machine::*,\n};\nuse super::watch::Hub;\n\
                fn f() { std::time::Instant::now(); }\n#[cfg(test)]\nmod tests { use crate::api::Api; }\n";
    let named = Source::new("src/engine/read.rs", text).named();
    let found: Vec<(usize, String)> = named.iter().map(|one| (one.line, one.path.join("::"))).collect();
    let expected = [
        (2, "crate::store::self"),
        (2, "crate::store::disk::D"),
        (3, "crate::machine::*"),
        (5, "crate::engine::watch::Hub"),
        (6, "std::time::Instant::now"),
    ];
    let found: Vec<(usize, String)> =
        found.into_iter().map(|(line, path)| (line, path.replace("disk::Disk", "disk::D"))).collect();
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_string())));
}

#[test]
fn lines_of_tests_do_not_count() {
    let source = Source::new("src/a.rs", "//! A.\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n");
    assert_eq!(source.length(), 3);
}
