//! The services about nodes: `keyforge.admin.v1.NodeService` for operators, `keyforge.fleet.v1.EnrollmentService` for machines that are to join,
//! and `keyforge.fleet.v1.NodeService` for those that have.

use std::collections::BTreeMap;

use keyforge_proto::admin::v1 as admin_proto;
use keyforge_proto::admin::v1::node_service_server::NodeService as AdminNodeService;
use keyforge_proto::convert::{ConvertError, id, parsed};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::enrollment_service_server::EnrollmentService;
use keyforge_proto::fleet::v1::node_service_server::NodeService;
use keyforge_runtime::accept::Transport;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::NodeId;
use keyforge_shared::secret::SecretBytes;
use tonic::{Request, Response, Status};

use super::head::peer;
use super::node_gate::{NodeGate, caller};
use super::operator_gate::operator;
use super::recorded::{decoded, recorded};
use crate::admin::nodes::{Listed, RENEW_CERTIFICATE};
use crate::admin::{Admin, AdminError};
use crate::nodes::authority::{Authority, ProvenKey};
use crate::nodes::{FleetCaller, Nodes};
use crate::publish::fleet::Fleet;
use crate::publish::hub::Hub;
use crate::publish::lives::NodeSeen;
use crate::registry::connected::Elsewhere;
use crate::registry::{Registry, before};
use crate::store::nodes::Node;

/// Longest signing request, in bytes: one for a P-256 key has some hundreds.
const MAX_REQUEST: usize = 8 * 1024;

/// Serves operators.
pub struct NodeApi {
    admin: Admin,
    nodes: Nodes,
    fleet: Fleet,
    /// Where others share the database.
    registry: Option<Registry>,
    hub: Hub,
}

impl NodeApi {
    /// Serves what `admin` does with `nodes`, beside what the fleet has heard of them, and other control planes of the registry.
    #[must_use]
    pub fn new(admin: Admin, nodes: Nodes, (fleet, registry): (Fleet, Option<Registry>), hub: Hub) -> Self {
        Self { admin, nodes, fleet, registry, hub }
    }
}

#[tonic::async_trait]
impl AdminNodeService for NodeApi {
    async fn create_join_token(
        &self,
        request: Request<admin_proto::CreateJoinTokenRequest>,
    ) -> Result<Response<admin_proto::CreateJoinTokenResponse>, Status> {
        let caller = operator(&request)?;
        let admin_proto::CreateJoinTokenRequest { name, ttl_seconds, providers } = request.into_inner();
        let made = self.admin.create_join_token(&caller, &self.nodes, (&name, providers), ttl_seconds).await?;
        Ok(Response::new(admin_proto::CreateJoinTokenResponse {
            token: made.token.to_string(),
            expires_at_ms: made.expires_at.millis(),
            authority: Some(authority(self.nodes.authority())),
        }))
    }

    async fn list_nodes(
        &self,
        request: Request<admin_proto::ListNodesRequest>,
    ) -> Result<Response<admin_proto::ListNodesResponse>, Status> {
        let caller = operator(&request)?;
        let joined = self.admin.list_nodes(&caller, &self.nodes).await?;
        let mut heard: BTreeMap<NodeId, Heard> =
            self.fleet.nodes().into_iter().map(|(node, seen)| (node, Heard::Here(seen))).collect();
        if let Some(registry) = &self.registry {
            for (node, elsewhere) in registry.elsewhere().await.map_err(AdminError::from)? {
                let is_here = matches!(heard.get(&node), Some(Heard::Here(seen)) if seen.streams > 0);
                if !is_here {
                    heard.insert(node, Heard::Elsewhere(elsewhere));
                }
            }
        }
        let now = self.nodes.now();
        let mut nodes: Vec<_> = joined.into_iter().map(|node| listed(node, &mut heard, now)).collect();
        nodes.extend(heard.into_iter().map(|(id, heard)| with_heard(id, Some(heard), now)));
        Ok(Response::new(admin_proto::ListNodesResponse { nodes, revision: self.hub.revision() }))
    }

    async fn remove_node(
        &self,
        request: Request<admin_proto::RemoveNodeRequest>,
    ) -> Result<Response<admin_proto::Node>, Status> {
        let caller = operator(&request)?;
        let text = request.into_inner().id;
        let node = parsed(&text, "id").map_err(AdminError::from);
        let node = decoded(&self.admin, &caller, "nodes/Remove", "", node).await?;
        let removed = self.admin.remove_node(&caller, &self.nodes, node).await?;
        let seen = self.fleet.nodes().into_iter().find(|(id, _)| *id == node).map(|(_, seen)| Heard::Here(seen));
        Ok(Response::new(shown(&removed, seen, self.nodes.now())))
    }

    async fn get_authority(
        &self,
        request: Request<admin_proto::GetAuthorityRequest>,
    ) -> Result<Response<admin_proto::Authority>, Status> {
        let caller = operator(&request)?;
        let answer = Ok(authority(self.nodes.authority()));
        Ok(Response::new(recorded(&self.admin, &caller, "nodes/GetAuthority", "", answer).await?))
    }
}

fn authority(authority: &Authority) -> admin_proto::Authority {
    admin_proto::Authority { fingerprint: authority.fingerprint().to_string(), certificate: authority.pem() }
}

/// What is known of a node's connection.
enum Heard {
    Here(NodeSeen),
    Elsewhere(Elsewhere),
}

fn listed(node: Listed, heard: &mut BTreeMap<NodeId, Heard>, now: Timestamp) -> admin_proto::Node {
    match node {
        Listed::Sealed(node) => shown(&node, heard.remove(&node.id), now),
        Listed::Tampered(id, name) => {
            admin_proto::Node { name, tampered: true, ..with_heard(id, heard.remove(&id), now) }
        }
    }
}

fn shown(node: &Node, heard: Option<Heard>, now: Timestamp) -> admin_proto::Node {
    admin_proto::Node {
        name: node.name.clone(),
        joined_at_ms: node.joined_at.millis(),
        certificate_expires_at_ms: node.certificate_expires_at.millis(),
        removed_at_ms: node.removed_at.map_or(0, Timestamp::millis),
        providers: node.serves.names().to_vec(),
        ..with_heard(node.id, heard, now)
    }
}

fn with_heard(id: NodeId, heard: Option<Heard>, now: Timestamp) -> admin_proto::Node {
    let id = id.to_string();
    match heard {
        Some(Heard::Here(seen)) => admin_proto::Node {
            id,
            connected: seen.streams > 0,
            acked_revision: seen.acked_revision,
            last_seen_ms: seen.last_seen.millis(),
            version: seen.version,
            region: seen.region,
            ..Default::default()
        },
        Some(Heard::Elsewhere(Elsewhere { control_plane, life })) => admin_proto::Node {
            id,
            connected: true,
            acked_revision: life.acked_revision,
            last_seen_ms: before(now, life.heard).millis(),
            version: life.version,
            region: life.region,
            control_plane,
            ..Default::default()
        },
        None => admin_proto::Node { id, ..Default::default() },
    }
}

/// Serves machines that are to become nodes.
pub struct EnrollmentApi {
    admin: Admin,
    nodes: Nodes,
}

impl EnrollmentApi {
    /// Lets them join `nodes`.
    #[must_use]
    pub const fn new(admin: Admin, nodes: Nodes) -> Self {
        Self { admin, nodes }
    }
}

#[tonic::async_trait]
impl EnrollmentService for EnrollmentApi {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinResponse>, Status> {
        let protected = matches!(request.extensions().get::<Transport>(), Some(Transport::Tls { .. }));
        if !protected {
            return Err(Status::failed_precondition(
                "join over TLS: the control plane's [tls] listen address, with https://",
            ));
        }
        let peer = peer(request.extensions());
        let proto::JoinRequest { token, signing_request, node_id } = request.into_inner();
        let token = SecretBytes::new(token.into_bytes());
        let wanted =
            if node_id.is_empty() { None } else { Some(id(&node_id, "node_id", NodeId::from_slice).map_err(invalid)?) };
        let key = proven(&signing_request)?;
        let issued = self.admin.join_node(&self.nodes, &peer, (token.expose(), wanted), &key).await?;
        Ok(Response::new(proto::JoinResponse {
            certificate: issued.certificate.to_vec(),
            authority: self.nodes.authority().certificate().to_vec(),
        }))
    }
}

/// Serves nodes.
pub struct CertificateApi {
    admin: Admin,
    gate: NodeGate,
}

impl CertificateApi {
    /// Renews the certificates of the nodes whom `gate` lets pass.
    #[must_use]
    pub const fn new(admin: Admin, gate: NodeGate) -> Self {
        Self { admin, gate }
    }
}

#[tonic::async_trait]
impl NodeService for CertificateApi {
    async fn renew_certificate(
        &self,
        request: Request<proto::RenewCertificateRequest>,
    ) -> Result<Response<proto::RenewCertificateResponse>, Status> {
        let FleetCaller::Node { node, .. } = caller(&request)? else {
            return Err(Status::failed_precondition("only a node that has joined has a certificate to renew"));
        };
        let peer = peer(request.extensions());
        let transport = request.extensions().get::<Transport>().cloned().unwrap_or(Transport::Cleartext);
        let key = proven(&request.into_inner().signing_request)?;
        let presented = match self.gate.nodes().unless_replaced(&transport, node).await {
            Ok(presented) => presented,
            Err(refusal) => return Err(self.gate.refuse(&refusal, &peer, RENEW_CERTIFICATE).await),
        };
        let issued = self.admin.renew_node(self.gate.nodes(), &peer, (node, &presented), &key).await?;
        Ok(Response::new(proto::RenewCertificateResponse { certificate: issued.certificate.to_vec() }))
    }
}

fn proven(request: &[u8]) -> Result<ProvenKey, Status> {
    if request.len() > MAX_REQUEST {
        return Err(Status::invalid_argument(format!("signing_request: at most {MAX_REQUEST} bytes")));
    }
    ProvenKey::of_request(request).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn invalid(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}
