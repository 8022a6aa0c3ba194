//! The engine from a shell, as small as can be: what the crash tests (tests/robust_*.rs) kill,
//! stop and disturb. Prints what it did as one line of JSON; exit status 0 done, 1 refused.
//!
//! ```text
//! driver STATE attach CGROUP OBJECT [PROGRAM]
//! driver STATE hold CGROUP OBJECT      attaches for as long as it lives, and detaches
//! driver STATE replace ID OBJECT PROGRAM
//! driver STATE detach ID...
//! driver STATE detach-all
//! driver STATE list
//! driver STATE doctor
//! driver STATE storm SEED SECONDS OBJECT CGROUP...   attaches and detaches at random; its ids
//! driver STATE watch SECONDS PROGRAMS   lists; how often. Each instance must show all PROGRAMS
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Engine, Error, ErrorKind, Lifetime, ListRequest,
    ObjectSource, Options, ProgramChoice, ReplaceRequest, Result,
};
use cgtap::id::AttachmentId;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(Some(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            eprintln!("see the top of examples/driver.rs");
            ExitCode::from(2)
        }
        Err(e) => {
            let errno = e.errno().map(|e| e.to_string());
            println!(
                "{}",
                serde_json::json!({
                    "kind": e.kind().name(), "errno": errno, "message": e.to_string(),
                })
            );
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<Option<String>> {
    let json = |value: serde_json::Result<String>| Ok(value.ok());
    let file = |path: &str| ObjectSource::File {
        path: PathBuf::from(path),
        set: Vec::new(),
    };
    let id = |word: &str| AttachmentId(word.parse().unwrap_or(0));
    let [state, rest @ ..] = words else {
        return Ok(None);
    };
    let engine = Engine::open(Options {
        state: PathBuf::from(state),
        cgroup_root: None,
    })?;
    match rest {
        ["attach", cgroup, object, program @ ..] => {
            let choice = |name: &&str| ProgramChoice {
                name: (*name).to_owned(),
                hook: None,
            };
            let request = AttachRequest {
                programs: program.iter().map(choice).collect(),
                ..AttachRequest::new(CgroupRef::Path(PathBuf::from(cgroup)), file(object))
            };
            json(serde_json::to_string(&engine.attach(request)?))
        }
        ["hold", cgroup, object] => {
            let request = AttachRequest {
                lifetime: Lifetime::Process,
                ..AttachRequest::new(CgroupRef::Path(PathBuf::from(cgroup)), file(object))
            };
            let report = engine.attach(request)?;
            let ids = report.attachments.iter().map(|a| a.id).collect();
            json(serde_json::to_string(&engine.detach(&Detach::Ids(ids))?))
        }
        ["replace", attachment, object, program] => {
            json(serde_json::to_string(&engine.replace(ReplaceRequest {
                id: id(attachment),
                source: file(object),
                program: Some((*program).to_owned()),
                expect: None,
            })?))
        }
        ["detach", ids @ ..] => {
            let ids = ids.iter().map(|w| id(w)).collect();
            json(serde_json::to_string(&engine.detach(&Detach::Ids(ids))?))
        }
        ["detach-all"] => json(serde_json::to_string(&engine.detach(&Detach::All)?)),
        ["list"] => json(serde_json::to_string(
            &engine.list(&ListRequest::default())?,
        )),
        ["doctor"] => json(serde_json::to_string(&engine.doctor(false)?)),
        ["storm", seed, seconds, object, cgroups @ ..] => {
            let number = |word: &str| word.parse().unwrap_or(1);
            json(serde_json::to_string(&storm(
                &engine,
                number(seed),
                Duration::from_secs(number(seconds)),
                &file(object),
                cgroups,
            )?))
        }
        ["watch", seconds, programs] => {
            let number = |word: &str| word.parse().unwrap_or(1);
            let seconds = Duration::from_secs(number(seconds));
            watch(&engine, seconds, number(programs) as usize)
        }
        _ => Ok(None),
    }
}

/// Attaches and detaches at random; the ids that are attached at the end, with their cgroups.
fn storm(
    engine: &Engine,
    mut seed: u64,
    time: Duration,
    object: &ObjectSource,
    cgroups: &[&str],
) -> Result<Vec<(u32, String)>> {
    let end = Instant::now() + time;
    let mut random = |below: usize| {
        // A multiplier of Knuth's; the low bits are the poor ones.
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below.max(1)
    };
    let mut mine: Vec<(Vec<AttachmentId>, String)> = Vec::new();
    let mut instances = Vec::new();
    while Instant::now() < end {
        let what = random(10);
        if mine.len() >= 6 || (what < 5 && !mine.is_empty()) {
            let (ids, _) = mine.swap_remove(random(mine.len()));
            let report = engine.detach(&Detach::Ids(ids))?;
            instances.retain(|i| !report.instances_unloaded.contains(i));
            continue;
        }
        let cgroup = cgroups[random(cgroups.len())];
        // A known instance, elsewhere, or a new one.
        let source = match instances.get(random(instances.len() * 2 + 1)) {
            Some(id) if what < 8 => ObjectSource::Instance(*id),
            _ => object.clone(),
        };
        let request = AttachRequest::new(CgroupRef::Path(PathBuf::from(cgroup)), source);
        match engine.attach(request) {
            Ok(report) => {
                if !instances.contains(&report.instance) {
                    instances.push(report.instance);
                }
                let ids = report.attachments.iter().map(|a| a.id).collect();
                mine.push((ids, cgroup.to_owned()));
            }
            // The same program twice on one list (S6), or a list that is full (S7).
            Err(e) if e.kind() == ErrorKind::Rule => {}
            Err(e) => return Err(e),
        }
    }
    Ok(mine
        .into_iter()
        .flat_map(|(ids, cgroup)| ids.into_iter().map(move |id| (id.0, cgroup.clone())))
        .collect())
}

/// Lists until the time is over. An attach of several programs is one change, so every list shows
/// all of them or none.
fn watch(engine: &Engine, time: Duration, programs: usize) -> Result<Option<String>> {
    let end = Instant::now() + time;
    let mut lists = 0;
    while Instant::now() < end {
        let mut seen: BTreeMap<(u32, String), usize> = BTreeMap::new();
        for list in engine.list(&ListRequest::default())? {
            for attachment in list.attachments {
                *seen
                    .entry((attachment.instance.0, attachment.cgroup))
                    .or_default() += 1;
            }
        }
        if let Some(half) = seen.iter().find(|(_, count)| *count % programs != 0) {
            return Err(Error::new(
                ErrorKind::State,
                format!("a list shows half an attach: {half:?}"),
            ));
        }
        lists += 1;
    }
    Ok(Some(lists.to_string()))
}
