-- Never edited after release. `{p}` is the prefix of all tables.

-- Requests that started an execution: one that comes again starts nothing.
CREATE TABLE IF NOT EXISTS {p}request (
    request_key  VARCHAR(255) PRIMARY KEY,
    fingerprint  VARCHAR(255) NOT NULL,
    execution_id BIGINT NOT NULL,
    INDEX {p}request_by_execution (execution_id)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
