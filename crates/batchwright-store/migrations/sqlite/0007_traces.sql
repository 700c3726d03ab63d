-- Never edited after release. `{p}` is the prefix of all tables.

-- The caller's place in its trace: a `traceparent` of W3C Trace Context.
ALTER TABLE {p}job_execution ADD COLUMN trace_parent TEXT;

-- What failed, was stopped or runs, among very many partitions.
CREATE INDEX {p}step_execution_open ON {p}step_execution (execution_id, id) WHERE status <> 'COMPLETED';
