//! Nodes: tokens to join with, joining, renewal, removal. What nodes are refused is an entry as well, or counted in the next one.

use std::time::Duration;

use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{NodeId, OperatorId};
use keyforge_shared::name;
use keyforge_shared::token::{self, TokenDigest, TokenKind};
use serde_json::json;

use zeroize::Zeroizing;

use super::{Admin, AdminError, Call, Caller, roles};
use crate::nodes::authority::{AuthorityError, Issued, ProvenKey};
use crate::nodes::serves::Serves;
use crate::nodes::{Nodes, may_renew, seals};
use crate::store::StoreError;
use crate::store::nodes::{self, JoinToken, Node};
use crate::store::sql::Conn;

/// How entries name a call for another certificate, whatever becomes of it.
pub const RENEW_CERTIFICATE: &str = "nodes/RenewCertificate";
/// The call that makes a token to join with.
pub(super) const CREATE_JOIN_TOKEN: &str = "nodes/CreateJoinToken";
const DEFAULT_TTL: u64 = 3_600;
const MAX_TTL: u64 = 7 * 24 * 3_600;

/// What the holder of a join token that does not admit is told, whatever is wrong with it.
const NOT_ADMITTED: &str = "the join token does not admit: it was used, has expired, or was mistyped; `keyforge node token create` makes another";

const USED: &str = "the join token was used before";

/// A token that was just made. It is shown once and kept nowhere.
pub struct NewJoinToken {
    /// The token itself.
    pub token: Zeroizing<String>,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// A node as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// Under its seal.
    Sealed(Node),
    /// By its id and name: somebody else has changed its row, so that nothing that it says is so. It is refused.
    Tampered(NodeId, String),
}

impl Admin {
    /// Makes a token with which one node may join, once, within `ttl_seconds` (0 for an hour). The node is given the secrets of `providers`, or of all
    /// without any.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] with every problem.
    pub async fn create_join_token(
        &self,
        caller: &Caller,
        nodes: &Nodes,
        (name, providers): (&str, Vec<String>),
        ttl_seconds: u64,
    ) -> Result<NewJoinToken, AdminError> {
        // What is no name may be anything, a secret that was pasted into the wrong place included.
        let target = if name::check(name).is_ok() { name } else { "" };
        let call = Call::new(caller, CREATE_JOIN_TOKEN, target);
        self.attempt(&call, async {
            let mut problems = Vec::new();
            if let (false, Err(error)) = (name.is_empty(), name::check(name)) {
                problems.push(format!("name: {error}"));
            }
            if ttl_seconds > MAX_TTL {
                problems.push(format!("ttl_seconds: at most {MAX_TTL}, which is a week"));
            }
            let serves = self.inner.hub.with_state(|state| {
                Serves::only(providers, |name| {
                    state.credentials().any(|credential| credential.provider.0 == name)
                        || state.models().any(|model| model.provider.0 == name)
                })
            });
            let serves = serves.unwrap_or_else(|problem| {
                problems.push(problem);
                Serves::default()
            });
            AdminError::unless_valid(&problems)?;
            let ttl = if ttl_seconds == 0 { DEFAULT_TTL } else { ttl_seconds };
            let token = token::generate(TokenKind::Join).map_err(|_| AdminError::Random)?;
            let mut edit = self.edit().await?;
            let expires_at = edit.now.saturating_add(Duration::from_secs(ttl));
            let new = JoinToken {
                digest: token::digest(token.as_bytes()),
                name: name.to_owned(),
                serves,
                created_by: caller.operator(),
                created_at: edit.now,
                expires_at,
                used_at: None,
            };
            let seal = seals::of_token(nodes.seal(), &new);
            nodes::insert_token(edit.connection(), &new, &seal).await?;
            let detail = json!({ "expires_at": expires_at.rfc3339(), "providers": new.serves.names() }).to_string();
            self.commit(edit, &call, detail, Vec::new()).await?;
            Ok(NewJoinToken { token, expires_at })
        })
        .await
    }

    /// Makes the bearer of `token` a node: a new one, or `wanted`, which served without a certificate until now, or whose certificate has expired.
    ///
    /// # Errors
    /// [`AdminError::Unauthenticated`] in the same words whatever is wrong with the token; the entry says what it is.
    pub async fn join_node(
        &self,
        nodes: &Nodes,
        peer: &str,
        (token, wanted): (&[u8], Option<NodeId>),
        key: &ProvenKey,
    ) -> Result<Issued, AdminError> {
        let outcome = self.try_join(nodes, peer, (token, wanted), key).await;
        match outcome {
            Ok(issued) => Ok(issued),
            Err(NotJoined::Refused(why)) => {
                let target = wanted.map_or_else(String::new, |node| node.to_string());
                self.note_refused_node(peer, "nodes/Join", target, why).await;
                Err(AdminError::Unauthenticated(NOT_ADMITTED))
            }
            Err(NotJoined::Failed(error)) => {
                let call = Call { peer: peer.to_owned(), ..unknown_caller("nodes/Join", String::new()) };
                Err(self.note_failure(&call, error).await)
            }
        }
    }

    async fn try_join(
        &self,
        nodes: &Nodes,
        peer: &str,
        (token, wanted): (&[u8], Option<NodeId>),
        key: &ProvenKey,
    ) -> Result<Issued, NotJoined> {
        let digest = token::digest_of(TokenKind::Join, token).ok_or_else(|| refused("that is no join token"))?;
        // A stranger's guess does not get as far as a turn to change something.
        let now = self.inner.store.now();
        admitting_token(&mut *self.inner.store.read().await?, nodes, &digest, now).await?;
        let mut edit = self.edit().await?;
        let now = edit.now;
        let found = admitting_token(edit.connection(), nodes, &digest, now).await?;
        self.unless_withdrawn(&found, now)?;
        let node = wanted.map_or_else(NodeId::generate, Ok).map_err(|_| AdminError::Random)?;
        let before = replaceable_node(edit.connection(), nodes, node, now).await?;
        if before.as_ref().is_some_and(|before| before.serves != found.serves) {
            return Err(refused("the node that wants to join again serves other providers than the join token is for"));
        }
        let issued = nodes.authority().certify_node(key, node, nodes.certificate_life(), None)?;
        let used = JoinToken { used_at: Some(now), ..found };
        if !nodes::use_token(edit.connection(), &used, node, &seals::of_token(nodes.seal(), &used)).await? {
            return Err(refused(USED));
        }
        let again = before.is_some();
        let (name, serves) = (used.name, used.serves);
        let new = || Node {
            id: node,
            name,
            serves,
            joined_at: now,
            removed_at: None,
            certificate_serial: Vec::new(),
            certificate_expires_at: now,
            certificate_used: false,
        };
        let node_after = certified(before.unwrap_or_else(new), &issued);
        let seal = seals::of_node(nodes.seal(), &node_after);
        if again {
            nodes::update(edit.connection(), &node_after, &seal).await?;
        } else {
            nodes::insert(edit.connection(), &node_after, &seal).await?;
        }
        let name = node_after.name;
        // The entry names the operator whose token it was.
        let (operator, peer) = (used.created_by, peer.to_owned());
        let call = Call { operator, peer, method: "nodes/Join", target: node.to_string(), workspace: None };
        let detail = json!({ "name": name, "certificate": hex::encode(&issued.serial), "again": again }).to_string();
        self.commit(edit, &call, detail, Vec::new()).await?;
        Ok(issued)
    }

    /// Refuses a token whose maker was revoked, lost the role for it, or has a token that has expired: they leave nothing behind that admits.
    fn unless_withdrawn(&self, token: &JoinToken, now: Timestamp) -> Result<(), NotJoined> {
        let roster = self.roster();
        let maker = roster.named(&token.created_by.to_string());
        let may = maker.is_some_and(|maker| {
            maker.revoked_at.is_none() && !maker.is_expired(now) && roles::permit(maker, CREATE_JOIN_TOKEN).is_ok()
        });
        if may { Ok(()) } else { Err(refused("the operator who made the join token may not make one any more")) }
    }

    /// Gives a node that was admitted another certificate, for another key, in place of the one that it presented.
    ///
    /// # Errors
    /// [`AdminError`] when it cannot be made or kept.
    pub async fn renew_node(
        &self,
        nodes: &Nodes,
        peer: &str,
        (node, presented): (NodeId, &[u8]),
        key: &ProvenKey,
    ) -> Result<Issued, AdminError> {
        let issued = nodes.authority().certify_node(key, node, nodes.certificate_life(), Some(presented))?;
        let mut tx = self.inner.store.write().await?;
        // It may have been removed since it was admitted.
        let found = nodes::hold(&mut tx, node).await?.ok_or_else(|| AdminError::not_found("node", node))?;
        let found = seals::open_node(nodes.seal(), found)?;
        if found.removed_at.is_some() {
            return Err(AdminError::Precondition("this node was removed".to_owned()));
        }
        if !may_renew(&found, presented) {
            return Err(AdminError::Precondition(
                "this certificate was renewed at the same moment: ask again".to_owned(),
            ));
        }
        let renewed = certified(found.clone(), &issued);
        nodes::update(&mut tx, &renewed, &seals::of_node(nodes.seal(), &renewed)).await?;
        let call = Call { peer: peer.to_owned(), ..unknown_caller(RENEW_CERTIFICATE, node.to_string()) };
        let detail = json!({
            "name": found.name,
            "certificate": hex::encode(&issued.serial),
            "instead_of": hex::encode(&found.certificate_serial),
        });
        self.inner.audit.append_admin(&mut tx, call.act(AdminOutcome::Done, detail.to_string())).await?;
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(%node, serial = hex::encode(&issued.serial), "a node's certificate was renewed");
        Ok(issued)
    }

    /// Every node that ever joined, in that order.
    ///
    /// # Errors
    /// [`AdminError::Store`].
    pub async fn list_nodes(&self, caller: &Caller, nodes: &Nodes) -> Result<Vec<Listed>, AdminError> {
        let call = Call::new(caller, "nodes/List", "");
        let stored = async { Ok(nodes::all(&mut *self.inner.store.read().await?).await?) };
        let listed = |(node, seal): (Node, Vec<u8>)| {
            let (id, name) = (node.id, node.name.clone());
            seals::open_node(nodes.seal(), (node, seal)).map_or(Listed::Tampered(id, name), Listed::Sealed)
        };
        Ok(self.look(&call, stored).await?.into_iter().map(listed).collect())
    }

    /// Ends a node: from the moment of the commit it is refused, and its streams are cut. Removing it again changes nothing.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn remove_node(&self, caller: &Caller, nodes: &Nodes, node: NodeId) -> Result<Node, AdminError> {
        let call = Call::new(caller, "nodes/Remove", node);
        let removed = self.attempt(&call, async {
            let mut edit = self.edit().await?;
            let found = nodes::hold(edit.connection(), node).await?;
            let found = found.ok_or_else(|| AdminError::not_found("node", node))?;
            let before = seals::open_node(nodes.seal(), found)?;
            let after = Node { removed_at: Some(before.removed_at.unwrap_or(edit.now)), ..before };
            nodes::update(edit.connection(), &after, &seals::of_node(nodes.seal(), &after)).await?;
            let detail =
                json!({ "name": after.name, "certificate": hex::encode(&after.certificate_serial) }).to_string();
            self.commit(edit, &call, detail, Vec::new()).await?;
            Ok(after)
        });
        let removed = removed.await?;
        nodes.tell_removed(node);
        Ok(removed)
    }

    /// Records that somebody was refused who wanted to be taken for a node, as an entry or counted in the next one.
    pub async fn note_refused_node(&self, peer: &str, method: &'static str, target: String, why: &str) {
        let call = Call { peer: peer.to_owned(), ..unknown_caller(method, target) };
        self.note_stranger_call(call, why).await;
    }

    /// Counts in the next entry of a refusal somebody who was refused and cannot have one.
    pub fn pass_over_refused_node(&self) {
        self.inner.strangers.pass_over(1);
    }
}

fn refused(why: &'static str) -> NotJoined {
    NotJoined::Refused(why)
}

/// The token with this digest, if somebody may join with it now.
async fn admitting_token(
    connection: &mut Conn,
    nodes: &Nodes,
    digest: &TokenDigest,
    now: Timestamp,
) -> Result<JoinToken, NotJoined> {
    let found = nodes::token(connection, digest).await?;
    let found = found.ok_or_else(|| refused("the join token is not known here"))?;
    let found = seals::open_token(nodes.seal(), found)?;
    if found.used_at.is_some() {
        return Err(refused(USED));
    }
    if found.expires_at <= now {
        return Err(refused("the join token has expired"));
    }
    Ok(found)
}

/// The node of this id, if there is one; its place can be taken only once its certificate has expired.
async fn replaceable_node(
    connection: &mut Conn,
    nodes: &Nodes,
    node: NodeId,
    now: Timestamp,
) -> Result<Option<Node>, NotJoined> {
    let Some(found) = nodes::hold(connection, node).await? else { return Ok(None) };
    let found = seals::open_node(nodes.seal(), found)?;
    if found.removed_at.is_some() {
        return Err(refused("the node that wants to join was removed"));
    }
    if found.certificate_expires_at > now {
        return Err(refused("the node that wants to join has joined, and its certificate is still good"));
    }
    Ok(Some(found))
}

/// The node with its new certificate, which nobody has presented yet.
fn certified(node: Node, issued: &Issued) -> Node {
    let (certificate_serial, certificate_expires_at) = (issued.serial.clone(), issued.expires_at);
    Node { certificate_serial, certificate_expires_at, certificate_used: false, ..node }
}

const fn unknown_caller(method: &'static str, target: String) -> Call {
    Call { operator: OperatorId::from_bytes([0; 16]), peer: String::new(), method, target, workspace: None }
}

/// Why somebody did not become a node.
enum NotJoined {
    /// The token or the id does not admit.
    Refused(&'static str),
    /// Something else failed.
    Failed(AdminError),
}

impl<E: Into<AdminError>> From<E> for NotJoined {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<AuthorityError> for AdminError {
    fn from(error: AuthorityError) -> Self {
        match error {
            AuthorityError::Store(error) => Self::Store(error),
            AuthorityError::Vault(error) => Self::Vault(error),
            AuthorityError::Request => Self::Invalid(error.to_string()),
            AuthorityError::Random => Self::Random,
            AuthorityError::Exchanged | AuthorityError::Certificate(_) => Self::Certificate(error.to_string()),
        }
    }
}
