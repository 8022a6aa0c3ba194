//! What the tests of the rules share: programs that note that they ran, and in which order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;

use cgtap::attach::{Mode, Place};
use cgtap::engine::{
    AttachReport, AttachRequest, CgroupRef, Error, ListReport, ListRequest, ObjectSource,
    ProgramChoice, ReplaceRequest,
};
use cgtap::hook::HookSpec;
use cgtap::id::{AttachmentId, InstanceId, ProgramId};
use cgtap_sys::Errno;
use cgtap_sys::bpf::{Map, get_link, get_map};

use crate::support::{Sandbox, compile, event, ids, with_events};

/// The hook of the letters.
pub fn enter() -> &'static str {
    &event::event().hook
}

/// The other hook.
pub fn other() -> &'static str {
    event::event().other()
}

pub fn hook(text: &str) -> HookSpec {
    text.parse().unwrap()
}

/// A sandbox and a loaded object whose programs write a log. It stays loaded whatever is detached.
pub struct Lab {
    pub sandbox: Sandbox,
    pub instance: InstanceId,
    log: Option<Map>,
    names: Vec<String>,
}

impl std::ops::Deref for Lab {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.sandbox
    }
}

impl Lab {
    /// With the programs of `letters.bpf.c`: `a` to `f` at [`enter`], `x` at [`other`].
    pub fn new(name: &str) -> Self {
        Self::with(name, "letters")
    }

    /// With the programs of another fixture that has a log and a program `keep`.
    pub fn with(name: &str, fixture: &str) -> Self {
        let mut lab = Self::with_keep_only(name, fixture);
        lab.log = Some(lab.map(lab.instance, "trace"));
        lab
    }

    /// With the programs of a fixture that has a program `keep` and no log.
    pub fn with_keep_only(name: &str, fixture: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let mut request = sandbox.request("kept", fixture);
        request.programs = choose(&["keep"]);
        let report = ok(sandbox.engine.attach(request));
        let names = sandbox.engine.maps(Some(report.instance)).unwrap()[0]
            .programs
            .clone();
        Self {
            sandbox,
            instance: report.instance,
            log: None,
            names,
        }
    }

    /// A request to attach programs of the loaded object.
    pub fn ask(&self, cgroup: &str, programs: &[&str]) -> AttachRequest {
        let source = ObjectSource::Instance(self.instance);
        let mut request = AttachRequest::new(self.cgroup(cgroup), source);
        request.programs = choose(programs);
        request
    }

    /// Attaches one program in mode multi.
    pub fn put(&self, cgroup: &str, program: &str) -> AttachmentId {
        self.put_as(cgroup, program, |_| {})
    }

    /// Attaches one program, as `change` wants it.
    pub fn put_as(
        &self,
        cgroup: &str,
        program: &str,
        change: impl FnOnce(&mut AttachRequest),
    ) -> AttachmentId {
        ids(&ok(self.try_as(cgroup, program, change)))[0]
    }

    /// The same, or what refuses it.
    pub fn try_as(
        &self,
        cgroup: &str,
        program: &str,
        change: impl FnOnce(&mut AttachRequest),
    ) -> Result<AttachReport, Error> {
        let mut request = self.ask(cgroup, &[program]);
        change(&mut request);
        self.engine.attach(request)
    }

    /// Attaches one program, or makes sure that its refusal changes nothing: the words.
    pub fn unchanged_if_refused(
        &self,
        cgroup: &str,
        program: &str,
    ) -> Result<AttachmentId, String> {
        let before = (self.lists(), files(&self.sandbox.state));
        match self.try_as(cgroup, program, |_| {}) {
            Ok(report) => Ok(ids(&report)[0]),
            Err(e) => {
                let after = (self.lists(), files(&self.sandbox.state));
                assert_eq!(before, after, "{e}");
                Err(e.to_string())
            }
        }
    }

    /// An attach that is refused with `errno`, and changes nothing. The refusal in words.
    pub fn refuse(
        &self,
        errno: Errno,
        cgroup: &str,
        program: &str,
        change: impl FnOnce(&mut AttachRequest),
    ) -> String {
        let mut request = self.ask(cgroup, &[program]);
        change(&mut request);
        self.unchanged(|| refused(self.engine.attach(request), errno))
    }

    /// Runs `f` and makes sure that nothing in the state has changed.
    pub fn unchanged<T>(&self, f: impl FnOnce() -> T) -> T {
        unchanged(&self.sandbox, f)
    }

    /// A request to put a program of the loaded object in the place of another.
    pub fn update(&self, id: AttachmentId, program: &str) -> ReplaceRequest {
        ReplaceRequest {
            id,
            source: ObjectSource::Instance(self.instance),
            program: Some(program.to_owned()),
            expect: None,
        }
    }

    /// The identity of a program of the loaded object.
    pub fn program(&self, name: &str) -> ProgramId {
        let index = self.names.iter().position(|n| n == name).unwrap() as u32;
        ProgramId {
            instance: self.instance,
            index,
        }
    }

    /// What was logged since the last look.
    pub fn logged(&self) -> Vec<u64> {
        let key = 0u32.to_ne_bytes();
        let log = self.log.as_ref().unwrap();
        let value = log.lookup(&key).unwrap().unwrap();
        let words: Vec<u64> = value
            .chunks_exact(8)
            .map(|w| u64::from_ne_bytes(w.try_into().unwrap()))
            .collect();
        log.update(&key, &vec![0; value.len()]).unwrap();
        let count = words[0] as usize;
        assert!(count < words.len(), "the log is too short for {count}");
        words[1..=count].to_vec()
    }

    /// What one event of a cgroup runs, in order, as numbers.
    pub fn numbers(&self, cgroup: &str) -> Vec<u64> {
        let before = self.logged();
        assert!(before.is_empty(), "something ran by itself: {before:?}");
        self.getppid(cgroup, 1);
        self.logged()
    }

    /// What one event of a cgroup runs, in order, as letters.
    pub fn letters(&self, cgroup: &str) -> String {
        letters(&self.numbers(cgroup))
    }

    /// Mode of the list at [`enter`]; `None` if it is empty.
    pub fn mode(&self, cgroup: &str) -> Option<Mode> {
        let all = self.own(cgroup);
        all.iter().find(|l| l.hook == hook(enter())).map(|l| l.mode)
    }

    /// Revision of the list at [`enter`], whether or not it is empty.
    pub fn revision(&self, cgroup: &str) -> u64 {
        let cgroup = CgroupRef::Path(self.dir(cgroup));
        let array = cgtap::attach::Array::Own;
        let answer = self.engine.query(&cgroup, &hook(enter()), array, 0);
        answer.unwrap().revision.unwrap()
    }
}

impl Sandbox {
    /// A pinned map of an instance.
    pub fn map(&self, instance: InstanceId, name: &str) -> Map {
        let instances = self.engine.maps(Some(instance)).unwrap();
        let found = instances[0].maps.iter().find(|m| m.name.ends_with(name));
        get_map(found.unwrap().pin.as_ref().unwrap()).unwrap()
    }

    /// Every own list, without what counts on.
    pub fn lists(&self) -> Vec<ListReport> {
        let mut lists = self.engine.list(&ListRequest::default()).unwrap();
        for list in &mut lists {
            list.recursion_misses = 0;
            for attachment in &mut list.attachments {
                attachment.run_count = 0;
            }
        }
        lists
    }

    /// The ids of one list, in the order in which they run.
    pub fn own_ids(&self, cgroup: &str, at: &str) -> Vec<AttachmentId> {
        let lists = self.own(cgroup);
        let lists = lists.iter().filter(|l| l.hook == hook(at));
        lists
            .flat_map(|l| l.attachments.iter().map(|a| a.id))
            .collect()
    }

    /// Kernel ids of the programs that its sets are made of.
    pub fn set_programs(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for path in files(&self.state) {
            if path.ends_with("progs") {
                let array = get_map(&path).unwrap();
                for key in array.keys().unwrap() {
                    if let Some(id) = array.lookup(&key).unwrap() {
                        found.push(u32::from_ne_bytes(id.try_into().unwrap()));
                    }
                }
            }
        }
        found
    }

    /// Those, and the dispatchers.
    pub fn programs(&self) -> Vec<u32> {
        let mut found = self.set_programs();
        for path in files(&self.state) {
            if path.ends_with("link") {
                found.push(get_link(&path).unwrap().info().unwrap().prog_id);
            }
        }
        found
    }

    /// The control file that a process enters a cgroup by.
    pub fn procs(&self, cgroup: &str) -> PathBuf {
        std::fs::create_dir_all(self.dir(cgroup)).unwrap();
        self.dir(cgroup).join("cgroup.procs")
    }
}

/// Programs of fixtures that are not for the kind of hook that is tested.
const ELSEWHERE: [&str; 4] = ["keep", "x", "typed", "third"];

/// Programs by name, where their sections say, or else where events are.
pub fn choose(names: &[&str]) -> Vec<ProgramChoice> {
    let is_here = |name: &str| event::event().wants_hook() && !ELSEWHERE.contains(&name);
    let choice = |name: &&str| match name.split_once('@') {
        Some((name, at)) => ProgramChoice {
            name: name.to_owned(),
            hook: Some(hook(at)),
        },
        None => ProgramChoice {
            name: (*name).to_owned(),
            hook: is_here(name).then(|| event::event().spec()),
        },
    };
    names.iter().map(choice).collect()
}

/// Programs by name, where their sections say.
pub fn choose_as_written(names: &[&str]) -> Vec<ProgramChoice> {
    let mut choices = choose(names);
    for (choice, name) in choices.iter_mut().zip(names) {
        choice.hook = choice.hook.take().filter(|_| name.contains('@'));
    }
    choices
}

pub fn letters(numbers: &[u64]) -> String {
    numbers.iter().map(|n| *n as u8 as char).collect()
}

/// What was done, or a panic with all words there are.
pub fn ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|e| panic!("{e}\n{}", e.log()))
}

/// The words of a refusal with this errno.
pub fn refused<T: Debug>(result: Result<T, Error>, errno: Errno) -> String {
    match result {
        Ok(done) => panic!("this was to be refused with {errno}: {done:?}"),
        Err(e) => {
            assert_eq!(e.errno(), Some(errno), "{e}\n{}", e.log());
            e.to_string()
        }
    }
}

/// The first word of the value under a number.
pub fn word(map: &Map, key: u32) -> u64 {
    let value = map.lookup(&key.to_ne_bytes()).unwrap().unwrap();
    u64::from_ne_bytes(value[..8].try_into().unwrap())
}

/// Every file and directory below a state.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        all.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            all.extend(files(&entry.path()));
        }
    }
    all.sort();
    all
}

/// Runs `f` and makes sure that neither a list nor a pin of the state has changed.
pub fn unchanged<T>(sandbox: &Sandbox, f: impl FnOnce() -> T) -> T {
    let before = (sandbox.lists(), files(&sandbox.state));
    let result = f();
    let after = (sandbox.lists(), files(&sandbox.state));
    assert_eq!(before.0, after.0, "a list has changed");
    assert_eq!(before.1, after.1, "pins have come or gone");
    result
}

/// Attach as ... of a request.
pub fn place(place: Place) -> impl FnOnce(&mut AttachRequest) {
    move |request| request.place = place
}

/// Attach in this mode.
pub fn mode(mode: Mode) -> impl FnOnce(&mut AttachRequest) {
    move |request| request.mode = mode
}

/// Runs `tests/support/rules.c`; what it printed.
pub fn act(arguments: &[&str]) -> String {
    finish(Command::new(actor()).args(arguments))
}

/// The same where an event is what a kind of hook sees.
pub fn act_as(kind: &str, arguments: &[&str]) -> String {
    finish(
        Command::new(actor())
            .args(arguments)
            .env(event::VARIABLE, kind),
    )
}

/// The same on one CPU.
pub fn act_on(cpu: usize, arguments: &[&str]) -> String {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(actor());
    finish(command.args(arguments))
}

pub fn actor() -> PathBuf {
    with_events("rules", "support/rules.c")
}

fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {words}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The object of a fixture, as a source.
pub fn source(fixture: &str) -> ObjectSource {
    ObjectSource::File {
        path: compile(fixture),
        set: Vec::new(),
    }
}
