//! Sockets of the scripted provider and the handle that a test holds.
//!
//! Speaks HTTP/1.1 and cleartext HTTP/2 on one port, without Nagle's delay. Everything it spawned ends with
//! [`ScriptedProvider::shutdown`], or with the handle.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use std::borrow::Cow;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bill::{Bill, Ledger};
use super::exchange;
use super::ratelimit::{Limiter, Window};
use super::replay::Recording;
use super::reply::Reply;
use super::script::Script;
use super::seen::{SeenRequest, SeenRing};
use super::wire::{self, Slot};

/// Where a provider in another process shows its bill: `GET`, answered with the JSON of [`Bill`].
pub const BILL_PATH: &str = "/_provider/bill";

/// Pause after a failed accept, when file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What all connections of a provider share.
#[derive(Debug, Default)]
pub(crate) struct State {
    script: RwLock<Arc<Script>>,
    queued: Mutex<VecDeque<Reply>>,
    queued_count: AtomicUsize,
    recordings: RwLock<HashMap<String, Reply>>,
    limiter: Limiter,
    matches: Mutex<Vec<u64>>,
    pub(crate) ledger: Ledger,
    pub(crate) seen: SeenRing,
    pub(crate) next_id: AtomicU64,
}

impl State {
    pub(crate) fn script(&self) -> Arc<Script> {
        Arc::clone(&self.script.read())
    }

    pub(crate) fn recording(&self, id: &str) -> Option<Reply> {
        self.recordings.read().get(id).cloned()
    }

    pub(crate) fn next_queued(&self) -> Option<Reply> {
        if self.queued_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let next = self.queued.lock().pop_front();
        self.queued_count.fetch_sub(usize::from(next.is_some()), Ordering::AcqRel);
        next
    }

    /// The reply of the first standing fault that this request triggers. `named` is the model that its path names.
    pub(crate) fn standing_fault(
        &self,
        script: &Script,
        credential: &str,
        named: Option<&str>,
        body: &[u8],
    ) -> Option<Reply> {
        #[derive(Deserialize)]
        struct Peek<'a> {
            #[serde(borrow)]
            model: Option<Cow<'a, str>>,
        }
        if script.faults.is_empty() {
            return None;
        }
        let model = || serde_json::from_slice::<Peek<'_>>(body).ok().and_then(|peek| peek.model).unwrap_or_default();
        let model = named.map_or_else(model, Cow::Borrowed);
        let mut matches = self.matches.lock();
        matches.resize(script.faults.len(), 0);
        script.faults.iter().zip(matches.iter_mut()).find_map(|(rule, count)| {
            let key_fits = rule.credential.as_deref().is_none_or(|wanted| wanted == credential);
            let model_fits = rule.model.as_deref().is_none_or(|wanted| wanted == model);
            if !key_fits || !model_fits {
                return None;
            }
            *count += 1;
            (rule.every > 0 && *count % rule.every == 0).then(|| rule.reply.clone())
        })
    }

    pub(crate) fn take(&self, script: &Script, credential: &str, now: Instant) -> Option<Window> {
        Some(self.limiter.take(credential, script.limit_of(credential)?, now))
    }
}

/// A running scripted provider.
#[derive(Debug)]
pub struct ScriptedProvider {
    addr: SocketAddr,
    state: Arc<State>,
    stop: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl ScriptedProvider {
    /// Binds and serves. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(script: Script) -> std::io::Result<Self> {
        let wanted = script.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = std::net::TcpListener::bind(wanted)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        let state = Arc::new(State { script: RwLock::new(Arc::new(script)), ..State::default() });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state), stopped));
        Ok(Self { addr, state, stop, tasks: tokio::sync::Mutex::new(tasks) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What clients call their base URL: `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// What it would charge so far.
    #[must_use]
    pub fn bill(&self) -> Bill {
        self.state.ledger.bill()
    }

    /// The last requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state.seen.all()
    }

    /// Requests that arrived since the start.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.state.seen.count()
    }

    /// Waits until at least `count` requests have arrived since the start.
    pub async fn wait_for_requests(&self, count: u64) {
        self.state.seen.wait(count).await;
    }

    /// Does from now on what this script says; answers under way keep the old one. `listen` is not read again.
    pub fn set_script(&self, script: Script) {
        self.state.matches.lock().clear();
        *self.state.script.write() = Arc::new(script);
    }

    /// Changes the script in place.
    pub fn change_script(&self, change: impl FnOnce(&mut Script)) {
        let mut script = Script::clone(&self.state.script());
        change(&mut script);
        self.set_script(script);
    }

    /// Queues a reply for one POST request; queued replies are used in order, before the script.
    pub fn push(&self, reply: Reply) {
        let mut queued = self.state.queued.lock();
        queued.push_back(reply);
        self.state.queued_count.fetch_add(1, Ordering::AcqRel);
    }

    /// Serves these recordings to requests that name one in `x-recording-id`, byte for byte.
    pub fn serve_recordings<'a>(&self, recordings: impl IntoIterator<Item = &'a Recording>) {
        let named = |recording: &Recording| (recording.id.clone(), Reply::from_recording(recording, None));
        self.state.recordings.write().extend(recordings.into_iter().map(named));
    }

    /// Closes the listener and every connection, and waits until they are gone.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(connections.spawn(connection(socket, Arc::clone(&state)))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves one connection; a fault below HTTP is carried out after HTTP has left the socket.
async fn connection(socket: TcpStream, state: Arc<State>) {
    let slot: Slot = Slot::default();
    let Ok((socket, twin)) = twins(socket) else { return };
    let service = service_fn(|request| exchange::serve(Arc::clone(&state), Arc::clone(&slot), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1024);
    // A connection that ends badly is the client's business, or the script's.
    drop(builder.serve_connection(TokioIo::new(socket), service).await);
    let fault = slot.lock().take();
    if let Some(fault) = fault {
        wire::carry_out(fault, twin).await;
    }
}

/// Two handles of one socket: one for HTTP, one for what may come after it.
fn twins(socket: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    socket.set_nodelay(true)?;
    let socket = socket.into_std()?;
    let twin = socket.try_clone()?;
    Ok((TcpStream::from_std(socket)?, twin))
}
