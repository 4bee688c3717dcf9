//! Administration: the only writer of workspaces, operators, keys, credentials and models.
//!
//! Every mutation is one straight line: validate, write rows, move to the next revision under a new seal, append an entry to the administrators'
//! chain, commit, publish. Rows and entry are one transaction, so that nothing changes without a trace. Reads and refused calls are entries, too.
//! An operator who is bound to a workspace sees nothing else: what belongs to another one is answered as what does not exist, by the same steps.
//! Commit and publication run in a task of their own: a caller who hangs up cannot come between them.

pub mod authenticate;
pub mod credentials;
pub mod deployment;
mod error;
pub mod explain;
mod failures;
mod follow;
mod inquiry;
mod key_life;
pub mod key_update;
pub mod keys;
mod labels;
pub mod models;
pub mod nodes;
pub mod operators;
pub mod page;
pub mod receipts;
pub mod roles;
pub mod roster;
pub mod state_seal;
mod strangers;
pub mod workspaces;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::audit::admin::AdminOutcome;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, OperatorId, WorkspaceId};
use keyforge_shared::state::{Change, State};
use keyforge_shared::state_seal::SealSum;
use tokio::sync::{Mutex as TurnMutex, OwnedMutexGuard};

use crate::audit::{AdminAct, Audit};
use crate::publish::hub::Hub;
use crate::store::sql::Conn;
use crate::store::{Store, StoreError, Tx, deployment as stored_deployment, locks, state_changes};
use crate::vault::Vault;

use failures::Failures;
use roster::Roster;
use state_seal::StateSeal;
use strangers::Strangers;

pub use error::AdminError;

/// Longest text that an entry keeps about why a call failed, in characters.
const MAX_REASON: usize = 1_000;

/// The administration of one deployment. Clones share it.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    vault: Arc<Vault>,
    audit: Arc<Audit>,
    hub: Hub,
    /// The revision that is published and its seal, for a look that needs no turn.
    position: Mutex<(u64, Vec<u8>)>,
    /// Runs commits to their end.
    shutdown: Shutdown,
    strangers: Strangers,
    failures: Failures,
    seal: StateSeal,
    /// As of the published revision. Replaced by whoever has the turn.
    roster: RwLock<Arc<Roster>>,
    /// Held from a mutation's first look at the state until its publication: the sum of the published state, which its seal is made of.
    turn: Arc<TurnMutex<SealSum>>,
}

/// What a seal held for when a deployment was opened, and what makes the next ones.
pub struct Sealed {
    /// Seals states.
    pub seal: StateSeal,
    /// Sum of the state.
    pub sum: SealSum,
    /// The operators.
    pub roster: Roster,
}

/// Someone who proved to be an operator who may make the call.
#[derive(Clone, Debug)]
pub struct Caller {
    operator: OperatorId,
    peer: String,
    workspace: Option<WorkspaceId>,
}

impl Caller {
    /// Who.
    #[must_use]
    pub const fn operator(&self) -> OperatorId {
        self.operator
    }

    /// Where from.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The only workspace that they see; `None` for all.
    #[must_use]
    pub const fn workspace(&self) -> Option<WorkspaceId> {
        self.workspace
    }
}

/// A call as its entry names it.
#[derive(Clone, Debug)]
struct Call {
    operator: OperatorId,
    peer: String,
    method: &'static str,
    target: String,
    /// The only workspace that the caller sees; `None` for all.
    workspace: Option<WorkspaceId>,
}

impl Call {
    fn new(caller: &Caller, method: &'static str, target: impl fmt::Display) -> Self {
        let (operator, peer, workspace) = (caller.operator, caller.peer.clone(), caller.workspace);
        Self { operator, peer, method, target: target.to_string(), workspace }
    }

    /// What the control plane does on its own account.
    fn of_control_plane(method: &'static str, target: impl fmt::Display) -> Self {
        let (operator, peer) = (OperatorId::from_bytes([0; 16]), "control plane".to_owned());
        Self { operator, peer, method, target: target.to_string(), workspace: None }
    }

    fn act(&self, outcome: AdminOutcome, detail: String) -> AdminAct {
        let Self { operator, peer, method, target, .. } = self.clone();
        AdminAct { operator, peer, method, target, outcome, detail }
    }
}

/// A mutation under way: a transaction, and the right to publish what it changes. Dropping it undoes it.
struct Edit {
    tx: Tx,
    turn: OwnedMutexGuard<SealSum>,
    held: u64,
    now: Timestamp,
}

impl Edit {
    /// The revision that the mutation leads to.
    const fn revision(&self) -> u64 {
        self.held + 1
    }

    fn connection(&mut self) -> &mut Conn {
        &mut self.tx
    }
}

impl Admin {
    /// Administration over an opened deployment, whose state is in `hub`.
    #[must_use]
    pub fn new(
        store: Store,
        vault: Arc<Vault>,
        audit: Arc<Audit>,
        hub: Hub,
        sealed: Sealed,
        shutdown: Shutdown,
    ) -> Self {
        let Sealed { seal, sum, roster } = sealed;
        let revision = hub.revision();
        Self {
            inner: Arc::new(Inner {
                store,
                vault,
                audit,
                hub,
                position: Mutex::new((revision, seal.seal(revision, sum, &roster).to_vec())),
                shutdown,
                strangers: Strangers::default(),
                failures: Failures::default(),
                seal,
                roster: RwLock::new(Arc::new(roster)),
                turn: Arc::new(TurnMutex::new(sum)),
            }),
        }
    }

    /// Records a read or another call that changes nothing here, or one that failed, as an entry of the administrators' chain.
    ///
    /// # Errors
    /// [`AdminError`] when the entry cannot be written; the caller must then not be answered.
    pub async fn record(
        &self,
        caller: &Caller,
        method: &'static str,
        target: impl fmt::Display,
        outcome: AdminOutcome,
        detail: impl fmt::Display,
    ) -> Result<(), AdminError> {
        self.append(Call::new(caller, method, target).act(outcome, brief(detail))).await
    }

    /// Records that a call was refused before it got anywhere, and gives the refusal back.
    pub async fn refuse(
        &self,
        caller: &Caller,
        method: &'static str,
        target: impl fmt::Display,
        error: AdminError,
    ) -> AdminError {
        self.note_failure(&Call::new(caller, method, target), error).await
    }

    /// Runs a mutation, which records itself when it succeeds; when it fails, that is recorded here.
    async fn attempt<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, AdminError> {
        match work.await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.note_failure(call, error).await),
        }
    }

    /// Runs a read and records how it ended. Nothing is read without a trace.
    async fn look<T>(&self, call: &Call, work: impl Future<Output = Result<T, AdminError>>) -> Result<T, AdminError> {
        let value = self.attempt(call, work).await?;
        self.append(call.act(AdminOutcome::Done, String::new())).await?;
        Ok(value)
    }

    async fn note_failure(&self, call: &Call, error: AdminError) -> AdminError {
        if let Err(unrecorded) = self.append(call.act(error.outcome(), brief(&error))).await {
            tracing::error!(method = call.method, %error, %unrecorded, "a refused call could not be recorded");
        }
        error
    }

    /// Carries `work` out to its end, also if whoever waits for it hangs up.
    ///
    /// # Errors
    /// [`AdminError::Interrupted`] when it panicked.
    pub async fn to_its_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, AdminError> {
        self.inner.shutdown.spawn(name, work).await.map_err(|_| AdminError::Interrupted)
    }

    async fn append(&self, act: AdminAct) -> Result<(), AdminError> {
        let mut tx = self.inner.store.write().await?;
        self.inner.audit.append_admin(&mut tx, act).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }

    /// The operators, as of the published revision.
    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.inner.roster.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other operators in their place. Only whoever has the turn may.
    fn replace_roster(&self, roster: Arc<Roster>) {
        *self.inner.roster.write().unwrap_or_else(PoisonError::into_inner) = roster;
    }

    /// Refuses a virtual key that the operator of a call does not see, in the words and by the steps for one that does not exist. `workspace` is the only
    /// one that they see.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]. An operator of the whole deployment is told by whoever looks the key up.
    pub fn unless_hidden(&self, workspace: Option<WorkspaceId>, key: KeyId) -> Result<(), AdminError> {
        let Some(own) = workspace else { return Ok(()) };
        // Looked up in memory, where a miss and another's key cost the same; a key never changes its workspace.
        let seen = self.inner.hub.with_state(|state| state.key(key).is_some_and(|key| key.workspace == own));
        if seen { Ok(()) } else { Err(AdminError::not_found("virtual key", key)) }
    }

    /// Begins a mutation; one at a time, also over all control planes that share the database.
    async fn edit(&self) -> Result<Edit, AdminError> {
        let mut turn = Arc::clone(&self.inner.turn).lock_owned().await;
        let mut tx = self.inner.store.write().await?;
        locks::state(&mut tx).await?;
        self.catch_up(&mut tx, &mut turn).await?;
        Ok(Edit { tx, turn, held: self.inner.hub.revision(), now: self.inner.store.now() })
    }

    /// Refuses to go on from a row that is not what is published: what somebody else wrote there must not be taken over into the state.
    fn unless_published<T: PartialEq>(
        &self,
        row: &T,
        published: impl FnOnce(&State) -> Option<Arc<T>>,
        table: &'static str,
    ) -> Result<(), AdminError> {
        let same = self.inner.hub.with_state(published).is_some_and(|published| *published == *row);
        if same { Ok(()) } else { Err(StoreError::Corrupt(table).into()) }
    }

    /// Commits a mutation with its entry and publishes its changes. Without changes the revision stays.
    async fn commit(&self, edit: Edit, call: &Call, detail: String, changes: Vec<Change>) -> Result<(), AdminError> {
        self.commit_all(edit, call, detail, changes, None).await
    }

    /// Commits a change of operators. It is a revision without changes for nodes, so that an older copy of the operators is noticed like one of keys.
    async fn commit_operators(
        &self,
        edit: Edit,
        call: &Call,
        detail: String,
        roster: Roster,
    ) -> Result<(), AdminError> {
        self.commit_all(edit, call, detail, Vec::new(), Some(roster)).await
    }

    async fn commit_all(
        &self,
        mut edit: Edit,
        call: &Call,
        detail: String,
        changes: Vec<Change>,
        operators: Option<Roster>,
    ) -> Result<(), AdminError> {
        let (held, parts) = (edit.held, Arc::clone(&self.inner));
        let sum = parts.hub.with_state(|state| parts.seal.sum_after(*edit.turn, state, &changes));
        let (moves, operators) = (!changes.is_empty() || operators.is_some(), operators.map(Arc::new));
        let seal = if moves {
            let roster = operators.clone().unwrap_or_else(|| self.roster());
            let seal = parts.seal.seal(edit.revision(), sum, &roster);
            stored_deployment::advance_revision(edit.connection(), held, &seal).await?;
            state_changes::insert(edit.connection(), &follow::row(held, &changes, &seal, roster.digest())?).await?;
            Some(seal)
        } else {
            None
        };
        parts.audit.append_admin(edit.connection(), call.act(AdminOutcome::Done, detail)).await?;
        let Edit { tx, mut turn, .. } = edit;
        let this = self.clone();
        let committing = self.to_its_end("commit", async move {
            tx.commit().await?;
            if let Some(operators) = operators {
                this.replace_roster(operators);
            }
            if let Some(seal) = seal {
                this.inner.hub.commit(changes);
                *turn = sum;
                this.set_position((this.inner.hub.revision(), seal.to_vec()));
            }
            drop(turn);
            Ok::<(), StoreError>(())
        });
        Ok(committing.await??)
    }
}

impl Admin {
    fn set_position(&self, position: (u64, Vec<u8>)) {
        *self.inner.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    /// The revision that is published, and its seal.
    fn position(&self) -> (u64, Vec<u8>) {
        self.inner.position.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn brief(text: impl fmt::Display) -> String {
    text.to_string().chars().take(MAX_REASON).collect()
}
