//! What the control plane measures. Names live here and nowhere else.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};

use crate::admin::Admin;
use crate::custody::Custodian;
use crate::expiry::ExpiringKeys;
use crate::publish::fleet::Fleet;
use crate::publish::hub::Hub;
use crate::publish::lives::NodeSeen;
use crate::registry::Registry;

/// A count by one label, whose values are a closed list. Clones share the count.
#[derive(Clone)]
pub struct LabelledCounter {
    counter: Counter<u64>,
    label: &'static str,
}

impl LabelledCounter {
    /// Registers the count of those who were refused that wanted to be taken for a node, by reason.
    #[must_use]
    pub fn refused_nodes(meter: &Meter) -> Self {
        let description =
            "Connections and calls refused to callers that are no node, or not the node that they speak for, by reason";
        Self::register(meter, "keyforge.nodes.refused", "keyforge.reason", description)
    }

    /// Registers the count of connections that were closed at once for their address or certificate, by the name of their listener.
    #[must_use]
    pub fn refused_connections(meter: &Meter) -> Self {
        let description = "Connections closed at once because their address, or the certificate that they showed, held as many as it may.";
        Self::register(meter, "keyforge.listener.connections_refused", "keyforge.listener", description)
    }

    /// Registers the count of operators' calls that were not begun, by what there was too much of.
    #[must_use]
    pub fn refused_calls(meter: &Meter) -> Self {
        let description = "Admin calls that were not begun because one operator, or all together, had as many as are carried out at the same time.";
        Self::register(meter, "keyforge.admin.calls_refused", "keyforge.reason", description)
    }

    /// Registers the count of nodes' records that no virtual key's chain has taken or will, by reason.
    #[must_use]
    pub fn passed_over_records(meter: &Meter) -> Self {
        let description =
            "Records of nodes that are in no virtual key's chain and told of in the administrators' chain, by reason.";
        Self::register(meter, "keyforge.audit.passed_over", "keyforge.reason", description)
    }

    fn register(meter: &Meter, name: &'static str, label: &'static str, description: &'static str) -> Self {
        Self { counter: meter.u64_counter(name).with_description(description).build(), label }
    }

    /// One more under this value of the label.
    pub fn count(&self, value: &'static str) {
        self.add(1, value);
    }

    /// So many more under this value of the label.
    pub fn add(&self, more: u64, value: &'static str) {
        self.counter.add(more, &[KeyValue::new(self.label, value)]);
    }
}

/// Registers what is read when somebody asks.
pub(crate) fn register(meter: &Meter, hub: &Hub, fleet: &Fleet, (admin, custodian): (&Admin, &Custodian)) {
    failed_sign_ins(meter, admin.clone());
    let state = hub.clone();
    gauge(meter, "keyforge.state.revision", "Revision of the replicated state.", move || state.revision());
    let connected = fleet.clone();
    gauge(meter, "keyforge.fleet.nodes", "Nodes with an open state stream.", move || {
        count(&connected, |node| node.streams > 0)
    });
    let (state, behind) = (hub.clone(), fleet.clone());
    let description = "Nodes with an open state stream that have not applied the newest revision.";
    gauge(meter, "keyforge.fleet.nodes_behind", description, move || {
        let head = state.revision();
        count(&behind, |node| node.streams > 0 && node.acked_revision < head)
    });
    let refusing = fleet.clone();
    gauge(
        meter,
        "keyforge.fleet.nodes_refusing",
        "Nodes that refused a change since the control plane started.",
        move || count(&refusing, |node| node.nacks > 0),
    );
    let vault = custodian.clone();
    let description = "Credentials whose secret could not be opened when all were last tried.";
    gauge(meter, "keyforge.vault.unreadable_secrets", description, move || vault.unreadable());
}

/// Registers how many nodes are there twice.
pub(crate) fn register_doubled(meter: &Meter, fleet: Fleet, registry: Option<Registry>) {
    let description = "Nodes that are connected as two at the same time, as a copy of a node's data directory is.";
    gauge(meter, "keyforge.fleet.nodes_doubled", description, move || {
        let mut doubled = fleet.doubled();
        doubled.extend(registry.as_ref().map(Registry::doubled).unwrap_or_default());
        u64::try_from(doubled.len()).unwrap_or(u64::MAX)
    });
}

fn failed_sign_ins(meter: &Meter, admin: Admin) {
    let description =
        "Admin calls without a working operator token: refused, or limited when their address had too many.";
    let callback = move |counter: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
        let (refused, limited) = admin.failed_sign_ins();
        counter.observe(refused, &[KeyValue::new("outcome", "refused")]);
        counter.observe(limited, &[KeyValue::new("outcome", "limited")]);
    };
    let counter = meter.u64_observable_counter("keyforge.admin.failed_sign_ins").with_description(description);
    let _registered = counter.with_callback(callback).build();
}

/// Registers how many keys end soon.
pub(crate) fn register_expiring(meter: &Meter, expiring: ExpiringKeys) {
    let description = "Keys that are not revoked and end within seven days.";
    gauge(meter, "keyforge.keys.expiring", description, move || expiring.number());
}

fn gauge(meter: &Meter, name: &'static str, description: &'static str, read: impl Fn() -> u64 + Send + Sync + 'static) {
    let callback = move |gauge: &dyn opentelemetry::metrics::AsyncInstrument<u64>| gauge.observe(read(), &[]);
    // The meter keeps the callback; the handle is of no use.
    let _registered = meter.u64_observable_gauge(name).with_description(description).with_callback(callback).build();
}

fn count(fleet: &Fleet, which: impl Fn(&NodeSeen) -> bool) -> u64 {
    fleet.nodes().iter().fold(0, |count, (_, node)| count + u64::from(which(node)))
}
