-- Never edited after release. `{p}` is the prefix of all tables.

-- Executions that are carried forward by slices. Durations are microseconds.
CREATE TABLE {p}progressive (
    execution_id  INTEGER PRIMARY KEY,
    step_id       INTEGER NOT NULL,
    target        INTEGER NOT NULL,
    is_split      INTEGER NOT NULL,
    units_total   INTEGER,
    plan          TEXT NOT NULL,
    owner_hash    TEXT,
    server_driven INTEGER NOT NULL
) STRICT;

-- One driver each. `fence` is the number that every commit of its worker must still match.
CREATE TABLE {p}lane (
    execution_id    INTEGER NOT NULL,
    lane_rank       INTEGER NOT NULL,
    id              TEXT NOT NULL,
    seq             INTEGER NOT NULL,
    answer          TEXT,
    fence           INTEGER NOT NULL,
    owner           TEXT,
    lease_until     INTEGER,
    times           TEXT NOT NULL,
    slices          INTEGER NOT NULL,
    last_slice      INTEGER NOT NULL,
    checkpoint_cost INTEGER NOT NULL,
    PRIMARY KEY (execution_id, lane_rank)
) STRICT;

-- Stretches of units: accounted for up to `position`, worked on up to `claimed`.
CREATE TABLE {p}segment (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    execution_id INTEGER NOT NULL,
    rank_of      INTEGER NOT NULL,
    start_at     INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    claimed      INTEGER NOT NULL,
    end_at       INTEGER,
    is_closed    INTEGER NOT NULL,
    lane_rank    INTEGER,
    done         INTEGER NOT NULL,
    failed       INTEGER NOT NULL,
    poison       TEXT NOT NULL,
    partial      TEXT
) STRICT;

CREATE INDEX {p}segment_by_execution ON {p}segment (execution_id, rank_of, start_at);

-- Final responses, until they are acknowledged.
CREATE TABLE {p}response (
    execution_id INTEGER PRIMARY KEY,
    status       INTEGER NOT NULL,
    headers      TEXT NOT NULL,
    body         BLOB NOT NULL,
    at           INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL
) STRICT;
