-- When the limits of a key or a workspace were last changed; no row for those that never were.
CREATE TABLE limit_changes (
    owner      BYTEA   NOT NULL PRIMARY KEY,  -- the 12 characters of a key's id, or the 16 bytes of a workspace's
    changed_at BIGINT  NOT NULL               -- nanoseconds since 1970
);
