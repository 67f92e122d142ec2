-- Records of executions: what was called, how it ended, what came out.
-- Times are Unix seconds and always come from the caller.

CREATE TABLE executions (
    execution_id  TEXT PRIMARY KEY,
    task_id       TEXT NOT NULL,
    task_name     TEXT NOT NULL,
    function_name TEXT NOT NULL,
    mode          TEXT NOT NULL,
    status        TEXT NOT NULL,
    attempt       INTEGER NOT NULL,
    queued_at     REAL NOT NULL,
    started_at    REAL,
    completed_at  REAL,             -- NULL while it is under way
    queue_s       REAL NOT NULL,
    instance_id   TEXT NOT NULL,
    version       INTEGER NOT NULL,
    cold_start    INTEGER NOT NULL,
    trace_id      TEXT NOT NULL,
    metadata      TEXT NOT NULL,    -- JSON object
    fingerprint   BLOB NOT NULL,    -- SHA-256 of the call, empty when its caller gave no id
    interrupted   INTEGER NOT NULL, -- the service ended while it was under way
    promised      INTEGER NOT NULL, -- 0 for what may be forgotten first
    outcome       TEXT,             -- JSON object, without the bytes below
    n_bytes       INTEGER NOT NULL, -- of result and output
    result_file   TEXT,             -- hex SHA-256 of bytes below outputs/, when they are many
    output_file   TEXT,
    -- Last, so that reading the columns above does not touch the pages of these.
    result        BLOB,
    output        BLOB
) STRICT;

CREATE INDEX executions_by_place ON executions (queued_at, execution_id);
CREATE INDEX executions_by_end ON executions (promised, completed_at, n_bytes)
    WHERE completed_at IS NOT NULL;
CREATE INDEX executions_unfinished ON executions (mode) WHERE completed_at IS NULL;
CREATE INDEX executions_by_task ON executions (task_id);
CREATE INDEX executions_by_result_file ON executions (result_file) WHERE result_file IS NOT NULL;
CREATE INDEX executions_by_output_file ON executions (output_file) WHERE output_file IS NOT NULL;
