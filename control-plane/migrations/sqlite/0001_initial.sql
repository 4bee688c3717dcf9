-- Times are Unix nanoseconds, amounts nano-dollars or requests, ids their 16 raw bytes unless they are words.

CREATE TABLE deployment (
    singleton          INTEGER PRIMARY KEY CHECK (singleton = 1),
    deployment_id      BLOB    NOT NULL,
    created_at         INTEGER NOT NULL,
    revision           INTEGER NOT NULL,  -- of the replicated state; dense
    state_seal         BLOB    NOT NULL,  -- over workspaces, keys, models, credentials and operators at that revision, keyed with the audit root key
    vault_check        BLOB    NOT NULL,  -- sealed under the vault key, to tell a wrong key at start
    audit_root         BLOB    NOT NULL,  -- the audit root key, sealed under the vault key
    admin_chain_id     BLOB    NOT NULL
) STRICT;

CREATE TABLE operators (
    operator_id        BLOB    PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    token_digest       BLOB    NOT NULL UNIQUE,
    created_at         INTEGER NOT NULL
) STRICT;

-- Keys that share limits. One is named `default`.
CREATE TABLE workspaces (
    workspace_id       BLOB    PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    request_limits     TEXT    NOT NULL,     -- JSON
    spend_limits       TEXT    NOT NULL,     -- JSON
    created_at         INTEGER NOT NULL,
    revision           INTEGER NOT NULL
) STRICT;

CREATE TABLE virtual_keys (
    key_id             TEXT    PRIMARY KEY,  -- the 12 characters
    token_digest       BLOB    NOT NULL UNIQUE,
    name               TEXT    NOT NULL,
    status             TEXT    NOT NULL CHECK (status IN ('active', 'frozen', 'revoked')),
    policy             TEXT    NOT NULL,     -- JSON
    chain_id           BLOB    NOT NULL UNIQUE,
    workspace_id       BLOB    NOT NULL REFERENCES workspaces (workspace_id),
    created_at         INTEGER NOT NULL,
    revoked_at         INTEGER,
    revision           INTEGER NOT NULL
) STRICT;

CREATE TABLE credentials (
    credential_id      BLOB    PRIMARY KEY,
    provider           TEXT    NOT NULL,
    pool               TEXT    NOT NULL,
    base_url           TEXT    NOT NULL,
    limit_group        TEXT    NOT NULL,
    enabled            INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    secret_version     INTEGER NOT NULL,
    created_at         INTEGER NOT NULL
) STRICT;

-- The vault: one data key per record version, which seals exactly one message.
CREATE TABLE vault_records (
    credential_id      BLOB    PRIMARY KEY REFERENCES credentials (credential_id),
    secret_version     INTEGER NOT NULL,
    kek_term           INTEGER NOT NULL,
    sealed_key         BLOB    NOT NULL,     -- the data key, sealed under the vault key of that term
    sealed_secret      BLOB    NOT NULL      -- the secret, sealed under the data key
) STRICT;

CREATE TABLE models (
    name               TEXT    PRIMARY KEY,
    model              TEXT    NOT NULL      -- JSON
) STRICT;

-- The ledger. One epoch is one life of a key's books in a counter store, as numbered per key.
CREATE TABLE epochs (
    key_id             TEXT    NOT NULL REFERENCES virtual_keys (key_id),
    epoch              INTEGER NOT NULL CHECK (epoch > 0),  -- from 1, per key
    life_id            BLOB    NOT NULL,
    state              TEXT    NOT NULL CHECK (state IN ('open', 'closed')),
    serial             INTEGER NOT NULL DEFAULT 0,  -- of the last answer; rises with each
    granted_serial     INTEGER NOT NULL DEFAULT 0,  -- of the last answer that told grants
    opened_at          INTEGER NOT NULL,
    closed_at          INTEGER,
    PRIMARY KEY (key_id, epoch),
    UNIQUE (key_id, life_id)
) STRICT;

-- The boots that use an open epoch's life. The epoch is closed with the transaction in which the last one leaves.
CREATE TABLE epoch_members (
    key_id             TEXT    NOT NULL,
    epoch              INTEGER NOT NULL,
    boot_id            BLOB    NOT NULL,
    serial             INTEGER NOT NULL,     -- of the last answer to this boot
    PRIMARY KEY (key_id, epoch, boot_id),
    FOREIGN KEY (key_id, epoch) REFERENCES epochs (key_id, epoch)
) STRICT;
CREATE INDEX epoch_members_by_boot ON epoch_members (boot_id);

-- Books per counter: one row for each open epoch, and one of epoch 0 for what was settled outside of open epochs. A counter without any row is
-- unknown; of one that has rows, every chained entry is settled in them, for a workspace's limit those of all its keys.
CREATE TABLE grants (
    key_id             TEXT    NOT NULL REFERENCES virtual_keys (key_id),
    scope              TEXT    NOT NULL CHECK (scope IN ('key', 'workspace')),
    dimension          TEXT    NOT NULL CHECK (dimension IN ('requests', 'spend')),
    window             TEXT    NOT NULL CHECK (window IN ('day', 'week', 'month', 'total')),
    first_day          INTEGER NOT NULL CHECK (first_day >= 0),  -- of the period in the key's calendar, in days since 1970-01-01
    epoch              INTEGER NOT NULL CHECK (epoch >= 0),
    workspace_id       BLOB,                 -- whose limit it is, if it is a workspace's
    before             INTEGER NOT NULL CHECK (before >= 0),   -- settled when these books were made; the life's counter does not know of it
    granted            INTEGER NOT NULL CHECK (granted >= before),  -- cumulative, on top of before
    settled            INTEGER NOT NULL CHECK (settled >= 0),  -- sum over chained entries
    PRIMARY KEY (key_id, scope, dimension, window, first_day, epoch),
    CHECK ((scope = 'workspace') = (workspace_id IS NOT NULL))
) STRICT;
CREATE INDEX grants_by_epoch ON grants (key_id, epoch);
CREATE INDEX grants_by_workspace ON grants (workspace_id, dimension, window, first_day) WHERE workspace_id IS NOT NULL;

-- Keys that are still to be frozen, because a request of theirs cost more than its bound. A row is written with that request's entry and goes
-- with the transaction that freezes or revokes the key, whoever does it: so it outlives a crash, and never freezes again what was unfrozen.
CREATE TABLE overspent (
    key_id             TEXT    PRIMARY KEY REFERENCES virtual_keys (key_id),
    request_id         BLOB    NOT NULL
) STRICT;
CREATE TRIGGER overspent_until_frozen AFTER UPDATE OF status ON virtual_keys WHEN new.status <> 'active'
BEGIN
    DELETE FROM overspent WHERE key_id = new.key_id;
END;

CREATE TABLE chains (
    chain_id           BLOB    PRIMARY KEY,
    key_id             TEXT,                 -- NULL for the administrators' chain
    genesis            BLOB    NOT NULL,
    genesis_hash       BLOB    NOT NULL,
    head_seq           INTEGER NOT NULL,
    head_hash          BLOB    NOT NULL,
    head_seal          BLOB    NOT NULL,
    head_time          INTEGER NOT NULL
) STRICT;

-- Append-only in the order of arrival. node_id, boot_id and node_seq are NULL for entries that the control plane wrote itself.
CREATE TABLE entries (
    entry_id           INTEGER PRIMARY KEY,
    chain_id           BLOB    NOT NULL,
    seq                INTEGER NOT NULL,
    node_id            BLOB,
    boot_id            BLOB,
    node_seq           INTEGER,
    t_cp               INTEGER NOT NULL,
    key_epoch          INTEGER NOT NULL,
    record             BLOB    NOT NULL,
    hash               BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_node ON entries (boot_id, node_seq) WHERE boot_id IS NOT NULL;
CREATE INDEX entries_by_chain ON entries (chain_id, seq);

-- How far each life of a node has shipped: every record up to the watermark is chained.
CREATE TABLE boots (
    boot_id            BLOB    PRIMARY KEY,
    node_id            BLOB    NOT NULL,
    first_seen         INTEGER NOT NULL,
    watermark          INTEGER NOT NULL,
    lost_at            INTEGER               -- when records after the watermark were declared lost
) STRICT;

-- Lives of nodes that ended in good order, also those that never shipped anything.
CREATE TABLE closed_boots (
    boot_id            BLOB    PRIMARY KEY,
    closed_at          INTEGER NOT NULL
) STRICT;

-- Sums over entries, kept in the transaction that chains them.
CREATE TABLE usage_by_day (
    key_id             TEXT    NOT NULL,
    day                INTEGER NOT NULL,     -- of the key's calendar, in days since 1970-01-01
    model              TEXT    NOT NULL,
    requests           INTEGER NOT NULL,
    refused            INTEGER NOT NULL,
    input_tokens       INTEGER NOT NULL,
    cache_read_tokens  INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    output_tokens      INTEGER NOT NULL,
    reasoning_tokens   INTEGER NOT NULL,
    cost               INTEGER NOT NULL,
    PRIMARY KEY (key_id, day, model)
) STRICT;
