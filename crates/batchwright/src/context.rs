//! Execution contexts: small named values that a job or step keeps across executions.
//!
//! ```
//! use batchwright::TaskletStep;
//! use batchwright::context::{ContextError, ContextHandle, ExecutionContext};
//! use batchwright::step::Flow;
//!
//! let step = TaskletStep::new("page", |call| {
//!     // Stored in the transaction of the call, and there again after a restart.
//!     let context: &ContextHandle = call.scope().context();
//!     let page: u32 = match context.get("page") {
//!         Err(ContextError::Missing { .. }) => 0,
//!         stored => stored?,
//!     };
//!     context.put("page", &(page + 1))?;
//!     Ok(if page < 9 { Flow::Continue } else { Flow::Finished })
//! });
//!
//! // A context by itself, as a test seeds it.
//! let mut context = ExecutionContext::default();
//! context.put("page", &7)?;
//! assert_eq!(context.to_json(), r#"{"page":7}"#);
//! # Ok::<(), ContextError>(())
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Named values of a job or step, stored as JSON with the commit that changed them.
///
/// Reading a value requires the type it was stored as; 64-bit integers stay exact.
#[derive(Debug, Clone, Default)]
pub struct ExecutionContext(BTreeMap<String, Arc<RawValue>>);

impl PartialEq for ExecutionContext {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((k, v), (l, w))| k == l && v.get() == w.get())
    }
}

/// The error of a value that is missing or has another type.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The context has no value of that name.
    #[error("the context has no `{0}`")]
    Missing(String),
    /// The value cannot be converted to or from JSON of the expected type.
    #[error("`{name}` of the context cannot be converted")]
    Type {
        /// The name.
        name: String,
        /// The conversion error.
        #[source]
        source: serde_json::Error,
    },
}

impl ExecutionContext {
    /// Stores `value` under `name`.
    ///
    /// # Errors
    ///
    /// [`ContextError::Type`] when `value` cannot be serialized as JSON; the context is unchanged.
    pub fn put(&mut self, name: &str, value: &impl Serialize) -> Result<(), ContextError> {
        let raw = serde_json::value::to_raw_value(value)
            .map_err(|source| ContextError::Type { name: name.to_owned(), source })?;
        self.0.insert(name.to_owned(), raw.into());
        Ok(())
    }

    /// Returns the value of `name`.
    ///
    /// # Errors
    ///
    /// [`ContextError`] when the value is missing or is not a `T`. No default value is substituted.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, ContextError> {
        let raw = self.0.get(name).ok_or_else(|| ContextError::Missing(name.to_owned()))?;
        serde_json::from_str(raw.get())
            .map_err(|source| ContextError::Type { name: name.to_owned(), source })
    }

    /// Whether the context has a value of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Removes `name`; returns whether it had a value.
    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// Returns the names in use, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Applies every difference between `before` and `after` to this context.
    fn take_changes(&mut self, before: &Self, after: &Self) {
        let text = |value: Option<&Arc<RawValue>>| value.map(|value| value.get().to_owned());
        for (name, value) in &after.0 {
            if text(before.0.get(name)) != Some(value.get().to_owned()) {
                self.0.insert(name.clone(), Arc::clone(value));
            }
        }
        for name in before.0.keys().filter(|name| !after.0.contains_key(*name)) {
            self.0.remove(name);
        }
    }

    /// Whether the context has no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the JSON text that the store keeps.
    pub fn to_json(&self) -> String {
        let map: BTreeMap<&str, &RawValue> =
            self.0.iter().map(|(name, value)| (name.as_str(), &**value)).collect();
        serde_json::to_string(&map).expect("a map of raw JSON is JSON")
    }

    /// Parses the JSON text that the store keeps.
    ///
    /// # Errors
    ///
    /// When `text` is not a JSON object.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let map: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        Ok(Self(map.into_iter().map(|(name, value)| (name, value.into())).collect()))
    }
}

/// The context of a running job or step: shared by its code, and stored with the next commit when it changed.
///
/// A rolled-back transaction restores the last committed values.
#[derive(Debug, Clone, Default)]
pub struct ContextHandle {
    inner: Arc<Mutex<Tracked>>,
    /// Set for a concurrent part of the execution: the job's context, into which its changes are merged.
    shared: Option<Arc<Shared>>,
}

/// The job's context, shared by the parts of an execution that run concurrently.
#[derive(Debug)]
struct Shared {
    whole: ContextHandle,
    /// ActiveExecution from the merging of a change to the end of its commit.
    commit: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Tracked {
    current: ExecutionContext,
    committed: ExecutionContext,
    changed: bool,
    commit: Arc<Mutex<()>>,
}

impl Tracked {
    /// Replaces the committed values with `stored` and keeps own changes that `stored` does not contain.
    fn rebase(&mut self, stored: ExecutionContext) {
        let mut current = stored.clone();
        current.take_changes(&self.committed, &self.current);
        self.changed = current != stored;
        (self.current, self.committed) = (current, stored);
    }
}

impl ContextHandle {
    /// Creates a handle whose committed values are `context`.
    pub fn new(context: ExecutionContext) -> Self {
        let (current, committed) = (context.clone(), context);
        let tracked = Tracked { current, committed, ..Tracked::default() };
        Self { inner: Arc::new(Mutex::new(tracked)), shared: None }
    }

    /// Creates the handle of one of several parts that run concurrently. The part sees what was committed
    /// when the part began and its own changes; its commits merge these changes into what the other parts
    /// committed.
    pub(crate) fn fork(&self) -> Self {
        let (whole, commit) = match &self.shared {
            Some(shared) => (shared.whole.clone(), Arc::clone(&shared.commit)),
            None => (self.clone(), Arc::clone(&self.lock().commit)),
        };
        let tracked = {
            let whole = whole.lock();
            let (current, committed) = (whole.current.clone(), whole.committed.clone());
            // Uncommitted changes of the whole are stored by the first part that commits.
            Tracked { current, committed, changed: whole.changed, ..Tracked::default() }
        };
        let inner = Arc::new(Mutex::new(tracked));
        Self { inner, shared: Some(Arc::new(Shared { whole, commit })) }
    }

    /// Loads what the parts of this part, such as the partitions of a step, have committed.
    pub(crate) fn refresh(&self) {
        let Some(shared) = &self.shared else { return };
        let committed = shared.whole.lock().committed.clone();
        self.lock().rebase(committed);
    }

    /// Returns the lock to hold from the merge of a change to the end of its commit; `None` when nothing
    /// changed or this is not a part's handle.
    pub(crate) fn commit_lock(&self) -> Option<Arc<Mutex<()>>> {
        let shared = self.shared.as_ref()?;
        self.lock().changed.then(|| Arc::clone(&shared.commit))
    }

    /// Sets `name` to `value`; the next commit stores it.
    ///
    /// # Errors
    ///
    /// See [`ExecutionContext::put`].
    pub fn put(&self, name: &str, value: &impl Serialize) -> Result<(), ContextError> {
        let mut tracked = self.lock();
        tracked.changed = true;
        tracked.current.put(name, value)
    }

    /// Returns the value of `name`, including uncommitted changes.
    ///
    /// # Errors
    ///
    /// See [`ExecutionContext::get`].
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, ContextError> {
        self.lock().current.get(name)
    }

    /// Whether the context has a value of `name`.
    pub fn has(&self, name: &str) -> bool {
        self.lock().current.has(name)
    }

    /// Removes `name`; the next commit stores the removal.
    pub fn remove(&self, name: &str) {
        let mut tracked = self.lock();
        tracked.changed |= tracked.current.remove(name);
    }

    /// Returns a copy of the current values.
    pub fn snapshot(&self) -> ExecutionContext {
        self.lock().current.clone()
    }

    /// Returns the values to store, or `None` when nothing changed since the last commit.
    pub(crate) fn change(&self) -> Option<ExecutionContext> {
        let tracked = self.lock();
        if !tracked.changed {
            return None;
        }
        Some(match &self.shared {
            None => tracked.current.clone(),
            Some(shared) => {
                let mut merged = shared.whole.lock().committed.clone();
                merged.take_changes(&tracked.committed, &tracked.current);
                merged
            }
        })
    }

    /// Records that a commit stored `stored`.
    pub(crate) fn committed(&self, stored: ExecutionContext) {
        if let Some(shared) = &self.shared {
            shared.whole.lock().rebase(stored.clone());
            // From now on this part sees what the other parts committed.
            self.lock().rebase(stored);
            return;
        }
        let mut tracked = self.lock();
        tracked.changed = tracked.current != stored;
        tracked.committed = stored;
    }

    /// Replaces the values with those of a prepared commit, as an uncommitted change.
    pub(crate) fn adopt(&self, json: &str) -> Result<(), serde_json::Error> {
        let context = ExecutionContext::from_json(json)?;
        let mut tracked = self.lock();
        tracked.current = context;
        tracked.changed = true;
        Ok(())
    }

    /// Returns the JSON to store, or `None` when nothing changed since the last commit.
    pub(crate) fn change_json(&self) -> Option<String> {
        self.change().as_ref().map(ExecutionContext::to_json)
    }

    /// Restores the last committed values after a rollback.
    pub(crate) fn roll_back(&self) {
        let mut tracked = self.lock();
        if tracked.changed {
            tracked.current = tracked.committed.clone();
            tracked.changed = false;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tracked> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_integer_comes_back_exact_after_a_round_trip() {
        let mut context = ExecutionContext::default();
        context.put("n", &(i64::MAX - 1)).unwrap();
        let back = ExecutionContext::from_json(&context.to_json()).unwrap();
        assert_eq!(back.get::<i64>("n").unwrap(), i64::MAX - 1);
    }

    #[test]
    fn a_missing_or_mistyped_value_is_an_error_that_names_it() {
        let mut context = ExecutionContext::default();
        context.put("n", &"text").unwrap();
        assert_eq!(context.get::<i64>("m").unwrap_err().to_string(), "the context has no `m`");
        assert_eq!(
            context.get::<i64>("n").unwrap_err().to_string(),
            "`n` of the context cannot be converted"
        );
    }

    #[test]
    fn parts_that_run_side_by_side_keep_each_others_changes() {
        let whole = ContextHandle::default();
        whole.put("before", &1).unwrap();
        whole.committed(whole.change().unwrap());
        let (a, b) = (whole.fork(), whole.fork());
        a.put("a", &1).unwrap();
        b.put("b", &1).unwrap();
        b.remove("before");
        a.committed(a.change().unwrap());
        b.committed(b.change().unwrap());
        assert_eq!(whole.snapshot().names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(
            a.change().is_none() && b.has("a"),
            "each sees the others once it committed itself"
        );
    }

    #[test]
    fn changes_of_a_failed_unit_of_work_are_dropped() {
        let handle = ContextHandle::default();
        handle.put("k", &1).unwrap();
        handle.committed(handle.change().unwrap());
        handle.put("k", &2).unwrap();
        handle.roll_back();
        assert_eq!(handle.get::<i32>("k").unwrap(), 1);
        assert!(handle.change().is_none(), "nothing is left to store");
    }
}
