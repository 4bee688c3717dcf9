//! A TCP load balancer, as one stands in front of several control planes. It leads every connection to one that accepts it, and looks at no byte.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Which control plane a connection goes to. One that is away is passed over.
#[derive(Clone, Copy, Debug)]
pub enum Routing {
    /// Each connection to the next one.
    InTurn,
    /// All to the same one.
    Home,
}

/// A running balancer.
pub struct Balancer {
    pub address: SocketAddr,
    cut: Arc<Notify>,
    /// Connections that came so far.
    led: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Leads to the addresses that these files name at the moment of each connection, beginning with the one of this number.
    pub async fn start(behind: Vec<PathBuf>, first: usize, routing: Routing) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
        let (behind, on_cut) = (Arc::<[PathBuf]>::from(behind), Arc::clone(&cut));
        let led = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&led);
        let task = tokio::spawn(async move {
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                let choice = match routing {
                    Routing::InTurn => first + number,
                    Routing::Home => first,
                };
                tokio::spawn(lead(client, Arc::clone(&behind), choice, Arc::clone(&on_cut)));
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { address, cut, led, task }
    }

    /// How many connections came so far.
    pub fn led(&self) -> usize {
        self.led.load(Ordering::Relaxed)
    }

    /// Cuts every connection. Whoever had one connects again.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

/// Carries bytes both ways until either side ends; then neither is kept waiting for the other.
async fn lead(mut client: TcpStream, behind: Arc<[PathBuf]>, choice: usize, cut: Arc<Notify>) {
    let cut = cut.notified();
    for number in 0..behind.len() {
        let Some(mut server) = connect(&behind[(choice + number) % behind.len()]).await else { continue };
        client.set_nodelay(true).unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
        tokio::select! {
            _ = copy(&mut from_client, &mut to_server) => {}
            _ = copy(&mut from_server, &mut to_client) => {}
            () = cut => {}
        }
        return;
    }
}

async fn connect(file: &Path) -> Option<TcpStream> {
    let address = std::fs::read_to_string(file).ok()?;
    let server = TcpStream::connect(address.trim()).await.ok()?;
    server.set_nodelay(true).ok()?;
    Some(server)
}
