//! The operators' port.

use keyforge_runtime::accept;
use keyforge_runtime::ops::Ops;
use keyforge_runtime::readiness::Readiness;
use keyforge_runtime::shutdown::{Drained, Shutdown};

use crate::server::{LONG, any_port, get};

#[tokio::test]
async fn ops_port_answers_health_readiness_and_metrics_also_while_draining() {
    let shutdown = Shutdown::new();
    let readiness = Readiness::until_drain(&shutdown);
    let store = readiness.check("store");
    let listener = accept::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    Ops::new(|| "keyforge_up 1\n".to_owned(), readiness).start(listener, &shutdown);

    let metrics = get(address, "/metrics", false).await.unwrap();
    assert_eq!((metrics.status, metrics.body.as_str()), (200, "keyforge_up 1\n"));
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");

    let not_ready = get(address, "/readyz", false).await.unwrap();
    assert_eq!((not_ready.status, not_ready.body.as_str()), (503, "store: not started\n"));
    store.set_ready();
    assert_eq!(get(address, "/readyz", false).await.unwrap().status, 200);
    assert_eq!(get(address, "/nothing", false).await.unwrap().status, 404);

    shutdown.trigger();
    assert_eq!(shutdown.drained(LONG).await, Drained::Clean);
    let draining = get(address, "/readyz", false).await.unwrap();
    assert_eq!((draining.status, draining.body.as_str()), (503, "shutdown: draining\n"));
    assert_eq!(get(address, "/healthz", false).await.unwrap().status, 200);
}
