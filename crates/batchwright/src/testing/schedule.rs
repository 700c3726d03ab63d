//! The suite that every implementation of the schedule must pass.

use crate::error::RepositoryError;
use crate::store::schedule::{
    ScheduleStore, ScheduleTransaction, TRIGGER, TriggerKey, TriggerRow, TriggerStatus,
};

/// Checks the promises of [`ScheduleStore`]. `make` makes an empty schedule for each promise.
///
/// # Panics
///
/// When a promise is broken.
pub fn conformance_of_schedule(make: impl Fn() -> Box<dyn ScheduleStore>) {
    let promises: [fn(&mut dyn ScheduleStore); 11] = [
        a_row_comes_back_as_it_was_whatever_its_texts_hold,
        due_rows_come_oldest_first_and_those_that_are_fired_do_not,
        what_a_dead_server_was_firing_is_planned_again_and_it_can_renew_nothing,
        lists_are_pages_of_triggers_not_of_slots,
        what_ended_is_forgotten_by_age_and_number,
        a_transaction_that_is_dropped_leaves_nothing,
        a_row_that_another_process_changed_is_not_written_over,
        each_change_of_a_rule_raises_the_version,
        slots_and_recurring_triggers_are_found_and_forgotten,
        a_stop_is_requested_of_the_row_that_a_server_fires,
        another_connection_sees_what_is_committed,
    ];
    for promise in promises {
        promise(&mut *make());
    }
}

fn planned(identifier: &str, slot: i64) -> TriggerRow {
    TriggerRow::planned(TriggerKey::of(identifier), slot)
}

fn save(store: &mut dyn ScheduleStore, rows: &[TriggerRow]) {
    let mut tx = store.begin().unwrap();
    tx.save(&rows.iter().collect::<Vec<_>>()).unwrap();
    tx.commit().unwrap();
}

fn a_row_comes_back_as_it_was_whatever_its_texts_hold(store: &mut dyn ScheduleStore) {
    for identifier in ["", "a\0b", "\\0", "ä😀", "'\"; --", "a\nb\tc"] {
        let mut row = planned(identifier, 5);
        row.status = TriggerStatus::Triggered;
        row.owner = 3;
        row.attempt = 2;
        row.fired_at = Some(6);
        row.ended_at = Some(7);
        row.stop_requested = true;
        for text in [&mut row.plan, &mut row.rule, &mut row.reason, &mut row.output] {
            *text = Some(format!("{identifier} \0 \\ 😀"));
        }
        save(store, std::slice::from_ref(&row));
        let found = store.begin().unwrap().triggers(std::slice::from_ref(&row.key)).unwrap();
        assert_eq!(found, [TriggerRow { version: 1, ..row }]);
    }
}

fn due_rows_come_oldest_first_and_those_that_are_fired_do_not(store: &mut dyn ScheduleStore) {
    let mut fired = planned("fired", 1);
    fired.owner = 9;
    let mut ended = planned("ended", 1);
    ended.due = None;
    save(store, &[planned("late", 30), planned("b", 20), planned("a", 10), fired, ended]);
    let mut tx = store.begin().unwrap();
    let due = tx.due(25, 10).unwrap();
    assert_eq!(due.iter().map(|row| row.key.identifier.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(tx.due(25, 1).unwrap().len(), 1);
    assert_eq!(tx.next_due().unwrap(), Some(10));
}

fn what_a_dead_server_was_firing_is_planned_again_and_it_can_renew_nothing(
    store: &mut dyn ScheduleStore,
) {
    let mut tx = store.begin().unwrap();
    let (dead, alive) = (tx.insert_server("x", 100).unwrap(), tx.insert_server("y", 900).unwrap());
    tx.commit().unwrap();
    let row = |name: &str, owner: i64| TriggerRow {
        status: TriggerStatus::Triggered,
        owner,
        ..planned(name, 5)
    };
    save(store, &[row("a", dead), row("b", alive)]);
    let mut tx = store.begin().unwrap();
    assert!(!tx.remove_server(alive, 500).unwrap(), "its lease runs");
    assert!(tx.remove_server(dead, 500).unwrap());
    assert!(!tx.remove_server(dead, 500).unwrap(), "only once");
    assert!(!tx.renew_server(dead, 1_000).unwrap());
    assert!(tx.renew_server(alive, 1_000).unwrap());
    let due = tx.due(5, 10).unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].key.identifier.as_str(), due[0].status), ("a", TriggerStatus::Planned));
    assert_eq!(tx.owned(alive).unwrap().len(), 1);
}

fn lists_are_pages_of_triggers_not_of_slots(store: &mut dyn ScheduleStore) {
    let slot = TriggerRow::planned(TriggerKey::of_slot("b.1", 7), 7);
    let names = ["b.2", "a", "b.1", "b\u{10ffff}", "c", "b\\", "B"];
    save(store, &names.map(|name| planned(name, 5)));
    save(store, &[slot]);
    let mut tx = store.begin().unwrap();
    let mut listed = |prefix: &str, after: &str, limit: usize| -> Vec<String> {
        let rows = tx.list(prefix, after, limit).unwrap();
        assert!(rows.iter().all(|row| row.key.occurrence == TRIGGER));
        rows.into_iter().map(|row| row.key.identifier).collect()
    };
    assert_eq!(listed("b.", "", 10), ["b.1", "b.2"]);
    assert_eq!(listed("b.", "b.1", 10), ["b.2"]);
    assert_eq!(listed("b", "", 10), ["b.1", "b.2", "b\\", "b\u{10ffff}"]);
    assert_eq!(listed("", "", 2), ["B", "a"]);
    assert_eq!(tx.slots("b.1").unwrap().len(), 1);
    let due: Vec<_> = tx.upcoming(10).unwrap().into_iter().map(|row| row.due).collect();
    assert!(due.is_sorted() && due.iter().all(Option::is_some), "{due:?}");
    assert_eq!(tx.upcoming(1).unwrap().len(), 1);
}

fn what_ended_is_forgotten_by_age_and_number(store: &mut dyn ScheduleStore) {
    let ended = |n: i64| TriggerRow {
        status: TriggerStatus::Executed,
        due: None,
        ended_at: Some(n),
        ..planned(&format!("t{n}"), n)
    };
    let rows: Vec<_> = (1..=10).map(ended).collect();
    save(store, &rows);
    save(store, &[planned("planned", 1)]);
    let mut tx = store.begin().unwrap();
    assert_eq!(tx.forget_ended(4, 100, 100).unwrap(), 3);
    assert_eq!(tx.forget_ended(0, 5, 100).unwrap(), 2);
    assert_eq!(tx.list("", "", 100).unwrap().len(), 6);
}

fn a_transaction_that_is_dropped_leaves_nothing(store: &mut dyn ScheduleStore) {
    let row = planned("a", 5);
    store.begin().unwrap().save(&[&row]).unwrap();
    assert_eq!(store.begin().unwrap().triggers(&[TriggerKey::of("a")]).unwrap(), []);
}

fn a_row_that_another_process_changed_is_not_written_over(store: &mut dyn ScheduleStore) {
    let row = planned("a", 5);
    save(store, std::slice::from_ref(&row));
    let stale = TriggerRow { version: 5, ..row.clone() };
    for wrong in [row, stale] {
        let error = store.begin().unwrap().save(&[&wrong]).unwrap_err();
        assert!(matches!(error, RepositoryError::Conflict { .. }), "{error}");
    }
}

fn each_change_of_a_rule_raises_the_version(store: &mut dyn ScheduleStore) {
    let change = |store: &mut dyn ScheduleStore, work: &dyn Fn(&mut dyn ScheduleTransaction)| {
        let mut tx = store.begin().unwrap();
        let before = tx.rules_version().unwrap();
        work(&mut *tx);
        assert!(tx.rules_version().unwrap() > before);
        tx.commit().unwrap();
    };
    change(store, &|tx| tx.put_rule("first", "a", "{}").unwrap());
    change(store, &|tx| {
        tx.lock_rules().unwrap();
        tx.put_rule("second", "a", "{}").unwrap();
    });
    change(store, &|tx| tx.put_rule("first", "b", "[]").unwrap());
    let rules = store.begin().unwrap().rules().unwrap();
    let shown: Vec<_> = rules.iter().map(|rule| (&*rule.identifier, &*rule.pattern)).collect();
    assert_eq!(shown, [("first", "b"), ("second", "a")]);
    assert!(rules[0].sequence > rules[1].sequence, "a replaced rule is the newest");
    change(store, &|tx| assert!(tx.remove_rule("first").unwrap()));
    change(store, &|tx| assert!(!tx.remove_rule("first").unwrap()));
    assert_eq!(store.begin().unwrap().rules().unwrap().len(), 1);
}

fn slots_and_recurring_triggers_are_found_and_forgotten(store: &mut dyn ScheduleStore) {
    const HOUR: i64 = 3_600_000_000;
    let slot = |at: i64, status| TriggerRow {
        status,
        due: None,
        ended_at: Some(at),
        ..TriggerRow::planned(TriggerKey::of_slot("a", at), at)
    };
    let early = |at: i64, status| TriggerRow { ended_at: Some(1), ..slot(at, status) };
    let recurring = TriggerRow { plan: Some("every 1s".to_owned()), ..planned("a", 5) };
    let retry = TriggerRow { due: Some(900), ..planned("retry", 5) };
    let (skipped, executed) = (TriggerStatus::Skipped, TriggerStatus::Executed);
    save(store, &[recurring, retry, planned("once", 5), slot(10, executed), slot(20, skipped)]);
    save(store, &[slot(30, executed), slot(30 + 2 * HOUR, executed)]);
    save(store, &[early(31, skipped), early(31 + 2 * HOUR, executed)]);
    let mut tx = store.begin().unwrap();
    let names = |rows: Vec<TriggerRow>| -> Vec<String> {
        rows.into_iter().map(|row| row.key.identifier).collect()
    };
    assert_eq!(names(tx.recurring("", 9).unwrap()), ["a"]);
    assert!(tx.recurring("a", 9).unwrap().is_empty());
    tx.forget_future_slots("a", 15).unwrap();
    let slots = |tx: &mut dyn ScheduleTransaction| -> Vec<i64> {
        tx.slots("a").unwrap().into_iter().map(|row| row.key.occurrence).collect()
    };
    let kept = [10, 30, 31, 31 + 2 * HOUR];
    assert_eq!(
        slots(&mut *tx),
        kept,
        "a fired slot within the next hour, and what a command has decided"
    );
    tx.forget_slots("a", 30).unwrap();
    assert_eq!(slots(&mut *tx), kept[1..]);
    tx.reset_late_retries(50, 100).unwrap();
    let found = tx.triggers(&[TriggerKey::of("retry")]).unwrap();
    assert_eq!((found[0].due, found[0].version), (Some(50), 2));
    tx.remove("a").unwrap();
    assert!(tx.slots("a").unwrap().is_empty());
    assert_eq!(names(tx.list("", "", 9).unwrap()), ["once", "retry"]);
}

fn a_stop_is_requested_of_the_row_that_a_server_fires(store: &mut dyn ScheduleStore) {
    let fired = TriggerRow {
        status: TriggerStatus::Triggered,
        owner: 7,
        stop_requested: true,
        ..planned("a", 5)
    };
    save(store, &[fired, TriggerRow { owner: 7, ..planned("b", 5) }]);
    let mut tx = store.begin().unwrap();
    assert_eq!(tx.stop_requests(7).unwrap(), [TriggerKey::of("a")]);
    let row = tx.triggers(&[TriggerKey::of("a")]).unwrap().remove(0);
    tx.give_back(&row).unwrap();
    assert_eq!(tx.owned(7).unwrap().len(), 1);
}

fn another_connection_sees_what_is_committed(store: &mut dyn ScheduleStore) {
    let mut other = store.open_another().unwrap();
    let before = other.change_number().unwrap();
    save(store, &[planned("a", 5)]);
    assert_eq!(other.next_due().unwrap(), Some(5));
    if let Some(before) = before {
        assert_ne!(other.change_number().unwrap(), Some(before));
    }
}

#[cfg(test)]
mod tests {
    use super::conformance_of_schedule;
    use crate::store::schedule::MemorySchedule;

    #[test]
    fn the_schedule_in_memory_conforms() {
        conformance_of_schedule(|| Box::new(MemorySchedule::new()));
    }
}
