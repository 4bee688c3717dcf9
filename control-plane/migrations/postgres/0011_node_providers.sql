-- Providers whose secrets a node is given: names, sorted and separated by commas; empty for all. The seals are over them as well.
ALTER TABLE node_join_tokens ADD COLUMN providers TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN providers TEXT NOT NULL DEFAULT '';
