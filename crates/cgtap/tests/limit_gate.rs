//! Limits at a gate that every kernel has: the tracepoint behind `BPF_PROG_TEST_RUN` may be written, and
//! what is written is what the caller gets. However many ask at once, what is let through is the cap to
//! the last one, at every level or at none. Kernels that preempt a program in the middle (7.3) run none for
//! what others do on that CPU meanwhile: what passed so is told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "support/packets.rs"]
mod packets;
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::time::{Duration, Instant};

use cgtap::engine::{CgroupRef, ErrorKind, LimitChange, LimitReport, LimitRequest};
use cgtap::id::LimitId;
use cgtap::limit::record::Action;
use cgtap_sys::Errno;
use packets::{EDQUOT, end, request};
use support::Sandbox;

fn set(sandbox: &Sandbox, all: Vec<LimitRequest>) -> Vec<LimitReport> {
    let change = LimitChange {
        set: all,
        clear: Vec::new(),
        patterns: None,
    };
    packets::change(sandbox, &change)
}

fn limit(sandbox: &Sandbox, cgroup: &str, value: &str, amount: u64) -> LimitId {
    set(
        sandbox,
        vec![request(sandbox.cgroup(cgroup), value, amount)],
    )[0]
    .id
}

fn stands(sandbox: &Sandbox, id: LimitId) -> LimitReport {
    let all = sandbox.engine.limits(None).unwrap();
    all.into_iter().find(|l| l.id == id).unwrap()
}

fn clear(sandbox: &Sandbox) {
    let clear = sandbox.engine.limits(None).unwrap();
    let change = LimitChange {
        set: Vec::new(),
        clear: clear.into_iter().map(|l| l.id).collect(),
        patterns: None,
    };
    sandbox.engine.change_limits(&change).unwrap();
}

/// A client, in a cgroup that is made if need be.
fn begin(sandbox: &Sandbox, cgroup: &str, threads: u32, times: &str) -> Child {
    std::fs::create_dir_all(sandbox.dir(cgroup)).unwrap();
    packets::begin(sandbox, cgroup, threads, times)
}

fn run(sandbox: &Sandbox, cgroup: &str, times: u32) -> (u64, u64, i64) {
    end(begin(sandbox, cgroup, 1, &times.to_string()))
}

#[test]
fn what_is_let_through_is_the_cap_to_the_last_one() {
    let sandbox = packets::alone("limit");
    let id = limit(&sandbox, "a", "runs", 5);
    assert_eq!(run(&sandbox, "a/x", 8), (5, 3, EDQUOT));
    assert_eq!(run(&sandbox, "b", 8), (8, 0, 0));
    let now = stands(&sandbox, id);
    assert_eq!((now.used, now.left, now.denied), (5, 0, 3));
    assert_eq!((now.denied_amount, now.charged), (3, "before"));
    let log = sandbox.engine.denials().unwrap();
    assert_eq!((log.denials.len(), log.lost), (3, 0));
    let last = log.denials.last().unwrap();
    assert_eq!(
        (last.asked, last.left, last.verdict.as_str()),
        (1, 0, "EDQUOT")
    );
    assert_eq!(last.comm, "packets");
    assert_eq!(last.cgroup, sandbox.path("a/x"));
    assert_eq!(last.level.as_deref(), Some(sandbox.path("a").as_str()));
    let explained = sandbox.engine.explain(&sandbox.cgroup("a/x")).unwrap();
    assert!(explained.limits[0].is_reached && explained.limits[0].free_in_ns.is_none());
    // Raised, it goes on from what was used; lowered below that, it is shut.
    assert_eq!(limit(&sandbox, "a", "runs", 7), id);
    assert_eq!(run(&sandbox, "a", 4), (2, 2, EDQUOT));
    limit(&sandbox, "a", "runs", 3);
    assert_eq!(run(&sandbox, "a", 1), (0, 1, EDQUOT));
    clear(&sandbox);
    assert_eq!(run(&sandbox, "a", 4), (4, 0, 0));
    // Nothing at all.
    limit(&sandbox, "a", "runs", 0);
    assert_eq!(run(&sandbox, "a", 2), (0, 2, EDQUOT));
}

/// Amounts that do not fit are refused whole, and what does fit at one level but not at another is
/// charged at none.
#[test]
fn a_charge_is_taken_at_every_level_or_at_none() {
    let sandbox = packets::alone("limit");
    let top = limit(&sandbox, "", "units", 40);
    let inner = limit(&sandbox, "a/b", "units", 30);
    let runs = limit(&sandbox, "a", "runs", 100);
    assert_eq!(run(&sandbox, "a/b", 6), (4, 2, EDQUOT));
    let used = |id| stands(&sandbox, id).used;
    assert_eq!((used(top), used(inner), used(runs)), (28, 28, 4));
    assert_eq!(run(&sandbox, "c", 3), (1, 2, EDQUOT));
    assert_eq!((used(top), used(inner), used(runs)), (35, 28, 4));
    // The inner one has room again, the outer one has not: neither is charged.
    limit(&sandbox, "a/b", "units", 300);
    assert_eq!(run(&sandbox, "a/b", 3), (0, 3, EDQUOT));
    assert_eq!((used(top), used(inner), used(runs)), (35, 28, 4));
    let denied = sandbox.engine.denials().unwrap().denials;
    assert_eq!(
        denied.last().unwrap().level.as_deref(),
        Some(sandbox.path("").as_str())
    );
}

/// Everybody asks at once, on all CPUs, in two cgroups below a third: not one too many, not one lost.
#[test]
fn concurrent_charges_are_exact_at_every_level() {
    let sandbox = packets::alone("limit");
    let top = limit(&sandbox, "", "runs", 15_000);
    let a = limit(&sandbox, "a", "runs", 10_000);
    let b = limit(&sandbox, "b", "runs", 10_000);
    let units = limit(&sandbox, "", "units", 1 << 40);
    let all = ["a", "b", "a/x"].map(|c| begin(&sandbox, c, 4, "4000"));
    let [in_a, in_b, in_x] = all.map(end);
    let used = |id| stands(&sandbox, id).used;
    let through = in_a.0 + in_b.0 + in_x.0;
    let missed = stands(&sandbox, top).missed;
    println!("{through} let through, {missed} of them and of others' missed");
    let is = |charged: u64, through: u64| (charged..=charged + missed).contains(&through);
    let charged = used(top);
    assert!(is(charged, through), "{charged} of {through}, {missed}");
    assert_eq!(used(units), charged * 7);
    assert!(is(used(a), in_a.0 + in_x.0), "{missed}");
    assert!(is(used(b), in_b.0), "{missed}");
    assert!(used(a) <= 10_000 && used(b) <= 10_000, "{in_a:?} {in_b:?}");
    // 48,000 asked: what one could not have the other could.
    assert!(
        charged <= 15_000 && is(15_000, through),
        "{charged} of {through}, {missed}"
    );
}

/// A task that moves between cgroups while it is charged, cgroups that come and go: the level above has
/// all of it, once.
#[test]
fn moves_births_and_ends_lose_nothing() {
    let sandbox = packets::alone("limit");
    let top = limit(&sandbox, "", "runs", 1 << 30);
    let a = limit(&sandbox, "a", "runs", 1 << 30);
    limit(&sandbox, "b", "runs", 1 << 30);
    let mut spinner = begin(&sandbox, "a", 2, "until");
    let mut line = String::new();
    let mut out = BufReader::new(spinner.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        let to = ["a", "b", "a/n", "c"][round % 4];
        let _ = std::fs::create_dir(sandbox.dir(to));
        let pid = spinner.id().to_string();
        std::fs::write(sandbox.dir(to).join("cgroup.procs"), pid).unwrap();
        if to == "b" {
            // Charged and removed, with a limit of its own.
            let _ = std::fs::remove_dir(sandbox.dir("a/n"));
        }
        round += 1;
    }
    std::fs::write(
        sandbox.dir("a").join("cgroup.procs"),
        spinner.id().to_string(),
    )
    .unwrap();
    drop(spinner.stdin.take());
    out.read_to_string(&mut line).unwrap();
    assert!(spinner.wait().unwrap().success());
    let words = line.lines().last().unwrap().split(' ').next().unwrap();
    let through: u64 = words.parse().unwrap();
    let whole = stands(&sandbox, top);
    assert!(
        (whole.used..=whole.used + whole.missed).contains(&through),
        "{through} in {round} moves: {whole:?}"
    );
    assert!(stands(&sandbox, a).used < through);
    // A limited cgroup that goes takes its limit with it, and nothing of what is above.
    sandbox.remove("b");
    sandbox.remove("c");
    let left = sandbox.engine.limits(None).unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(stands(&sandbox, top).used, whole.used);
}

/// While limits around it are set, changed and cleared, a spinner that is over its own gets nothing
/// through.
#[test]
fn no_change_opens_a_gap() {
    let sandbox = packets::alone("limit");
    let held = limit(&sandbox, "a", "runs", 1_000);
    let mut spinner = begin(&sandbox, "a/x", 2, "until");
    let mut line = String::new();
    let mut out = BufReader::new(spinner.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    for round in 0..6 {
        limit(&sandbox, "", "runs", 1 << (40 + round));
        limit(&sandbox, "a/x", "units", 1 << 50);
        limit(&sandbox, "a", "runs", 1_000);
        let inner = limit(&sandbox, "a/x", "runs", 1 << 50);
        let change = LimitChange {
            set: vec![request(sandbox.cgroup("a"), "units", 1 << (50 + round))],
            clear: vec![inner],
            patterns: None,
        };
        sandbox.engine.change_limits(&change).unwrap();
    }
    drop(spinner.stdin.take());
    out.read_to_string(&mut line).unwrap();
    assert!(spinner.wait().unwrap().success());
    let last = line.lines().last().unwrap();
    let through: u64 = last.split(' ').next().unwrap().parse().unwrap();
    let missed = stands(&sandbox, held).missed;
    assert!(
        (1_000..=1_000 + missed).contains(&through),
        "{last}, {missed}"
    );
}

/// A rate lets through what has come back, and no more than the burst at once.
#[test]
fn a_rate_lets_through_what_comes_back() {
    let sandbox = packets::alone("limit");
    let mut asked = request(sandbox.cgroup("a"), "runs", 500);
    asked.period = Some(Duration::from_secs(1));
    asked.burst = Some(50);
    let begun = Instant::now();
    let id = set(&sandbox, vec![asked])[0].id;
    let mut spinner = begin(&sandbox, "a", 2, "until");
    let mut out = BufReader::new(spinner.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let asking = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    let least = asking.elapsed().as_secs_f64();
    drop(spinner.stdin.take());
    out.read_to_string(&mut line).unwrap();
    assert!(spinner.wait().unwrap().success());
    let words = line.lines().last().unwrap().split(' ').next().unwrap();
    let through: f64 = words.parse().unwrap();
    let missed = stands(&sandbox, id).missed as f64;
    let most = 50.0 + begun.elapsed().as_secs_f64() * 500.0 + missed;
    assert!(through <= most + 1.0, "{through} of {most}");
    // It asked all the time. Longer than the burst lasts it may have had no CPU.
    assert!(through >= (least - 1.0) * 500.0, "{through} in {least} s");
}

/// Only of events with certain labels; observed only; by its bare name where it is asked.
#[test]
fn labels_and_observing() {
    let sandbox = packets::alone("limit");
    let mut odd = request(sandbox.cgroup("a"), "runs", 3);
    odd.labels.insert("parity".to_owned(), "odd".to_owned());
    let id = set(&sandbox, vec![odd])[0].id;
    let mut through = [0, 0];
    for _ in 0..20 {
        let child = begin(&sandbox, "a", 1, "2");
        let parity = (child.id() % 2) as usize;
        let (passed, refused, _) = end(child);
        through[parity] += passed;
        assert!(parity == 1 || refused == 0);
    }
    assert!(through[1] <= 3, "{through:?}");
    assert_eq!(stands(&sandbox, id).used, through[1]);
    clear(&sandbox);
    let mut seen = request(sandbox.cgroup("a"), "units", 20);
    seen.action = Some(Action::Observe);
    let id = set(&sandbox, vec![seen])[0].id;
    assert_eq!(run(&sandbox, "a", 5), (5, 0, 0));
    let now = stands(&sandbox, id);
    assert_eq!((now.used, now.denied, now.denied_amount), (14, 3, 21));
    let log = sandbox.engine.denials().unwrap().denials;
    assert_eq!(log.last().unwrap().verdict, "observed");
}

/// What cannot be limited says why, and what is in force stays.
#[test]
fn what_is_wrong_changes_nothing() {
    let sandbox = packets::alone("limit");
    let id = limit(&sandbox, "a", "runs", 5);
    let refused = |request: LimitRequest| {
        let change = LimitChange {
            set: vec![self::request(sandbox.cgroup("b"), "runs", 5), request],
            clear: Vec::new(),
            patterns: None,
        };
        let error = sandbox.engine.change_limits(&change).unwrap_err();
        assert_eq!(sandbox.engine.limits(None).unwrap().len(), 1, "{error}");
        (error.kind(), error.to_string())
    };
    let a = || request(sandbox.cgroup("a"), "runs", 1);
    let root = CgroupRef::Path("/".into());
    assert!(
        refused(LimitRequest {
            cgroup: root,
            ..a()
        })
        .1
        .contains("root cannot be limited")
    );
    let gone = CgroupRef::Path(sandbox.dir("nowhere"));
    assert_eq!(
        refused(LimitRequest {
            cgroup: gone,
            ..a()
        })
        .0,
        ErrorKind::Cgroup
    );
    let value = "walks".to_owned();
    assert!(
        refused(LimitRequest { value, ..a() })
            .1
            .contains("has no value walks")
    );
    let labels = BTreeMap::from([
        ("parity".to_owned(), "even".to_owned()),
        ("x".to_owned(), String::new()),
    ]);
    assert!(
        refused(LimitRequest { labels, ..a() })
            .1
            .contains("has no label x")
    );
    let labels = BTreeMap::from([("parity".to_owned(), "prime".to_owned())]);
    assert!(
        refused(LimitRequest { labels, ..a() })
            .1
            .contains("it is one of odd, even")
    );
    let action = Some(Action::Deny(Errno::EPERM.0));
    assert!(
        refused(LimitRequest { action, ..a() })
            .1
            .contains("can only make it fail with EDQUOT")
    );
    let burst = Some(3);
    assert!(
        refused(LimitRequest { burst, ..a() })
            .1
            .contains("there is no period")
    );
    let period = Some(Duration::from_nanos(1));
    let amount = 1 << 60;
    assert!(
        !refused(LimitRequest {
            period,
            amount,
            ..a()
        })
        .1
        .is_empty()
    );
    let twice = request(sandbox.cgroup("b"), "runs", 6);
    assert!(refused(twice).1.contains("limited twice"));
    let unknown = LimitChange {
        set: Vec::new(),
        clear: vec![LimitId(77)],
        patterns: None,
    };
    assert_eq!(
        sandbox.engine.change_limits(&unknown).unwrap_err().errno(),
        Some(Errno::ENOENT)
    );
    // What holds a limit is not detached by the way.
    let gate = &sandbox
        .engine
        .list(&cgtap::engine::ListRequest::default())
        .unwrap();
    let gate = gate
        .iter()
        .flat_map(|l| &l.attachments)
        .find(|a| a.program == "gate")
        .unwrap()
        .id;
    let error = sandbox
        .engine
        .detach(&cgtap::engine::Detach::Ids(vec![gate]))
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EBUSY), "{error}");
    assert_eq!(run(&sandbox, "a", 8), (5, 3, EDQUOT));
    assert_eq!(stands(&sandbox, id).denied, 3);
}

/// A thousand limits on ten thousand cgroups, five levels deep; a tenth of that unless all is asked
/// for.
#[test]
fn many_limits_on_many_cgroups() {
    let many = if std::env::var_os("CGTAP_TEST_FULL").is_some() {
        10
    } else {
        3
    };
    let sandbox = packets::alone("limit");
    let mut requests = vec![request(sandbox.cgroup(""), "runs", 1_000_000)];
    let mut leaf = String::new();
    for a in 0..many {
        requests.push(request(sandbox.cgroup(&format!("{a}")), "runs", 100_000));
        for b in 0..many {
            requests.push(request(sandbox.cgroup(&format!("{a}/{b}")), "runs", 10_000));
            for c in 0..many {
                let path = format!("{a}/{b}/{c}");
                requests.push(request(sandbox.cgroup(&path), "runs", 1_000));
                for d in 0..many {
                    leaf = format!("{path}/{d}");
                    sandbox.cgroup(&leaf);
                }
            }
        }
    }
    requests.truncate(1_000);
    requests.push(request(sandbox.cgroup(&leaf), "runs", 10));
    let count = requests.len();
    let begun = Instant::now();
    assert_eq!(set(&sandbox, requests).len(), count);
    println!("{count} limits in {:?}", begun.elapsed());
    assert_eq!(run(&sandbox, &leaf, 12), (10, 2, EDQUOT));
    assert_eq!(run(&sandbox, "0/0/0/0", 1_200).0, 1_000);
    let all = sandbox.engine.limits(None).unwrap();
    let top = all.iter().find(|l| l.cgroup == sandbox.path("")).unwrap();
    assert_eq!(top.used, 1_010);
    let begun = Instant::now();
    limit(&sandbox, "0/0/0", "runs", 2_000);
    println!("one of {count} changed in {:?}", begun.elapsed());
    assert_eq!(run(&sandbox, "0/0/0/0", 1_200).0, 1_000);
}
