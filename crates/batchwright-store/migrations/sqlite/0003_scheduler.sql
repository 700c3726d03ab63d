-- Never edited after release. `{p}` is the prefix of all tables.

-- What is to fire, and what fired. `occurrence` is -1 in the row of a trigger itself; a recurring trigger has
-- one more row for each slot that fired or was skipped, which the slot identifies. Times are microseconds.
-- `due` is when the row must be looked at again; without it nothing is to be done. `owner` is the server that
-- fires it, 0 nobody.
CREATE TABLE "{p}trigger" (
    identifier     TEXT    NOT NULL,
    occurrence     INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    slot           INTEGER NOT NULL,
    due            INTEGER,
    owner          INTEGER NOT NULL,
    attempt        INTEGER NOT NULL,
    version        INTEGER NOT NULL,
    fired_at       INTEGER,
    ended_at       INTEGER,
    stop_requested INTEGER NOT NULL,
    plan           TEXT,
    rule           TEXT,
    reason         TEXT,
    output         TEXT,
    PRIMARY KEY (identifier, occurrence)
) WITHOUT ROWID;

CREATE INDEX "{p}trigger_by_due" ON "{p}trigger" (owner, due) WHERE due IS NOT NULL;
CREATE INDEX "{p}trigger_by_end" ON "{p}trigger" (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE "{p}rule" (
    identifier TEXT    PRIMARY KEY,
    pattern    TEXT    NOT NULL,
    runner     TEXT    NOT NULL,
    sequence   INTEGER NOT NULL
);

-- Raised with every change of a rule: what a server remembers of them is as old as the number it saw.
CREATE TABLE "{p}schedule" (
    rules_version INTEGER NOT NULL
);
INSERT INTO "{p}schedule" VALUES (0);

-- Servers that fire triggers, each for as long as its lease runs.
CREATE TABLE "{p}server" (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    identity    TEXT    NOT NULL,
    lease_until INTEGER NOT NULL
);
