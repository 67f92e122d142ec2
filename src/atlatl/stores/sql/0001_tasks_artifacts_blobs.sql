-- Tasks, the artifacts that they name, and which files below blobs/ are kept.
-- Times are Unix seconds and always come from the caller.

CREATE TABLE blobs (
    checksum TEXT PRIMARY KEY       -- hex SHA-256, and the name of the file
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    artifact_id   TEXT NOT NULL,
    version       TEXT NOT NULL,
    checksum      TEXT NOT NULL,
    filename      TEXT NOT NULL,
    size_bytes    INTEGER NOT NULL,
    artifact_type TEXT NOT NULL,
    location      TEXT NOT NULL,
    labels        TEXT NOT NULL,    -- JSON object
    created_at    REAL NOT NULL,
    PRIMARY KEY (artifact_id, version, checksum)
) STRICT, WITHOUT ROWID;

CREATE INDEX artifacts_by_checksum ON artifacts (checksum);

-- The resolved settings are not stored: they follow from `overrides` and from
-- the defaults of the service that loads them.
CREATE TABLE tasks (
    task_id          TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    version          INTEGER NOT NULL,
    artifact_id      TEXT NOT NULL,
    artifact_version TEXT NOT NULL,
    checksum         TEXT NOT NULL,
    handler          TEXT NOT NULL,
    overrides        TEXT NOT NULL, -- JSON object
    shapes           TEXT NOT NULL, -- JSON object, by function
    created_by_call  INTEGER NOT NULL,
    created_at       REAL NOT NULL,
    updated_at       REAL NOT NULL,
    FOREIGN KEY (artifact_id, artifact_version, checksum)
        REFERENCES artifacts (artifact_id, version, checksum)
) STRICT, WITHOUT ROWID;

CREATE INDEX tasks_by_artifact ON tasks (artifact_id, artifact_version, checksum);
