-- Never edited after release. `{p}` is the prefix of all tables.

CREATE TABLE {p}store (
    id TEXT NOT NULL
) STRICT;

CREATE TABLE {p}job_instance (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    job        TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (job, key)
) STRICT;

CREATE INDEX {p}job_instance_by_job ON {p}job_instance (job, id);

CREATE TABLE {p}job_execution (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id    INTEGER NOT NULL REFERENCES {p}job_instance (id),
    job            TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    exit_code      TEXT    NOT NULL,
    exit_message   TEXT    NOT NULL,
    parameters     TEXT    NOT NULL,
    restart_of     INTEGER,
    created_at     INTEGER NOT NULL,
    started_at     INTEGER,
    ended_at       INTEGER,
    owner          TEXT,
    fence          INTEGER NOT NULL,
    lease_until    INTEGER,
    stop_requested INTEGER NOT NULL,
    failure_code   TEXT,
    failure        TEXT,
    warnings       TEXT    NOT NULL,
    context        TEXT    NOT NULL,
    fingerprint    TEXT,
    source         TEXT,
    version        INTEGER NOT NULL
) STRICT;

-- The database itself refuses a second running execution of an instance.
CREATE UNIQUE INDEX {p}job_execution_one_running ON {p}job_execution (instance_id)
    WHERE status IN ('STARTING', 'STARTED', 'STOPPING');
CREATE INDEX {p}job_execution_by_instance ON {p}job_execution (instance_id, id);
CREATE INDEX {p}job_execution_by_job ON {p}job_execution (job, id);
CREATE INDEX {p}job_execution_by_status ON {p}job_execution (status, id);
CREATE INDEX {p}job_execution_by_job_status ON {p}job_execution (job, status, id);

CREATE TABLE {p}step_execution (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id  INTEGER NOT NULL REFERENCES {p}job_execution (id),
    name          TEXT    NOT NULL,
    partition     TEXT,
    status        TEXT    NOT NULL,
    exit_code     TEXT    NOT NULL,
    exit_message  TEXT    NOT NULL,
    read_count    INTEGER NOT NULL,
    write_count   INTEGER NOT NULL,
    filter_count  INTEGER NOT NULL,
    read_skip     INTEGER NOT NULL,
    process_skip  INTEGER NOT NULL,
    write_skip    INTEGER NOT NULL,
    commit_count  INTEGER NOT NULL,
    rollback_count INTEGER NOT NULL,
    checkpoint    TEXT,
    context       TEXT    NOT NULL,
    started_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    failure_code  TEXT,
    failure       TEXT
) STRICT;

CREATE INDEX {p}step_execution_by_execution ON {p}step_execution (execution_id, id);

CREATE TABLE {p}skip_record (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    step_id   INTEGER NOT NULL REFERENCES {p}step_execution (id),
    phase     TEXT    NOT NULL,
    item      INTEGER NOT NULL,
    location  TEXT,
    kind      TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    content   TEXT
) STRICT;

CREATE INDEX {p}skip_record_by_step ON {p}skip_record (step_id, id);

CREATE TABLE {p}event (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id INTEGER NOT NULL REFERENCES {p}job_execution (id),
    step         TEXT,
    status       TEXT    NOT NULL,
    note         TEXT,
    at           INTEGER NOT NULL
) STRICT;

CREATE INDEX {p}event_by_execution ON {p}event (execution_id, id);
