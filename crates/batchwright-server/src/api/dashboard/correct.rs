//! Skipped records, to be corrected by people and replayed.

use std::borrow::Cow;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Response;
use batchwright::execution::ExecutionId;
use batchwright::launch::LaunchOptions;
use maud::{Markup, html};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::super::Problem;
use super::super::access::Role;
use super::super::body::Id;
use super::super::page::percent;
use super::form::Fields;
use super::parts::{cause, cut, number};
use super::skips::unplaced;
use super::view::View;

/// Records of a page.
const RECORDS: usize = 20;
/// Bytes of the records of a page, beyond the first one.
const BYTES_MAX: usize = 200_000;
/// Longest value that has a field of its own, in bytes.
const LINE_MAX: usize = 200;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    /// Index of the first record of the page, among all that were skipped.
    from: usize,
}

pub(super) async fn page(
    view: View,
    Id(id): Id,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    view.write(move |view| {
        let execution = view.operator().explorer().execution(id)?;
        if !view.may(Role::Operator) {
            let detail = "corrections need the role operator";
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail));
        }
        let open = view.api.open_skips(id, asked.from, RECORDS + 1)?;
        let (mut bytes, mut shown) = (0, 0);
        for (_, record) in open.iter().take(RECORDS) {
            bytes += record.get().len();
            // The form must be small enough to be sent; one record is always shown.
            if shown > 0 && bytes > BYTES_MAX {
                break;
            }
            shown += 1;
        }
        let next = open.get(shown).map(|(index, _)| *index);
        let records = open.iter().take(shown).map(|(_, it)| Skipped::of(it));
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let path = format!("/executions/{id}/correct");
        let fields = html! {
            input type="hidden" name="from" value=(asked.from);
            @for (index, record) in records.iter().enumerate() { (fieldset(index, record)) }
            div.actions.left { button.primary { "Replay the ticked records" } a.button href=(view.url(&format!("/executions/{id}/skips"))) { "Cancel" } }
        };
        let content = html! {
            nav.crumbs aria-label="Path" { a href=(view.url("/executions")) { "Executions" } " / " a href=(view.url(&format!("/executions/{id}"))) { "Execution " (id) " of " (execution.job) } " / " a href=(view.url(&format!("/executions/{id}/skips"))) { "Skipped records" } }
            h1 { "Correct and replay" }
            @if open.is_empty() {
                p.empty { "No skipped record is left: the execution skipped none, or replays have taken all. What a replay skipped once more is among its own skipped records." }
                p { a href=(view.url(&format!("/executions?q=job:{}.replay", percent(&execution.job)))) { "Replays of this job" } }
            } @else {
                p { "The records that you tick go through the processors and the writer of their step, in an execution of their own. Each is written once." }
                (view.form(&path, &fields))
                div.pager {
                    @if asked.from > 0 { a.button rel="prev" href=(view.url(&path)) { "From the first" } }
                    @if let Some(next) = next { a.button rel="next" href=(view.url(&format!("{path}?from={next}"))) { "Later" } }
                }
            }
        };
        Ok((format!("Correct and replay records of execution {id}"), content))
    })
    .await
}

/// A skipped record, with its fields as they are written: numbers may have more digits than a float.
#[derive(Deserialize)]
struct Skipped<'a> {
    step: String,
    item: u64,
    location: Option<String>,
    kind: String,
    message: String,
    content: Option<String>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
}

impl<'a> Skipped<'a> {
    fn of(text: &'a RawValue) -> Result<Self, Problem> {
        serde_json::from_str(text.get()).map_err(|error| {
            tracing::error!(%error, "a skipped record cannot be read");
            Problem::internal()
        })
    }

    /// Identifies the record within the execution, in a form.
    fn key(&self) -> String {
        format!("{} {}", self.item, self.step)
    }

    /// Returns the fields in their order.
    fn fields(&self) -> Option<Object<'a>> {
        serde_json::from_str(self.record?.get()).ok()
    }
}

/// A JSON object with its fields in their order.
struct Object<'a>(Vec<(String, Cow<'a, RawValue>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, Cow<'de, RawValue>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    pairs.push((name, Cow::Borrowed(value)));
                }
                Ok(pairs)
            }
        }

        from.deserialize_map(Pairs).map(Object)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Returns what people see of a value.
fn text_of(value: &RawValue) -> String {
    match value.get() {
        "null" => String::new(),
        text if text.starts_with('"') => serde_json::from_str(text).unwrap_or_default(),
        text => text.to_owned(),
    }
}

fn fieldset(index: usize, record: &Skipped<'_>) -> Markup {
    html! {
        fieldset.record {
            legend { "Record " (number(record.item)) " of step " b { (record.step) } @if let Some(place) = &record.location { " · " (place) } }
            p.failure { (cause(&record.kind, unplaced(&record.message, record.location.as_deref()), 500)) }
            input type="hidden" name={"key." (index)} value=(record.key());
            @match record.fields() {
                Some(fields) => div.fields { @for (place, pair) in fields.0.iter().enumerate() { (field(index, place, pair)) } },
                None => {
                    p.hint { "It could not be read. What was read: " code { (cut(record.content.as_deref().unwrap_or_default(), 500)) } }
                    @let id = format!("record-{index}");
                    div { label for=(id) { "The record as JSON" } textarea #(id) name={"record." (index)} rows="3" placeholder="{\"id\": 1}" {} }
                }
            }
            label.tick { input type="checkbox" name={"chosen." (index)}; " Replay it" }
        }
    }
}

fn field(index: usize, place: usize, (name, value): &(String, Cow<'_, RawValue>)) -> Markup {
    let (id, sent, text) =
        (format!("field-{index}-{place}"), format!("field.{index}.{place}"), text_of(value));
    html! {
        div {
            label for=(id) { (name) }
            // A text area keeps line ends; the first one after its tag is no part of the text.
            @if text.len() > LINE_MAX || text.contains(['\n', '\r']) { textarea #(id) name=(sent) rows="3" { "\n" (text) } }
            @else { input #(id) name=(sent) value=(text) autocomplete="off"; }
        }
    }
}

/// Replays the records that were changed or ticked, and shows the execution that does.
pub(super) async fn replay(view: View, Id(id): Id, fields: Fields) -> Result<Response, Problem> {
    view.give(move |view| {
        let from = fields.text("from").parse().unwrap_or(0);
        let open = view.api.open_skips(id, from, RECORDS)?;
        let open = open.iter().map(|(_, it)| Skipped::of(it)).collect::<Result<Vec<_>, _>>()?;
        let mut records = Vec::new();
        for index in 0..RECORDS {
            let sent = fields.text(&format!("key.{index}"));
            if sent.is_empty() {
                break;
            }
            let Some(record) = open.iter().find(|record| record.key() == sent) else {
                let detail = format!(
                    "the record {sent} was replayed meanwhile, or the page is old; open it again"
                );
                return Err(Problem::invalid(detail));
            };
            let problem =
                |it: String| Problem::invalid(format!("the record {}: {it}", record.item));
            if fields.is_set(&format!("chosen.{index}")) {
                let corrected = corrected(&fields, index, record).map_err(problem)?;
                let line = Line {
                    execution: id,
                    step: &record.step,
                    item: record.item,
                    record: corrected,
                };
                records.push(to_raw_value(&line).map_err(|error| problem(error.to_string()))?);
            }
        }
        if records.is_empty() {
            return Err(Problem::invalid("no record was ticked; nothing was replayed"));
        }
        let options = LaunchOptions { triggered_by: Some(view.who()), ..LaunchOptions::default() };
        let started = view.api.start_replay(id, &records, options)?;
        view.audit("replay", &format!("{} records of execution {id}", records.len()));
        Ok(format!("/executions/{started}"))
    })
    .await
}

/// A corrected record, as a replay takes it.
#[derive(Serialize)]
struct Line<'a> {
    execution: ExecutionId,
    step: &'a str,
    item: u64,
    record: Option<Object<'a>>,
}

/// Returns the fields of the record number `index` of the form. A value that was not changed keeps its type.
fn corrected<'a>(
    fields: &'a Fields,
    index: usize,
    record: &Skipped<'a>,
) -> Result<Option<Object<'a>>, String> {
    let Some(Object(mut pairs)) = record.fields() else {
        let text = fields.text(&format!("record.{index}")).trim();
        if text.is_empty() {
            return Ok(None);
        }
        let object = serde_json::from_str::<Object<'a>>(text);
        return Ok(Some(object.map_err(|error| format!("it is no JSON object: {error}"))?));
    };
    // By place: browsers change line ends in names.
    for (place, (name, value)) in pairs.iter_mut().enumerate() {
        let sent = fields.get(&format!("field.{index}.{place}"));
        let sent = sent.ok_or_else(|| format!("`{name}` is missing in the form"))?;
        if let Some(new) = retyped(value, sent).map_err(|it| format!("`{name}`: {it}"))? {
            *value = Cow::Owned(new);
        }
    }
    Ok(Some(Object(pairs)))
}

/// Returns `sent` as a value of the type that `before` has, or as a text where that is not possible; `None` if it is not changed.
fn retyped(before: &RawValue, sent: &str) -> Result<Option<Box<RawValue>>, String> {
    let shown = text_of(before);
    // Browsers send each line end as CR LF, whatever it was.
    let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
    let sent = lines(sent);
    if lines(&shown) == sent {
        return Ok(None);
    }
    let has_crlf = shown.contains("\r\n") && !shown.replace("\r\n", "").contains(['\r', '\n']);
    let sent = if has_crlf { sent.replace('\n', "\r\n") } else { sent };
    let text = |text: &str| to_raw_value(text).map_err(|error| error.to_string());
    let parsed = RawValue::from_string(sent.trim().to_owned());
    let is_kind = |kind: fn(char) -> bool| sent.trim().starts_with(kind);
    let new = match before.get().chars().next() {
        Some('{' | '[') => parsed.map_err(|error| format!("it is no JSON: {error}"))?,
        Some('t' | 'f') if matches!(sent.trim(), "true" | "false") => {
            parsed.or_else(|_| text(&sent))?
        }
        Some('-' | '0'..='9') if is_kind(|it| it == '-' || it.is_ascii_digit()) => {
            parsed.or_else(|_| text(&sent))?
        }
        _ => text(&sent)?,
    };
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_keeps_its_type_and_its_digits_unless_it_cannot() {
        for (before, sent, after) in [
            (r#""12""#, "13", Some(r#""13""#)),
            ("12", "13.50", Some("13.50")),
            ("12", "1234567890123456789.01", Some("1234567890123456789.01")),
            ("12", "n/a", Some(r#""n/a""#)),
            ("12", "1-2", Some(r#""1-2""#)),
            ("1.50", "1.50", None),
            ("null", "", None),
            ("null", "x", Some(r#""x""#)),
            ("true", "false", Some("false")),
            ("true", "yes", Some(r#""yes""#)),
            (r#""a\nb""#, "a\r\nb", None),
            (r#""a\rb""#, "a\r\nb", None),
            (r#""\nxy""#, "\r\nxy", None),
            (r#""a\r\nb""#, "a\r\nc", Some(r#""a\r\nc""#)),
            (r#""a\nb""#, "a\r\nc", Some(r#""a\nc""#)),
            ("[1, 2]", "[1,3]", Some("[1,3]")),
        ] {
            let before = RawValue::from_string(before.to_owned()).unwrap();
            let new = retyped(&before, sent).unwrap();
            assert_eq!(new.as_deref().map(RawValue::get), after, "{before} {sent}");
        }
        let list = RawValue::from_string("[1]".to_owned()).unwrap();
        assert!(retyped(&list, "[1").unwrap_err().starts_with("it is no JSON: "));
    }

    #[test]
    fn the_fields_of_a_record_keep_their_order_and_their_digits() {
        let text = r#"{"z":1.50,"a":12345678901234567890.12,"m":null}"#;
        let object: Object<'_> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), text);
    }
}
