-- Never edited after release. `{p}` is the prefix of all tables.

-- Who or what started an execution, and how far a step has come in its input.
ALTER TABLE {p}job_execution ADD COLUMN triggered_by TEXT;
ALTER TABLE {p}step_execution ADD COLUMN progress_done BIGINT;
ALTER TABLE {p}step_execution ADD COLUMN progress_total BIGINT;
ALTER TABLE {p}step_execution ADD COLUMN progress_unit TEXT;

CREATE INDEX {p}job_execution_by_creation ON {p}job_execution (created_at, status);

-- The commands that people and programs gave.
CREATE TABLE {p}audit (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    who     TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT
);
