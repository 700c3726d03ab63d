//! Jobs and instances that share folders, names, inputs and outputs, killed, frozen and taken over: no rows
//! of one in the output of another, no file of a COMPLETED execution touched, no output made of two versions of an input.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use common::{Place, SimRng, until};
use rustix::process::{Pid, Signal, kill_process};

/// Random plans.
const PLANS: u64 = 500;
/// Every so many plans, a process is frozen, which waits for a lease to end.
const FREEZE_EVERY: u64 = 25;
/// Actions in a plan.
const ACTIONS: u64 = 8;

/// What happened over all plans; a test in which nothing happens would prove nothing.
#[derive(Debug, Default)]
struct Seen {
    completed: usize,
    killed: usize,
    refused_inputs: usize,
    overtaken: usize,
}

/// One job with one `day`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Instance {
    job: &'static str,
    day: &'static str,
}

struct Plan {
    seed: u64,
    rng: SimRng,
    place: Place,
    /// What each output holds since an execution that writes it COMPLETED.
    finals: BTreeMap<String, Vec<u8>>,
    done: BTreeSet<Instance>,
    /// Input and output of each job.
    files: BTreeMap<&'static str, (String, String)>,
    versions: u64,
    log: Vec<String>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut rng = SimRng(seed);
        let place = Place::new();
        let mut files = BTreeMap::new();
        let jobs: &[&str] = if rng.below(2) == 0 { &["a", "b"] } else { &["a", "b", "c"] };
        for job in jobs {
            let (input, output) = (rng.below(2), rng.below(2));
            let kind = ["jsonl", "csv"][usize::try_from(rng.below(2)).unwrap()];
            files.insert(*job, (format!("in{input}.csv"), format!("out/out{output}.{kind}")));
            place.write(
                &format!("{job}.toml"),
                format!(
                    "name = \"{job}\"\n[parameters.day]\n[[steps]]\nname = \"copy\"\nchunk = 3\n\
                     reader = {{ type = \"csv\", path = \"in{input}.csv\" }}\n\
                     processors = [{{ type = \"map\", set = {{ who = '\"{job}-\" + params.day' }} }}]\n\
                     writer = {{ type = \"{kind}\", path = \"out/out{output}.{kind}\" }}\n"
                ),
            );
        }
        let mut plan = Self {
            seed,
            rng,
            place,
            finals: BTreeMap::new(),
            done: BTreeSet::new(),
            files,
            versions: 0,
            log: Vec::new(),
        };
        plan.new_input("in0.csv");
        plan.new_input("in1.csv");
        plan
    }

    /// Another version of an input, of about the same size.
    fn new_input(&mut self, name: &str) {
        self.versions += 1;
        let version = self.versions;
        let rows: String = (0..14).map(|n| format!("{n},v{version}\n")).collect();
        self.place.write(name, format!("n,version\n{rows}"));
        self.log.push(format!("{name} is version {version}"));
    }

    fn instance(&mut self) -> Instance {
        let jobs: Vec<_> = self.files.keys().copied().collect();
        let job = jobs[usize::try_from(self.rng.below(jobs.len() as u64)).unwrap()];
        Instance { job, day: ["x", "y"][usize::try_from(self.rng.below(2)).unwrap()] }
    }

    /// Runs an instance, or continues it.
    fn run(&mut self, instance: &Instance, inject: &str, seen: &Mutex<Seen>) {
        let (file, day) = (format!("{}.toml", instance.job), format!("day={}", instance.day));
        let ended = self.place.run(&["run", &file, &day, "--inject", inject]);
        self.log.push(format!("{instance:?} with {inject}: {}", ended.code));
        if ended.code == 0 {
            seen.lock().unwrap().completed += 1;
            self.completed(instance);
        } else {
            let mut seen = seen.lock().unwrap();
            seen.killed += usize::from(ended.code < 0);
            seen.refused_inputs += usize::from(ended.out.contains("input_changed"));
        }
        self.nothing_else_touched();
    }

    /// The output is that of this instance alone, from one version of the input.
    fn completed(&mut self, instance: &Instance) {
        let output = self.files[instance.job].1.clone();
        let text = self.place.read(&output);
        let rows: Vec<(String, String, String)> = text
            .lines()
            .filter(|line| *line != "n,version,who")
            .map(|line| {
                let part = |name: &str, column: usize| match output.ends_with(".csv") {
                    true => line.split(',').nth(column).unwrap().to_owned(),
                    false => {
                        let json: serde_json::Value = serde_json::from_str(line).unwrap();
                        json[name].as_str().unwrap().to_owned()
                    }
                };
                (part("n", 0), part("version", 1), part("who", 2))
            })
            .collect();
        let numbers: Vec<_> = rows.iter().map(|(n, ..)| n.parse::<u64>().unwrap()).collect();
        assert_eq!(numbers, (0..14).collect::<Vec<_>>(), "{}: {text}", self.message());
        let versions: BTreeSet<_> = rows.iter().map(|(_, version, _)| version).collect();
        assert_eq!(versions.len(), 1, "two versions of an input: {}: {text}", self.message());
        let who = format!("{}-{}", instance.job, instance.day);
        assert!(rows.iter().all(|row| row.2 == who), "rows of another: {}: {text}", self.message());
        self.finals.insert(output, text.into_bytes());
        self.done.insert(instance.clone());
    }

    fn nothing_else_touched(&self) {
        for (name, bytes) in &self.finals {
            assert_eq!(&self.place.bytes(name), bytes, "{name} was touched: {}", self.message());
        }
    }

    /// An instance whose process freezes is taken over; then the frozen process goes on.
    fn freeze(&mut self, instance: &Instance, seen: &Mutex<Seen>) {
        let (file, day) = (format!("{}.toml", instance.job), format!("day={}", instance.day));
        let slow = r#"{"delay_ms":{"write":300}}"#;
        let arguments = ["--lease", "1s", "run", &file, &day, "--inject", slow];
        let mut command = self.place.command(&arguments);
        let mut frozen = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&frozen);
        // Long enough to have written, too short to end.
        std::thread::park_timeout(Duration::from_millis(150 + self.rng.below(250)));
        let _ = kill_process(pid, Signal::STOP);
        let mut code = 0;
        until("another process takes over, or it is over already", || {
            code = self.place.run(&["--lease", "1s", "run", &file, &day]).code;
            // 4: it runs elsewhere, which ends with its lease.
            code != 4
        });
        self.log.push(format!("{instance:?} frozen and taken over: {code}"));
        seen.lock().unwrap().overtaken += usize::from(code == 0);
        // 3: the process was faster than the signal, and has completed it.
        if matches!(code, 0 | 3) {
            self.completed(instance);
        }
        let _ = kill_process(pid, Signal::CONT);
        let ended = frozen.wait().unwrap();
        // Frozen within a transaction it held the store's lock: no process took over, and it went on by itself.
        if !matches!(code, 0 | 3) && ended.success() {
            self.completed(instance);
        }
        self.nothing_else_touched();
    }

    fn message(&self) -> String {
        format!("plan {}: {:?} {:?}", self.seed, self.files, self.log)
    }

    fn follow(mut self, seen: &Mutex<Seen>) {
        for _ in 0..ACTIONS {
            let instance = self.instance();
            let commit = 1 + self.rng.below(6);
            match self.rng.below(8) {
                0 => {
                    let name = format!("in{}.csv", self.rng.below(2));
                    self.new_input(&name);
                }
                _ if self.done.contains(&instance) => {}
                1 | 2 => self.run(&instance, "{}", seen),
                3..=5 => {
                    let kill = format!("{{\"kill\":{{\"before_commit\":{commit}}}}}");
                    self.run(&instance, &kill, seen);
                }
                6 => {
                    let kill = format!("{{\"kill\":{{\"after_commit\":{commit}}}}}");
                    self.run(&instance, &kill, seen);
                }
                _ => {
                    let fatal = format!("{{\"fatal_write\":[{}]}}", 1 + self.rng.below(14));
                    self.run(&instance, &fatal, seen);
                }
            }
        }
        if self.seed.is_multiple_of(FREEZE_EVERY) {
            let mut left = ["x", "y"]
                .into_iter()
                .flat_map(|day| self.files.keys().map(move |job| Instance { job, day }));
            if let Some(instance) = left.find(|instance| !self.done.contains(instance)) {
                self.freeze(&instance, seen);
            }
        }
    }
}

#[test]
fn whatever_jobs_share_each_output_is_that_of_one_execution_and_one_input() {
    let seen = Mutex::new(Seen::default());
    let next = Mutex::new(1..=PLANS);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(seed) = next.lock().unwrap().next() else { return };
                    Plan::new(seed).follow(&seen);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    assert!(seen.completed > 300 && seen.killed > 500, "{seen:?}");
    assert!(seen.refused_inputs > 20 && seen.overtaken > 5, "{seen:?}");
}

#[test]
fn many_files_restart_although_the_job_was_started_by_another_path() {
    let place = Place::new();
    place.write("work/in/a.csv", "id\n1\n2\n");
    place.write("work/in/b.csv", "id\n3\n4\n");
    let job = "name = \"unite\"\n[[steps]]\nname = \"unite\"\nchunk = 1\n\
        reader = { type = \"csv\", path = \"in/*.csv\", file_field = \"file\" }\nwriter = { type = \"csv\", path = \"all.csv\" }\n";
    place.write("work/unite.toml", job);
    let plan = "{\"kill\":{\"after_commit\":3}}";
    assert_eq!(place.run(&["run", "work/unite.toml", "--inject", plan]).code, -9);
    // The execution knows the absolute path of its job file.
    place.run(&["restart", "1"]).expect(0);
    assert_eq!(
        place.read("work/all.csv"),
        "id,file\n1,in/a.csv\n2,in/a.csv\n3,in/b.csv\n4,in/b.csv\n"
    );
}
