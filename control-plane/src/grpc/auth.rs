//! Who calls: operators prove themselves with `kfo_` tokens, nodes with the fleet's `kff_` token, both as `authorization: Bearer`.

use keyforge_proto::convert::ConvertError;
use keyforge_shared::secret::SecretBytes;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::admin::{Admin, AdminError, Caller};
use crate::publish::fleet_token::FleetToken;

/// The operator who makes a call. A call without one is refused and recorded.
///
/// # Errors
/// `UNAUTHENTICATED`, saying what to do.
pub async fn operator<T>(admin: &Admin, request: &Request<T>, method: &'static str) -> Result<Caller, Status> {
    // The request itself is not held over the await: its body need not be shareable between threads.
    let (token, peer) = (bearer(request).map(<[u8]>::to_vec), peer(request));
    let token = token.map(SecretBytes::new);
    Ok(admin.authenticate(token.as_ref().map(SecretBytes::expose), &peer, method).await?)
}

/// What a request was decoded to; a request that could not be decoded is recorded as refused.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the field.
pub async fn decoded<T>(
    admin: &Admin,
    caller: &Caller,
    method: &'static str,
    target: &str,
    result: Result<T, AdminError>,
) -> Result<T, Status> {
    match result {
        Ok(value) => Ok(value),
        Err(error) => {
            let target: String = target.chars().take(64).collect();
            Err(admin.refuse(caller, method, target, error).await.into())
        }
    }
}

/// Lets only nodes pass.
#[derive(Clone)]
pub struct FleetAuth(FleetToken);

impl FleetAuth {
    /// Lets those pass that present `token`.
    #[must_use]
    pub const fn new(token: FleetToken) -> Self {
        Self(token)
    }
}

impl Interceptor for FleetAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if bearer(&request).is_some_and(|token| self.0.accepts(token)) {
            return Ok(request);
        }
        tracing::warn!(peer = peer(&request), "a call to the fleet's services without the fleet token was refused");
        Err(Status::unauthenticated(
            "not a node of this fleet: send the metadata `authorization: Bearer kff_...` with the token in fleet.token of the control \
             plane's data directory",
        ))
    }
}

impl From<ConvertError> for AdminError {
    fn from(error: ConvertError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn bearer<T>(request: &Request<T>) -> Option<&[u8]> {
    let value = request.metadata().get("authorization")?.as_encoded_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn peer<T>(request: &Request<T>) -> String {
    request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}
