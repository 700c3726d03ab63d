//! The lines before the first and after the last record of a text file, in job files.

use std::sync::Arc;

use batchwright::ItemError;

use crate::key::{Problem, Text};
use crate::kind::BuildContext;
use crate::transport::Ends;

/// Returns what writes the lines; `encode` returns the bytes of a line without its end.
pub(super) fn lines_around(
    first_line: Option<&Text>,
    last_line: Option<&Text>,
    line_end: &'static [u8],
    encode: impl Fn(String) -> Result<Vec<u8>, ItemError> + Clone + Send + Sync + 'static,
    cx: &BuildContext<'_>,
) -> Result<Ends, Problem> {
    let ended = move |text: String| {
        let mut line = encode(text)?;
        line.extend_from_slice(line_end);
        Ok::<_, ItemError>(line)
    };
    let mut ends = Ends::default();
    if let Some(text) = first_line {
        let (template, ended) = (cx.template(text)?, ended.clone());
        ends.header = Some(Arc::new(move |scope| ended(template.render(scope)?)));
    }
    if let Some(text) = last_line {
        let template = cx.template_with_records(text)?;
        ends.footer =
            Some(Arc::new(move |scope, records| ended(template.render_counted(scope, records)?)));
    }
    Ok(ends)
}
