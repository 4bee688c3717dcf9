//! Who calls: operators prove themselves with `kfo_` tokens as `authorization: Bearer` ([`super::operator_gate`]); nodes with their certificates, or, on
//! a connection in the clear, with the fleet's `kff_` token.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use keyforge_proto::convert::ConvertError;
use keyforge_runtime::accept::Transport;
use keyforge_shared::id::{BootId, NodeId};
use keyforge_shared::name;
use keyforge_shared::secret::SecretBytes;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};
use tower_service::Service;

use crate::admin::nodes::RENEW_CERTIFICATE;
use crate::admin::{Admin, AdminError, Caller};
use crate::metrics::RefusedNodes;
use crate::nodes::refusal::Refusal;
use crate::nodes::{FleetCaller, Nodes};

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
            // What is no name may be anything, a secret that was pasted into the wrong place included.
            let target = if name::check(target).is_ok() { target } else { "" };
            Err(admin.refuse(caller, method, target, error).await.into())
        }
    }
}

/// Lets only nodes pass to a service: each call is admitted anew, before the service sees it, and carries its [`FleetCaller`].
#[derive(Clone)]
pub struct NodesOnly<S> {
    inner: S,
    gate: NodeGate,
}

/// Refuses and records who is no node. Clones share it.
#[derive(Clone)]
pub struct NodeGate {
    nodes: Nodes,
    admin: Admin,
    refused: RefusedNodes,
}

impl NodeGate {
    /// Lets `nodes` pass; whom it refuses is recorded by `admin` and counted in `refused`.
    #[must_use]
    pub const fn new(nodes: Nodes, admin: Admin, refused: RefusedNodes) -> Self {
        Self { nodes, admin, refused }
    }

    /// Guards a service.
    pub fn guard<S>(&self, inner: S) -> NodesOnly<S> {
        NodesOnly { inner, gate: self.clone() }
    }

    /// Refuses a caller that speaks for another node, or for a boot of another node.
    ///
    /// # Errors
    /// What the caller is told.
    pub async fn check<T>(
        &self,
        request: &Request<T>,
        node: Option<NodeId>,
        boot: Option<BootId>,
    ) -> Result<(), Status> {
        let caller = caller(request)?;
        match self.find_out(&caller, node, boot).await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                let method = request.extensions().get::<Called>().map_or(UNKNOWN_METHOD, |called| called.0);
                Err(self.refuse(&refusal, &peer(request), method).await)
            }
        }
    }

    /// The same, for a caller that is known already.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn find_out(
        &self,
        caller: &FleetCaller,
        node: Option<NodeId>,
        boot: Option<BootId>,
    ) -> Result<(), Refusal> {
        if let Some(node) = node {
            self.nodes.speaks_for(caller, node).await?;
        }
        match boot {
            Some(boot) => self.nodes.speaks_for_boot(caller, boot, node).await,
            None => Ok(()),
        }
    }

    /// Who is to be asked about nodes.
    #[must_use]
    pub const fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Records a refusal, as an entry or counted in the next one, and gives what the caller is told.
    pub async fn refuse(&self, refusal: &Refusal, peer: &str, method: &'static str) -> Status {
        self.refused.count(refusal.word());
        tracing::warn!(peer, method, reason = %refusal, "a caller of the fleet's services was refused");
        if !matches!(refusal, Refusal::Store(_)) {
            self.admin.note_refused_node(peer, method, refusal.target(), &refusal.to_string()).await;
        }
        refusal.status()
    }

    /// Counts that a certificate was refused in the handshake.
    pub fn count_refused_certificate(&self) {
        self.refused.count("handshake");
    }

    /// Lets the next entry of a refusal count one whose certificate nobody had time to record.
    pub fn pass_over_refused_certificate(&self) {
        self.admin.pass_over_refused_node();
    }

    /// Records that a certificate was refused in the handshake.
    pub async fn refused_certificate(&self, peer: &str, reason: &str) {
        tracing::warn!(peer, reason, "a certificate was refused in the handshake");
        self.admin.note_refused_node(peer, "fleet/Connect", String::new(), reason).await;
    }
}

impl<S> Service<http::Request<Body>> for NodesOnly<S>
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
        let (mut inner, gate) = (std::mem::replace(&mut self.inner, clone), self.gate.clone());
        Box::pin(async move {
            let transport = request.extensions().get::<Transport>().cloned().unwrap_or(Transport::Cleartext);
            let token = request.headers().get("authorization").and_then(|value| bearer_in(value.as_bytes()));
            let token = token.map(|token| SecretBytes::new(token.to_vec()));
            match gate.nodes.admit(&transport, token.as_ref().map(SecretBytes::expose)).await {
                Ok(caller) => {
                    let method = method_of(request.uri().path());
                    request.extensions_mut().insert(caller);
                    request.extensions_mut().insert(Called(method));
                    inner.call(request).await
                }
                Err(refusal) => {
                    Ok(gate.refuse(&refusal, &peer_of(&request), method_of(request.uri().path())).await.into_http())
                }
            }
        })
    }
}

impl<S: NamedService> NamedService for NodesOnly<S> {
    const NAME: &'static str = S::NAME;
}

/// Calls of the fleet's services as entries name them.
const METHODS: [(&str, &str); 10] = [
    ("StateService/Subscribe", "fleet/Subscribe"),
    ("StateService/Watch", "fleet/Watch"),
    ("StateService/ReportCredentials", "fleet/ReportCredentials"),
    ("GrantService/AcquireGrants", "fleet/AcquireGrants"),
    ("GrantService/ReturnGrants", "fleet/ReturnGrants"),
    ("GrantService/LeaveEpochs", "fleet/LeaveEpochs"),
    ("GrantService/CloseBoot", "fleet/CloseBoot"),
    ("AuditIntakeService/ShipRecords", "fleet/ShipRecords"),
    ("AuditIntakeService/ReportGap", "fleet/ReportGap"),
    ("NodeService/RenewCertificate", RENEW_CERTIFICATE),
];

const UNKNOWN_METHOD: &str = "fleet/Call";

/// What an admitted request calls, as entries name it.
#[derive(Clone, Copy)]
struct Called(&'static str);

fn method_of(path: &str) -> &'static str {
    METHODS.iter().find(|(end, _)| path.ends_with(end)).map_or(UNKNOWN_METHOD, |(_, method)| method)
}

/// Who a call was admitted as.
///
/// # Errors
/// `INTERNAL` when the service is not guarded by [`NodesOnly`].
pub fn caller<T>(request: &Request<T>) -> Result<FleetCaller, Status> {
    let caller = request.extensions().get::<FleetCaller>().copied();
    caller.ok_or_else(|| Status::internal("the caller was not asked who it is"))
}

impl From<ConvertError> for AdminError {
    fn from(error: ConvertError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// The token in the value of an `authorization` header.
pub(super) fn bearer_in(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Where a call came from whose head alone was read.
pub(super) fn peer_of(request: &http::Request<Body>) -> String {
    let info = request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    info.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// Where a call came from.
pub fn peer<T>(request: &Request<T>) -> String {
    request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}
