-- Never edited after release. `{p}` is the prefix of all tables.

-- Executions that are carried forward by slices. Durations are microseconds.
CREATE TABLE IF NOT EXISTS {p}progressive (
    execution_id  BIGINT PRIMARY KEY,
    step_id       BIGINT NOT NULL,
    target        BIGINT NOT NULL,
    is_split      BIGINT NOT NULL,
    units_total   BIGINT,
    plan          LONGTEXT NOT NULL,
    owner_hash    VARCHAR(255),
    server_driven BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One driver each. `fence` is the number that every commit of its worker must still match.
CREATE TABLE IF NOT EXISTS {p}lane (
    execution_id    BIGINT NOT NULL,
    lane_rank       BIGINT NOT NULL,
    id              VARCHAR(255) NOT NULL,
    seq             BIGINT NOT NULL,
    answer          LONGTEXT,
    fence           BIGINT NOT NULL,
    owner           VARCHAR(255),
    lease_until     BIGINT,
    times           LONGTEXT NOT NULL,
    slices          BIGINT NOT NULL,
    last_slice      BIGINT NOT NULL,
    checkpoint_cost BIGINT NOT NULL,
    PRIMARY KEY (execution_id, lane_rank)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Stretches of units: accounted for up to `position`, worked on up to `claimed`.
CREATE TABLE IF NOT EXISTS {p}segment (
    id           BIGINT AUTO_INCREMENT PRIMARY KEY,
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
    poison       LONGTEXT NOT NULL,
    partial      LONGTEXT,
    INDEX {p}segment_by_execution (execution_id, rank_of, start_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Final responses, until they are acknowledged.
CREATE TABLE IF NOT EXISTS {p}response (
    execution_id BIGINT PRIMARY KEY,
    status       BIGINT NOT NULL,
    headers      LONGTEXT NOT NULL,
    body         LONGBLOB NOT NULL,
    at           BIGINT NOT NULL,
    acknowledged BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
