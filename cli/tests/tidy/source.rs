//! Rust text: without comments and literals, without its tests, and cut into functions. Enough of the language to count lines, no more.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::tree::Tree;

/// Names that say nothing about what a file holds.
const DRAWERS: [&str; 9] = ["utils", "util", "helpers", "helper", "common", "types", "manager", "managers", "misc"];

/// Whether a file is part of the product or tests it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Part of it.
    Product,
    /// A test.
    Test,
}

/// How long a file and its functions are.
pub struct Lengths {
    /// Lines without `#[cfg(test)]` items.
    pub lines: usize,
    /// Lines and name of each function.
    pub functions: Vec<(usize, String)>,
}

/// A file that does not say in its first line what it is.
pub fn head(path: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") {
        Vec::new()
    } else {
        vec![format!("{path}: begin with `//! ` and what the file is about")]
    }
}

/// A file or folder whose name says nothing.
pub fn name(path: &str) -> Vec<String> {
    let parts = path.trim_end_matches(".rs").split('/');
    parts
        .filter(|part| DRAWERS.contains(part))
        .map(|part| format!("{path}: `{part}` says nothing about what is inside"))
        .collect()
}

/// Marks of unfinished work.
pub fn unfinished(path: &str, text: &str) -> Vec<String> {
    let mut problems = crate::prose::unfinished(path, text);
    let code = blank(text);
    for call in [["dbg", "!("].concat(), ["todo", "!("].concat(), ["unimplemented", "!("].concat()] {
        if code.contains(&call) {
            problems.push(format!("{path}: {call}…)"));
        }
    }
    problems
}

/// The same text with spaces in place of comments and of what stands in quotes; every line stays a line.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !joined(bytes, at) => raw_string_end(bytes, at).unwrap_or(at),
            b'\'' => char_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| from + length)
}

fn comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0usize, from);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of `r"…"`, `r#"…"#` and so on, if one begins here.
fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = from + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"".as_slice(), "#".repeat(hashes).as_bytes()].concat();
    let length = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| open + 1 + length + close.len()))
}

/// The end of a character; a lifetime is none.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    if bytes.get(from + 1) == Some(&b'\\') {
        return bytes[from + 3..].iter().position(|byte| *byte == b'\'').map(|length| from + 4 + length);
    }
    // A character is one to four bytes long.
    (3..=5)
        .map(|length| from + length)
        .find(|end| bytes.get(end - 1) == Some(&b'\''))
        .filter(|end| std::str::from_utf8(&bytes[from + 1..end - 1]).is_ok_and(|text| text.chars().count() == 1))
}

/// Whether the byte before belongs to the same word (`b` of a byte string does not matter).
fn joined(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b'
}

/// Counts a file.
pub fn lengths(text: &str, kind: Kind) -> Lengths {
    let code = blank(text);
    let tests = if kind == Kind::Test {
        0
    } else {
        test_items(&code).into_iter().map(|(from, to)| lines(&code[from..to])).sum()
    };
    Lengths { lines: text.lines().count().saturating_sub(tests), functions: functions(&code) }
}

fn lines(text: &str) -> usize {
    text.matches('\n').count() + 1
}

/// Where items under `#[cfg(test)]` begin and end.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let begin = from + found;
        let end = item_end(code, begin + "#[cfg(test)]".len());
        items.push((begin, end));
        from = end;
    }
    items
}

/// The end of the item that begins at or after `from`: its closing brace, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let (mut depth, mut brackets) = (0i32, 0i32);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth <= 0 {
                    return at + 1;
                }
            }
            b';' if depth == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Every function with a body, by name, with its lines from `fn` to its closing brace.
fn functions(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if at > 0 && word(code.as_bytes()[at - 1]) {
            continue;
        }
        let name: String =
            code[at + 3..].chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        let end = item_end(code, at);
        if !name.is_empty() && code[..end].ends_with('}') {
            found.push((lines(&code[at..end]), name));
        }
    }
    found
}

/// Files that only tests are in: of a tests folder, and modules that are declared under `#[cfg(test)]`.
pub fn test_files(tree: &Tree) -> BTreeSet<&str> {
    let mut tests = BTreeSet::new();
    let sources: Vec<&str> =
        tree.files.iter().map(|file| file.path.as_str()).filter(|path| path.ends_with(".rs")).collect();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        if file.path.contains("/tests/") || file.path.ends_with("_tests.rs") {
            tests.insert(file.path.as_str());
        }
        let code = blank(&file.text);
        for (from, to) in test_items(&code) {
            let Some(module) = declared_module(&code[from..to]) else { continue };
            let folder = module_folder(&file.path);
            let (alone, inside) = (format!("{folder}/{module}.rs"), format!("{folder}/{module}/"));
            tests.extend(sources.iter().copied().filter(|path| **path == alone || path.starts_with(&inside)));
        }
    }
    tests
}

/// `name` of an item `mod name;`.
fn declared_module(item: &str) -> Option<&str> {
    let (_, name) = item.strip_suffix(';')?.rsplit_once("mod ")?;
    Some(name.trim())
}

/// Where the modules of a file are.
fn module_folder(path: &str) -> &str {
    let stem = path.trim_end_matches(".rs");
    match stem.rsplit_once('/') {
        Some((folder, "mod" | "lib" | "main")) => folder,
        _ => stem,
    }
}

/// Median, 95th percentile, maximum, and the ten longest.
pub fn report(what: &str, lengths: &mut [(usize, String)]) -> String {
    lengths.sort_by(|one, other| other.cmp(one));
    let at = |percent: usize| lengths.get((lengths.len() - 1) * (100 - percent) / 100).map_or(0, |(lines, _)| *lines);
    if lengths.is_empty() {
        return format!("lines per {what}: none");
    }
    let mut text = format!("lines per {what}: p50 {}, p95 {}, max {} of {}", at(50), at(95), at(100), lengths.len());
    for (lines, name) in lengths.iter().take(10) {
        // Writing to a text cannot fail.
        let _written = write!(text, "\n{lines:6}  {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text = "let a = \"}\\\"{\"; // {\nlet b = '{'; /* { /* } */ { */ let c: &'a str = r#\"{\"}\"#;\nlet d = b\"{\"; let e = '\\''; let for_ = '\\u{7b}';";
        let code = blank(text);
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(!code.contains('{') && !code.contains('}'), "{code}");
        assert!(code.contains("let c: &'a str =") && code.contains("let for_ ="), "{code}");
    }

    #[test]
    fn lines_of_tests_are_not_counted_and_functions_are_measured_with_their_signature() {
        let text = "//! x\nfn one(\n    a: [u8; 2],\n) -> u8 {\n    a[0]\n}\ntrait T {\n    fn none(&self);\n}\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n";
        let lengths = lengths(text, Kind::Product);
        assert_eq!(lengths.lines, 9);
        assert_eq!(lengths.functions, [(5, "one".to_owned()), (1, "two".to_owned())]);
        assert_eq!(super::lengths(text, Kind::Test).lines, 13);
    }

    #[test]
    fn a_module_that_is_declared_for_tests_is_a_test() {
        assert_eq!(declared_module("#[cfg(test)]\nmod conformance;"), Some("conformance"));
        assert_eq!(declared_module("#[cfg(test)]\nmod tests { }"), None);
        assert_eq!(
            (module_folder("a/src/counters/mod.rs"), module_folder("a/src/vectors.rs")),
            ("a/src/counters", "a/src/vectors")
        );
    }

    #[test]
    fn heads_drawers_and_unfinished_work_are_found() {
        assert_eq!(head("a.rs", "//! What it is.\n").len(), 0);
        for wrong in ["", "// x", "use a;\n//! late", "//!\n"] {
            assert_eq!(head("a.rs", wrong).len(), 1, "{wrong}");
        }
        assert_eq!(name("a/src/utils.rs").len(), 1);
        assert_eq!(name("a/src/common/x.rs").len(), 1);
        assert_eq!(name("a/src/commonwealth.rs").len(), 0);
        let debug = ["db", "g!(x);"].concat();
        assert_eq!(unfinished("a.rs", &debug).len(), 1);
        assert_eq!(unfinished("a.rs", &format!("// {debug}")).len(), 0);
        assert_eq!(unfinished("a.rs", &["// TO", "DO later"].concat()).len(), 1);
    }

    #[test]
    fn the_report_names_the_longest() {
        let mut lengths: Vec<(usize, String)> = (1..=100).map(|lines| (lines, format!("f{lines}"))).collect();
        let report = report("function", &mut lengths);
        assert!(report.contains("p50 51, p95 96, max 100 of 100") && report.contains("100  f100"), "{report}");
    }
}
