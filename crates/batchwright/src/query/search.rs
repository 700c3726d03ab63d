//! Searches of executions in words: `job:import status:failed since:24h param.date:2026-11`.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{ExecutionFilter, Queries};
use crate::clock::parse_duration;
use crate::error::RepositoryError;
use crate::execution::{BatchStatus, ExecutionId, InstanceId, JobExecution};

/// Executions that one search reads at most for conditions that the store does not check.
const READ_MAX: usize = 10_000;
/// Executions that one statement reads.
const READ_AT_ONCE: usize = 500;

/// A search of executions in words, which are separated by blanks; each must be true.
///
/// | word | accepts |
/// |---|---|
/// | `job:NAME` | executions of this job |
/// | `status:A,B` | executions with one of these statuses; also `running`, and `stale` for those whose owner is lost |
/// | `since:24h`, `until:2026-11-30` | executions accepted since or before: a duration ago, a day in UTC, or a time in RFC 3339 |
/// | `instance:N` | executions of this instance |
/// | `by:TEXT` | executions whose `triggered_by` contains the text |
/// | `param.NAME:TEXT` | executions with this parameter whose value begins with the text; not secret ones |
///
/// ```
/// use batchwright::query::{ExecutionSearch, Found};
///
/// # fn main() -> Result<(), String> {
/// let now = "2026-11-30T06:00:00Z".parse().unwrap();
/// let search = ExecutionSearch::parse("job:import status:failed,stopped since:24h", now)?;
/// assert_eq!(search.filter().job.as_deref(), Some("import"));
/// assert!(ExecutionSearch::parse("jobs:import", now).unwrap_err().contains("`jobs`"));
/// let store = batchwright::MemoryRepository::new();
/// let found: Found = search.find(&store, None, 20, now).map_err(|error| error.to_string())?;
/// assert!(found.executions.is_empty() && found.next.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecutionSearch {
    filter: ExecutionFilter,
    /// Whether the owner must be lost, or must not be.
    is_stale: Option<bool>,
    by: Option<String>,
    parameters: Vec<(String, String)>,
}

/// The executions that a search has found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The executions, newest first.
    pub executions: Vec<JobExecution>,
    /// The search goes on before this execution; `None` at its end.
    pub next: Option<ExecutionId>,
}

impl ExecutionSearch {
    /// Parses the words of a search; durations count back from `now`.
    ///
    /// # Errors
    ///
    /// A sentence that names the word.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let mut search = Self::default();
        let mut given: Vec<&str> = Vec::new();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once(':').ok_or_else(|| {
                format!("`{word}` is no condition; conditions are written as `job:NAME`, `status:failed`, `since:24h`")
            })?;
            if value.is_empty() {
                return Err(format!("the condition `{word}` has no value"));
            }
            if given.contains(&name) {
                return Err(format!(
                    "the condition `{name}` is given twice; several statuses are separated by commas"
                ));
            }
            given.push(name);
            match name {
                "job" => search.filter.job = Some(value.to_owned()),
                "status" => search.statuses(value)?,
                "since" => search.filter.since = Some(time(value, now)?),
                "until" => search.filter.until = Some(time(value, now)?),
                "instance" => {
                    let id = value.parse();
                    let id = id.map_err(|_| format!("the instance `{value}` is no number"))?;
                    search.filter.instance = Some(InstanceId(id));
                }
                "by" => search.by = Some(value.to_owned()),
                name => match name.strip_prefix("param.").filter(|name| !name.is_empty()) {
                    Some(parameter) => {
                        search.parameters.push((parameter.to_owned(), value.to_owned()));
                    }
                    None => {
                        return Err(format!(
                            "the condition `{name}` is unknown; known are job, status, since, until, instance, by, param.NAME"
                        ));
                    }
                },
            }
        }
        Ok(search)
    }

    fn statuses(&mut self, names: &str) -> Result<(), String> {
        for name in names.split(',') {
            match name.to_ascii_lowercase().as_str() {
                "running" => self.filter = std::mem::take(&mut self.filter).running(),
                "stale" => {
                    self.is_stale = Some(true);
                    self.filter = std::mem::take(&mut self.filter).running();
                }
                _ => {
                    let status = BatchStatus::from_name(&name.to_ascii_uppercase());
                    let known: Vec<_> = BatchStatus::ALL
                        .iter()
                        .map(|one| one.name().to_ascii_lowercase())
                        .collect();
                    let status = status.ok_or_else(|| {
                        format!(
                            "the status `{name}` is unknown; known are {}, running, stale",
                            known.join(", ")
                        )
                    })?;
                    self.filter.statuses.push(status);
                }
            }
        }
        Ok(())
    }

    /// Accepts only what `other` accepts, too; of its fields `before`, `offset` and `limit` do not count. `None` when no execution
    /// can match both.
    #[must_use]
    pub fn and(mut self, other: &ExecutionFilter) -> Option<Self> {
        let own = &mut self.filter;
        own.job = either(own.job.take(), other.job.clone())?;
        own.instance = either(own.instance, other.instance)?;
        match own.statuses.is_empty() {
            true => own.statuses.clone_from(&other.statuses),
            false if other.statuses.is_empty() => {}
            false => {
                own.statuses.retain(|status| other.statuses.contains(status));
                if own.statuses.is_empty() {
                    return None;
                }
            }
        }
        own.since = own.since.max(other.since);
        own.until = earlier(own.until, other.until);
        own.ended_before = earlier(own.ended_before, other.ended_before);
        own.newest_of_instance |= other.newest_of_instance;
        Some(self)
    }

    /// Accepts only executions whose owner is lost, or only the others, of those that the search accepts; `None` when it accepts
    /// none of them.
    #[must_use]
    pub fn stale(mut self, wanted: bool) -> Option<Self> {
        self.is_stale = either(self.is_stale, Some(wanted))?;
        Some(self)
    }

    /// Returns the conditions that the store checks itself.
    pub fn filter(&self) -> &ExecutionFilter {
        &self.filter
    }

    /// Whether the store checks all conditions.
    pub fn is_exact(&self) -> bool {
        self.is_stale.is_none() && self.by.is_none() && self.parameters.is_empty()
    }

    fn matches(&self, execution: &JobExecution, now: Timestamp) -> bool {
        let has_parameter = |(name, begin): &(String, String)| {
            execution.parameters.get(name).is_some_and(|parameter| {
                parameter.shown_as(name).value.to_string().starts_with(begin)
            })
        };
        let is_by = |by: &String| execution.triggered_by.as_ref().is_some_and(|it| it.contains(by));
        self.is_stale.is_none_or(|wanted| execution.is_stale(now) == wanted)
            && self.by.as_ref().is_none_or(is_by)
            && self.parameters.iter().all(has_parameter)
    }

    /// Returns the newest `limit` executions that match, before the execution `before`. Conditions that the store does not check
    /// are checked on at most 10,000 executions; the search can then go on.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn find(
        &self,
        queries: &dyn Queries,
        before: Option<ExecutionId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Found, RepositoryError> {
        let mut filter = self.filter.clone();
        filter.before = before;
        let at_once = if self.is_exact() { limit.saturating_add(1) } else { READ_AT_ONCE };
        filter.limit = Some(at_once);
        let (mut executions, mut read) = (Vec::new(), 0);
        loop {
            let rows = queries.executions(&filter)?;
            let is_end = rows.len() < at_once;
            read += rows.len();
            for row in rows {
                if executions.len() == limit {
                    let next = executions.last().map(|last: &JobExecution| last.id);
                    return Ok(Found { executions, next });
                }
                filter.before = Some(row.id);
                if self.matches(&row, now) {
                    executions.push(row);
                }
            }
            if is_end {
                return Ok(Found { executions, next: None });
            }
            if read >= READ_MAX {
                return Ok(Found { executions, next: filter.before });
            }
        }
    }

    /// Returns the newest `limit` executions that match and for which `fits` is true, however many the search has to read;
    /// `true`: there are further ones.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub fn find_all(
        &self,
        queries: &dyn Queries,
        limit: usize,
        now: Timestamp,
        fits: impl Fn(&JobExecution) -> bool,
    ) -> Result<(Vec<ExecutionId>, bool), RepositoryError> {
        let (mut ids, mut before) = (Vec::new(), None);
        loop {
            let found = self.find(queries, before, READ_AT_ONCE, now)?;
            ids.extend(found.executions.iter().filter(|one| fits(one)).map(|one| one.id));
            if ids.len() > limit || found.next.is_none() {
                let has_more = ids.len() > limit;
                ids.truncate(limit);
                return Ok((ids, has_more));
            }
            before = found.next;
        }
    }
}

/// Returns the value that both or one of two conditions have; `None` when they differ.
#[expect(
    clippy::option_option,
    reason = "no value is possible, and no value is wanted, are two things"
)]
fn either<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<Option<T>> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => Some(one.or(other)),
    }
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

fn time(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(ago) = parse_duration(text) {
        let at = jiff::SignedDuration::try_from(ago).ok().and_then(|ago| now.checked_sub(ago).ok());
        return at.ok_or_else(|| format!("the duration `{text}` is too long"));
    }
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let day: Option<Date> = text.parse().ok();
    let begin = day.and_then(|day| day.to_zoned(TimeZone::UTC).ok());
    begin.map(|begin| begin.timestamp()).ok_or_else(|| {
        format!("`{text}` is no time: a duration such as `24h`, a day such as `2026-11-30`, or a time in RFC 3339")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::JobParameters;
    use crate::store::{JobRepository, MemoryRepository};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn each_condition_has_its_word() {
        let now = at("2026-11-30T06:00:00Z");
        let parse = |text| ExecutionSearch::parse(text, now);
        let search =
            parse("job:a status:failed,STOPPED since:24h until:2026-11-30 instance:7").unwrap();
        assert_eq!(search.filter.statuses, [BatchStatus::Failed, BatchStatus::Stopped]);
        assert_eq!(search.filter.since, Some(at("2026-11-29T06:00:00Z")));
        assert_eq!(search.filter.until, Some(at("2026-11-30T00:00:00Z")));
        assert!(search.is_exact() && search.filter.instance == Some(InstanceId(7)));
        assert!(!parse("status:stale").unwrap().is_exact());
        assert_eq!(parse("").unwrap(), ExecutionSearch::default());
        for (wrong, problem) in [
            ("import", "no condition"),
            ("job:", "no value"),
            ("status:broken", "`broken`"),
            ("since:yesterday", "`yesterday`"),
            ("since:99999999999999h", "time"),
            ("instance:x", "no number"),
            ("param.:x", "unknown"),
            ("job:a job:b", "`job` is given twice"),
        ] {
            let message = parse(wrong).unwrap_err();
            assert!(message.contains(problem), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_filter_narrows_a_search() {
        let now = at("2026-11-30T06:00:00Z");
        let search = || ExecutionSearch::parse("job:a status:failed,stopped since:24h by:x", now);
        let search = || search().unwrap();
        let filter = ExecutionFilter {
            since: Some(at("2026-11-30T00:00:00Z")),
            until: Some(now),
            newest_of_instance: true,
            ..ExecutionFilter::of_job("a").status(BatchStatus::Failed).running()
        };
        let narrowed = search().and(&filter).unwrap();
        assert_eq!(narrowed.filter.statuses, [BatchStatus::Failed]);
        assert_eq!((narrowed.filter.since, narrowed.filter.until), (filter.since, Some(now)));
        assert!(narrowed.filter.newest_of_instance && narrowed.by.is_some());
        assert_eq!(search().and(&ExecutionFilter::default()), Some(search()));
        assert_eq!(search().and(&ExecutionFilter::of_job("b")), None);
        assert_eq!(search().stale(true).unwrap().stale(false), None);
        assert_eq!(search().and(&ExecutionFilter::default().running()), None);
        let other = ExecutionFilter { since: Some(at("2026-11-01T00:00:00Z")), ..filter };
        assert_eq!(search().and(&other).unwrap().filter.since, search().filter.since);
    }

    #[test]
    fn conditions_that_the_store_does_not_check_are_checked_page_by_page() {
        let store = MemoryRepository::new();
        let now = at("2026-11-30T06:00:00Z");
        for number in 0..1_200_i64 {
            let mut tx = store.begin().unwrap();
            let instance = tx.insert_instance("a", &number.to_string(), now).unwrap();
            let parameters = JobParameters::new().with("n", number % 100);
            let mut row = JobExecution::new_unsaved("a", parameters, now);
            (row.instance_id, row.triggered_by) = (instance.id, Some("cli:maria".to_owned()));
            tx.insert_execution(&row).unwrap();
            tx.commit().unwrap();
        }
        let search = ExecutionSearch::parse("param.n:42 by:maria", now).unwrap();
        let first = search.find(&store, None, 5, now).unwrap();
        let second = search.find(&store, first.next, 100, now).unwrap();
        assert_eq!((first.executions.len(), second.executions.len(), second.next), (5, 7, None));
        let others = ExecutionSearch::parse("param.n:42", now).unwrap().stale(false).unwrap();
        assert_eq!(others.find(&store, None, 100, now).unwrap().executions.len(), 12);
        let nothing = ExecutionSearch::parse("by:paul", now).unwrap();
        assert_eq!(nothing.find(&store, None, 5, now).unwrap().executions, []);
        let all = ExecutionSearch::default().find(&store, None, 1_200, now).unwrap();
        assert_eq!((all.executions.len(), all.next), (1_200, None));
    }

    #[test]
    fn all_that_fit_are_found_up_to_the_limit() {
        let store = MemoryRepository::new();
        let now = at("2026-11-30T06:00:00Z");
        for number in 0..1_200_i64 {
            let mut tx = store.begin().unwrap();
            let instance = tx.insert_instance("a", &number.to_string(), now).unwrap();
            let mut row = JobExecution::new_unsaved("a", JobParameters::new(), now);
            row.instance_id = instance.id;
            tx.insert_execution(&row).unwrap();
            tx.commit().unwrap();
        }
        let search = ExecutionSearch::default();
        let is_even = |one: &JobExecution| one.id.0 % 2 == 0;
        let (ids, has_more) = search.find_all(&store, 600, now, is_even).unwrap();
        assert_eq!((ids.len(), has_more), (600, false));
        let (ids, has_more) = search.find_all(&store, 599, now, is_even).unwrap();
        assert_eq!((ids.len(), has_more, ids[0].0 > ids[1].0), (599, true, true));
    }
}
