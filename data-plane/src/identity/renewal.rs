//! Renewal: another certificate for another key, over the connection that the present one made, long before that one expires.
//!
//! It is asked for at two thirds of a certificate's life, earlier by up to a tenth, each node at its own moment. What fails is tried again until
//! it works or the certificate has expired; an expired one cannot be renewed, and the node has to join again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::node_service_client::NodeServiceClient;
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::private_file::PrivateFileError;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_runtime::tls::TlsError;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::NodeId;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Identity, IdentityError, NewKey};
use crate::control::{ControlChannel, said};
use crate::metrics::Metrics;

/// How long one attempt may take.
const CALL: Duration = Duration::from_secs(15);
/// How often the clock is looked at, at most: a machine that slept must notice soon.
const LOOK: Duration = Duration::from_secs(30);
/// Pauses between attempts that failed, at most.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error("{0}")]
    Refused(String),
    #[error("no answer in time")]
    Silence,
    #[error("the answer is no certificate of this node")]
    Answer,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    File(#[from] PrivateFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Keeps a node's certificate good.
pub struct Renewal {
    /// What the node has.
    pub identity: Identity,
    /// Where it is kept.
    pub directory: PathBuf,
    /// The way to the control plane, which takes the new certificate.
    pub channel: ControlChannel,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where it is shown.
    pub metrics: Metrics,
}

impl Renewal {
    /// Renews until the process ends.
    pub fn start(mut self, shutdown: &Shutdown) {
        self.metrics.certificate_expiry(self.identity.not_after());
        drop(shutdown.spawn_background("certificate_renewal", async move {
            loop {
                self.wait().await;
                self.renew_until_done().await;
            }
        }));
    }

    async fn wait(&self) {
        let due = due(&self.identity);
        loop {
            let left = due.since(self.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    async fn renew_until_done(&mut self) {
        let life = self.identity.not_after().since(self.identity.not_before());
        let mut pauses = Backoff::new(Duration::from_millis(200), MAX_PAUSE.min(life / 20));
        let mut told_expired = false;
        loop {
            match self.renew().await {
                Ok(()) => {
                    self.metrics.renewed(true);
                    self.metrics.certificate_expiry(self.identity.not_after());
                    let until = self.identity.not_after().rfc3339();
                    tracing::info!(node = %self.identity.node(), until, "the node's certificate was renewed");
                    return;
                }
                Err(error) => {
                    self.metrics.renewed(false);
                    let expired = self.identity.not_after() <= self.clock.now();
                    if !expired {
                        tracing::warn!(%error, "the node's certificate was not renewed; it is tried again");
                    } else if !std::mem::replace(&mut told_expired, true) {
                        tracing::error!(%error, "the node's certificate has expired: run `keyforge node join` again");
                    }
                    tokio::time::sleep(pauses.next_delay().max(Duration::from_millis(50))).await;
                }
            }
        }
    }

    async fn renew(&mut self) -> Result<(), NotRenewed> {
        let NewKey { key, request } = NewKey::generate()?;
        let request = proto::RenewCertificateRequest { signing_request: request };
        let mut client = NodeServiceClient::new(self.channel.clone());
        let answer = tokio::time::timeout(CALL, client.renew_certificate(request)).await;
        let answer = answer.map_err(|_| NotRenewed::Silence)?;
        let answer = answer.map_err(|status| NotRenewed::Refused(said(&status)))?.into_inner();
        let authority = self.identity.authority.clone();
        let new = Identity::new(key, CertificateDer::from(answer.certificate), authority);
        let new = new.filter(|new| new.node() == self.identity.node()).ok_or(NotRenewed::Answer)?;
        let tls = new.client()?;
        // On disk first: what the next start finds is good for longer than what this one began with.
        new.save(&self.directory)?;
        self.channel.connect_with(tls);
        self.identity = new;
        Ok(())
    }
}

/// When a certificate is due to be renewed.
fn due(identity: &Identity) -> Timestamp {
    let life = identity.not_after().since(identity.not_before());
    identity.not_before().saturating_add(life * 2 / 3 - share_of(life / 10, identity.node()))
}

/// A part of `most` that is the node's own: ids are random, so that nodes which joined together do not renew together.
fn share_of(most: Duration, node: NodeId) -> Duration {
    let own = u32::from(node.as_bytes()[0]);
    most * own / 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::issued;

    #[test]
    fn renewal_is_due_at_two_thirds_of_the_life_and_up_to_a_tenth_earlier() {
        let life = |node: u8| {
            let identity = issued(NodeId::from_bytes([node; 16]), 2020, 2030);
            let whole = identity.not_after().since(identity.not_before()).as_secs_f64();
            due(&identity).since(identity.not_before()).as_secs_f64() / whole
        };
        assert!((life(0) - 2.0 / 3.0).abs() < 0.001, "{}", life(0));
        assert!((0.566..0.568).contains(&life(255)), "{}", life(255));
    }
}
