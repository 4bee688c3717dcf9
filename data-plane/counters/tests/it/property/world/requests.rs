//! What nodes do for a request: ask the store, join, ask the ledger for more, and ask again.

use std::time::Duration;

use keyforge_counters::{Need, Rates, Settlement, TokenRate, Verdict};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension};
use keyforge_shared::period::Calendar;

use super::super::ledger::{Limit, Over};
use super::super::subject::Subject;
use super::{Attempt, Fate, Membership, Message, PATIENCE, Phase, RATES, World};
use crate::conformance::reservation;

impl<S: Subject> World<S> {
    /// What a request takes, as a node sees it whose clock may be wrong.
    pub(super) fn needs(&mut self, key: KeyId, spend: u64) -> Vec<Need> {
        let calendar = Calendar::utc();
        let skew = [-2_000, 0, 0, 0, 0, 2_000][self.random.index(6)];
        let now = Timestamp::from_millis(self.mirrors[&key].now(self.clock) + skew);
        let today = calendar.day_at(now);
        let need = |limit: &Limit| {
            let Limit { scope, dimension, window, amount: most } = *limit;
            let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(today) };
            let amount = if dimension == Dimension::Spend { spend } else { 1 };
            Need { counter, period: calendar.period(window, today), limit: most, amount }
        };
        self.limits.iter().map(need).collect()
    }

    pub(super) async fn request(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let bound = self.random.within(1..=400);
        let limited = self.random.percent(93);
        let paced = key == self.keys[0] && self.random.percent(70);
        let rates = if paced {
            let amount = self.random.within(0..=120);
            Rates { tokens: RATES.tokens.map(|tokens| TokenRate { amount, ..tokens }), ..RATES }
        } else {
            Rates::default()
        };
        let needs = if limited { self.needs(key, bound) } else { Vec::new() };
        let life = match self.random.weighted(&[85, 15]) {
            0 => self.random.within(5_000..=200_000),
            // Over before a copy of its question is too late.
            _ => self.random.within(1..=1_500),
        };
        self.attempts.push(Attempt {
            id: reservation(u32::try_from(self.attempts.len()).unwrap()),
            key,
            node,
            needs,
            rates,
            life: Duration::from_millis(life),
            bound,
            phase: Phase::Asked,
            named: 0,
            in_doubt: false,
            abandoned: false,
        });
        self.ask(self.attempts.len() - 1).await
    }

    /// The caller of a lost answer asks again, or gives up.
    pub(super) async fn ask_again(&mut self, node: usize) -> Result<(), String> {
        let Some(index) = self.pick(|attempt| attempt.node == node && attempt.phase == Phase::Asked) else {
            return Ok(());
        };
        if self.random.percent(50) { self.ask(index).await } else { self.refuse(index).await }
    }

    /// Asks, joins and asks again, until there is an answer or none comes.
    pub(super) async fn ask(&mut self, index: usize) -> Result<(), String> {
        let (key, node) = (self.attempts[index].key, self.attempts[index].node);
        for _ in 0..5 {
            let epoch = self.nodes[node].memberships.get(&key).map_or(0, |membership| membership.epoch);
            self.attempts[index].named = epoch;
            let not_after = Timestamp::from_millis(self.mirrors[&key].now(self.clock) + PATIENCE);
            let fate = self.send(&Message::Reserve { attempt: index, epoch, not_after });
            if fate != Fate::Answered {
                self.attempts[index].in_doubt = true;
                if fate == Fate::AnswerLost {
                    self.put_reserve(index, epoch, not_after).await?;
                }
                return Ok(());
            }
            match self.put_reserve(index, epoch, not_after).await? {
                Verdict::Admitted(_) => {
                    let epoch = if self.attempts[index].needs.is_empty() { 0 } else { epoch };
                    self.attempts[index].phase = Phase::Dispatched { epoch };
                    self.keep_copy(Message::Reserve { attempt: index, epoch, not_after });
                    return Ok(());
                }
                Verdict::NotJoined(life) => {
                    let wants = self.attempts[index].needs.clone();
                    self.acquire(node, key, life, &wants).await?;
                }
                Verdict::NoBooks(needs) => {
                    let wants: Vec<_> = needs.iter().map(|need| self.attempts[index].needs[*need]).collect();
                    self.acquire_more(node, key, &wants).await?;
                }
                Verdict::Short(needs) => {
                    let wants: Vec<_> = needs.iter().map(|(need, _)| self.attempts[index].needs[*need]).collect();
                    let life = self.nodes[node].memberships.get(&key).map(|membership| membership.life);
                    let wants_more = wants.iter().all(|want| self.ledger.total(&want.counter) < want.limit);
                    if life.is_none() || !wants_more {
                        return self.refuse(index).await;
                    }
                    self.acquire_more(node, key, &wants).await?;
                }
                _ => return self.refuse(index).await,
            }
        }
        self.refuse(index).await
    }

    /// The attempt is not dispatched. What was admitted behind a lost answer must be cancelled.
    pub(super) async fn refuse(&mut self, index: usize) -> Result<(), String> {
        self.attempts[index].phase = Phase::Gone;
        let attempt = &self.attempts[index];
        if attempt.in_doubt && self.rules.cancel_after_doubt {
            let epoch = if attempt.needs.is_empty() { 0 } else { attempt.named };
            self.nodes[attempt.node].outbox.push((index, epoch, Settlement::CANCELLED));
        }
        Ok(())
    }

    pub(super) async fn acquire_more(&mut self, node: usize, key: KeyId, wants: &[Need]) -> Result<(), String> {
        match self.nodes[node].memberships.get(&key).map(|membership| membership.life) {
            Some(life) => self.acquire(node, key, life, wants).await,
            None => Ok(()),
        }
    }

    /// Asks for more of one counter ahead of time: answers about different counters overtake each other.
    pub(super) async fn fetch(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let spend = self.random.within(1..=100);
        let needs = self.needs(key, spend);
        let want = needs[self.random.index(needs.len())];
        let Some(life) = self.nodes[node].memberships.get(&key).map(|membership| membership.life) else {
            return Ok(());
        };
        if self.random.percent(60) {
            return self.acquire(node, key, life, &[want]).await;
        }
        // The ledger's answer takes its time on the way to the store.
        let boot = self.nodes[node].boot;
        if let Ok(set) = self.ledger.acquire(boot, key, life, &[want]) {
            self.keep_copy(Message::Grant(key, set));
        }
        Ok(())
    }

    /// Asks the ledger, and tells the store what it said.
    pub(super) async fn acquire(
        &mut self,
        node: usize,
        key: KeyId,
        life: LifeId,
        wants: &[Need],
    ) -> Result<(), String> {
        let boot = self.nodes[node].boot;
        let fate = self.fate();
        if fate == Fate::Lost {
            return Ok(());
        }
        if !self.rules.remember_outstanding {
            self.ledger.forget_all_but(key, life);
        }
        match self.ledger.acquire(boot, key, life, wants) {
            _ if fate == Fate::AnswerLost => Ok(()),
            Err(Over) => {
                self.replace(node, key, None);
                let fate = self.send(&Message::Vacate(key, life));
                if fate != Fate::Lost { self.put_vacation(key, life).await } else { Ok(()) }
            }
            Ok(set) => {
                let fate = self.send(&Message::Grant(key, set.clone()));
                let applied = fate != Fate::Lost && self.put_grant(key, &set).await?;
                if applied && fate == Fate::Answered {
                    self.replace(node, key, Some(Membership { life, epoch: set.epoch, serial: set.serial }));
                }
                Ok(())
            }
        }
    }

    pub(super) fn replace(&mut self, node: usize, key: KeyId, membership: Option<Membership>) {
        let node = &mut self.nodes[node];
        let before = match membership {
            Some(membership) => node.memberships.insert(key, membership),
            None => node.memberships.remove(&key),
        };
        if let Some(before) = before
            && membership.is_none_or(|membership| membership.life != before.life)
        {
            node.leaving.push((key, before));
        }
    }
}
