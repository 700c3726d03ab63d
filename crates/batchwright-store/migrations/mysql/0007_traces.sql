-- Never edited after release. `{p}` is the prefix of all tables. Every change of a table commits by itself here: each
-- statement can be done again when a migration was cut short.

-- The caller's place in its trace: a `traceparent` of W3C Trace Context.
SET @change = IF(EXISTS (SELECT 1 FROM information_schema.columns
    WHERE table_schema = database() AND table_name = '{p}job_execution' AND column_name = 'trace_parent'), 'DO 0',
    'ALTER TABLE {p}job_execution ADD COLUMN trace_parent VARCHAR(64)');
PREPARE change_of_table FROM @change;
EXECUTE change_of_table;

-- What failed, was stopped or runs, among very many partitions.
SET @change = IF(EXISTS (SELECT 1 FROM information_schema.statistics
    WHERE table_schema = database() AND index_name = '{p}step_execution_open'), 'DO 0',
    'ALTER TABLE {p}step_execution ADD INDEX {p}step_execution_open (execution_id, status, id)');
PREPARE change_of_table FROM @change;
EXECUTE change_of_table;
DEALLOCATE PREPARE change_of_table;
