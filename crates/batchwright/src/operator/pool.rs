//! Limits how many executions, or calls of asynchronous code, run at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

type Task = Box<dyn FnOnce() + Send>;

/// Runs tasks on threads of their own, at most `running_max` at once, in the order of submission.
pub(super) struct Pool {
    /// Name of the threads.
    name: &'static str,
    shared: Arc<Mutex<Queue>>,
}

struct Queue {
    running: usize,
    running_max: usize,
    waiting: VecDeque<Task>,
}

impl Pool {
    pub(super) fn new(name: &'static str, running_max: usize) -> Self {
        let queue = Queue { running: 0, running_max, waiting: VecDeque::new() };
        Self { name, shared: Arc::new(Mutex::new(queue)) }
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
            .name(self.name.to_owned())
            .spawn(move || run_tasks(&shared, task));
        if let Err(error) = spawned {
            // The failed spawn dropped the task, which reports the failure to its handle.
            tracing::error!(%error, name = self.name, "a thread could not be started");
            let mut queue = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            queue.running -= 1;
            // Without a running thread nothing would ever take the waiting tasks; dropped, each reports its failure.
            let lost = match queue.running {
                0 => std::mem::take(&mut queue.waiting),
                _ => VecDeque::new(),
            };
            drop(queue);
            drop(lost);
        }
    }
}

fn run_tasks(shared: &Mutex<Queue>, first: Task) {
    let mut next = Some(first);
    while let Some(task) = next {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).is_err() {
            tracing::error!("a thread of the operator panicked outside user code");
        }
        let mut queue = shared.lock().unwrap_or_else(PoisonError::into_inner);
        next = queue.waiting.pop_front();
        if next.is_none() {
            queue.running -= 1;
        }
    }
}
