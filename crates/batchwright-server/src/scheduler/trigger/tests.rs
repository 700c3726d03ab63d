//! Tests every status with every event, and every overlap policy with every state of the earlier slot.

use super::*;
use crate::scheduler::RuleSettings;

const NOW: Micros = 1_800_000_000_000_000;
const MINUTE: Micros = 60_000_000;

fn row(status: TriggerStatus) -> TriggerRow {
    let mut row = TriggerRow::planned(TriggerKey::of("a"), NOW - MINUTE);
    row.status = status;
    row.due =
        matches!(status, TriggerStatus::Planned | TriggerStatus::Triggered).then_some(row.slot);
    row.owner = if status == TriggerStatus::Triggered { 7 } else { 0 };
    row.version = 3;
    row
}

fn rule(words: &[&str]) -> Rule {
    Rule {
        identifier: "r".to_owned(),
        pattern: String::new(),
        settings: RuleSettings::parse(words).unwrap(),
        sequence: 1,
    }
}

fn plan(words: &str) -> Plan {
    let words: Vec<&str> = words.split(' ').collect();
    Plan::parse(&words, 0).unwrap()
}

fn failed(retryable: bool) -> Outcome {
    Outcome::Failed { reason: "exit code 3".to_owned(), output: None, retryable, not_before: None }
}

#[test]
fn every_status_has_its_answer_to_every_request() {
    use TriggerStatus::{Dead, Ended, Executed, Failed, Paused, Planned, Skipped, Triggered};
    let code = |result: Result<TriggerStatus, Refused>| result.map_err(|refused| refused.code);
    for status in TriggerStatus::ALL {
        let later = When::At(NOW + MINUTE);
        let after_set = code(set("a", Some(row(status)), &later, NOW).map(|row| row.status));
        let after_pause = code(pause(row(status)).map(|row| row.status));
        let after_resume = code(resume(row(status), &[], NOW).map(|rows| rows[0].status));
        let after_unset = unset(&row(status)).map_err(|refused| refused.code);
        let expected = match status {
            Planned => (Ok(Planned), Ok(Paused), Err("invalid"), Ok(())),
            Triggered => (Err("busy"), Err("busy"), Err("invalid"), Err("busy")),
            Paused => (Ok(Paused), Ok(Paused), Ok(Planned), Ok(())),
            Executed | Failed | Dead | Skipped | Ended => {
                (Ok(Planned), Err("invalid"), Err("invalid"), Ok(()))
            }
        };
        assert_eq!((after_set, after_pause, after_resume, after_unset), expected, "{status}");
    }
}

#[test]
fn setting_again_forgets_what_was_before_and_keeps_the_version() {
    let mut before = row(TriggerStatus::Failed);
    before.attempt = 4;
    before.reason = Some("exit code 3".to_owned());
    let after = set("a", Some(before), &When::At(NOW), NOW).unwrap();
    assert_eq!((after.attempt, after.reason, after.version, after.due), (0, None, 3, Some(NOW)));
}

#[test]
fn an_outcome_decides_what_a_trigger_is_afterwards() {
    let plain = rule(&["shell", "x"]);
    let patient = rule(&["shell", "x", "retry", "2", "backoff", "10s"]);
    let after = |attempt: u32, outcome: Outcome, rule: &Rule| {
        let mut before = row(TriggerStatus::Triggered);
        before.attempt = attempt;
        let after = finish(before, outcome, rule, NOW);
        assert_eq!(after.owner, 0);
        (after.status, after.due.map(|due| due - NOW), after.attempt)
    };
    use TriggerStatus::{Dead, Executed, Failed, Planned};
    assert_eq!(after(0, Outcome::Executed(None), &plain), (Executed, None, 0));
    assert_eq!(after(0, failed(true), &plain), (Failed, None, 1));
    assert_eq!(after(0, failed(true), &patient), (Planned, Some(10_000_000), 1));
    assert_eq!(after(1, failed(true), &patient), (Planned, Some(20_000_000), 2));
    assert_eq!(after(2, failed(true), &patient), (Dead, None, 3), "an operator must act");
    assert_eq!(after(0, failed(false), &patient), (Failed, None, 1), "no attempt would help");
    assert_eq!(after(1, Outcome::Released, &patient), (Planned, Some(-MINUTE), 1));
    assert_eq!(
        after(1, Outcome::Postponed("away".to_owned()), &patient),
        (Planned, Some(MINUTE / 4), 1)
    );
}

#[test]
fn a_slot_that_was_asked_to_stop_is_not_tried_again() {
    let mut before = row(TriggerStatus::Triggered);
    before.stop_requested = true;
    before.reason = Some("replaced by the slot of …".to_owned());
    let after = finish(before, failed(true), &rule(&["shell", "x", "retry", "5"]), NOW);
    assert_eq!(after.status, TriggerStatus::Failed);
    assert!(after.reason.unwrap().starts_with("replaced"));
}

#[test]
fn without_a_rule_a_trigger_fails_when_it_fires() {
    let after = fire(row(TriggerStatus::Planned), None, 7, NOW);
    assert_eq!((after.status, after.due, after.owner), (TriggerStatus::Failed, None, 0));
    assert!(after.reason.unwrap().contains("no rule"));
}

/// The state of the slot before the new one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Earlier {
    None,
    Ended,
    Running,
    Retrying,
    RunningWithOneWaiting,
}

fn known(earlier: Earlier) -> Vec<TriggerRow> {
    let slot = |number: Micros, status: TriggerStatus, due: Option<Micros>| {
        let at = NOW - number * MINUTE;
        let mut row = TriggerRow::planned(TriggerKey::of_slot("a", at), at);
        row.status = status;
        row.due = due;
        row
    };
    match earlier {
        Earlier::None => Vec::new(),
        Earlier::Ended => vec![slot(2, TriggerStatus::Executed, None)],
        Earlier::Running => vec![slot(2, TriggerStatus::Triggered, Some(NOW))],
        Earlier::Retrying => vec![slot(2, TriggerStatus::Planned, Some(NOW + MINUTE))],
        Earlier::RunningWithOneWaiting => vec![
            slot(3, TriggerStatus::Triggered, Some(NOW)),
            slot(2, TriggerStatus::Planned, None),
        ],
    }
}

#[test]
fn every_overlap_policy_meets_every_state_of_the_slot_before() {
    use Earlier::{Ended, None, Retrying, Running, RunningWithOneWaiting};
    // The decision about the new slot.
    #[derive(Debug, PartialEq)]
    enum New {
        Fires,
        Waits,
        Skipped,
    }
    for earlier in [None, Ended, Running, Retrying, RunningWithOneWaiting] {
        for (policy, expected) in [
            ("allow", New::Fires),
            ("skip", if matches!(earlier, None | Ended) { New::Fires } else { New::Skipped }),
            (
                "queue queue 1",
                match earlier {
                    None | Ended => New::Fires,
                    Running | Retrying => New::Waits,
                    RunningWithOneWaiting => New::Skipped,
                },
            ),
            // A slot that waits for a retry is replaced at once; a running one must end first.
            (
                "replace",
                match earlier {
                    None | Ended | Retrying => New::Fires,
                    Running | RunningWithOneWaiting => New::Waits,
                },
            ),
        ] {
            let plan = plan(&format!("every 1m from 1970-01-01T00:00:00Z overlap {policy}"));
            let mut trigger = row(TriggerStatus::Planned);
            trigger.slot = NOW;
            let decided = slots(trigger, &plan, &known(earlier), NOW, Duration::from_secs(60));
            let own = decided.rows.iter().find(|row| row.key == TriggerKey::of_slot("a", NOW));
            let new = match own {
                _ if decided.fire.iter().any(|row| row.slot == NOW) => New::Fires,
                Some(row) if row.status == TriggerStatus::Skipped => {
                    assert!(row.reason.as_ref().unwrap().contains("overlap"), "{row:?}");
                    New::Skipped
                }
                Some(row) if row.due.is_none() => New::Waits,
                other => panic!("{policy} after {earlier:?}: {other:?}"),
            };
            assert_eq!(new, expected, "{policy} after {earlier:?}");
            let itself = decided.rows.last().unwrap();
            assert_eq!((itself.status, itself.slot), (TriggerStatus::Planned, NOW + MINUTE));
        }
    }
}

#[test]
fn replacing_asks_what_runs_to_stop_and_gives_up_what_waits() {
    let plan = plan("every 1m from 1970-01-01T00:00:00Z overlap replace");
    let mut trigger = row(TriggerStatus::Planned);
    trigger.slot = NOW;
    let before = known(Earlier::RunningWithOneWaiting);
    let decided = slots(trigger, &plan, &before, NOW, Duration::from_secs(60));
    let of = |row: &TriggerRow| decided.rows.iter().find(|one| one.key == row.key).unwrap();
    assert!(of(&before[0]).stop_requested);
    assert_eq!(of(&before[1]).status, TriggerStatus::Skipped);
    assert!(of(&before[1]).reason.as_ref().unwrap().starts_with("replaced by"));
}

#[test]
fn what_waits_is_released_when_nothing_runs_any_more() {
    let mut slots = known(Earlier::RunningWithOneWaiting);
    assert_eq!(released(&slots, NOW), None);
    slots[0] = finish(slots[0].clone(), Outcome::Executed(None), &rule(&["shell", "x"]), NOW);
    let next = released(&slots, NOW).unwrap();
    assert_eq!((next.slot, next.due), (slots[1].slot, Some(NOW)));
    assert_eq!(released(&known(Earlier::Ended), NOW), None);
}

#[test]
fn a_slot_that_is_known_fires_no_second_time() {
    let plan = plan("every 1m from 1970-01-01T00:00:00Z");
    let mut trigger = row(TriggerStatus::Planned);
    trigger.slot = NOW;
    let mut slot = TriggerRow::planned(TriggerKey::of_slot("a", NOW), NOW);
    slot.status = TriggerStatus::Executed;
    let decided = slots(trigger, &plan, &[slot], NOW, Duration::from_secs(60));
    assert_eq!(decided.fire, []);
}

#[test]
fn the_end_of_a_plan_ends_its_trigger() {
    let end = time::show_exact(NOW);
    let plan = plan(&format!("every 1m from 1970-01-01T00:00:00Z until {end}"));
    let mut trigger = row(TriggerStatus::Planned);
    trigger.slot = NOW;
    let decided = slots(trigger, &plan, &[], NOW, Duration::from_secs(60));
    assert_eq!(decided.fire.len(), 1);
    assert_eq!((decided.rows[0].status, decided.rows[0].due), (TriggerStatus::Ended, None));
}

#[test]
fn slots_that_passed_during_a_pause_are_told() {
    let mut paused = row(TriggerStatus::Paused);
    paused.slot = NOW - 10 * MINUTE;
    paused.plan = Some("every 1m from 1970-01-01T00:00:00Z".to_owned());
    let rows = resume(paused, &[], NOW).unwrap();
    assert_eq!(rows[0].status, TriggerStatus::Skipped);
    assert!(rows[0].reason.as_ref().unwrap().starts_with("paused from"));
    assert_eq!((rows[1].status, rows[1].slot), (TriggerStatus::Planned, NOW));
}

fn trigger_of(plan: &str, slot: Micros) -> TriggerRow {
    let mut trigger = row(TriggerStatus::Planned);
    (trigger.slot, trigger.plan) = (slot, Some(plan.to_owned()));
    trigger
}

#[test]
fn a_pause_is_recorded_from_its_first_slot_without_a_row() {
    let mut paused = trigger_of("every 1m from 1970-01-01T00:00:00Z", NOW - 3 * MINUTE);
    (paused.status, paused.due) = (TriggerStatus::Paused, None);
    let fired = TriggerRow::planned(TriggerKey::of_slot("a", paused.slot), paused.slot);
    let rows = resume(paused, &[fired], NOW).unwrap();
    assert_eq!((rows.len(), rows[0].slot), (2, NOW - 2 * MINUTE));
}

#[test]
fn a_skipped_time_does_not_fire_and_does_not_become_the_next_one_again() {
    let text = "every 1m from 1970-01-01T00:00:00Z";
    let next = |after: Micros| plan(text).next(after).unwrap();
    let mut trigger = row(TriggerStatus::Planned);
    (trigger.slot, trigger.plan) = (next(NOW), Some(text.to_owned()));
    let slot = trigger.slot;
    let refused = |at: Micros, known: &[TriggerRow], reason: &str| {
        let refused = skip(trigger.clone(), known, at, NOW).unwrap_err();
        assert!(refused.message.contains(reason), "{}", refused.message);
    };
    refused(NOW, &[], "that time has come");
    refused(slot + 1, &[], "does not fire at that time");
    refused(slot + 2_000_000, &[], "does not fire at that time");
    let mut uneven = trigger.clone();
    uneven.plan = Some("every 1m anchor 1970-01-01T00:00:00.5Z".to_owned());
    let half = skip(uneven, &[], slot, NOW).unwrap();
    assert_eq!(half[0].slot, slot + 500_000, "the time as people see it");
    let rows = skip(trigger.clone(), &[], slot, NOW).unwrap();
    let [skipped, after] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((skipped.status, skipped.slot), (TriggerStatus::Skipped, slot));
    assert_eq!((after.status, after.slot), (TriggerStatus::Planned, next(slot)));
    let known = std::slice::from_ref(skipped);
    refused(slot, known, "it is skipped for that time already");
    assert_eq!(replanned(after.clone(), &plan(text), known, NOW), None);
    assert_eq!(past_decided(trigger.clone(), known, NOW).slot, next(slot));
    // A later time leaves the next one as it is.
    let later = skip(trigger.clone(), &[], next(slot), NOW).unwrap();
    assert_eq!((later.len(), later[0].slot), (1, next(slot)));
    // Where the trigger reaches it nevertheless, it does not fire.
    let decided = slots(trigger, &plan(text), known, slot, Duration::from_secs(60));
    assert_eq!((decided.fire.len(), decided.rows.len()), (0, 1));
    // One that its jitter delays has not fired yet.
    let mut delayed = trigger_of(text, slot - MINUTE);
    delayed.due = Some(NOW + 1);
    assert_eq!(next_time(std::slice::from_ref(&delayed), NOW).unwrap(), slot - MINUTE);
    let rows = skip(delayed, &[], slot - MINUTE, NOW).unwrap();
    assert_eq!((rows[0].slot, rows[1].slot), (slot - MINUTE, slot));
    let many: Vec<_> = (1..=100)
        .map(|n| TriggerRow::planned(TriggerKey::of_slot("a", NOW + n), NOW + n))
        .collect();
    let refused = skip(trigger_of(text, slot), &many, slot, NOW).unwrap_err();
    assert!(refused.message.contains("pause the trigger"), "{}", refused.message);
    let once = TriggerRow::planned(TriggerKey::of("once"), NOW + MINUTE);
    assert!(skip(once, &[], NOW + MINUTE, NOW).unwrap_err().message.contains("fires once"));
}

#[test]
fn what_is_deferred_comes_back_later_the_longer_it_waits() {
    assert_eq!(deferred_until(NOW, NOW) - NOW, 1_000_000);
    assert_eq!(deferred_until(NOW - 100 * MINUTE, NOW) - NOW, 30_000_000);
}

#[test]
fn a_slot_that_only_a_wrong_clock_could_reach_is_planned_anew() {
    let hourly = Plan::parse(&["cron", "0 * * * *"], 0).unwrap();
    let far = 10 * 365 * 24 * 60 * MINUTE;
    let waiting = |slot| TriggerRow::planned(TriggerKey::of("a"), slot);
    let next = hourly.next(MINUTE).unwrap();
    assert_eq!(replanned(waiting(far), &hourly, &[], MINUTE).map(|row| row.slot), Some(next));
    assert_eq!(
        replanned(waiting(next), &hourly, &[], MINUTE),
        None,
        "it has the slot that it should have"
    );
    assert_eq!(
        replanned(waiting(0), &hourly, &[], MINUTE),
        None,
        "a due slot is left to the claim"
    );
    let failed = fail_row(waiting(far));
    let mended = replanned(failed, &hourly, &[], MINUTE).unwrap();
    assert_eq!((mended.status, mended.slot, mended.reason), (TriggerStatus::Planned, next, None));
}

#[test]
fn an_interval_that_was_planned_by_a_clock_that_was_ahead_goes_on() {
    let ahead = 1_000 * MINUTE;
    let words = ["every", "1m"];
    let planned_ahead = Plan::parse(&words, ahead).unwrap();
    assert_eq!(
        planned_ahead.first(ahead),
        Some(ahead + MINUTE),
        "the first time comes after one interval"
    );
    let next = planned_ahead.next(5 * MINUTE + 1).unwrap();
    assert!(next > 5 * MINUTE && next <= 6 * MINUTE + 1, "{next}");
}

#[test]
fn the_same_plan_again_keeps_its_next_slot() {
    let when = |now| When::Recurring(Box::new(Plan::parse(&["every", "10m"], now).unwrap()));
    let row = set("a", None, &when(0), 0).unwrap();
    let again = set("a", Some(row.clone()), &when(3 * MINUTE), 3 * MINUTE).unwrap();
    assert_eq!(again.slot, row.slot);
    let other = When::Recurring(Box::new(Plan::parse(&["every", "20m"], 3 * MINUTE).unwrap()));
    assert_ne!(set("a", Some(row.clone()), &other, 3 * MINUTE).unwrap().slot, row.slot);
}

#[test]
fn a_plan_that_cannot_be_understood_waits_and_says_why() {
    let row =
        unparsable(TriggerRow::planned(TriggerKey::of("a"), 0), "there is no time zone", MINUTE);
    assert_eq!(row.status, TriggerStatus::Planned);
    assert!(row.due.unwrap() > MINUTE && row.reason.unwrap().contains("no time zone"));
}

fn fail_row(mut row: TriggerRow) -> TriggerRow {
    row.status = TriggerStatus::Failed;
    row.due = None;
    row.reason = Some("its plan cannot be understood".to_owned());
    row
}

#[test]
fn only_what_was_not_executed_becomes_due_by_hand() {
    use TriggerStatus::{Dead, Ended, Executed, Failed, Paused, Planned, Skipped, Triggered};
    for status in TriggerStatus::ALL {
        let mut before = row(status);
        (before.attempt, before.reason) = (4, Some("exit code 3".to_owned()));
        let after = due_now(before, NOW).map(|row| (row.status, row.due, row.attempt, row.reason));
        let expected = match status {
            Triggered => Err("busy"),
            Executed => Err("invalid"),
            Planned | Paused | Failed | Dead | Skipped | Ended => Ok((Planned, Some(NOW), 0, None)),
        };
        assert_eq!(after.map_err(|refused| refused.code), expected, "{status}");
    }
}

#[test]
fn a_slot_older_than_the_records_is_refused_once_records_were_removed() {
    let slots = |count: usize| -> Vec<TriggerRow> {
        let slots = (0..i64::try_from(count).unwrap()).map(|number| NOW + number * MINUTE);
        slots.map(|slot| TriggerRow::planned(TriggerKey::of_slot("a", slot), slot)).collect()
    };
    let old = [TriggerKey::of_slot("a", NOW - MINUTE)];
    let known = [TriggerKey::of_slot("a", NOW)];
    assert_eq!(forgotten(&slots(SLOTS_KEPT - 1), &old), None, "all records are there");
    let refused = forgotten(&slots(SLOTS_KEPT), &old).expect("it may have been executed");
    assert!(refused.message.contains("start its job"), "{}", refused.message);
    assert_eq!(forgotten(&slots(SLOTS_KEPT), &known), None);
    assert_eq!(forgotten(&[], &old), None);
}
