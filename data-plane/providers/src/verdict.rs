//! What becomes of an event of a provider's stream on its way to the client.

use crate::fault::Fault;
use crate::patch::Pieces;

/// What to do with an event.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Give it to the client as it came.
    Forward,
    /// Give these bytes to the client instead.
    ForwardTrimmed(Pieces),
    /// Give these bytes to the client instead: none of the event's own is left.
    Replace(bytes::Bytes),
    /// Give the client nothing.
    Drop,
    /// The end of the stream, `[DONE]`: give it to the client as it came.
    Done,
    /// The end of the stream: give these bytes to the client instead.
    DoneWith(bytes::Bytes),
    /// The provider reports an error; the stream will not go on.
    UpstreamError(Fault),
}
