//! How the nodes find the credentials: what each reported last, and of that the worst. In memory: nodes report anew every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use keyforge_proto::fleet::v1 as proto;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::{CredentialId, NodeId};

/// A node that was silent for longer says nothing any more.
const STALE: Duration = Duration::from_secs(30);
/// Nodes remembered at most, as in the list of nodes.
const MOST_NODES: usize = 10_000;
/// Credentials of one report; more are left out.
const MOST_CREDENTIALS: usize = 10_000;
/// Longest word of a report, in bytes.
const LONGEST_WORD: usize = 64;

struct Reported {
    at: Timestamp,
    credentials: HashMap<CredentialId, proto::CredentialReport>,
}

/// What the nodes reported. Clones share it.
#[derive(Clone)]
pub struct CredentialReports {
    nodes: Arc<Mutex<HashMap<NodeId, Reported>>>,
    clock: Arc<dyn Clock>,
}

impl CredentialReports {
    /// Nothing yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { nodes: Arc::default(), clock }
    }

    /// Takes in what a node says of all credentials that it knows something about, in place of what it said before.
    pub fn report(&self, node: NodeId, credentials: Vec<proto::CredentialReport>) {
        let at = self.clock.now();
        let named = credentials.into_iter().take(MOST_CREDENTIALS).filter_map(|report| {
            let id = CredentialId::from_slice(&report.credential_id)?;
            Some((id, brief(report)))
        });
        let reported = Reported { at, credentials: named.collect() };
        let mut nodes = self.lock();
        nodes.retain(|_, reported| at.since(reported.at) <= STALE);
        if nodes.len() < MOST_NODES || nodes.contains_key(&node) {
            nodes.insert(node, reported);
        }
    }

    /// How a credential stands: the worst that a node found, and the latest refusal. `None` when no node has said anything.
    #[must_use]
    pub fn standing(&self, credential: CredentialId) -> Option<admin::CredentialStanding> {
        let now = self.clock.now();
        let nodes = self.lock();
        let fresh = nodes.values().filter(|reported| now.since(reported.at) <= STALE);
        let said = fresh.filter_map(|reported| Some((reported.at, reported.credentials.get(&credential)?)));
        said.fold(None, |standing: Option<admin::CredentialStanding>, (at, report)| {
            Some(merged(standing.unwrap_or_else(|| unreported(report)), at, report))
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Reported>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreported(report: &proto::CredentialReport) -> admin::CredentialStanding {
    let headroom_percent = report.headroom_percent;
    admin::CredentialStanding { headroom_percent, ..admin::CredentialStanding::default() }
}

fn merged(
    mut standing: admin::CredentialStanding,
    at: Timestamp,
    report: &proto::CredentialReport,
) -> admin::CredentialStanding {
    if report.state >= standing.state {
        let wait = Duration::from_millis(report.ready_in_ms);
        let ready_at = if wait.is_zero() { 0 } else { at.saturating_add(wait).millis() };
        // Of those that are as bad, the last to be ready; one that is better says nothing about it.
        let is_worse = report.state > standing.state;
        standing.ready_at_ms = if is_worse { ready_at } else { standing.ready_at_ms.max(ready_at) };
        standing.state = report.state;
    }
    standing.headroom_percent = standing.headroom_percent.min(report.headroom_percent);
    if report.last_error_ms > standing.last_error_ms {
        standing.last_error_ms = report.last_error_ms;
        standing.last_error_class.clone_from(&report.last_error_class);
        standing.last_error_code.clone_from(&report.last_error_code);
    }
    standing.nodes += 1;
    standing.reported_at_ms = standing.reported_at_ms.max(at.millis());
    standing
}

/// The same with words of bounded length, without control characters.
fn brief(report: proto::CredentialReport) -> proto::CredentialReport {
    let brief = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST_WORD).collect::<String>();
    let (class, code) = (brief(&report.last_error_class), brief(&report.last_error_code));
    proto::CredentialReport {
        last_error_class: class,
        last_error_code: code,
        headroom_percent: report.headroom_percent.min(100),
        ..report
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::ManualClock;

    use super::*;

    const DEAD: i32 = admin::CredentialState::Dead as i32;
    const COOLING: i32 = admin::CredentialState::Cooling as i32;
    const HEALTHY: i32 = admin::CredentialState::Healthy as i32;

    fn report(state: i32, error_ms: i64) -> proto::CredentialReport {
        proto::CredentialReport {
            credential_id: vec![7; 16],
            state,
            ready_in_ms: 1_000,
            headroom_percent: 40,
            last_error_class: "dead".to_owned(),
            last_error_code: format!("code\u{7}{error_ms}"),
            last_error_ms: error_ms,
        }
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn the_worst_that_a_node_found_and_the_latest_refusal_are_told() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let reports = CredentialReports::new(clock.clone());
        let credential = CredentialId::from_bytes([7; 16]);
        assert_eq!(reports.standing(credential), None);
        reports.report(node(1), vec![report(DEAD, 5)]);
        reports.report(node(2), vec![proto::CredentialReport { headroom_percent: 400, ..report(HEALTHY, 9) }]);
        let standing = reports.standing(credential).unwrap();
        assert_eq!((standing.state, standing.nodes, standing.headroom_percent), (DEAD, 2, 40));
        assert_eq!((standing.last_error_code.as_str(), standing.ready_at_ms), ("code9", 1_001_000));
        assert_eq!(reports.standing(CredentialId::from_bytes([8; 16])), None);
        reports.report(node(1), vec![report(HEALTHY, 5)]);
        assert_eq!(reports.standing(credential).unwrap().state, HEALTHY, "what a node says now replaces what it said");
    }

    #[test]
    fn the_moment_told_is_that_of_the_worst_state_whoever_reports_first() {
        let said = |state, ready_in_ms| proto::CredentialReport { ready_in_ms, ..report(state, 5) };
        let reports = [said(COOLING, 60_000), said(DEAD, 10_000)];
        for order in [[0, 1], [1, 0]] {
            let mut standing = admin::CredentialStanding::default();
            for which in order {
                standing = merged(standing, Timestamp::from_millis(1_000_000), &reports[which]);
            }
            assert_eq!((standing.state, standing.ready_at_ms), (DEAD, 1_010_000), "{order:?}");
        }
    }

    #[test]
    fn a_node_that_fell_silent_says_nothing_any_more() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000_000)));
        let reports = CredentialReports::new(clock.clone());
        reports.report(node(1), vec![report(DEAD, 5)]);
        clock.advance(STALE + Duration::from_millis(1));
        assert_eq!(reports.standing(CredentialId::from_bytes([7; 16])), None);
    }
}
