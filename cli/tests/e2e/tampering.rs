//! Tampering: whoever edits the database behind the gateway's back is found out, and the first entry that is not what was chained is named (I-18).
//!
//! Each case edits a copy of the same data directory, while nothing runs on it, and starts the gateway on the copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use keyforge_loadtest::provider::{Script, ScriptedProvider};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tokio::process::Command;

use crate::harness::{Gateway, PATIENCE, hello, provider, quota};

/// Length of the chain that is tampered with.
const LENGTH: i64 = 8;
/// The entry in its middle.
const MIDDLE: i64 = 4;

/// One way to tamper with the chain `?1`.
enum Edit {
    /// Turns over the lowest bit of one byte of a blob in an entry.
    Entry { seq: i64, column: &'static str, offset: usize },
    /// The same in the chain's own row.
    Chain { column: &'static str, offset: usize },
    /// Statements, one after the other.
    Sql(&'static [&'static str]),
    /// Entries after the sixth go, and the head that was sealed over the sixth comes back.
    RollBack,
}

/// What verification of the chain must say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// This entry is the first that does not hold.
    At(u64),
    /// All links hold, and the ledger contradicts them.
    Ledger,
}

struct Case {
    name: &'static str,
    edit: Edit,
    found: Found,
}

const fn case(name: &'static str, edit: Edit, seq: u64) -> Case {
    Case { name, edit, found: Found::At(seq) }
}

const fn blob(name: &'static str, column: &'static str, offset: usize) -> Case {
    case(name, Edit::Entry { seq: MIDDLE, column, offset }, 4)
}

const fn sql(name: &'static str, statements: &'static [&'static str], seq: u64) -> Case {
    case(name, Edit::Sql(statements), seq)
}

const fn row(name: &'static str, column: &'static str, offset: usize, seq: u64) -> Case {
    case(name, Edit::Chain { column, offset }, seq)
}

/// A stopped gateway with a chain of eight requests, and the chain of another key.
struct Evidence {
    provider: ScriptedProvider,
    gateway: Gateway,
    original: PathBuf,
    copies: PathBuf,
    /// The key whose chain is tampered with, and one whose chain is not.
    key: String,
    bystander: String,
    bystander_token: String,
    token: String,
    chain: Vec<u8>,
    chain_name: String,
    /// The head's columns as they were after the sixth entry.
    old_head: (i64, Vec<u8>, Vec<u8>, i64),
}

impl Evidence {
    async fn gather() -> Self {
        let provider = provider(Script::default());
        let mut gateway = Gateway::start_on_a_file(&provider).await;
        let (token, key) = gateway.create_key("evidence", quota(1_000)).await;
        let (bystander_token, bystander) = gateway.create_key("bystander", quota(1_000)).await;
        let (mut chain, mut old_head) = (Vec::new(), (0, Vec::new(), Vec::new(), 0));
        for seq in 1..=LENGTH {
            assert_eq!(gateway.chat_as(&token, &hello()).await.status, 200);
            // One at a time, so that each is an entry of its own time.
            gateway.entries(&key, usize::try_from(seq).unwrap()).await;
            if seq == 6 {
                let mut database = connect(&gateway.database()).await;
                let select =
                    "SELECT chain_id, head_seq, head_hash, head_seal, head_time FROM chains WHERE 'vk_' || key_id = ?1";
                let row = sqlx::query(select).bind(&key).fetch_one(&mut database).await.unwrap();
                chain = row.get(0);
                old_head = (row.get(1), row.get(2), row.get(3), row.get(4));
                database.close().await.unwrap();
                assert_eq!(old_head.0, 6);
            }
        }
        assert_eq!(gateway.chat_as(&bystander_token, &hello()).await.status, 200);
        gateway.entries(&bystander, 1).await;
        gateway.assert_chains_hold();
        let verified = gateway.cli_json(&["audit", "verify", &key]);
        let chain_name = verified[0]["chain_id"].as_str().unwrap().to_owned();
        assert_eq!(gateway.stop().await.code(), Some(0));
        let original = gateway.data.clone();
        let copies = original.with_extension("copies");
        Self {
            provider,
            gateway,
            original,
            copies,
            key,
            bystander,
            bystander_token,
            token,
            chain,
            chain_name,
            old_head,
        }
    }

    /// Points the gateway at a fresh copy of the data.
    fn copy(&mut self, number: usize) {
        let copy = self.copies.join(format!("case-{number}"));
        copy_directory(&self.original, &copy);
        self.gateway.data = copy;
    }

    async fn apply(&self, edit: &Edit) {
        let mut database = connect(&self.gateway.database()).await;
        match edit {
            Edit::Entry { seq, column, offset } => {
                let select = format!("SELECT {column} FROM entries WHERE chain_id = ?1 AND seq = ?2");
                let row = sqlx::query(AssertSqlSafe(select)).bind(&self.chain).bind(seq);
                let value = flipped(row.fetch_one(&mut database).await.unwrap().get(0), *offset);
                let update = format!("UPDATE entries SET {column} = ?3 WHERE chain_id = ?1 AND seq = ?2");
                let update = sqlx::query(AssertSqlSafe(update)).bind(&self.chain).bind(seq).bind(value);
                assert_eq!(update.execute(&mut database).await.unwrap().rows_affected(), 1);
            }
            Edit::Chain { column, offset } => {
                let select = format!("SELECT {column} FROM chains WHERE chain_id = ?1");
                let row = sqlx::query(AssertSqlSafe(select)).bind(&self.chain);
                let value = flipped(row.fetch_one(&mut database).await.unwrap().get(0), *offset);
                let update = format!("UPDATE chains SET {column} = ?2 WHERE chain_id = ?1");
                let update = sqlx::query(AssertSqlSafe(update)).bind(&self.chain).bind(value);
                assert_eq!(update.execute(&mut database).await.unwrap().rows_affected(), 1);
            }
            Edit::Sql(statements) => {
                for statement in *statements {
                    let done = sqlx::query(*statement).bind(&self.chain).execute(&mut database).await;
                    let rows = done.unwrap_or_else(|error| panic!("{error}: {statement}")).rows_affected();
                    assert!(rows > 0 || statement.starts_with("CREATE"), "changes nothing: {statement}");
                }
            }
            Edit::RollBack => {
                let (seq, hash, seal, time) = &self.old_head;
                let delete = sqlx::query("DELETE FROM entries WHERE chain_id = ?1 AND seq > 6").bind(&self.chain);
                assert_eq!(delete.execute(&mut database).await.unwrap().rows_affected(), 2);
                let update = "UPDATE chains SET head_seq = ?2, head_hash = ?3, head_seal = ?4, head_time = ?5 WHERE chain_id = ?1";
                let update = sqlx::query(update).bind(&self.chain).bind(seq).bind(hash).bind(seal).bind(time);
                assert_eq!(update.execute(&mut database).await.unwrap().rows_affected(), 1);
            }
        }
        database.close().await.unwrap();
    }

    /// What `audit verify` says of a key's chain: its exit code, the first bad entry, and the fault.
    fn verdict(&self, key: &str) -> (i32, Option<u64>, String) {
        let output = self.gateway.cli(&["audit", "verify", key, "--output", "json"]);
        let verdicts: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let verdict = &verdicts[0];
        let fault = verdict["fault"].as_str().map_or_else(|| lossy(&output.stderr), str::to_owned);
        (output.status.code().unwrap(), verdict["first_bad_seq"].as_u64(), fault)
    }

    /// Starts on the copy, asks for the verdicts, and returns what was not as it must be.
    async fn judge(&mut self, case: &Case) -> Result<(), String> {
        self.gateway.launch().await;
        let mut problems = Vec::new();
        let (code, seq, fault) = self.verdict(&self.key);
        let expected = match case.found {
            Found::At(seq) => Some(seq),
            Found::Ledger => None,
        };
        if (code, seq) != (1, expected) || fault.is_empty() {
            problems.push(format!("exit code {code}, first bad entry {seq:?}, expected {expected:?}: {fault}"));
        }
        let words = self.gateway.cli(&["audit", "verify", &self.key]);
        let line = lossy(&words.stdout);
        if expected.is_some_and(|seq| !line.contains(&format!("first bad entry {seq}:"))) {
            problems.push(format!("people are not told where: {line}"));
        }
        let (code, seq, fault) = self.verdict(&self.bystander);
        if (code, seq) != (0, None) {
            problems.push(format!("the other key's chain: exit code {code}, {seq:?}, {fault}"));
        }
        let admin = self.gateway.cli(&["audit", "verify", "--admin"]);
        if admin.status.code() != Some(0) {
            problems.push(format!("the administrators' chain: {}", lossy(&admin.stdout)));
        }
        let all = self.gateway.cli(&["audit", "verify", "--all", "--output", "json"]);
        let verdicts: Vec<Value> = serde_json::from_slice(&all.stdout).unwrap_or_default();
        let named = verdicts.iter().any(|verdict| verdict["holds"] == false && verdict["chain_id"] == *self.chain_name);
        let bystander = verdicts.iter().any(|verdict| verdict["holds"] == true && verdict["key_id"] == *self.bystander);
        if all.status.code() != Some(1) || !named || !bystander {
            problems.push(format!("--all: {:?} {} {}", all.status.code(), lossy(&all.stdout), lossy(&all.stderr)));
        }
        self.gateway.kill().await;
        if problems.is_empty() { Ok(()) } else { Err(format!("{}: {}", case.name, problems.join("; "))) }
    }

    async fn judge_all(&mut self, cases: &[Case]) {
        let mut problems = Vec::new();
        for (number, case) in cases.iter().enumerate() {
            self.copy(number);
            self.apply(&case.edit).await;
            problems.extend(self.judge(case).await.err());
            fs::remove_dir_all(&self.gateway.data).unwrap();
        }
        assert!(problems.is_empty(), "{} of {} cases:\n{}", problems.len(), cases.len(), problems.join("\n"));
    }
}

async fn connect(path: &Path) -> SqliteConnection {
    // A chain without its key, and the like, is what this is about.
    SqliteConnectOptions::new().filename(path).foreign_keys(false).connect().await.unwrap()
}

fn flipped(mut value: Vec<u8>, offset: usize) -> Vec<u8> {
    let offset = offset.min(value.len() - 1);
    value[offset] ^= 1;
    value
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn i_18_an_untouched_copy_holds_and_can_be_continued() {
    let mut evidence = Evidence::gather().await;
    evidence.copy(0);
    evidence.gateway.launch().await;
    assert_eq!(evidence.verdict(&evidence.key).0, 0);
    evidence.gateway.assert_chains_hold();
    assert_eq!(evidence.gateway.chat_as(&evidence.token, &hello()).await.status, 200);
    evidence.gateway.entries(&evidence.key, 9).await;
    evidence.gateway.assert_chains_hold();
    assert_eq!(evidence.provider.bill().total().requests, 10);
}

#[tokio::test]
async fn i_18_a_changed_byte_in_any_column_of_an_entry_is_found_at_that_entry() {
    let mut evidence = Evidence::gather().await;
    let cases = [
        blob("record: magic", "record", 0),
        blob("record: chain", "record", 20),
        blob("record: outcome", "record", 36),
        blob("record: request id", "record", 80),
        blob("record: in its middle", "record", 150),
        blob("record: last byte", "record", usize::MAX),
        blob("hash: first byte", "hash", 0),
        blob("hash: last byte", "hash", 31),
        blob("node_id", "node_id", 7),
        blob("boot_id", "boot_id", 15),
        blob("chain_id", "chain_id", 3),
        sql("t_cp", &["UPDATE entries SET t_cp = t_cp + 1 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("t_cp before the entry before", &["UPDATE entries SET t_cp = 0 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("key_epoch", &["UPDATE entries SET key_epoch = 1 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("key_epoch beyond its type", &["UPDATE entries SET key_epoch = -1 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("node_seq", &["UPDATE entries SET node_seq = node_seq + 1000 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("node_seq taken away", &["UPDATE entries SET node_seq = NULL WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("boot_id taken away", &["UPDATE entries SET boot_id = NULL WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("seq: a place that is taken", &["UPDATE entries SET seq = 5 WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("seq: a place far behind", &["UPDATE entries SET seq = 260 WHERE chain_id = ?1 AND seq = 4"], 4),
        // Two rows claim the third place, and nothing says which of them is the impostor.
        sql("seq: the place before", &["UPDATE entries SET seq = 3 WHERE chain_id = ?1 AND seq = 4"], 3),
        // There is no such place: the first stored row is bad already.
        sql("seq: before the first", &["UPDATE entries SET seq = 0 WHERE chain_id = ?1 AND seq = 4"], 0),
    ];
    evidence.judge_all(&cases).await;
}

#[tokio::test]
async fn i_18_deleted_inserted_swapped_and_truncated_entries_are_found_at_the_first_that_is_wrong() {
    const COPY: &str = "INSERT INTO entries (chain_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash) \
        SELECT chain_id, seq, node_id, boot_id, node_seq + 1000, t_cp, key_epoch, record, hash FROM entries \
        WHERE chain_id = ?1 AND seq = 4";
    const COPY_TO_THE_END: &str = "INSERT INTO entries (chain_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash) \
        SELECT chain_id, 9, node_id, boot_id, node_seq + 1000, t_cp, key_epoch, record, hash FROM entries \
        WHERE chain_id = ?1 AND seq = 8";
    const MAKE_ROOM: &str = "UPDATE entries SET seq = seq + 1 WHERE chain_id = ?1 AND seq > 4";
    const COPY_INTO_ROOM: &str = "INSERT INTO entries (chain_id, seq, node_id, boot_id, node_seq, t_cp, key_epoch, record, hash) \
        SELECT chain_id, 5, node_id, boot_id, node_seq + 1000, t_cp, key_epoch, record, hash FROM entries \
        WHERE chain_id = ?1 AND seq = 4";
    const KEEP: &str =
        "CREATE TEMP TABLE kept AS SELECT seq, record, hash FROM entries WHERE chain_id = ?1 AND seq IN (3, 6)";
    const SWAP_RECORDS: &str = "UPDATE entries SET record = (SELECT record FROM kept WHERE kept.seq = 9 - entries.seq) \
        WHERE chain_id = ?1 AND seq IN (3, 6)";
    const SWAP_HASHES: &str = "UPDATE entries SET hash = (SELECT hash FROM kept WHERE kept.seq = 9 - entries.seq) \
        WHERE chain_id = ?1 AND seq IN (3, 6)";
    const CUT: &str = "DELETE FROM entries WHERE chain_id = ?1 AND seq > 6";
    const MOVE_HEAD_BACK: &str = "UPDATE chains SET head_seq = 6, \
        head_hash = (SELECT hash FROM entries WHERE chain_id = ?1 AND seq = 6), \
        head_time = (SELECT t_cp FROM entries WHERE chain_id = ?1 AND seq = 6) WHERE chain_id = ?1";
    const CLOSE_RANKS: &[&str] = &[
        "DELETE FROM entries WHERE chain_id = ?1 AND seq = 4",
        "UPDATE entries SET seq = seq - 1 WHERE chain_id = ?1 AND seq > 4",
        "UPDATE chains SET head_seq = 7 WHERE chain_id = ?1",
    ];
    let mut evidence = Evidence::gather().await;
    let cases = [
        sql("the first deleted", &["DELETE FROM entries WHERE chain_id = ?1 AND seq = 1"], 1),
        sql("the middle deleted", &["DELETE FROM entries WHERE chain_id = ?1 AND seq = 4"], 4),
        sql("the last deleted", &["DELETE FROM entries WHERE chain_id = ?1 AND seq = 8"], 8),
        sql("all deleted", &["DELETE FROM entries WHERE chain_id = ?1"], 1),
        sql("the middle deleted and the rest moved up", CLOSE_RANKS, 4),
        sql("a copy beside the original", &[COPY], 4),
        sql("a copy pushed in between", &[MAKE_ROOM, COPY_INTO_ROOM], 5),
        sql("a copy after the end", &[COPY_TO_THE_END], 9),
        sql(
            "a copy after the end, under a moved head",
            &[COPY_TO_THE_END, "UPDATE chains SET head_seq = 9 WHERE chain_id = ?1"],
            9,
        ),
        sql("two records swapped", &[KEEP, SWAP_RECORDS], 3),
        sql("two records and their hashes swapped", &[KEEP, SWAP_RECORDS, SWAP_HASHES], 3),
        sql("two rows swapped", &["UPDATE entries SET seq = 9 - seq WHERE chain_id = ?1 AND seq IN (3, 6)"], 3),
        sql("the tail cut off", &[CUT], 7),
        // The seal does not fit this head, and what stood behind it cannot be known any more: the last entry that is there is named.
        sql("the tail cut off and the head moved back", &[CUT, MOVE_HEAD_BACK], 6),
    ];
    evidence.judge_all(&cases).await;
}

#[tokio::test]
async fn i_18_a_changed_head_or_genesis_is_found() {
    const OTHERS_CHAIN: &str =
        "UPDATE chains SET key_id = (SELECT key_id FROM virtual_keys WHERE chain_id <> ?1 LIMIT 1) WHERE chain_id = ?1";
    let mut evidence = Evidence::gather().await;
    let cases = [
        sql("head_seq forward", &["UPDATE chains SET head_seq = 9 WHERE chain_id = ?1"], 8),
        sql("head_seq back", &["UPDATE chains SET head_seq = 3 WHERE chain_id = ?1"], 8),
        sql("head_seq below nothing", &["UPDATE chains SET head_seq = -1 WHERE chain_id = ?1"], 0),
        sql("head_time", &["UPDATE chains SET head_time = head_time + 1 WHERE chain_id = ?1"], 8),
        row("head_hash", "head_hash", 0, 8),
        row("head_seal", "head_seal", 31, 8),
        sql("head_seal cut short", &["UPDATE chains SET head_seal = substr(head_seal, 1, 31) WHERE chain_id = ?1"], 0),
        row("genesis: magic", "genesis", 0, 0),
        row("genesis: deployment", "genesis", 4, 0),
        row("genesis: chain", "genesis", 20, 0),
        row("genesis: policy", "genesis", 60, 0),
        row("genesis: last byte", "genesis", usize::MAX, 0),
        row("genesis_hash", "genesis_hash", 16, 0),
        sql("whose chain it is", &["UPDATE chains SET key_id = NULL WHERE chain_id = ?1"], 0),
        sql("given to another key", &[OTHERS_CHAIN], 0),
        sql("the chain's row deleted", &["DELETE FROM chains WHERE chain_id = ?1"], 0),
        sql(
            "the chain deleted with all its entries",
            &["DELETE FROM chains WHERE chain_id = ?1", "DELETE FROM entries WHERE chain_id = ?1"],
            0,
        ),
    ];
    evidence.judge_all(&cases).await;
}

#[tokio::test]
async fn i_20_a_chain_rolled_back_to_a_head_that_was_true_once_contradicts_the_ledger() {
    const LESS: &str = "UPDATE grants SET settled = settled - 1 \
        WHERE settled > 0 AND key_id = (SELECT key_id FROM virtual_keys WHERE chain_id = ?1)";
    let mut evidence = Evidence::gather().await;
    let cases = [
        Case { name: "two entries forgotten, under an old seal", edit: Edit::RollBack, found: Found::Ledger },
        Case { name: "a request taken out of the ledger", edit: Edit::Sql(&[LESS]), found: Found::Ledger },
    ];
    evidence.judge_all(&cases).await;
}

#[tokio::test]
async fn i_18_the_administrators_chain_is_held_to_the_same() {
    let mut evidence = Evidence::gather().await;
    evidence.copy(0);
    let mut database = connect(&evidence.gateway.database()).await;
    let admin = sqlx::query("SELECT admin_chain_id FROM deployment").fetch_one(&mut database).await.unwrap();
    evidence.chain = admin.get(0);
    database.close().await.unwrap();
    evidence.apply(&Edit::Entry { seq: 2, column: "record", offset: 90 }).await;
    evidence.gateway.launch().await;
    let (code, seq, fault) = evidence.verdict("--admin");
    assert_eq!((code, seq), (1, Some(2)), "{fault}");
    assert_eq!(evidence.verdict(&evidence.key).0, 0, "agents' chains are not touched by it");
    let all = evidence.gateway.cli(&["audit", "verify", "--all"]);
    assert_eq!(all.status.code(), Some(1));
    assert!(lossy(&all.stdout).contains("(administrators): first bad entry 2:"), "{}", lossy(&all.stdout));
    evidence.gateway.kill().await;

    // What an operator does must be recorded, so with a false head nothing is done at all, and the start says why.
    evidence.copy(1);
    evidence.apply(&Edit::Chain { column: "head_hash", offset: 0 }).await;
    let started = Command::new(env!("CARGO_BIN_EXE_keyforge"))
        .args([
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--ops-listen",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(&evidence.gateway.data)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(PATIENCE, started).await.expect("it does not start").unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let words = lossy(&ended.stderr);
    assert!(words.contains("tampered") && words.contains("restore"), "a clear reason and a way out: {words}");
}

#[tokio::test]
async fn nothing_is_chained_to_a_tampered_head_and_nothing_is_lost_once_it_is_restored() {
    const TURNED: Edit = Edit::Chain { column: "head_hash", offset: 0 };
    let mut evidence = Evidence::gather().await;
    evidence.copy(0);
    evidence.apply(&TURNED).await;
    evidence.gateway.launch().await;
    for token in [&evidence.token, &evidence.bystander_token] {
        assert_eq!(
            evidence.gateway.chat_as(token, &hello()).await.status,
            200,
            "agents are served: their records wait on disk"
        );
    }
    let refused = async || evidence.gateway.log().contains("nothing is chained to it");
    evidence.gateway.eventually("the control plane says why it takes no more records", refused).await;
    assert_eq!(
        evidence.gateway.entries(&evidence.key, 8).await.len(),
        8,
        "nothing is chained to what somebody else wrote"
    );
    assert_eq!(evidence.verdict(&evidence.key).1, Some(8));
    evidence.gateway.kill().await;

    // Turned over again, the head is what it was.
    evidence.apply(&TURNED).await;
    evidence.gateway.launch().await;
    assert_eq!(evidence.gateway.entries(&evidence.key, 9).await.len(), 9);
    assert_eq!(evidence.gateway.entries(&evidence.bystander, 2).await.len(), 2);
    evidence.gateway.assert_chains_hold();
    assert_eq!(evidence.provider.bill().total().requests, 11);
}
