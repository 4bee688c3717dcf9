-- The control planes that share the database, those that are gone included: one row for each process. Moments are of the database server's clock.
-- Nobody shares a SQLite database, so that this table and the two below stay empty here.
CREATE TABLE control_planes (
    control_plane_id BLOB    NOT NULL PRIMARY KEY, -- drawn at the start of the process
    name             TEXT    NOT NULL,             -- for operators: host and data directory
    known_since      INTEGER NOT NULL,             -- nanoseconds since 1970: who told nodes since then that their state is fresh has a row here
    max_staleness    INTEGER NOT NULL,             -- nanoseconds: how long its nodes serve keys without a bound of their own
    seen_at          INTEGER NOT NULL,             -- nanoseconds since 1970
    gone_at          INTEGER,                      -- nanoseconds since 1970: told no node since then that its state is fresh; NULL while it may
    left_nodes       BLOB                          -- of one that left by itself: its nodes, 16 bytes each and 8 of the age of their state in nanoseconds
) STRICT;

-- What a control plane that makes a receipt asks the others. Gone with the answer, or a minute later.
CREATE TABLE receipt_questions (
    question_id      BLOB    NOT NULL PRIMARY KEY,
    asked_by         BLOB    NOT NULL,             -- a control plane
    revision         INTEGER NOT NULL,
    max_staleness    INTEGER NOT NULL,             -- nanoseconds: nodes that heard of their control plane so recently may be serving
    wait             INTEGER NOT NULL,             -- nanoseconds: how long the answer is of use
    asked_at         INTEGER NOT NULL              -- nanoseconds since 1970
) STRICT;

-- What the others answer: how far their nodes are.
CREATE TABLE receipt_parts (
    question_id      BLOB    NOT NULL,
    control_plane_id BLOB    NOT NULL,
    writes           INTEGER NOT NULL,             -- how many times it was written
    is_settled       INTEGER NOT NULL CHECK (is_settled IN (0, 1)),  -- 1: no connected node has still to say something
    acked            BLOB    NOT NULL,             -- nodes that have done it, 16 bytes each
    pending          BLOB    NOT NULL,             -- nodes that have not, 16 bytes each and 8 of the age of their state in nanoseconds
    streams_cut      INTEGER NOT NULL,
    PRIMARY KEY (question_id, control_plane_id)
) STRICT;
