//! The slots of plans: golden cases over both daylight-saving nights in three zones, leap days, month ends,
//! and a month of downtime under each misfire policy. They were checked against the calendar by hand, not
//! against the library.

use std::time::Duration;

use batchwright_server::Plan;
use jiff::Timestamp;

fn micros(text: &str) -> i64 {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

fn shown(at: i64) -> String {
    Timestamp::from_microsecond(at).unwrap().to_string()
}

fn plan(words: &[&str]) -> Plan {
    Plan::parse(words, micros("2026-01-01T00:00:00Z")).unwrap()
}

/// Returns the first `count` slots of a plan after `from`.
fn fires(words: &[&str], from: &str, count: usize) -> Vec<String> {
    let plan = plan(words);
    let mut at = micros(from);
    (0..count)
        .map(|_| {
            at = plan.next(at).unwrap();
            shown(at)
        })
        .collect()
}

/// The words of a plan, a start time, and the expected slots.
type Case = (&'static [&'static str], &'static str, &'static [&'static str]);

const GOLDEN: &[Case] = &[
    // Berlin, 28 March 2027: the clock skips from 02:00 to 03:00. A skipped time fires at the end of the gap.
    (
        &["cron", "0 30 2 * * *", "tz", "Europe/Berlin"],
        "2027-03-26T12:00:00Z",
        &["2027-03-27T01:30:00Z", "2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"],
    ),
    // 25 October 2026: the clock goes back from 03:00 to 02:00. A time that occurs twice fires the first
    // time.
    (
        &["cron", "0 30 2 * * *", "tz", "Europe/Berlin"],
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    ),
    // Steps follow real time through both changes.
    (
        &["cron", "*/30 * * * *", "tz", "Europe/Berlin"],
        "2027-03-28T00:15:00Z",
        &["2027-03-28T00:30:00Z", "2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"],
    ),
    (
        &["cron", "*/30 * * * *", "tz", "Europe/Berlin"],
        "2026-10-24T23:45:00Z",
        &[
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z",
        ],
    ),
    // New York, 14 March 2027 and 1 November 2026.
    (
        &["cron", "30 2 * * *", "tz", "America/New_York"],
        "2027-03-13T12:00:00Z",
        &["2027-03-14T07:00:00Z", "2027-03-15T06:30:00Z"],
    ),
    (
        &["cron", "30 1 * * *", "tz", "America/New_York"],
        "2026-10-31T12:00:00Z",
        &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
    ),
    // Lord Howe Island: the clock moves by half an hour, 4 October 2026 and 4 April 2027.
    (
        &["cron", "15 2 * * *", "tz", "Australia/Lord_Howe"],
        "2026-10-03T00:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    ),
    (
        &["cron", "45 1 * * *", "tz", "Australia/Lord_Howe"],
        "2027-04-03T00:00:00Z",
        &["2027-04-03T14:45:00Z", "2027-04-04T15:15:00Z"],
    ),
    // Leap days and the ends of months.
    (
        &["cron", "0 0 29 2 *"],
        "2026-01-01T00:00:00Z",
        &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
    ),
    (
        &["cron", "0 0 L * *"],
        "2028-01-15T00:00:00Z",
        &[
            "2028-01-31T00:00:00Z",
            "2028-02-29T00:00:00Z",
            "2028-03-31T00:00:00Z",
            "2028-04-30T00:00:00Z",
        ],
    ),
    (
        &["cron", "0 0 31 * *"],
        "2026-01-01T00:00:00Z",
        &["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z"],
    ),
    // A field for seconds, names, ranges.
    (
        &["cron", "15 0 9 * * MON-FRI"],
        "2026-11-20T12:00:00Z",
        &["2026-11-23T09:00:15Z", "2026-11-24T09:00:15Z"],
    ),
    // Excluded days: single, as a range, and across every new year.
    (
        &["cron", "0 12 * * *", "except", "2026-12-02,2026-12-04..2026-12-05"],
        "2026-12-01T00:00:00Z",
        &["2026-12-01T12:00:00Z", "2026-12-03T12:00:00Z", "2026-12-06T12:00:00Z"],
    ),
    (
        &["cron", "0 12 * * *", "except", "12-24..01-02"],
        "2026-12-23T00:00:00Z",
        &["2026-12-23T12:00:00Z", "2027-01-03T12:00:00Z"],
    ),
    // The excluded day is one of the zone; a plan that fires every second skips it as a whole.
    (
        &["cron", "* * * * * *", "tz", "Pacific/Auckland", "except", "2026-11-22"],
        "2026-11-21T10:59:58Z",
        &["2026-11-21T10:59:59Z", "2026-11-22T11:00:00Z"],
    ),
    // Intervals count from `from`.
    (
        &["cron", "@every 90s", "from", "2026-11-22T00:00:00Z"],
        "2026-11-22T00:02:00Z",
        &["2026-11-22T00:03:00Z", "2026-11-22T00:04:30Z"],
    ),
    (
        &["every", "1d", "from", "2026-11-22T06:00:00Z"],
        "2026-11-01T00:00:00Z",
        &["2026-11-22T06:00:00Z", "2026-11-23T06:00:00Z"],
    ),
];

#[test]
fn plans_fire_when_the_calendar_says() {
    for (words, from, expected) in GOLDEN {
        assert_eq!(fires(words, from, expected.len()), *expected, "{words:?} from {from}");
    }
}

#[test]
fn a_plan_is_made_again_from_its_words() {
    for (words, ..) in GOLDEN {
        let made = plan(words);
        assert_eq!(Plan::parse(&made.words(), 0).unwrap(), made, "{words:?}");
    }
    let words = [
        "every",
        "5m",
        "tz",
        "Asia/Tokyo",
        "from",
        "2026-01-01T00:00:00.25Z",
        "until",
        "2027-01-01T00:00:00Z",
        "jitter",
        "30s",
        "misfire",
        "all",
        "misfire-cap",
        "7",
        "misfire-age",
        "2d",
        "overlap",
        "queue",
        "queue",
        "3",
    ];
    let made = plan(&words);
    assert_eq!(Plan::parse(&made.words(), 0).unwrap(), made);
}

#[test]
fn a_plan_that_ends_with_the_year_9999_is_made_again_from_its_words() {
    for until in ["9999-12-31 23:59:59", "9999-12-31T23:59:59.999999Z"] {
        let made = plan(&["every", "1d", "until", until]);
        assert_eq!(Plan::parse(&made.words(), 0).as_ref(), Ok(&made), "{:?}", made.words());
    }
    for wrong in ["9999-12-31T23:59:59+00:00Z", "9999-12-31T23:59:59.Z", "9999-12-31T24:00:00Z"] {
        assert!(Plan::parse(&["every", "1d", "until", wrong], 0).is_err(), "{wrong}");
    }
}

#[test]
fn an_end_is_an_end() {
    let plan = plan(&["cron", "0 12 * * *", "until", "2026-11-23T12:00:00Z"]);
    assert_eq!(plan.next(micros("2026-11-22T13:00:00Z")), Some(micros("2026-11-23T12:00:00Z")));
    assert_eq!(plan.next(micros("2026-11-23T12:00:00Z")), None);
}

#[test]
fn what_never_fires_or_cannot_be_meant_is_refused() {
    for words in [
        &["cron", "0 0 31 2 *"][..],
        &["cron", "0 0 1 1 *", "except", "01-01"],
        &["every", "1d", "until", "2025-01-01T00:00:00Z"],
        &["every", "10ms"],
        &["every", "1 month"],
        &["every"],
        &["cron", "* * * *"],
        &["cron", "61 * * * *"],
        &["every", "1h", "tz", "Mars/Olympus"],
        &["every", "1h", "except", "2026-12-31..2026-12-01"],
        &["every", "1h", "except", "sometimes"],
        &["every", "1h", "overlap", "perhaps"],
        &["every", "1h", "queue", "3"],
        &["every", "1h", "misfire-cap", "0"],
        &["every", "1h", "jitter", "1s", "jitter", "2s"],
        &["every", "1h", "colour", "red"],
        &["sometimes"],
    ] {
        let refused = Plan::parse(words, micros("2026-01-01T00:00:00Z"));
        assert!(refused.is_err(), "{words:?}: {refused:?}");
    }
}

#[test]
fn a_month_of_down_time_under_each_misfire_policy() {
    let first = micros("2026-10-22T06:00:00Z");
    let now = micros("2026-11-22T00:00:00Z");
    let threshold = Duration::from_secs(60);
    let day = |number: i64| first + number * 86_400_000_000;
    for (policy, fired, skipped_to) in [
        (&["misfire", "skip"][..], vec![], Some(day(30))),
        (&["misfire", "once"], vec![day(30)], Some(day(30) - 1)),
        (&[], vec![day(30)], Some(day(30) - 1)),
        (&["misfire", "all"], (0..=30).map(day).collect(), None),
        (&["misfire", "all", "misfire-cap", "5"], (26..=30).map(day).collect(), Some(day(26) - 1)),
        (&["misfire", "all", "misfire-age", "7d"], (24..=30).map(day).collect(), Some(day(24) - 1)),
    ] {
        let plan = plan(&[&["cron", "0 6 * * *"][..], policy].concat());
        let due = plan.due(first, now, threshold);
        assert_eq!(due.fire, fired, "{policy:?}");
        let skipped = due.skipped.as_ref().map(|one| (one.0, one.1));
        assert_eq!(skipped, skipped_to.map(|to| (first, to)), "{policy:?}");
        assert_eq!(due.next, Some(day(31)), "{policy:?}");
    }
}

#[test]
fn a_month_of_missed_seconds_is_not_walked_through() {
    let plan = plan(&["cron", "* * * * * *", "misfire", "all", "misfire-cap", "10"]);
    let now = micros("2026-11-22T00:00:00Z");
    let due = plan.due(micros("2026-10-22T00:00:00Z"), now, Duration::from_secs(60));
    assert_eq!(due.fire.len(), 10);
    assert_eq!(due.fire.last(), Some(&now));
    assert_eq!(due.next, Some(now + 1_000_000));
}

#[test]
fn what_is_a_little_late_was_not_missed() {
    let plan = plan(&["every", "1s", "from", "2026-11-22T00:00:00Z", "misfire", "skip"]);
    let first = micros("2026-11-22T00:00:00Z");
    let due = plan.due(first, first + 3_500_000, Duration::from_secs(60));
    assert_eq!(due.fire, [first, first + 1_000_000, first + 2_000_000, first + 3_000_000]);
    assert_eq!(due.skipped, None);
}

#[test]
fn jitter_stays_in_its_bounds_and_is_the_same_for_a_slot() {
    let plan = plan(&["every", "1h", "jitter", "30s"]);
    let slots: Vec<i64> = (0..200).map(|n| n * 3_600_000_000).collect();
    let delays_of =
        |name: &str| slots.iter().map(|slot| plan.delay(name, *slot)).collect::<Vec<_>>();
    let delays = delays_of("a");
    assert!(delays.iter().all(|delay| (0..30_000_000).contains(delay)));
    assert!(delays.iter().any(|delay| *delay > 20_000_000));
    assert!(delays.iter().any(|delay| *delay < 10_000_000));
    assert_eq!(delays, delays_of("a"));
    assert_ne!(delays, delays_of("b"));
}
