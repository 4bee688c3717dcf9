//! What nodes do besides: settle, shrink, renew, give back, leave, and crash.

use keyforge_counters::Settlement;
use keyforge_shared::id::KeyId;
use keyforge_shared::money::NanoUsd;

use super::super::subject::Subject;
use super::{Attempt, Fate, Membership, Message, Node, Phase, World};

impl<S: Subject> World<S> {
    /// A dispatched attempt ends; its settlement is on its way from now on.
    pub(super) fn end(&mut self, node: usize) {
        let suits = |attempt: &Attempt| attempt.node == node && matches!(attempt.phase, Phase::Dispatched { .. });
        if let Some(index) = self.pick(|attempt| suits(attempt) && !attempt.abandoned) {
            self.end_one(index);
        }
    }

    pub(super) fn end_one(&mut self, index: usize) {
        let percent = self.random.within(0..=100);
        let counted = self.random.percent(90);
        let share_of_tokens = self.random.percent(70).then(|| self.random.within(0..=100));
        let attempt = &mut self.attempts[index];
        let Phase::Dispatched { epoch } = attempt.phase else { return };
        let cost = attempt.bound * percent / 100;
        attempt.phase = Phase::Ended { epoch, cost, counted };
        let taken = attempt.rates.tokens.map_or(0, |tokens| tokens.amount);
        let tokens = share_of_tokens.map(|percent| taken * percent / 100);
        self.nodes[attempt.node].outbox.push((index, epoch, Settlement { cost: NanoUsd::new(cost), counted, tokens }));
    }

    pub(super) async fn send_one(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].outbox.is_empty() {
            return Ok(());
        }
        let place = self.random.index(self.nodes[node].outbox.len());
        let (index, epoch, settlement) = self.nodes[node].outbox[place];
        let fate = self.send(&Message::Settle(index, epoch, settlement));
        if fate != Fate::Lost {
            self.put_settlement(index, epoch, settlement).await?;
        }
        if fate == Fate::Answered {
            self.nodes[node].outbox.remove(place);
        }
        Ok(())
    }

    pub(super) async fn shrink(&mut self, node: usize) -> Result<(), String> {
        let suits = |attempt: &Attempt| attempt.node == node && matches!(attempt.phase, Phase::Dispatched { .. });
        let Some(index) = self.pick(suits) else { return Ok(()) };
        let percent = self.random.within(50..=110);
        let attempt = &mut self.attempts[index];
        let bound = attempt.bound * percent / 100;
        attempt.bound = attempt.bound.min(bound);
        let tokens = attempt.rates.tokens.map(|tokens| tokens.amount * percent / 100);
        if let (Some(tokens), Some(taken)) = (&mut attempt.rates.tokens, tokens) {
            tokens.amount = tokens.amount.min(taken);
        }
        let epoch = attempt.epoch().unwrap_or(0);
        let fate = self.send(&Message::Shrink(index, epoch, bound, tokens));
        if fate != Fate::Lost { self.put_shrink(index, epoch, bound, tokens).await } else { Ok(()) }
    }

    pub(super) async fn renew(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let running = |attempt: &&Attempt| {
            attempt.node == node
                && attempt.key == key
                && attempt.rates.concurrency.is_some()
                && matches!(attempt.phase, Phase::Dispatched { .. })
        };
        let ids: Vec<_> = self.attempts.iter().filter(running).map(|attempt| attempt.id).collect();
        let fate = self.send(&Message::Renew(key, ids.clone()));
        if fate != Fate::Lost { self.put_renewal(key, &ids).await } else { Ok(()) }
    }

    pub(super) async fn claw_back(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let fate = self.send(&Message::ClawBack(key));
        if fate == Fate::Lost {
            return Ok(());
        }
        let claw = self.put_claw_back(key).await?;
        if let (Fate::Answered, Some(claw)) = (fate, claw) {
            self.nodes[node].returned.push((key, claw));
            if self.random.percent(60) {
                self.tell_again(node);
            }
        }
        Ok(())
    }

    /// The ledger is told what books gave up: for the first time, late, or again.
    pub(super) fn tell_again(&mut self, node: usize) {
        let returned = &self.nodes[node].returned;
        if let Some((key, claw)) = self.random.pick(&returned[returned.len().saturating_sub(3)..]) {
            self.ledger.take_back(*key, claw, self.rules.compare_serials);
        }
    }

    /// A node leaves an epoch, once nothing of its own is open there.
    pub(super) fn leave(&mut self, node: usize) -> Result<(), String> {
        if self.random.percent(40)
            && let Some(key) = self.random.pick(&self.keys).copied()
        {
            self.replace(node, key, None);
        }
        let attempts = &self.attempts;
        let open = |key: KeyId, epoch: u32| {
            let here = |attempt: &Attempt| attempt.node == node && attempt.key == key;
            attempts.iter().filter(|attempt| here(attempt)).any(|attempt| match attempt.phase {
                Phase::Asked => attempt.named == epoch,
                Phase::Dispatched { epoch: of } => of == epoch,
                Phase::Ended { .. } | Phase::Gone => false,
            })
        };
        let boot = self.nodes[node].boot;
        let done = |(key, membership): &(KeyId, Membership)| !open(*key, membership.epoch);
        let place = self.nodes[node].leaving.iter().position(|left| done(left) || !self.rules.leave_when_done);
        if let Some(place) = place {
            let (key, membership) = self.nodes[node].leaving.remove(place);
            // It may have come back meanwhile: then the ledger has a later serial.
            self.ledger.leave(boot, key, membership.epoch, membership.serial);
        }
        self.close_left()
    }

    pub(super) fn close_left(&mut self) -> Result<(), String> {
        // What has not ended has no entry that the ledger could see.
        let attempts = &self.attempts;
        self.ledger.close_left(|key, epoch, counter| {
            let ended = |attempt: &&Attempt| matches!(attempt.phase, Phase::Ended { epoch: of, .. } if of == epoch);
            let here = attempts.iter().filter(|attempt| attempt.key == key).filter(ended);
            here.map(|attempt| attempt.truth(counter)).sum()
        })
    }

    /// A process ends. What it had not heard the end of is charged in full, if its spool is found, and never known otherwise.
    pub(super) fn crash(&mut self, node: usize) -> Result<(), String> {
        let found = self.random.percent(70);
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.node == node && !attempt.abandoned) {
            attempt.abandoned = true;
            match attempt.phase {
                Phase::Asked => attempt.phase = Phase::Gone,
                Phase::Dispatched { epoch } if found => {
                    attempt.phase = Phase::Ended { epoch, cost: attempt.bound, counted: true };
                }
                Phase::Dispatched { .. } | Phase::Ended { .. } | Phase::Gone => {}
            }
        }
        self.boots += 1;
        let before = std::mem::replace(&mut self.nodes[node], Node { boot: self.boots, ..Node::default() });
        if found {
            self.ledger.close_boot(before.boot);
        }
        self.close_left()
    }
}
