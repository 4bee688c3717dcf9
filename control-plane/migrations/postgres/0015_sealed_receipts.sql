-- What control planes write for one another is under a seal, and names each life of a node. Rows of earlier versions have none and count for nothing.
ALTER TABLE control_planes ADD COLUMN left_lives BYTEA;                       -- in place of left_nodes: its nodes' lives, 57 bytes each
ALTER TABLE control_planes ADD COLUMN seal BYTEA NOT NULL DEFAULT '\x';

-- In place of receipt_parts, which is left to control planes of earlier versions until they are updated.
CREATE UNLOGGED TABLE receipt_answers (
    question_id      BYTEA  NOT NULL,
    control_plane_id BYTEA  NOT NULL,
    writes           BIGINT NOT NULL,              -- how many times it was written
    is_settled       BIGINT NOT NULL CHECK (is_settled IN (0, 1)),  -- 1: no connected node has still to say something
    acked            BYTEA  NOT NULL,              -- lives that have done it, 57 bytes each
    pending          BYTEA  NOT NULL,              -- lives that have not, 57 bytes each
    streams_cut      BIGINT NOT NULL,
    seal             BYTEA  NOT NULL,              -- over the row and the question
    PRIMARY KEY (question_id, control_plane_id)
);

-- The nodes that are connected to each control plane, as it last said; for operators.
CREATE UNLOGGED TABLE connected_nodes (
    control_plane_id BYTEA  NOT NULL PRIMARY KEY,
    written_at       BIGINT NOT NULL,              -- nanoseconds since 1970, by the database server's clock
    nodes            BYTEA  NOT NULL,
    seal             BYTEA  NOT NULL
);
