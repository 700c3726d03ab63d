//! Placeholders (`${…}`) in the strings of a job file.

use batchwright::ItemError;
use batchwright::parameters::{ParameterSchema, ParameterValue};
use batchwright::scope::StepScope;

use crate::rotate::FileNumber;

/// The names that a text of a step may use.
pub struct Known<'a> {
    /// The declared parameters.
    pub schema: &'a ParameterSchema,
    /// The names of the values of each partition; `None` if the step has no partitions.
    pub partition: Option<&'static [&'static str]>,
    /// The number of the file that is written; `None` unless the writer writes several.
    pub file_number: Option<FileNumber>,
}

/// A text with placeholders, checked as far as possible before anything runs.
#[derive(Debug, Clone)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Place(Place),
}

/// A placeholder: `${NAME|FORMAT}` or `${NAME:-DEFAULT}`.
#[derive(Debug, Clone)]
struct Place {
    name: Name,
    format: Option<String>,
    default: Option<String>,
}

#[derive(Debug, Clone)]
enum Name {
    Job,
    Parameter(String),
    JobContext(String),
    StepContext(String),
    Partition(String),
    File(FileNumber),
    Records,
}

impl Template {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// Returns a sentence about a placeholder that cannot be parsed or a name that does not exist.
    pub fn parse(text: &str, known: &Known<'_>) -> Result<Self, String> {
        Self::parse_text(text, known, false)
    }

    /// As [`parse`](Self::parse), of a text that [`render_counted`](Self::render_counted) renders: `${file.records}` is known.
    pub(crate) fn parse_counted(text: &str, known: &Known<'_>) -> Result<Self, String> {
        Self::parse_text(text, known, true)
    }

    fn parse_text(text: &str, known: &Known<'_>, is_counted: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let inside = &rest[start + 2..];
            let end = inside
                .find('}')
                .ok_or_else(|| format!("`{}` has no closing brace", &rest[start..]))?;
            parts.push(parse_place(&inside[..end], known, is_counted)?);
            rest = &inside[end + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Returns the text with the values of `scope` filled in.
    ///
    /// # Errors
    ///
    /// Fails when a value is missing or cannot be formatted; never fills in an empty text instead.
    pub fn render(&self, scope: &StepScope) -> Result<String, ItemError> {
        self.render_with(scope, |_, value| value)
    }

    /// As [`render`](Self::render), with each value as `change` returns it; it also gets the text before the value.
    pub(crate) fn render_with(
        &self,
        scope: &StepScope,
        change: impl Fn(&str, String) -> String,
    ) -> Result<String, ItemError> {
        self.render_all(scope, 0, change)
    }

    /// As [`render`](Self::render), of a file with that many records.
    pub(crate) fn render_counted(
        &self,
        scope: &StepScope,
        records: u64,
    ) -> Result<String, ItemError> {
        self.render_all(scope, records, |_, value| value)
    }

    fn render_all(
        &self,
        scope: &StepScope,
        records: u64,
        change: impl Fn(&str, String) -> String,
    ) -> Result<String, ItemError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Place(place) => {
                    let value = place.fill(scope, records).map_err(ItemError::fatal)?;
                    let value = change(&text, value);
                    text.push_str(&value);
                }
            }
        }
        Ok(text)
    }

    /// Returns the same text with the number of the file, as it is now.
    pub(crate) fn numbered(&self) -> Result<Self, ItemError> {
        let part = |part: &Part| match part {
            Part::Place(place @ Place { name: Name::File(number), .. }) => {
                place.numbered(number.get(), "%06d").map(Part::Text).map_err(ItemError::fatal)
            }
            part => Ok(part.clone()),
        };
        Ok(Self { parts: self.parts.iter().map(part).collect::<Result<_, _>>()? })
    }

    /// Whether the text uses a name of the partition.
    pub fn uses_partition(&self) -> bool {
        let is_partition =
            |part: &Part| matches!(part, Part::Place(Place { name: Name::Partition(_), .. }));
        self.parts.iter().any(is_partition)
    }

    /// Whether the text contains the value of a secret parameter of `scope`.
    pub fn shows_secret(&self, scope: &StepScope) -> bool {
        let is_secret =
            |name: &String| scope.parameters().get(name).is_some_and(|parameter| parameter.secret);
        self.parts.iter().any(|part| {
            matches!(part, Part::Place(Place { name: Name::Parameter(name), .. }) if is_secret(name))
        })
    }
}

fn parse_place(inside: &str, names: &Known<'_>, is_counted: bool) -> Result<Part, String> {
    let schema = names.schema;
    let (head, default) = match inside.split_once(":-") {
        Some((head, default)) => (head, Some(default.to_owned())),
        None => (inside, None),
    };
    let (name, format) = match head.split_once('|') {
        Some((name, format)) => (name.trim(), Some(format.to_owned())),
        None => (head.trim(), None),
    };
    let known = "params.NAME, job.name, job.context.KEY, step.context.KEY, partition.NAME, file.number, env.NAME";
    let name = if let Some(parameter) = name.strip_prefix("params.") {
        let declared = schema.find(parameter);
        if declared.is_none() && !schema.open {
            let names: Vec<_> =
                schema.declared.iter().map(|one| format!("`{}`", one.name)).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(format!(
                "`${{{inside}}}`: the job declares no parameter `{parameter}`; declared: {names}"
            ));
        }
        if let (Some(declared), Some(format)) = (declared, &format) {
            check_format(declared.kind, format)
                .map_err(|problem| format!("`${{{inside}}}`: {problem}"))?;
        }
        Name::Parameter(parameter.to_owned())
    } else if name == "job.name" {
        Name::Job
    } else if let Some(key) = name.strip_prefix("job.context.") {
        Name::JobContext(key.to_owned())
    } else if let Some(key) = name.strip_prefix("step.context.") {
        Name::StepContext(key.to_owned())
    } else if let Some(value) = name.strip_prefix("partition.") {
        let known = names.partition.ok_or_else(|| {
            format!("`${{{inside}}}`: the step has no partitions; give it a `partition`")
        })?;
        if !known.contains(&value) {
            let known = known.join(", ");
            return Err(format!("`${{{inside}}}`: a partition has no `{value}`; it has {known}"));
        }
        Name::Partition(value.to_owned())
    } else if name == "file.records" && is_counted {
        if let Some(format) = &format {
            integer_format(format).map_err(|problem| format!("`${{{inside}}}`: {problem}"))?;
        }
        Name::Records
    } else if name == "file.number" {
        let number = names.file_number.as_ref().ok_or_else(|| {
            format!("`${{{inside}}}`: only a writer within one of the type `rotate` has a number")
        })?;
        if default.is_some() {
            return Err(format!("`${{{inside}}}`: there is always a number, and no default"));
        }
        if let Some(format) = &format {
            integer_format(format).map_err(|problem| format!("`${{{inside}}}`: {problem}"))?;
        }
        Name::File(number.clone())
    } else if let Some(variable) = name.strip_prefix("env.") {
        // The environment of the process does not change, so its value is filled in at once.
        return match (std::env::var(variable), default) {
            (Ok(value), _) | (Err(_), Some(value)) => Ok(Part::Text(value)),
            (Err(_), None) => Err(format!("`${{{inside}}}`: the environment has no `{variable}`")),
        };
    } else {
        return Err(format!("`${{{inside}}}`: there is no `{name}`; there are: {known}"));
    };
    Ok(Part::Place(Place { name, format, default }))
}

fn check_format(kind: batchwright::parameters::ParameterType, format: &str) -> Result<(), String> {
    use batchwright::parameters::ParameterType::{Date, Integer, Timestamp};
    match kind {
        Integer => integer_format(format).map(drop),
        Date => {
            jiff::civil::Date::constant(2026, 11, 21).strftime(format).to_string_checked().map(drop)
        }
        Timestamp => jiff::Timestamp::UNIX_EPOCH.strftime(format).to_string_checked().map(drop),
        other => Err(format!("a {other} takes no format")),
    }
}

/// Formatting with `strftime`, which fails on an invalid format instead of panicking.
trait Checked {
    fn to_string_checked(&self) -> Result<String, String>;
}

impl<T: std::fmt::Display> Checked for T {
    fn to_string_checked(&self) -> Result<String, String> {
        use std::fmt::Write;
        let mut text = String::new();
        write!(text, "{self}").map_err(|_| "the format is invalid".to_owned())?;
        Ok(text)
    }
}

/// Returns the width of a format such as `%06d`, and whether it is filled with zeros.
fn integer_format(format: &str) -> Result<(usize, bool), String> {
    let wrong = || format!("`{format}` is no integer format; write `%d` or `%06d`");
    let digits =
        format.strip_prefix('%').and_then(|rest| rest.strip_suffix('d')).ok_or_else(wrong)?;
    if digits.is_empty() {
        return Ok((0, false));
    }
    let width: usize = digits.parse().map_err(|_| wrong())?;
    if width > 64 {
        return Err(wrong());
    }
    Ok((width, digits.starts_with('0')))
}

fn integer_text<N: std::fmt::Display>(number: N, (width, zeros): (usize, bool)) -> String {
    match zeros {
        true => format!("{number:0width$}"),
        false => format!("{number:width$}"),
    }
}

impl Place {
    fn fill(&self, step: &StepScope, records: u64) -> Result<String, String> {
        let job = step.job();
        let value = match &self.name {
            Name::Job => Some(job.job().to_owned()),
            Name::Parameter(name) => match job.parameters().get(name) {
                Some(parameter) => Some(self.formatted(name, &parameter.value)?),
                None => None,
            },
            Name::JobContext(key) => context_text(job.context(), key)?,
            Name::StepContext(key) => context_text(step.context(), key)?,
            Name::Partition(name) => partition_text(step, name)?,
            Name::File(number) => Some(self.numbered(number.get(), "%06d")?),
            Name::Records => Some(self.numbered(records, "%d")?),
        };
        value.or_else(|| self.default.clone()).ok_or_else(|| match &self.name {
            Name::Parameter(name) => format!("fill in `params.{name}`: the parameter is not given"),
            Name::JobContext(key) => {
                format!("fill in `job.context.{key}`: the job context has no such key")
            }
            Name::StepContext(key) => {
                format!("fill in `step.context.{key}`: the step context has no such key")
            }
            Name::Partition(name) => {
                let key = step.partition().map_or("", |partition| partition.key.as_str());
                let hint = match key {
                    "null" => "; `${partition.where}` is the condition for rows without a value",
                    _ => "",
                };
                format!("fill in `partition.{name}`: partition `{key}` has none{hint}")
            }
            Name::Job => "fill in `job.name`".to_owned(),
            Name::File(_) | Name::Records => "fill in a number of the file".to_owned(),
        })
    }

    /// Returns a number of a file in the format of the placeholder, or the `usual` one.
    fn numbered(&self, number: u64, usual: &str) -> Result<String, String> {
        let format = self.format.as_deref().unwrap_or(usual);
        integer_format(format).map(|format| integer_text(number, format))
    }

    fn formatted(&self, name: &str, value: &ParameterValue) -> Result<String, String> {
        let Some(format) = &self.format else { return Ok(value.to_string()) };
        let wrong = |problem: String| format!("fill in `params.{name}|{format}`: {problem}");
        match value {
            ParameterValue::Date(date) => date.strftime(format).to_string_checked().map_err(wrong),
            ParameterValue::Timestamp(at) => at.strftime(format).to_string_checked().map_err(wrong),
            ParameterValue::Integer(number) => {
                integer_format(format).map(|format| integer_text(*number, format)).map_err(wrong)
            }
            other => Err(wrong(format!("a {} takes no format", other.kind()))),
        }
    }
}

fn partition_text(step: &StepScope, name: &str) -> Result<Option<String>, String> {
    let Some(partition) = step.partition() else { return Ok(None) };
    if name == "key" {
        return Ok(Some(partition.key.clone()));
    }
    if !partition.values.has(name) {
        return Ok(None);
    }
    let value: serde_json::Value = partition.values.get(name).map_err(|error| error.to_string())?;
    Ok(Some(as_text(value)))
}

fn as_text(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

fn context_text(
    context: &batchwright::context::ContextHandle,
    key: &str,
) -> Result<Option<String>, String> {
    if !context.has(key) {
        return Ok(None);
    }
    let value: serde_json::Value = context.get(key).map_err(|error| error.to_string())?;
    Ok(Some(as_text(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright::parameters::{ParameterDeclaration, ParameterType};

    fn schema() -> ParameterSchema {
        ParameterSchema {
            declared: vec![
                ParameterDeclaration::new("date", ParameterType::Date),
                ParameterDeclaration::new("seq", ParameterType::Integer),
            ],
            open: false,
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_before_anything_is_opened() {
        for (text, wanted) in [
            ("${params.day}", "declares no parameter `day`; declared: `date`, `seq`"),
            ("${parms.date}", "there is no `parms.date`"),
            ("${params.date", "has no closing brace"),
            ("${params.seq|%Y}", "is no integer format"),
            ("${env.BATCHWRIGHT_NO_SUCH_VARIABLE}", "the environment has no"),
            ("${partition.from}", "the step has no partitions"),
        ] {
            let problem = Template::parse(
                text,
                &Known { schema: &schema(), partition: None, file_number: None },
            )
            .unwrap_err();
            assert!(problem.contains(wanted), "{text}: {problem}");
        }
    }

    #[test]
    fn what_exists_is_accepted() {
        for text in [
            "plain",
            "${params.date|%Y%m%d}.csv",
            "${params.seq|%06d}",
            "${params.seq:-7}",
            "${env.BATCHWRIGHT_NO_SUCH_VARIABLE:-x}",
            "${job.name} ${job.context.a} ${step.context.b}",
        ] {
            assert!(
                Template::parse(
                    text,
                    &Known { schema: &schema(), partition: None, file_number: None }
                )
                .is_ok(),
                "{text}"
            );
        }
    }

    #[test]
    fn integers_are_padded_as_asked() {
        let place = |format: &str| Place {
            name: Name::Job,
            format: Some(format.to_owned()),
            default: None,
        };
        let number = ParameterValue::Integer(42);
        assert_eq!(place("%06d").formatted("n", &number).unwrap(), "000042");
        assert_eq!(place("%d").formatted("n", &number).unwrap(), "42");
    }
}
