//! Data for stdout, talk for stderr.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::{Format, Global};

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
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // A program that embeds us may have a subscriber of its own; then that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .try_init();
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
        Format::Text | Format::Svg => writeln!(out, "{}", text(data).trim_end()),
    }
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
        Format::Json => data.iter().try_for_each(|one| writeln!(out, "{}", json(one)?)),
        Format::Text | Format::Svg => {
            let mut table = comfy_table::Table::new();
            table.load_style(comfy_table::presets::NOTHING).set_header(header);
            for one in data {
                table.add_row(row(one));
            }
            for line in table.lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
            Ok(())
        }
    }
}

fn json(data: &impl Serialize) -> io::Result<String> {
    serde_json::to_string(data).map_err(io::Error::other)
}
