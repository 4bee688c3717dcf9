-- The newest changes of the replicated state, one row per revision, so that a control plane can follow what another one committed. Each is under
-- the seal of the state that it leads to.
CREATE TABLE state_changes (
    revision           INTEGER PRIMARY KEY,  -- that they lead to
    changes            BLOB    NOT NULL,     -- as nodes are told
    state_seal         BLOB    NOT NULL
) STRICT;
