//! This server itself: what it is, and whether it begins work.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::access::Caller;
use super::body::NoQuery;
use super::{Api, Problem, blocking};
use crate::scheduler::Request;

/// A server as it is now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ServerView {
    /// The version of the program.
    version: &'static str,
    /// The identity of the store.
    store: String,
    /// Whether it begins nothing more.
    pub(super) drained: bool,
    /// Number of executions that it runs and drives.
    pub(super) running: usize,
    /// Number of triggers that it is firing.
    pub(super) firing: usize,
}

impl Api {
    pub(super) fn server(&self) -> ServerView {
        let firing = self.scheduler.as_ref().map_or(0, |scheduler| {
            scheduler.status().firing.load(std::sync::atomic::Ordering::Relaxed)
        });
        ServerView {
            version: env!("CARGO_PKG_VERSION"),
            store: self.operator().store_id().to_owned(),
            drained: self.jobs.is_drained(),
            running: self.operator().queue().running(),
            firing,
        }
    }

    /// Lets this server begin nothing more, or begin work again, for `who`.
    pub(super) async fn set_drained(
        &self,
        who: String,
        is_drained: bool,
    ) -> Result<ServerView, Problem> {
        let is_change = self.jobs.set_drained(is_drained);
        if let Some(scheduler) = &self.scheduler {
            // Once the ledger has answered, it has seen the change: no trigger is claimed after the answer.
            let _ = scheduler.ask(Request::Servers).await;
            scheduler.look();
        }
        let api = self.clone();
        blocking(move || {
            if is_change {
                let action = if is_drained { "drain" } else { "resume" };
                tracing::info!(
                    who,
                    action,
                    "this server begins nothing more, or begins work again"
                );
                api.audit(&who, action, "this server", None);
            }
            Ok(api.server())
        })
        .await
    }
}

/// Returns what this server is, and how much it runs.
#[utoipa::path(get, path = "/v1/server", operation_id = "show_server",
    tag = "server", responses((status = 200, body = ServerView)))]
pub(super) async fn show(State(api): State<Api>, _: NoQuery) -> Json<ServerView> {
    Json(api.server())
}

/// Lets this server begin nothing more: it claims no queued execution and fires no trigger, and `/readyz` fails, so that a proxy
/// sends its requests elsewhere. What runs goes on. Ask until `running` and `firing` are 0, then end the process. Other servers of
/// the store take over.
#[utoipa::path(post, path = "/v1/server/drain", tag = "server", responses((status = 200, body = ServerView)))]
pub(super) async fn drain(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
) -> Result<Json<ServerView>, Problem> {
    api.set_drained(caller.named(), true).await.map(Json)
}

/// Lets a server that was drained begin work again.
#[utoipa::path(post, path = "/v1/server/resume", operation_id = "resume_server",
    tag = "server", responses((status = 200, body = ServerView)))]
pub(super) async fn resume(
    State(api): State<Api>,
    caller: Caller,
    _: NoQuery,
) -> Result<Json<ServerView>, Problem> {
    api.set_drained(caller.named(), false).await.map(Json)
}
