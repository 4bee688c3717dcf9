-- When each boot that is a member of an epoch was last heard of. Those from before this was noted count as silent until they are.
CREATE TABLE boot_signs (
    boot_id  BLOB    NOT NULL PRIMARY KEY,
    heard_at INTEGER NOT NULL              -- nanoseconds since 1970
) STRICT;
INSERT INTO boot_signs (boot_id, heard_at) SELECT DISTINCT boot_id, 0 FROM epoch_members;
