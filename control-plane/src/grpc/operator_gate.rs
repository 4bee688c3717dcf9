//! Lets only operators pass to the services of the admin API: who calls is found out by the head of a call, before anything of its body is read. A
//! stranger's message might be megabytes, which would be held until their end comes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use keyforge_shared::secret::SecretBytes;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower_service::Service;

use super::auth::{bearer_in, peer_of};
use crate::admin::authenticate::Proof;
use crate::admin::{Admin, AdminError, Caller, roles};

/// Calls that go on at a time though their caller hung up. More of them end where they are, which undoes them.
const GOING_ON: usize = 1024;

/// Admits operators, and records whom it does not admit. Clones share it.
///
/// A call is carried out to its end and recorded also if its caller hangs up: nobody tries without a trace what they may not do.
#[derive(Clone)]
pub struct OperatorGate {
    admin: Admin,
    going_on: Arc<Semaphore>,
}

/// A service that only operators reach.
#[derive(Clone)]
pub struct OperatorsOnly<S> {
    inner: S,
    gate: OperatorGate,
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

    /// Guards a service.
    pub fn guard<S>(&self, inner: S) -> OperatorsOnly<S> {
        OperatorsOnly { inner, gate: self.clone() }
    }
}

/// The operator who makes a call.
///
/// # Errors
/// `INTERNAL` when the service is not guarded by [`OperatorsOnly`].
pub fn operator<T>(request: &Request<T>) -> Result<Caller, Status> {
    let admitted = request.extensions().get::<Admitted>();
    let admitted = admitted.ok_or_else(|| Status::internal("the caller was not asked who they are"))?;
    admitted.is_decoded.store(true, Ordering::Relaxed);
    Ok(admitted.caller.clone())
}

impl<S> Service<http::Request<Body>> for OperatorsOnly<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that said that it is ready takes the call; the clone is asked again.
        let clone = self.inner.clone();
        let (mut inner, OperatorGate { admin, going_on }) =
            (std::mem::replace(&mut self.inner, clone), self.gate.clone());
        // Who calls what there is not is told so without a look at the body.
        let Some(method) = roles::method_at(request.uri().path()) else { return Box::pin(inner.call(request)) };
        let this = admin.clone();
        let call = async move {
            let token = request.headers().get("authorization").and_then(|value| bearer_in(value.as_bytes()));
            let token = token.map(|token| SecretBytes::new(token.to_vec()));
            let proof = token.as_ref().map_or(Proof::None, |token| Proof::Token(token.expose()));
            let caller = match admin.authenticate(proof, &peer_of(&request), method).await {
                Ok(caller) => caller,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            let is_decoded = Arc::new(AtomicBool::new(false));
            request.extensions_mut().insert(Admitted { caller: caller.clone(), is_decoded: Arc::clone(&is_decoded) });
            let answer = inner.call(request).await;
            if !is_decoded.load(Ordering::Relaxed) {
                let error = AdminError::Invalid("the message cannot be read".to_owned());
                drop(admin.refuse(&caller, method, "", error).await);
            }
            answer
        };
        let Ok(permit) = going_on.try_acquire_owned() else { return Box::pin(call) };
        Box::pin(async move {
            let call = this.to_its_end("admin call", async move {
                let answer = call.await;
                drop(permit);
                answer
            });
            call.await.unwrap_or_else(|error| Ok(Status::from(error).into_http()))
        })
    }
}

impl<S: NamedService> NamedService for OperatorsOnly<S> {
    const NAME: &'static str = S::NAME;
}
