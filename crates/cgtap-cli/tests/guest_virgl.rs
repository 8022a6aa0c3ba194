//! Real programs of Mesa's on a virtio GPU that renders: what they send is counted exactly; they bear
//! the limits that they are held to, and whoever draws beside them is not held.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest_support::{modprobe, wait_until};
use support::{Running, Sandbox, compiled_with};

/// What the display is driven by, and what any program may draw with.
const CARD: &str = "/dev/dri/card0";
const RENDER_NODE: &str = "/dev/dri/renderD128";

struct Ground {
    sandbox: Sandbox,
    frames: PathBuf,
}

impl Ground {
    fn new() -> Self {
        modprobe(&["virtio-gpu"]);
        for node in [CARD, RENDER_NODE] {
            wait_until(node, || Path::new(node).exists());
        }
        let mut sandbox = Sandbox::new();
        sandbox.child("a");
        sandbox.child("b");
        sandbox.run(&["meter", "enable", "virtio_gpu"]).done();
        Self {
            sandbox,
            frames: compiled_with("fixtures/frames", &["-lEGL", "-lGLESv2", "-lgbm"]),
        }
    }

    /// What a cgroup sent.
    fn submissions(&self, cgroup: &str) -> u64 {
        let cgroup = format!("{}/{cgroup}", self.sandbox.cgroup);
        let words = ["--json", "usage", &cgroup];
        let usage = self.sandbox.run(&words).done().json();
        let rows = usage["cgroups"].as_array().unwrap();
        let values = rows.iter().flat_map(|r| r["meters"].as_array().unwrap());
        values
            .filter(|v| v["meter"] == "virtio_gpu_submissions")
            .map(|v| v["total"].as_u64().unwrap())
            .sum()
    }

    /// A cube that turns on the screen, drawn by a process of cgroup `a`.
    fn cube(&self) -> Running {
        let procs = self.sandbox.directory.join("a/cgroup.procs");
        let script = format!("echo $$ > {} && exec kmscube -D {CARD}", procs.display());
        let child = Command::new("sh")
            .args(["-c", &script])
            // It ends when there is something to read, or nothing any more.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Running(child)
    }

    /// The same, once it draws.
    fn turning_cube(&self) -> Running {
        let mut cube = self.cube();
        let before = self.submissions("a");
        wait_until("a frame", || self.submissions("a") > before + 10);
        assert_eq!(cube.0.try_wait().unwrap(), None);
        cube
    }

    /// Frames a second that a program of cgroup `b` draws beside what else there is, and submissions a
    /// frame: none of them fails.
    fn frames_beside(&self) -> (f64, f64) {
        const SECONDS: u32 = 8;
        let before = self.submissions("b");
        let script = format!("{} {RENDER_NODE} {SECONDS}", self.frames.display());
        let (status, said) = self.sandbox.try_inside("b", &script);
        assert_eq!(status, 0, "{said}");
        assert!(said.contains("virgl"), "{said}");
        let frames: f64 = said.lines().last().unwrap().trim().parse().unwrap();
        let sent = (self.submissions("b") - before) as f64;
        (frames / f64::from(SECONDS), sent / frames)
    }

    /// The moment in which cgroup `a` is let go on after a pause, and what it had sent before. From one such
    /// moment to another its rate is exact: what it sends at once lies wholly between them.
    fn end_of_pause(&self) -> (Instant, u64) {
        const PAUSE: Duration = Duration::from_millis(100);
        let end = Instant::now() + Duration::from_secs(60);
        let (mut since, mut sent, mut is_seen_twice) =
            (Instant::now(), self.submissions("a"), false);
        while Instant::now() < end {
            let begin = Instant::now();
            let now = self.submissions("a");
            // Reading takes its time too: it is done somewhere in the middle of that.
            let moment = begin + begin.elapsed() / 2;
            if now == sent {
                is_seen_twice = true;
            } else if is_seen_twice && moment - since >= PAUSE {
                return (moment, sent);
            } else {
                (since, sent, is_seen_twice) = (moment, now, false);
            }
        }
        panic!("no pause ends: {sent} were sent");
    }

    fn limit(&self, amount: &str, on: &[&str]) -> u64 {
        let cgroup = format!("{}/a", self.sandbox.cgroup);
        let meter = "virtio_gpu_submissions";
        let words = [&["--json", "limit", "set", &cgroup, meter, amount], on].concat();
        let said = self.sandbox.run(&words).done().json();
        said["limits"][0]["id"].as_u64().unwrap()
    }

    /// A number of how a limit stands.
    fn stands(&self, id: u64, what: &str) -> i64 {
        let all = self.sandbox.run(&["--json", "limit", "list"]).done().json();
        let all = all["limits"].as_array().unwrap();
        let limit = all.iter().find(|l| l["id"] == id).unwrap();
        limit[what].as_i64().unwrap()
    }

    /// Time on the CPU of cgroup `a`, in seconds.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(self.sandbox.directory.join("a/cpu.stat")).unwrap();
        let line = stat.lines().find_map(|l| l.strip_prefix("usage_usec "));
        line.unwrap().trim().parse::<f64>().unwrap() / 1e6
    }
}

/// Each command stream is counted, for who sent it: as many as strace sees.
#[test]
#[ignore = "needs a virtio GPU that renders: ./dev test-vm"]
fn each_submission_of_a_real_program_is_counted() {
    let ground = Ground::new();
    let trace = Path::new(env!("CARGO_TARGET_TMPDIR")).join("virgl.strace");
    let script = format!(
        "strace -f -e trace=ioctl -o {} {} {RENDER_NODE} 4",
        trace.display(),
        ground.frames.display()
    );
    let (status, said) = ground.sandbox.try_inside("a", &script);
    assert_eq!(status, 0, "{said}");
    let trace = std::fs::read_to_string(&trace).unwrap();
    let is_one = |line: &&str| line.contains("_VIRTGPU_EXECBUFFER") && line.ends_with(" = 0");
    let truth = trace.lines().filter(is_one).count() as u64;
    assert!(truth > 20, "{trace}");
    assert_eq!(ground.submissions("a"), truth);
    assert_eq!(ground.submissions("b"), 0);
}

/// A rate of submissions is held by freezing, within 2 % over 30 s; whoever draws beside it draws no
/// slower than beside the program that is not held.
#[test]
#[ignore = "needs a virtio GPU that renders: ./dev test-vm"]
fn a_rate_of_submissions_is_held_and_the_neighbour_draws_on() {
    const A_SECOND: f64 = 5.0;
    let ground = Ground::new();
    let _cube = ground.turning_cube();
    let (beside_free, _) = ground.frames_beside();
    // Whoever freezes runs before there is something to freeze: so the debt that comes first is small.
    let beside = format!("{}/b", ground.sandbox.cgroup);
    let words = [
        "limit",
        "set",
        &beside,
        "virtio_gpu_submissions",
        "1000000/1s",
    ];
    let words = [&words[..], &["--on", "freeze"]].concat();
    ground.sandbox.run(&words).done();
    let _enforce = Running(ground.sandbox.cgtap(&["enforce"]).spawn().unwrap());
    std::thread::sleep(Duration::from_secs(1));
    let id = ground.limit("5/1s", &["--on", "freeze"]);
    std::thread::sleep(Duration::from_secs(1));
    wait_until("a debt that is paid", || ground.stands(id, "left") >= 0);
    let (begin, before) = ground.end_of_pause();
    let (beside_held, _) = ground.frames_beside();
    std::thread::sleep(Duration::from_secs(30).saturating_sub(begin.elapsed()));
    let (end, after) = ground.end_of_pause();
    let rate = (after - before) as f64 / (end - begin).as_secs_f64();
    println!(
        "held to {A_SECOND} a second: {rate:.3}; frames a second beside it: {beside_free:.1}, when it \
         is held {beside_held:.1}"
    );
    assert!((rate - A_SECOND).abs() <= A_SECOND * 0.02, "{rate}");
    assert!(
        beside_held >= beside_free * 0.9,
        "{beside_held} {beside_free}"
    );
}

/// Denied with the limit's own errno a client goes on and does not spin; with EAGAIN, which has to be
/// forced, libdrm asks again at once. The neighbour is not held by either.
#[test]
#[ignore = "needs a virtio GPU that renders: ./dev test-vm"]
fn a_client_that_is_denied_goes_on_without_spinning() {
    let ground = Ground::new();
    let mut cube = ground.turning_cube();
    let (beside_free, sent_free) = ground.frames_beside();
    let cgroup = format!("{}/a", ground.sandbox.cgroup);
    let refused = ground.sandbox.run(&[
        "limit",
        "set",
        &cgroup,
        "virtio_gpu_submissions",
        "0",
        "--on",
        "deny:EAGAIN",
    ]);
    assert_eq!(refused.status, 1);
    assert!(refused.err.contains("--force"), "{}", refused.err);

    // Time on the CPU, and denials, a second.
    let watch = |id: u64| {
        let (begin, cpu_s, denied) = (Instant::now(), ground.cpu_s(), ground.stands(id, "denied"));
        std::thread::sleep(Duration::from_secs(8));
        let over_s = begin.elapsed().as_secs_f64();
        let cpu = (ground.cpu_s() - cpu_s) / over_s;
        (cpu, (ground.stands(id, "denied") - denied) as f64 / over_s)
    };
    let id = ground.limit("0", &[]);
    let sent = ground.submissions("a");
    let (cpu, denials) = watch(id);
    let (beside_denied, sent_denied) = ground.frames_beside();
    println!(
        "denied with EDQUOT: {cpu:.2} of a CPU, {denials:.0} denials a second; frames a second beside \
         it: {beside_free:.1}, when it is denied {beside_denied:.1}"
    );
    assert_eq!(ground.submissions("a"), sent);
    assert_eq!(cube.0.try_wait().unwrap(), None, "it goes on");
    assert!(denials > 1.0, "{denials}");
    // A cube whose frames cost the GPU nothing turns faster, and both share one emulated machine: how
    // many frames the neighbour draws says little. That it draws them whole does.
    assert!(
        (sent_denied / sent_free - 1.0).abs() < 0.05,
        "{sent_denied} {sent_free}"
    );

    let id = ground.limit("0", &["--on", "deny:EAGAIN", "--force"]);
    let (spun_cpu, spun) = watch(id);
    println!("with EAGAIN: {spun_cpu:.2} of a CPU, {spun:.0} denials a second");
    // How much of a CPU it takes is also what else the machine does; a client that spins is refused a
    // thousand times as often, and takes all of it.
    assert!(spun > denials * 30.0, "{spun} {denials}");
    assert!(cpu < spun_cpu * 0.9, "{cpu} {spun_cpu}");

    // When the limit is gone it draws again.
    ground.sandbox.run(&["limit", "clear", "--all"]).done();
    let before = ground.submissions("a");
    wait_until("frames again", || ground.submissions("a") > before + 10);
}
