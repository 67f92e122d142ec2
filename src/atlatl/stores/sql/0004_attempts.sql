-- What became of the attempts of a durable execution that goes on; at its end they go into the
-- outcome of its record.

ALTER TABLE queue ADD COLUMN tried TEXT NOT NULL DEFAULT '[]';  -- JSON, the latest ones
