//! `skips`: lists the records that an execution skipped, or exports them for correction.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use batchwright::error::ErrorKind;
use batchwright::execution::{ExecutionId, SkipRecord};
use batchwright_jobfile::{Replayed, SkippedRecord, each_skip};
use serde::Serialize;

use super::launch::target;
use crate::args::{Global, SkipsArgs};
use crate::context::App;
use crate::error::{self, CliError};
use crate::output;

/// A row of the list.
#[derive(Serialize)]
struct SkipView {
    #[serde(flatten)]
    skip: SkipRecord,
    replayed: bool,
}

/// Lists or exports the records that an execution skipped.
pub(super) fn skips(app: &App, global: &Global, args: &SkipsArgs) -> Result<u8, CliError> {
    let execution = app.operator.explorer().execution(target(app, &args.execution)?)?;
    let replayed = Replayed::of(&app.operator, &execution)?;
    if let Some(path) = &args.export {
        return export(app, global, args, execution.id, &replayed, path);
    }
    let (mut views, mut kinds) = (Vec::new(), BTreeMap::<String, usize>::new());
    each(app, args, execution.id, |skip| {
        *kinds.entry(skip.kind.clone()).or_default() += 1;
        if args.limit.is_none_or(|limit| views.len() < limit) {
            let replayed = replayed.has(execution.id, &skip);
            views.push(SkipView { skip, replayed });
        }
        Ok(())
    })?;
    let header = ["STEP", "PHASE", "ITEM", "KIND", "REPLAYED", "MESSAGE"];
    output::list(global.format, &views, header, |SkipView { skip, replayed }| {
        [
            skip.step.clone(),
            skip.phase.to_string(),
            skip.item.to_string(),
            skip.kind.clone(),
            if *replayed { "yes" } else { "no" }.to_owned(),
            skip.message.clone(),
        ]
    })?;
    let total: usize = kinds.values().sum();
    if total > 0 {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        output::note(&format!("{total} records are skipped: {}", kinds.join(", ")));
    }
    if views.len() < total {
        output::more(views.len(), "another --limit");
    }
    Ok(error::OK)
}

/// Calls `take` with each record that the options select, in the order of the commits.
fn each(
    app: &App,
    args: &SkipsArgs,
    id: ExecutionId,
    mut take: impl FnMut(SkipRecord) -> Result<(), CliError>,
) -> Result<(), CliError> {
    each_skip(app.operator.queries(), id, |skip| {
        let kind = ErrorKind::new(skip.kind.clone());
        let is_wanted = args.step.as_ref().is_none_or(|step| *step == skip.step)
            && args.kind.as_ref().is_none_or(|wanted| kind.is_a(wanted));
        if is_wanted { take(skip) } else { Ok(()) }
    })
}

/// Writes the records that no replay has written to a new file.
fn export(
    app: &App,
    global: &Global,
    args: &SkipsArgs,
    id: ExecutionId,
    replayed: &Replayed,
    path: &Path,
) -> Result<u8, CliError> {
    let failed = |error: std::io::Error| {
        CliError::Usage(format!("cannot write `{}`: {error}", path.display()))
    };
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    let (mut exported, mut left_out) = (0, 0);
    each(app, args, id, |skip| {
        if replayed.has(id, &skip) {
            left_out += 1;
            return Ok(());
        }
        exported += 1;
        let line =
            serde_json::to_string(&SkippedRecord::of(id, &skip)).map_err(std::io::Error::other)?;
        writeln!(file, "{line}").map_err(failed)
    })?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    if exported == 0 {
        // An empty file would be in the way of the next export.
        std::fs::remove_file(path).map_err(failed)?;
    }
    let result = serde_json::json!({"file": path, "exported": exported, "replayed": left_out});
    output::document(global.format, &result, |_| {
        let left_out = match left_out {
            0 => String::new(),
            count => format!("; left out {count} that are replayed already"),
        };
        let path = path.display();
        if exported == 0 {
            return format!("no record is left to export{left_out}; {path} was not written");
        }
        format!(
            "exported {exported} records to {path}{left_out}\nCorrect `record` in each line, then: batchwright replay {id} --from {path}"
        )
    })?;
    Ok(error::OK)
}
