//! Features, found by trying them: yes, no, or could not tell.
//!
//! Nothing is concluded from a version: distributions carry features back, and switch them off.
//! What is tried is tried on something harmless and taken away again.

mod host;
mod mechanism;
mod program;

use std::path::Path;

use serde::Serialize;

use super::caller::Caller;
use super::pretend;

/// One thing that can be had or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it can be had.
    pub state: FeatureState,
    /// How we know.
    pub why: String,
    /// What to do where it is lacking, and what still works.
    pub remedy: String,
    /// Nothing works without it.
    pub required: bool,
}

/// The answer of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureState {
    /// It works: it was tried.
    Yes,
    /// It does not work: it was tried.
    No,
    /// Trying told neither.
    Unknown,
}

impl Feature {
    fn new(name: &str, state: FeatureState, why: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            why: why.into(),
            remedy: String::new(),
            required: false,
        }
    }

    fn yes(name: &str, why: impl Into<String>) -> Self {
        Self::new(name, FeatureState::Yes, why)
    }

    fn no(name: &str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(name, FeatureState::No, why)
        }
    }

    fn unknown(name: &str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: remedy.into(),
            ..Self::new(name, FeatureState::Unknown, why)
        }
    }

    fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// Release of the running kernel.
#[must_use]
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// Tries everything: first what this user and machine have, then the hooks, then what dispatching
/// is made of. `state` is where the state is or would be.
#[must_use]
pub fn probe_all(state: &Path, cgroup_root: Option<&Path>) -> Vec<Feature> {
    let caller = Caller::read();
    let mut features = host::probe(&caller, state, cgroup_root);
    features.extend(program::probe(&caller));
    features.extend(mechanism::probe(&caller));
    if let Some(words) = pretend::words() {
        let remedy = "unset it, unless this is a test";
        features.push(Feature::no("all that the kernel has", words, remedy));
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(features: &[Feature], name: &str) -> FeatureState {
        let found = features.iter().find(|f| f.name == name);
        found.unwrap_or_else(|| panic!("no feature {name}")).state
    }

    /// As root on a kernel that the tests run on, nothing that is needed lacks.
    #[test]
    fn what_the_tests_run_on_has_all_that_is_needed() {
        let features = probe_all(Path::new("/sys/fs/bpf/cgtap-test-features"), None);
        for hook in ["tracepoint", "raw_tracepoint", "raw_tracepoint.w", "tp_btf"] {
            let name = format!("hook {hook}");
            assert_eq!(state_of(&features, &name), FeatureState::Yes, "{name}");
        }
        for feature in features.iter().filter(|f| f.required) {
            assert_eq!(feature.state, FeatureState::Yes, "{feature:?}");
        }
        for feature in &features {
            assert!(!feature.why.is_empty(), "{feature:?}");
            let lacks = feature.state != FeatureState::Yes;
            assert!(!lacks || !feature.remedy.is_empty(), "{feature:?}");
        }
        let left = std::fs::read_dir("/sys/fs/bpf").unwrap().flatten();
        let me = format!("cgtap_probe_{}", std::process::id());
        assert!(left.into_iter().all(|e| e.file_name() != *me));
    }
}
