-- name: put_artifact
-- The same code again may bring other labels or another location: the last one counts.
INSERT INTO artifacts
    (artifact_id, version, checksum, filename, size_bytes, artifact_type, location, labels, created_at)
VALUES
    (:artifact_id, :version, :checksum, :filename, :size_bytes, :artifact_type, :location, :labels, :created_at)
ON CONFLICT (artifact_id, version, checksum) DO UPDATE SET
    filename = excluded.filename,
    size_bytes = excluded.size_bytes,
    artifact_type = excluded.artifact_type,
    location = excluded.location,
    labels = excluded.labels,
    created_at = excluded.created_at;

-- name: put_task
-- Not `OR REPLACE`: that would silently remove another task of the same name.
INSERT INTO tasks
    (task_id, name, version, artifact_id, artifact_version, checksum, handler, overrides, shapes,
     created_by_call, created_at, updated_at)
VALUES
    (:task_id, :name, :version, :artifact_id, :artifact_version, :checksum, :handler, :overrides, :shapes,
     :created_by_call, :created_at, :updated_at)
ON CONFLICT (task_id) DO UPDATE SET
    name = excluded.name,
    version = excluded.version,
    artifact_id = excluded.artifact_id,
    artifact_version = excluded.artifact_version,
    checksum = excluded.checksum,
    handler = excluded.handler,
    overrides = excluded.overrides,
    shapes = excluded.shapes,
    created_by_call = excluded.created_by_call,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at;

-- name: other_task_of_name
-- Who else has this name.
SELECT task_id FROM tasks WHERE name = :name AND task_id <> :task_id;

-- name: delete_task
DELETE FROM tasks WHERE task_id = :task_id;

-- name: tasks
-- Each task with the artifact that it names.
SELECT t.task_id, t.name, t.version, t.handler, t.overrides, t.shapes, t.created_by_call,
       t.created_at, t.updated_at,
       a.artifact_id, a.version AS artifact_version, a.checksum, a.filename, a.size_bytes,
       a.artifact_type, a.location, a.labels, a.created_at AS artifact_created_at
FROM tasks AS t
JOIN artifacts AS a
  ON a.artifact_id = t.artifact_id AND a.version = t.artifact_version AND a.checksum = t.checksum
ORDER BY t.task_id;

-- name: artifacts
SELECT artifact_id, version AS artifact_version, checksum, filename, size_bytes, artifact_type,
       location, labels, created_at AS artifact_created_at
FROM artifacts
ORDER BY artifact_id, version, checksum;

-- name: delete_artifact
-- Every artifact of these bytes, except those that a task still names.
DELETE FROM artifacts
WHERE checksum = :checksum
  AND NOT EXISTS (
      SELECT 1 FROM tasks AS t
      WHERE t.artifact_id = artifacts.artifact_id
        AND t.artifact_version = artifacts.version
        AND t.checksum = artifacts.checksum);

-- name: put_blob
INSERT INTO blobs (checksum) VALUES (:checksum) ON CONFLICT DO NOTHING;

-- name: blob
SELECT 1 FROM blobs WHERE checksum = :checksum;

-- name: blobs
SELECT checksum FROM blobs;

-- name: delete_unnamed_blob
DELETE FROM blobs
WHERE checksum = :checksum AND checksum NOT IN (SELECT checksum FROM artifacts);

-- name: delete_unnamed_blobs
-- At open nothing is being deployed, so bytes without an artifact are left-overs of a crash.
DELETE FROM blobs WHERE checksum NOT IN (SELECT checksum FROM artifacts);

-- name: claim_executions
-- `:rows` stands for the values, here and below.
INSERT INTO executions
    (execution_id, task_id, task_name, function_name, mode, status, attempt, queued_at, started_at,
     completed_at, queue_s, instance_id, version, cold_start, trace_id, metadata, fingerprint,
     interrupted, promised, outcome, n_bytes, result_file, output_file, result, output)
VALUES :rows
ON CONFLICT (execution_id) DO NOTHING;

-- name: put_executions
-- What the queue holds is the queue's to change.
INSERT OR REPLACE INTO executions
    (execution_id, task_id, task_name, function_name, mode, status, attempt, queued_at, started_at,
     completed_at, queue_s, instance_id, version, cold_start, trace_id, metadata, fingerprint,
     interrupted, promised, outcome, n_bytes, result_file, output_file, result, output)
SELECT * FROM (VALUES :rows)
WHERE NOT EXISTS (SELECT 1 FROM queue WHERE execution_id = column1);

-- name: execution
-- With the attempts of one that is in the queue.
SELECT executions.*, queue.tried FROM executions LEFT JOIN queue USING (execution_id)
WHERE executions.execution_id = :execution_id;

-- name: executions
-- One page, newest first, behind a place that need not be taken.
SELECT execution_id, task_id, task_name, function_name, mode, status, attempt, queued_at,
       started_at, completed_at, queue_s, instance_id, version, cold_start, trace_id, metadata,
       outcome
FROM executions
WHERE (queued_at, execution_id) < (:queued_at, :execution_id)
  AND (:task = '' OR task_id = :task OR task_name = :task)
  AND (:status = '' OR status = :status)
ORDER BY queued_at DESC, execution_id DESC
LIMIT :limit;

-- name: end_unfinished
UPDATE executions SET
    status = :status,
    completed_at = :completed_at,
    outcome = :outcome,
    interrupted = 1,
    promised = 1
WHERE completed_at IS NULL AND mode <> 'ASYNC';

-- name: forget_executions
-- Those that the queue still holds go on.
DELETE FROM executions
WHERE task_id = :task_id
  AND NOT EXISTS (SELECT 1 FROM queue AS q WHERE q.execution_id = executions.execution_id)
RETURNING execution_id, result_file, output_file;

-- name: prune_old
DELETE FROM executions WHERE execution_id IN (
    SELECT execution_id FROM executions
    WHERE promised IN (0, 1) AND completed_at < :ended_before
    LIMIT :limit)
RETURNING execution_id, result_file, output_file;

-- name: prune_many
DELETE FROM executions WHERE execution_id IN (
    SELECT execution_id FROM executions
    WHERE completed_at IS NOT NULL
      AND (promised = 0 OR (promised = 1 AND completed_at < :spare_since))
    ORDER BY promised, completed_at, execution_id
    LIMIT min(:limit, max(0, (SELECT count(*) FROM executions) - (SELECT count(*) FROM queue) - :keep)))
RETURNING execution_id, result_file, output_file;

-- name: excess_bytes
-- By how much results and output are over what may stay.
SELECT coalesce(sum(n_bytes), 0) - :keep_bytes FROM executions
WHERE completed_at IS NOT NULL AND promised < 2;

-- name: prune_large
-- As many as it takes, in the order in which records go.
DELETE FROM executions WHERE execution_id IN (
    SELECT execution_id FROM (
        SELECT execution_id, n_bytes, sum(n_bytes) OVER (
            ORDER BY promised, completed_at, execution_id
            ROWS UNBOUNDED PRECEDING) AS freed
        FROM executions WHERE completed_at IS NOT NULL AND promised < 2)
    WHERE freed - n_bytes < :excess
    LIMIT :limit)
RETURNING execution_id, result_file, output_file;

-- name: output_file
SELECT 1 FROM executions WHERE result_file = :checksum
UNION ALL
SELECT 1 FROM executions WHERE output_file = :checksum
UNION ALL
SELECT 1 FROM queue WHERE call_file = :checksum
LIMIT 1;

-- name: output_files
SELECT result_file AS checksum FROM executions WHERE result_file IS NOT NULL
UNION
SELECT output_file FROM executions WHERE output_file IS NOT NULL
UNION
SELECT call_file FROM queue WHERE call_file IS NOT NULL;
