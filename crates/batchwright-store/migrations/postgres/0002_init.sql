-- Never edited after release. `{p}` is the prefix of all tables.

CREATE TABLE {p}store (
    id TEXT NOT NULL
);

CREATE TABLE {p}job_instance (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job        TEXT COLLATE "C" NOT NULL,
    key        TEXT    NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (job, key)
);

CREATE INDEX {p}job_instance_by_job ON {p}job_instance (job, id);

CREATE TABLE {p}job_execution (
    id             BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_id    BIGINT NOT NULL REFERENCES {p}job_instance (id),
    job            TEXT COLLATE "C" NOT NULL,
    status         TEXT    NOT NULL,
    exit_code      TEXT    NOT NULL,
    exit_message   TEXT    NOT NULL,
    parameters     TEXT    NOT NULL,
    restart_of     BIGINT,
    created_at     BIGINT NOT NULL,
    started_at     BIGINT,
    ended_at       BIGINT,
    owner          TEXT,
    fence          BIGINT NOT NULL,
    lease_until    BIGINT,
    stop_requested BIGINT NOT NULL,
    failure_code   TEXT,
    failure        TEXT,
    warnings       TEXT    NOT NULL,
    context        TEXT    NOT NULL,
    fingerprint    TEXT,
    source         TEXT,
    flow           TEXT    NOT NULL,
    parent         BIGINT,
    version        BIGINT NOT NULL
);

-- The database itself refuses a second running execution of an instance.
CREATE UNIQUE INDEX {p}job_execution_one_running ON {p}job_execution (instance_id)
    WHERE status IN ('STARTING', 'STARTED', 'STOPPING');
CREATE INDEX {p}job_execution_by_instance ON {p}job_execution (instance_id, id);
CREATE INDEX {p}job_execution_by_job ON {p}job_execution (job, id);
CREATE INDEX {p}job_execution_by_status ON {p}job_execution (status, id);
CREATE INDEX {p}job_execution_by_job_status ON {p}job_execution (job, status, id);

CREATE INDEX {p}job_execution_by_parent ON {p}job_execution (parent) WHERE parent IS NOT NULL;
CREATE INDEX {p}job_execution_by_end ON {p}job_execution (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE {p}step_execution (
    id            BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id  BIGINT NOT NULL REFERENCES {p}job_execution (id),
    name          TEXT    NOT NULL,
    partition     TEXT,
    status        TEXT    NOT NULL,
    exit_code     TEXT    NOT NULL,
    exit_message  TEXT    NOT NULL,
    read_count    BIGINT NOT NULL,
    write_count   BIGINT NOT NULL,
    filter_count  BIGINT NOT NULL,
    read_skip     BIGINT NOT NULL,
    process_skip  BIGINT NOT NULL,
    write_skip    BIGINT NOT NULL,
    commit_count  BIGINT NOT NULL,
    rollback_count BIGINT NOT NULL,
    checkpoint    TEXT,
    context       TEXT    NOT NULL,
    started_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    ended_at      BIGINT,
    failure_code  TEXT,
    failure       TEXT,
    handled       BIGINT NOT NULL,
    begun_by      BIGINT
) WITH (fillfactor = 70);

CREATE INDEX {p}step_execution_by_execution ON {p}step_execution (execution_id, id);

CREATE TABLE {p}skip_record (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    step_id   BIGINT NOT NULL REFERENCES {p}step_execution (id),
    phase     TEXT    NOT NULL,
    item      BIGINT NOT NULL,
    location  TEXT,
    kind      TEXT    NOT NULL,
    message   TEXT    NOT NULL,
    content   TEXT
);

CREATE INDEX {p}skip_record_by_step ON {p}skip_record (step_id, id);

CREATE TABLE {p}event (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id BIGINT NOT NULL REFERENCES {p}job_execution (id),
    step         TEXT,
    status       TEXT    NOT NULL,
    note         TEXT,
    at           BIGINT NOT NULL
);

CREATE INDEX {p}event_by_execution ON {p}event (execution_id, id);
