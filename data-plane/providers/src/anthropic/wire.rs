//! The body of a `/messages` request, as it is serialised.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::chat::request::CacheMark;

/// Most cache marks that the API takes.
const MOST_MARKS: usize = 4;

/// The body. Absent members are the API's defaults.
#[derive(Debug, Serialize)]
pub(super) struct Body<'r> {
    pub(super) model: &'r str,
    pub(super) max_tokens: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) system: Vec<Block<'r>>,
    pub(super) messages: Vec<Message<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tools: Vec<Tool<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tool_choice: Option<Choice<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thinking: Option<Thinking>,
    #[serde(skip_serializing_if = "OutputConfig::is_empty")]
    pub(super) output_config: OutputConfig<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_p: Option<&'r Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_k: Option<&'r Number>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) stop_sequences: &'r [Cow<'r, str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Metadata<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) service_tier: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) stream: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Author {
    User,
    Assistant,
}

#[derive(Debug, Serialize)]
pub(super) struct Message<'r> {
    pub(super) role: Author,
    pub(super) content: Vec<Block<'r>>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Block<'r> {
    Text {
        text: Cow<'r, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Image {
        source: Source<'r>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Document {
        source: Source<'r>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'r str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolUse {
        id: Cow<'r, str>,
        name: &'r str,
        input: Input<'r>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    ToolResult {
        tool_use_id: Cow<'r, str>,
        content: Vec<Block<'r>>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache_control: Option<CacheControl>,
    },
    Thinking {
        thinking: &'r str,
        signature: &'r str,
    },
    RedactedThinking {
        data: &'r str,
    },
    #[serde(untagged)]
    Native(&'r RawValue),
}

impl<'r> Block<'r> {
    pub(super) fn text(text: impl Into<Cow<'r, str>>) -> Self {
        Self::Text { text: text.into(), cache_control: None }
    }

    pub(super) fn is_thinking(&self) -> bool {
        matches!(self, Self::Thinking { .. } | Self::RedactedThinking { .. })
    }

    fn mark(&mut self) -> Option<&mut Option<CacheControl>> {
        match self {
            Self::Text { cache_control, .. }
            | Self::Image { cache_control, .. }
            | Self::Document { cache_control, .. }
            | Self::ToolUse { cache_control, .. }
            | Self::ToolResult { cache_control, .. } => Some(cache_control),
            Self::Thinking { .. } | Self::RedactedThinking { .. } | Self::Native(_) => None,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Source<'r> {
    Url { url: &'r str },
    Base64 { media_type: &'r str, data: &'r str },
    Text { media_type: &'static str, data: String },
}

/// Arguments of a call: an object, always.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Input<'r> {
    Object(&'r RawValue),
    /// What is no JSON object, as when an answer was cut off within a call, under a member of its own.
    Unparsed {
        unparsed_arguments: &'r str,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct Tool<'r> {
    pub(super) name: Cow<'r, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) description: Option<&'r str>,
    pub(super) input_schema: Cow<'r, RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) strict: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<CacheControl>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Choice<'r> {
    Auto {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    Any {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    Tool {
        name: Cow<'r, str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        disable_parallel_tool_use: bool,
    },
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Thinking {
    Enabled {
        budget_tokens: u64,
    },
    Adaptive {
        #[serde(skip_serializing_if = "Option::is_none")]
        display: Option<&'static str>,
    },
    Disabled,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct OutputConfig<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) effort: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<OutputFormat<'r>>,
}

impl OutputConfig<'_> {
    fn is_empty(&self) -> bool {
        self.effort.is_none() && self.format.is_none()
    }
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum OutputFormat<'r> {
    JsonSchema { schema: Cow<'r, RawValue> },
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata<'r> {
    pub(super) user_id: &'r str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "ephemeral")]
pub(super) struct CacheControl {
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<&'static str>,
}

impl From<CacheMark> for CacheControl {
    fn from(mark: CacheMark) -> Self {
        match mark {
            CacheMark::FiveMinutes => Self { ttl: None },
            CacheMark::OneHour => Self { ttl: Some("1h") },
        }
    }
}

impl Body<'_> {
    /// Takes away the earliest cache marks beyond what the API takes: a later one covers what comes before it.
    pub(super) fn limit_marks(&mut self) {
        let blocks = self.system.iter_mut().chain(self.messages.iter_mut().flat_map(|message| &mut message.content));
        let mut marks: Vec<&mut Option<CacheControl>> =
            self.tools.iter_mut().map(|tool| &mut tool.cache_control).filter(|mark| mark.is_some()).collect();
        for block in blocks {
            marks_of(block, &mut marks);
        }
        let surplus = marks.len().saturating_sub(MOST_MARKS);
        marks.into_iter().take(surplus).for_each(|mark| *mark = None);
    }
}

fn marks_of<'m>(block: &'m mut Block<'_>, marks: &mut Vec<&'m mut Option<CacheControl>>) {
    if let Block::ToolResult { content, cache_control, .. } = block {
        for inner in content {
            marks.extend(inner.mark().filter(|mark| mark.is_some()));
        }
        marks.extend(Some(cache_control).filter(|mark| mark.is_some()));
        return;
    }
    marks.extend(block.mark().filter(|mark| mark.is_some()));
}
