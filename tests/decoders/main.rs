//! Every decoder on hostile bytes: the seeds in `fuzz/corpus`, and a few hundred thousand random mutations of them. No
//! panic, and no allocation that the input's length does not justify: this process may not take much memory.
//!
//! `KYRODB_MUTATIONS=N` multiplies the number of inputs; `KYRODB_MUTATION_SEED=N` takes others.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod targets;

use std::path::{Path, PathBuf};
use std::sync::Once;

use kyrodb::types::mix;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use targets::{TARGETS, Target};

/// Memory that all decoders together may use, in addition to that of the process at its start, in bytes. The longest
/// input has 16 KiB, for which the YAML parser takes some tens of MiB at worst; a reader of the log has a window of 1
/// MiB.
const MEMORY_BYTES: u64 = 256 << 20;

/// Longest input, in bytes.
const INPUT_BYTES_MAX: usize = 16 << 10;

/// Limits memory: from here on an allocation of a length that only the input claims ends the process.
fn bound_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let data = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
        let used: u64 = data.trim().trim_end_matches(" kB").parse().unwrap();
        let limit = Some((used << 10) + MEMORY_BYTES);
        let maximum = getrlimit(Resource::Data).maximum;
        setrlimit(Resource::Data, Rlimit { current: limit, maximum }).unwrap();
    });
}

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
    let mut seeds: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// The seeds are also golden files: a seed that was valid once stays readable.
#[test]
fn seeds_are_read_or_refused_as_their_names_say() {
    bound_memory();
    for (name, target) in TARGETS {
        let (mut good, mut bad) = (0, 0);
        for (seed, bytes) in seeds(name) {
            let accepted = target(&bytes);
            match seed.split('_').next() {
                Some("good") => good += u32::from(accepted),
                Some("bad") => bad += u32::from(!accepted),
                _ => panic!("{name}/{seed} is called neither good nor bad"),
            }
            assert_eq!(accepted, seed.starts_with("good"), "{name}/{seed}");
        }
        assert!(good > 0 && bad > 0, "{name}: {good} good seeds, {bad} bad ones");
    }
}

#[test]
fn every_target_has_its_program() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        let program = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs")));
        assert!(program.unwrap().contains(&format!("targets::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

/// Random mutations, reproducible from a seed.
struct Mutator {
    state: u64,
}

impl Mutator {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        mix(self.state)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A start and an end within `length`, mostly near one another.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let long = if self.next().is_multiple_of(8) { length } else { 16 };
        let end = (start + self.below(long + 1)).min(length);
        start..end
    }

    /// A number at a place where decoders look for lengths and counts.
    fn number(&mut self) -> u64 {
        match self.next() % 6 {
            0 => self.next() % 20,
            1 => u64::MAX - self.next() % 3,
            2 => (1 << (self.next() % 64)) - self.next() % 2,
            3 => u64::from(u32::MAX) - self.next() % 40,
            4 => 2_048 + self.next() % 2,
            _ => self.next(),
        }
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let range = self.range(bytes.len());
        match self.next() % 9 {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << (self.next() % 8);
            }
            1 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] = self.next() as u8;
            }
            2 | 3 => {
                let number = self.number().to_le_bytes();
                let width = [1, 2, 4, 8][self.below(4)];
                let at = self.below(bytes.len()) / width * width;
                if let Some(target) = bytes.get_mut(at..at + width) {
                    target.copy_from_slice(&number[..width]);
                }
            }
            4 => drop(bytes.drain(range)),
            5 => {
                let copy = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, copy);
            }
            6 => {
                let part = self.range(other.len());
                bytes.splice(range, other[part].iter().copied());
            }
            7 => {
                let text = self.number().to_string();
                bytes.splice(range, text.into_bytes());
            }
            _ => bytes.truncate(range.end),
        }
        bytes.truncate(INPUT_BYTES_MAX);
    }
}

/// Runs a target on `count` inputs; some have to be accepted, or the mutations are too wild, and most refused, or they
/// are too tame.
fn mutate(name: &str, count: u64) {
    bound_memory();
    let variable = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let count = count * variable("KYRODB_MUTATIONS").unwrap_or(1);
    let seed = variable("KYRODB_MUTATION_SEED").unwrap_or(1);
    let (_, target): (_, Target) = TARGETS.into_iter().find(|(n, _)| *n == name).unwrap();
    let seeds = seeds(name);
    let mut mutator = Mutator { state: mix(seed) };
    let mut accepted = 0;
    for input in 0..count {
        let mut bytes = seeds[mutator.below(seeds.len())].1.clone();
        let other = &seeds[mutator.below(seeds.len())].1;
        for _ in 0..1 + mutator.below(4) {
            mutator.change(&mut bytes, other);
        }
        let ran = std::panic::catch_unwind(|| target(&bytes));
        let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let ran = ran.unwrap_or_else(|_| {
            panic!("{name}: input {input} with KYRODB_MUTATION_SEED={seed}: {:?}", shown())
        });
        accepted += u64::from(ran);
    }
    println!("{name}: {accepted} of {count} accepted");
    assert!(accepted > count / 100, "{name}: only {accepted} of {count} accepted");
    assert!(accepted < count, "{name}: nothing was refused");
}

#[test]
fn changed_payloads() {
    mutate("payload", 200_000);
}

#[test]
fn changed_records() {
    mutate("record", 200_000);
}

#[test]
fn changed_segment_headers() {
    mutate("segment_header", 200_000);
}

#[test]
fn changed_groups() {
    mutate("group", 100_000);
}

#[test]
fn changed_manifests() {
    mutate("manifest", 200_000);
}

#[test]
fn changed_toml() {
    mutate("config_toml", 20_000);
}

#[test]
fn changed_yaml() {
    mutate("config_yaml", 10_000);
}
