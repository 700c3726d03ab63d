//! The schedule has the same guarantees on every database that supports it.

mod common;

use batchwright_store::{
    ScheduleStore, StoreOptions, TRIGGER, TriggerKey, TriggerRow, TriggerStatus,
};
use common::{Kind, Place};

fn on_each(promise: impl Fn(&mut ScheduleStore, &Place)) {
    for kind in [Kind::Sqlite, Kind::Postgres].into_iter().filter(|kind| kind.is_there()) {
        let place = Place::new(kind);
        place.repository();
        let mut store = ScheduleStore::open(&place.database(), &StoreOptions::default()).unwrap();
        promise(&mut store, &place);
    }
}

fn planned(identifier: &str, slot: i64) -> TriggerRow {
    TriggerRow::planned(TriggerKey::of(identifier), slot)
}

fn save(store: &mut ScheduleStore, rows: &[TriggerRow]) {
    let mut unit = store.begin().unwrap();
    unit.save(&rows.iter().collect::<Vec<_>>()).unwrap();
    unit.commit().unwrap();
}

#[test]
fn a_row_comes_back_as_it_was_whatever_its_texts_hold() {
    on_each(|store, _| {
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
    });
}

#[test]
fn due_rows_come_oldest_first_and_those_that_are_fired_do_not() {
    on_each(|store, _| {
        let mut fired = planned("fired", 1);
        fired.owner = 9;
        let mut ended = planned("ended", 1);
        ended.due = None;
        save(store, &[planned("late", 30), planned("b", 20), planned("a", 10), fired, ended]);
        let mut unit = store.begin().unwrap();
        let due = unit.due(25, 10).unwrap();
        assert_eq!(
            due.iter().map(|row| row.key.identifier.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(unit.due(25, 1).unwrap().len(), 1);
        assert_eq!(unit.next_due().unwrap(), Some(10));
    });
}

#[test]
fn what_a_dead_server_was_firing_is_planned_again_and_it_can_renew_nothing() {
    on_each(|store, _| {
        let mut unit = store.begin().unwrap();
        let (dead, alive) =
            (unit.insert_server("x", 100).unwrap(), unit.insert_server("y", 900).unwrap());
        unit.commit().unwrap();
        let row = |name: &str, owner: i64| TriggerRow {
            status: TriggerStatus::Triggered,
            owner,
            ..planned(name, 5)
        };
        save(store, &[row("a", dead), row("b", alive)]);
        let mut unit = store.begin().unwrap();
        assert!(!unit.remove_server(alive, 500).unwrap(), "its lease runs");
        assert!(unit.remove_server(dead, 500).unwrap());
        assert!(!unit.remove_server(dead, 500).unwrap(), "only once");
        assert!(!unit.renew_server(dead, 1_000).unwrap());
        assert!(unit.renew_server(alive, 1_000).unwrap());
        let due = unit.due(5, 10).unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].key.identifier.as_str(), due[0].status), ("a", TriggerStatus::Planned));
        assert_eq!(unit.owned(alive).unwrap().len(), 1);
    });
}

#[test]
fn lists_are_pages_of_triggers_not_of_slots() {
    on_each(|store, _| {
        let slot = TriggerRow::planned(TriggerKey::of_slot("b.1", 7), 7);
        let names = ["b.2", "a", "b.1", "b\u{10ffff}", "c", "b\\", "B"];
        save(store, &names.map(|name| planned(name, 5)));
        save(store, &[slot]);
        let mut unit = store.begin().unwrap();
        let mut listed = |prefix: &str, after: &str, limit: usize| -> Vec<String> {
            let rows = unit.list(prefix, after, limit).unwrap();
            assert!(rows.iter().all(|row| row.key.occurrence == TRIGGER));
            rows.into_iter().map(|row| row.key.identifier).collect()
        };
        assert_eq!(listed("b.", "", 10), ["b.1", "b.2"]);
        assert_eq!(listed("b.", "b.1", 10), ["b.2"]);
        assert_eq!(listed("b", "", 10), ["b.1", "b.2", "b\\", "b\u{10ffff}"]);
        assert_eq!(listed("", "", 2), ["B", "a"]);
        assert_eq!(unit.slots("b.1").unwrap().len(), 1);
    });
}

#[test]
fn two_servers_that_write_the_same_row_do_not_both_win() {
    on_each(|store, place| {
        if place.kind == Kind::Sqlite {
            // The write lock of the file allows one transaction at a time.
            return;
        }
        save(store, &[planned("a", 5)]);
        let mut other = ScheduleStore::open(&place.database(), &StoreOptions::default()).unwrap();
        let mut row = planned("a", 9);
        row.version = 1;
        save(store, std::slice::from_ref(&row));
        let mut unit = other.begin().unwrap();
        assert!(unit.save(&[&row]).is_err(), "it was changed meanwhile");
        drop(unit);
        // A row that one server has claimed is invisible to the other.
        let mut first = store.begin().unwrap();
        assert_eq!(first.due(100, 10).unwrap().len(), 1);
        assert_eq!(other.begin().unwrap().due(100, 10).unwrap(), []);
    });
}

#[test]
fn what_ended_is_forgotten_by_age_and_number() {
    on_each(|store, _| {
        let ended = |n: i64| TriggerRow {
            status: TriggerStatus::Executed,
            due: None,
            ended_at: Some(n),
            ..planned(&format!("t{n}"), n)
        };
        let rows: Vec<_> = (1..=10).map(ended).collect();
        save(store, &rows);
        save(store, &[planned("planned", 1)]);
        let mut unit = store.begin().unwrap();
        assert_eq!(unit.forget_ended(4, 100, 100).unwrap(), 3);
        assert_eq!(unit.forget_ended(0, 5, 100).unwrap(), 2);
        assert_eq!(unit.list("", "", 100).unwrap().len(), 6);
    });
}

#[test]
fn mysql_says_that_it_keeps_no_triggers() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    place.repository();
    let refused = ScheduleStore::open(&place.database(), &StoreOptions::default()).unwrap_err();
    assert!(batchwright::report(&refused).contains("not on MySQL"));
}
