//! What operators are told of credentials: how each stands, until when, what is left, what it met last. Told when something changes, and every few seconds.

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::CooldownClass;
use keyforge_proto::admin::v1::CredentialState;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::{BootId, CredentialId, NodeId};
use keyforge_shared::state::CredentialRecord;

use super::Pools;
use super::gate::{Condition, Gate};
use super::moment::Moment;
use super::registry::{GateAt, LastRefusal};
use crate::control::ControlChannel;

/// How often it is told when nothing changes.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How soon a change is told: several that come together are told together.
const TELL_SOON: Duration = Duration::from_millis(200);
/// How long telling may take.
const TELL_WITHIN: Duration = Duration::from_secs(5);

impl Pools {
    /// Tells the control plane until the process ends.
    pub fn report(&self, channel: ControlChannel, (node, boot): (NodeId, BootId), shutdown: &Shutdown) {
        let pools = self.clone();
        drop(shutdown.spawn_background("credential_reports", async move {
            let mut client = StateServiceClient::new(channel);
            let mut told = Vec::new();
            loop {
                let mut waited = Duration::ZERO;
                let mut standings = pools.standings();
                while states(&standings) == states(&told) && waited < TELL_EVERY {
                    tokio::time::sleep(TELL_SOON).await;
                    waited += TELL_SOON;
                    standings = pools.standings();
                }
                let request = proto::ReportCredentialsRequest {
                    node_id: node.as_bytes().to_vec(),
                    boot_id: boot.as_bytes().to_vec(),
                    credentials: standings.clone(),
                };
                // Whoever missed one gets the next.
                match tokio::time::timeout(TELL_WITHIN, client.report_credentials(request)).await {
                    Ok(Ok(_)) => told = standings,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "the control plane was not told how credentials stand");
                        tokio::time::sleep(TELL_SOON).await;
                    }
                    Err(_) => {}
                }
            }
        }));
    }

    /// How every enabled credential stands that this node has a use for, by id. It does not matter which pools exist at the moment.
    pub(super) fn standings(&self) -> Vec<proto::CredentialReport> {
        self.seen().into_iter().map(|(id, seen)| report(id, seen)).collect()
    }

    fn seen(&self) -> Vec<(CredentialId, Seen)> {
        let credentials = self.0.replica.credentials(|credential| credential.enabled);
        let now = self.now();
        let registry = self.registry();
        let seen = |credential: Arc<CredentialRecord>| {
            let uses = registry.uses(&credential)?;
            let state_of = |gate: &GateAt| state(registry.gate_seen(*gate), now);
            // Without the right to one family it serves others, and its last refusal names that family: only what it lacks for all is its state.
            let rights = uses.rights.iter().map(state_of).reduce(better);
            let state = uses.gates.iter().map(state_of).chain(rights);
            let state = state.fold((CredentialState::Healthy, Duration::ZERO), worse);
            let left = uses.limits.iter().map(|limit| registry.limit_seen(*limit).ratio(now)).fold(1.0, f64::min);
            Some((credential.id, Seen { state, left, refusal: registry.refusals.get(&credential.id).cloned() }))
        };
        let mut all: Vec<_> = credentials.into_iter().filter_map(seen).collect();
        drop(registry);
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// Shows how many credentials are dead.
    pub(super) fn show_dead(&self) {
        let credentials = self.0.replica.credentials(|credential| credential.enabled);
        let registry = self.registry();
        let is_dead = |credential: &&Arc<CredentialRecord>| {
            let own = registry.uses(credential).and_then(|uses| registry.gate_seen(uses.own).shut_for());
            own.is_some_and(|(class, _)| class == CooldownClass::Dead)
        };
        let dead = credentials.iter().filter(is_dead).count();
        drop(registry);
        self.0.metrics.dead_credentials(dead as u64);
    }
}

/// How a credential was found to stand.
struct Seen {
    state: (CredentialState, Duration),
    left: f64,
    refusal: Option<LastRefusal>,
}

fn report(id: CredentialId, seen: Seen) -> proto::CredentialReport {
    let Seen { state: (state, ready_in), left, refusal } = seen;
    let left = if is_shut(state) { 0.0 } else { left };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let headroom_percent = (left.clamp(0.0, 1.0) * 100.0).round() as u32;
    let refusal = refusal.as_ref();
    proto::CredentialReport {
        credential_id: id.as_bytes().to_vec(),
        state: state.into(),
        ready_in_ms: u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX),
        headroom_percent,
        last_error_class: refusal.map_or_else(String::new, |refusal| refusal.class.as_str().to_owned()),
        last_error_code: refusal.map_or_else(String::new, |refusal| (*refusal.code).to_owned()),
        last_error_ms: refusal.map_or(0, |refusal| refusal.at.millis()),
    }
}

/// What is told at once when it changes.
fn states(reports: &[proto::CredentialReport]) -> Vec<(&[u8], i32, i64)> {
    let told = |report: &'_ proto::CredentialReport| (report.state, report.last_error_ms);
    reports.iter().map(|report| (report.credential_id.as_slice(), told(report).0, told(report).1)).collect()
}

fn worse(one: (CredentialState, Duration), other: (CredentialState, Duration)) -> (CredentialState, Duration) {
    if (other.0 as i32, other.1) > (one.0 as i32, one.1) { other } else { one }
}

fn better(one: (CredentialState, Duration), other: (CredentialState, Duration)) -> (CredentialState, Duration) {
    if (other.0 as i32, other.1) < (one.0 as i32, one.1) { other } else { one }
}

/// Of what cannot be used nothing is left, whatever its provider last said or did not say.
const fn is_shut(state: CredentialState) -> bool {
    matches!(state, CredentialState::Cooling | CredentialState::Closed | CredentialState::Dead)
}

fn state(gate: &Gate, now: Moment) -> (CredentialState, Duration) {
    match gate.condition(now) {
        Condition::Healthy => (CredentialState::Healthy, Duration::ZERO),
        Condition::SlowStart => (CredentialState::SlowStart, Duration::ZERO),
        Condition::Probing => (CredentialState::Probing, Duration::ZERO),
        Condition::Shut(CooldownClass::Closed, until) => (CredentialState::Closed, until.since(now)),
        Condition::Shut(CooldownClass::Dead, until) => (CredentialState::Dead, until.since(now)),
        Condition::Shut(CooldownClass::Throttled | CooldownClass::Overloaded, until) => {
            (CredentialState::Cooling, until.since(now))
        }
    }
}
