//! The gate of the admin API: operators prove themselves with their tokens, as `authorization: Bearer`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyforge_shared::secret::SecretBytes;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::{Request, Status};

use super::guarded::Gate;
use super::head::{bearer_token, peer};
use crate::admin::authenticate::Proof;
use crate::admin::{Admin, AdminError, Caller, roles};

/// Calls that go on at a time though their caller hung up. More of them end where they are, which undoes them.
const GOING_ON: usize = 1024;

/// Lets operators pass, and records whom it does not let pass. Clones share it.
///
/// A call is carried out to its end and recorded also if its caller hangs up: nobody tries without a trace what they may not do.
#[derive(Clone)]
pub struct OperatorGate {
    admin: Admin,
    going_on: Arc<Semaphore>,
}

/// Who was admitted, and whether the call has come as far as being carried out.
#[derive(Clone)]
struct Admitted {
    caller: Caller,
    is_decoded: Arc<AtomicBool>,
}

impl OperatorGate {
    /// Lets those pass whom `admin` knows.
    #[must_use]
    pub fn new(admin: Admin) -> Self {
        Self { admin, going_on: Arc::new(Semaphore::new(GOING_ON)) }
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
        let Self { admin, going_on } = self;
        let permit = going_on.try_acquire_owned();
        let answering = admit(admin.clone(), method, call, carry_out);
        let Ok(permit) = permit else { return answering.await };
        let answered = admin.to_its_end("admin call", async move {
            let answer = answering.await;
            drop(permit);
            answer
        });
        answered.await.unwrap_or_else(|error| Status::from(error).into_http())
    }
}

/// Carries a call out for whom `admin` knows, and records one whose message nobody could read.
async fn admit<F>(
    admin: Admin,
    method: &'static str,
    mut call: http::Request<Body>,
    carry_out: impl FnOnce(http::Request<Body>) -> F + Send,
) -> http::Response<Body>
where
    F: Future<Output = http::Response<Body>> + Send,
{
    let token = bearer_token(call.headers());
    let proof = token.as_ref().map(SecretBytes::expose).map_or(Proof::None, Proof::Token);
    let caller = match admin.authenticate(proof, &peer(call.extensions()), method).await {
        Ok(caller) => caller,
        Err(error) => return Status::from(error).into_http(),
    };
    let is_decoded = Arc::new(AtomicBool::new(false));
    call.extensions_mut().insert(Admitted { caller: caller.clone(), is_decoded: Arc::clone(&is_decoded) });
    let answer = carry_out(call).await;
    if !is_decoded.load(Ordering::Relaxed) {
        let error = AdminError::Invalid("the message cannot be read".to_owned());
        drop(admin.refuse(&caller, method, "", error).await);
    }
    answer
}
