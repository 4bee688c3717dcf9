-- Since which revision of the state a key has its status; 0 since it was made.
ALTER TABLE virtual_keys ADD COLUMN status_revision BIGINT NOT NULL DEFAULT 0;
