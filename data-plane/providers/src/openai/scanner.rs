//! The pass over a request's body: knows the fields, their types and ranges, and what is wrong with them.
//!
//! The whole body is read even after something wrong has been found, so that a syntax error is always reported as one.

use std::ops::Range;

use super::content::{self, CACHE_MARK, ContentSummary};
use super::echo::{echo, resembles};
use super::fields::{FIELDS, MULTIPLIERS, UNSHOWN};
use super::request::{ChatRequest, IntField, StreamOptions, tier_named};
use crate::chat::request::MOST_CHOICES;
use crate::json::{Cursor, JsonError, Kind, Text};
use crate::refusal::RequestError;
use crate::tally;

/// Longest model name accepted, in bytes.
pub(super) const MAX_MODEL_BYTES: usize = 256;

pub(super) struct Scanner<'a> {
    cursor: Cursor<'a>,
    found: ChatRequest,
    /// Bit `i`: `FIELDS[i]` has been seen.
    seen: u64,
    /// The first thing wrong with the request; a syntax error further on outranks it.
    problem: Option<RequestError>,
}

impl<'a> Scanner<'a> {
    /// A scanner at the start of a body.
    pub(super) fn new(text: &'a str) -> Self {
        let found = ChatRequest {
            model: String::new(),
            model_span: 0..0,
            stream: false,
            stream_options: None,
            max_tokens: None,
            null_max_tokens: None,
            max_completion_tokens: None,
            null_max_completion_tokens: None,
            n: 1,
            service_tier: None,
            content: ContentSummary::default(),
            billed_extras: Vec::new(),
            spoken: None,
            tools: false,
            tool_count: 0,
            cache_marks: false,
            schema: false,
            prediction_bytes: 0,
            other_bytes: 0,
            body_len: text.len(),
            insert_at: 0,
        };
        Self { cursor: Cursor::new(text), found, seen: 0, problem: None }
    }

    /// Reads the whole body. The error is one of syntax.
    pub(super) fn body(&mut self) -> Result<(), JsonError> {
        if self.cursor.peek()? != Kind::Object {
            self.refuse(None, || "the body must be a JSON object".to_owned());
            self.cursor.skip()?;
            return self.cursor.end();
        }
        let mut members = self.cursor.enter();
        self.found.insert_at = self.cursor.at();
        while let Some(key) = self.cursor.key(&mut members)? {
            let start = self.cursor.at();
            match self.known(key, &FIELDS) {
                Some(index) => self.field(index)?,
                None if key.is(CACHE_MARK) => self.cache_mark()?,
                None => self.cursor.skip()?,
            }
            self.count_shown(key, start..self.cursor.at());
        }
        self.cursor.end()
    }

    /// Counts a field that a template may show. The messages count themselves.
    fn count_shown(&mut self, key: Text<'_>, value: Range<usize>) {
        if key.is("messages") || UNSHOWN.iter().any(|name| key.is(name)) {
            return;
        }
        let shown = tally::rendered(self.cursor.slice(value)).saturating_add(key.raw().len() as u64);
        self.found.other_bytes = self.found.other_bytes.saturating_add(shown);
    }

    /// What has been found, or the first thing wrong with it.
    pub(super) fn finish(mut self) -> Result<ChatRequest, RequestError> {
        for required in ["model", "messages"] {
            if FIELDS.iter().position(|&name| name == required).is_some_and(|index| self.seen & (1 << index) == 0) {
                self.refuse(Some(required), || format!("`{required}` is missing"));
            }
        }
        self.problem.map_or(Ok(self.found), Err)
    }

    fn field(&mut self, index: usize) -> Result<(), JsonError> {
        let name = FIELDS[index];
        if self.seen & (1 << index) != 0 {
            self.refuse(Some(name), || format!("`{name}` is given twice"));
        }
        self.seen |= 1 << index;
        match name {
            "model" => self.model(),
            "messages" => self.messages(),
            "stream" => {
                self.found.stream = self.boolean(name)?.0;
                Ok(())
            }
            "stream_options" => self.stream_options(),
            "max_tokens" => {
                (self.found.max_tokens, self.found.null_max_tokens) = self.positive(name, u64::MAX)?;
                Ok(())
            }
            "max_completion_tokens" => {
                let field = self.positive(name, u64::MAX)?;
                (self.found.max_completion_tokens, self.found.null_max_completion_tokens) = field;
                Ok(())
            }
            "n" => {
                self.found.n = self.positive(name, MOST_CHOICES as u64)?.0.map_or(1, |field| field.value);
                Ok(())
            }
            "service_tier" => self.service_tier(),
            "tools" | "functions" => self.offered_tools(name),
            "response_format" => {
                self.found.schema = self.cursor.peek()? == Kind::Object;
                self.cursor.skip()
            }
            "prediction" => {
                let given = self.cursor.peek()? != Kind::Null;
                let span = self.cursor.value()?;
                self.found.prediction_bytes = if given { span.len() as u64 } else { 0 };
                Ok(())
            }
            "audio" => {
                let given = self.cursor.peek()? != Kind::Null;
                self.found.spoken = if given { Some(name) } else { self.found.spoken };
                self.cursor.skip()
            }
            "google" | "extra_body" => self.extension(name),
            "modalities" => self.modalities(),
            name if MULTIPLIERS.contains(&name) => self.multiplier(name),
            billed => self.billed(billed),
        }
    }

    fn model(&mut self) -> Result<(), JsonError> {
        if self.cursor.peek()? != Kind::String {
            return self.refuse_value("model", "must be a string");
        }
        let start = self.cursor.at();
        let model = self.cursor.string()?;
        self.found.model_span = start..self.cursor.at();
        match model.decode() {
            Some(name) if name.is_empty() => self.refuse(Some("model"), || "`model` must not be empty".to_owned()),
            Some(name) if name.len() > MAX_MODEL_BYTES => {
                self.refuse(Some("model"), || format!("`model` is longer than {MAX_MODEL_BYTES} bytes"));
            }
            Some(name) => self.found.model = name.into_owned(),
            None => self.refuse(Some("model"), || "`model` is not Unicode text".to_owned()),
        }
        Ok(())
    }

    fn messages(&mut self) -> Result<(), JsonError> {
        if self.cursor.peek()? != Kind::Array {
            return self.refuse_value("messages", "must be a list of messages");
        }
        match content::summarise(&mut self.cursor)? {
            Ok(summary) if summary.messages == 0 => {
                self.refuse(Some("messages"), || "`messages` must hold at least one message".to_owned());
            }
            Ok(summary) => {
                self.found.cache_marks |= summary.cache_marks;
                self.found.content = summary;
            }
            Err(error) => {
                self.problem.get_or_insert(error);
            }
        }
        Ok(())
    }

    fn stream_options(&mut self) -> Result<(), JsonError> {
        let kind = self.cursor.peek()?;
        if !matches!(kind, Kind::Object | Kind::Null) {
            return self.refuse_value("stream_options", "must be an object");
        }
        let start = self.cursor.at();
        let (mut include_usage, mut include_usage_span, mut has_members) = (false, None, false);
        if kind == Kind::Null {
            self.cursor.skip()?;
        } else {
            let mut members = self.cursor.enter();
            while let Some(key) = self.cursor.key(&mut members)? {
                has_members = true;
                if self.known(key, &["include_usage"]).is_none() {
                    self.cursor.skip()?;
                    continue;
                }
                let (value, span) = self.boolean("stream_options.include_usage")?;
                if include_usage_span.replace(span).is_some() {
                    let field = "stream_options.include_usage";
                    self.refuse(Some(field), || format!("`{field}` is given twice"));
                }
                include_usage = value;
            }
        }
        let span = start..self.cursor.at();
        self.found.stream_options = Some(StreamOptions { span, include_usage, include_usage_span, has_members });
        Ok(())
    }

    fn service_tier(&mut self) -> Result<(), JsonError> {
        let kind = self.cursor.peek()?;
        if kind != Kind::String {
            return if kind == Kind::Null {
                self.cursor.skip()
            } else {
                self.refuse_value("service_tier", "must be a string")
            };
        }
        self.found.service_tier = self.cursor.string()?.decode().map(|tier| tier_named(&tier));
        Ok(())
    }

    /// `tools`, or its predecessor `functions`. A tool that is neither a function nor custom is run, and charged, by the host.
    fn offered_tools(&mut self, name: &'static str) -> Result<(), JsonError> {
        match self.cursor.peek()? {
            Kind::Null => return self.cursor.skip(),
            Kind::Array => {}
            _ => return self.refuse_value(name, "must be a list"),
        }
        let mut elements = self.cursor.enter();
        while self.cursor.element(&mut elements)? {
            self.found.tools = true;
            self.found.tool_count += 1;
            if self.cursor.peek()? != Kind::Object {
                self.extra(name);
                self.cursor.skip()?;
                continue;
            }
            self.tool(name)?;
        }
        Ok(())
    }

    /// What is not said to be a function or custom, in so many words, may be one that a host knows by another sign.
    fn tool(&mut self, name: &'static str) -> Result<(), JsonError> {
        let mut is_the_clients = name != "tools";
        let mut members = self.cursor.enter();
        while let Some(key) = self.cursor.key(&mut members)? {
            let kind = self.cursor.peek()?;
            if key.is(CACHE_MARK) {
                self.cache_mark()?;
            } else if key.is("function") && kind == Kind::Object {
                let mut members = self.cursor.enter();
                while let Some(key) = self.cursor.key(&mut members)? {
                    if key.is(CACHE_MARK) { self.cache_mark()? } else { self.cursor.skip()? }
                }
            } else if name == "tools" && key.is("type") && kind == Kind::String {
                let kind = self.cursor.string()?;
                is_the_clients = kind.is("function") || kind.is("custom");
                if !is_the_clients {
                    self.extra(name);
                }
            } else {
                self.cursor.skip()?;
            }
        }
        if !is_the_clients {
            self.extra(name);
        }
        Ok(())
    }

    fn cache_mark(&mut self) -> Result<(), JsonError> {
        self.found.cache_marks |= self.cursor.peek()? != Kind::Null;
        self.cursor.skip()
    }

    /// Sound among the modalities has a price of its own; anything but text and sound has none.
    fn modalities(&mut self) -> Result<(), JsonError> {
        if self.cursor.peek()? != Kind::Array {
            return self.billed("modalities");
        }
        let mut elements = self.cursor.enter();
        while self.cursor.element(&mut elements)? {
            let is_string = self.cursor.peek()? == Kind::String;
            let modality = if is_string { Some(self.cursor.clone().string()?) } else { None };
            self.cursor.skip()?;
            match modality {
                Some(modality) if modality.is("text") => {}
                Some(modality) if modality.is("audio") => self.found.spoken = Some("modalities"),
                Some(_) | None => self.extra("modalities"),
            }
        }
        Ok(())
    }

    /// Google's extensions, bare or in an `extra_body`: how much to think costs nothing of its own, whatever else there is may.
    fn extension(&mut self, name: &'static str) -> Result<(), JsonError> {
        let harmless = if name == "google" { "thinking_config" } else { "google" };
        if self.cursor.peek()? != Kind::Object {
            return self.billed(name);
        }
        let mut members = self.cursor.enter();
        while let Some(key) = self.cursor.key(&mut members)? {
            match harmless {
                "google" if key.is("google") => self.extension("google")?,
                harmless if key.is(harmless) => self.cursor.skip()?,
                _ => self.billed(name)?,
            }
        }
        Ok(())
    }

    /// A field that costs unless it is null or false.
    fn billed(&mut self, name: &'static str) -> Result<(), JsonError> {
        if !matches!(self.cursor.peek()?, Kind::Null | Kind::Bool(false)) {
            self.extra(name);
        }
        self.cursor.skip()
    }

    /// A number of answers, of which one is wanted in any case.
    fn multiplier(&mut self, name: &'static str) -> Result<(), JsonError> {
        let span = self.cursor.clone().value()?;
        if self.cursor.slice(span) == "1" { self.cursor.skip() } else { self.billed(name) }
    }

    fn extra(&mut self, name: &'static str) {
        if !self.found.billed_extras.contains(&name) {
            self.found.billed_extras.push(name);
        }
    }

    /// A boolean or null, which means false, and where it lies.
    fn boolean(&mut self, name: &'static str) -> Result<(bool, Range<usize>), JsonError> {
        match self.cursor.peek()? {
            Kind::Bool(value) => Ok((value, self.cursor.value()?)),
            Kind::Null => Ok((false, self.cursor.value()?)),
            Kind::Object | Kind::Array | Kind::String | Kind::Number => {
                self.refuse_value(name, "must be true or false")?;
                Ok((false, 0..0))
            }
        }
    }

    /// A whole number from 1 to `max`, or where a null lies.
    fn positive(
        &mut self,
        name: &'static str,
        max: u64,
    ) -> Result<(Option<IntField>, Option<Range<usize>>), JsonError> {
        let kind = self.cursor.peek()?;
        let span = self.cursor.value()?;
        let written = self.cursor.slice(span.clone());
        if kind == Kind::Null {
            return Ok((None, Some(span)));
        }
        // The grammar has been checked, so what parses is digits alone.
        match written.parse::<u64>() {
            Ok(value) if (1..=max).contains(&value) => return Ok((Some(IntField { value, span }), None)),
            Ok(value) if value > max => {
                self.refuse(Some(name), || format!("`{name}` must be at most {max}, got {value}"));
            }
            _ => self.refuse(Some(name), || format!("`{name}` must be a positive whole number, got {}", echo(written))),
        }
        Ok((None, None))
    }

    /// Which of `names` the key means. A key that resembles one without being it is refused.
    fn known(&mut self, key: Text<'_>, names: &[&'static str]) -> Option<usize> {
        let Some(meant) = key.decode() else {
            self.refuse(None, || "a key of the request is not Unicode text".to_owned());
            return None;
        };
        let exact = names.iter().position(|&name| *name == *meant);
        if exact.is_none()
            && meant.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii())
            && let Some(name) = names.iter().find(|name| resembles(&meant, name))
        {
            self.refuse(Some(name), || format!("`{}` must be written `{name}`", echo(&meant)));
        }
        exact
    }

    fn refuse(&mut self, field: Option<&str>, message: impl FnOnce() -> String) {
        if self.problem.is_none() {
            self.problem = Some(RequestError { field: field.map(str::to_owned), message: message() });
        }
    }

    fn refuse_value(&mut self, name: &'static str, must: &str) -> Result<(), JsonError> {
        let span = self.cursor.value()?;
        let written = self.cursor.slice(span);
        self.refuse(Some(name), || format!("`{name}` {must}, got {}", echo(written)));
        Ok(())
    }
}
