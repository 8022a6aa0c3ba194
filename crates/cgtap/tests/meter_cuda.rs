//! The meter of NVIDIA's CUDA library, held to a stand-in for that library: a library of the same name
//! with functions of the same names that do nothing. What is tested is that calls and their arguments
//! are counted for whoever makes them, also where a container brings the library; that the real library has
//! these functions is not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "support/cuda.rs"]
mod cuda;
mod meter_support;
mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cuda::{LIBRARY, NAME, base, image, library};
use meter_support::{both, builtin, enable, usage};
use support::{Sandbox, program, scratch};

/// The meter, of the library at `path`.
fn enabled(sandbox: &Sandbox, path: &Path) {
    let text = builtin("cuda");
    let hook = format!("uprobe:{}:", path.display());
    enable(sandbox, &text.replace("uprobe:*/libcuda.so.1:", &hook));
}

#[test]
fn the_machines_library_is_seen_in_containers_that_are_given_it_and_another_is_not() {
    let host = scratch().join("libcuda-machine.so");
    let own = scratch().join("libcuda-container.so");
    library(&host, host.to_str().unwrap());
    library(&own, own.to_str().unwrap());
    let client = program("cuda-container", "support/cuda.c", &[own.to_str().unwrap()]);
    let sandbox = Sandbox::new("meter");
    enabled(&sandbox, &host);
    let calls = |cgroup: &str, before: &str| {
        sandbox.cgroup(cgroup);
        let procs = sandbox.dir(cgroup).join("cgroup.procs");
        let script = format!("{before} exec {} {} 2", client.display(), procs.display());
        let mut shell = Command::new("unshare");
        support::run(shell.args(["--mount", "sh", "-ec", &script]));
        both(&sandbox, &usage(&sandbox), cgroup, "cuda_launches").0
    };
    // As NVIDIA's toolkit does it: the machine's file, at a path of the container's.
    let given = format!("mount --bind {} {};", host.display(), own.display());
    assert_eq!(calls("given", &given), 6);
    assert_eq!(calls("own", ""), 0);
}

#[test]
fn launches_copies_and_allocations_are_the_callers() {
    let path = scratch().join("libcuda-stand-in.so");
    library(&path, path.to_str().unwrap());
    let client = program("cuda-client", "support/cuda.c", &[path.to_str().unwrap()]);

    let sandbox = Sandbox::new("meter");
    enabled(&sandbox, &path);
    for (cgroup, rounds) in [("a", "3"), ("b", "1")] {
        sandbox.cgroup(cgroup);
        let procs = sandbox.dir(cgroup).join("cgroup.procs");
        let mut client = Command::new(&client);
        support::run(client.arg(procs).arg(rounds));
    }
    let report = usage(&sandbox);
    for (cgroup, rounds) in [("a", 3), ("b", 1)] {
        let own = |value: &str| both(&sandbox, &report, cgroup, value).0;
        // Each round: two kernels, a graph, 1000 bytes there, 500 back, 250 there, 4096 allocated.
        assert_eq!(own("cuda_launches"), 3 * rounds);
        assert_eq!(own("cuda_copied_bytes"), 1_750 * rounds);
        assert_eq!(own("cuda_allocated_bytes"), 4_096 * rounds);
    }
    let path = sandbox.path("a");
    let row = report.cgroups.iter().find(|r| r.cgroup == path).unwrap();
    let to_host = row
        .meters
        .iter()
        .find(|m| *m.meter == *"cuda_copied_bytes" && m.labels["what"] == "to_host");
    assert_eq!(to_host.unwrap().own, 1_500);
}

/// What one test's processes map, another would find.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A directory of this test's, for images and the roots of containers.
struct Images {
    dir: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Images {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = scratch().join(format!("images-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let images = Self { dir, _alone: alone };
        base(&images.at("base"));
        images
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// The client in a container: a root of its own, which is an overlay.
struct Container(Child);

impl Container {
    fn start(sandbox: &Sandbox, cgroup: &str, image: &Path, options: &str, enter: &str) -> Self {
        sandbox.cgroup(cgroup);
        let procs = sandbox.dir(cgroup).join("cgroup.procs");
        let images = image.parent().unwrap();
        let root = images.join(format!("root-{cgroup}"));
        std::fs::create_dir_all(&root).unwrap();
        let script = format!(
            "echo $$ > {procs}; mount -t tmpfs none {root}; cd {root}; mkdir up work root; \
             mount -t overlay -o {options} none root; cd root; \
             export LD_LIBRARY_PATH=/lib; {enter} /client - 2 wait",
            procs = procs.display(),
            root = root.display(),
            options = options
                .replace("IMAGE", &image.display().to_string())
                .replace("BASE", &images.join("base").display().to_string()),
        );
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-ec", &script]);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut byte = [0];
        let out = child.stdout.as_mut().unwrap();
        out.read_exact(&mut byte).unwrap();
        Self(child)
    }

    /// Lets it do its two rounds and end.
    fn go(mut self) {
        self.0.stdin.take().unwrap().write_all(b".").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The files that the hook at launches stands in.
fn files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let lists = sandbox.engine.list(&Default::default()).unwrap();
    let hook = |text: String| text.ends_with(":cuLaunchKernel");
    let list = lists.into_iter().find(|l| hook(l.hook.to_string()));
    list.unwrap().files.into_iter().map(PathBuf::from).collect()
}

/// Reads usage until the hook stands in `wanted`: processes are looked at no more often than that costs 2 %.
fn followed(sandbox: &Sandbox, wanted: &[PathBuf]) {
    for _ in 0..600 {
        let unread = usage(sandbox).unread;
        // A process of another namespace may not be looked at; none of ours is meant.
        let is_of_file = |why: &&String| why.contains("probed");
        assert_eq!(unread.iter().find(is_of_file), None);
        if files(sandbox) == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it stands in {:?}", files(sandbox));
}

/// The two ways to a root of its own: what maps show hangs on it.
const CHROOT: &str = "exec chroot .";
const PIVOT: &str = "pivot_root . . && exec";

/// An image's layers.
const READ_ONLY: &str = "ro,lowerdir=IMAGE:BASE";

#[test]
fn libraries_that_containers_bring_are_found_once_each_and_let_go() {
    let sandbox = Sandbox::new("meter");
    let images = Images::new();
    let [one, other] = ["one", "other"].map(|name| images.at(name));
    image(&one);
    image(&other);
    let lib = |image: &Path| image.join(LIBRARY).canonicalize().unwrap();

    // Without a file of this machine's and without a process, there is no such hook.
    let text = builtin("cuda");
    let error = meter_support::try_enable(&sandbox, text).unwrap_err();
    assert!(error.to_string().contains("no process maps one"), "{error}");

    // Two containers of one image: its library stands for both.
    let writable = "lowerdir=IMAGE:BASE,upperdir=up,workdir=work";
    let a = Container::start(&sandbox, "a", &one, READ_ONLY, CHROOT);
    let b = Container::start(&sandbox, "b", &one, writable, PIVOT);
    enable(&sandbox, text);
    assert_eq!(files(&sandbox), [lib(&one)]);
    a.go();
    b.go();
    let calls = |cgroup: &str| both(&sandbox, &usage(&sandbox), cgroup, "cuda_launches").0;
    assert_eq!([calls("a"), calls("b")], [6, 6]);

    // One of another image, which is started later: found when usage is read, and the first is still seen.
    let c = Container::start(&sandbox, "c", &other, READ_ONLY, PIVOT);
    let d = Container::start(&sandbox, "d", &one, READ_ONLY, PIVOT);
    followed(&sandbox, &[lib(&one), lib(&other)]);
    c.go();
    d.go();
    assert_eq!([calls("c"), calls("d"), calls("a")], [6, 6, 6]);

    // An image that is removed is not held, and its hook lives on.
    std::fs::remove_dir_all(&one).unwrap();
    let e = Container::start(&sandbox, "e", &other, READ_ONLY, CHROOT);
    followed(&sandbox, &[lib(&other)]);
    e.go();
    assert_eq!(calls("e"), 6);
    assert_eq!(sandbox.engine.state_problems(), [""; 0]);
}

/// A process that maps a library and does nothing; in a cgroup of the sandbox, or where the test is.
struct Idle(Child);

impl Idle {
    fn start(sandbox: &Sandbox, cgroup: Option<&str>, library: &Path) -> Self {
        let directory = cgroup.map(|cgroup| {
            sandbox.cgroup(cgroup);
            sandbox.dir(cgroup)
        });
        Self(cuda::idle(directory.as_deref(), library))
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn only_files_that_processes_of_its_cgroups_map_are_probed_and_what_cannot_be_is_told() {
    let sandbox = Sandbox::new("meter");
    let images = Images::new();
    let dir = |name: &str| {
        let dir = images.at(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("libcuda.so.1")
    };
    let [good, same, outside, gone] = ["good", "same", "outside", "gone"].map(dir);
    library(&good, NAME);
    std::fs::hard_link(&good, &same).unwrap();
    library(&outside, NAME);
    library(&gone, NAME);
    // It says that it is one, and is not.
    let [empty, source] = ["libcuda.so.999", "empty.c"].map(|name| images.at(name));
    std::fs::write(&source, "int other(void) { return 0; }").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]);
    support::run(cc.arg(&empty).arg(&source));
    let _all = [
        Idle::start(&sandbox, Some("a"), &good),
        Idle::start(&sandbox, Some("a/b"), &same),
        Idle::start(&sandbox, Some("a/b"), &empty),
        Idle::start(&sandbox, Some("c"), &gone),
        Idle::start(&sandbox, None, &outside),
    ];
    std::fs::remove_file(&gone).unwrap();
    enable(&sandbox, builtin("cuda"));

    let found = files(&sandbox);
    assert_eq!(found.len(), 1, "{found:?}");
    let real = |path: &Path| path.canonicalize().unwrap();
    assert!([real(&good), real(&same)].contains(&found[0]), "{found:?}");
    let unread = usage(&sandbox).unread.join("\n");
    for (path, why) in [
        (&empty, "has no function cuLaunchKernel"),
        (&gone, "it was removed"),
    ] {
        let path = path.display().to_string();
        let is_told = |line: &str| line.contains(&path) && line.contains(why);
        assert!(unread.lines().any(is_told), "{path}: {why}: {unread}");
    }
    assert!(!unread.contains("/outside/"), "{unread}");

    // What it stands in is found again when it has to be made anew.
    let link = sandbox.engine.state().join("hooks/1/link");
    std::fs::remove_file(&link).unwrap();
    assert_ne!(sandbox.engine.state_problems(), [""; 0]);
    sandbox.engine.repair().unwrap();
    assert_eq!(sandbox.engine.state_problems(), [""; 0]);
    assert_eq!(files(&sandbox), found);
}
