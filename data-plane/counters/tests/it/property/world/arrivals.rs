//! What arrives at the store, and what the mirror hears of it.

use std::time::Duration;

use keyforge_counters::{
    ClawBack, CounterError, CounterStore, GrantSet, ReservationId, Reserve, Settled, Settlement, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::money::NanoUsd;

use super::super::mirror::hold;
use super::super::subject::Subject;
use super::{Message, World};

impl<S: Subject> World<S> {
    pub(super) async fn deliver_copy(&mut self) -> Result<(), String> {
        if self.wire.is_empty() {
            return Ok(());
        }
        let index = self.random.index(self.wire.len());
        // A copy that is under way for long is delivered now or never.
        match self.wire[index].clone() {
            Message::Reserve { attempt, epoch, not_after } => {
                self.put_reserve(attempt, epoch, not_after).await.map(drop)
            }
            Message::Settle(attempt, epoch, settlement) => {
                self.put_settlement(attempt, epoch, settlement).await.map(drop)
            }
            Message::Shrink(attempt, epoch, bound, tokens) => self.put_shrink(attempt, epoch, bound, tokens).await,
            Message::Renew(key, ids) => self.put_renewal(key, &ids).await,
            Message::Grant(key, set) => self.put_grant(key, &set).await.map(drop),
            Message::Vacate(key, life) => self.put_vacation(key, life).await,
            Message::ClawBack(key) => self.put_claw_back(key).await.map(drop),
        }
    }

    pub(super) async fn put_reserve(
        &mut self,
        index: usize,
        epoch: u32,
        not_after: Timestamp,
    ) -> Result<Verdict, String> {
        let attempt = self.attempts[index].clone();
        let ask = Reserve {
            id: attempt.id,
            key: attempt.key,
            epoch,
            needs: &attempt.needs,
            rates: attempt.rates,
            expires_after: attempt.life,
            not_after: Some(not_after),
        };
        let verdict = self.subject.store(ask.key).reserve(ask).await.map_err(|error| error.to_string())?;
        let clock = self.clock;
        self.mirror(ask.key).reserved(&ask, &verdict, clock)?;
        Ok(verdict)
    }

    pub(super) async fn put_settlement(
        &mut self,
        index: usize,
        epoch: u32,
        settlement: Settlement,
    ) -> Result<(), String> {
        let (id, key, clock) = (self.attempts[index].id, self.attempts[index].key, self.clock);
        let answer = self.subject.store(key).settle(key, epoch, id, settlement).await;
        let mirror = self.mirror(key);
        mirror.ended(id);
        match answer {
            Ok(answer) => {
                hold!(epoch == 0 || epoch == mirror.epoch, "I-6: settled in epoch {epoch} of {}", mirror.epoch);
                let actual = (settlement.cost.nanos(), settlement.counted, settlement.tokens);
                hold!(!matches!(answer, Settled::Done { over_bound: true }), "I-3: {id:?} was over its bound");
                mirror.settled(id, actual, answer, clock)
            }
            Err(CounterError::Epoch { current, .. }) => {
                hold!(epoch != 0 && current == mirror.epoch && epoch != current, "epoch {epoch} in {}", mirror.epoch);
                Ok(())
            }
            Err(other) => Err(other.to_string()),
        }
    }

    pub(super) async fn put_shrink(
        &mut self,
        index: usize,
        epoch: u32,
        bound: u64,
        tokens: Option<u64>,
    ) -> Result<(), String> {
        let (id, key, clock) = (self.attempts[index].id, self.attempts[index].key, self.clock);
        match self.subject.store(key).shrink(key, epoch, id, NanoUsd::new(bound), tokens).await {
            Ok(lowered) => self.mirror(key).shrunk(id, bound, tokens, lowered, clock),
            Err(CounterError::Epoch { .. }) => Ok(()),
            Err(other) => Err(other.to_string()),
        }
    }

    pub(super) async fn put_renewal(&mut self, key: KeyId, ids: &[ReservationId]) -> Result<(), String> {
        let lease = Duration::from_secs(90);
        self.subject.store(key).renew(key, ids, lease).await.map_err(|error| error.to_string())?;
        let clock = self.clock;
        self.mirror(key).renewed(ids, 90_000, clock);
        Ok(())
    }

    /// Whether the grant was applied.
    pub(super) async fn put_grant(&mut self, key: KeyId, set: &GrantSet) -> Result<bool, String> {
        match self.subject.store(key).grant(key, set).await {
            Ok(()) => self.mirror(key).granted(set).map(|()| true),
            Err(CounterError::Life { current, .. }) => {
                hold!(current != set.life, "I-6: {current} is its life");
                self.mirror(key).hear(current).map(|()| false)
            }
            Err(other) => Err(other.to_string()),
        }
    }

    pub(super) async fn put_vacation(&mut self, key: KeyId, life: LifeId) -> Result<(), String> {
        let now = self.subject.store(key).vacate(key, life).await.map_err(|error| error.to_string())?;
        hold!(now != life, "I-6: {life} was given up and goes on");
        let mirror = self.mirror(key);
        // A life that nobody was told of can be named by nobody, and goes on with what it has admitted.
        if mirror.life == Some(life) {
            mirror.begin();
        }
        mirror.hear(now)
    }

    pub(super) async fn put_claw_back(&mut self, key: KeyId) -> Result<Option<ClawBack>, String> {
        let claw = self.subject.store(key).claw_back(key).await.map_err(|error| error.to_string())?;
        let mirror = self.mirror(key);
        match &claw {
            None => hold!(mirror.epoch == 0, "epoch {} holds nothing", mirror.epoch),
            Some(claw) => {
                mirror.hear(claw.life)?;
                mirror.clawed_back(claw.epoch, claw.serial, &claw.holdings)?;
            }
        }
        Ok(claw)
    }
}
