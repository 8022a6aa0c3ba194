//! Whether this kernel has a kind of hook; where it has not, what was promised to who asks for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::path::PathBuf;
use std::sync::LazyLock;

use cgtap::engine::{AttachRequest, Engine, ErrorKind, ObjectSource, Options, ProgramChoice};
use cgtap::kernel::feature::{Feature, FeatureState, release};

use super::rules;
use super::support::event::Event;
use super::support::{Sandbox, compile_for};

/// Kernels in which tests run as guests: what they are known to have is not to be taken for
/// lacking.
fn has_to_be_there(kind: &str) -> bool {
    let version = std::fs::read_to_string("/proc/version").unwrap();
    let is_old = release().starts_with("6.1.");
    version.contains("Debian") && !(is_old && kind.contains(".multi"))
}

/// What is promised to who asks for a kind that the kernel lacks: one of these reasons.
fn promised(kind: &str) -> &'static [&'static str] {
    match kind {
        "kprobe" | "kretprobe" => &["CONFIG_KPROBES"],
        "kprobe.multi" | "kretprobe.multi" => &["CONFIG_FPROBE"],
        "uprobe" | "uretprobe" => &["CONFIG_UPROBES"],
        "fentry" | "fexit" | "fmod_ret" => &["CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS"],
        // The second where the kernel could, and was not booted to.
        "lsm" => &[
            "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
            "`bpf` is not in its list of security modules",
        ],
        _ => panic!("every kernel that the tests run on has {kind} hooks"),
    }
}

/// Attaching says what lacks, and leaves nothing.
fn is_refused(event: &Event) {
    let sandbox = Sandbox::new("kinds-refused");
    let source = ObjectSource::File {
        path: compile_for(event, "count", "count", &[]),
        set: Vec::new(),
    };
    let mut request = AttachRequest::new(sandbox.cgroup("t"), source);
    request.programs = vec![ProgramChoice {
        name: "count".to_owned(),
        hook: Some(event.spec()),
    }];
    let error = rules::unchanged(&sandbox, || sandbox.engine.attach(request).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let words = error.to_string();
    let mut promised = promised(event.kind).iter();
    assert!(promised.any(|p| words.contains(p)), "{words}");
    super::support::told::not_run(&format!(
        "{} hooks, but that they are refused: {words}",
        event.kind
    ));
}

/// Whether this kernel has hooks of a kind: tried, by the library. Where it says no, so has an
/// attach to, in words.
pub fn is_there(kind: &str) -> bool {
    static FEATURES: LazyLock<Vec<Feature>> = LazyLock::new(|| {
        let engine = Engine::open(Options {
            state: PathBuf::from("/sys/fs/bpf/cgtap-test-kinds"),
            cgroup_root: None,
        });
        engine.unwrap().doctor(false).unwrap().features
    });
    let name = format!("hook {kind}");
    let found = FEATURES.iter().find(|f| f.name == name).unwrap();
    if found.state == FeatureState::Yes {
        return true;
    }
    assert!(!has_to_be_there(kind), "{name} is lacking: {}", found.why);
    is_refused(&Event::of(kind));
    false
}
