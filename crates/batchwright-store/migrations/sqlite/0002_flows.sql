-- Never edited after release. `{p}` is the prefix of all tables.

-- Decisions of the flow, and where a restart enters it; which execution started this one as its step.
ALTER TABLE {p}job_execution ADD COLUMN flow TEXT NOT NULL DEFAULT '{}';
ALTER TABLE {p}job_execution ADD COLUMN parent INTEGER;
CREATE INDEX {p}job_execution_by_parent ON {p}job_execution (parent) WHERE parent IS NOT NULL;
CREATE INDEX {p}job_execution_by_end ON {p}job_execution (ended_at) WHERE ended_at IS NOT NULL;

-- A failure that the flow went on from is not tried again.
ALTER TABLE {p}step_execution ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;
-- The execution of the step that began what this one continues.
ALTER TABLE {p}step_execution ADD COLUMN begun_by INTEGER;
