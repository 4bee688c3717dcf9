-- Counting a workspace's keys, and the check that a workspace which is deleted has none, need not read every key.
CREATE INDEX virtual_keys_by_workspace ON virtual_keys (workspace_id);
