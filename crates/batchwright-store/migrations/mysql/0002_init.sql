-- Never edited after release. `{p}` is the prefix of all tables. Every CREATE TABLE commits by itself here:
-- each can be done again when a migration was cut short.

CREATE TABLE IF NOT EXISTS {p}store (
    id VARCHAR(255) NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}job_instance (
    id         BIGINT AUTO_INCREMENT PRIMARY KEY,
    job        VARCHAR(255)    NOT NULL,
    `key`      VARCHAR(255)    NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (job, `key`),
    INDEX {p}job_instance_by_job (job, id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}job_execution (
    id             BIGINT AUTO_INCREMENT PRIMARY KEY,
    instance_id    BIGINT NOT NULL,
    job            VARCHAR(255)    NOT NULL,
    status         VARCHAR(32)    NOT NULL,
    exit_code      LONGTEXT    NOT NULL,
    exit_message   LONGTEXT    NOT NULL,
    parameters     LONGTEXT    NOT NULL,
    restart_of     BIGINT,
    created_at     BIGINT NOT NULL,
    started_at     BIGINT,
    ended_at       BIGINT,
    owner          VARCHAR(255),
    fence          BIGINT NOT NULL,
    lease_until    BIGINT,
    stop_requested BIGINT NOT NULL,
    failure_code   LONGTEXT,
    failure        LONGTEXT,
    warnings       LONGTEXT    NOT NULL,
    context        LONGTEXT    NOT NULL,
    fingerprint    LONGTEXT,
    source         LONGTEXT,
    flow           LONGTEXT    NOT NULL,
    parent         BIGINT,
    version        BIGINT NOT NULL,
    running        BIGINT GENERATED ALWAYS AS
        (CASE WHEN status IN ('STARTING', 'STARTED', 'STOPPING') THEN instance_id END) VIRTUAL,
    -- The database itself refuses a second running execution of an instance.
    UNIQUE INDEX {p}job_execution_one_running (running),
    INDEX {p}job_execution_by_instance (instance_id, id),
    INDEX {p}job_execution_by_job (job, id),
    INDEX {p}job_execution_by_status (status, id),
    INDEX {p}job_execution_by_job_status (job, status, id),
    INDEX {p}job_execution_by_parent (parent),
    INDEX {p}job_execution_by_end (ended_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}step_execution (
    id            BIGINT AUTO_INCREMENT PRIMARY KEY,
    execution_id  BIGINT NOT NULL,
    name          VARCHAR(255)    NOT NULL,
    `partition`     VARCHAR(255),
    status        VARCHAR(32)    NOT NULL,
    exit_code     LONGTEXT    NOT NULL,
    exit_message  LONGTEXT    NOT NULL,
    read_count    BIGINT NOT NULL,
    write_count   BIGINT NOT NULL,
    filter_count  BIGINT NOT NULL,
    read_skip     BIGINT NOT NULL,
    process_skip  BIGINT NOT NULL,
    write_skip    BIGINT NOT NULL,
    commit_count  BIGINT NOT NULL,
    rollback_count BIGINT NOT NULL,
    checkpoint    LONGTEXT,
    context       LONGTEXT    NOT NULL,
    started_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    ended_at      BIGINT,
    failure_code  LONGTEXT,
    failure       LONGTEXT,
    handled       BIGINT NOT NULL,
    begun_by      BIGINT,
    INDEX {p}step_execution_by_execution (execution_id, id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}skip_record (
    id        BIGINT AUTO_INCREMENT PRIMARY KEY,
    step_id   BIGINT NOT NULL,
    phase     VARCHAR(255)    NOT NULL,
    item      BIGINT NOT NULL,
    location  LONGTEXT,
    kind      VARCHAR(255)    NOT NULL,
    message   LONGTEXT    NOT NULL,
    content   LONGTEXT,
    INDEX {p}skip_record_by_step (step_id, id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {p}event (
    id           BIGINT AUTO_INCREMENT PRIMARY KEY,
    execution_id BIGINT NOT NULL,
    step         VARCHAR(255),
    status       VARCHAR(255)    NOT NULL,
    note         LONGTEXT,
    at           BIGINT NOT NULL,
    INDEX {p}event_by_execution (execution_id, id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

