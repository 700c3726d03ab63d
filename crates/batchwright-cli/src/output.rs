//! The output of a verb: data on stdout, logs on stderr.

use std::io::{self, Write};

use batchwright::execution::{ExecutionSummary, StepSummary};
use serde::Serialize;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Format, Global, LogFormat};
use crate::error::CliError;
use crate::telemetry;

/// Starts logging to stderr, at the level of `RUST_LOG` if set, else of `-q` and `-v`.
///
/// Without those options, a server logs at `level`. What `runs` executions exports telemetry.
pub(crate) fn init_log(global: &Global, level: Option<&str>, runs: bool) {
    let is_server = level.is_some();
    let level = match (global.quiet, global.verbose) {
        (false, 0) if is_server => level.unwrap_or_default(),
        (true, _) => "error",
        // The paths of the results are logged by default.
        (_, 0) => "warn,batchwright::output=info",
        (_, 1) => "info",
        (_, _) => "debug",
    };
    // The AMQP library logs each broken connection, which Batchwright logs with its reason and trigger.
    let quiet = if level == "debug" || level == "trace" {
        level.to_owned()
    } else {
        format!("{level},lapin=off")
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(quiet))
        // The FTP library logs its commands, one of which has the password.
        .add_directive("suppaftp=off".parse().expect("a valid directive"));
    // Lines for people name the execution in their texts; spans are for programs.
    let with_spans = |level: &str| {
        let spans = format!("batchwright::span={level}").parse().expect("a valid directive");
        filter.clone().add_directive(spans)
    };
    let shown = with_spans(if global.log_format == LogFormat::Json { "info" } else { "off" });
    let log = tracing_subscriber::fmt::layer()
        .with_writer(|| Log)
        .log_internal_errors(false)
        .with_ansi(false);
    let log = match global.log_format {
        LogFormat::Json => {
            log.with_writer(|| JsonLog).json().flatten_event(true).with_current_span(true).boxed()
        }
        // The log of a server is read later.
        LogFormat::Text if is_server => log.boxed(),
        LogFormat::Text => log.without_time().boxed(),
    };
    let notes = if runs { telemetry::begin() } else { Vec::new() };
    let exported = telemetry::layer().map(|layer| layer.with_filter(with_spans("info")));
    // A program that embeds the command may already have its own subscriber, which then stays in use.
    let _ = tracing_subscriber::registry().with(log.with_filter(shown)).with(exported).try_init();
    for note in notes {
        tracing::warn!("{note}");
    }
}

/// The writer of log lines on stderr.
///
/// A line that cannot be written is dropped and fails no work. Control characters from data are escaped, so
/// that they cannot move the cursor of a terminal.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let _ = writeln!(io::stderr(), "{}", batchwright::text::shown(body));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writer of log lines that are JSON: what a terminal would not show is escaped as JSON escapes it.
struct JsonLog;

impl Write for JsonLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let mut shown = String::with_capacity(text.len());
        for letter in text.trim_end_matches('\n').chars() {
            match batchwright::text::shown(letter.encode_utf8(&mut [0; 4])) == letter.to_string() {
                true => shown.push(letter),
                false => {
                    let units = letter.encode_utf16(&mut [0; 2]).to_vec();
                    shown.extend(units.into_iter().map(|unit| format!("\\u{unit:04x}")));
                }
            }
        }
        let _ = writeln!(io::stderr(), "{shown}");
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs `text` on stderr, so that stdout stays one JSON object a line.
pub(crate) fn note(text: &str) {
    tracing::info!(target: "batchwright::output", "{text}");
}

/// Logs on stderr that a list was cut and how to get the next page.
pub(crate) fn more(shown: usize, way: &str) {
    note(&format!("{shown} rows are shown, there are more: {way}"));
}

/// Returns the exit code `code` of finished work, even if its output could not be written.
pub(crate) fn after(written: Result<(), CliError>, code: u8) -> Result<u8, CliError> {
    match written {
        Err(CliError::Output(error)) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::error!("cannot write the output: {error}; the work itself is done");
            }
            Ok(code)
        }
        other => other.map(|()| code),
    }
}

/// Returns `text` with its control characters escaped, except line ends.
fn plain(text: &str) -> String {
    text.split('\n').map(batchwright::text::shown).collect::<Vec<_>>().join("\n")
}

/// Prints one document as JSON, or as the text that `text` returns.
pub(crate) fn document<T: Serialize>(
    format: Format,
    data: &T,
    text: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{}", json(data)?),
        Format::Text => writeln!(out, "{}", plain(text(data).trim_end())),
        Format::Svg => writeln!(out, "{}", text(data).trim_end()),
    }?;
    out.flush()
}

/// Prints a list as one JSON object per line or as a table.
pub(crate) fn list<T: Serialize, const N: usize>(
    format: Format,
    data: &[T],
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json => data.iter().try_for_each(|one| writeln!(out, "{}", json(one)?))?,
        Format::Text | Format::Svg => {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::NOTHING).set_header(header);
            for one in data {
                table.add_row(row(one).map(|cell| batchwright::text::shown(&cell).into_owned()));
            }
            for line in table.lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
        }
    }
    out.flush()
}

fn json(data: &impl Serialize) -> io::Result<String> {
    serde_json::to_string(data).map_err(io::Error::other)
}

/// Returns a line for each step. A failure that the line of the execution shows is not repeated.
pub(crate) fn step_lines(summary: &ExecutionSummary) -> String {
    let line = |step: &StepSummary| match step.failure.is_some() && step.failure == summary.failure
    {
        true => format!("\n  {}", StepSummary { failure: None, ..step.clone() }),
        false => format!("\n  {step}"),
    };
    summary.steps.iter().map(line).collect()
}
