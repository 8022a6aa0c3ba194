//! Opens of device files held by the device controller's program, where a kernel takes none at its security
//! hooks: the last one that is let through is the last one allowed, however it is opened; what is no open
//! costs nothing; what others have attached stays in force beside it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cgtap_sys::bpf::{AttachType, Link, Prog, ProgSpec, ProgType};
use guest_support::{tool, wait_until};
use support::{Ran, Running, Sandbox, compiled_with};

const EPERM: i32 = 1;
const EDQUOT: i32 = 122;
/// Of all those that every machine has, the one that nothing else of a test opens.
const DEVICE: &str = "/dev/zero";

/// A client, see the file.
fn client() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| compiled_with("fixtures/opens", &["-pthread"]))
}

/// Runs `cgtap` on a kernel without the better gates.
fn cgtap(sandbox: &Sandbox, words: &[&str]) -> Ran {
    sandbox.run_without("trampolines", words)
}

fn limit(sandbox: &Sandbox, cgroup: &str, meter: &str, amount: &str, on: &str) -> u64 {
    let cgroup = format!("{}{cgroup}", sandbox.cgroup);
    let words = ["--json", "limit", "set", &cgroup, meter, amount, "--on", on];
    let said = cgtap(sandbox, &words).done().json();
    let limit = &said["limits"][0];
    assert_eq!(limit["gates"], serde_json::json!(["cgroup:dev"]), "{limit}");
    assert_eq!(limit["charged"], "before", "{limit}");
    limit["id"].as_u64().unwrap()
}

/// How limit `id` stands: used, left, denied.
fn stands(sandbox: &Sandbox, id: u64) -> (u64, i64, u64) {
    let all = cgtap(sandbox, &["--json", "limit", "list"]).done().json();
    let all = all["limits"].as_array().unwrap();
    let limit = all.iter().find(|l| l["id"] == id).unwrap();
    (
        limit["used"].as_u64().unwrap(),
        limit["left"].as_i64().unwrap(),
        limit["denied"].as_u64().unwrap(),
    )
}

fn used(sandbox: &Sandbox, id: u64) -> u64 {
    stands(sandbox, id).0
}

fn clear(sandbox: &Sandbox) {
    cgtap(sandbox, &["limit", "clear", "--all"]).done();
}

fn client_in(sandbox: &Sandbox, cgroup: &str, words: &str) -> std::process::Command {
    let procs = sandbox.directory.join(cgroup).join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && exec {} {words}",
        procs.display(),
        client().display()
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]);
    command
}

/// How often it was done and refused, and the last errno.
fn told(text: &str) -> (u64, u64, i32) {
    let mut words = text.split_whitespace().map(|w| w.parse::<u64>().unwrap());
    let mut next = || words.next().unwrap();
    (next(), next(), next() as i32)
}

fn opens(sandbox: &Sandbox, cgroup: &str, words: &str) -> (u64, u64, i32) {
    let ran = Ran::of(&mut client_in(sandbox, cgroup, words)).done();
    told(&ran.out)
}

fn by(sandbox: &Sandbox, cgroup: &str, way: &str, times: u32) -> (u64, u64, i32) {
    opens(sandbox, cgroup, &format!("{way} {DEVICE} {times}"))
}

/// A program of others that says the same of every open: 1 allows.
fn others(verdict: u8) -> Prog {
    // r0 = verdict; exit
    let insns = [
        [0xb7, 0, 0, 0, verdict, 0, 0, 0],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let spec = ProgSpec::generated("others", ProgType::CgroupDevice, &insns, &[]);
    let spec = ProgSpec {
        attach_type: AttachType::CgroupDevice,
        ..spec
    };
    Prog::load(&spec).unwrap()
}

fn attach(prog: &Prog, directory: &Path) -> Link {
    let directory = std::fs::File::open(directory).unwrap();
    Link::cgroup_device(prog, directory.as_fd()).unwrap()
}

#[test]
fn the_last_open_is_the_last_one_allowed() {
    let mut sandbox = Sandbox::new();
    let names = ["a", "a/inner", "b"].map(|name| sandbox.child(name));
    let id = limit(&sandbox, "/a", "device_opens", "5", "deny:EPERM");
    assert_eq!(by(&sandbox, "a/inner", "open", 8), (5, 3, EPERM));
    assert_eq!(by(&sandbox, "b", "open", 8), (8, 0, 0));
    assert_eq!(stands(&sandbox, id), (5, 0, 3));
    let log = cgtap(&sandbox, &["--json", "limit", "log"]).done().json();
    let last = log["denials"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["verdict"], "EPERM", "{last}");
    assert!(
        last["comm"].as_str().unwrap().starts_with("opens"),
        "{last}"
    );
    assert_eq!((&last["asked"], &last["left"]), (&1.into(), &0.into()));
    assert_eq!(last["cgroup"], names[1], "{last}");
    assert_eq!(last["level"], names[0], "{last}");
    let explained = cgtap(&sandbox, &["explain", &names[1]]).done().out;
    assert!(explained.contains("is held back by 1 limit"), "{explained}");
    assert!(
        explained.contains("before the event at cgroup:dev"),
        "{explained}"
    );
    assert!(
        explained.contains("who has a device open goes on"),
        "{explained}"
    );
    // Raised it goes on from there; another errno than the controller's own.
    assert_eq!(
        limit(&sandbox, "/a", "device_opens", "7", "deny:EDQUOT"),
        id
    );
    assert_eq!(by(&sandbox, "a", "open", 4), (2, 2, EDQUOT));
    // Another device, where only one is limited; only seen.
    clear(&sandbox);
    let only = limit(&sandbox, "/a", "device_opens{dev=1:5}", "1", "deny:EPERM");
    assert_eq!(opens(&sandbox, "a", "open /dev/full 3"), (3, 0, 0));
    assert_eq!(by(&sandbox, "a", "open", 3), (1, 2, EPERM));
    assert_eq!(used(&sandbox, only), 1);
    clear(&sandbox);
    let seen = limit(&sandbox, "/a", "device_opens", "2", "observe");
    assert_eq!(by(&sandbox, "a", "open", 5), (5, 0, 0));
    assert_eq!(stands(&sandbox, seen), (2, 0, 3));
    clear(&sandbox);
    assert_eq!(by(&sandbox, "a", "open", 5), (5, 0, 0));
    // Nothing at all; and nothing of it once the state is gone.
    limit(&sandbox, "/a", "device_opens", "0", "deny:EPERM");
    assert_eq!(by(&sandbox, "a", "open", 2), (0, 2, EPERM));
    cgtap(&sandbox, &["detach", "--all"]).done();
    assert_eq!(by(&sandbox, "a", "open", 2), (2, 0, 0));
}

/// In whatever way it is opened it is counted; what is no open is not.
#[test]
fn every_open_counts_and_nothing_else_does() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    let id = limit(&sandbox, "/a", "device_opens", "1000", "deny:EPERM");
    let mut all = 0;
    for way in ["open", "uring", "worker", "thread"] {
        assert_eq!(by(&sandbox, "a", way, 7), (7, 0, 0), "{way}");
        all += 7;
        assert_eq!(used(&sandbox, id), all, "{way}");
    }
    for way in ["path", "access"] {
        assert_eq!(by(&sandbox, "a", way, 7), (7, 0, 0), "{way}");
        assert_eq!(used(&sandbox, id), all, "{way}");
    }
    assert_eq!(by(&sandbox, "a", "mknod", 7), (7, 0, 0));
    assert_eq!(used(&sandbox, id), all);
    // Shut, it is shut for each; what is no open is not refused.
    limit(
        &sandbox,
        "/a",
        "device_opens",
        &all.to_string(),
        "deny:EPERM",
    );
    for way in ["open", "uring", "worker", "thread"] {
        assert_eq!(by(&sandbox, "a", way, 3), (0, 3, EPERM), "{way}");
    }
    for way in ["path", "access", "mknod"] {
        assert_eq!(by(&sandbox, "a", way, 3), (3, 0, 0), "{way}");
    }
    assert_eq!(used(&sandbox, id), all);
}

/// A node of its own, in a directory that is gone with it.
struct Node {
    directory: PathBuf,
    path: PathBuf,
    is_mounted: bool,
}

impl Node {
    /// `what` as mknod(1) has it, on the file system of /dev, or on an overlay.
    fn new(name: &str, what: &str, is_mounted: bool) -> Self {
        let directory = PathBuf::from(format!("/dev/shm/cgtap-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let at = directory.to_str().unwrap();
        tool(&["mount", "-t", "tmpfs", "-o", "dev", "none", at]);
        let mut path = directory.clone();
        if is_mounted {
            for part in ["low", "up", "work", "all"] {
                std::fs::create_dir(directory.join(part)).unwrap();
            }
            let layers = format!("lowerdir={at}/low,upperdir={at}/up,workdir={at}/work");
            path = directory.join("all");
            let all = path.to_str().unwrap();
            tool(&["mount", "-t", "overlay", "-o", &layers, "none", all]);
        }
        let path = path.join("node");
        let mut words = vec!["mknod", path.to_str().unwrap()];
        words.extend(what.split(' '));
        tool(&words);
        Self {
            directory,
            path,
            is_mounted,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.is_mounted {
            tool(&["umount", self.directory.join("all").to_str().unwrap()]);
        }
        tool(&["umount", self.directory.to_str().unwrap()]);
        std::fs::remove_dir(&self.directory).unwrap();
    }
}

/// The kernel asks two times for a block device, and for a file on overlayfs: it is charged once, whether
/// the open comes to something or not.
#[test]
fn what_the_kernel_asks_for_twice_is_charged_once() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    let id = limit(&sandbox, "/a", "device_opens", "9", "deny:EPERM");
    let mut all = 0;
    // A loop device that may be there or not: if not, the open fails behind both checks.
    let block = Node::new("block", "b 7 0", false);
    let overlay = Node::new("overlay", "c 1 5", true);
    for node in [&block, &overlay] {
        let words = format!("open {} 4", node.path.display());
        let (_, _, error) = opens(&sandbox, "a", &words);
        assert_ne!(error, EPERM);
        all += 4;
        assert_eq!(used(&sandbox, id), all, "{words}");
    }
    let words = format!("open {} 3", overlay.path.display());
    assert_eq!(opens(&sandbox, "a", &words), (1, 2, EPERM));
    let words = format!("open {} 3", block.path.display());
    assert_eq!(opens(&sandbox, "a", &words), (0, 3, EPERM));
    assert_eq!(stands(&sandbox, id), (9, 0, 5));
}

/// The meter counts each open once, whatever this kernel has for it: as a function, or as the question to the
/// device controller.
#[test]
fn opens_are_counted_once_by_every_way_to_see_them() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    let block = Node::new("counted", "b 7 0", false);
    let overlay = Node::new("counted-overlay", "c 1 5", true);
    let doctor = sandbox.run(&["--json", "doctor"]).done().json();
    let has = |hook: &str| {
        let name = format!("hook {hook}");
        let mut features = doctor["features"].as_array().unwrap().iter();
        features.find(|f| f["name"] == name).unwrap()["state"] == "yes"
    };
    let enable = ["meter", "enable", "device"];
    for (lacking, left) in [
        ("", &["fentry", "kprobe"][..]),
        ("trampolines", &["kprobe"]),
        ("trampolines,kprobes", &[]),
    ] {
        sandbox.run_without(lacking, &enable).done();
        let best = left.iter().find(|kind| has(kind));
        let hook = best.map_or("cgroup:dev".to_owned(), |kind| {
            format!("{kind}:security_file_open")
        });
        let code = sandbox
            .run_without(lacking, &["meter", "show", "device", "--code"])
            .done();
        assert!(code.out.contains(&hook), "{lacking}: {hook}: {}", code.out);
        for way in [
            "open", "uring", "worker", "thread", "path", "access", "mknod",
        ] {
            assert_eq!(by(&sandbox, "a", way, 7), (7, 0, 0), "{way}");
        }
        for (node, times) in [(&block, 3), (&overlay, 5)] {
            let words = format!("open {} {times}", node.path.display());
            assert_ne!(opens(&sandbox, "a", &words).2, EPERM);
        }
        let path = format!("{}/a", sandbox.cgroup);
        let usage = sandbox.run(&["--json", "usage", &path]).done().json();
        let meters = usage["cgroups"][0]["meters"].as_array().unwrap();
        let own = |device: &str| {
            let mut of_opens = meters.iter().filter(|m| m["meter"] == "device_opens");
            of_opens.find(|m| m["labels"]["dev"] == device).unwrap()["own"].clone()
        };
        assert_eq!(own("1:5"), 4 * 7 + 5, "{hook}: {usage}");
        assert_eq!(own("7:0"), 3, "{hook}: {usage}");
        sandbox.run(&["meter", "disable", "device"]).done();
    }
    // Without any of them it cannot be had, and each is told.
    let refused = sandbox.run_without("trampolines,kprobes,cgroup_device", &enable);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("none of its 3 ways"), "{refused:?}");
}

/// Five levels: charged at all or at none, held by the one that has least.
#[test]
fn an_open_is_charged_at_every_level_or_at_none() {
    let mut sandbox = Sandbox::new();
    let paths = ["a", "a/b", "a/b/c", "a/b/c/d"];
    for path in paths {
        sandbox.child(path);
    }
    let amounts = [
        ("", 20),
        ("/a", 18),
        ("/a/b", 6),
        ("/a/b/c", 10),
        ("/a/b/c/d", 9),
    ];
    let ids = amounts.map(|(cgroup, amount): (&str, u64)| {
        limit(
            &sandbox,
            cgroup,
            "device_opens",
            &amount.to_string(),
            "deny:EPERM",
        )
    });
    assert_eq!(by(&sandbox, "a/b/c/d", "open", 8), (6, 2, EPERM));
    assert_eq!(ids.map(|id| used(&sandbox, id)), [6; 5]);
    assert_eq!(by(&sandbox, "a", "open", 20), (12, 8, EPERM));
    assert_eq!(ids.map(|id| used(&sandbox, id)), [18, 18, 6, 6, 6]);
    // One that is made later is held by what is above it.
    sandbox.child("a/b/late");
    assert_eq!(by(&sandbox, "a/b/late", "open", 2), (0, 2, EPERM));
    assert_eq!(by(&sandbox, "", "open", 4), (2, 2, EPERM));
}

/// Many at once, in two cgroups below a third: not one too many, and not one lost.
#[test]
fn opens_at_once_are_exact() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("b");
    let top = limit(&sandbox, "", "device_opens", "1500", "deny:EPERM");
    let a = limit(&sandbox, "/a", "device_opens", "1000", "deny:EPERM");
    let words = format!("open {DEVICE} 500 4");
    let begin = |cgroup: &str| {
        let mut command = client_in(&sandbox, cgroup, &words);
        command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let all = [begin("a"), begin("b")];
    let [in_a, in_b] = all.map(|child| told(&Ran::from(child.wait_with_output().unwrap()).out));
    assert_eq!(in_a.0 + in_b.0, 1500, "{in_a:?} {in_b:?}");
    assert!(in_a.0 <= 1000, "{in_a:?}");
    assert_eq!(used(&sandbox, top), 1500);
    assert_eq!(used(&sandbox, a), in_a.0);
}

/// A program of others that is attached further down: it refuses on and what it refuses is not charged,
/// and it goes on when ours is gone.
#[test]
fn programs_of_others_stay_in_force_beside_it() {
    let (refuses, allows) = (others(0), others(1));
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("a/b");
    let attach = |prog: &Prog, cgroup: &str| attach(prog, &sandbox.directory.join(cgroup));
    let before = attach(&refuses, "a/b");
    let _open = attach(&allows, "a");
    let id = limit(&sandbox, "/a", "device_opens", "3", "deny:EDQUOT");
    assert_eq!(by(&sandbox, "a/b", "open", 2), (0, 2, EPERM));
    assert_eq!(stands(&sandbox, id), (0, 3, 0));
    assert_eq!(by(&sandbox, "a", "open", 2), (2, 0, 0));
    // One that comes when ours is there; ours has nothing left, and does not let pass what it refuses.
    drop(before);
    assert_eq!(by(&sandbox, "a/b", "open", 2), (1, 1, EDQUOT));
    let _after = attach(&refuses, "a/b");
    assert_eq!(by(&sandbox, "a/b", "open", 2), (0, 2, EPERM));
    assert_eq!(stands(&sandbox, id), (3, 0, 1));
    cgtap(&sandbox, &["detach", "--all"]).done();
    assert_eq!(by(&sandbox, "a/b", "open", 2), (0, 2, EPERM));
    assert_eq!(by(&sandbox, "a", "open", 2), (2, 0, 0));
}

/// What is open goes on; who was killed has had what it had; a cgroup that a pattern matches later is held
/// from its first open on.
#[test]
fn it_holds_with_no_process_alive_and_for_what_comes() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    let id = limit(&sandbox, "/a", "device_opens", "3", "deny:EPERM");
    let mut held = client_in(&sandbox, "a", &format!("hold {DEVICE} 2"));
    let held = Running(held.stdout(std::process::Stdio::null()).spawn().unwrap());
    wait_until("two opens", || used(&sandbox, id) == 2);
    // `kill -9`.
    drop(held);
    assert_eq!(by(&sandbox, "a", "open", 3), (1, 2, EPERM));
    assert_eq!(stands(&sandbox, id), (3, 0, 2));
    clear(&sandbox);
    let policy = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "[[limits]]\ncgroup = \"{}/pod*\"\nmeter = \"device_opens\"\namount = \"2\"\non = \
         \"deny:EPERM\"\n",
        sandbox.cgroup
    );
    std::fs::write(policy.path(), text).unwrap();
    cgtap(&sandbox, &["apply", policy.path().to_str().unwrap()]).done();
    for name in ["pod1", "pod2"] {
        sandbox.child(name);
        assert_eq!(by(&sandbox, name, "open", 5), (2, 3, EPERM), "{name}");
    }
    assert_eq!(by(&sandbox, "a", "open", 5), (5, 0, 0));
}

/// Without any of the gates it is refused, with what does without one. Where the meter cannot be had either,
/// nothing does.
#[test]
fn without_a_gate_it_is_refused_in_words() {
    let sandbox = Sandbox::new();
    let refused = |meter: &str, on: &str, lacking: &str| {
        let words = ["limit", "set", &sandbox.cgroup, meter, "1", "--on", on];
        let refused = sandbox.run_without(lacking, &words);
        assert_eq!(refused.status, 1, "{refused:?}");
        refused.err
    };
    let said = refused("drm_ioctl_calls", "deny:EDQUOT", "bpf_lsm,trampolines");
    for words in ["lsm=", "trampolines", "--on freeze"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let lacking = "bpf_lsm,trampolines,kprobes,cgroup_device";
    for on in ["deny:EPERM", "observe"] {
        let said = refused("device_opens", on, lacking);
        for words in ["kprobes", "CONFIG_CGROUP_BPF", "none of its 3 ways"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(!said.contains("--on freeze"), "{said}");
    }
}

/// Calls that only a security hook could refuse, where there is none: opening the device is refused instead,
/// to those that ask for it by force, and who has it open goes on.
#[test]
fn what_cannot_be_refused_is_kept_from_opening_by_force() {
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("b");
    let meters = tempfile::tempdir().unwrap();
    let text = r#"
        name = "zeros"
        help = "Calls of getsid, which stand for what is done with a device"
        [values.calls]
        help = "Calls"
        [[probes]]
        hook = "tracepoint:syscalls/sys_enter_getsid"
        do.calls = "count()"
        [[gates]]
        hook = "lsm:file_ioctl"
        also = ["lsm:file_ioctl_compat"]
        if = "cmd == 1"
        holds = ["calls"]
        deny = "EDQUOT"
        [[gates.else]]
        hook = "cgroup:dev"
        if = "major == 1 && minor == 5"
    "#;
    std::fs::write(meters.path().join("zeros.toml"), text).unwrap();
    let cgroup = format!("{}/a", sandbox.cgroup);
    let set = |more: &[&str]| {
        let meters = meters.path().to_str().unwrap();
        let words = [
            "limit",
            "--meters",
            meters,
            "set",
            &cgroup,
            "zeros_calls",
            "3",
        ];
        cgtap(
            &sandbox,
            &[&words[..], &["--on", "deny:EDQUOT"], more].concat(),
        )
    };
    let refused = set(&[]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("which --force does"), "{refused:?}");
    let done = set(&["--force"]).done();
    assert!(done.err.contains("cgroup:dev is shut until"), "{done:?}");
    assert!(
        done.err.contains("who has the device open goes on"),
        "{done:?}"
    );
    assert_eq!(by(&sandbox, "a", "open", 2), (2, 0, 0));
    assert_eq!(by(&sandbox, "a", "use", 4), (4, 0, 0));
    assert_eq!(by(&sandbox, "a", "open", 2), (0, 2, EDQUOT));
    assert_eq!(opens(&sandbox, "a", "open /dev/full 2"), (2, 0, 0));
    assert_eq!(by(&sandbox, "b", "open", 2), (2, 0, 0));
    let explained = cgtap(&sandbox, &["explain", &cgroup]).done().out;
    assert!(
        explained.contains("who has the device open goes on"),
        "{explained}"
    );
}

/// A gate at one level and at five, whose budgets it knows and whose it finds, beside a program that allows
/// everything: the least time of several runs of the same loop, since what else a machine does only adds.
#[test]
fn a_gate_costs_little() {
    // In a guest without KVM applying takes longer than the loop: one round, the loop several times.
    let is_light = std::env::var_os("CGTAP_TEST_LIGHT").is_some();
    let (rounds, runs, times_opened) = if is_light {
        (1, 7, 1_000)
    } else {
        (5, 1, 20_000)
    };
    let mut sandbox = Sandbox::new();
    let levels = ["a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/e"];
    let found = ["p", "p/p", "p/p/p", "p/p/p/p", "p/p/p/p/p"];
    let others_of_it = ["one", "none", "pod", "pod/inner"];
    for name in levels.iter().chain(&found).chain(&others_of_it) {
        sandbox.child(name);
    }
    let policy = |names: &[&str], pattern: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        let limit = |name: &&str| {
            let cgroup = format!("{}/{}", sandbox.cgroup, name.replace('p', pattern));
            format!(
                "[[limits]]\ncgroup = \"{cgroup}\"\nmeter = \"device_opens\"\namount = \"1G\"\n"
            )
        };
        std::fs::write(file.path(), names.iter().map(limit).collect::<String>()).unwrap();
        file
    };
    let known = policy(&[&levels[..], &["one"]].concat(), "p");
    // A budget that is found is its cgroup's own, whatever stands above it.
    let one_pattern = policy(&["pod"], "p*");
    let five_patterns = policy(&found, "p*");
    let apply = |policy: &tempfile::NamedTempFile| {
        cgtap(&sandbox, &["apply", policy.path().to_str().unwrap()]).done();
    };
    let run_once = |cgroup: &str| -> u64 {
        let words = format!("open {DEVICE} {times_opened}");
        let ran = Ran::of(&mut client_in(&sandbox, cgroup, &words)).done();
        assert!(
            ran.out.starts_with(&format!("{times_opened} 0 0 ")),
            "{ran:?}"
        );
        ran.out.split_whitespace().last().unwrap().parse().unwrap()
    };
    let prog = others(1);
    let mut least_ns = [u64::MAX; 8];
    let mut run = |of: usize, cgroup: &str| {
        for _ in 0..runs {
            least_ns[of] = least_ns[of].min(run_once(cgroup));
        }
    };
    for _ in 0..rounds {
        run(0, "none");
        let link = attach(&prog, &sandbox.directory);
        run(1, "none");
        drop(link);
        apply(&known);
        run(2, "none");
        run(3, "one");
        run(4, "a/b/c/d/e");
        clear(&sandbox);
        apply(&one_pattern);
        run(5, "pod");
        run(6, "pod/inner");
        clear(&sandbox);
        apply(&five_patterns);
        run(7, "p/p/p/p/p");
        clear(&sandbox);
    }
    let bare = least_ns[1] as f64;
    let [without, _, none, one, five, found, below, five_found] =
        least_ns.map(|least| least as f64 / bare);
    println!(
        "loop time against a program that allows everything: without any {without:.3}, a cgroup without a \
         limit {none:.3}, one level {one:.3}, five levels {five:.3}; by a pattern {found:.3}, in a cgroup \
         below {below:.3}, by patterns at five levels {five_found:.3}"
    );
    assert!(one < 2.0 && five < 2.5, "{one} {five}");
    assert!(below < 2.5 && five_found < 3.0, "{below} {five_found}");
}
