//! Remembers that the ledger does not answer, so that only the first requests wait to find out.
//!
//! A call that has waited for a while makes it suspect: a probe follows, which asks for nothing and so is answered at once by a ledger that lives,
//! however long the call itself takes. Without an answer to the probe the ledger is *away*: whoever waits is told, nobody else asks, and the probe is
//! repeated until it is answered. Both turns are one line in the log. What fails at once, such as a refused connection, need not be remembered.

use std::future::Future;
use std::time::Duration;

use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_runtime::backoff::Backoff;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::id::BootId;
use tokio::sync::watch;

use super::LedgerError;
use crate::control::ControlChannel;

/// A call without an answer for so long makes the ledger suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(500);
/// How long the probe of a suspect may take.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// How long one may take while the ledger is away: it is answered the moment a stopped process goes on, so the longer it waits the sooner that is
/// known; but not for ever, because it may be what was lost.
const PROBE: Duration = Duration::from_secs(5);
/// Pauses between probes that failed, with full jitter up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Answers,
    Suspect,
    Away,
}

/// The ledger is away, or what was asked took until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It was not asked.
    NotAsked,
    /// It was asked, and may have done it.
    Waited,
}

/// Whether the ledger answers, as far as this node knows. Clones share it.
#[derive(Clone)]
pub(super) struct Outage {
    standing: watch::Sender<Standing>,
    client: GrantServiceClient<ControlChannel>,
    boot: BootId,
    shutdown: Shutdown,
}

impl Outage {
    /// None yet.
    pub fn new(client: GrantServiceClient<ControlChannel>, boot: BootId, shutdown: Shutdown) -> Self {
        Self { standing: watch::Sender::new(Standing::Answers), client, boot, shutdown }
    }

    /// The outcome of a call, unless the ledger is away or goes away meanwhile.
    pub async fn unless_away<T>(&self, call: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let mut standing = self.standing.subscribe();
        if *standing.borrow_and_update() == Standing::Away {
            return Err(NoAnswer::NotAsked);
        }
        let mut call = std::pin::pin!(call);
        if let Ok(outcome) = tokio::time::timeout(SUSPECT_AFTER, &mut call).await {
            return Ok(outcome);
        }
        self.suspect();
        tokio::select! {
            biased;
            outcome = call => Ok(outcome),
            _ = standing.wait_for(|standing| *standing == Standing::Away) => Err(NoAnswer::Waited),
        }
    }

    /// Lets one task find out.
    fn suspect(&self) {
        let is_new = self.standing.send_if_modified(|standing| {
            let answers = *standing == Standing::Answers;
            if answers {
                *standing = Standing::Suspect;
            }
            answers
        });
        if is_new {
            let outage = self.clone();
            drop(self.shutdown.spawn_background("ledger_probe", async move { outage.find_out().await }));
        }
    }

    async fn find_out(self) {
        if !self.answers_within(FIRST_PROBE).await {
            tracing::warn!("the control plane does not answer: requests that need a grant are refused until it does");
            self.standing.send_replace(Standing::Away);
            let mut pauses = Backoff::new(PAUSES.0, PAUSES.1);
            while !self.answers_within(PROBE).await {
                tokio::time::sleep(pauses.next_delay()).await;
            }
            tracing::info!("the control plane answers again");
        }
        self.standing.send_replace(Standing::Answers);
    }

    /// Leaves no epoch, which goes the way of every other call and changes nothing. A refusal is an answer; a connection that fails is none.
    async fn answers_within(&self, patience: Duration) -> bool {
        let nothing =
            proto::LeaveEpochsRequest { boot_id: self.boot.as_bytes().to_vec(), last_seq: 0, memberships: Vec::new() };
        let mut client = self.client.clone();
        match tokio::time::timeout(patience, client.leave_epochs(nothing)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) => !matches!(super::error(&status), LedgerError::Lost(_)),
            Err(_) => false,
        }
    }
}
