//! In place of telemetry, in a build without the feature `otlp`.

use batchwright::JobOperator;
use batchwright_server::Scheduler;
use tracing_subscriber::layer::Identity;

/// Says that nothing is exported, if the environment asks for it.
pub(crate) fn begin() -> Vec<String> {
    let asked = std::env::vars_os().any(|(name, value)| {
        let name = name.to_string_lossy();
        name.starts_with("OTEL_EXPORTER_OTLP_") && name.ends_with("ENDPOINT") && !value.is_empty()
    });
    let note = "no telemetry is exported: this program was built without the feature `otlp`";
    if asked { vec![note.to_owned()] } else { Vec::new() }
}

/// Does nothing.
pub(crate) fn observe(_: &JobOperator) {}

/// Does nothing.
pub(crate) fn observe_schedule(_: Option<&Scheduler>) {}

/// Does nothing.
pub(crate) fn end() {}

/// Returns nothing.
pub(crate) fn layer() -> Option<Identity> {
    None
}
