//! Cancels running statements after a stop request.

use std::time::Duration;

use batchwright::ItemError;
use batchwright::clock::StopToken;

use crate::database::SqlSession;

/// How long a running statement may continue after a stop request.
const STATEMENT_GRACE: Duration = Duration::from_secs(5);
/// Interval at which a cancel request is repeated: a request between two statements has no effect.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Does `work` with `session`. If the work still runs five seconds after a stop request, its statement is
/// cancelled and the error is that of a stop.
pub(super) fn until_stopped<T>(
    session: &mut SqlSession,
    stop: &StopToken,
    work: impl FnOnce(&mut SqlSession) -> Result<T, ItemError>,
) -> Result<T, ItemError> {
    let interrupter =
        session.interrupter().map_err(|error| error.of_item("cannot prepare a stop"))?;
    let Some(interrupter) = interrupter else { return work(session) };
    // `woken` is requested by a stop or the end of the work, `done` only by the end of the work.
    let (woken, done) = (stop.child(), StopToken::default());
    /// Ends the watching thread on drop, also when the work panics.
    struct Over<'t>(&'t StopToken, &'t StopToken);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.request();
            self.1.request();
        }
    }
    let worked = std::thread::scope(|threads| {
        let watch = || {
            woken.wait(Duration::MAX);
            done.wait(STATEMENT_GRACE);
            while !done.is_requested() {
                if let Err(error) = interrupter() {
                    tracing::warn!(%error, "cannot cancel a statement");
                }
                done.wait(AGAIN_AFTER);
            }
        };
        // When the thread cannot be started, the statement runs to its end.
        let _ =
            std::thread::Builder::new().name("sql watch".to_owned()).spawn_scoped(threads, watch);
        let _over = Over(&done, &woken);
        work(session)
    });
    match worked {
        Err(error)
            if stop.is_requested() && *error.kind() == batchwright::error::ErrorKind::TIMEOUT =>
        {
            Err(ItemError::stopped(error.to_string()))
        }
        worked => worked,
    }
}
