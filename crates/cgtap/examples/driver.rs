//! The engine from a shell, as small as can be: what the crash tests (tests/robust_*.rs) kill,
//! stop and disturb. Prints what it did as one line of JSON; exit status 0 done, 1 refused.
//!
//! ```text
//! driver STATE attach CGROUP OBJECT [PROGRAM]
//! driver STATE replace ID OBJECT PROGRAM
//! driver STATE detach ID...
//! driver STATE detach-all
//! driver STATE list
//! driver STATE doctor
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use cgtap::engine::{
    AttachRequest, CgroupRef, Detach, Engine, ListRequest, ObjectSource, Options, ProgramChoice,
    ReplaceRequest, Result,
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
        _ => Ok(None),
    }
}
