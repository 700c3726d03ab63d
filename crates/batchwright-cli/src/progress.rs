//! A progress bar on a terminal: share done, rate, time left, and the unit of measure (items or bytes).

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use batchwright::clock::StopToken;
use batchwright::event::{Change, Event, Events, Progress, ProgressUnit};
use batchwright::execution::ExecutionId;
use batchwright::progressive::UnitProgress;
use batchwright::{BatchStatus, JobOperator};
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar on stderr, shown when stderr is a terminal.
pub(crate) struct Bar {
    bar: Arc<Mutex<Option<ProgressBar>>>,
}

impl Bar {
    /// Follows `events` from now on, if the bar is `wanted` and stderr is a terminal.
    pub(crate) fn follow(events: &Events, wanted: bool) -> Self {
        let bar = Arc::new(Mutex::new(None));
        if wanted && std::io::stderr().is_terminal() {
            let shown = Arc::clone(&bar);
            events.observe(move |event: &Event| {
                show(&mut shown.lock().unwrap_or_else(PoisonError::into_inner), event);
            });
        }
        Self { bar }
    }

    /// Removes the bar from the terminal.
    pub(crate) fn clear(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

/// How often the progress of a progressive execution is read from the store.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Does `work` and meanwhile shows the units of execution `id`, if it is progressive and stderr is a
/// terminal.
///
/// The progress is read from the store, because other processes may drive the execution too.
pub(crate) fn showing_units<T>(
    operator: &JobOperator,
    id: ExecutionId,
    wanted: bool,
    work: impl FnOnce() -> T,
) -> T {
    if !wanted
        || !std::io::stderr().is_terminal()
        || operator.progressive().units_progress(id, None).is_err()
    {
        return work();
    }
    let bar = ProgressBar::new_spinner();
    let done = StopToken::default();
    let result = std::thread::scope(|scope| {
        // When the thread cannot be started, the work continues without a bar.
        let _ = std::thread::Builder::new().name("progress".to_owned()).spawn_scoped(scope, || {
            while !done.is_requested() {
                if let Ok(progress) = operator.progressive().units_progress(id, None) {
                    show_units(&bar, &progress);
                }
                done.wait(POLL_INTERVAL);
            }
        });
        let _done = AtTheEnd(&done);
        work()
    });
    bar.finish_and_clear();
    result
}

/// Requests a stop of its token on drop, also when the work panics.
struct AtTheEnd<'a>(&'a StopToken);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn show_units(bar: &ProgressBar, progress: &UnitProgress) {
    if let Some(total) = progress.units_total.filter(|_| bar.length().is_none()) {
        bar.set_style(style(template(ProgressUnit::Items)));
        bar.set_length(total);
    }
    bar.set_position(progress.units_done + progress.units_failed);
    if progress.units_failed > 0 {
        bar.set_message(format!("{} failed", progress.units_failed));
    }
}

fn show(shown: &mut Option<ProgressBar>, event: &Event) {
    match (&event.change, event.step()) {
        (Change::Status { status: BatchStatus::Started, .. }, Some(step)) => {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {prefix}  {elapsed}  {msg}"));
            bar.set_prefix(step.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            *shown = Some(bar);
        }
        (Change::Status { .. }, Some(_)) => {
            if let Some(bar) = shown.take() {
                bar.finish_and_clear();
            }
        }
        (Change::ChunkCommitted { counters, progress, .. }, _) => {
            let Some(bar) = shown else { return };
            let skipped = match counters.skips() {
                0 => String::new(),
                skips => format!(", {skips} skipped"),
            };
            bar.set_message(format!("{} items{skipped}", counters.read));
            if let Some(Progress { done, total, unit }) = progress {
                if bar.length().is_none() {
                    bar.set_style(style(template(*unit)));
                    bar.set_length(*total);
                }
                bar.set_position(*done);
            }
        }
        _ => {}
    }
}

fn template(unit: ProgressUnit) -> &'static str {
    match unit {
        ProgressUnit::Items => {
            "{prefix}  {wide_bar} {percent}%  {per_sec}, {eta} left (by items)  {msg}"
        }
        ProgressUnit::Bytes => {
            "{prefix}  {wide_bar} {percent}%  {binary_bytes_per_sec}, {eta} left (by bytes)  {msg}"
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
