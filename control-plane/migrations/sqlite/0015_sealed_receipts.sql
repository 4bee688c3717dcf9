-- What control planes write for one another is under a seal, and names each life of a node. Nobody shares a SQLite database, so all of it stays empty here.
ALTER TABLE control_planes ADD COLUMN left_lives BLOB;                        -- in place of left_nodes: its nodes' lives, 57 bytes each
ALTER TABLE control_planes ADD COLUMN seal BLOB NOT NULL DEFAULT x'';

-- In place of receipt_parts, which stays empty.
CREATE TABLE receipt_answers (
    question_id      BLOB    NOT NULL,
    control_plane_id BLOB    NOT NULL,
    writes           INTEGER NOT NULL,             -- how many times it was written
    is_settled       INTEGER NOT NULL CHECK (is_settled IN (0, 1)),  -- 1: no connected node has still to say something
    acked            BLOB    NOT NULL,             -- lives that have done it, 57 bytes each
    pending          BLOB    NOT NULL,             -- lives that have not, 57 bytes each
    streams_cut      INTEGER NOT NULL,
    seal             BLOB    NOT NULL,             -- over the row and the question
    PRIMARY KEY (question_id, control_plane_id)
) STRICT;

-- The nodes that are connected to each control plane, as it last said; for operators.
CREATE TABLE connected_nodes (
    control_plane_id BLOB    NOT NULL PRIMARY KEY,
    written_at       INTEGER NOT NULL,             -- nanoseconds since 1970, by the database server's clock
    nodes            BLOB    NOT NULL,
    seal             BLOB    NOT NULL
) STRICT;
