//! The lines before the first and after the last record of a text file, in job files.

use std::sync::Arc;

use batchwright::ItemError;
use batchwright::scope::StepScope;

use crate::key::{Problem, Text};
use crate::kind::{BuildContext, Make};
use crate::transport::Ends;

/// Returns what makes the texts of a writer's lines; `encode` returns the bytes of a line without its end. A line that cannot be
/// made is not the fault of a record, so the first one is made with the writer.
pub(super) fn lines_around(
    first_line: Option<&Text>,
    last_line: Option<&Text>,
    line_end: &'static [u8],
    encode: impl Fn(String) -> Result<Vec<u8>, ItemError> + Clone + Send + Sync + 'static,
    cx: &BuildContext<'_>,
) -> Result<Make<Ends>, Problem> {
    let first_line = first_line.map(|text| cx.template(text)).transpose()?;
    let last_line = last_line.map(|text| cx.template_with_records(text)).transpose()?;
    let ended = move |text: String| {
        let mut line = encode(text)?;
        line.extend_from_slice(line_end);
        Ok::<_, ItemError>(line)
    };
    Ok(Box::new(move |scope: &StepScope| {
        let mut ends = Ends::default();
        if let Some(template) = &first_line {
            let line = ended(template.render(scope)?)?;
            ends.header = Some(Arc::new(move |_| Ok(line.clone())));
        }
        if let Some(template) = &last_line {
            // The number of a file is that of the writer that is being made.
            let (template, ended) = (template.numbered()?, ended.clone());
            ends.footer = Some(Arc::new(move |scope, records| {
                ended(template.render_counted(scope, records)?)
            }));
        }
        Ok(ends)
    }))
}
