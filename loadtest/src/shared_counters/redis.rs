//! What a Redis server says of the scripts it ran: the line of EVALSHA in `INFO commandstats`.
//!
//! One connection per question, one command in the inline form of the protocol; nothing is changed on the server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::load::ProcessTree;

/// How long an answer may take.
const CALL: Duration = Duration::from_secs(5);

/// Most bytes of an answer that is read.
const ANSWER_BYTES: u64 = 256 * 1024;

/// A Redis server under test.
#[derive(Clone, Debug)]
pub struct RedisServer {
    addr: SocketAddr,
    /// Its process.
    pub process: ProcessTree,
}

/// Scripts that a server ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// How many.
    pub calls: u64,
    /// How long they took together, without reading the question and writing the answer.
    pub time: Duration,
}

impl RedisServer {
    /// The server at `redis://ADDRESS:PORT` with this process id.
    ///
    /// # Errors
    /// The URL is another one.
    pub fn at(url: &str, process: u32) -> anyhow::Result<Self> {
        let addr = url.strip_prefix("redis://").and_then(|rest| rest.parse().ok());
        let addr = addr.with_context(|| format!("{url} is not redis://ADDRESS:PORT"))?;
        Ok(Self { addr, process: ProcessTree::of([process]) })
    }

    /// The scripts that it ran since it was started.
    ///
    /// # Errors
    /// It does not answer, or not as Redis does.
    pub async fn scripts(&self) -> anyhow::Result<Scripts> {
        let info = timeout(CALL, self.info()).await.context("Redis gives no answer").flatten()?;
        Scripts::parse(&info)
    }

    async fn info(&self) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.addr).await.context("cannot connect to Redis")?;
        stream.write_all(b"INFO commandstats\r\n").await?;
        let mut answer = BufReader::new(stream.take(ANSWER_BYTES));
        let mut head = String::new();
        answer.read_line(&mut head).await?;
        let length = head.trim_end().strip_prefix('$').and_then(|length| length.parse().ok());
        let Some(length) = length else { bail!("INFO: Redis answered {}", head.trim_end()) };
        ensure!(length < ANSWER_BYTES, "INFO: Redis announced {length} bytes");
        let mut body = String::new();
        answer.take(length).read_to_string(&mut body).await?;
        ensure!(body.len() as u64 == length, "INFO: the answer broke off");
        Ok(body)
    }
}

impl Scripts {
    /// Reads `INFO commandstats`. A command that was never called has no line.
    ///
    /// # Errors
    /// The line of EVALSHA has no count or no time.
    pub fn parse(info: &str) -> anyhow::Result<Self> {
        let Some(line) = info.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:")) else {
            return Ok(Self::default());
        };
        let number = |name: &str| {
            let fields = line.trim_end().split(',').filter_map(|field| field.split_once('='));
            let value = fields.filter(|(field, _)| *field == name).find_map(|(_, value)| value.parse().ok());
            value.with_context(|| format!("INFO: no {name} of EVALSHA in {line}"))
        };
        Ok(Self { calls: number("calls")?, time: Duration::from_micros(number("usec")?) })
    }

    /// Those since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self { calls: self.calls.saturating_sub(earlier.calls), time: self.time.saturating_sub(earlier.time) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const INFO: &str = "# Commandstats\r\n\
        cmdstat_hget:calls=90,usec=70,usec_per_call=0.78,rejected_calls=0,failed_calls=0\r\n\
        cmdstat_evalsha:calls=40,usec=1100,usec_per_call=27.50,rejected_calls=1,failed_calls=2\r\n\
        cmdstat_evalsha_ro:calls=1,usec=3,usec_per_call=3.00,rejected_calls=0,failed_calls=0\r\n";

    #[test]
    fn count_and_time_are_those_of_evalsha() {
        let seen = Scripts::parse(INFO).unwrap();
        assert_eq!(seen, Scripts { calls: 40, time: Duration::from_micros(1100) });
        let earlier = Scripts { calls: 30, time: Duration::from_micros(900) };
        assert_eq!(seen.since(&earlier), Scripts { calls: 10, time: Duration::from_micros(200) });
    }

    #[test]
    fn a_server_that_ran_no_script_has_no_line_and_one_that_says_otherwise_is_not_believed() {
        assert_eq!(Scripts::parse("# Commandstats\r\n").unwrap(), Scripts::default());
        for line in ["cmdstat_evalsha:calls=40", "cmdstat_evalsha:calls=x,usec=1", "cmdstat_evalsha:"] {
            let error = Scripts::parse(line).unwrap_err().to_string();
            assert!(error.contains("EVALSHA"), "{error}");
        }
    }

    async fn asked(answer: String) -> anyhow::Result<Scripts> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = RedisServer::at(&format!("redis://{}", listener.local_addr().unwrap()), 1).unwrap();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut question = [0; 19];
            socket.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"INFO commandstats\r\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(server.scripts(), serve).0
    }

    #[tokio::test]
    async fn an_answer_is_read_by_its_length_and_a_refusal_is_told() {
        assert_eq!(asked(format!("${}\r\n{INFO}\r\n", INFO.len())).await.unwrap().calls, 40);
        assert!(asked("-NOAUTH first\r\n".to_owned()).await.unwrap_err().to_string().contains("NOAUTH"));
        assert!(asked("$9\r\nshort".to_owned()).await.unwrap_err().to_string().contains("broke off"));
        assert!(RedisServer::at("rediss://127.0.0.1:1", 1).is_err());
    }
}
