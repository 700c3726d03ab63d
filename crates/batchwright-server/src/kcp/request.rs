//! Parses requests and encodes answers of the line protocol.

use super::encode;
use crate::scheduler::{
    Answer, LIST_MAX, Plan, Refused, Request, RuleSettings, TriggerRow, When, time,
};

/// A parsed message.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// A request to the schedule.
    Schedule(Request),
    /// A ping, answered with `OK`.
    Ping,
    /// An authentication with the token.
    Auth(String),
    /// A switch to errors with code and message.
    Hello,
}

/// Returns whether an unauthenticated client may send the request.
pub(super) fn is_open(words: &[String]) -> bool {
    words.first().is_some_and(|verb| verb == "AUTH" || verb == "HELLO")
}

/// Parses `words`, a message without its identifier, at `now` in microseconds.
pub(super) fn parse(words: &[String], now: i64) -> Result<Asked, Refused> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let request = match words.as_slice() {
        ["PING"] => return Ok(Asked::Ping),
        ["AUTH", token] => return Ok(Asked::Auth((*token).to_owned())),
        ["HELLO", "2"] => return Ok(Asked::Hello),
        ["SET", identifier, time] => {
            let when = When::At(time::parse(time).map_err(Refused::invalid)?);
            Request::Set { identifier: (*identifier).to_owned(), when }
        }
        ["SET", identifier, plan @ ..] if plan.len() > 1 => {
            let plan = Plan::parse(plan, now).map_err(Refused::invalid)?;
            let when = When::Recurring(Box::new(plan));
            Request::Set { identifier: (*identifier).to_owned(), when }
        }
        ["UNSET", identifier] => Request::Unset { identifier: (*identifier).to_owned() },
        ["PAUSE", identifier] => Request::Pause { identifier: (*identifier).to_owned() },
        ["RESUME", identifier] => Request::Resume { identifier: (*identifier).to_owned() },
        ["GET", identifier] => Request::Get { identifier: (*identifier).to_owned() },
        ["LIST", prefix, limit, rest @ ..] if rest.len() < 2 => {
            let limit = limit.parse().ok().filter(|limit| (1..=LIST_MAX).contains(limit));
            let wrong = || Refused::invalid(format!("the limit of a list must be 1 to {LIST_MAX}"));
            Request::List {
                prefix: (*prefix).to_owned(),
                limit: limit.ok_or_else(wrong)?,
                after: rest.first().copied().unwrap_or_default().to_owned(),
            }
        }
        ["RULE", "SET", identifier, pattern, runner @ ..] => Request::SetRule {
            identifier: (*identifier).to_owned(),
            pattern: (*pattern).to_owned(),
            settings: RuleSettings::parse(runner).map_err(Refused::invalid)?,
        },
        ["RULE", "UNSET", identifier] => {
            Request::UnsetRule { identifier: (*identifier).to_owned() }
        }
        [
            verb @ ("PING" | "AUTH" | "HELLO" | "SET" | "UNSET" | "PAUSE" | "RESUME" | "GET"
            | "LIST" | "RULE"),
            ..,
        ] => {
            return Err(Refused::invalid(format!("wrong arguments for {verb}")));
        }
        [other, ..] => {
            let known =
                "SET, UNSET, PAUSE, RESUME, GET, LIST, RULE SET, RULE UNSET, PING, AUTH, HELLO 2";
            return Err(Refused::new(
                "unknown",
                format!("unknown request `{other}`; expected one of {known}"),
            ));
        }
        [] => return Err(Refused::invalid("the request is missing")),
    };
    Ok(Asked::Schedule(request))
}

/// Encodes the answer to `identifier`. An error contains code and message only after `HELLO 2`.
pub(super) fn answer(
    identifier: &str,
    answer: &Result<Answer, Refused>,
    with_reasons: bool,
) -> String {
    let mut words = vec![identifier.to_owned()];
    match answer {
        Ok(Answer::Done | Answer::Servers(_)) => words.push("OK".to_owned()),
        Ok(Answer::Triggers(rows)) => {
            words.push("OK".to_owned());
            rows.iter().for_each(|row| words.extend(trigger(row)));
        }
        Ok(Answer::Rules(rules)) => {
            words.push("OK".to_owned());
            for rule in rules {
                let line = crate::message::line(&rule.settings.words());
                words.extend([rule.identifier.clone(), rule.pattern.clone(), line]);
            }
        }
        Err(_) if !with_reasons => words.push("ERROR".to_owned()),
        Err(refused) => {
            words.extend(["ERROR".to_owned(), refused.code.to_owned(), refused.message.clone()]);
        }
    }
    encode(&words)
}

/// Returns identifier, status, the slot as in `SET`, and the plan or an empty text.
fn trigger(row: &TriggerRow) -> [String; 4] {
    [
        row.key.identifier.clone(),
        row.status.name().to_owned(),
        time::show(row.slot),
        row.plan.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, Refused> {
        parse(&crate::message::words(line).unwrap(), 0)
    }

    #[test]
    fn what_kairoi_refuses_is_refused() {
        for line in [
            "NOPE a",
            "SET a",
            "SET a 2026-11-22",
            "SET a \"2026-11-22 24:00:00\"",
            "SET a \"2026-02-30 00:00:00\"",
            "SET a \"2026-11-22 06:30:00 \"",
            "SET a \"1969-12-31 23:59:59\"",
            "SET a \"10000-01-01 00:00:00\"",
            "SET a \"2026-11-22 06:30:00\" more",
            "RULE SET a b",
            "RULE SET a b telegraph c",
            "RULE SET a b shell",
            "RULE SET a b shell c d",
            "RULE SET a b amqp dsn exchange",
            "RULE NOPE a b shell c",
            "set a \"2026-11-22 06:30:00\"",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn both_forms_of_a_time_are_understood() {
        let at = |line: &str| match parsed(line) {
            Ok(Asked::Schedule(Request::Set { when: When::At(at), .. })) => at,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(at("SET a \"1970-01-01 00:00:01\""), 1_000_000);
        assert_eq!(at("SET a 1970-01-01T01:00:01+01:00"), 1_000_000);
        assert_eq!(at("SET a \"9999-12-31 23:59:59\""), time::MAX);
    }
}
