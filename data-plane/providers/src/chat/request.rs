//! A request in hub form. Texts are borrowed from the client's body wherever they need no unescaping.

use std::borrow::Cow;

use serde_json::Number;
use serde_json::value::RawValue;

/// Longest name of a function, in bytes, as at OpenAI. Each result of a call may repeat it to the model.
pub(crate) const MAX_FUNCTION_BYTES: usize = 64;

/// Most answers to one request, as at OpenAI. What holds more of them is no answer to any.
pub(crate) const MOST_CHOICES: usize = 128;

/// What is asked of a model.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// The conversation, oldest turn first.
    pub turns: Vec<Turn<'a>>,
    /// Functions that the client runs.
    pub tools: Vec<Tool<'a>>,
    /// Which of them may or must be called; `None`: the provider's default.
    pub tool_choice: Option<ToolChoice<'a>>,
    /// Whether several calls may come in one turn; `None`: the provider's default.
    pub parallel_tool_calls: Option<bool>,
    /// What form the answer must have.
    pub format: Format<'a>,
    /// Most output tokens of one choice, as the client wrote it.
    pub max_output_tokens: Option<u64>,
    /// Texts at which the answer stops.
    pub stop: Vec<Cow<'a, str>>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// How many answers are wanted; 0 and 1 both mean one.
    pub choices: u64,
    /// Whether to say how probable the tokens were.
    pub logprobs: Option<Logprobs>,
    /// How much to think; `None`: the provider's default.
    pub reasoning: Option<Reasoning>,
    /// Who the client says that its user is: an opaque id.
    pub user: Option<Cow<'a, str>>,
    /// The class of service.
    pub tier: Option<RequestedTier>,
    /// How long the answer should be: `low`, `medium`, `high`.
    pub verbosity: Option<Cow<'a, str>>,
    /// Whether the answer is to come as a stream.
    pub stream: bool,
}

impl Request<'_> {
    /// Whether a picture is to be looked at more or less closely than the model would.
    #[must_use]
    pub fn wants_detail(&self) -> bool {
        fn in_parts(parts: &[Part<'_>]) -> bool {
            parts.iter().any(|part| match &part.content {
                Content::Image { detail, .. } => detail.as_deref().is_some_and(|detail| detail != "auto"),
                Content::ToolResult(result) => in_parts(&result.parts),
                _ => false,
            })
        }
        self.turns.iter().any(|turn| in_parts(&turn.parts))
    }

    /// Whether the answer is to be longer or shorter than models make it by themselves.
    #[must_use]
    pub fn wants_length(&self) -> bool {
        self.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium")
    }
}

/// What one side says before the other speaks again.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Whose turn.
    pub role: Role,
    /// The name of a participant, where roles are shared.
    pub name: Option<Cow<'a, str>>,
    /// What is said, in order.
    pub parts: Vec<Part<'a>>,
    /// Where it stands in the client's body, for errors: e.g. `messages[3]`.
    pub at: usize,
}

/// Whose turn. Results of tools are parts of a user's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The system prompt.
    System,
    /// Instructions that rank below the system's; the same as system where a provider has no such role.
    Developer,
    /// The user, or the client's tools.
    User,
    /// The model.
    Assistant,
}

/// One piece of a turn.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What it is.
    pub content: Content<'a>,
    /// That the prompt up to here is worth keeping in the provider's cache.
    pub cache: Option<CacheMark>,
    /// What its maker wants back unchanged with this part.
    pub signature: Option<Signature<'a>>,
}

impl<'a> Part<'a> {
    /// A part without marks.
    #[must_use]
    pub const fn new(content: Content<'a>) -> Self {
        Self { content, cache: None, signature: None }
    }

    /// A text.
    #[must_use]
    pub fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Self::new(Content::Text(text.into()))
    }
}

/// What a part is.
#[derive(Clone, Debug)]
pub enum Content<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// The model's words for not answering.
    Refusal(Cow<'a, str>),
    /// A picture.
    Image {
        /// Its bytes or where they are.
        source: Source<'a>,
        /// `low`, `high`, `auto`.
        detail: Option<Cow<'a, str>>,
    },
    /// Sound.
    Audio {
        /// Its bytes or where they are.
        source: Source<'a>,
    },
    /// A file, such as a PDF.
    Document {
        /// Its bytes or where they are.
        source: Source<'a>,
        /// Its file name.
        name: Option<Cow<'a, str>>,
    },
    /// The model calls a function of the client.
    ToolCall(ToolCall<'a>),
    /// What the function returned.
    ToolResult(ToolResult<'a>),
    /// What the model thought. Its signature is the part's.
    Thinking(Cow<'a, str>),
    /// Thought that only its maker can read.
    RedactedThinking(Cow<'a, str>),
    /// A block that only its maker understands, e.g. the use of a tool that the provider runs itself; wanted back as it is.
    Native {
        /// Whose.
        maker: Maker,
        /// The block.
        block: Cow<'a, RawValue>,
    },
}

/// A call of a function.
#[derive(Clone, Debug)]
pub struct ToolCall<'a> {
    /// Unique in the conversation.
    pub id: Cow<'a, str>,
    /// The function.
    pub name: Cow<'a, str>,
    /// Its arguments: JSON text, if the model was not cut off in the middle of it. Never empty: `{}` for none.
    pub arguments: Cow<'a, str>,
}

/// What a function returned.
#[derive(Clone, Debug)]
pub struct ToolResult<'a> {
    /// The call that it answers.
    pub call_id: Cow<'a, str>,
    /// The function, where the client or an earlier turn says so.
    pub name: Option<Cow<'a, str>>,
    /// Texts, pictures, documents.
    pub parts: Vec<Part<'a>>,
    /// Whether the call failed.
    pub is_error: bool,
}

/// Where a medium is.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// At an address that the provider fetches.
    Url(Cow<'a, str>),
    /// Here, in base64.
    Data {
        /// E.g. `image/png`.
        media_type: Cow<'a, str>,
        /// The bytes in base64.
        base64: Cow<'a, str>,
    },
}

/// How long the provider should keep what it has cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMark {
    /// The provider's default, five minutes.
    FiveMinutes,
    /// One hour, dearer.
    OneHour,
}

/// What a provider wants back to recognise its own thoughts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature<'a> {
    /// Who can read it. Nobody else is sent it.
    pub maker: Maker,
    /// Opaque.
    pub value: Cow<'a, str>,
}

/// Whose models made a thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Maker {
    /// Anthropic's.
    Anthropic,
    /// Google's.
    Google,
    /// OpenAI's.
    OpenAi,
}

/// A function that the client runs.
#[derive(Debug)]
pub struct Tool<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// What it is for.
    pub description: Option<Cow<'a, str>>,
    /// JSON schema of its arguments, as the client wrote it: the order of properties matters to models.
    pub parameters: Option<&'a RawValue>,
    /// Whether arguments must fit the schema exactly.
    pub strict: Option<bool>,
    /// That the prompt up to here is worth keeping in the provider's cache.
    pub cache: Option<CacheMark>,
}

/// Which tools may be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice<'a> {
    /// As the model likes.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(Cow<'a, str>),
    /// Only these; at least one of them if `required`.
    Allowed {
        /// The names.
        names: Vec<Cow<'a, str>>,
        /// Whether one must be called.
        required: bool,
    },
}

/// What form an answer must have.
#[derive(Debug, Default)]
pub enum Format<'a> {
    /// Any.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that fits a schema.
    JsonSchema {
        /// What the client calls it.
        name: Cow<'a, str>,
        /// What it is for.
        description: Option<Cow<'a, str>>,
        /// The schema, as the client wrote it.
        schema: Option<&'a RawValue>,
        /// Whether it must fit exactly.
        strict: Option<bool>,
    },
}

/// How the next token is chosen. Numbers as the client wrote them.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    /// 0 to 2.
    pub temperature: Option<Number>,
    /// 0 to 1.
    pub top_p: Option<Number>,
    /// A whole number.
    pub top_k: Option<Number>,
    /// -2 to 2.
    pub frequency_penalty: Option<Number>,
    /// -2 to 2.
    pub presence_penalty: Option<Number>,
    /// Makes sampling repeatable, nearly.
    pub seed: Option<Number>,
}

/// How much to say of tokens' probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logprobs {
    /// How many alternatives of each token.
    pub top: u64,
}

/// How much to think, as the client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reasoning {
    /// Not at all, where that is possible.
    Off,
    /// By words.
    Effort(Effort),
    /// At most so many tokens.
    Budget(u64),
    /// As much as the model likes.
    Adaptive,
}

/// How much to think, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// As little as possible.
    Minimal,
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// Very much.
    ExtraHigh,
    /// As much as there is.
    Max,
}

/// The class of service that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedTier {
    /// Whatever the provider's project is set to.
    Auto,
    /// Ordinary.
    Default,
    /// Cheaper and slower.
    Flex,
    /// Dearer and faster.
    Priority,
    /// Another name, at most 40 characters of it.
    Other(String),
}
