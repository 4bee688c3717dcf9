//! The gate of the admin API: operators prove themselves with their tokens, as `authorization: Bearer`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use keyforge_shared::secret::SecretBytes;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Request, Status};

use super::guarded::Gate;
use super::head::{bearer_token, peer};
use super::in_flight::InFlight;
use super::timed;
use crate::admin::authenticate::{Authenticated, Proof};
use crate::admin::{Admin, AdminError, Caller, roles};
use crate::metrics::LabelledCounter;

/// Calls that are carried out at the same time, and those of one operator. Further ones are not begun: they go on though their caller hangs up, so
/// nothing else bounds them.
const MOST_CALLS: usize = 1024;
const MOST_CALLS_OF_ONE: usize = 64;
/// Calls of one operator that they may not make and that are being recorded at the same time.
const MOST_REFUSALS_OF_ONE: usize = 8;
/// How long an operator's call may take to say all that it has to say.
const SAID_WITHIN: Duration = Duration::from_secs(30);

/// Lets operators pass, and records whom it does not let pass. Clones share it.
///
/// A call is carried out to its end and recorded also if its caller hangs up: nobody tries without a trace what they may not do.
#[derive(Clone)]
pub struct OperatorGate {
    admin: Admin,
    calls: Arc<Semaphore>,
    in_flight: InFlight,
    /// Refusals that are being recorded. They have places of their own, so that no other calls of the operator keep them from being recorded.
    refusals: InFlight,
    refused: LabelledCounter,
}

/// Who was admitted, and whether the call has come as far as being carried out.
#[derive(Clone)]
struct Admitted {
    caller: Caller,
    is_decoded: Arc<AtomicBool>,
}

impl OperatorGate {
    /// Lets those pass whom `admin` knows, and counts in `refused` what was not begun because there was too much of it.
    #[must_use]
    pub fn new(admin: Admin, refused: LabelledCounter) -> Self {
        let (in_flight, refusals) = (InFlight::new(MOST_CALLS_OF_ONE), InFlight::new(MOST_REFUSALS_OF_ONE));
        Self { admin, calls: Arc::new(Semaphore::new(MOST_CALLS)), in_flight, refusals, refused }
    }
}

/// The operator who makes a call.
///
/// # Errors
/// `INTERNAL` when the service is not behind an [`OperatorGate`].
pub fn operator<T>(request: &Request<T>) -> Result<Caller, Status> {
    let admitted = request.extensions().get::<Admitted>();
    let admitted = admitted.ok_or_else(|| Status::internal("the caller was not asked who they are"))?;
    admitted.is_decoded.store(true, Ordering::Relaxed);
    Ok(admitted.caller.clone())
}

impl Gate for OperatorGate {
    async fn pass<F>(
        self,
        call: http::Request<Body>,
        carry_out: impl FnOnce(http::Request<Body>) -> F + Send + 'static,
    ) -> http::Response<Body>
    where
        F: Future<Output = http::Response<Body>> + Send + 'static,
    {
        // Who calls what there is not is told so without a look at the body.
        let Some(method) = roles::method_at(call.uri().path()) else { return carry_out(call).await };
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else { return self.too_many("all") };
        let admin = self.admin.clone();
        let answered = admin.to_its_end("admin call", async move {
            let answer = self.admit(method, call, carry_out).await;
            answer.map(|body| holding(body, permit))
        });
        answered.await.unwrap_or_else(|error| Status::from(error).into_http())
    }
}

impl OperatorGate {
    /// Carries a call out for whom it knows, and records one whose message nobody could read.
    async fn admit<F>(
        self,
        method: &'static str,
        call: http::Request<Body>,
        carry_out: impl FnOnce(http::Request<Body>) -> F + Send,
    ) -> http::Response<Body>
    where
        F: Future<Output = http::Response<Body>> + Send,
    {
        let token = bearer_token(call.headers());
        let proof = token.as_ref().map(SecretBytes::expose).map_or(Proof::None, Proof::Token);
        let admin = &self.admin;
        let caller = match admin.authenticate(proof, &peer(call.extensions()), method).await {
            Ok(Authenticated { caller, refusal: None }) => caller,
            Ok(Authenticated { caller, refusal: Some(error) }) => {
                let Some(recording) = self.refusals.begin(caller.operator()) else { return self.too_many("refused") };
                let error = admin.refuse(&caller, method, "", error).await;
                drop(recording);
                return Status::from(error).into_http();
            }
            Err(error) => return Status::from(error).into_http(),
        };
        let Some(in_flight) = self.in_flight.begin(caller.operator()) else { return self.too_many("operator") };
        let is_decoded = Arc::new(AtomicBool::new(false));
        let mut call = call.map(|message| timed::said_within(SAID_WITHIN, message));
        call.extensions_mut().insert(Admitted { caller: caller.clone(), is_decoded: Arc::clone(&is_decoded) });
        let answer = carry_out(call).await;
        if !is_decoded.load(Ordering::Relaxed) {
            let error = AdminError::Invalid("the message was not sent to its end, or cannot be read".to_owned());
            drop(admin.refuse(&caller, method, "", error).await);
        }
        answer.map(|body| holding(body, in_flight))
    }

    /// Refuses a call of which nothing is done. `whose` says of whom there are too many: `operator`, `refused` for those that they may not make, or `all`.
    fn too_many(&self, whose: &'static str) -> http::Response<Body> {
        self.refused.count(whose);
        Status::resource_exhausted("more calls at the same time than are carried out, of one operator or of all: ask again when some have ended")
            .into_http()
    }
}

/// The body of an answer, which keeps `what` until it was given or nobody wants it any more.
fn holding(body: Body, what: impl Send + 'static) -> Body {
    let mut what = Some(what);
    Body::new(body.map_frame(move |frame| {
        // Trailers are the last.
        if frame.is_trailers() {
            drop(what.take());
        }
        frame
    }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn place_of_a_call_is_held_until_its_answer_was_read_or_is_not_wanted() {
        let answer = |place: &Arc<()>| {
            let frames = [Frame::data(Bytes::from_static(b"one")), Frame::trailers(http::HeaderMap::new())];
            let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>)));
            holding(Body::new(body), Arc::clone(place))
        };
        let place = Arc::new(());
        let mut read = answer(&place);
        assert!(read.frame().await.unwrap().unwrap().is_data());
        assert_eq!(Arc::strong_count(&place), 2, "there is more to read");
        assert!(read.frame().await.unwrap().unwrap().is_trailers());
        assert_eq!(Arc::strong_count(&place), 1);
        let unread = answer(&place);
        assert_eq!(Arc::strong_count(&place), 2);
        drop(unread);
        assert_eq!(Arc::strong_count(&place), 1);
    }
}
