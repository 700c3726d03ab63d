-- Never edited after release. `{p}` is the prefix of all tables.

-- What is to fire, and what fired. `occurrence` is -1 in the row of a trigger itself; a recurring trigger has
-- one more row for each slot that fired or was skipped, which the slot identifies. Times are microseconds.
-- `due` is when the row must be looked at again; without it nothing is to be done. `owner` is the server that
-- fires it, 0 nobody.
CREATE TABLE "{p}trigger" (
    identifier     TEXT COLLATE "C" NOT NULL,
    occurrence     BIGINT NOT NULL,
    status         TEXT    NOT NULL,
    slot           BIGINT NOT NULL,
    due            BIGINT,
    owner          BIGINT NOT NULL,
    attempt        BIGINT NOT NULL,
    version        BIGINT NOT NULL,
    fired_at       BIGINT,
    ended_at       BIGINT,
    stop_requested BIGINT NOT NULL,
    plan           TEXT,
    rule           TEXT,
    reason         TEXT,
    output         TEXT,
    PRIMARY KEY (identifier, occurrence)
) WITH (fillfactor = 70);

CREATE INDEX "{p}trigger_by_due" ON "{p}trigger" (owner, due) WHERE due IS NOT NULL;
CREATE INDEX "{p}trigger_by_end" ON "{p}trigger" (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE "{p}rule" (
    identifier TEXT COLLATE "C" PRIMARY KEY,
    pattern    TEXT    NOT NULL,
    runner     TEXT    NOT NULL,
    sequence   BIGINT NOT NULL
);

-- Raised with every change of a rule: what a server remembers of them is as old as the number it saw.
CREATE TABLE "{p}schedule" (
    rules_version BIGINT NOT NULL
);
INSERT INTO "{p}schedule" VALUES (0);

-- Servers that fire triggers, each for as long as its lease runs.
CREATE TABLE "{p}server" (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    identity    TEXT    NOT NULL,
    lease_until BIGINT NOT NULL
);
