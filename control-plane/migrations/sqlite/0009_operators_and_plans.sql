-- What an operator may do, whose data they see, and until when. Operators from before this are owners of the whole deployment.
ALTER TABLE operators ADD COLUMN role TEXT NOT NULL DEFAULT 'owner' CHECK (role IN ('viewer', 'auditor', 'admin', 'owner'));
ALTER TABLE operators ADD COLUMN workspace_id BLOB;   -- the only workspace that they see; NULL for all
ALTER TABLE operators ADD COLUMN expires_at INTEGER;  -- first moment at which the token no longer works
ALTER TABLE operators ADD COLUMN revoked_at INTEGER;

-- What bounds a workspace whatever its own limits say.
ALTER TABLE workspaces ADD COLUMN plan TEXT NOT NULL DEFAULT 'unlimited' CHECK (plan IN ('unlimited', 'free'));

-- What an operator of one workspace lists and verifies is found without reading any other workspace's keys.
CREATE INDEX virtual_keys_by_workspace_age ON virtual_keys (workspace_id, created_at, key_id);
CREATE INDEX virtual_keys_by_workspace_chain ON virtual_keys (workspace_id, chain_id);

-- The digest of the operators as of the revision, which its seal covers; empty when they were the same as before.
ALTER TABLE state_changes ADD COLUMN operators_digest BLOB NOT NULL DEFAULT x'';
