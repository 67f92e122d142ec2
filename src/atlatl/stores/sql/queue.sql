-- What is done to the queue. `INDEXED BY` where the planner, which knows no numbers, may take
-- `queue_line` and read all of a state.

-- name: enqueue
-- `:rows` stands for the values, here and below.
INSERT INTO queue
    (execution_id, task_name, state, turn, queued_at, ready_at, expires_at, attempt, failures,
     recoveries, lease, task_id, call_file, call)
VALUES :rows;

-- name: lease_next
-- Equal turns go by id, so that the order is the same whatever the rows went through.
UPDATE queue SET state = 'leased', lease = lease + 1, leased_until = :until
WHERE execution_id IN (
    SELECT execution_id FROM queue
    WHERE state = 'ready' AND task_name = :task_name AND (expires_at IS NULL OR expires_at > :now)
    ORDER BY turn, execution_id
    LIMIT :limit)
RETURNING *;

-- name: take
UPDATE queue SET state = 'leased', lease = lease + 1, leased_until = :until
WHERE execution_id = :execution_id AND state IN ('ready', 'delayed')
RETURNING *;

-- name: take_expired
UPDATE queue SET state = 'leased', lease = lease + 1, leased_until = :until
WHERE execution_id IN (
    SELECT execution_id FROM queue INDEXED BY queue_expiring
    WHERE state IN ('ready', 'delayed') AND expires_at IS NOT NULL AND expires_at <= :now
    ORDER BY expires_at, execution_id
    LIMIT :limit)
RETURNING *;

-- name: extend
UPDATE queue SET leased_until = :until
WHERE execution_id = :execution_id AND lease = :lease AND state = 'leased';

-- name: put_back
UPDATE queue SET
    state = CASE WHEN :ready_at > :now THEN 'delayed' ELSE 'ready' END,
    attempt = :attempt,
    failures = :failures,
    recoveries = :recoveries,
    ready_at = :ready_at,
    leased_until = NULL,
    tried = :tried
WHERE execution_id = :execution_id AND lease = :lease AND state = 'leased';

-- name: note_attempt
-- In the record of one that goes on.
UPDATE executions SET attempt = :attempt WHERE execution_id = :execution_id;

-- name: remove_leased
DELETE FROM queue WHERE execution_id = :execution_id AND lease = :lease AND state = 'leased'
RETURNING task_id, call_file;

-- name: remove_many_leased
-- Id, lease and task; only those that leave no file behind. By way of a join, because a list of
-- rows makes the planner read the whole table.
DELETE FROM queue WHERE execution_id IN (
    WITH ended AS (VALUES :rows)
    SELECT execution_id FROM ended CROSS JOIN queue ON execution_id = column1
    WHERE lease = column2 AND task_id = column3 AND +state = 'leased' AND call_file IS NULL);

-- name: bury_leased
UPDATE queue SET
    state = 'dead',
    died_at = :died_at,
    leased_until = NULL,
    attempt = :attempt
WHERE execution_id = :execution_id AND lease = :lease AND state = 'leased'
RETURNING task_id, call_file;

-- name: end_executions
-- What was fixed when it was accepted stays, its fingerprint among that.
UPDATE executions SET
    function_name = iif(column2 = '', function_name, column2),
    status = column3,
    attempt = column4,
    started_at = column5,
    completed_at = column6,
    queue_s = column7,
    instance_id = column8,
    version = column9,
    cold_start = column10,
    trace_id = iif(column11 = '', trace_id, column11),
    interrupted = column12,
    promised = column13,
    outcome = column14,
    n_bytes = column15,
    result_file = column16,
    output_file = column17,
    result = column18,
    output = column19
FROM (VALUES :rows)
WHERE execution_id = column1;

-- name: end_at_task
-- Apart, because `task_id` is in an index and hardly ever another one than at acceptance.
UPDATE executions SET task_id = :task_id WHERE execution_id = :execution_id;

-- name: wake
UPDATE queue SET state = 'ready'
WHERE execution_id IN (
    SELECT execution_id FROM queue INDEXED BY queue_delayed
    WHERE state = 'delayed' AND ready_at <= :now
    ORDER BY ready_at
    LIMIT :limit)
RETURNING task_name;

-- name: next_ready_at
SELECT min(ready_at) FROM queue INDEXED BY queue_delayed WHERE state = 'delayed';

-- name: lapsed
-- Only leases are read, which are few. One that was taken before its time waits on.
SELECT execution_id, lease, recoveries >= :limit AS dead FROM queue
WHERE state = 'leased' AND (:lapsed_before IS NULL OR leased_until < :lapsed_before);

-- name: recover
UPDATE queue SET
    state = CASE WHEN ready_at > :now THEN 'delayed' ELSE 'ready' END,
    attempt = attempt + 1,
    recoveries = recoveries + 1,
    leased_until = NULL
WHERE execution_id = :execution_id
RETURNING *;

-- name: bury
UPDATE queue SET state = 'dead', died_at = :died_at, leased_until = NULL
WHERE execution_id = :execution_id AND lease = :lease AND state <> 'dead'
RETURNING *;

-- name: end_buried
-- The record of one that dies without a result of its own.
UPDATE executions SET status = :status, outcome = :outcome, completed_at = :died_at
WHERE execution_id = :execution_id;

-- name: depths
SELECT task_name, state, count(*) AS n, min(ready_at) AS oldest FROM queue
GROUP BY state, task_name;

-- name: waiting_ids
SELECT execution_id FROM queue
WHERE state IN ('ready', 'delayed') AND task_name = :task_name
LIMIT :limit;

-- name: dead_letters
-- One page, the latest death first, behind a place that need not be taken.
SELECT q.died_at, e.execution_id, e.task_id, e.task_name, e.function_name, e.mode, e.status,
       e.attempt, e.queued_at, e.started_at, e.completed_at, e.queue_s, e.instance_id, e.version,
       e.cold_start, e.trace_id, e.metadata, e.outcome
FROM queue AS q INDEXED BY queue_dead JOIN executions AS e ON e.execution_id = q.execution_id
WHERE q.state = 'dead' AND (q.died_at, q.execution_id) < (:died_at, :execution_id)
ORDER BY q.died_at DESC, q.execution_id DESC
LIMIT :limit;

-- name: redrive
UPDATE queue SET
    state = 'ready',
    attempt = attempt + 1,
    failures = 0,
    recoveries = 0,
    ready_at = :now,
    expires_at = NULL,
    died_at = NULL
WHERE execution_id = :execution_id AND state = 'dead'
RETURNING *;

-- name: ended_files
SELECT result_file, output_file FROM executions WHERE execution_id = :execution_id;

-- name: reopen_execution
-- It is of the task at acceptance again, whichever it ended at.
UPDATE executions SET
    task_id = :task_id,
    status = 'PENDING',
    attempt = :attempt,
    started_at = NULL,
    completed_at = NULL,
    queue_s = 0,
    version = 0,
    instance_id = '',
    cold_start = 0,
    interrupted = 0,
    outcome = NULL,
    n_bytes = 0,
    result_file = NULL,
    output_file = NULL,
    result = NULL,
    output = x''
WHERE execution_id = :execution_id;

-- name: delete_dead_letter
DELETE FROM queue WHERE execution_id = :execution_id AND state = 'dead'
RETURNING execution_id, call_file;

-- name: prune_dead_letters
DELETE FROM queue WHERE execution_id IN (
    SELECT execution_id FROM queue INDEXED BY queue_dead
    WHERE state = 'dead' AND died_at < :died_before
    LIMIT :limit)
RETURNING execution_id, call_file;

-- name: release_record
-- It is an ordinary record from now on.
UPDATE executions SET promised = 1 WHERE execution_id = :execution_id;

-- name: forget_dead_letters
-- Before the records of the task go.
DELETE FROM queue WHERE state = 'dead' AND execution_id IN (
    SELECT execution_id FROM executions WHERE task_id = :task_id)
RETURNING call_file;

-- name: start_callback
INSERT OR REPLACE INTO callbacks (execution_id, url, traceparent, tracestate, tries, ready_at)
VALUES (:execution_id, :url, :traceparent, :tracestate, :tries, :ready_at);

-- name: put_callback
-- Unless it is another one by now: the times of two ends differ.
UPDATE callbacks SET tries = :tries, ready_at = :ready_at
WHERE execution_id = :execution_id AND tries = :read_tries AND ready_at = :read_ready_at;

-- name: drop_callback
DELETE FROM callbacks
WHERE execution_id = :execution_id AND tries = :read_tries AND ready_at = :read_ready_at;

-- name: forget_callback
-- The end that it tells of is no end any more, or its record is gone.
DELETE FROM callbacks WHERE execution_id = :execution_id;

-- name: callbacks
SELECT * FROM callbacks WHERE ready_at <= :now ORDER BY ready_at, execution_id LIMIT :limit;

-- name: next_callback_at
SELECT min(ready_at) FROM callbacks;
