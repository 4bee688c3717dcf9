-- What people sort keys by. Nodes do not know labels.
CREATE TABLE key_labels (
    key_id             TEXT COLLATE "C" NOT NULL REFERENCES virtual_keys (key_id),
    name               TEXT COLLATE "C" NOT NULL,
    value              TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (key_id, name)
);
CREATE INDEX key_labels_by_value ON key_labels (name, value);

-- The token that the last rotation replaced: its digest, and the first moment at which it no longer works; none: at once.
ALTER TABLE virtual_keys ADD COLUMN former_digest BYTEA;
ALTER TABLE virtual_keys ADD COLUMN former_until BIGINT;

-- When the policy ends, once more, so that keys which end soon are found without reading every policy.
ALTER TABLE virtual_keys ADD COLUMN expires_at BIGINT;
UPDATE virtual_keys SET expires_at = (policy::json ->> 'expires_at')::bigint;
CREATE INDEX virtual_keys_by_expiry ON virtual_keys (expires_at) WHERE expires_at IS NOT NULL;
