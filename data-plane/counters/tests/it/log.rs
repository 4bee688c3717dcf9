//! What the thread of a test logs.
//!
//! One subscriber for the whole process writes to a buffer of each thread: with a subscriber per thread, `tracing` may remember of a place in the code
//! that nobody listens to it, because nobody did in the thread that first came by, and then says nothing to those who do.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use crate::redis_server::PATIENCE;

thread_local! {
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lines that this thread logged since [`Log::here`].
pub struct Log(());

impl Log {
    /// Starts to listen. For tests whose runtime is the thread's own.
    pub fn here() -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Writer).finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
        });
        LOGGED.with_borrow_mut(Vec::clear);
        Self(())
    }

    /// Waits until this many lines have the words in them: what is told to others is logged just after.
    pub async fn wait_for(&self, words: &str, count: usize) {
        let logged = async {
            while self.lines(words).len() < count {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, logged).await.is_ok();
        assert!(in_time, "not {count} times {words:?} in {:?}", self.lines(""));
    }

    /// Those with the words in them.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let text = String::from_utf8(LOGGED.with_borrow(Vec::clone)).unwrap();
        text.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
