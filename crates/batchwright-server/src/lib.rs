//! The service of Batchwright, a library that programs embed: scheduler and its wire protocol, workers,
//! recovery, REST API, progressive execution by requests, graceful end.

#![cfg_attr(
    not(all(feature = "amqp", feature = "http", feature = "oidc")),
    allow(dead_code, reason = "what is left out uses it")
)]

pub mod api;
mod config;
mod init;
mod kairoi;
pub mod kcp;
#[cfg(feature = "amqp")]
mod launch_queue;
mod message;
mod metrics;
pub mod progressive;
mod replay;
mod scheduler;
mod server;
mod shutdown;
#[cfg(feature = "otlp")]
mod telemetry;
mod worker;

pub use config::{Config, ConfigError, SchedulerSettings, Settings};
pub use init::run_as_init;
pub use kairoi::{KairoiData, read_kairoi};

#[cfg(feature = "amqp")]
pub use launch_queue::{LaunchMessage, LaunchQueue, LaunchQueueError, LaunchSender};
pub use replay::{ReplayRefused, Replays};
#[cfg(feature = "http")]
pub use reqwest;
pub use scheduler::{
    Answer, Due, Exclusion, Explanation, JobStarter, LIST_MAX, LedgerSettings, Misfire, Overlap,
    Plan, Recurrence, Refused, Request, Rule, RuleSettings, Runner, RunnerSettings,
    ScheduleCommand, Scheduler, Secret, TriggerRow, TriggerStatus, When, explain, follow, plan_of,
    show_time,
};
pub use server::{Server, ServerBuilder, ServerError};
pub use shutdown::Shutdown;
#[cfg(feature = "otlp")]
pub use telemetry::{LogEvent, Severity, Telemetry};
pub use worker::Worker;
