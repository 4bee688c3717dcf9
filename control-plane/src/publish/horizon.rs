//! Up to which moment this control plane knows everything that was committed, by whichever control plane it was.
//!
//! Alone on its database it always knows all. One of several knows it as of the beginning of its latest look at the database, so that a node's beat is
//! answered only after a look that began after the beat was heard: a control plane that has lost the database assures nobody.

use std::sync::Arc;
use std::time::Duration;

use keyforge_runtime::readiness::ReadinessCheck;
use keyforge_shared::clock::Clock;
use tokio::sync::{Notify, watch};

/// A database that was not looked at for so long is away. Looks are a second apart.
const AWAY_AFTER: Duration = Duration::from_secs(5);

/// How far this control plane sees. Clones share it. Moments are of the monotonic clock, in nanoseconds.
#[derive(Clone)]
pub struct Horizon {
    clock: Arc<dyn Clock>,
    /// `None` where nobody else commits.
    looks: Option<Arc<Looks>>,
}

struct Looks {
    wanted: Notify,
    /// When the latest look began.
    began: watch::Sender<u64>,
}

impl Horizon {
    /// Of a control plane that may share its database with others.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, is_shared: bool) -> Self {
        let looks = is_shared.then(|| Arc::new(Looks { wanted: Notify::new(), began: watch::Sender::new(0) }));
        Self { clock, looks }
    }

    /// Whether others may commit.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.looks.is_some()
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.monotonic_nanos()
    }

    /// What was committed before `began` is published.
    pub fn looked(&self, began: u64) {
        if let Some(looks) = &self.looks {
            looks.began.send_if_modified(|latest| std::mem::replace(latest, began.max(*latest)) < began);
        }
    }

    /// Tells of every look, where others commit.
    #[must_use]
    pub fn looks(&self) -> Option<watch::Receiver<u64>> {
        self.looks.as_ref().map(|looks| looks.began.subscribe())
    }

    /// Says in `check`, for as long as it is polled, whether the database is there.
    pub async fn show(&self, check: ReadinessCheck) {
        let told = |away: Option<String>| away.map_or_else(|| check.set_ready(), |why| check.set_not_ready(why));
        self.tell(told).await;
    }

    /// Tells, for as long as it is polled, whether the database is there: why not, if it is not. Ends at once where nobody else commits.
    pub async fn tell(&self, mut told: impl FnMut(Option<String>)) {
        told(None);
        let Some(mut looks) = self.looks() else { return };
        loop {
            match tokio::time::timeout(AWAY_AFTER, looks.changed()).await {
                Ok(Ok(())) => told(None),
                Ok(Err(_)) => return,
                Err(_) => told(Some(format!("not reached for {} s or longer", AWAY_AFTER.as_secs()))),
            }
        }
    }

    /// Waits until what was committed before `moment` is published, and asks for a look.
    pub async fn passes(&self, moment: u64) {
        let Some(looks) = &self.looks else { return };
        let mut began = looks.began.subscribe();
        if *began.borrow() < moment {
            looks.wanted.notify_one();
            // The sender is ours: it does not end before us.
            drop(began.wait_for(|began| *began >= moment).await);
        }
    }

    /// Waits until somebody waits for a look.
    pub async fn wanted(&self) {
        match &self.looks {
            Some(looks) => looks.wanted.notified().await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::clock::{ManualClock, Timestamp};

    use super::*;

    async fn has_passed(horizon: &Horizon, moment: u64) -> bool {
        tokio::time::timeout(Duration::ZERO, horizon.passes(moment)).await.is_ok()
    }

    #[tokio::test]
    async fn i_13_only_a_look_that_began_later_passes_a_moment() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        clock.advance(Duration::from_secs(1));
        let horizon = Horizon::new(clock.clone(), true);
        let early = horizon.now();
        clock.advance(Duration::from_secs(1));
        let heard = horizon.now();
        assert!(!has_passed(&horizon, heard).await);
        horizon.wanted().await;
        horizon.looked(early);
        assert!(!has_passed(&horizon, heard).await, "that look may have missed what was committed in between");
        let mut passing = std::pin::pin!(horizon.passes(heard));
        assert!(tokio::time::timeout(Duration::ZERO, &mut passing).await.is_err());
        horizon.looked(heard);
        passing.await;
        horizon.looked(early);
        assert!(has_passed(&horizon, heard).await, "nothing that is known is forgotten");
        Horizon::new(clock, false).passes(u64::MAX).await;
    }
}
