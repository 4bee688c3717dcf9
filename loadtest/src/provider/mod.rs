//! A provider that speaks OpenAI's chat completions, Anthropic's messages and Google's generateContent, and does what its script says.
//!
//! In reading order: [`script`] (what to do), [`reply`] (one answer or fault), [`server`] (sockets and the handle that
//! tests hold), `exchange` (the life of one request), `request` (what was asked, prompt tokens), `answer` (what will
//! be said), `voice` (other languages than chat completions), `tools` and `schema` (JSON made from a schema), `chat` (buffered bytes), `stream` (event bytes), `body`
//! (paced, cut or broken writes), `wire` (faults below HTTP), `ratelimit`, [`bill`] (what was really generated),
//! [`seen`] (what arrived) and [`replay`] (recorded exchanges).

mod answer;
pub mod bill;
mod body;
mod chat;
mod errors;
mod exchange;
mod faults;
mod filler;
mod ratelimit;
pub mod replay;
pub mod reply;
mod request;
mod schema;
pub mod script;
pub mod seen;
pub mod server;
mod stream;
mod tools;
mod voice;
mod wire;

pub use bill::{Bill, Charges};
pub use replay::{Recording, load_folder};
pub use reply::Reply;
pub use script::{FaultRule, RateLimit, Script};
pub use seen::SeenRequest;
pub use server::ScriptedProvider;
