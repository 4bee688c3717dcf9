-- The authority that certifies nodes and control planes of this deployment.
CREATE TABLE node_authority (
    singleton          INTEGER PRIMARY KEY CHECK (singleton = 1),
    certificate        BLOB    NOT NULL,      -- X.509, DER
    kek_term           INTEGER NOT NULL,
    sealed_key         BLOB    NOT NULL,      -- the data key, sealed under the vault key of that term
    sealed_secret      BLOB    NOT NULL,      -- the private key (PKCS #8), sealed under the data key
    created_at         INTEGER NOT NULL
) STRICT;

-- Tokens with which one node each may join, once. Only their digests are kept.
CREATE TABLE node_join_tokens (
    token_digest       BLOB    NOT NULL PRIMARY KEY,
    name               TEXT    NOT NULL,      -- of the node that will join; may be empty
    created_by         BLOB    NOT NULL,      -- the operator
    created_at         INTEGER NOT NULL,
    expires_at         INTEGER NOT NULL,
    seal               BLOB    NOT NULL,      -- over the columns above, keyed with the audit root key
    used_at            INTEGER,
    node_id            BLOB                   -- who joined with it
) STRICT;

-- Nodes that have joined, those that were removed included: an id is never used again.
CREATE TABLE nodes (
    node_id            BLOB    NOT NULL PRIMARY KEY,
    name               TEXT    NOT NULL,
    joined_at          INTEGER NOT NULL,
    removed_at         INTEGER,
    seal               BLOB    NOT NULL,      -- over the columns above, keyed with the audit root key
    certificate_serial BLOB    NOT NULL,      -- of the newest certificate
    certificate_expires_at INTEGER NOT NULL
) STRICT;

-- Which node each boot is a life of, as it was first said; another node's word on that boot is not taken.
CREATE TABLE node_boots (
    boot_id            BLOB    NOT NULL PRIMARY KEY,
    node_id            BLOB    NOT NULL
) STRICT;
