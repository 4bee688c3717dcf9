-- The vault keys that sealed anything here, by their terms. Which key is meant is told by an id that is derived from it; the key is elsewhere.
CREATE TABLE vault_keys (
    term     BIGINT NOT NULL PRIMARY KEY CHECK (term > 0),
    kek_id   BYTEA  NOT NULL UNIQUE,
    seals    BIGINT NOT NULL CHECK (seals IN (0, 1)),   -- 1: new ciphertexts are made under it, and under no other
    wraps    BIGINT NOT NULL CHECK (wraps >= 0),        -- ciphertexts that were made under it; each took a random nonce
    added_at BIGINT NOT NULL                            -- nanoseconds since 1970
);
CREATE UNIQUE INDEX vault_keys_one_seals ON vault_keys (seals) WHERE seals = 1;

-- The rotation that was begun and has not ended. How far it is, vault_records say.
CREATE TABLE vault_rotation (
    singleton   BIGINT PRIMARY KEY CHECK (singleton = 1),
    to_term     BIGINT NOT NULL,
    operator_id BYTEA  NOT NULL,                   -- who asked for it
    total       BIGINT NOT NULL,                   -- records that were under other terms when it was begun
    began_at    BIGINT NOT NULL                    -- nanoseconds since 1970
);

-- Which control planes that share the database hold which vault keys: one row for each process and key.
CREATE TABLE vault_holders (
    holder_id BYTEA  NOT NULL,                     -- drawn at the start of the process
    term      BIGINT NOT NULL,
    name      TEXT COLLATE "C" NOT NULL,           -- for operators: host and data directory
    seen_at   BIGINT NOT NULL,                     -- nanoseconds since 1970
    PRIMARY KEY (holder_id, term)
);
