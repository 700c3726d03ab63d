//! All statements of the repository; `{p}` is the table prefix, [`Sql::new`] describes the other
//! placeholders.

use crate::database::{Dialect, Sql};

macro_rules! statements {
    ($($name:ident: $text:expr;)*) => {
        #[derive(Debug)]
        pub(super) struct Statements { $(pub(super) $name: Sql),* }

        impl Statements {
            pub(super) fn new(dialect: Dialect, prefix: &str) -> Self {
                Self { $($name: Sql::new(dialect, &$text.replace("{p}", prefix))),* }
            }
        }
    };
}

statements! {
    find_instance: "SELECT id, job, {q}key{q}, created_at FROM {p}job_instance WHERE job = ?1 AND {q}key{q} = ?2{lock}";
    newest_instance: "SELECT id, job, {q}key{q}, created_at FROM {p}job_instance WHERE job = ?1 \
        ORDER BY id DESC LIMIT 1";
    insert_instance: "INSERT INTO {p}job_instance (job, {q}key{q}, created_at) VALUES (?1, ?2, ?3){id}";
    instance: "SELECT id, job, {q}key{q}, created_at FROM {p}job_instance WHERE id = ?1";
    instances: "SELECT id, job, {q}key{q}, created_at FROM {p}job_instance \
        WHERE job = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3 OFFSET ?4";
    instance_count: "SELECT count(*) FROM {p}job_instance WHERE job = ?1";
    // A loose index scan: one look-up per job, regardless of the number of its instances.
    job_names: "WITH RECURSIVE name(job) AS (SELECT min(job) FROM {p}job_instance UNION ALL \
        SELECT (SELECT min(job) FROM {p}job_instance WHERE job > name.job) FROM name WHERE job IS NOT NULL) \
        SELECT job FROM name WHERE job IS NOT NULL";

    executions_of: "SELECT * FROM {p}job_execution WHERE instance_id = ?1 ORDER BY id DESC{lock}";
    lock_execution: "SELECT * FROM {p}job_execution WHERE id = ?1{lock}";
    execution: "SELECT * FROM {p}job_execution WHERE id = ?1";
    insert_execution: "INSERT INTO {p}job_execution (instance_id, job, status, exit_code, exit_message, \
        parameters, restart_of, created_at, started_at, ended_at, owner, fence, lease_until, stop_requested, \
        failure_code, failure, warnings, context, fingerprint, source, flow, parent, triggered_by, \
        trace_parent, version) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
        ?22, ?23, ?24, 1){id}";
    update_execution: "UPDATE {p}job_execution SET status = ?2, exit_code = ?3, exit_message = ?4, \
        started_at = ?5, ended_at = ?6, owner = ?7, fence = ?8, lease_until = ?9, stop_requested = ?10, \
        failure_code = ?11, failure = ?12, warnings = ?13, context = ?14, flow = ?16, version = version + 1 \
        WHERE id = ?1 AND version = ?15";
    lock_lease: "SELECT stop_requested FROM {p}job_execution WHERE id = ?1 AND fence = ?2 \
        AND status IN ('STARTING', 'STARTED', 'STOPPING'){lock}";
    renew_lease: "UPDATE {p}job_execution SET lease_until = ?2 WHERE id = ?1";
    save_job_context: "UPDATE {p}job_execution SET context = ?2, version = version + 1 WHERE id = ?1";

    steps_of: "SELECT * FROM {p}step_execution WHERE execution_id = ?1 ORDER BY id";
    steps_page: "SELECT * FROM {p}step_execution WHERE execution_id = ?1 ORDER BY id LIMIT ?2 OFFSET ?3";
    steps_not_completed: "SELECT * FROM {p}step_execution WHERE execution_id = ?1 AND status <> 'COMPLETED' \
        ORDER BY CASE status WHEN 'FAILED' THEN 0 ELSE 1 END, id LIMIT ?2";
    lock_steps: "SELECT * FROM {p}step_execution WHERE execution_id = ?1 ORDER BY id{lock}";
    step: "SELECT * FROM {p}step_execution WHERE id = ?1";
    history_of: "SELECT s.* FROM {p}job_execution e JOIN {p}step_execution s ON s.execution_id = e.id \
        WHERE e.instance_id = ?1 AND s.name = ?2 ORDER BY s.id DESC";
    insert_step: "INSERT INTO {p}step_execution (execution_id, name, {q}partition{q}, status, exit_code, exit_message, \
        read_count, write_count, filter_count, read_skip, process_skip, write_skip, commit_count, rollback_count, \
        checkpoint, context, started_at, updated_at, ended_at, failure_code, failure, handled, begun_by, \
        progress_done, progress_total, progress_unit) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
        ?22, ?23, ?24, ?25, ?26){id}";
    update_step: "UPDATE {p}step_execution SET status = ?2, exit_code = ?3, exit_message = ?4, read_count = ?5, \
        write_count = ?6, filter_count = ?7, read_skip = ?8, process_skip = ?9, write_skip = ?10, \
        commit_count = ?11, rollback_count = ?12, checkpoint = ?13, context = ?14, updated_at = ?15, \
        ended_at = ?16, failure_code = ?17, failure = ?18, handled = ?19 WHERE id = ?1";

    // The hot path: one statement checks the fence and reads the stop flag, another one changes the row.
    // RETURNING and IN are avoided: each builds a temporary table, which costs more than the commit itself.
    check_lease: "SELECT stop_requested FROM {p}job_execution WHERE id = ?1 AND fence = ?2 \
        AND (status = 'STARTING' OR status = 'STARTED' OR status = 'STOPPING'){share}";
    save_checkpoint: "UPDATE {p}step_execution SET read_count = ?2, write_count = ?3, filter_count = ?4, \
        read_skip = ?5, process_skip = ?6, write_skip = ?7, commit_count = ?8, rollback_count = ?9, \
        checkpoint = ?10, updated_at = ?11, progress_done = ?12, progress_total = ?13, progress_unit = ?14 \
        WHERE id = ?1";
    save_step_context: "UPDATE {p}step_execution SET context = ?2 WHERE id = ?1";

    insert_skip: "INSERT INTO {p}skip_record (step_id, phase, item, location, kind, message, content) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    skips: "SELECT s.name, k.phase, k.item, k.location, k.kind, k.message, k.content \
        FROM {p}step_execution s JOIN {p}skip_record k ON k.step_id = s.id \
        WHERE s.execution_id = ?1 ORDER BY k.id";
    skips_page: "SELECT s.name, k.phase, k.item, k.location, k.kind, k.message, k.content \
        FROM {p}step_execution s JOIN {p}skip_record k ON k.step_id = s.id \
        WHERE s.execution_id = ?1 ORDER BY k.id LIMIT ?2 OFFSET ?3";
    insert_event: "INSERT INTO {p}event (execution_id, step, status, note, at) VALUES (?1, ?2, ?3, ?4, ?5)";
    events: "SELECT v.execution_id, i.job, v.step, v.status, v.note, v.at FROM {p}event v \
        JOIN {p}job_execution e ON e.id = v.execution_id JOIN {p}job_instance i ON i.id = e.instance_id \
        WHERE v.execution_id = ?1 ORDER BY v.id";

    events_page: "SELECT v.execution_id, i.job, v.step, v.status, v.note, v.at FROM {p}event v \
        JOIN {p}job_execution e ON e.id = v.execution_id JOIN {p}job_instance i ON i.id = e.instance_id \
        WHERE v.execution_id = ?1 ORDER BY v.id LIMIT ?2 OFFSET ?3";
    events_after: "SELECT v.id, v.execution_id, i.job, v.step, v.status, v.note, v.at FROM {p}event v \
        JOIN {p}job_execution e ON e.id = v.execution_id JOIN {p}job_instance i ON i.id = e.instance_id \
        WHERE v.id > ?1 ORDER BY v.id LIMIT ?2";
    last_event: "SELECT coalesce(max(id), 0) AS id FROM {p}event";
    // As for the names of jobs: one look-up per job.
    newest_of_jobs: "WITH RECURSIVE name(job) AS (SELECT min(job) FROM {p}job_execution UNION ALL \
        SELECT (SELECT min(job) FROM {p}job_execution WHERE job > name.job) FROM name WHERE job IS NOT NULL) \
        SELECT e.* FROM name JOIN {p}job_execution e \
        ON e.id = (SELECT max(id) FROM {p}job_execution WHERE job = name.job) ORDER BY e.job";
    outcomes: "SELECT (created_at - ?1) {div} ?2 AS period, status, count(*) FROM {p}job_execution WHERE created_at >= ?1 \
        GROUP BY period, status";
    insert_audit: "INSERT INTO {p}audit (at, who, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
    audit: "SELECT id, at, who, action, subject, detail FROM {p}audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";

    insert_progressive: "INSERT INTO {p}progressive (execution_id, step_id, target, is_split, units_total, plan, \
        owner_hash, server_driven) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    progressive: "SELECT * FROM {p}progressive WHERE execution_id = ?1";
    update_total: "UPDATE {p}progressive SET units_total = ?2 WHERE execution_id = ?1";
    insert_lane: "INSERT INTO {p}lane (execution_id, lane_rank, id, seq, answer, fence, owner, lease_until, times, \
        slices, last_slice, checkpoint_cost) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    lanes_of: "SELECT * FROM {p}lane WHERE execution_id = ?1 ORDER BY lane_rank";
    update_lane: "UPDATE {p}lane SET id = ?3, seq = ?4, answer = ?5, fence = ?6, owner = ?7, lease_until = ?8, times = ?9, \
        slices = ?10, last_slice = ?11, checkpoint_cost = ?12 \
        WHERE execution_id = ?1 AND lane_rank = ?2 AND fence = ?13";
    renew_lane: "UPDATE {p}lane SET lease_until = ?4 WHERE execution_id = ?1 AND lane_rank = ?2 AND fence = ?3";
    insert_segment: "INSERT INTO {p}segment (execution_id, rank_of, start_at, position, claimed, end_at, is_closed, \
        lane_rank, done, failed, poison, partial) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12){id}";
    segments_of: "SELECT id, execution_id, rank_of, start_at, position, claimed, end_at, is_closed, lane_rank, \
        done, failed, poison FROM {p}segment WHERE execution_id = ?1 ORDER BY rank_of, start_at";
    partial_of: "SELECT partial FROM {p}segment WHERE id = ?1";
    update_segment: "UPDATE {p}segment SET position = ?2, claimed = ?3, is_closed = ?4, lane_rank = ?5, done = ?6, \
        failed = ?7, poison = ?8, partial = ?9 WHERE id = ?1";
    claim_segment: "UPDATE {p}segment SET lane_rank = ?2, claimed = ?3, poison = ?4 WHERE id = ?1";
    cut_segment: "UPDATE {p}segment SET end_at = ?2 WHERE id = ?1";
    add_counters: "UPDATE {p}step_execution SET read_count = read_count + ?2, write_count = write_count + ?3, \
        filter_count = filter_count + ?4, read_skip = read_skip + ?5, process_skip = process_skip + ?6, \
        write_skip = write_skip + ?7, commit_count = commit_count + ?8, rollback_count = rollback_count + ?9, \
        updated_at = ?10 WHERE id = ?1";
    insert_response: "INSERT INTO {p}response (execution_id, status, headers, body, at, acknowledged) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    response: "SELECT * FROM {p}response WHERE execution_id = ?1";
    acknowledge_response: "UPDATE {p}response SET acknowledged = ?2, body = ?3 \
        WHERE execution_id = ?1 AND acknowledged = ?4";
    expire_responses: "UPDATE {p}response SET acknowledged = ?2, body = ?3 WHERE at < ?1 AND acknowledged = ?4";
    server_driven: "SELECT p.execution_id FROM {p}progressive p \
        JOIN {p}job_execution e ON e.id = p.execution_id \
        WHERE p.server_driven = ?1 AND e.status IN ('STARTED', 'STOPPING') ORDER BY p.execution_id";

    request: "SELECT * FROM {p}request WHERE request_key = ?1";
    insert_request: "INSERT INTO {p}request (request_key, fingerprint, execution_id) VALUES (?1, ?2, ?3)";

    delete_requests: "DELETE FROM {p}request WHERE execution_id = ?1";
    delete_progressive: "DELETE FROM {p}progressive WHERE execution_id = ?1";
    delete_lanes: "DELETE FROM {p}lane WHERE execution_id = ?1";
    delete_segments: "DELETE FROM {p}segment WHERE execution_id = ?1";
    delete_response: "DELETE FROM {p}response WHERE execution_id = ?1";
    delete_skips: "DELETE FROM {p}skip_record WHERE step_id IN \
        (SELECT id FROM {p}step_execution WHERE execution_id = ?1)";
    delete_steps: "DELETE FROM {p}step_execution WHERE execution_id = ?1";
    delete_events: "DELETE FROM {p}event WHERE execution_id = ?1";
    delete_execution: "DELETE FROM {p}job_execution WHERE id = ?1";
    delete_empty_instance: "DELETE FROM {p}job_instance WHERE id = ?1 AND NOT EXISTS \
        (SELECT 1 FROM {p}job_execution WHERE instance_id = ?1)";
}
