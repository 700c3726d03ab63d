//! `kill -9` at any instant, then `recover` and `restart`: every output equals that of an
//! uninterrupted run.

mod common;

use common::{Place, SimRng, run_with_kills, until};

/// Instants at which the process is killed.
const KILLS: usize = 50;
/// Longest life of a process before it is killed, in milliseconds.
const LIFE_MS_MAX: u64 = 120;

/// One job that writes to every kind of sink that promises to be exact.
fn job() -> String {
    let step = |name: &str, writer: &str| {
        format!(
            r#"
[[steps]]
name = "{name}"
chunk = 7
reader = {{ type = "csv", path = "input.csv" }}
processors = [
    {{ type = "reject", when = "item.n % 50 == 0", message = "every fiftieth" }},
    {{ type = "map", set = {{ twice = "item.n * 2" }} }},
]
writer = {{ {writer} }}
skip = {{ limit = 1000, dead_letter = "{name}.rejected.jsonl" }}
"#
        )
    };
    let prepare = |name: &str, url: &str| {
        format!(
            "[[steps]]\nname = \"{name}\"\ntype = \"sql\"\n{url}\n\
             sql = \"CREATE TABLE IF NOT EXISTS number (n INTEGER NOT NULL, twice INTEGER)\"\n"
        )
    };
    format!(
        "name = \"everything\"\n{}{}{}{}{}{}",
        prepare("prepare-own", ""),
        prepare("prepare-other", "url = \"sqlite://other.db\""),
        step("own", "type = \"sql\", table = \"number\""),
        step("other", "type = \"sql\", table = \"number\", url = \"sqlite://other.db\""),
        step("csv", "type = \"csv\", path = \"out.csv\""),
        step("jsonl", "type = \"jsonl\", path = \"out.jsonl\""),
    )
}

fn place(records: u64) -> Place {
    let place = Place::new();
    let lines: Vec<String> = (1..=records).map(|n| n.to_string()).collect();
    place.write("input.csv", format!("n\n{}\n", lines.join("\n")));
    place.write("job.toml", job());
    place
}

/// Everything that the job leaves.
fn outputs(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut outputs: Vec<(String, Vec<u8>)> = ["batchwright.db", "other.db"]
        .map(|database| {
            (database.to_owned(), format!("{:?}", place.numbers(database, "number")).into())
        })
        .into();
    for name in ["out.csv", "out.jsonl"] {
        outputs.push((name.to_owned(), place.bytes(name)));
    }
    for step in ["own", "other", "csv", "jsonl"] {
        // Which execution gave a record up differs, and nothing else may.
        let letters = place.read(&format!("{step}.rejected.jsonl"));
        let kept: Vec<_> = letters
            .lines()
            .map(|line| {
                let mut letter: serde_json::Value = serde_json::from_str(line).unwrap();
                letter.as_object_mut().unwrap().remove("execution");
                letter.to_string()
            })
            .collect();
        outputs.push((format!("{step}.rejected.jsonl"), kept.join("\n").into()));
    }
    outputs
}

#[test]
fn whatever_instant_the_process_dies_at_every_output_is_exact() {
    let seed = std::env::var("SIM_SEED").map_or(7, |seed| seed.parse().unwrap());
    let mut rng = SimRng(seed);
    let records = 1_500;
    let undisturbed = place(records);
    undisturbed.run(&["run", "job.toml"]).expect(0);
    let expected = outputs(&undisturbed);
    let mut kills = 0;
    while kills < KILLS {
        let place = place(records);
        kills += run_with_kills(&place, |_| rng.below(LIFE_MS_MAX));
        for ((name, expected), (_, found)) in expected.iter().zip(outputs(&place)) {
            assert!(*expected == found, "seed {seed}: {name} differs after kills");
        }
        let skips: usize = (1..=place.newest().unwrap())
            .map(|id| {
                place.run(&["skips", &id.to_string(), "--format", "json"]).out.lines().count()
            })
            .sum();
        assert_eq!(skips as u64, 4 * (records / 50), "seed {seed}: one record for every skip");
    }
}

/// Each format that is compressed, rotated or has an end.
#[cfg(feature = "full")]
#[test]
fn files_of_each_format_are_the_same_after_twenty_kills() {
    let columns = "columns = [{ name = \"n\", type = \"integer\" }]";
    let writers = [
        ("csv.gz", String::new()),
        ("jsonl.zst", String::new()),
        ("json", String::new()),
        ("xml", String::new()),
        ("arrow", columns.to_owned()),
        ("avro", columns.to_owned()),
        ("parquet", columns.to_owned()),
        ("xlsx", columns.replace("integer", "number")),
    ];
    let mut job = "name = \"formats\"\n".to_owned();
    for (extension, keys) in &writers {
        let kind = extension.split('.').next().unwrap().replace("xlsx", "excel");
        let comma = if keys.is_empty() { "" } else { ", " };
        let writer = |path: &str| {
            format!("{{ type = \"{kind}\", path = \"{path}.{extension}\"{comma}{keys} }}")
        };
        for (name, writer) in [
            (kind.clone(), writer("out")),
            (
                format!("rotated-{kind}"),
                format!(
                    "{{ type = \"rotate\", items = 90, writer = {} }}",
                    writer("out-${file.number}")
                ),
            ),
        ] {
            job += &format!(
                "[[steps]]\nname = \"{name}\"\nchunk = 20\nreader = {{ type = \"csv\", path = \"input.csv\", columns = {{ n = \"integer\" }} }}\nwriter = {writer}\n"
            );
        }
    }
    let place = || {
        let place = Place::new();
        let lines: Vec<String> = (1..=400).map(|n| n.to_string()).collect();
        place.write("input.csv", format!("n\n{}\n", lines.join("\n")));
        place.write("job.toml", &job);
        place
    };
    let outputs = |place: &Place| {
        let entries = std::fs::read_dir(place.root()).unwrap().map(|entry| entry.unwrap().path());
        let outputs = entries.filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("out"))
        });
        let mut outputs: Vec<_> =
            outputs.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        for (path, _) in &mut outputs {
            *path = path.file_name().unwrap().into();
        }
        outputs.sort();
        outputs
    };
    let undisturbed = place();
    undisturbed.run(&["run", "job.toml"]).expect(0);
    let expected = outputs(&undisturbed);
    assert_eq!(expected.len(), writers.len() * 5, "one file, and four that are rotated");
    let (mut rng, mut kills) = (SimRng(7), 0);
    while kills < 20 {
        let place = place();
        kills += run_with_kills(&place, |_| rng.below(LIFE_MS_MAX));
        let found = outputs(&place);
        let names = |all: &[(std::path::PathBuf, Vec<u8>)]| -> Vec<_> {
            all.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&found), names(&expected));
        for ((name, expected), (_, found)) in expected.iter().zip(&found) {
            assert!(expected == found, "{} differs after kills", name.display());
        }
    }
}

/// A file in each of the other places; those of object stores are sent in parts.
#[cfg(feature = "full")]
#[test]
fn files_of_other_places_are_the_same_after_twenty_kills() {
    use batchwright_testkit::{Service, needs};
    let places: Vec<(String, usize)> = [
        (Service::S3, 120_000),
        (Service::Gcs, 120_000),
        (Service::Azure, 120_000),
        (Service::Ftp, 4_000),
        (Service::Ftps, 4_000),
        (Service::FtpsImplicit, 4_000),
        (Service::FtpOld, 4_000),
        (Service::Sftp, 4_000),
        (Service::WebDav, 4_000),
    ]
    .into_iter()
    .filter_map(|(service, lines)| Some((needs(service)?, lines)))
    .collect();
    let lines = |count: usize| -> String { (0..count).map(|n| format!("{n:>49}\n")).collect() };
    let (mut rng, mut kills, mut round) = (SimRng(11), 0, 0);
    while kills < 20 && !places.is_empty() {
        round += 1;
        let place = Place::new();
        let (mut job, mut fetch) =
            ("name = \"send\"\n".to_owned(), "name = \"fetch\"\n".to_owned());
        for (number, (url, count)) in places.iter().enumerate() {
            let (at, options) = url.split_once('?').map_or((&**url, ""), |parts| parts);
            let url = format!("{at}kills-{}/{round}-{number}?{options}", std::process::id());
            place.write(&format!("in-{number}"), lines(*count));
            job += &format!(
                "[[steps]]\nname = \"s{number}\"\nchunk = {}\nreader = {{ type = \"lines\", path = \"in-{number}\" }}\n\
                 writer = {{ type = \"lines\", path = \"{url}\", field = \"line\" }}\n",
                count / 20
            );
            fetch += &format!(
                "[[steps]]\nname = \"s{number}\"\ntype = \"transfer\"\nfrom = \"{url}\"\nto = \"out-{number}\"\n"
            );
        }
        place.write("job.toml", &job);
        place.write("fetch.toml", &fetch);
        // Lives grow, so that one is long enough.
        kills += run_with_kills(&place, |number| rng.below(4 * LIFE_MS_MAX + 50 * number));
        place.run(&["run", "fetch.toml"]).expect(0);
        for (number, (_, count)) in places.iter().enumerate() {
            let found = place.read(&format!("out-{number}"));
            assert!(found == lines(*count), "round {round}: file {number} differs after kills");
        }
        let left: Vec<_> =
            std::fs::read_dir(place.path(".outgoing")).map_or(Vec::new(), Iterator::collect);
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

/// Random instants seldom fall between the two commits of two databases; a plan always does.
#[test]
fn a_death_between_the_commits_of_two_databases_is_finished_by_the_restart() {
    for commit in 1..=5 {
        for point in ["before_commit", "after_commit"] {
            let place = place(30);
            let plan = format!(r#"{{"step":"other","kill":{{"{point}":{commit}}}}}"#);
            let killed = place.run(&["run", "job.toml", "--inject", &plan]);
            assert_eq!(killed.code, -9, "{point} {commit}: {}", killed.err);
            place.run(&["recover"]).expect(0);
            place.run(&["restart", "1"]).expect(0);
            let found = place.numbers("other.db", "number");
            assert_eq!(found, (1..=30).collect::<Vec<_>>(), "{point} {commit}");
            let written: i64 = (1..=2)
                .flat_map(|id| place.show(id)["steps"].as_array().unwrap().clone())
                .filter(|step| step["name"] == "other")
                .map(|step| step["write"].as_i64().unwrap())
                .sum();
            assert_eq!(written, 30, "{point} {commit}: written = rows in the sink");
        }
    }
}

/// The execution of a killed process is shown as it was until it is recovered.
#[test]
fn a_killed_execution_is_recovered_by_name_of_its_dead_owner_and_only_once() {
    let place = place(100);
    let plan = r#"{"step":"own","kill":{"after_commit":3}}"#;
    assert_eq!(place.run(&["run", "job.toml", "--inject", plan]).code, -9);
    assert_eq!(place.show(1)["status"], "STARTED", "it is not recovered yet");
    place.run(&["run", "job.toml", "--recover", "strict"]).expect(4);
    place.run(&["recover", "1"]).expect(0);
    let recovered = place.show(1);
    assert_eq!(recovered["status"], "FAILED");
    assert_eq!(recovered["exit"]["code"], "FAILED");
    assert_eq!(recovered["failure"]["code"], "recovered");
    assert!(recovered["owner"].is_null() && !recovered["ended_at"].is_null());
    let again = place.run(&["recover", "1"]).expect(0).out;
    assert_eq!(again, "nothing was recovered: execution 1 has ended, it is FAILED\n");
    assert_eq!(place.run(&["recover", "1", "--format", "json"]).expect(0).out, "", "no row");
    until("the job is done", || place.run(&["restart", "1"]).code == 0);
    place.run(&["restart", "1"]).expect(3);
}
