//! Statements that a stop may cut short.

use std::time::Duration;

use batchwright::{ItemError, StopToken};

use crate::database::SqlSession;

/// How long a statement in work may go on after a stop was asked for.
const STATEMENT_GRACE: Duration = Duration::from_secs(5);
/// A request to cancel that comes between two statements does nothing: it is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Does `work` with `session`. When it still lasts five seconds after a stop was asked for, its statement is cancelled, and the
/// error is that of a stop.
pub(super) fn until_stopped<T>(
    session: &mut SqlSession,
    stop: &StopToken,
    work: impl FnOnce(&mut SqlSession) -> Result<T, ItemError>,
) -> Result<T, ItemError> {
    let interrupter = session.interrupter().map_err(|error| error.of_item("prepare a stop"))?;
    let Some(interrupter) = interrupter else { return work(session) };
    // The one is asked for by a stop and by the end of the work, the other by the end of the work alone.
    let (woken, done) = (stop.child(), StopToken::default());
    /// Ends the watch, also when the work panics.
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
                    tracing::warn!(%error, "a statement was not cancelled");
                }
                done.wait(AGAIN_AFTER);
            }
        };
        // Without a thread the statement runs to its end.
        let _ =
            std::thread::Builder::new().name("sql watch".to_owned()).spawn_scoped(threads, watch);
        let _over = Over(&done, &woken);
        work(session)
    });
    match worked {
        Err(error) if stop.is_requested() && *error.kind() == batchwright::ErrorKind::TIMEOUT => {
            Err(ItemError::stopped(error.to_string()))
        }
        worked => worked,
    }
}
