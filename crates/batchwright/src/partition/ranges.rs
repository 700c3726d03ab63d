//! The usual partitioners: by numbers, by files, by the bytes of one file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Partitioner;
use crate::error::{ErrorKind, ItemError};
use crate::scope::{Partition, StepScope};

/// A partitioner of the integers from `min` to `max`, both included, into ranges of nearly equal length. The
/// inner step finds its bounds in the partition values `min` and `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberRanges {
    /// The first number.
    pub min: i64,
    /// The last number.
    pub max: i64,
    /// Number of partitions, at most one for each number; zero counts as one.
    pub grid: u32,
}

impl NumberRanges {
    /// Returns the ranges; none when `max` is less than `min`.
    ///
    /// # Errors
    ///
    /// Never: numbers can always be serialized as JSON.
    pub fn cut(&self) -> Result<Vec<Partition>, ItemError> {
        if self.max < self.min {
            return Ok(Vec::new());
        }
        let count = i128::from(self.max) - i128::from(self.min) + 1;
        let grid = i128::from(self.grid.max(1)).min(count);
        let bound = |index: i128| i128::from(self.min) + count * index / grid;
        let narrow = |number: i128| i64::try_from(number).unwrap_or(self.max);
        (0..grid)
            .map(|index| {
                let (min, max) = (narrow(bound(index)), narrow(bound(index + 1) - 1));
                Ok(Partition::new(key(index)).with("min", &min)?.with("max", &max)?)
            })
            .collect()
    }
}

impl Partitioner for NumberRanges {
    fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
        self.cut()
    }
}

/// Returns `p0000`, `p0001`, …: sorted in the order in which the partitions start.
fn key(index: impl std::fmt::Display) -> String {
    format!("p{index:0>4}")
}

/// A partitioner with one partition for each file. The inner step finds the path in the partition value `path`;
/// the key is the file's name in `folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePartitions {
    folder: PathBuf,
    pattern: String,
}

impl FilePartitions {
    /// Creates partitions for the files of `folder` whose names match `pattern`: `*` matches any characters,
    /// `?` one character. A name that begins with a dot is hidden, and only a pattern that begins with a dot
    /// matches it.
    pub fn new(folder: impl Into<PathBuf>, pattern: impl Into<String>) -> Self {
        Self { folder: folder.into(), pattern: pattern.into() }
    }
}

impl FilePartitions {
    /// Whether the pattern selects a file called `name`.
    pub fn selects(&self, name: &str) -> bool {
        let is_seen = !name.starts_with('.') || self.pattern.starts_with('.');
        is_seen && !crate::item::is_growing(name) && crate::text::matches(&self.pattern, name)
    }

    /// Returns the names of the files, sorted, without those of outputs that are not complete.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, or a name is not UTF-8.
    pub fn names(&self) -> Result<Vec<String>, ItemError> {
        let failed = |error| {
            let folder = self.folder.display();
            ItemError::wrap(ErrorKind::IO, format!("cannot read the folder `{folder}`"), error)
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|name| {
                ItemError::fatal(format!(
                    "cannot use file {}: its name is not UTF-8",
                    name.display()
                ))
            })?;
            if self.selects(&name) && entry.path().is_file() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Partitioner for FilePartitions {
    fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
        let names = self.names()?;
        names
            .into_iter()
            .map(|name| {
                let path = self.folder.join(&name);
                let text = path.to_str().ok_or_else(|| {
                    ItemError::fatal(format!(
                        "cannot use `{}`: its path is not UTF-8",
                        path.display()
                    ))
                })?;
                Ok(Partition::new(&name).with("path", &text)?)
            })
            .collect()
    }
}

/// A partitioner of one file at record boundaries. The inner step finds its bytes in the partition values `start`
/// and `end`, the end excluded, for the reader's `bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteRanges {
    path: PathBuf,
    grid: u32,
    records: Records,
    header: bool,
}

/// The rule by which record boundaries are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Records {
    /// After every line feed.
    Lines,
    /// After line feeds outside quotes, with that delimiter between fields.
    Csv(u8),
}

impl ByteRanges {
    /// Creates ranges of a file of lines: text, JSON lines.
    pub fn lines(path: impl Into<PathBuf>, grid: u32) -> Self {
        Self { path: path.into(), grid, records: Records::Lines, header: false }
    }

    /// Creates ranges of a CSV file with a header line and commas between fields. The file is read once from
    /// its beginning, because only that shows whether a line feed is within quotes.
    pub fn csv(path: impl Into<PathBuf>, grid: u32) -> Self {
        Self { path: path.into(), grid, records: Records::Csv(b','), header: true }
    }

    /// Sets the character between the fields of a CSV file.
    #[must_use]
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        if let Records::Csv(known) = &mut self.records {
            *known = delimiter;
        }
        self
    }

    /// Sets whether the first record of a CSV file names the columns (the default); that record belongs to no
    /// partition.
    #[must_use]
    pub fn header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    fn bounds(&self) -> std::io::Result<Vec<u64>> {
        let length = std::fs::metadata(&self.path)?.len();
        let grid = u64::from(self.grid.max(1));
        let wanted: Vec<u64> = (1..grid)
            .map(|index| u64::try_from(u128::from(length) * u128::from(index) / u128::from(grid)))
            .map(|at| at.unwrap_or(length))
            .collect();
        let mut bounds = match self.records {
            Records::Lines => line_bounds(&self.path, &wanted)?,
            Records::Csv(delimiter) => csv_bounds(&self.path, delimiter, self.header, &wanted)?,
        };
        bounds.push(length);
        bounds.dedup();
        Ok(bounds)
    }
}

impl Partitioner for ByteRanges {
    fn partitions(&self, _: &StepScope) -> Result<Vec<Partition>, ItemError> {
        let bounds = self.bounds().map_err(|error| {
            ItemError::wrap(ErrorKind::IO, format!("cannot cut `{}`", self.path.display()), error)
        })?;
        bounds
            .windows(2)
            .enumerate()
            .map(|(index, pair)| {
                Ok(Partition::new(key(index)).with("start", &pair[0])?.with("end", &pair[1])?)
            })
            .collect()
    }
}

/// Returns the beginning, and the first beginning of a line at or after each of `wanted`.
fn line_bounds(path: &Path, wanted: &[u64]) -> std::io::Result<Vec<u64>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut bounds = vec![0];
    for at in wanted.iter().copied().filter(|at| *at > 0) {
        // Search from the byte before, so that a line that begins exactly here is found.
        file.seek(SeekFrom::Start(at - 1))?;
        let skipped = file.skip_until(b'\n')?;
        bounds.push(at - 1 + skipped as u64);
    }
    Ok(bounds)
}

/// The state within a CSV record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the beginning of a record.
    RecordStart,
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within quotes: the end of the field, or half of a doubled quote.
    QuoteInQuotes,
    /// After a carriage return, which ends a record with or without a following line feed.
    Return,
}

impl Place {
    /// Returns the place after `byte`, which ends no record.
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::Quoted, b'"') => Self::QuoteInQuotes,
            (Self::Quoted, _) => Self::Quoted,
            (Self::RecordStart | Self::FieldStart | Self::QuoteInQuotes, b'"') => Self::Quoted,
            (_, b'\r') => Self::Return,
            (_, byte) if byte == delimiter => Self::FieldStart,
            _ => Self::Plain,
        }
    }
}

/// Passes over a byte order mark, which is no part of the first record; returns its length.
fn beginning(file: &mut File) -> std::io::Result<u64> {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    let mut begin = Vec::new();
    file.by_ref().take(MARK.len() as u64).read_to_end(&mut begin)?;
    let length = if begin == MARK { MARK.len() as u64 } else { 0 };
    file.seek(SeekFrom::Start(length))
}

/// Returns how many of `bytes` can be passed over at once, and the place after them: those before the next quote, whose meaning
/// depends on the place alone. `None` if there are none.
fn passed_over(place: Place, bytes: &[u8], delimiter: u8) -> Option<(usize, Place)> {
    let count = memchr::memchr(b'"', bytes).unwrap_or(bytes.len());
    let last = *bytes[..count].last()?;
    match place {
        Place::Quoted => Some((count, Place::Quoted)),
        Place::QuoteInQuotes => None,
        _ => Some((
            count,
            match last {
                b'\n' => Place::RecordStart,
                b'\r' => Place::Return,
                last if last == delimiter => Place::FieldStart,
                _ => Place::Plain,
            },
        )),
    }
}

/// Returns the beginning of the first record after the header, and the first beginning of a record at or
/// after each of `wanted`.
fn csv_bounds(
    path: &Path,
    delimiter: u8,
    header: bool,
    wanted: &[u64],
) -> std::io::Result<Vec<u64>> {
    let mut file = File::open(path)?;
    let mark = beginning(&mut file)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut bounds = if header { Vec::new() } else { vec![0] };
    let mut wanted = wanted.iter().copied().filter(|at| header || *at > 0).peekable();
    let (mut place, mut offset, mut has_content) = (Place::RecordStart, mark, false);
    loop {
        let count = file.read(&mut buffer)?;
        let mut at = 0;
        while at < count {
            // Between quotes nothing but the state at the next one matters, until a range begins.
            let next = wanted.peek().copied().unwrap_or(u64::MAX);
            let before = usize::try_from(next.saturating_sub(offset + 2)).unwrap_or(usize::MAX);
            let stretch = &buffer[at..count.min(at.saturating_add(before))];
            if !bounds.is_empty()
                && let Some((bytes, reached)) = passed_over(place, stretch, delimiter)
            {
                at += bytes;
                offset += bytes as u64;
                place = reached;
                continue;
            }
            let byte = buffer[at];
            at += 1;
            // A record ends after a line feed, or after a carriage return without a following line feed.
            let ended = match (place, byte) {
                (Place::Return, b'\n') => Some(offset + 1),
                (Place::Return, _) => Some(offset),
                (Place::Quoted, _) | (_, b'\r') => None,
                (_, b'\n') => Some(offset + 1),
                _ => None,
            };
            if let Some(end) = ended {
                // Blank lines are not records. The first record is the header, and no range begins before its
                // end.
                if has_content && bounds.is_empty() {
                    bounds.push(end);
                }
                while !bounds.is_empty() && wanted.next_if(|at| *at <= end).is_some() {
                    bounds.push(end);
                }
                has_content &= !bounds.is_empty();
                place = Place::RecordStart;
            }
            offset += 1;
            if ended == Some(offset) {
                continue;
            }
            has_content |= byte != b'\r';
            place = place.after(byte, delimiter);
        }
        if count == 0 {
            // The file ends with a carriage return.
            if place == Place::Return && bounds.is_empty() && has_content {
                bounds.push(offset);
            }
            return Ok(bounds);
        }
        if wanted.peek().is_none() && !bounds.is_empty() {
            return Ok(bounds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(text: &str, ranges: impl Fn(PathBuf) -> ByteRanges) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        std::fs::write(&path, text).unwrap();
        ranges(path).bounds().unwrap()
    }

    #[test]
    fn numbers_are_cut_into_ranges_that_touch_and_never_overlap() {
        for (min, max, grid) in [(1, 10, 3), (1, 2, 5), (i64::MIN, i64::MAX, 7), (5, 5, 1)] {
            let cut = NumberRanges { min, max, grid }.cut().unwrap();
            let bound = |index: usize, name: &str| cut[index].values.get::<i64>(name).unwrap();
            assert_eq!((bound(0, "min"), bound(cut.len() - 1, "max")), (min, max));
            for index in 1..cut.len() {
                assert_eq!(bound(index, "min"), bound(index - 1, "max") + 1);
            }
        }
        assert!(NumberRanges { min: 1, max: 0, grid: 3 }.cut().unwrap().is_empty());
    }

    #[test]
    fn lines_are_never_cut() {
        let text = "one\ntwo\nthree\nfour\n";
        for grid in 1..20 {
            for bound in bounds(text, |path| ByteRanges::lines(path, grid)) {
                let at = usize::try_from(bound).unwrap();
                assert!(at == 0 || text.as_bytes()[at - 1] == b'\n', "{grid} cut at {at}");
            }
        }
    }

    #[test]
    fn a_line_feed_within_quotes_is_no_border_between_records() {
        let text = "a,b\n1,\"x\ny\"\n2,\"q\"\"\n\"\"\"\n3,it\"s\n4,z\n";
        let starts = [4, 12, 23, 30, 34];
        for grid in 1..40 {
            for bound in bounds(text, |path| ByteRanges::csv(path, grid)) {
                assert!(starts.contains(&bound) || bound as usize == text.len(), "{grid}: {bound}");
            }
        }
        let all = bounds(text, |path| ByteRanges::csv(path, 40));
        assert_eq!(all.first(), Some(&4), "the header belongs to no partition");
    }

    #[test]
    fn bounds_are_the_same_whatever_is_passed_over() {
        let mut seed = 7_u64;
        let mut byte = |choices: &[u8]| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            choices[usize::try_from(seed >> 33).unwrap() % choices.len()]
        };
        for round in 0..200 {
            // Quotes and line ends are many, or few.
            let choices: &[u8] = if round % 2 == 0 { b"a,\n\"\r" } else { b"aaaaaaaaaaaaaaa,\n\"" };
            let text: String =
                "h\n".chars().chain((0..300).map(|_| char::from(byte(choices)))).collect();
            let all = bounds(&text, |path| ByteRanges::csv(path, 1_000));
            for grid in 2..6_u64 {
                let found =
                    bounds(&text, |path| ByteRanges::csv(path, u32::try_from(grid).unwrap()));
                let wanted = (1..grid).map(|index| text.len() as u64 * index / grid);
                let mut expected: Vec<u64> = vec![all[0]];
                expected.extend(wanted.map(|at| *all.iter().find(|bound| **bound >= at).unwrap()));
                expected.push(text.len() as u64);
                expected.dedup();
                assert_eq!(found, expected, "{grid} {text:?}");
            }
        }
    }

    #[test]
    fn every_line_end_ends_a_record_and_blank_lines_are_none() {
        let cut = |text: &str| bounds(text, |path| ByteRanges::csv(path, 40));
        assert_eq!(cut("a\r1\r2\r"), [2, 4, 6]);
        assert_eq!(cut("a\r\n1\r\n2\r\n"), [3, 6, 9]);
        assert_eq!(cut("\n\na\n1\n2")[0], 4, "the header is the first line that is not blank");
    }

    #[test]
    fn without_a_header_the_first_record_is_in_the_first_partition() {
        let cut = |text: &str| bounds(text, |path| ByteRanges::csv(path, 40).header(false));
        assert_eq!(cut("1,a\n2,b\n3,c\n"), [0, 4, 8, 12]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_record() {
        let cut = |text: &str| bounds(text, |path| ByteRanges::csv(path, 40));
        assert_eq!(cut("\u{feff}\na\n1\n"), [6, 8], "the first line is blank");
        assert_eq!(cut("\u{feff}\"a\nb\"\n1\n"), [9, 11], "the name of the column has two lines");
        assert_eq!(cut("\u{feff}"), [3]);
    }

    #[test]
    fn a_file_without_records_has_no_partitions() {
        assert_eq!(bounds("", |path| ByteRanges::csv(path, 3)), [0]);
        assert_eq!(bounds("a,b\n", |path| ByteRanges::csv(path, 3)), [4]);
    }
}
