//! SIGTERM and SIGINT: first ask, then end.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use batchwright::StopToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Ends the process at once, and the programs that it started with it.
fn end_now(signal: i32) -> ! {
    batchwright::program::kill_all();
    std::process::exit(128 + signal)
}

/// Listens for the signals that end a process.
///
/// The first one asks for a graceful end. A second one, or the end of the grace period, ends the
/// process at once with `128 + signal`; its executions are recovered by whoever finds them.
#[derive(Debug, Clone)]
pub struct Shutdown {
    signal: Arc<AtomicI32>,
}

impl Shutdown {
    /// Listens from now on. `on_first` is called on a thread of its own, once.
    ///
    /// # Errors
    ///
    /// When the signals cannot be taken over.
    pub fn listen(
        grace: Duration,
        on_first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let received = Arc::new(AtomicI32::new(0));
        let shutdown = Self { signal: Arc::clone(&received) };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut on_first = Some(on_first);
            for signal in signals.forever() {
                let Some(on_first) = on_first.take() else { end_now(signal) };
                received.store(signal, Ordering::SeqCst);
                // The grace period begins now, whatever asking for the end waits for.
                let timer =
                    thread::Builder::new().name("grace period".to_owned()).spawn(move || {
                        StopToken::default().wait(grace);
                        tracing::error!(?grace, "the grace period is over");
                        end_now(signal);
                    });
                if timer.is_err() {
                    tracing::error!(
                        "no thread for the grace period: a second signal ends the process"
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

    /// The signal that asked for the end, if one did.
    pub fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// What the process should exit with after a graceful end, if a signal asked for it.
    pub fn exit_code(&self) -> Option<u8> {
        self.signal().and_then(|signal| u8::try_from(128 + signal).ok())
    }
}
