//! What the standard health service of gRPC says of this control plane: what its `/readyz` says as well.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::publish::horizon::Horizon;

/// Says whether the database is there until `drain` begins; from then on, that nothing is served.
pub async fn tell(horizon: Horizon, health: HealthReporter, drain: impl Future<Output = ()>) {
    let is_there = watch::Sender::new(true);
    let mut changes = is_there.subscribe();
    let telling = async {
        while changes.changed().await.is_ok() {
            let is_there = *changes.borrow_and_update();
            let status = if is_there { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status("", status).await;
        }
    };
    let told = |away: Option<String>| {
        is_there.send_if_modified(|known| std::mem::replace(known, away.is_none()) != away.is_none());
    };
    tokio::select! {
        // Where nobody else commits the first of these ends at once, and the second never.
        _ = async { tokio::join!(horizon.tell(told), telling) } => {}
        () = drain => {}
    }
    health.set_service_status("", ServingStatus::NotServing).await;
}
