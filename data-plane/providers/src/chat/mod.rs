//! The hub form of a conversation: what every dialect can be read into and written from, so that N dialects need N translations and not N².
//!
//! * [`request`]: turns made of parts, tools, how to sample, how to answer
//! * [`response`]: a whole answer
//! * [`event`]: an answer as it comes, piece by piece
//! * [`ignored`]: the wishes that a provider was not told
//!
//! The hub holds what any dialect can say, also what chat completions cannot: thinking with its signatures, results of tools
//! that are pictures, cache marks. A dialect that cannot write something refuses it by name, or says that a mere wish is ignored; nothing that would change the answer is dropped in silence.

pub mod event;
pub mod ignored;
pub mod request;
pub mod response;
