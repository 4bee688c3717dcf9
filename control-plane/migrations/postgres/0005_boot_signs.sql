-- When each boot that is a member of an epoch was last heard of. Those from before this was noted count as silent until they are.
CREATE TABLE boot_signs (
    boot_id  BYTEA  NOT NULL PRIMARY KEY,
    heard_at BIGINT NOT NULL              -- nanoseconds since 1970
);
INSERT INTO boot_signs (boot_id, heard_at) SELECT DISTINCT boot_id, 0 FROM epoch_members;
