-- Never edited after release. `{p}` is the prefix of all tables.

-- Executions that are carried forward by slices. Durations are microseconds.
CREATE TABLE {p}progressive (
    execution_id  BIGINT PRIMARY KEY,
    step_id       BIGINT NOT NULL,
    target        BIGINT NOT NULL,
    is_split      BIGINT NOT NULL,
    units_total   BIGINT,
    plan          TEXT NOT NULL,
    owner_hash    TEXT,
    server_driven BIGINT NOT NULL
);

-- One driver each. `fence` is the number that every commit of its worker must still match.
CREATE TABLE {p}lane (
    execution_id    BIGINT NOT NULL,
    lane_rank       BIGINT NOT NULL,
    id              TEXT NOT NULL,
    seq             BIGINT NOT NULL,
    answer          TEXT,
    fence           BIGINT NOT NULL,
    owner           TEXT,
    lease_until     BIGINT,
    times           TEXT NOT NULL,
    slices          BIGINT NOT NULL,
    last_slice      BIGINT NOT NULL,
    checkpoint_cost BIGINT NOT NULL,
    PRIMARY KEY (execution_id, lane_rank)
);

-- Stretches of units: accounted for up to `position`, worked on up to `claimed`.
CREATE TABLE {p}segment (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    rank_of      BIGINT NOT NULL,
    start_at     BIGINT NOT NULL,
    position     BIGINT NOT NULL,
    claimed      BIGINT NOT NULL,
    end_at       BIGINT,
    is_closed    BIGINT NOT NULL,
    lane_rank    BIGINT,
    done         BIGINT NOT NULL,
    failed       BIGINT NOT NULL,
    poison       TEXT NOT NULL,
    partial      TEXT
);

CREATE INDEX {p}segment_by_execution ON {p}segment (execution_id, rank_of, start_at);

-- Final responses, until they are acknowledged.
CREATE TABLE {p}response (
    execution_id BIGINT PRIMARY KEY,
    status       BIGINT NOT NULL,
    headers      TEXT NOT NULL,
    body         BYTEA NOT NULL,
    at           BIGINT NOT NULL,
    acknowledged BIGINT NOT NULL
);
