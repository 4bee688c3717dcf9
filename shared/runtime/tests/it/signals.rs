//! Signals, sent to this very process.

use std::process::Command;

use keyforge_runtime::shutdown::{Drained, Shutdown, ShutdownCause};
use tokio::time::timeout;

use crate::server::LONG;

fn signal_self(name: &str) {
    let sent = Command::new("kill").args([name, &std::process::id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[tokio::test]
async fn first_signal_drains_and_the_second_forces() {
    let shutdown = Shutdown::new();
    shutdown.on_signals().unwrap();
    drop(shutdown.spawn("stuck", std::future::pending::<()>()));

    signal_self("-TERM");
    timeout(LONG, shutdown.drain_started()).await.unwrap();
    assert_eq!(shutdown.cause(), Some(ShutdownCause::Signal));

    signal_self("-INT");
    assert_eq!(timeout(LONG, shutdown.drained(LONG * 10)).await.unwrap(), Drained::TimedOut { tasks: 1 });
}
