//! Places in a distributed trace, by which the traces of a caller, of an execution and of what its steps call are one.
//!
//! An execution is a span of the trace that its caller names in `traceparent`, or the root of its own trace. The numbers of its
//! spans follow from the store and the execution, so each process computes the same ones, also after another one died.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::{ExecutionId, StepExecutionId};

/// A span of a trace, as the header `traceparent` names it. Source: W3C Trace Context, level 1, section 3.2.
///
/// ```
/// use batchwright::execution::TraceContext;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let caller: TraceContext = text.parse()?;
/// assert!(caller.is_sampled());
/// assert_eq!(caller.to_string(), text);
/// # Ok::<(), batchwright::execution::InvalidTraceContext>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    is_sampled: bool,
}

/// A text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no `traceparent`: expected a version, 32 digits of the trace, 16 of the span and flags, as in \
     `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`"
)]
pub struct InvalidTraceContext;

impl TraceContext {
    /// Returns the trace: 16 bytes, not all zero.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace
    }

    /// Returns the span: 8 bytes, not all zero.
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// Returns the span of execution `id` of the store `store`, within the trace of `parent`, if it has one.
    pub fn of_execution(store: &str, id: ExecutionId, parent: Option<Self>) -> Self {
        Self::child(parent, || hashed("trace", store, id.0), hashed("run", store, id.0))
    }

    /// Returns the span of a step of `execution`, the span of the execution.
    pub fn of_step(store: &str, step: StepExecutionId, execution: Self) -> Self {
        Self { span: first(&hashed("step", store, step.0)), ..execution }
    }

    /// Returns the span that `words` name, the root of a trace of its own: of the call of a trigger.
    pub fn root(words: &[&str]) -> Self {
        let name = words.join("\n");
        Self::child(None, || hashed("trace", &name, 0), hashed("run", &name, 0))
    }

    fn child(parent: Option<Self>, trace: impl Fn() -> [u8; 32], span: [u8; 32]) -> Self {
        let span = first(&span);
        match parent {
            Some(parent) => Self { span, ..parent },
            None => {
                let own = Self { trace: first(&trace()), span, is_sampled: true };
                Self { is_sampled: own.is_in_share(share()), ..own }
            }
        }
    }

    /// Whether the trace is in a share of all traces, from 0 to 1. Source: the sampler `traceidratio` of OpenTelemetry compares the
    /// last bytes of the number of the trace.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub fn is_in_share(&self, share: f64) -> bool {
        let last = u128::from_be_bytes(self.trace) as u64;
        let place = (last >> 1) as f64 / (u64::MAX >> 1) as f64;
        share >= 1.0 || place < share
    }

    /// Sets the share of the traces that begin in this process and are marked as recorded, from 0 to 1: what a program that
    /// exports only some traces tells those whom it calls. Default: 1.
    pub fn set_share(share: f64) {
        SHARE.store(share.to_bits(), Ordering::Relaxed);
    }
}

/// The share of own traces that are recorded, as bits.
static SHARE: AtomicU64 = AtomicU64::new(1.0_f64.to_bits());

fn share() -> f64 {
    f64::from_bits(SHARE.load(Ordering::Relaxed))
}

/// Returns a hash of `kind`, `name` and `number`.
fn hashed(kind: &str, name: &str, number: i64) -> [u8; 32] {
    Sha256::digest(format!("{kind}\n{name}\n{number}")).into()
}

/// Returns the first bytes of a hash. They are all zero, which no number may be, for none of 2^64 hashes.
fn first<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    std::array::from_fn(|at| hash[at])
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", u8::from(self.is_sampled))
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for TraceContext {
    type Err = InvalidTraceContext;

    fn from_str(text: &str) -> Result<Self, InvalidTraceContext> {
        let mut parts = text.split('-');
        let mut next = |digits: usize| {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let part = parts.next().filter(|it| it.len() == digits && it.bytes().all(is_hex));
            part.and_then(|it| u128::from_str_radix(it, 16).ok()).ok_or(InvalidTraceContext)
        };
        let (version, trace, span, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        // A later version may have more parts.
        let is_whole = version > 0 || parts.next().is_none();
        let span = u64::try_from(span).map_err(|_| InvalidTraceContext)?;
        if version == 0xff || trace == 0 || span == 0 || !is_whole {
            return Err(InvalidTraceContext);
        }
        Ok(Self {
            trace: trace.to_be_bytes(),
            span: span.to_be_bytes(),
            is_sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_text_that_is_no_traceparent_is_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bé-1",
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(InvalidTraceContext), "{text}");
        }
        // A later version is read as far as it is known.
        let later = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03-more";
        assert!(later.parse::<TraceContext>().unwrap().is_sampled());
    }

    #[test]
    fn the_spans_of_an_execution_are_in_the_trace_of_its_caller() {
        let caller: TraceContext = CALLER.parse().unwrap();
        let run = TraceContext::of_execution("store", ExecutionId(1), Some(caller));
        let step = TraceContext::of_step("store", StepExecutionId(1), run);
        for one in [run, step] {
            assert_eq!((one.trace_id(), one.is_sampled()), (caller.trace_id(), false));
        }
        assert!(caller.span_id() != run.span_id() && run.span_id() != step.span_id());
    }

    #[test]
    fn without_a_caller_each_execution_has_its_own_trace() {
        let run = |store, id| TraceContext::of_execution(store, ExecutionId(id), None);
        assert_eq!(run("a", 1), run("a", 1));
        assert_ne!(run("a", 1).trace_id(), run("a", 2).trace_id());
        assert_ne!(run("a", 1).trace_id(), run("b", 1).trace_id());
        assert_ne!(TraceContext::root(&["a", "b"]), TraceContext::root(&["a", "c"]));
    }
}
