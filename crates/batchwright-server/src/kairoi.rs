//! Reads the data folder of Kairoi: three log files, whose later records win.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::scheduler::{Request, RuleSettings, When};

/// The files in the order in which they were written.
const FILES: [&str; 3] = ["logfile.compressed", "logfile.to_compress", "logfile"];
/// Longest record: four texts of 65,535 bytes and what is around them.
const RECORD_MAX: u32 = 512 * 1024;

/// The content of a data folder of Kairoi.
#[derive(Debug, Default, PartialEq)]
pub struct KairoiData {
    /// Rules and triggers, as requests: rules first.
    pub requests: Vec<Request>,
    /// Number of triggers that executed or failed: history, which is not imported.
    pub ended: usize,
    /// Records that cannot be read or imported, one sentence each.
    pub problems: Vec<String>,
}

enum Record {
    Trigger { identifier: String, nanos: i64, status: u8 },
    Rule { identifier: String, pattern: String, words: Vec<String> },
}

/// Reads `folder`. A torn or zero-filled tail ends a file and is listed in `problems`.
///
/// # Errors
///
/// A sentence: the folder contains none of the files, or one cannot be read.
pub fn read_kairoi(folder: &Path) -> Result<KairoiData, String> {
    let mut triggers = BTreeMap::new();
    let mut rules = BTreeMap::new();
    let mut data = KairoiData::default();
    let mut files = 0;
    for name in FILES {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("cannot read `{}`: {error}", path.display())),
        };
        files += 1;
        let mut input = BufReader::new(file);
        let mut offset = 0_u64;
        loop {
            let record = match next_record(&mut input) {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(problem) => {
                    data.problems
                        .push(format!("{name}: at byte {offset}: {problem}; the rest is skipped"));
                    break;
                }
            };
            offset += record.len() as u64 + 4;
            match understood(&record) {
                Some(Record::Trigger { identifier, nanos, status }) => {
                    triggers.insert(identifier, (nanos, status));
                }
                Some(Record::Rule { identifier, pattern, words }) => {
                    rules.insert(identifier, (pattern, words));
                }
                None => data
                    .problems
                    .push(format!("{name}: the record before byte {offset} is invalid")),
            }
        }
    }
    if files == 0 {
        return Err(format!("`{}` contains none of {}", folder.display(), FILES.join(", ")));
    }
    for (identifier, (pattern, words)) in rules {
        match RuleSettings::parse(&words) {
            Ok(settings) => {
                data.requests.push(Request::SetRule { identifier, pattern, settings });
            }
            Err(problem) => data.problems.push(format!("rule `{identifier}`: {problem}")),
        }
    }
    for (identifier, (nanos, status)) in triggers {
        match status {
            // A trigger that was firing when Kairoi ended fires again, as in Kairoi itself.
            0 | 1 => {
                let at = nanos.div_euclid(1_000).max(0);
                data.requests.push(Request::Set { identifier, when: When::At(at) });
            }
            _ => data.ended += 1,
        }
    }
    Ok(data)
}

/// Returns the bytes of the next record; `None` at the end of the file.
fn next_record(input: &mut impl Read) -> Result<Option<Vec<u8>>, String> {
    let mut length = [0; 4];
    let mut read = 0;
    while read < length.len() {
        match input.read(&mut length[read..]).map_err(|error| error.to_string())? {
            0 if read == 0 => return Ok(None),
            0 => return Err("the file ends inside a record".to_owned()),
            more => read += more,
        }
    }
    let length = u32::from_be_bytes(length);
    if length == 0 {
        return Err("a record of length zero".to_owned());
    }
    if length > RECORD_MAX {
        return Err(format!("a record of {length} bytes, more than {RECORD_MAX}"));
    }
    let mut record = vec![0; length as usize];
    input.read_exact(&mut record).map_err(|_| "the file ends inside a record".to_owned())?;
    Ok(Some(record))
}

fn understood(record: &[u8]) -> Option<Record> {
    let mut rest = record;
    let kind = byte(&mut rest)?;
    let identifier = text(&mut rest)?;
    let found = match kind {
        0 => {
            let (nanos, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            Record::Trigger {
                identifier,
                nanos: i64::from_be_bytes(*nanos),
                status: byte(&mut rest).filter(|status| *status <= 3)?,
            }
        }
        1 => {
            let pattern = text(&mut rest)?;
            let words = match byte(&mut rest)? {
                0 => vec!["shell".to_owned(), text(&mut rest)?],
                1 => {
                    vec!["amqp".to_owned(), text(&mut rest)?, text(&mut rest)?, text(&mut rest)?]
                }
                _ => return None,
            };
            Record::Rule { identifier, pattern, words }
        }
        _ => return None,
    };
    rest.is_empty().then_some(found)
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn framed(record: &[u8]) -> Vec<u8> {
        [&u32::try_from(record.len()).unwrap().to_be_bytes()[..], record].concat()
    }

    fn job(identifier: &str, nanos: i64, status: u8) -> Vec<u8> {
        framed(&[&[0][..], &text(identifier), &nanos.to_be_bytes(), &[status]].concat())
    }

    fn rule(identifier: &str, pattern: &str, parts: &[&str], kind: u8) -> Vec<u8> {
        let parts: Vec<u8> = parts.iter().flat_map(|part| text(part)).collect();
        framed(&[&[1][..], &text(identifier), &text(pattern), &[kind], &parts].concat())
    }

    fn read(files: &[(&str, Vec<u8>)]) -> Result<KairoiData, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        read_kairoi(folder.path())
    }

    fn set(identifier: &str, at: i64) -> Request {
        Request::Set { identifier: identifier.to_owned(), when: When::At(at) }
    }

    #[test]
    fn later_records_win_over_all_files() {
        let data = read(&[
            ("logfile", [job("a", 3_000, 0), job("done", 1, 2)].concat()),
            ("logfile.compressed", [job("a", 1_000, 0), job("fired", 5_000, 1)].concat()),
            ("logfile.to_compress", [job("a", 2_000, 2), job("done", 1, 0)].concat()),
        ])
        .unwrap();
        assert_eq!(data.requests, [set("a", 3), set("fired", 5)]);
        assert_eq!((data.ended, data.problems.len()), (1, 0));
    }

    #[test]
    fn a_torn_tail_costs_what_is_behind_it_and_nothing_else() {
        let whole = [job("a", 1_000, 0), job("b", 2_000, 0)].concat();
        for cut in job("a", 1_000, 0).len() + 1..whole.len() {
            let data = read(&[("logfile", whole[..cut].to_vec())]).unwrap();
            assert_eq!(data.requests, [set("a", 1)], "cut at {cut}");
            assert_eq!(data.problems.len(), 1, "cut at {cut}");
        }
        let zeros = [whole, vec![0; 4096]].concat();
        let data = read(&[("logfile", zeros)]).unwrap();
        assert_eq!((data.requests.len(), data.problems.len()), (2, 1));
    }

    #[test]
    fn rules_of_both_runners_are_taken_over() {
        let records = [
            rule("s", "app.", &["/bin/true"], 0),
            rule("m", "", &["amqp://localhost", "ex", "key"], 1),
            rule("bad", "x", &["-c"], 0),
        ];
        let data = read(&[("logfile", records.concat())]).unwrap();
        assert_eq!((data.requests.len(), data.problems.len()), (2, 1));
        assert!(data.problems[0].contains("bad"));
    }

    #[test]
    fn a_folder_of_something_else_is_refused() {
        assert!(read(&[("other", vec![])]).is_err());
    }
}
