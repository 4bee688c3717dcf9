//! One question to the server that has the key, asked until it is answered or the time is up.
//!
//! A question is only asked again when the server said that it did not do it: it does not know the script, or it no longer has the slot. An answer
//! that does not come leaves the question unanswered, and the link in doubt when nobody else was answered either.

use std::sync::Arc;

use keyforge_shared::id::KeyId;
use redis::{Cmd, ErrorKind, ServerErrorKind, Value};
use tokio::time::Instant;

use super::RedisCounters;
use super::key_names::{put_keys, slot};
use super::link::{Link, NoAnswer, is_broken, is_out_of_memory};
use super::node::Node;
use super::reply::Reply;
use super::scripts::Script;
use crate::reserve::ReservationId;
use crate::store::{CounterError, Outage};

/// A server that has answered nobody for so many timeouts is taken for gone: from then on nobody waits for it.
const SILENT_TIMEOUTS: u32 = 3;

/// A question is asked at most so often: once, after its script was loaded, and after its slot was found elsewhere twice.
const ATTEMPTS: usize = 4;

/// What one call of a script is about.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) script: &'a Script,
    pub(super) key: KeyId,
    /// Whose markers it looks at or writes.
    pub(super) ids: &'a [ReservationId],
}

impl RedisCounters {
    /// When a question that is asked now is given up.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.shards.timeout()
    }

    /// Calls a script with what `arguments` adds for the link that is used.
    pub(super) async fn call(
        &self,
        about: About<'_>,
        deadline: Instant,
        arguments: impl Fn(&mut Cmd, &Link),
    ) -> Result<(Reply, Arc<Link>), CounterError> {
        let About { script, key, ids } = about;
        let build = |link: &Link| {
            let mut command = script.call();
            put_keys(&mut command, key, ids);
            arguments(&mut command, link);
            self.time.put(&mut command);
            command
        };
        let (answer, link) = self.ask(key, script, deadline, build).await?;
        Ok((Reply::new(answer)?, link))
    }

    /// Asks the server that has the key.
    async fn ask(
        &self,
        key: KeyId,
        script: &Script,
        deadline: Instant,
        build: impl Fn(&Link) -> Cmd,
    ) -> Result<(Value, Arc<Link>), CounterError> {
        let mut refused = String::new();
        for _ in 0..ATTEMPTS {
            // Whatever was sent before was refused as a whole.
            let (node, link) = self.shards.link(slot(key)).map_err(not_asked)?;
            let error = match link.ask(&build(&link), deadline).await {
                Ok(answer) => return Ok((answer, link)),
                // It began nothing, so that there is nothing to cancel, which would only fill the memory further.
                Err(NoAnswer::Said(error)) if is_out_of_memory(&error) => {
                    node.is_out_of_memory(&error);
                    return Err(not_asked(format!("redis at {}: {error}", node.name())));
                }
                Err(error) => error,
            };
            refused = match self.mend(&node, &link, script, error, deadline).await {
                Ok(why) => why,
                Err(why) => return Err(unanswered(&node, &why)),
            };
        }
        Err(not_asked(refused))
    }

    /// Does what makes another attempt useful; an error when there is nothing.
    async fn mend(
        &self,
        node: &Node,
        link: &Arc<Link>,
        script: &Script,
        error: NoAnswer,
        deadline: Instant,
    ) -> Result<String, String> {
        let error = match error {
            NoAnswer::Said(error) => error,
            NoAnswer::NotInTime => {
                let timeout = self.shards.timeout();
                // One late answer may be this machine's own fault, and must not refuse what others are answered.
                if link.silent_for() >= timeout.saturating_mul(SILENT_TIMEOUTS) {
                    node.doubt(link, &format!("no answer to anyone within {:?}", link.silent_for()));
                }
                return Err(format!("no answer within {timeout:?}"));
            }
        };
        let why = error.to_string();
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => {
                return link
                    .ask(&script.load(), deadline)
                    .await
                    .map(|_| why)
                    .map_err(|_| "it does not take a script".to_owned());
            }
            ErrorKind::Server(ServerErrorKind::Moved) => {
                return if self.shards.refreshed(deadline).await { Ok(why) } else { Err(why) };
            }
            // While a slot is on its way, its keys are on two servers and no script can see them all.
            ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown) => {
                self.shards.is_wrong();
            }
            _ if is_broken(&error) => node.doubt(link, &why),
            _ => {}
        }
        Err(why)
    }
}

fn not_asked(why: String) -> CounterError {
    CounterError::Unavailable(Outage::not_asked(why))
}

fn unanswered(node: &Node, why: &str) -> CounterError {
    CounterError::Unavailable(Outage::unanswered(format!("redis at {}: {why}", node.name())))
}
