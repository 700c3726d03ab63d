//! Limits of how many executions and steps run at once.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock::StopToken;

type Task = Box<dyn FnOnce() + Send>;

/// Runs tasks on threads of their own, at most `running_max` at once, in the order of submission.
pub(super) struct Pool {
    shared: Arc<Mutex<Queue>>,
}

struct Queue {
    running: usize,
    running_max: usize,
    waiting: VecDeque<Task>,
}

impl Pool {
    pub(super) fn new(running_max: usize) -> Self {
        let queue = Queue { running: 0, running_max, waiting: VecDeque::new() };
        Self { shared: Arc::new(Mutex::new(queue)) }
    }

    /// Runs `task` at once, or when a running task ends.
    pub(super) fn submit(&self, task: Task) {
        let mut queue = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.running >= queue.running_max {
            queue.waiting.push_back(task);
            return;
        }
        queue.running += 1;
        drop(queue);
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name("batchwright job".to_owned())
            .spawn(move || work_off(&shared, task));
        if let Err(error) = spawned {
            // The failed spawn dropped the task, which reports the failure to its handle.
            tracing::error!(%error, "the thread of an execution could not be started");
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        }
    }
}

fn work_off(shared: &Mutex<Queue>, first: Task) {
    let mut next = Some(first);
    while let Some(task) = next {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).is_err() {
            tracing::error!("the thread of an execution panicked outside user code");
        }
        let mut queue = shared.lock().unwrap_or_else(PoisonError::into_inner);
        next = queue.waiting.pop_front();
        if next.is_none() {
            queue.running -= 1;
        }
    }
}

/// A limited number of permits: each holder may work, and the others wait.
pub(crate) struct Permits {
    left: Mutex<usize>,
    returned: Condvar,
}

/// The right to work until the permit is dropped.
pub(crate) struct Permit<'a>(&'a Permits);

impl Permits {
    pub(crate) fn new(count: usize) -> Self {
        Self { left: Mutex::new(count), returned: Condvar::new() }
    }

    /// Waits for a permit. `None` when a stop is requested first.
    pub(crate) fn acquire(&self, stop: &StopToken) -> Option<Permit<'_>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if stop.is_requested() {
                return None;
            }
            if *left > 0 {
                *left -= 1;
                return Some(Permit(self));
            }
            // A stop request does not signal the condition variable, so it is polled.
            let waited = self.returned.wait_timeout(left, STOP_CHECK_INTERVAL);
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Time between two checks of a waiting step for a stop request.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}
