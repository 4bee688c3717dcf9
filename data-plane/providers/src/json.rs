//! A cursor over JSON text that checks its grammar and reports where things lie, without building values.
//!
//! It never allocates except to decode a string that holds escapes, never recurses, and refuses nesting deeper than
//! [`MAX_DEPTH`]. Spans are byte ranges of the text, so that a caller can change one value and pass the rest on as it came.

use std::borrow::Cow;
use std::ops::Range;

use crate::plain_run::plain_prefix;

/// Deepest nesting of arrays and objects below the value being skipped. Common parsers refuse more, too.
pub(crate) const MAX_DEPTH: u32 = 128;

/// Where the text is not JSON, and what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JsonError {
    /// Byte offset.
    pub(crate) at: usize,
    /// What is wrong, as the end of the sentence "the body is not valid JSON: …".
    pub(crate) problem: &'static str,
}

/// What kind of value begins at the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool(bool),
    Null,
}

/// A string of the text, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    /// Where its opening quote lies.
    pub(crate) start: usize,
    /// The string with its quotes.
    quoted: &'a str,
    escaped: bool,
    /// How many bytes shorter the string meant is than the text between the quotes.
    saved: usize,
}

impl<'a> Text<'a> {
    /// What stands between the quotes, escapes as written.
    pub(crate) fn raw(self) -> &'a str {
        self.quoted.get(1..self.quoted.len().saturating_sub(1)).unwrap_or_default()
    }

    /// The string meant; `None` if it holds half of a surrogate pair, which no Unicode string can.
    pub(crate) fn decode(self) -> Option<Cow<'a, str>> {
        if !self.escaped {
            return Some(Cow::Borrowed(self.raw()));
        }
        serde_json::from_str::<String>(self.quoted).ok().map(Cow::Owned)
    }

    /// Whether the string means `expected`, however it is written.
    #[inline]
    pub(crate) fn is(self, expected: &str) -> bool {
        if self.escaped {
            return self.decode().is_some_and(|meant| meant == expected);
        }
        // Their lengths tell most apart.
        self.quoted.len() == expected.len() + 2 && self.quoted.as_bytes()[1..].starts_with(expected.as_bytes())
    }

    /// Length in bytes of the string meant. Half a surrogate pair counts as the three bytes of the character that parsers put
    /// in its place.
    pub(crate) fn decoded_len(self) -> usize {
        self.raw().len().saturating_sub(self.saved)
    }
}

/// A position in JSON text. Every method leaves it behind what it read.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// The members of an object or the elements of an array, as they are walked.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    begun: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Byte offset of the next byte to read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The text of a span that this cursor reported.
    pub(crate) fn slice(&self, span: Range<usize>) -> &'a str {
        self.text.get(span).unwrap_or_default()
    }

    /// What kind of value comes next. Consumes only white space.
    pub(crate) fn peek(&mut self) -> Result<Kind, JsonError> {
        self.skip_space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't') => Ok(Kind::Bool(true)),
            Some(b'f') => Ok(Kind::Bool(false)),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.wrong("a value is expected")),
            None => Err(self.wrong("it ends where a value is expected")),
        }
    }

    /// Enters the object that [`Self::peek`] announced.
    pub(crate) fn enter(&mut self) -> Walk {
        self.at = self.at.saturating_add(1).min(self.text.len());
        Walk::default()
    }

    /// The next key of an object, the cursor then standing before its value; `None` after the closing brace.
    pub(crate) fn key(&mut self, walk: &mut Walk) -> Result<Option<Text<'a>>, JsonError> {
        if !self.step(walk, b'}')? {
            return Ok(None);
        }
        self.key_and_colon().map(Some)
    }

    /// Whether an array has one more element, the cursor then standing before it; false after the closing bracket.
    pub(crate) fn element(&mut self, walk: &mut Walk) -> Result<bool, JsonError> {
        self.step(walk, b']')
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Text<'a>, JsonError> {
        self.skip_space();
        if self.byte() != Some(b'"') {
            return Err(self.wrong("a string is expected"));
        }
        let start = self.at;
        self.at += 1;
        let mut escapes = Escapes::default();
        let bytes = self.text.as_bytes();
        loop {
            self.at += plain_prefix(&bytes[self.at..]);
            match bytes[self.at..] {
                [b'"', ..] => {
                    self.at += 1;
                    let quoted = self.slice(start..self.at);
                    return Ok(Text { start, quoted, escaped: escapes.any, saved: escapes.saved });
                }
                // Nearly all escapes of a prompt are these.
                [b'\\', b'n' | b'"' | b'\\' | b'/' | b't' | b'r' | b'b' | b'f', ..] => {
                    escapes.any = true;
                    escapes.saved += 1;
                    self.at += 2;
                }
                [b'\\', ..] => {
                    let code = self.code_point()?;
                    escapes.note(code, self.at);
                    self.at += 6;
                }
                [_, ..] => return Err(self.wrong("a control character inside a string must be escaped")),
                [] => return Err(self.wrong("it ends inside a string")),
            }
        }
    }

    /// Reads any value and returns where it lies.
    pub(crate) fn value(&mut self) -> Result<Range<usize>, JsonError> {
        self.skip_space();
        let start = self.at;
        self.skip()?;
        Ok(start..self.at)
    }

    /// Reads any value.
    pub(crate) fn skip(&mut self) -> Result<(), JsonError> {
        let mut open = Nesting::default();
        while self.value_or_opening(&mut open)? || self.after_value(&mut open)? {}
        Ok(())
    }

    /// Checks that nothing but white space follows.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(self.wrong("something follows the end of the value")) }
    }

    /// Reads a scalar or a container's opening. True: a value must follow; false: a value has just ended.
    fn value_or_opening(&mut self, open: &mut Nesting) -> Result<bool, JsonError> {
        match self.peek()? {
            Kind::String => self.string().map(|_| false),
            Kind::Number => self.number().map(|()| false),
            Kind::Bool(true) => self.literal("true").map(|()| false),
            Kind::Bool(false) => self.literal("false").map(|()| false),
            Kind::Null => self.literal("null").map(|()| false),
            kind @ (Kind::Object | Kind::Array) => {
                let is_object = kind == Kind::Object;
                let mut walk = self.enter();
                if !self.step(&mut walk, if is_object { b'}' } else { b']' })? {
                    return Ok(false);
                }
                if !open.push(is_object) {
                    return Err(self.wrong("it is nested deeper than 128 levels"));
                }
                if is_object {
                    self.key_and_colon()?;
                }
                Ok(true)
            }
        }
    }

    /// Closes the containers that end here. True: another value must follow; false: the outermost value has ended.
    fn after_value(&mut self, open: &mut Nesting) -> Result<bool, JsonError> {
        while let Some(is_object) = open.top() {
            let mut walk = Walk { begun: true };
            if self.step(&mut walk, if is_object { b'}' } else { b']' })? {
                if is_object {
                    self.key_and_colon()?;
                }
                return Ok(true);
            }
            open.pop();
        }
        Ok(false)
    }

    /// Goes to the next member or element: over a comma, or not at all for the first. False: the container was closed.
    fn step(&mut self, walk: &mut Walk, close: u8) -> Result<bool, JsonError> {
        self.skip_space();
        match self.byte() {
            Some(byte) if byte == close => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if walk.begun => self.at += 1,
            Some(_) if !walk.begun => {}
            Some(_) if close == b'}' => return Err(self.wrong("a comma or `}` is expected")),
            Some(_) => return Err(self.wrong("a comma or `]` is expected")),
            None => return Err(self.wrong("it ends inside an array or object")),
        }
        walk.begun = true;
        Ok(true)
    }

    fn key_and_colon(&mut self) -> Result<Text<'a>, JsonError> {
        self.skip_space();
        if self.byte() != Some(b'"') {
            return Err(self.wrong("a key in double quotes is expected"));
        }
        let key = self.string()?;
        self.skip_space();
        if self.byte() != Some(b':') {
            return Err(self.wrong("a colon is expected after a key"));
        }
        self.at += 1;
        Ok(key)
    }

    /// The digits of the escape by its code that the cursor stands before.
    fn code_point(&self) -> Result<&'a [u8], JsonError> {
        match &self.text.as_bytes()[self.at..] {
            [_, b'u', rest @ ..] => rest.get(..4).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            _ => None,
        }
        .ok_or_else(|| self.wrong("an escape in a string is not valid"))
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let count = self.text.as_bytes()[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(self.wrong("a digit is expected"));
        }
        self.at += count;
        Ok(())
    }

    fn literal(&mut self, word: &'static str) -> Result<(), JsonError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.wrong("a value is expected"));
        }
        self.at += word.len();
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong(&self, problem: &'static str) -> JsonError {
        JsonError { at: self.at, problem }
    }
}

/// The escapes of one string: how much shorter it gets by decoding them.
#[derive(Default)]
struct Escapes {
    any: bool,
    saved: usize,
    /// Where the second half of a surrogate pair would have to begin.
    half_ends: Option<usize>,
}

impl Escapes {
    /// Notes an escape by its code, which stands `at` bytes into the text.
    fn note(&mut self, hex: &[u8], at: usize) {
        self.any = true;
        self.saved += self.saved_by_code(hex, at);
    }

    fn saved_by_code(&mut self, hex: &[u8], at: usize) -> usize {
        let code =
            hex.iter().fold(0, |code, digit| code << 4 | (u32::from(digit & 15) + if digit & 64 == 0 { 0 } else { 9 }));
        match code {
            0..0x80 => 5,
            0x80..0x800 => 4,
            0xD800..0xDC00 => {
                self.half_ends = Some(at + 6);
                3
            }
            // A whole pair is four bytes; three were counted for its first half.
            0xDC00..0xE000 if self.half_ends == Some(at) => 5,
            _ => 3,
        }
    }
}

/// Which containers are open, innermost in the lowest bit: 1 an object, 0 an array.
#[derive(Default)]
struct Nesting {
    kinds: u128,
    depth: u32,
}

impl Nesting {
    /// False if that would be too deep.
    fn push(&mut self, is_object: bool) -> bool {
        if self.depth == MAX_DEPTH {
            return false;
        }
        self.kinds = (self.kinds << 1) | u128::from(is_object);
        self.depth += 1;
        true
    }

    fn pop(&mut self) {
        self.kinds >>= 1;
        self.depth = self.depth.saturating_sub(1);
    }

    fn top(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.kinds & 1 == 1)
    }
}

/// Line and column (characters) of a byte offset, both from 1.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
    // A continuation byte of UTF-8 begins no character.
    let column = before[line_start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count() + 1;
    (line, column)
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
