-- Whether a node has presented its newest certificate. From then on the one before it renews nothing: whoever still shows it holds a copy.
ALTER TABLE nodes ADD COLUMN certificate_used BIGINT NOT NULL DEFAULT 0 CHECK (certificate_used IN (0, 1));
