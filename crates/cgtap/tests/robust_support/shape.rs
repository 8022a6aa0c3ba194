//! What a state looks like.

use std::collections::{BTreeMap, BTreeSet};

use cgtap::dispatch::word::CONTROL_LOST_SET;
use cgtap::engine::{Engine, ListReport, ListRequest};

use crate::support::Sandbox;

/// The hooks of the programs of the fixture `robust`, in the order of the words that count their runs.
pub const HOOKS: [&str; 3] = [
    "raw_tracepoint:sys_enter",
    "tracepoint:syscalls/sys_enter_getppid",
    "tp_btf:sys_enter",
];

/// The lists without their counts: equal before and after what changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape(Vec<ListReport>);

impl Shape {
    /// Lists, which must work, and finds the state whole: what it says, what is pinned and what is
    /// in the maps agree.
    pub fn of(sandbox: &Sandbox) -> Self {
        let shape = Self::listed(sandbox);
        assert_eq!(sandbox.engine.state_problems(), Vec::<String>::new());
        shape
    }

    /// Lists, which must work.
    pub fn listed(sandbox: &Sandbox) -> Self {
        let shape = Self::of_state(&sandbox.engine);
        nothing_lost(sandbox);
        shape
    }

    /// Lists another state than the sandbox's own, which must work.
    pub fn of_state(engine: &Engine) -> Self {
        let mut lists = engine
            .list(&ListRequest::default())
            .unwrap_or_else(|e| panic!("{e}"));
        for list in &mut lists {
            for attachment in &mut list.attachments {
                attachment.run_count = 0;
            }
            list.recursion_misses = 0;
            list.lost = 0;
        }
        Self(lists)
    }

    /// Ids of the attachments.
    pub fn ids(&self) -> BTreeSet<u32> {
        self.attachments().map(|(_, _, id)| id).collect()
    }

    /// Ids by the cgroup that they are attached to, in the order of the list of each hook.
    pub fn lists(&self) -> Vec<(String, Vec<u32>)> {
        let ids = |l: &ListReport| l.attachments.iter().map(|a| a.id.0).collect();
        self.0.iter().map(|l| (l.cgroup.clone(), ids(l))).collect()
    }

    /// Instance, program and id of each attachment.
    fn attachments(&self) -> impl Iterator<Item = (u32, &str, u32)> {
        self.0
            .iter()
            .flat_map(|l| &l.attachments)
            .map(|a| (a.instance.0, a.program.as_str(), a.id.0))
    }

    /// The same with numbers that count from `start`, so that the same change looks the same
    /// however often ids were given before.
    pub fn since(&self, start: &Self) -> Vec<String> {
        let known = start.ids();
        let instances: BTreeSet<u32> = start.attachments().map(|(i, _, _)| i).collect();
        let revision = |list: &ListReport| {
            let same = |l: &&ListReport| l.cgroup_id == list.cgroup_id && l.hook == list.hook;
            let before = start.0.iter().find(same).map_or(0, |l| l.revision);
            list.revision - before
        };
        let named = |set: &BTreeSet<u32>, id: u32| match set.iter().position(|k| *k == id) {
            Some(at) => format!("old{at}"),
            None => "new".to_owned(),
        };
        let lists = self.0.iter().map(|list| {
            let members: Vec<String> = list
                .attachments
                .iter()
                .map(|a| {
                    let (id, instance) = (named(&known, a.id.0), named(&instances, a.instance.0));
                    format!("{id} {} of {instance} {} {}", a.program, a.cgroup, a.cookie)
                })
                .collect();
            let (cgroup, hook, mode) = (&list.cgroup, &list.hook, list.mode);
            format!("{cgroup} {hook} {mode:?} +{} {members:?}", revision(list))
        });
        lists.collect()
    }

    /// Makes `events` calls of getppid in `cgroup` and finds that each attachment of the fixture
    /// `robust` there and above has counted them, but for what the kernel missed meanwhile, and
    /// nothing else has.
    pub fn runs(&self, sandbox: &Sandbox, cgroup: &str, events: u64) {
        let missed = || HOOKS.map(|hook| sandbox.missed(hook));
        let (before, missed_before) = (words(sandbox), missed());
        sandbox.getppid(cgroup, events);
        let (mut after, missed_after) = (words(sandbox), missed());
        let mut expected = before;
        let here = sandbox.path(cgroup);
        let reaches = |at: &str| here == at || here.starts_with(&format!("{at}/"));
        let all = self.0.iter().flat_map(|l| &l.attachments);
        for attachment in all.filter(|a| reaches(&a.cgroup)) {
            let (instance, program) = (attachment.instance.0, attachment.program.as_str());
            let word = ["raw", "classic", "typed"]
                .iter()
                .position(|p| *p == program)
                .unwrap();
            *expected.get_mut(&(instance, word)).unwrap() += events;
        }
        for (at, word) in &mut after {
            let Some(missed) = missed_after.get(at.1).map(|m| m - missed_before[at.1]) else {
                continue;
            };
            let all = expected[at];
            if *word < all && *word + missed >= all {
                *word = all;
            }
        }
        assert_eq!(after, expected, "{self:?}");
    }
}

/// No event found its set out of its place. (Of events in cgroups that are too deep, which are
/// lost as well, other tests may make some: every hook here sees the whole machine's.)
pub fn nothing_lost(sandbox: &Sandbox) {
    for hook in std::fs::read_dir(sandbox.state.join("hooks"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(control) = cgtap_sys::bpf::get_map(&hook.path().join("control")) else {
            continue;
        };
        let words = cgtap_sys::memory::Words::map(&control).unwrap();
        assert_eq!(words.get(CONTROL_LOST_SET), 0, "{}", hook.path().display());
    }
}

/// The words of the map `counts` of each instance.
fn words(sandbox: &Sandbox) -> BTreeMap<(u32, usize), u64> {
    let mut words = BTreeMap::new();
    for instance in sandbox.engine.maps(None).unwrap() {
        for map in instance.maps.iter().filter(|m| m.name == "counts") {
            let map = cgtap_sys::bpf::get_map(map.pin.as_ref().unwrap()).unwrap();
            for word in 0..4u32 {
                let value = map.lookup(&word.to_ne_bytes()).unwrap().unwrap();
                let value = u64::from_ne_bytes(value[..8].try_into().unwrap());
                words.insert((instance.id.0, word as usize), value);
            }
        }
    }
    words
}
