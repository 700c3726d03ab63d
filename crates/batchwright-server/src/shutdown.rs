//! Handles signals: SIGTERM and SIGINT end a process gracefully first, then at once. SIGHUP ends a command, too, whose terminal is
//! closed; a server goes on, and SIGUSR1 and SIGQUIT make it log what runs.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use batchwright::clock::{Clock, StopToken, SystemClock};
use batchwright::query::ExecutionFilter;
use batchwright::{JobOperator, report};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// Ends the process and the programs that it started, at once.
fn end_now(signal: i32) -> ! {
    batchwright::program::kill_all();
    std::process::exit(128 + signal)
}

/// How soon after the first signal another one counts as the same.
const SAME_WITHIN: Duration = Duration::from_millis(100);
/// Most running executions that SIGUSR1 logs.
const LOGGED_MAX: usize = 100;

/// Listens for the signals that end a process: SIGTERM and SIGINT.
///
/// The first signal requests a graceful end. A second signal, unless it comes within a tenth of a second, or the end of the grace
/// period, ends the process at once with `128 + signal`; its executions are then recovered as after a crash.
#[derive(Debug, Clone)]
pub struct Shutdown {
    signal: Arc<AtomicI32>,
    /// Whether the work has ended: then the end of the grace period ends nothing.
    is_done: Arc<AtomicBool>,
}

impl Shutdown {
    /// Starts to listen, in a server. The first signal calls `on_first` once, on a separate thread.
    ///
    /// # Errors
    ///
    /// When the signal handlers or their thread cannot be installed.
    pub fn listen(
        grace: Duration,
        on_first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        Self::listen_for(&[SIGTERM, SIGINT], grace, on_first)
    }

    /// Starts to listen as [`listen`](Self::listen) does, in a command: the end of its terminal (SIGHUP) ends it, too, unless it
    /// was started with `nohup`.
    ///
    /// # Errors
    ///
    /// When the signal handlers or their thread cannot be installed.
    pub fn listen_in_terminal(
        grace: Duration,
        on_first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let all = [SIGTERM, SIGINT, SIGHUP];
        let count = if is_ignored(SIGHUP) { 2 } else { 3 };
        Self::listen_for(&all[..count], grace, on_first)
    }

    /// Makes a server log its running executions after SIGUSR1 and SIGQUIT, as soon as it has an operator. After SIGHUP it goes on,
    /// unless that ends it: [`listen_in_terminal`](Self::listen_in_terminal).
    ///
    /// # Errors
    ///
    /// When the signal handlers or their thread cannot be installed.
    pub fn log_on_signals(
        operator: Arc<OnceLock<JobOperator>>,
        hangup_ends: bool,
    ) -> std::io::Result<()> {
        let all = [SIGUSR1, SIGQUIT, SIGHUP];
        let mut signals = Signals::new(&all[..if hangup_ends { 2 } else { 3 }])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => tracing::info!(
                        "SIGHUP: job files are read again when they change, and rules are in the store; restart the server for another configuration"
                    ),
                    _ => match operator.get() {
                        Some(operator) => log_running(operator),
                        None => tracing::info!("the server is starting"),
                    },
                }
            }
        })?;
        Ok(())
    }

    fn listen_for(
        ends: &[i32],
        grace: Duration,
        on_first: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut signals = Signals::new(ends)?;
        let received = Arc::new(AtomicI32::new(0));
        let is_done = Arc::new(AtomicBool::new(false));
        let shutdown = Self { signal: Arc::clone(&received), is_done: Arc::clone(&is_done) };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let (mut on_first, mut begun) = (Some(on_first), None);
            let clock = SystemClock::default();
            for signal in signals.forever() {
                // A terminal that is closed sends SIGHUP more than once, a session that ends sends it after SIGTERM, and `timeout`
                // sends SIGTERM to the process and to its group.
                let is_same = begun.is_some_and(|begun| clock.elapsed() - begun < SAME_WITHIN);
                if is_same || signal == SIGHUP && on_first.is_none() {
                    continue;
                }
                begun.get_or_insert(clock.elapsed());
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

/// Whether the process ignores `signal`, which it has then from the program that started it. Where the system does not say, it does
/// not.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn log_running(operator: &JobOperator) {
    let filter = ExecutionFilter::default().running().limit(LOGGED_MAX);
    let running = match operator.queries().executions(&filter) {
        Ok(running) => running,
        Err(error) => return tracing::error!(error = report(&error), "the store cannot be read"),
    };
    let here = operator.queue().running();
    tracing::info!(here, in_store = running.len(), "running executions, at most {LOGGED_MAX}");
    let now = operator.clock().now();
    for one in running {
        let (status, owner) = (one.status.name(), one.owner.as_deref());
        let lease_until = one.lease_until.map(|at| at.to_string());
        let is_stale = one.is_stale(now);
        tracing::info!(id = %one.id, job = %one.job, status, owner, lease_until, is_stale, "running");
    }
}
