//! The gate of the fleet's services: nodes prove themselves with their certificates, or, on a connection in the clear, with the fleet's `kff_` token.

use std::future::Future;

use keyforge_runtime::accept::Transport;
use keyforge_shared::id::{BootId, NodeId};
use keyforge_shared::secret::SecretBytes;
use tonic::body::Body;
use tonic::{Request, Status};

use super::guarded::Gate;
use super::head::{bearer_token, peer};
use crate::admin::Admin;
use crate::admin::nodes::RENEW_CERTIFICATE;
use crate::metrics::LabelledCounter;
use crate::nodes::refusal::Refusal;
use crate::nodes::{FleetCaller, Nodes};

/// Lets nodes pass, each call with its [`FleetCaller`]; refuses and records who is no node. Clones share it.
#[derive(Clone)]
pub struct NodeGate {
    nodes: Nodes,
    admin: Admin,
    refused: LabelledCounter,
}

impl NodeGate {
    /// Lets `nodes` pass; whom it refuses is recorded by `admin` and counted in `refused`.
    #[must_use]
    pub const fn new(nodes: Nodes, admin: Admin, refused: LabelledCounter) -> Self {
        Self { nodes, admin, refused }
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
                Err(self.refuse(&refusal, &peer(request.extensions()), method).await)
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

impl Gate for NodeGate {
    async fn pass<F>(
        self,
        mut call: http::Request<Body>,
        carry_out: impl FnOnce(http::Request<Body>) -> F + Send + 'static,
    ) -> http::Response<Body>
    where
        F: Future<Output = http::Response<Body>> + Send + 'static,
    {
        let transport = call.extensions().get::<Transport>().cloned().unwrap_or(Transport::Cleartext);
        let (token, method) = (bearer_token(call.headers()), method_of(call.uri().path()));
        match self.nodes.admit(&transport, token.as_ref().map(SecretBytes::expose)).await {
            Ok(caller) => {
                call.extensions_mut().insert(caller);
                call.extensions_mut().insert(Called(method));
                carry_out(call).await
            }
            Err(refusal) => self.refuse(&refusal, &peer(call.extensions()), method).await.into_http(),
        }
    }
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
/// `INTERNAL` when the service is not behind a [`NodeGate`].
pub fn caller<T>(request: &Request<T>) -> Result<FleetCaller, Status> {
    let caller = request.extensions().get::<FleetCaller>().copied();
    caller.ok_or_else(|| Status::internal("the caller was not asked who it is"))
}
