//! Data for stdout, talk for stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::{Format, Global};
use crate::error::CliError;

/// Talk on stderr: by `RUST_LOG` when it is set, else by `-q` and `-v`.
///
/// A server talks at `level`, when its configuration names one.
pub(crate) fn init_log(global: &Global, level: Option<&str>) {
    let level = match (global.quiet, global.verbose) {
        (false, 0) if level.is_some() => level.unwrap_or_default(),
        (true, _) => "error",
        // Where the results are is worth a line to everybody.
        (_, 0) => "warn,batchwright::output=info",
        (_, 1) => "info",
        (_, _) => "debug",
    };
    // The library tells of each broken connection, which is ours to say with a reason and a trigger.
    let quiet = if level == "debug" || level == "trace" {
        level.to_owned()
    } else {
        format!("{level},lapin=off")
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(quiet));
    // A program that embeds us may have a subscriber of its own; then that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Log)
        .log_internal_errors(false)
        .with_ansi(false)
        .without_time()
        .try_init();
}

/// Where the talk goes. A line that cannot be written fails no work, and what data says moves no cursor.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let body = text.strip_suffix('\n').unwrap_or(&text);
        let _ = writeln!(io::stderr(), "{}", batchwright::shown(body));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says that a list was cut, and how to get the rest of it: on stderr, so that JSON stays one object a line.
pub(crate) fn more(shown: usize, way: &str) {
    tracing::info!(target: "batchwright::output", "{shown} are shown, there are more: {way}");
}

/// The exit code of work that is done, whatever became of its output.
pub(crate) fn after(written: Result<(), CliError>, code: u8) -> Result<u8, CliError> {
    match written {
        Err(CliError::Output(error)) => {
            if error.kind() != io::ErrorKind::BrokenPipe {
                tracing::error!("the output could not be written: {error}; what was done stands");
            }
            Ok(code)
        }
        other => other.map(|()| code),
    }
}

/// `text` without control characters but the ends of its lines.
fn plain(text: &str) -> String {
    text.split('\n').map(batchwright::shown).collect::<Vec<_>>().join("\n")
}

/// One document: as JSON, or as `text` says it.
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

/// A list: one JSON object a line, or a table.
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
                table.add_row(row(one).map(|cell| batchwright::shown(&cell).into_owned()));
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
