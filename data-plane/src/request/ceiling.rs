//! How many output tokens each choice may have, so that all choices of a request together stay within its key's `max_output_tokens`.
//!
//! What would leave a choice nothing is refused by the name of the field: never is more admitted than the policy allows, and never less than a token of
//! each choice.

use keyforge_providers::openai::request::ChatRequest;
use keyforge_shared::catalog::Model;
use keyforge_shared::policy::Policy;
use keyforge_shared::provider::{self, Api};

use crate::rejection::Rejection;

/// The most output tokens of one choice that the policy allows; `None` when it does not limit them.
///
/// # Errors
/// [`Rejection::BodyInvalid`] naming `n`, another field that multiplies choices, or `prediction`, whose unused tokens are output as well.
pub(super) fn each_choice(policy: &Policy, model: &Model, request: &ChatRequest) -> Result<Option<u64>, Rejection> {
    let Some(ceiling) = policy.max_output_tokens else { return Ok(None) };
    if let Some(field) = request.multiplier() {
        let why = format!(
            "`{field}` multiplies the output, of which this virtual key's policy allows {ceiling} tokens in a request: leave it out, or use `n`"
        );
        return Err(refused(field, why));
    }
    let prediction = prediction(model, request);
    let room = ceiling.saturating_sub(prediction);
    if room == 0 && prediction > 0 {
        let why = format!(
            "`prediction` can take up to {prediction} output tokens, and this virtual key's policy allows {ceiling} in a request: shorten it, or \
             leave it out"
        );
        return Err(refused("prediction", why));
    }
    if request.n > room {
        let n = request.n;
        let why = format!(
            "`n` must be at most {room}, got {n}: all choices together have {room} output tokens, as this virtual key's policy allows {ceiling} in a \
             request"
        );
        return Err(refused("n", why));
    }
    Ok(Some(room / request.n.max(1)))
}

/// Output tokens that a prediction can take at most. Where the request is translated it is left out.
fn prediction(model: &Model, request: &ChatRequest) -> u64 {
    match provider::of(&model.provider.0).api {
        Api::OpenAi => request.prediction_bytes,
        Api::Anthropic | Api::Google => 0,
    }
}

fn refused(field: &str, message: String) -> Rejection {
    Rejection::BodyInvalid { field: Some(field.to_owned()), message }
}
