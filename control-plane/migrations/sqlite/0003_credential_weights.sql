-- How often a credential is chosen compared with the others of its provider.
ALTER TABLE credentials ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight BETWEEN 1 AND 1000);
