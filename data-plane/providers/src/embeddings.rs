//! The hub form of embeddings: texts in, one vector for each out, in the same order.

use std::borrow::Cow;

use keyforge_shared::usage::Usage;

/// What is to be embedded. Texts are borrowed from the client's body wherever they need no unescaping.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// At least one, in the client's order.
    pub inputs: Vec<Input<'a>>,
    /// How many numbers a vector shall have; `None`: as many as the model makes.
    pub dimensions: Option<u64>,
    /// Who the client says that its user is: an opaque id.
    pub user: Option<Cow<'a, str>>,
}

/// One thing to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A text. Never empty.
    Text(Cow<'a, str>),
    /// A text as tokens of the model that the client believes it speaks to. Never empty; other models cannot read them.
    Tokens(Vec<u32>),
}

/// What a provider answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// One vector for each input, in the same order.
    pub vectors: Vec<Vec<f32>>,
    /// What it took; `None` if the provider does not say, or not in a way that can be trusted.
    pub usage: Option<Usage>,
    /// The model that answered, by its dated name; empty if the provider does not say.
    pub model: String,
}
