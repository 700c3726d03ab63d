//! Handles SIGTERM and SIGINT: a graceful end first, then an immediate one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use batchwright::clock::StopToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Ends the process and the programs that it started, at once.
fn end_now(signal: i32) -> ! {
    batchwright::program::kill_all();
    std::process::exit(128 + signal)
}

/// Listens for SIGTERM and SIGINT.
///
/// The first signal requests a graceful end. A second signal, or the end of the grace period, ends the
/// process at once with `128 + signal`; its executions are then recovered as after a crash.
#[derive(Debug, Clone)]
pub struct Shutdown {
    signal: Arc<AtomicI32>,
    /// Whether the work has ended: then the end of the grace period ends nothing.
    is_done: Arc<AtomicBool>,
}

impl Shutdown {
    /// Starts to listen. The first signal calls `on_first` once, on a separate thread.
    ///
    /// # Errors
    ///
    /// When the signal handlers or their thread cannot be installed.
    pub fn listen(
        grace: Duration,
        on_first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let received = Arc::new(AtomicI32::new(0));
        let is_done = Arc::new(AtomicBool::new(false));
        let shutdown = Self { signal: Arc::clone(&received), is_done: Arc::clone(&is_done) };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut on_first = Some(on_first);
            for signal in signals.forever() {
                let Some(on_first) = on_first.take() else { end_now(signal) };
                received.store(signal, Ordering::SeqCst);
                let is_done = Arc::clone(&is_done);
                // The grace period begins now, however long `on_first` takes.
                let timer =
                    thread::Builder::new().name("grace period".to_owned()).spawn(move || {
                        StopToken::default().wait(grace);
                        if is_done.load(Ordering::SeqCst) {
                            return;
                        }
                        tracing::error!(?grace, "the grace period is over");
                        end_now(signal);
                    });
                if timer.is_err() {
                    tracing::error!(
                        "cannot time the grace period: a second signal ends the process"
                    );
                }
                let asked =
                    thread::Builder::new().name("ask for the end".to_owned()).spawn(on_first);
                if asked.is_err() {
                    end_now(signal);
                }
            }
        })?;
        Ok(shutdown)
    }

    /// Says that the work has ended gracefully: the process is then not ended at the end of the grace period.
    pub fn done(&self) {
        self.is_done.store(true, Ordering::SeqCst);
    }

    /// Returns the first signal that was received, if any.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// Returns the exit code after a graceful end by a signal: `128 + signal`.
    pub fn exit_code(&self) -> Option<u8> {
        self.signal().and_then(|signal| u8::try_from(128 + signal).ok())
    }
}
