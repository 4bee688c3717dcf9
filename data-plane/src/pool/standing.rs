//! What operators are told of credentials: how each stands, until when, what is left, what it met last. Told when something changes, and every few seconds.

use std::sync::Arc;
use std::time::Duration;

use keyforge_counters::CooldownClass;
use keyforge_proto::admin::v1::CredentialState;
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::state_service_client::StateServiceClient;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::{BootId, CredentialId, NodeId};

use super::Pools;
use super::gate::{Gate, Phrase};
use super::members::Member;
use super::moment::Moment;
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

    /// How every credential stands that this node has used or knows to be refused.
    pub(super) fn standings(&self) -> Vec<proto::CredentialReport> {
        let pools: Vec<_> = self.0.pools.read().values().map(Arc::clone).collect();
        let now = self.now();
        let mut registry = self.registry();
        let mut all: Vec<(CredentialId, proto::CredentialReport)> = Vec::new();
        for member in pools.iter().flat_map(|pool| &pool.members) {
            let id = member.candidate.credential.id;
            let mut worst = (CredentialState::Healthy, Duration::ZERO);
            for gate in member.gates {
                worst = worse(worst, state(registry.gate(gate), now));
            }
            let left = registry.limit(member.limit).ratio(now);
            let refusal = registry.refusals.get(&id);
            let report = report(id, worst, left, refusal);
            match all.iter_mut().find(|(other, _)| *other == id) {
                Some((_, known)) => merge(known, report),
                None => all.push((id, report)),
            }
        }
        all.sort_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, report)| report).collect()
    }

    /// Shows how many credentials are dead.
    pub(super) fn show_dead(&self) {
        let pools: Vec<_> = self.0.pools.read().values().map(Arc::clone).collect();
        let mut registry = self.registry();
        let mut dead: Vec<_> = Vec::new();
        for member in pools.iter().flat_map(|pool| &pool.members) {
            let gate = registry.gate(member.gates[Member::CREDENTIAL]);
            if gate.shut_for().is_some_and(|(class, _)| class == CooldownClass::Dead) {
                dead.push(member.candidate.credential.id);
            }
        }
        drop(registry);
        dead.sort_unstable();
        dead.dedup();
        self.0.metrics.dead_credentials(dead.len() as u64);
    }
}

fn report(
    id: CredentialId,
    (state, ready_in): (CredentialState, Duration),
    left: f64,
    refusal: Option<&super::registry::LastRefusal>,
) -> proto::CredentialReport {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100")]
    let headroom_percent = (left.clamp(0.0, 1.0) * 100.0).round() as u32;
    proto::CredentialReport {
        credential_id: id.as_bytes().to_vec(),
        state: state.into(),
        ready_in_ms: u64::try_from(ready_in.as_millis()).unwrap_or(u64::MAX),
        headroom_percent,
        last_error_class: refusal.map_or_else(String::new, |refusal| refusal.class.as_str().to_owned()),
        last_error_code: refusal.map_or_else(String::new, |refusal| refusal.code.clone()),
        last_error_ms: refusal.map_or(0, |refusal| refusal.at.millis()),
    }
}

/// What is told at once when it changes.
fn states(reports: &[proto::CredentialReport]) -> Vec<(&[u8], i32, i64)> {
    let told = |report: &'_ proto::CredentialReport| (report.state, report.last_error_ms);
    reports.iter().map(|report| (report.credential_id.as_slice(), told(report).0, told(report).1)).collect()
}

fn merge(known: &mut proto::CredentialReport, other: proto::CredentialReport) {
    known.headroom_percent = known.headroom_percent.min(other.headroom_percent);
    if other.state > known.state {
        (known.state, known.ready_in_ms) = (other.state, other.ready_in_ms);
    }
}

fn worse(one: (CredentialState, Duration), other: (CredentialState, Duration)) -> (CredentialState, Duration) {
    if (other.0 as i32, other.1) > (one.0 as i32, one.1) { other } else { one }
}

fn state(gate: &Gate, now: Moment) -> (CredentialState, Duration) {
    match gate.phrase(now) {
        Phrase::Healthy => (CredentialState::Healthy, Duration::ZERO),
        Phrase::SlowStart => (CredentialState::SlowStart, Duration::ZERO),
        Phrase::Probing => (CredentialState::Probing, Duration::ZERO),
        Phrase::Shut(CooldownClass::Closed, until) => (CredentialState::Closed, until.since(now)),
        Phrase::Shut(CooldownClass::Dead, until) => (CredentialState::Dead, until.since(now)),
        Phrase::Shut(CooldownClass::Throttled | CooldownClass::Overloaded, until) => {
            (CredentialState::Cooling, until.since(now))
        }
    }
}
