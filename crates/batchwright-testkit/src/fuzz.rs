//! Random inputs for tests of parsers: a generator, mutations of valid inputs, and the loop that runs a test.
//!
//! A test runs a fixed number of inputs, always the same ones. `FUZZ_SECONDS` runs other inputs for a time instead, as
//! `cargo xtask fuzz` does; `SIM_SEED` sets the seed of the first input, which replays an input that failed.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// Maximum memory of a test program, in KiB, at any time. A parser that allocates what an input claims, instead of what
/// it contains, exceeds this maximum.
const MEMORY_MAX_KIB: u64 = 512 * 1024;
/// Maximum number of changes that make one mutation.
const CHANGES_MAX: usize = 4;
/// Maximum length of a changed part of an input.
const PART_MAX: usize = 24;

/// A generator of random numbers; equal seeds give equal numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Creates a generator.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a random number of 64 bits. The algorithm is SplitMix64, so that neighbouring seeds give unrelated
    /// numbers.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number less than `bound`, which must not be 0.
    ///
    /// # Panics
    ///
    /// When `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).unwrap()
    }

    /// Returns true once in `times` calls, on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Returns one of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Returns a number near a limit of a type, or a small one.
    pub fn number(&mut self) -> u64 {
        const LIMITS: [u64; 10] = [
            0,
            1,
            0x7f,
            0xff,
            0x7fff_ffff,
            0xffff_ffff,
            1 << 53,
            i64::MAX.unsigned_abs(),
            1 << 63,
            u64::MAX,
        ];
        match self.below(4) {
            0 => self.bits(),
            1 => self.bits() % 100,
            _ => self.of(&LIMITS).wrapping_add(self.bits() % 3).wrapping_sub(1),
        }
    }

    /// Returns at most `count_max` of `pieces`, joined, with random bytes between them.
    pub fn bytes(&mut self, pieces: &[impl AsRef<[u8]>], count_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.below(count_max + 1) {
            match self.below(6) {
                0 => bytes.push(self.byte()),
                _ => bytes.extend_from_slice(pieces[self.below(pieces.len())].as_ref()),
            }
        }
        bytes
    }

    /// Returns at most `count_max` of `pieces`, joined, with random characters between them.
    pub fn text(&mut self, pieces: &[&str], count_max: usize) -> String {
        let mut text = String::new();
        for _ in 0..self.below(count_max + 1) {
            match self.below(8) {
                0 => text.push(self.character()),
                _ => text.push_str(self.of(pieces)),
            }
        }
        text
    }

    /// Changes `valid`: parts are deleted, doubled, exchanged, cut off, or replaced by one of `pieces`.
    pub fn mutated_bytes(&mut self, valid: &[u8], pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
        self.mutated(valid, |rng| match rng.below(3) {
            0 => vec![rng.byte()],
            _ => pieces[rng.below(pieces.len())].as_ref().to_vec(),
        })
    }

    /// As [`mutated_bytes`](Self::mutated_bytes), for the characters of a text.
    pub fn mutated_text(&mut self, valid: &str, pieces: &[&str]) -> String {
        let characters: Vec<char> = valid.chars().collect();
        let mutated = self.mutated(&characters, |rng| match rng.below(4) {
            0 => vec![rng.character()],
            1 => rng.number().to_string().chars().collect(),
            _ => rng.of(pieces).chars().collect(),
        });
        mutated.into_iter().collect()
    }

    /// Changes a sequence, such as a list of words; `piece` makes new parts.
    pub fn mutated<T: Clone>(
        &mut self,
        valid: &[T],
        mut piece: impl FnMut(&mut Self) -> Vec<T>,
    ) -> Vec<T> {
        let mut all = valid.to_vec();
        for _ in 0..=self.below(CHANGES_MAX) {
            let at = self.below(all.len() + 1);
            let end = (at + 1 + self.below(PART_MAX)).min(all.len());
            match self.below(6) {
                0 => drop(all.drain(at..end)),
                1 => {
                    let part = all[at..end].to_vec();
                    let times = if self.one_in(20) { 200 } else { 1 };
                    for _ in 0..times {
                        all.splice(at..at, part.iter().cloned());
                    }
                }
                2 if end > at => all.swap(at, end - 1),
                3 if self.one_in(3) => all.truncate(at),
                4 => drop(all.splice(at..at, piece(self))),
                _ => drop(all.splice(at..end, piece(self))),
            }
        }
        all
    }

    fn byte(&mut self) -> u8 {
        self.bits().to_be_bytes()[0]
    }

    fn character(&mut self) -> char {
        const ODD: [char; 10] =
            ['\0', '\n', '\r', '\u{1b}', 'ä', 'İ', '\u{2028}', '\u{feff}', '😀', '\u{10ffff}'];
        match self.below(3) {
            0 => self.of(&ODD),
            _ => char::from(self.byte() & 0x7f),
        }
    }
}

/// Calls `test` with a generator for each input: `inputs` times, or for `FUZZ_SECONDS`. A failure prints the seed that
/// makes the same input the first one.
///
/// # Panics
///
/// When `test` panics, or when the program needs more memory than any input justifies.
#[expect(clippy::disallowed_methods, reason = "FUZZ_SECONDS sets the duration in seconds")]
pub fn run(name: &'static str, inputs: u64, mut test: impl FnMut(&mut Rng)) {
    let variable = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (seconds, seed) = (variable("FUZZ_SECONDS"), variable("SIM_SEED"));
    // By time, each run tries other inputs.
    let other = || seconds.map_or(1, |_| RandomState::new().hash_one(name) >> 16);
    let (first, began) = (seed.unwrap_or_else(other), Instant::now());
    for number in 0_u64.. {
        let input = Input { name, seed: first.wrapping_add(number) };
        test(&mut Rng::new(input.seed));
        let is_over = match seconds {
            Some(seconds) => began.elapsed() >= Duration::from_secs(seconds),
            None => number + 1 >= inputs,
        };
        if is_over {
            println!(
                "{name}: {} inputs in {:?} from SIM_SEED={first}",
                number + 1,
                began.elapsed()
            );
            break;
        }
    }
    let memory = memory_max_kib();
    assert!(memory <= MEMORY_MAX_KIB, "{name}: the program needed {memory} KiB of memory");
}

/// The input of one call. Dropped by a panic, it prints its seed.
struct Input {
    name: &'static str,
    seed: u64,
}

impl Drop for Input {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: SIM_SEED={} makes this input again", self.name, self.seed);
        }
    }
}

/// Returns the largest memory that this process has used, or 0 where the system does not say.
fn memory_max_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_inputs_and_neighbouring_seeds_give_others() {
        let input = |seed| Rng::new(seed).bytes(&["a", "b"], 1_000);
        assert_eq!(input(7), input(7));
        let differing: std::collections::BTreeSet<_> = (0..100).map(input).collect();
        assert!(differing.len() > 95, "{}", differing.len());
    }

    #[test]
    fn each_change_occurs_and_an_empty_sequence_can_be_changed() {
        let mut rng = Rng::new(1);
        let valid = "abcdefgh";
        let all: Vec<String> = (0..500).map(|_| rng.mutated_text(valid, &["XY"])).collect();
        assert!(all.iter().any(|text| text.len() < valid.len()));
        assert!(all.iter().any(|text| text.len() > 2 * valid.len()));
        assert!(all.iter().any(|text| text.contains("XY")));
        assert!(all.iter().any(|text| text != valid && text.len() == valid.len()));
        for _ in 0..100 {
            rng.mutated_text("", &["x"]);
        }
    }

    #[test]
    fn a_failure_stops_the_run_at_its_input() {
        let mut inputs = 0;
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run("fails", 100, |_| {
                inputs += 1;
                assert!(inputs < 3, "the third input fails");
            });
        }));
        assert!(failed.is_err());
        assert_eq!(inputs, 3);
    }
}
