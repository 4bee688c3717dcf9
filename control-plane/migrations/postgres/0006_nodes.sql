-- The authority that certifies nodes and control planes of this deployment.
CREATE TABLE node_authority (
    singleton          BIGINT PRIMARY KEY CHECK (singleton = 1),
    certificate        BYTEA   NOT NULL,      -- X.509, DER
    kek_term           BIGINT NOT NULL,
    sealed_key         BYTEA   NOT NULL,      -- the data key, sealed under the vault key of that term
    sealed_secret      BYTEA   NOT NULL,      -- the private key (PKCS #8), sealed under the data key
    created_at         BIGINT NOT NULL
);

-- Tokens with which one node each may join, once. Only their digests are kept.
CREATE TABLE node_join_tokens (
    token_digest       BYTEA   NOT NULL PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL,      -- of the node that will join; may be empty
    created_by         BYTEA   NOT NULL,      -- the operator
    created_at         BIGINT NOT NULL,
    expires_at         BIGINT NOT NULL,
    seal               BYTEA   NOT NULL,      -- over the columns above, keyed with the audit root key
    used_at            BIGINT,
    node_id            BYTEA                  -- who joined with it
);

-- Nodes that have joined, those that were removed included: an id is never used again.
CREATE TABLE nodes (
    node_id            BYTEA   NOT NULL PRIMARY KEY,
    name               TEXT COLLATE "C" NOT NULL,
    joined_at          BIGINT NOT NULL,
    removed_at         BIGINT,
    seal               BYTEA   NOT NULL,      -- over the columns above, keyed with the audit root key
    certificate_serial BYTEA   NOT NULL,      -- of the newest certificate
    certificate_expires_at BIGINT NOT NULL
);

-- Which node each boot is a life of, as it was first said; another node's word on that boot is not taken.
CREATE TABLE node_boots (
    boot_id            BYTEA   NOT NULL PRIMARY KEY,
    node_id            BYTEA   NOT NULL
);
