//! The schedule has the same guarantees on every database that supports it.

mod common;

use batchwright::store::schedule::{ScheduleStore, TriggerKey, TriggerRow};
use batchwright::testing::conformance_of_schedule;
use batchwright_store::{SqlSchedule, StoreOptions};
use common::{Kind, Place};

fn on_each(promise: impl Fn(&mut SqlSchedule, &Place)) {
    for kind in [Kind::Sqlite, Kind::Postgres].into_iter().filter(|kind| kind.is_there()) {
        let place = Place::new(kind);
        place.repository();
        let mut store = SqlSchedule::open(&place.database(), &StoreOptions::default()).unwrap();
        promise(&mut store, &place);
    }
}

#[test]
fn the_schedule_conforms_on_every_database_that_supports_it() {
    for kind in [Kind::Sqlite, Kind::Postgres].into_iter().filter(|kind| kind.is_there()) {
        let places = std::cell::RefCell::new(Vec::new());
        conformance_of_schedule(|| {
            let place = Place::new(kind);
            place.repository();
            let store = SqlSchedule::open(&place.database(), &StoreOptions::default()).unwrap();
            places.borrow_mut().push(place);
            Box::new(store)
        });
    }
}

fn planned(identifier: &str, slot: i64) -> TriggerRow {
    TriggerRow::planned(TriggerKey::of(identifier), slot)
}

fn save(store: &mut SqlSchedule, rows: &[TriggerRow]) {
    let mut tx = store.begin().unwrap();
    tx.save(&rows.iter().collect::<Vec<_>>()).unwrap();
    tx.commit().unwrap();
}

#[test]
fn two_servers_that_write_the_same_row_do_not_both_win() {
    on_each(|store, place| {
        if place.kind == Kind::Sqlite {
            // The write lock of the file allows one transaction at a time.
            return;
        }
        save(store, &[planned("a", 5)]);
        let mut other = SqlSchedule::open(&place.database(), &StoreOptions::default()).unwrap();
        let mut row = planned("a", 9);
        row.version = 1;
        save(store, std::slice::from_ref(&row));
        let mut tx = other.begin().unwrap();
        assert!(tx.save(&[&row]).is_err(), "it was changed meanwhile");
        drop(tx);
        // A row that one server has claimed is invisible to the other.
        let mut first = store.begin().unwrap();
        assert_eq!(first.due(100, 10).unwrap().len(), 1);
        assert_eq!(other.begin().unwrap().due(100, 10).unwrap(), []);
    });
}

#[test]
fn mysql_says_that_it_keeps_no_triggers() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    place.repository();
    let refused = SqlSchedule::open(&place.database(), &StoreOptions::default()).unwrap_err();
    assert!(batchwright::report(&refused).contains("not on MySQL"));
}
