//! Feeds damaged objects to the loader for a while: `fuzz_object SECONDS FILE...`.
//!
//! Exits with 1 at the first that makes this process panic or gives an image that is not sound;
//! the file is kept. A crash of the child process is an error message, and counted. Needs root.

#[path = "../tests/object_support/mutate.rs"]
mod mutate;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cgtap::object::{LoadOptions, load, validate};
use mutate::{Random, damaged};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|s| s.parse::<u64>().ok());
    let files: Vec<Vec<u8>> = arguments
        .filter_map(|path| match std::fs::read(&path) {
            Ok(file) => Some(file),
            Err(error) => {
                eprintln!("{path}: {error}");
                None
            }
        })
        .collect();
    let (Some(seconds), false) = (seconds, files.is_empty()) else {
        eprintln!("usage: fuzz_object SECONDS FILE...");
        return ExitCode::from(2);
    };
    // CGTAP_FUZZ_SEED repeats a run.
    let first = std::env::var("CGTAP_FUZZ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(1, |now| now.as_nanos() as u64)
        });
    println!("seed {first}, {} files, {seconds} s", files.len());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seed = first;
    while Instant::now() < end {
        let mut random = Random::new(seed);
        let file = damaged(&files[random.below(files.len())], &mut random);
        match catch_unwind(|| verdict(&file)) {
            Ok(Ok(verdict)) => *verdicts.entry(verdict).or_default() += 1,
            Ok(Err(why)) => return found(&file, seed, &why),
            Err(_) => return found(&file, seed, "the loader panicked"),
        }
        seed = seed.wrapping_add(1);
    }
    println!("{} files: {verdicts:?}", verdicts.values().sum::<u64>());
    ExitCode::SUCCESS
}

/// `sound`, a kind of error, or what is wrong with the loader.
fn verdict(file: &[u8]) -> Result<&'static str, String> {
    match load(file, &LoadOptions::default()) {
        Err(error) => Ok(error.kind()),
        Ok(object) => {
            validate(&object.image).map_err(|error| error.to_string())?;
            if object.maps.len() == object.image.maps.len() {
                Ok("sound")
            } else {
                Err("maps and descriptors differ in number".to_owned())
            }
        }
    }
}

fn found(file: &[u8], seed: u64, why: &str) -> ExitCode {
    let path = std::env::temp_dir().join(format!("cgtap-fuzz-{seed}.o"));
    let kept = match std::fs::write(&path, file) {
        Ok(()) => format!("kept in {}", path.display()),
        Err(error) => format!("not kept: {error}"),
    };
    eprintln!("seed {seed}: {why}; the file is {kept}");
    ExitCode::FAILURE
}
