//! Every database passes the conformance suite of repositories.

mod common;

use batchwright::testing::conformance;
use batchwright_store::{SqlRepository, StoreOptions};
use common::{Kind, Place, all, servers};

#[test]
fn sqlite_keeps_the_promises_of_a_repository() {
    conformance(&*Place::new(Kind::Sqlite).repository());
}

#[test]
fn postgresql_keeps_the_promises_of_a_repository() {
    if !Kind::Postgres.is_there() {
        return;
    }
    let place = Place::new(Kind::Postgres);
    conformance(&*place.repository());
}

#[test]
fn mariadb_keeps_the_promises_of_a_repository() {
    if !Kind::MySql.is_there() {
        return;
    }
    let place = Place::new(Kind::MySql);
    conformance(&*place.repository());
}

#[test]
fn one_connection_is_enough() {
    for kind in servers() {
        let place = Place::new(kind);
        conformance(&SqlRepository::connect(&place.url_with("connections=1")).unwrap());
    }
}

#[test]
fn two_prefixes_in_one_database_are_two_stores() {
    for kind in all() {
        let place = Place::new(kind);
        for prefix in ["one_", "two_"] {
            let options = StoreOptions { prefix: prefix.to_owned(), ..StoreOptions::default() };
            conformance(&SqlRepository::open(place.database(), &options).unwrap());
        }
    }
}
