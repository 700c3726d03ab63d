-- Never edited after release. `{p}` is the prefix of all tables. Every change of a table commits by itself here: each
-- statement can be done again when a migration was cut short.

-- Who or what started an execution.
SET @change = IF(EXISTS (SELECT 1 FROM information_schema.columns
    WHERE table_schema = database() AND table_name = '{p}job_execution' AND column_name = 'triggered_by'), 'DO 0',
    'ALTER TABLE {p}job_execution ADD COLUMN triggered_by VARCHAR(255),
     ADD INDEX {p}job_execution_by_creation (created_at, status)');
PREPARE change_of_table FROM @change;
EXECUTE change_of_table;

-- How far a step has come in its input.
SET @change = IF(EXISTS (SELECT 1 FROM information_schema.columns
    WHERE table_schema = database() AND table_name = '{p}step_execution' AND column_name = 'progress_unit'), 'DO 0',
    'ALTER TABLE {p}step_execution ADD COLUMN progress_done BIGINT, ADD COLUMN progress_total BIGINT,
     ADD COLUMN progress_unit VARCHAR(32)');
PREPARE change_of_table FROM @change;
EXECUTE change_of_table;
DEALLOCATE PREPARE change_of_table;

-- The commands that people and programs gave.
CREATE TABLE IF NOT EXISTS {p}audit (
    id      BIGINT AUTO_INCREMENT PRIMARY KEY,
    at      BIGINT NOT NULL,
    who     VARCHAR(255) NOT NULL,
    action  VARCHAR(255) NOT NULL,
    subject VARCHAR(255) NOT NULL,
    detail  LONGTEXT
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
