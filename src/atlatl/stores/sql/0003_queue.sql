-- Durable executions that have not ended, or died; and whom to tell of an end.
-- Each has its record in `executions` from acceptance on, with `promised` = 2 for as long as it
-- is here, so that no bound on records removes it.
-- Times are Unix seconds of the queue's clock and always come from the caller.

CREATE TABLE queue (
    execution_id TEXT PRIMARY KEY,
    task_name    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('ready', 'delayed', 'leased', 'dead')),
    turn         REAL NOT NULL,     -- of the ready ones of a task the lowest is next
    queued_at    REAL NOT NULL,
    ready_at     REAL NOT NULL,     -- not to be tried before
    expires_at   REAL,
    attempt      INTEGER NOT NULL,
    failures     INTEGER NOT NULL,
    recoveries   INTEGER NOT NULL,
    lease        INTEGER NOT NULL,  -- counts leases: who holds an older one changes nothing
    leased_until REAL,              -- NULL while leased: since acceptance, and not yet extended
    died_at      REAL,
    task_id      TEXT NOT NULL,
    call_file    TEXT,              -- hex SHA-256 of bytes below outputs/, when they are many
    -- Last, so that reading the columns above does not touch the pages of this.
    call         BLOB,              -- MessagePack
    CHECK ((call IS NULL) <> (call_file IS NULL)),
    CHECK ((died_at IS NOT NULL) = (state = 'dead'))
) STRICT;

-- Who is next, and how many there are: counted without reading a row.
CREATE INDEX queue_line ON queue (state, task_name, turn, execution_id, ready_at);
CREATE INDEX queue_delayed ON queue (ready_at) WHERE state = 'delayed';
CREATE INDEX queue_dead ON queue (died_at, execution_id) WHERE state = 'dead';
CREATE INDEX queue_expiring ON queue (expires_at, execution_id)
    WHERE expires_at IS NOT NULL AND state IN ('ready', 'delayed');
CREATE INDEX queue_by_call_file ON queue (call_file) WHERE call_file IS NOT NULL;

-- What a start ends; the durable ones go on, and may be many.
DROP INDEX executions_unfinished;
CREATE INDEX executions_unfinished ON executions (mode)
    WHERE completed_at IS NULL AND mode <> 'ASYNC';

CREATE TABLE callbacks (
    execution_id TEXT PRIMARY KEY,
    url          TEXT NOT NULL,
    traceparent  TEXT NOT NULL,
    tracestate   TEXT NOT NULL,
    tries        INTEGER NOT NULL,  -- that failed
    ready_at     REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX callbacks_by_time ON callbacks (ready_at, execution_id);
