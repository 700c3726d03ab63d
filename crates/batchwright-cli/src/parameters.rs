//! Parses job parameters from the command line.

use std::collections::BTreeSet;
use std::io::Read;

use batchwright::JobParameters;
use batchwright::operator::Refusal;
use batchwright::parameters::{Parameter, ParameterSchema, ParameterType};

use crate::args::NON_IDENTIFYING;
use crate::error::CliError;

/// Maximum size of a parameter document in bytes.
const JSON_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Parses the parameters of `pairs` and `json` with the types that `schema` declares.
///
/// # Errors
///
/// Returns all problems at once, in the order of the arguments.
pub(crate) fn parse(
    pairs: &[String],
    json: Option<&str>,
    schema: &ParameterSchema,
) -> Result<JobParameters, CliError> {
    let mut parameters = JobParameters::new();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |name: String, parsed: Result<Parameter, String>| {
        if !seen.insert(name.clone()) {
            problems.push(format!("parameter `{name}` is given twice"));
        }
        match parsed {
            Ok(parameter) => drop(parameters.insert(name, parameter)),
            Err(problem) => problems.push(format!("parameter `{name}`: {problem}")),
        }
    };
    if let Some(json) = json {
        for (name, value) in document(json)? {
            let parsed = schema.parameter(&name, value);
            add(name, parsed);
        }
    }
    for pair in pairs {
        let (name, parsed) = parse_pair(pair, schema)?;
        add(name, parsed);
    }
    if problems.is_empty() {
        return Ok(parameters);
    }
    Err(Refusal::InvalidParameters { problems }.into())
}

/// Parses `NAME=VALUE` or `NAME:TYPE=VALUE`; everything after the first `=` is plain text.
fn parse_pair(
    pair: &str,
    schema: &ParameterSchema,
) -> Result<(String, Result<Parameter, String>), CliError> {
    let unmarked = pair.strip_prefix(NON_IDENTIFYING);
    let Some((head, text)) = unmarked.unwrap_or(pair).split_once('=') else {
        return Err(CliError::Usage(format!(
            "`{pair}` is not a parameter; the form is NAME=VALUE"
        )));
    };
    let (name, kind) = match head.split_once(':') {
        Some((name, kind)) => (name, Some(kind)),
        None => (head, None),
    };
    if name.is_empty() {
        return Err(CliError::Usage(format!("`{pair}` is not a parameter: its name is empty")));
    }
    if unmarked.is_some() && schema.find(name).is_some_and(|declared| declared.identifying) {
        let problem = "it is declared as identifying; remove the dash".to_owned();
        return Ok((name.to_owned(), Err(problem)));
    }
    let parsed = kind.map(parameter_type).transpose().and_then(|kind| {
        let mut parameter = schema.parse(name, text, kind)?;
        parameter.identifying &= unmarked.is_none();
        Ok(parameter)
    });
    Ok((name.to_owned(), parsed))
}

fn parameter_type(name: &str) -> Result<ParameterType, String> {
    ParameterType::from_name(name).ok_or_else(|| {
        let known: Vec<_> = ParameterType::ALL.iter().map(|kind| kind.name()).collect();
        format!("there is no type `{name}`; there are: {}", known.join(", "))
    })
}

fn document(json: &str) -> Result<serde_json::Map<String, serde_json::Value>, CliError> {
    let text = text_or_file(json)?;
    // The parser's own text may repeat a value, which may be secret.
    serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        CliError::Usage(format!(
            "--params-json is not a JSON object of parameters (line {line}, column {column})"
        ))
    })
}

/// Returns `text` itself, or the content of the file that `@FILE` names; `@-` is standard input.
pub(crate) fn text_or_file(text: &str) -> Result<String, CliError> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let mut content = String::new();
    let read = match path {
        "-" => std::io::stdin().take(JSON_BYTES_MAX).read_to_string(&mut content),
        path => std::fs::File::open(path)
            .and_then(|file| file.take(JSON_BYTES_MAX).read_to_string(&mut content)),
    };
    read.map_err(|error| CliError::Usage(format!("cannot read `{path}`: {error}")))?;
    Ok(content)
}
