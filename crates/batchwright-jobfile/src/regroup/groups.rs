//! The groups of an input in any order: in memory, and beyond a number of them in a temporary file.

use std::collections::{HashMap, VecDeque};

use batchwright::ItemError;
use batchwright::error::ErrorKind;
use batchwright_items::Record;
use batchwright_items::value_bytes::{put_all, take_all};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::aggregate::{Aggregate, Group};
use super::{Clean, Regroup, key_of};

/// Number of groups of the file that are read together at the end.
const PAGE: u32 = 1_000;

/// All groups so far, each with the number of its first record's place among the groups.
pub(super) struct Groups {
    settings: Aggregate,
    /// The groups in memory, by their keys.
    recent: HashMap<String, (u64, Group)>,
    /// Number of all groups.
    count: u64,
    file: Option<GroupFile>,
    /// Number of groups that are given.
    given: u64,
    /// The groups in memory in their order, once the input has ended without a file.
    sorted: Option<VecDeque<Group>>,
}

impl Groups {
    pub(super) fn new(settings: Aggregate) -> Self {
        Self { settings, recent: HashMap::new(), count: 0, file: None, given: 0, sorted: None }
    }

    /// Moves all groups in memory to the file.
    fn move_to_file(&mut self) -> Result<(), ItemError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(GroupFile::create()?),
        };
        let mut groups: Vec<_> = self.recent.drain().collect();
        // In the order of the table, neighbours are written together.
        groups.sort_unstable_by(|(one, _), (two, _)| one.cmp(two));
        file.keep(groups)
    }
}

impl Regroup for Groups {
    fn take(&mut self, record: &Record, _: &mut VecDeque<Record>) -> Result<Clean, ItemError> {
        let key = key_of(record, &self.settings.by, "aggregate")?;
        if let Some((_, group)) = self.recent.get_mut(&key) {
            group.values = self.settings.add(&group.values, record)?;
            return Ok(Clean::No);
        }
        let known = match &self.file {
            Some(file) => file.find(&key)?,
            None => None,
        };
        let is_new = known.is_none();
        let (number, mut group) = match known {
            Some(known) => known,
            None => (self.count, self.settings.group(record)?),
        };
        // Before anything changes: a bad record changes no group.
        group.values = self.settings.add(&group.values, record)?;
        if self.recent.len() >= self.settings.groups_max {
            self.move_to_file()?;
        }
        self.count += u64::from(is_new);
        self.recent.insert(key, (number, group));
        Ok(Clean::No)
    }

    fn end(&mut self, outputs: &mut VecDeque<Record>) -> Result<(), ItemError> {
        if self.file.is_some() && !self.recent.is_empty() {
            self.move_to_file()?;
        }
        let Self { settings, recent, file, given, sorted, .. } = self;
        let page: Vec<Group> = match file {
            Some(file) => file.page(*given)?,
            None => {
                let sorted = sorted.get_or_insert_with(|| {
                    let mut all: Vec<_> = recent.drain().map(|(_, group)| group).collect();
                    all.sort_unstable_by_key(|(number, _)| *number);
                    all.into_iter().map(|(_, group)| group).collect()
                });
                sorted.drain(..sorted.len().min(PAGE as usize)).collect()
            }
        };
        *given += page.len() as u64;
        outputs.extend(page.into_iter().map(|group| settings.output(group)));
        Ok(())
    }
}

/// Groups in a temporary file, which is removed with this.
struct GroupFile(Connection);

impl GroupFile {
    fn create() -> Result<Self, ItemError> {
        // A database without a name is a temporary file of SQLite's own.
        let create = || {
            let database = Connection::open("")?;
            database.execute_batch(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;
                 CREATE TABLE one (key TEXT PRIMARY KEY, number INTEGER NOT NULL, content BLOB NOT NULL) WITHOUT ROWID",
            )?;
            Ok(Self(database))
        };
        create().map_err(failed)
    }

    fn keep(&mut self, groups: Vec<(String, (u64, Group))>) -> Result<(), ItemError> {
        let keep = || {
            let transaction = self.0.transaction()?;
            let mut insert =
                transaction.prepare_cached("INSERT OR REPLACE INTO one VALUES (?2, ?1, ?3)")?;
            let mut content = Vec::new();
            for (key, (number, group)) in groups {
                content.clear();
                put_all(&group.by, &mut content);
                put_all(&group.values, &mut content);
                insert.execute(params![number.cast_signed(), key, content])?;
            }
            drop(insert);
            transaction.commit()
        };
        keep().map_err(failed)
    }

    /// Returns the group of `key` with its number.
    fn find(&self, key: &str) -> Result<Option<(u64, Group)>, ItemError> {
        let find = || {
            let mut select =
                self.0.prepare_cached("SELECT number, content FROM one WHERE key = ?1")?;
            select
                .query_row([key], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))
                .optional()
        };
        let found = find().map_err(failed)?;
        found.map(|(number, content)| Ok((number.cast_unsigned(), group(&content)?))).transpose()
    }

    /// Returns some groups from number `from` on, in their order.
    fn page(&self, from: u64) -> Result<Vec<Group>, ItemError> {
        let read = || {
            // Made once, when the first page is read.
            self.0.execute_batch("CREATE INDEX IF NOT EXISTS by_number ON one (number)")?;
            let mut select = self.0.prepare_cached(
                "SELECT content FROM one WHERE number >= ?1 ORDER BY number LIMIT ?2",
            )?;
            let rows = select
                .query_map(params![from.cast_signed(), PAGE], |row| row.get::<_, Vec<u8>>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(failed)?.iter().map(|content| group(content)).collect()
    }
}

fn group(mut content: &[u8]) -> Result<Group, ItemError> {
    let mut take = || take_all(&mut content);
    match (take(), take()) {
        (Some(by), Some(values)) => Ok(Group { by, values }),
        _ => Err(ItemError::fatal("cannot aggregate: the temporary file of groups is damaged")),
    }
}

fn failed(error: rusqlite::Error) -> ItemError {
    let what = "cannot aggregate: the temporary file of groups cannot be used (SQLITE_TMPDIR or TMPDIR names its folder)";
    // No record is at fault, and the groups so far may be incomplete.
    ItemError::wrap(ErrorKind::FATAL, what, error)
}
