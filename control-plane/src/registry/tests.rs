//! The registry on a store of its own: who counts for a receipt, and that nobody but control planes writes it.

use keyforge_shared::clock::SystemClock;
use keyforge_shared::id::{BootId, DeploymentId, NodeId};
use keyforge_shared::secret::Key256;

use super::*;
use crate::store::sql;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const BOUND: Duration = Duration::from_secs(30);

fn key() -> RowSealKey {
    RowSealKey::derive(&Key256::new([1; 32]), DeploymentId::from_bytes([1; 16]))
}

fn ago(seconds: u64) -> Timestamp {
    before(NOW, Duration::from_secs(seconds))
}

fn plane(id: [u8; 16], seen_at: Timestamp, gone: Option<Gone>) -> KnownPlane {
    let (name, known_since) = (format!("host:{}", id[0]), Timestamp::from_nanos(0));
    KnownPlane { id, name, known_since, max_staleness: BOUND, seen_at, gone }
}

fn counted(registry: &Registry, trusted: Vec<KnownPlane>, bound: Option<Duration>) -> Census {
    registry.count(Look { now: NOW, trusted, doubtful: Vec::new() }, bound)
}

async fn registry(directory: &std::path::Path) -> Registry {
    let store = Store::open(&directory.join("data"), Arc::new(SystemClock)).await.unwrap();
    beside(store, directory, false)
}

fn beside(store: Store, directory: &std::path::Path, is_first: bool) -> Registry {
    Registry::new(store, &Instance::new(directory).unwrap(), BOUND, is_first, key())
}

/// Two that are there and have read each other's rows.
async fn two(directory: &std::path::Path) -> (Registry, Registry) {
    let registry = registry(directory).await;
    let other = beside(registry.inner.store.clone(), &directory.join("other"), true);
    other.enter().await.unwrap();
    registry.enter().await.unwrap();
    let census = registry.census(None).await.unwrap();
    assert!(census.is_complete && census.there.len() == 1 && census.doubtful.is_empty(), "{census:?}");
    (registry, other)
}

async fn write(registry: &Registry, statement: &'static str, id: &[u8; 16]) {
    let mut tx = registry.inner.store.write().await.unwrap();
    assert_eq!(sql::query(statement).bind(id.as_slice()).execute(&mut tx).await.unwrap(), 1, "{statement}");
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn who_is_there_is_heard_or_silent_and_who_is_gone_counts_with_the_age_of_its_last_word() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path()).await;
    let gone = Gone { at: ago(40), left: None };
    let own = plane(*registry.id(), NOW, None);
    let known = vec![own, plane([1; 16], ago(5), None), plane([2; 16], ago(60), None), plane([3; 16], NOW, Some(gone))];
    let census = counted(&registry, known, Some(BOUND));
    assert!(census.is_complete);
    let there: Vec<_> = census.there.iter().map(|other| (other.name.as_str(), other.is_heard)).collect();
    assert_eq!(there, [("host:1", true), ("host:2", false)]);
    let oldest = Duration::from_secs(50);
    assert_eq!(census.gone, [Departed { name: "host:3".to_owned(), age: BOUND, oldest, nodes: None }]);
}

#[tokio::test]
async fn i_13_a_registry_that_is_younger_than_the_bound_or_has_lost_the_asker_is_not_complete() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path()).await;
    let since = |seconds| KnownPlane { known_since: ago(seconds), ..plane(*registry.id(), NOW, None) };
    for (known, bound, is_complete) in [
        (vec![since(41)], Some(BOUND), true),
        (vec![since(39)], Some(BOUND), false),
        (vec![since(41)], Some(BOUND * 2), false),
        (vec![], Some(BOUND), false),
        (vec![plane(*registry.id(), NOW, Some(Gone { at: NOW, left: None }))], Some(BOUND), false),
    ] {
        assert_eq!(counted(&registry, known, bound).is_complete, is_complete, "{bound:?}");
    }
    // The longest of the configured bounds holds for keys without one of their own.
    let patient = KnownPlane { max_staleness: BOUND * 10, ..plane([1; 16], NOW, None) };
    let census = counted(&registry, vec![since(41), patient], None);
    assert_eq!((census.bound, census.is_complete), (BOUND * 10, false));
}

#[tokio::test]
async fn i_13_one_that_was_taken_for_gone_knows_it_at_its_next_look_and_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, other) = two(directory.path()).await;
    let mut tx = registry.inner.store.write().await.unwrap();
    let named = other.mark_gone(&mut tx, registry.id(), |_| true).await.unwrap();
    assert_eq!(named.as_ref(), Some(&registry.inner.name));
    tx.commit().await.unwrap();
    assert!(!registry.census(None).await.unwrap().is_complete);
    let gone = async || other.census(None).await.unwrap().gone.remove(0);
    let marked = gone().await;
    assert_eq!((marked.age, marked.oldest), (Duration::ZERO, SLACK), "nobody knows since when the mark has force");
    other.tidy().await.unwrap();
    let since =
        control_planes::get(&mut registry.inner.store.read().await.unwrap(), registry.id()).await.unwrap().unwrap();
    assert!(since.0.gone.unwrap().at < Gone::NOT_YET_KNOWN);
    assert!(gone().await.oldest > SLACK);
    registry.stand().await.unwrap();
    assert!(registry.census(None).await.unwrap().is_complete);
    assert_eq!(other.census(None).await.unwrap().there.len(), 1);
}

#[tokio::test]
async fn one_that_left_counts_with_its_nodes_until_the_bound_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, other) = two(directory.path()).await;
    let life = AgedLife {
        node: NodeId::from_bytes([7; 16]),
        boot: BootId::from_bytes([8; 16]),
        began: BOUND,
        heard: Duration::from_secs(2),
        assured: Duration::from_secs(3),
        is_double: false,
        is_connected: false,
    };
    other.leave(vec![life]).await.unwrap();
    let census = registry.census(None).await.unwrap();
    assert_eq!(census.gone[0].nodes.as_deref(), Some(&[life][..]));
    assert!(census.there.is_empty() && census.is_complete, "it knows what the other one knew: {census:?}");
    let mut read = registry.inner.store.read().await.unwrap();
    let later = census.at.saturating_add(BOUND + Duration::from_secs(1));
    assert_eq!(control_planes::that_count(&mut read, None, later).await.unwrap().len(), 1);
}

#[tokio::test]
async fn i_13_a_row_that_somebody_else_has_changed_says_nothing_until_its_owner_writes_it_anew() {
    for change in [
        "UPDATE control_planes SET gone_at = seen_at - 3600000000000 WHERE control_plane_id = $1",
        "UPDATE control_planes SET gone_at = seen_at, left_lives = x'' WHERE control_plane_id = $1",
        "UPDATE control_planes SET seen_at = seen_at - 60000000000 WHERE control_plane_id = $1",
        "UPDATE control_planes SET max_staleness = 1 WHERE control_plane_id = $1",
        "DELETE FROM control_planes WHERE control_plane_id = $1",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (registry, other) = two(directory.path()).await;
        write(&registry, change, other.id()).await;
        let census = registry.census(Some(BOUND)).await.unwrap();
        assert_eq!(census.doubtful, [other.inner.name.as_str()], "{change}");
        assert!(census.there.is_empty() && census.gone.is_empty(), "{change}: {census:?}");
        // It finds that at its next look.
        other.stand().await.unwrap();
        let census = registry.census(Some(BOUND)).await.unwrap();
        assert!(census.doubtful.is_empty() && census.there.len() == 1, "{change}: {census:?}");
    }
}

#[tokio::test]
async fn i_13_a_row_that_was_put_back_to_what_it_was_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, other) = two(directory.path()).await;
    let store = registry.inner.store.clone();
    // It was taken for gone an hour ago, came back, and its row of then is put back under its seal.
    let (row, _) = control_planes::get(&mut store.read().await.unwrap(), other.id()).await.unwrap().unwrap();
    let hour = Duration::from_hours(1);
    let at = before(row.seen_at, hour);
    let gone = KnownPlane { seen_at: before(at, SILENCE), gone: Some(Gone { at, left: None }), ..row };
    let mut tx = store.write().await.unwrap();
    control_planes::put(&mut tx, &gone, &seals::of_plane(&key(), &gone)).await.unwrap();
    tx.commit().await.unwrap();
    let census = registry.census(Some(2 * hour)).await.unwrap();
    assert_eq!((census.doubtful.len(), census.gone.len()), (1, 0), "{census:?}");
    assert_eq!(registry.census(Some(BOUND)).await.unwrap().doubtful.len(), 1, "also where it would not count");
}

#[tokio::test]
async fn a_row_that_nobody_writes_anew_is_that_of_one_that_is_gone_from_its_mending_on() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, other) = two(directory.path()).await;
    write(&registry, "DELETE FROM control_planes WHERE control_plane_id = $1", other.id()).await;
    registry.tidy().await.unwrap();
    let census = registry.census(Some(BOUND)).await.unwrap();
    assert!(census.doubtful.is_empty() && census.there.is_empty(), "{census:?}");
    assert!(census.gone.len() == 1 && census.gone[0].nodes.is_none() && census.gone[0].age.is_zero(), "{census:?}");
    // A row that came from nowhere is mended once it is silent.
    let insert = "INSERT INTO control_planes (control_plane_id, name, known_since, max_staleness, seen_at) VALUES ($1, 'nobody', 0, 1, 0)";
    write(&registry, insert, &[9; 16]).await;
    assert_eq!(registry.census(Some(BOUND)).await.unwrap().doubtful, ["nobody"]);
    registry.tidy().await.unwrap();
    let census = registry.census(Some(BOUND)).await.unwrap();
    assert!(census.doubtful.is_empty() && census.gone.iter().any(|gone| gone.name == "nobody"), "{census:?}");
}

#[tokio::test]
async fn i_13_nobody_makes_the_registry_older_than_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry(directory.path()).await;
    registry.enter().await.unwrap();
    assert!(!registry.census(Some(BOUND)).await.unwrap().is_complete);
    write(&registry, "UPDATE control_planes SET known_since = 0 WHERE control_plane_id = $1", registry.id()).await;
    assert!(!registry.census(Some(BOUND)).await.unwrap().is_complete);
    registry.say().await.unwrap();
    let census = registry.census(Some(BOUND)).await.unwrap();
    assert!(!census.is_complete && census.doubtful.is_empty(), "{census:?}");
}
