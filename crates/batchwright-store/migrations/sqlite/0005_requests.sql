-- Never edited after release. `{p}` is the prefix of all tables.

-- Requests that started an execution: one that comes again starts nothing.
CREATE TABLE {p}request (
    request_key  TEXT PRIMARY KEY,
    fingerprint  TEXT NOT NULL,
    execution_id INTEGER NOT NULL
) STRICT;

CREATE INDEX {p}request_by_execution ON {p}request (execution_id);
