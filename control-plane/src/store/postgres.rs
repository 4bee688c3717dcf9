//! PostgreSQL: a database that several control planes share.
//!
//! A commit is on the server's disk when it returns, whatever the server's defaults are. A connection that broke is replaced; what was under way on it
//! fails and was undone. No answer is waited for without end, but for a step of the schema. What a control plane that died held is let go by the server as soon as it notices, within half a minute.

use std::io;
use std::time::Duration;

use keyforge_runtime::config::SecretError;
use keyforge_runtime::shutdown::Shutdown;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::{Instant, sleep, timeout_at};

use super::partitions::Made;
use super::sql::Tx;
use super::timely::{Patience, Timely};
use super::{StoreError, migrate};
use crate::config::DatabaseConfig;

/// How long a caller waits for a connection. Nodes ask again, elsewhere if they can.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after the first connection was refused it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long a caller waits for a transaction to begin, which nothing but the server's silence can hold up.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement that may write, or a commit, may take: twice as long as one waits for a lock.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a statement that reads may take: reports and histories go through many rows.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the first questions to the server may take altogether, which no lock and no other work there can hold up.
const FIRST_QUESTIONS: Duration = Duration::from_secs(10);
/// A connection that was idle for so long is asked whether it still works before it is used.
const IDLE_CHECK: Duration = Duration::from_secs(1);
/// Channel on which a control plane is told that another one moved the replicated state.
pub(super) const CHANNEL: &str = "keyforge_state";
/// The oldest server that is supported, as it numbers itself.
const OLDEST: i32 = 150_000;

/// Connections to a server.
pub(super) struct Postgres {
    pool: PgPool,
    pub(super) made: Made,
    /// Undoes what was given up.
    tasks: Shutdown,
}

impl Postgres {
    /// Connects, and brings the schema up to date, one control plane at a time.
    pub(super) async fn open(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let options = options(config)?;
        let unusable = |source| StoreError::Server { at: place(config), source };
        let mut connection = first_connection(&options).await.map_err(unusable)?;
        let asked = tokio::time::timeout(FIRST_QUESTIONS, first_questions(&mut connection)).await;
        asked.map_err(|_| unusable(timed_out()))??;
        migrate::postgres(&mut connection).await?;
        // What came of it is committed, whether or not the server hears that this connection ends.
        drop(connection.close().await);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections)
            .min_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > IDLE_CHECK {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self { pool, made: Made::default(), tasks: Shutdown::new() })
    }

    pub(super) async fn write(&self) -> Result<Tx, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", WRITE_TIMEOUT).await
    }

    pub(super) async fn read(&self) -> Result<Tx, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", READ_TIMEOUT).await
    }

    async fn begin(&self, statement: &'static str, each_within: Duration) -> Result<Tx, StoreError> {
        let (connection, patience) = (self.pool.acquire().await?, Patience::of(each_within));
        let begun = Timely::begin(connection, statement, BEGIN_TIMEOUT, patience, self.tasks.clone());
        // To its end although the caller may hang up: a connection whose transaction half began would have to be thrown away.
        let begun = self.tasks.spawn_background("begin", begun);
        let tx = begun.await.map_err(|_| sqlx::Error::BeginFailed)??;
        Ok(Tx::in_postgres(tx, self.made.clone()))
    }

    /// A connection of its own that hears what others tell.
    pub(super) async fn listen(&self) -> Result<PgListener, StoreError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.ignore_pool_close_event(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// The connection for the steps of the schema. A server that does not listen yet, or does not let anybody in yet, is asked again for a while; then its
/// own last word is the error, which a pool of connections would keep to itself.
async fn first_connection(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let until = Instant::now() + ACQUIRE_TIMEOUT;
    loop {
        let connected = timeout_at(until, PgConnection::connect_with(options)).await;
        match connected.unwrap_or_else(|_| Err(timed_out())) {
            Err(error) if is_starting(&error) && Instant::now() + ASK_AGAIN < until => sleep(ASK_AGAIN).await,
            connected => return connected,
        }
    }
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

/// Whether a server that was started just now answers so.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        // It has no connection to spare, or is starting.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| ["53300", "57P03"].contains(&code.as_ref())),
        _ => false,
    }
}

/// How errors call the server: its address, or its socket. Never who connects.
fn place(config: &DatabaseConfig) -> String {
    let DatabaseConfig { host, port, .. } = config;
    match host {
        _ if host.starts_with('/') => format!("{host}/.s.PGSQL.{port}"),
        _ if host.contains(':') => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Asks whether the server is one that can be used, and prepares the connection for the steps of the schema.
async fn first_questions(connection: &mut PgConnection) -> Result<(), StoreError> {
    let version: i32 =
        sqlx::query_scalar("SELECT current_setting('server_version_num')::int").fetch_one(&mut *connection).await?;
    if version < OLDEST {
        return Err(StoreError::OldServer(version / 10_000));
    }
    let is_durable: bool =
        sqlx::query_scalar("SELECT current_setting('fsync')::bool").fetch_one(&mut *connection).await?;
    if !is_durable {
        tracing::warn!(
            "the PostgreSQL server runs with fsync = off: a crash of its host loses or breaks what was committed"
        );
    }
    // Another control plane may be at it, for as long as a step takes.
    sqlx::query("SET lock_timeout = 0").execute(&mut *connection).await?;
    Ok(())
}

/// How to connect. Every value is set here, so that no variable of the environment changes any.
fn options(config: &DatabaseConfig) -> Result<PgConnectOptions, StoreError> {
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&config.host)
        .port(config.port)
        .username(&config.user)
        .database(&config.name)
        .application_name("keyforge-control-plane")
        .ssl_mode(if config.is_local() { PgSslMode::Disable } else { PgSslMode::VerifyFull })
        .disable_statement_logging()
        .options([
            ("synchronous_commit", "on"),
            ("lock_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "30s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("jit", "off"),
        ]);
    if let Some(file) = &config.ca_file {
        options = options.ssl_root_cert(file);
    }
    let password = config.password.as_ref().map(|reference| reference.resolve()).transpose();
    let password = password.map_err(|error: SecretError| StoreError::Password(error.to_string()))?;
    if let Some(password) = password {
        let text = std::str::from_utf8(password.expose());
        options = options.password(text.map_err(|_| StoreError::Password("it is not UTF-8".to_owned()))?);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// "You may speak", and "I am ready", as the protocol has them.
    const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

    #[tokio::test]
    async fn server_that_lets_everybody_in_and_answers_nothing_ends_the_start() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://kf@{}/kf", server.local_addr().unwrap());
        let silent = async {
            let (mut client, _) = server.accept().await.unwrap();
            let mut told = [0; 1_024];
            assert!(client.read(&mut told).await.unwrap() > 8);
            client.write_all(WELCOME).await.unwrap();
            while client.read(&mut told).await.unwrap() > 0 {}
        };
        let config = DatabaseConfig::local(&url).unwrap();
        let opened = tokio::time::timeout(FIRST_QUESTIONS * 2, async {
            tokio::select! {
                opened = Postgres::open(&config) => opened,
                () = silent => panic!("the connection was given up before the start was"),
            }
        });
        let error = opened.await.expect("the start waits without end").err().unwrap();
        assert!(error.is_passing() && error.to_string().contains("timed out"), "{error}");
    }

    #[tokio::test]
    async fn server_that_does_not_listen_is_named_with_the_cause_and_without_the_user() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let config = DatabaseConfig::local(&format!("postgres://somebody@{nobody}/kf")).unwrap();
        let error = Postgres::open(&config).await.err().unwrap();
        let (text, expected) =
            (error.to_string(), format!("cannot use the PostgreSQL server at {nobody}: Connection refused"));
        assert!(error.is_passing() && text.starts_with(&expected) && text.contains("is it running"), "{text}");
        assert!(!text.contains("somebody"), "{text}");
    }

    #[test]
    fn server_is_called_by_its_address_or_its_socket() {
        let at = |url: &str| place(&DatabaseConfig::local(url).unwrap());
        assert_eq!(at("postgres://kf@[::1]:6000/kf"), "[::1]:6000");
        assert_eq!(at("postgres://kf@localhost/kf?host=/run/postgresql"), "/run/postgresql/.s.PGSQL.5432");
    }
}
