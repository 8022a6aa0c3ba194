//! `cgtap apply` and `cgtap serve --config`, as a user calls them: what is set, kept, cleared, and that a
//! policy that is wrong changes nothing. Needs root, cgroup2 and a bpffs. The values are such that are
//! charged after the event, so no kernel needs a gate for them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

#[path = "support/prometheus.rs"]
#[allow(dead_code, reason = "only its client is used")]
mod prometheus;
mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use prometheus::{get, promtool};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Ran, Sandbox, killed_after, run};

/// A sandbox and a policy file of a test's own.
struct Policy {
    sandbox: Sandbox,
    dir: tempfile::TempDir,
}

/// A limit as it is written; `more` are further lines.
fn limit(cgroup: &str, meter: &str, amount: &str, more: &str) -> String {
    format!(
        "[[limits]]\ncgroup = \"{cgroup}\"\nmeter = \"{meter}\"\namount = \"{amount}\"\n\
         on = \"observe\"\n{more}\n"
    )
}

impl Policy {
    fn new() -> Self {
        Self {
            sandbox: Sandbox::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    fn apply_words(&self, words: &[&str]) -> Ran {
        let path = self.path();
        let mut all = vec!["apply", path.to_str().unwrap()];
        all.extend(words);
        self.sandbox.run(&all)
    }

    /// Writes the policy and applies it; what that changed.
    fn apply(&self, text: &str) -> Value {
        self.write(text);
        self.apply_words(&["--json"]).done().json()
    }

    fn limits(&self) -> Vec<Value> {
        let listed = self.sandbox.run(&["--json", "limit", "list"]).done().json();
        listed["limits"].as_array().unwrap().clone()
    }

    /// Cgroup, value, amount and whether a policy set it, of each limit.
    fn told(&self) -> Vec<(String, String, u64, bool)> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let of = |l: &Value| {
            let policy = l["policy"].as_bool().unwrap();
            let amount = l["amount"].as_u64().unwrap();
            (text(&l["cgroup"]), text(&l["meter"]), amount, policy)
        };
        self.limits().iter().map(of).collect()
    }

    fn amounts(&self) -> Vec<u64> {
        self.told().into_iter().map(|l| l.2).collect()
    }
}

/// What was done, change by change.
fn acts(done: &Value) -> Vec<&str> {
    let changes = done["changes"].as_array().unwrap().iter();
    changes.map(|c| c["change"].as_str().unwrap()).collect()
}

#[test]
fn a_policy_is_applied_kept_changed_and_taken_back() {
    let mut policy = Policy::new();
    let (a, b) = (policy.sandbox.child("a"), policy.sandbox.child("b"));
    let first = format!(
        "[[meters]]\nname = \"tasks\"\ncgroup = \"{}\"\n{}{}",
        policy.sandbox.cgroup,
        limit(&a, "tasks_ended", "1000", ""),
        limit(&b, "cpu_time", "300ms/1s", "burst = \"1s\""),
    );

    // Without applying, nothing is made, not even a state.
    policy.write(&first);
    let dry = policy.apply_words(&["--json", "--dry-run"]).done().json();
    assert_eq!(dry["applied"], false);
    assert_eq!(acts(&dry), ["enable", "set", "set"]);
    assert!(!policy.sandbox.state.exists());
    let dry = policy.apply_words(&["--dry-run"]).done().out;
    assert!(
        dry.contains(&format!("+ limit {a} tasks_ended 1000 on observe\n")),
        "{dry}"
    );
    assert!(
        dry.contains("cpu_time 300ms/1s burst 1s on observe"),
        "{dry}"
    );
    assert!(
        dry.contains("= 0 kept\n") && dry.contains("later too, with no process"),
        "{dry}"
    );

    let done = policy.apply(&first);
    assert_eq!((&done["applied"], &done["kept"]), (&true.into(), &0.into()));
    assert_eq!(acts(&done), ["enable", "set", "set"]);
    assert_eq!(done["changes"][1]["covers_later"], true);
    assert_eq!(done["changes"][1]["on"], "observe");
    assert_eq!(policy.told().len(), 2);
    let meters = policy.sandbox.run(&["--json", "usage", &a]).done().json();
    assert!(meters["cgroups"][0]["cgroup"] == a.as_str(), "{meters}");

    // Again: nothing is touched, and what was used counts on.
    policy
        .sandbox
        .inside("a", "for n in 1 2 3; do /bin/true; done; :");
    let before = policy.limits();
    let used = before[0]["used"].as_u64().unwrap();
    assert!(used >= 3, "{before:?}");
    let done = policy.apply(&first);
    assert_eq!((acts(&done).len(), &done["kept"]), (0, &3.into()));
    policy.sandbox.inside("a", "/bin/true; :");
    let after = policy.limits();
    assert!(after[0]["used"].as_u64().unwrap() > used, "{after:?}");
    assert_eq!(after[0]["id"], before[0]["id"]);

    // Another amount, and one limit less; one that was set by hand stays.
    policy.sandbox.child("hand");
    let hand = format!("{}/hand", policy.sandbox.cgroup);
    policy
        .sandbox
        .run(&["limit", "set", &hand, "tasks_ended", "7", "--on", "observe"])
        .done();
    let second = limit(&a, "tasks_ended", "2000", "");
    policy.write(&second);
    let dry = policy.apply_words(&["-n"]).done().out;
    assert!(
        dry.contains(&format!(
            "~ limit {a} tasks_ended 2000 on observe, was 1000 on observe\n"
        )),
        "{dry}"
    );
    assert!(dry.contains(&format!("- limit {b} cpu_time")), "{dry}");
    assert_eq!(policy.amounts(), [1000, 300_000_000, 7]);
    let done = policy.apply(&second);
    assert_eq!(acts(&done), ["change", "clear"]);
    assert_eq!(done["changes"][0]["was"]["amount"], 1000);
    let born = |cgroup: &str, amount, policy| {
        (cgroup.to_owned(), "tasks_ended".to_owned(), amount, policy)
    };
    assert_eq!(policy.told(), [born(&a, 2000, true), born(&hand, 7, false)]);
    assert!(policy.limits()[0]["used"].as_u64().unwrap() > used);

    // What is set by hand is no longer a policy's to clear.
    policy
        .sandbox
        .run(&["limit", "set", &a, "tasks_ended", "2000", "--on", "observe"])
        .done();
    let done = policy.apply("limits = []");
    assert_eq!(acts(&done), Vec::<&str>::new());
    assert_eq!(
        policy.told(),
        [born(&a, 2000, false), born(&hand, 7, false)]
    );
    // The meter, which no policy names any more, counts on.
    let meters = policy.sandbox.run(&["usage", &a]).done();
    assert!(meters.out.contains("tasks_ended"), "{meters:?}");
}

#[test]
fn a_pattern_limits_each_and_a_path_goes_before_it() {
    let mut policy = Policy::new();
    let top = policy.sandbox.cgroup.clone();
    let pods = ["pod1", "pod2", "other"].map(|name| policy.sandbox.child(name));
    policy.sandbox.child("pod1/below");
    let text = format!(
        "{}{}",
        limit(&format!("{top}/pod?"), "tasks_ended", "10", ""),
        limit(&pods[1], "tasks_ended", "20", "")
    );
    let done = policy.apply(&text);
    assert_eq!(acts(&done), ["set", "set", "follow"]);
    assert_eq!(done["changes"][2]["cgroup"], format!("{top}/pod?"));
    assert_eq!(done["changes"][2]["amount"], 10);
    let born = |cgroup: &str, amount| (cgroup.to_owned(), "tasks_ended".to_owned(), amount, true);
    assert_eq!(policy.told(), [born(&pods[0], 10), born(&pods[1], 20)]);
    // What is below is charged to it.
    policy.sandbox.inside("pod1/below", "/bin/true; :");
    assert!(policy.limits()[0]["used"].as_u64().unwrap() > 0);
    // One that comes later is limited by itself, and the dry run says so.
    let late = policy.sandbox.child("pod3");
    policy.sandbox.inside("pod3", "/bin/true; :");
    let dry = policy.apply_words(&["--dry-run"]).done().out;
    assert!(dry.contains("3 cgroups match now"), "{dry}");
    assert!(dry.contains("held from its first event on"), "{dry}");
    assert!(dry.contains("= 4 kept"), "{dry}");
    assert_eq!(policy.told()[2], born(&late, 10));
    let used = policy.limits()[2]["used"].as_u64().unwrap();
    assert!(used > 0);
    let done = policy.apply(&text);
    assert_eq!((acts(&done), &done["kept"]), (Vec::new(), &4.into()));
    assert_eq!(policy.limits()[2]["used"], used);
    let explained = policy.sandbox.run(&["explain", &late]).done().out;
    assert!(explained.contains("tasks_ended of"), "{explained}");
    let list = policy.sandbox.run(&["limit", "list"]).done();
    assert!(
        list.err
            .contains("matches later: 10 each, 4095 places left"),
        "{list:?}"
    );

    // By hand, and back by the policy: what was used counts on.
    policy
        .sandbox
        .run(&[
            "limit",
            "set",
            &late,
            "tasks_ended",
            "30",
            "--on",
            "observe",
        ])
        .done();
    assert_eq!(policy.limits()[2]["used"], used);
    assert_eq!(acts(&policy.apply(&text)), ["change"]);
    assert_eq!(policy.told()[2], born(&late, 10));
    assert_eq!(policy.limits()[2]["used"], used);

    // What no program compares is said, and waits for the next apply.
    let wide = limit(&format!("{top}/*o*"), "tasks_ended", "10", "");
    let done = policy.apply(&wide);
    assert_eq!(acts(&done), ["set", "change", "unfollow"]);
    let dry = policy.apply_words(&["--dry-run"]).done().out;
    assert!(dry.contains("after the next apply"), "{dry}");
    assert!(dry.contains("more than one *"), "{dry}");
    let later = policy.sandbox.child("pod4");
    assert!(!policy.told().iter().any(|l| l.0 == later));
}

/// Whenever apply is killed, what it leaves is the policy or none: what is made then is limited, or not,
/// as the next command says, and the next apply makes it whole.
#[test]
fn a_killed_apply_leaves_a_pattern_or_none() {
    let mut policy = Policy::new();
    let top = policy.sandbox.cgroup.clone();
    policy.sandbox.child("pod0");
    let text = limit(&format!("{top}/pod*"), "tasks_ended", "10", "");
    policy.write(&text);
    let path = policy.path();
    let begin = Instant::now();
    policy.apply(&text);
    let mut wait = begin.elapsed() / 2;
    policy.sandbox.run(&["detach", "--all"]).done();
    // Ever nearer to the moment at which it comes in force, on both sides of it, however fast this
    // machine is by then.
    let (mut in_force, mut killed, mut rounds) = (0, 0, 0);
    let (mut was_in_force, mut has_both) = (false, false);
    while rounds < 12 || (rounds < 48 && !has_both) {
        rounds += 1;
        let mut apply = policy.sandbox.cgtap(&["apply", path.to_str().unwrap()]);
        killed += u32::from(killed_after(apply.stdout(Stdio::null()), wait));
        let listed = policy
            .sandbox
            .run(&["--json", "limit", "list"])
            .done()
            .json();
        let is_in_force = !listed["patterns"].as_array().unwrap().is_empty();
        in_force += usize::from(is_in_force);
        let name = format!("pod{rounds}");
        let born = policy.sandbox.child(&name);
        policy.sandbox.inside(&name, "/bin/true; :");
        let limits = policy.limits();
        let found = limits.iter().find(|l| l["cgroup"] == born.as_str());
        assert_eq!(found.is_some(), is_in_force, "{limits:?}");
        if let Some(found) = found {
            assert!(found["used"].as_u64().unwrap() > 0, "{found}");
        }
        // One that is in force is applied once more over itself, and then taken back.
        if was_in_force {
            assert!(is_in_force, "an apply took back what was in force");
            policy.sandbox.run(&["detach", "--all"]).done();
            was_in_force = false;
        } else {
            wait = if is_in_force {
                wait * 2 / 3
            } else {
                wait * 3 / 2
            };
            was_in_force = is_in_force;
        }
        has_both = killed >= 4 && (1..rounds).contains(&in_force);
    }
    println!("{killed} of {rounds} were killed, {in_force} had it in force");
    assert!(has_both);
    policy.apply(&text);
    assert_eq!(policy.told().len(), rounds + 1);
    // All limits are those that are to come, too.
    let cleared = policy.sandbox.run(&["limit", "clear", "--all"]).done();
    assert!(
        cleared.err.contains("limited in tasks_ended no more"),
        "{cleared:?}"
    );
    policy.sandbox.child("pod-late");
    assert_eq!(policy.told(), []);
    assert!(policy.sandbox.run(&["doctor", "--repair"]).done().out.len() > 1);
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_changes_nothing() {
    let mut policy = Policy::new();
    let top = policy.sandbox.cgroup.clone();
    let (a, b) = (policy.sandbox.child("a"), policy.sandbox.child("b"));
    let good = limit(&a, "tasks_ended", "10", "");
    policy.apply(&good);
    let before = policy.told();
    let path = policy.path().display().to_string();
    let with = |more: &str| format!("{}{more}", limit(&a, "tasks_ended", "11", ""));
    // The text, the line that is wrong, and something that is said of it.
    let wrong = [
        (with("[[limits]]\ncgroup = \"x"), 8, "basic string"),
        (with("[[limts]]\n"), 7, "unknown field `limts`"),
        (
            with(&limit(&format!("{top}/none"), "tasks_ended", "1", "")),
            8,
            "there is no cgroup",
        ),
        (with(&limit("/", "tasks_ended", "1", "")), 8, "the root"),
        (
            with(&limit("pid:1", "tasks_ended", "1", "")),
            8,
            "name its cgroup",
        ),
        (with(&limit(&b, "tasks_edned", "1", "")), 9, "tasks_ended"),
        (
            with(&limit(&b, "tasks_ended", "1GiB", "")),
            10,
            "does not fit",
        ),
        (
            with(&limit(&b, "tasks_ended", "1/1s", "burst = \"1/1s\"")),
            12,
            "without a period",
        ),
        (
            with(&limit(&b, "tasks_ended{x=1}", "1", "")),
            9,
            "no label x",
        ),
        (
            with(&limit(&a, "tasks_ended", "12", "")),
            8,
            "limited on line 2 too",
        ),
        (
            with(&format!(
                "{}{}",
                limit(&format!("{top}/b*"), "tasks_ended", "1", ""),
                limit(&format!("{top}/?"), "tasks_ended", "2", "")
            )),
            14,
            "limited on line 8 too",
        ),
        (with("[[meters]]\nname = \"taks\"\n"), 8, "tasks"),
        (
            with("[[meters]]\nname = \"cpu\"\n[[meters]]\nname = \"cpu\"\n"),
            10,
            "line 8 too",
        ),
    ];
    for (text, line, why) in &wrong {
        policy.write(text);
        for words in [&["--dry-run"][..], &[]] {
            let ran = policy.apply_words(words);
            assert_ne!(ran.status, 0, "{ran:?}");
            assert!(ran.err.contains(&format!("{path}:{line}: ")), "{ran:?}");
            assert!(ran.err.contains(why), "{why}: {ran:?}");
        }
        assert_eq!(policy.told(), before, "{text}");
    }
    let missing = policy.dir.path().join("none.toml");
    let ran = policy.sandbox.run(&["apply", missing.to_str().unwrap()]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("cannot read the policy"), "{ran:?}");
    assert_eq!(policy.told(), before);
}

#[test]
fn all_of_it_is_applied_or_nothing() {
    let mut policy = Policy::new();
    let mut at = policy.sandbox.child("0");
    let mut text = String::from("[[meters]]\nname = \"tasks\"\n");
    // More limits of one value above one another than there can be: found out late, under the lock.
    let mut below = String::from("0");
    for depth in 1..40 {
        text += &limit(&at, "tasks_ended", "10", "");
        below += &format!("/{depth}");
        at = policy.sandbox.child(&below);
    }
    policy.write(&text);
    let ran = policy.apply_words(&[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("above one another"), "{ran:?}");
    assert_eq!(policy.told(), []);
    let usage = policy.sandbox.run(&["usage"]).done();
    assert!(usage.err.contains("no meter is enabled"), "{usage:?}");
}

#[test]
fn a_meter_file_beside_the_policy_has_values_to_limit() {
    let mut policy = Policy::new();
    let a = policy.sandbox.child("a");
    let meter = "name = \"opens\"\nhelp = \"Files opened\"\nvalues.calls = { help = \"Calls\" }\n\
                 [[probes]]\nhook = \"tracepoint:syscalls/sys_enter_openat\"\ndo.calls = \"count()\"\n";
    std::fs::write(policy.dir.path().join("opens.toml"), meter).unwrap();
    let text = format!(
        "[[meters]]\nfile = \"opens.toml\"\ncgroup = \"{a}\"\n{}",
        limit(&a, "opens_calls", "5/1m", "")
    );
    let done = policy.apply(&text);
    assert_eq!(acts(&done), ["enable", "set"]);
    policy.sandbox.inside("a", "cat /dev/null");
    assert!(policy.limits()[0]["used"].as_u64().unwrap() > 0);
    // It counts elsewhere than the policy now says.
    policy.write("[[meters]]\nfile = \"opens.toml\"\n");
    let ran = policy.apply_words(&[]);
    assert!(ran.err.contains("counts for"), "{ran:?}");
}

#[test]
fn the_schema_is_that_of_the_documentation() {
    let ran = run(&["apply", "--schema"]).done();
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policy.schema.json");
    assert_eq!(ran.out, std::fs::read_to_string(docs).unwrap());
    let ran = run(&["apply"]);
    assert_eq!(ran.status, 2, "{ran:?}");
}

/// A server that keeps a policy in force.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Serving {
    fn new(policy: &Policy) -> Self {
        let path = policy.path();
        let mut child = policy
            .sandbox
            .cgtap(&["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving http://");
        let address = address.and_then(|a| a.strip_suffix("/metrics"));
        Self {
            address: address.unwrap_or_else(|| panic!("{line}")).parse().unwrap(),
            child,
        }
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> f64 {
        let page = get(self.address, "/metrics").body;
        let mut lines = page.lines();
        let value = lines.find_map(|l| l.strip_prefix(&format!("{name} ")));
        value
            .unwrap_or_else(|| panic!("no {name} in {page}"))
            .parse()
            .unwrap()
    }

    /// Ends it, and returns what it said on standard error.
    fn end(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let mut err = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut err).unwrap();
        err
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `is` so.
#[track_caller]
fn until(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn serve_keeps_a_policy_in_force() {
    let mut policy = Policy::new();
    let top = policy.sandbox.cgroup.clone();
    let a = policy.sandbox.child("a");
    let text = |amount: &str| {
        limit(&a, "tasks_ended", amount, "") + &limit(&format!("{top}/pod*"), "cpu_time", "2s", "")
    };
    policy.write(&text("10"));
    let serving = Serving::new(&policy);
    assert_eq!(policy.amounts(), [10]);
    let begun = serving.metric("cgtap_policy_applied_timestamp_seconds");
    assert!(begun > 1.7e9, "{begun}");
    assert_eq!(serving.metric("cgtap_policy_ok"), 1.0);
    assert_eq!(get(serving.address, "/healthz").body, "ok\n");

    assert_eq!(promtool(&get(serving.address, "/metrics").body), "");
    // CAP_DAC_READ_SEARCH is 2, CAP_SYS_ADMIN 21: what follows is applied with these. CAP_SYS_PTRACE,
    // 19, is for a meter that reads processes, which a policy may enable.
    let tasks = std::fs::read_dir(format!("/proc/{}/task", serving.child.id())).unwrap();
    for task in tasks {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let kept = format!("CapEff:\t{:016x}", 1 << 2 | 1 << 19 | 1 << 21);
        assert!(status.lines().any(|l| l == kept), "{status}");
    }

    // Another value, on hooks that nothing stands at yet: all of it is loaded by what it may do still.
    policy.write(&(text("20") + &limit(&a, "cpu_time", "1s", "")));
    until("the change is applied", || {
        policy.amounts() == [1_000_000_000, 20]
    });
    until("the time of it is told", || {
        serving.metric("cgtap_policy_applied_timestamp_seconds") > begun
    });

    // A new cgroup that the pattern matches.
    let pod = policy.sandbox.child("pod1");
    until("the pod is limited", || {
        policy.told().iter().any(|l| l.0 == pod && l.3)
    });

    // A broken one is said, and changes nothing; the pattern goes on being seen to.
    policy.write(&(text("30") + "[[limits]]\n"));
    until("the mistake is noticed", || {
        serving.metric("cgtap_policy_ok") == 0.0
    });
    let health = get(serving.address, "/healthz");
    assert_eq!(health.status, 200);
    assert!(health.body.contains("missing field"), "{health:?}");
    assert!(policy.amounts().contains(&20));
    let pod = policy.sandbox.child("pod2");
    until("the second pod is limited", || {
        policy.told().iter().any(|l| l.0 == pod)
    });
    assert_eq!(serving.metric("cgtap_policy_ok"), 0.0);

    // Mended, it is applied. What had been there goes with it, and comes from nothing.
    policy.write(&text("40"));
    until("the policy is well again", || {
        serving.metric("cgtap_policy_ok") == 1.0
    });
    assert!(policy.amounts().contains(&40));
    policy.sandbox.run(&["detach", "--all"]).done();
    until("the state is made anew", || policy.amounts().contains(&40));
    let said = serving.end();
    assert_eq!(said.matches("missing field").count(), 1, "{said}");
    assert!(said.contains("1 set"), "{said}");
    // Nothing goes with the server.
    assert!(policy.amounts().contains(&40));
}

#[test]
fn serve_does_not_begin_with_a_broken_policy() {
    let policy = Policy::new();
    policy.write("[[limits]]\n");
    let path = policy.path();
    let words = ["serve", "--listen", "127.0.0.1:0", "--config"];
    let ran = Ran::of(policy.sandbox.cgtap(&words).arg(path));
    assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("policy.toml:1: missing field"), "{ran:?}");
    assert!(!policy.sandbox.state.exists());
}
