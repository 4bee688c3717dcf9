-- The whole schema as of step 4: the same tables and columns as SQLite has after its first four steps. Steps have the same numbers in both.
-- Times are Unix nanoseconds, amounts nano-dollars or requests, ids their 16 raw bytes unless they are words.

CREATE TABLE deployment (
    singleton          BIGINT  PRIMARY KEY CHECK (singleton = 1),
    deployment_id      BYTEA   NOT NULL,
    created_at         BIGINT  NOT NULL,
    revision           BIGINT  NOT NULL,  -- of the replicated state; dense
    state_seal         BYTEA   NOT NULL,  -- over workspaces, keys, models, credentials and operators at that revision, keyed with the audit root key
    vault_check        BYTEA   NOT NULL,  -- sealed under the vault key, to tell a wrong key at start
    audit_root         BYTEA   NOT NULL,  -- the audit root key, sealed under the vault key
    admin_chain_id     BYTEA   NOT NULL
);

CREATE TABLE operators (
    operator_id        BYTEA   PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL UNIQUE,
    token_digest       BYTEA   NOT NULL UNIQUE,
    created_at         BIGINT  NOT NULL
);

-- Keys that share limits. One is named `default`.
CREATE TABLE workspaces (
    workspace_id       BYTEA   PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL UNIQUE,
    request_limits     TEXT    NOT NULL,     -- JSON
    spend_limits       TEXT    NOT NULL,     -- JSON
    created_at         BIGINT  NOT NULL,
    revision           BIGINT  NOT NULL
);

CREATE TABLE virtual_keys (
    key_id             TEXT COLLATE "C" PRIMARY KEY,  -- the 12 characters
    token_digest       BYTEA   NOT NULL UNIQUE,
    name               TEXT COLLATE "C" NOT NULL,
    status             TEXT    NOT NULL CHECK (status IN ('active', 'frozen', 'revoked')),
    policy             TEXT    NOT NULL,     -- JSON
    chain_id           BYTEA   NOT NULL UNIQUE,
    workspace_id       BYTEA   NOT NULL REFERENCES workspaces (workspace_id),
    created_at         BIGINT  NOT NULL,
    revoked_at         BIGINT,
    revision           BIGINT  NOT NULL
);
-- Counting a workspace's keys, and the check that a workspace which is deleted has none, need not read every key.
CREATE INDEX virtual_keys_by_workspace ON virtual_keys (workspace_id);

CREATE TABLE credentials (
    credential_id      BYTEA   PRIMARY KEY,
    provider           TEXT    NOT NULL,
    pool               TEXT    NOT NULL,
    base_url           TEXT    NOT NULL,
    limit_group        TEXT    NOT NULL,
    enabled            BIGINT  NOT NULL CHECK (enabled IN (0, 1)),
    secret_version     BIGINT  NOT NULL,
    created_at         BIGINT  NOT NULL,
    weight             BIGINT  NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000)  -- how often it is chosen compared with the others of its provider
);

-- The vault: one data key per record version, which seals exactly one message.
CREATE TABLE vault_records (
    credential_id      BYTEA   PRIMARY KEY REFERENCES credentials (credential_id),
    secret_version     BIGINT  NOT NULL,
    kek_term           BIGINT  NOT NULL,
    sealed_key         BYTEA   NOT NULL,     -- the data key, sealed under the vault key of that term
    sealed_secret      BYTEA   NOT NULL      -- the secret, sealed under the data key
);

CREATE TABLE models (
    name               TEXT COLLATE "C" PRIMARY KEY,
    model              TEXT COLLATE "C" NOT NULL      -- JSON
);

-- The ledger. One epoch is one life of a key's books in a counter store, as numbered per key.
CREATE TABLE epochs (
    key_id             TEXT COLLATE "C" NOT NULL REFERENCES virtual_keys (key_id),
    epoch              BIGINT  NOT NULL CHECK (epoch > 0),  -- from 1, per key
    life_id            BYTEA   NOT NULL,
    state              TEXT    NOT NULL CHECK (state IN ('open', 'closed')),
    serial             BIGINT  NOT NULL DEFAULT 0,  -- of the last answer; rises with each
    granted_serial     BIGINT  NOT NULL DEFAULT 0,  -- of the last answer that told grants
    opened_at          BIGINT  NOT NULL,
    closed_at          BIGINT,
    PRIMARY KEY (key_id, epoch),
    UNIQUE (key_id, life_id)
);

-- The boots that use an open epoch's life. The epoch is closed with the transaction in which the last one leaves.
CREATE TABLE epoch_members (
    key_id             TEXT COLLATE "C" NOT NULL,
    epoch              BIGINT  NOT NULL,
    boot_id            BYTEA   NOT NULL,
    serial             BIGINT  NOT NULL,     -- of the last answer to this boot
    PRIMARY KEY (key_id, epoch, boot_id),
    FOREIGN KEY (key_id, epoch) REFERENCES epochs (key_id, epoch)
);
CREATE INDEX epoch_members_by_boot ON epoch_members (boot_id);

-- Books per counter: one row for each open epoch, and one of epoch 0 for what was settled outside of open epochs. A counter without any row is
-- unknown; of one that has rows, every chained entry is settled in them, for a workspace's limit those of all its keys.
CREATE TABLE grants (
    key_id             TEXT COLLATE "C" NOT NULL REFERENCES virtual_keys (key_id),
    scope              TEXT    NOT NULL CHECK (scope IN ('key', 'workspace')),
    dimension          TEXT    NOT NULL CHECK (dimension IN ('requests', 'spend')),
    "window"           TEXT    NOT NULL CHECK ("window" IN ('day', 'week', 'month', 'total')),
    first_day          BIGINT  NOT NULL CHECK (first_day >= 0),  -- of the period in the key's calendar, in days since 1970-01-01
    epoch              BIGINT  NOT NULL CHECK (epoch >= 0),
    workspace_id       BYTEA,                -- whose limit it is, if it is a workspace's
    before             BIGINT  NOT NULL CHECK (before >= 0),   -- settled when these books were made; the life's counter does not know of it
    granted            BIGINT  NOT NULL CHECK (granted >= before),  -- cumulative, on top of before
    settled            BIGINT  NOT NULL CHECK (settled >= 0),  -- sum over chained entries
    PRIMARY KEY (key_id, scope, dimension, "window", first_day, epoch),
    CHECK ((scope = 'workspace') = (workspace_id IS NOT NULL))
);
CREATE INDEX grants_by_epoch ON grants (key_id, epoch);
CREATE INDEX grants_by_workspace ON grants (workspace_id, dimension, "window", first_day) WHERE workspace_id IS NOT NULL;

-- Keys that are still to be frozen, because a request of theirs cost more than its bound. A row is written with that request's entry and goes
-- with the transaction that freezes or revokes the key, whoever does it: so it outlives a crash, and never freezes again what was unfrozen.
CREATE TABLE overspent (
    key_id             TEXT COLLATE "C" PRIMARY KEY REFERENCES virtual_keys (key_id),
    request_id         BYTEA   NOT NULL
);
CREATE FUNCTION overspent_until_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM overspent WHERE key_id = new.key_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER overspent_until_frozen AFTER UPDATE OF status ON virtual_keys FOR EACH ROW WHEN (new.status <> 'active')
    EXECUTE FUNCTION overspent_until_frozen();

CREATE TABLE chains (
    chain_id           BYTEA   PRIMARY KEY,
    key_id             TEXT COLLATE "C",     -- NULL for the administrators' chain
    genesis            BYTEA   NOT NULL,
    genesis_hash       BYTEA   NOT NULL,
    head_seq           BIGINT  NOT NULL,
    head_hash          BYTEA   NOT NULL,
    head_seal          BYTEA   NOT NULL,
    head_time          BIGINT  NOT NULL
) WITH (fillfactor = 70);                -- heads move in place
-- A key's books are held by the row of its chain.
CREATE INDEX chains_by_key ON chains (key_id);

-- Append-only. node_id, boot_id and node_seq are NULL for entries that the control plane wrote itself. There is a partition for each month in UTC,
-- made ahead by the control plane. What is unique in a partitioned table is so within a partition only: that a chain has each place once, and a
-- boot each number, is kept by the rows that everybody who chains holds while doing so, that of the chain's head and that of the boot.
CREATE SEQUENCE entries_entry_id CACHE 100;
CREATE TABLE entries (
    entry_id           BIGINT  NOT NULL DEFAULT nextval('entries_entry_id'),
    chain_id           BYTEA   NOT NULL,
    seq                BIGINT  NOT NULL,
    node_id            BYTEA,
    boot_id            BYTEA,
    node_seq           BIGINT,
    t_cp               BIGINT  NOT NULL,
    key_epoch          BIGINT  NOT NULL,
    record             BYTEA   NOT NULL,
    hash               BYTEA   NOT NULL
) PARTITION BY RANGE (t_cp);
ALTER SEQUENCE entries_entry_id OWNED BY entries.entry_id;
CREATE UNIQUE INDEX entries_by_chain ON entries (chain_id, seq, t_cp);
CREATE UNIQUE INDEX entries_by_node ON entries (boot_id, node_seq, t_cp) WHERE boot_id IS NOT NULL;

-- How far each life of a node has shipped: every record up to the watermark is chained.
CREATE TABLE boots (
    boot_id            BYTEA   PRIMARY KEY,
    node_id            BYTEA   NOT NULL,
    first_seen         BIGINT  NOT NULL,
    watermark          BIGINT  NOT NULL,
    lost_at            BIGINT                -- when records after the watermark were declared lost
);

-- Lives of nodes that ended in good order, also those that never shipped anything.
CREATE TABLE closed_boots (
    boot_id            BYTEA   PRIMARY KEY,
    closed_at          BIGINT  NOT NULL
);

-- Sums over entries, kept in the transaction that chains them.
CREATE TABLE usage_by_day (
    key_id             TEXT COLLATE "C" NOT NULL,
    day                BIGINT  NOT NULL,     -- of the key's calendar, in days since 1970-01-01
    model              TEXT COLLATE "C" NOT NULL,
    requests           BIGINT  NOT NULL,
    refused            BIGINT  NOT NULL,
    input_tokens       BIGINT  NOT NULL,
    cache_read_tokens  BIGINT  NOT NULL,
    cache_write_tokens BIGINT  NOT NULL,
    output_tokens      BIGINT  NOT NULL,
    reasoning_tokens   BIGINT  NOT NULL,
    cost               BIGINT  NOT NULL,
    PRIMARY KEY (key_id, day, model)
);

-- The newest changes of the replicated state, one row per revision, so that a control plane can follow what another one committed. Each is under
-- the seal of the state that it leads to.
CREATE TABLE state_changes (
    revision           BIGINT  PRIMARY KEY,  -- that they lead to
    changes            BYTEA   NOT NULL,     -- as nodes are told
    state_seal         BYTEA   NOT NULL
);
