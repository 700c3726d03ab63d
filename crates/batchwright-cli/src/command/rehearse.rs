//! `rehearse`: kills a job at every commit boundary, restarts it, and compares its output with the output of
//! an uninterrupted run.

mod outputs;
mod scratch;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::args::{Global, RehearseArgs};
use crate::error::{self, CliError};
use crate::output;
use outputs::Outputs;
use scratch::{Ended, Scratch};

/// Maximum number of restarts of one trial: after the kill nothing interrupts the job again.
const RESTARTS_MAX: usize = 3;
/// Maximum number of differences that the text output lists.
const SHOWN_MAX: usize = 10;

/// Where a trial is killed.
#[derive(Debug, Clone, Copy)]
struct KillPoint {
    commit: u64,
    after: bool,
}

impl std::fmt::Display for KillPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} commit {}", if self.after { "after" } else { "before" }, self.commit)
    }
}

/// The results of the rehearsal for one step.
#[derive(Default)]
struct Finding {
    commits: u64,
    kills: usize,
    differing: usize,
}

/// Rehearses a job.
pub(super) fn rehearse(global: &Global, args: &RehearseArgs) -> Result<u8, CliError> {
    let scratch = Scratch::new(global, args)?;
    let (undisturbed, commits, outputs) = uninterrupted(&scratch)?;
    // Outputs that differ between two uninterrupted runs prove nothing about restarts.
    let (_, _, again) = uninterrupted(&scratch)?;
    let unstable = outputs.differences(&again);

    let mut findings: BTreeMap<String, Finding> = BTreeMap::new();
    for step in steps_of(&undisturbed) {
        let name = step["name"].as_str().unwrap_or_default().to_owned();
        findings.entry(name).or_default().commits += step["commit"].as_u64().unwrap_or(0);
    }
    let points = kill_points(commits, args);
    let mut differences = Vec::new();
    for point in &points {
        let (step, left) = trial(&scratch, *point)?;
        let finding = findings.entry(step.clone()).or_default();
        finding.kills += 1;
        let mut differing = match left {
            Ok(left) => outputs.differences(&left),
            Err(stuck) => vec![format!("the job does not complete any more: {stuck}")],
        };
        differing.retain(|name| !unstable.contains(name));
        if !differing.is_empty() {
            finding.differing += 1;
            differences
                .push(json!({"kill": point.to_string(), "step": step, "differing": differing}));
        }
    }
    let report = report(&undisturbed, &findings, points.len(), &unstable, &differences);
    output::document(global.format, &report, text)?;
    Ok(if differences.is_empty() { error::OK } else { error::FAILED })
}

/// Runs the job once without a kill; returns its execution, the commits of all its steps, and its outputs.
fn uninterrupted(scratch: &Scratch) -> Result<(Value, u64, Outputs), CliError> {
    let trial = scratch.trial()?;
    match trial.run(None)? {
        Ended::Completed => {}
        ended => {
            return Err(CliError::Usage(format!(
                "the job does not complete even without a kill, so it cannot be rehearsed: {}",
                ended.into_message()
            )));
        }
    }
    let execution = trial.newest()?;
    // A partitioned step commits nothing itself; its row is the sum of its partitions.
    let commits = steps_of(&execution)
        .filter(|step| !is_sum(&execution, step))
        .map(|step| step["commit"].as_u64().unwrap_or(0))
        .sum();
    let outputs = trial.outputs()?;
    Ok((execution, commits, outputs))
}

fn steps_of(execution: &Value) -> impl Iterator<Item = &Value> {
    execution["steps"].as_array().into_iter().flatten()
}

/// Whether the row of `step` is the sum of its partitions.
fn is_sum(execution: &Value, step: &Value) -> bool {
    let prefix = format!("{}:", step["name"].as_str().unwrap_or_default());
    step["partition"].is_null()
        && steps_of(execution).any(|other| {
            !other["partition"].is_null()
                && other["name"].as_str().is_some_and(|name| name.starts_with(&prefix))
        })
}

/// Returns the points before and after every commit, or `--kills` of them, drawn by the seed.
fn kill_points(commits: u64, args: &RehearseArgs) -> Vec<KillPoint> {
    let all =
        (1..=commits).flat_map(|commit| [false, true].map(|after| KillPoint { commit, after }));
    let mut points: Vec<_> = all.collect();
    let Some(kills) = args.kills else { return points };
    // A linear congruential generator (Knuth, MMIX) is random enough for this draw.
    let mut state = args.seed;
    let mut drawn = Vec::new();
    while drawn.len() < kills && !points.is_empty() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = usize::try_from(state >> 33).unwrap_or(0) % points.len();
        drawn.push(points.swap_remove(index));
    }
    drawn
}

/// Runs the job until it is killed at `point` and restarts it until it completes; returns the step that was
/// killed, and the outputs of the job or the reason why it does not complete any more.
fn trial(
    scratch: &Scratch,
    point: KillPoint,
) -> Result<(String, Result<Outputs, String>), CliError> {
    let trial = scratch.trial()?;
    let mut killed = String::new();
    let mut ended = trial.run(Some(point))?;
    for _ in 0..RESTARTS_MAX {
        match ended {
            Ended::Completed => break,
            Ended::Killed => {
                let execution = trial.newest()?;
                killed = running_step(&execution);
                trial.recover()?;
            }
            Ended::Other(_) => {}
        }
        ended = trial.restart()?;
    }
    match ended {
        Ended::Completed => Ok((killed, Ok(trial.outputs()?))),
        ended => Ok((killed, Err(ended.into_message()))),
    }
}

/// Returns the names of the steps that were running when the execution was killed.
fn running_step(execution: &Value) -> String {
    let running: Vec<_> = steps_of(execution)
        .filter(|step| step["status"] == "STARTED" && !is_sum(execution, step))
        .filter_map(|step| step["name"].as_str())
        .collect();
    running.join(", ")
}

fn report(
    undisturbed: &Value,
    findings: &BTreeMap<String, Finding>,
    kills: usize,
    unstable: &[String],
    differences: &[Value],
) -> Value {
    let steps: Vec<_> = steps_of(undisturbed)
        .filter_map(|step| step["name"].as_str())
        .map(|name| {
            let Finding { commits, kills, differing } = &findings[name];
            let (guarantee, why) = match (commits, kills, differing) {
                (0, ..) => (
                    "at-least-once",
                    "the step commits nothing: a restart repeats it from its beginning",
                ),
                (_, 0, _) => ("not tested", "no kill was drawn in this step"),
                (_, _, 0) => {
                    ("exact", "after every kill the output equals that of an uninterrupted run")
                }
                _ => ("at-least-once", "after some kills the output differs"),
            };
            json!({"name": name, "guarantee": guarantee, "why": why, "commits": commits,
                   "kills": kills, "differing": differing})
        })
        .collect();
    // Without a kill nothing was tested.
    let exact = (kills > 0).then_some(differences.is_empty());
    json!({"job": undisturbed["job"], "kills": kills, "exact": exact,
           "steps": steps, "ignored": unstable, "differences": differences})
}

fn has_commits(report: &Value) -> bool {
    steps_of(report).any(|step| step["commits"].as_u64() != Some(0))
}

fn text(report: &Value) -> String {
    let mut text = String::new();
    let job = report["job"].as_str().unwrap_or_default();
    let kills = &report["kills"];
    let _ = match report["exact"].as_bool() {
        Some(true) => {
            writeln!(text, "{job}: exact after {kills} kills, each followed by a restart")
        }
        Some(false) => {
            writeln!(text, "{job}: NOT exact after {kills} kills, each followed by a restart")
        }
        None => {
            let why = if has_commits(report) {
                "no kill was asked for"
            } else {
                "the job commits nothing"
            };
            writeln!(text, "{job}: nothing was tested, because {why}")
        }
    };
    for step in report["steps"].as_array().into_iter().flatten() {
        let word = |key: &str| step[key].as_str().unwrap_or_default();
        let _ = writeln!(
            text,
            "  step {}: {} ({} commits, killed {} times): {}",
            word("name"),
            word("guarantee"),
            step["commits"],
            step["kills"],
            word("why")
        );
    }
    for name in report["ignored"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  not compared: {name} differs between two uninterrupted runs");
    }
    for difference in report["differences"].as_array().into_iter().flatten().take(SHOWN_MAX) {
        let _ = writeln!(
            text,
            "  differs: killed {} in step {}: {}",
            difference["kill"].as_str().unwrap_or_default(),
            difference["step"],
            difference["differing"]
        );
    }
    text.trim_end().to_owned()
}
