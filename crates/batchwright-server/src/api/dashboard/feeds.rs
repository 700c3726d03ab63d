//! Feeds for other programs: failures as Atom (RFC 4287), coming fires as iCalendar (RFC 5545).

use axum::http::header;
use axum::response::{IntoResponse, Response};
use batchwright::BatchStatus;
use batchwright::execution::JobExecution;
use batchwright::query::ExecutionFilter;
use jiff::Timestamp;
use maud::html;

use super::super::{Problem, blocking};
use super::parts::{cut, micros};
use super::view::View;
use crate::scheduler::Request;

/// Entries of a feed.
const ENTRIES: usize = 50;
/// Longest line of a calendar, in bytes.
const LINE_BYTES: usize = 75;

pub(super) async fn failures(view: View) -> Result<Response, Problem> {
    let text = blocking(move || {
        let failed = ExecutionFilter::default().status(BatchStatus::Failed).limit(ENTRIES);
        let failed = view.operator().queries().executions(&failed)?;
        Ok(atom(&view, &failed))
    })
    .await?;
    Ok(([(header::CONTENT_TYPE, "application/atom+xml; charset=utf-8")], text).into_response())
}

fn atom(view: &View, failed: &[JobExecution]) -> String {
    let at = |one: &JobExecution| one.ended_at.unwrap_or(one.created_at);
    let updated = failed.iter().map(at).max().unwrap_or(Timestamp::UNIX_EPOCH);
    // Addresses without a host are those of the host from which the feed was fetched.
    let address = |path: &str| view.url(path);
    let store = view.operator().store_id();
    let entries = html! {
        @for one in failed {
            entry {
                id { "urn:batchwright:" (store) ":execution:" (one.id) }
                title { (one.job) " " (one.id) " failed" @if let Some(failure) = &one.failure { ": " (failure.code) } }
                updated { (format!("{:.0}", at(one))) }
                link href=(address(&format!("/executions/{}", one.id))) {}
                summary { @if let Some(failure) = &one.failure { (cut(&failure.message, 1_000)) } }
            }
        }
    };
    let head = html! {
        id { "urn:batchwright:" (store) ":failures" }
        title { "Batchwright: failed executions" }
        author { name { "Batchwright" } }
        updated { (format!("{updated:.0}")) }
        link rel="self" href=(address("/failures.atom")) {}
    };
    let begin =
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\">";
    let text = format!("{begin}{}{}</feed>\n", head.into_string(), entries.into_string());
    // XML has no characters but these below the blank.
    text.chars().filter(|letter| *letter >= ' ' || matches!(letter, '\n' | '\t')).collect()
}

pub(super) async fn calendar(view: View) -> Result<Response, Problem> {
    let upcoming = Request::Upcoming { limit: ENTRIES };
    let rows = match &view.api.scheduler {
        Some(scheduler) => scheduler.read(upcoming).await?.triggers(),
        None => Vec::new(),
    };
    let store = view.operator().store_id().to_owned();
    let stamp = utc(view.now);
    let mut text = String::new();
    let mut line = |content: &str| fold(content, &mut text);
    line("BEGIN:VCALENDAR");
    line("VERSION:2.0");
    line("PRODID:-//Batchwright//Schedule//EN");
    for row in rows {
        line("BEGIN:VEVENT");
        line(&format!("UID:{}-{}@{store}", escaped(&row.key.identifier), row.slot));
        line(&format!("DTSTAMP:{stamp}"));
        line(&format!("DTSTART:{}", utc(micros(row.due.unwrap_or(row.slot)))));
        line(&format!("SUMMARY:{}", escaped(&row.key.identifier)));
        line("END:VEVENT");
    }
    line("END:VCALENDAR");
    Ok(([(header::CONTENT_TYPE, "text/calendar; charset=utf-8")], text).into_response())
}

fn utc(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace(';', "\\;").replace(',', "\\,");
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// Appends a line, folded into lines of at most 75 bytes.
fn fold(content: &str, text: &mut String) {
    let mut rest = content;
    let mut room = LINE_BYTES;
    while rest.len() > room {
        let (first, second) = rest.split_at(rest.floor_char_boundary(room));
        text.push_str(first);
        text.push_str("\r\n ");
        (rest, room) = (second, LINE_BYTES - 1);
    }
    text.push_str(rest);
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_of_a_calendar_are_folded_between_letters() {
        let mut text = String::new();
        fold(&format!("SUMMARY:{}", "ä".repeat(60)), &mut text);
        assert!(text.split("\r\n").all(|line| line.len() <= LINE_BYTES), "{text}");
        assert_eq!(text.replace("\r\n ", ""), format!("SUMMARY:{}\r\n", "ä".repeat(60)));
        assert_eq!(escaped("a;b,c\\d\r\ne"), "a\\;b\\,c\\\\d  e");
    }
}
