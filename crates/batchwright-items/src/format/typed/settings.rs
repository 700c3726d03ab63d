//! What the readers of formats with a schema read, and how.

#[cfg(any(feature = "arrow", feature = "parquet"))]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use batchwright::ItemError;
use batchwright::clock::StopToken;

use super::ColumnRange;
use crate::record::Record;
use crate::transport::ByteSource;
#[cfg(any(feature = "arrow", feature = "parquet"))]
use crate::transport::{InputIdentity, changed};

/// The settings of a reader.
pub(crate) struct ReaderSettings<T> {
    pub(crate) source: Arc<dyn ByteSource>,
    /// The columns that are read; `None` for all.
    pub(crate) columns: Option<Vec<String>>,
    /// Rows with other values are left out.
    pub(crate) only: Vec<ColumnRange>,
    pub(crate) may_have_changed: bool,
    pub(crate) stop: StopToken,
    pub(crate) decode: fn(Record) -> Result<T, ItemError>,
}

/// Defines the methods that set the settings of `$reader`.
macro_rules! reader_settings {
    ($reader:ident) => {
        impl<T> $reader<T> {
            /// Reads only the columns called `names`, in the order of the file. Default: all.
            #[must_use]
            pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
                self.settings.columns = Some(names.into_iter().map(Into::into).collect());
                self
            }

            /// Reads only rows whose value is in `range`; several ranges exclude more. Of a Parquet file, groups of rows whose
            /// statistics exclude such values are not fetched.
            #[must_use]
            pub fn only(mut self, range: $crate::format::typed::ColumnRange) -> Self {
                self.settings.only.push(range);
                self
            }

            /// Lets a restart continue at the stored position although the file is no longer the one of the checkpoint.
            /// Default: such a restart is refused.
            #[must_use]
            pub fn may_have_changed(mut self) -> Self {
                self.settings.may_have_changed = true;
                self
            }
        }
    };
}

pub(crate) use reader_settings;

impl<T> Clone for ReaderSettings<T> {
    fn clone(&self) -> Self {
        Self {
            source: Arc::clone(&self.source),
            columns: self.columns.clone(),
            only: self.only.clone(),
            may_have_changed: self.may_have_changed,
            stop: self.stop.clone(),
            decode: self.decode,
        }
    }
}

impl<T> ReaderSettings<T> {
    pub(crate) fn new(
        source: Arc<dyn ByteSource>,
        decode: fn(Record) -> Result<T, ItemError>,
    ) -> Self {
        Self {
            source,
            columns: None,
            only: Vec::new(),
            may_have_changed: false,
            stop: StopToken::default(),
            decode,
        }
    }

    pub(crate) fn failed(&self, what: &dyn std::fmt::Display) -> ItemError {
        ItemError::fatal(format!("cannot read `{}`: {what}", self.source.shown()))
    }

    /// Returns whether each of `names` is read, which are all that the file has; the format calls one a `kind`.
    ///
    /// # Errors
    ///
    /// When the file lacks a column that is to be read.
    pub(crate) fn wanted(&self, names: &[&str], kind: &str) -> Result<Vec<bool>, ItemError> {
        let read =
            |name: &str| self.columns.as_ref().is_none_or(|all| all.iter().any(|one| one == name));
        if let Some(unread) = self
            .only
            .iter()
            .map(|range| &*range.column)
            .find(|name| !names.contains(name) || !read(name))
        {
            return Err(
                self.failed(&format!("`only` names `{unread}`, and no such {kind} is read"))
            );
        }
        let Some(columns) = &self.columns else { return Ok(vec![true; names.len()]) };
        if let Some(missing) = columns.iter().find(|name| !names.contains(&name.as_str())) {
            let known = names.join(", ");
            return Err(self.failed(&format!("it has no {kind} `{missing}`; there are: {known}")));
        }
        Ok(names.iter().map(|name| columns.iter().any(|one| one == name)).collect())
    }

    /// Refuses a file that is another one than that of the checkpoint, unless it may be.
    #[cfg(any(feature = "arrow", feature = "parquet"))]
    pub(crate) fn check_same(
        &self,
        made_with: Option<InputIdentity>,
        now: InputIdentity,
    ) -> Result<(), ItemError> {
        match made_with.is_none_or(|made_with| made_with == now) || self.may_have_changed {
            true => Ok(()),
            false => {
                let what = "its size, its time or its content is another";
                Err(changed(&self.source.shown(), what))
            }
        }
    }

    /// Returns, for each range, whether its column has timestamps without a time zone.
    pub(crate) fn local(&self, is_local: impl Fn(&str) -> bool) -> Vec<bool> {
        self.only.iter().map(|range| is_local(&range.column)).collect()
    }

    /// Whether all values of `record` are in their ranges; `local` is what [`local`](Self::local) returned.
    pub(crate) fn accepts(&self, record: &Record, local: &[bool]) -> Result<bool, ItemError> {
        for (range, is_local) in self.only.iter().zip(local) {
            if !range.accepts(record, *is_local)? {
                return match self.stop.is_requested() {
                    false => Ok(false),
                    true => {
                        Err(ItemError::stopped("a stop was requested while rows were left out"))
                    }
                };
            }
        }
        Ok(true)
    }
}

/// Runs `work` of a library that panics about some files that are damaged. After that the rows end with an error, because some
/// are missing.
#[cfg(any(feature = "arrow", feature = "parquet"))]
pub(crate) fn undamaged<T>(work: impl FnOnce() -> T) -> Result<T, &'static str> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "it is damaged")
}
