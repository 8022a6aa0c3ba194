//! The unit files under the real systemd: installed as docs/serve.md says, started, killed, reloaded and
//! stopped. systemd is the first process of a namespace of its own with nothing to start but that unit, and
//! its cgroup, network, bpffs and directories are nobody else's. It may do to a machine what it likes, so
//! this is done in guests only.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ran, Running, Sandbox, cgroup_root};

/// Where units are looked for: the distribution's own are not there, so that none of them is started.
const UNITS: &str = "/etc/systemd/system";

/// Where the unit files are.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// Makes the machine in which systemd starts: $1 is where cgroup2 is mounted, $2 the built cgtap, $3 the unit.
const BOOT: &str = "
    mount --make-rprivate /
    mount --bind \"$1\" /sys/fs/cgroup
    mount -t proc proc /proc
    mount --bind /proc/sys /proc/sys
    mount -o remount,ro,bind /proc/sys
    mount -t bpf bpf /sys/fs/bpf
    # Where these are may be hidden by what follows.
    mount -t tmpfs tmpfs /run
    touch /run/cgtap
    mount --bind \"$2\" /run/cgtap
    cp \"$3\" /run/
    mkdir -p /run/lock /etc/cgtap
    for place in /tmp /var/tmp /etc/cgtap /etc/systemd/system /usr/local/bin; do
        mount -t tmpfs tmpfs $place
    done
    ln -s /run/cgtap /usr/local/bin/cgtap
    for target in sysinit basic shutdown network multi-user; do
        echo [Unit] > $SYSTEMD_UNIT_PATH/$target.target
    done
    printf '[Unit]\\nDefaultDependencies=no\\n' > $SYSTEMD_UNIT_PATH/empty.target
    export container=cgtap-test
    exec /lib/systemd/systemd --system --unit=empty.target --log-target=console --show-status=no
";

/// A machine that systemd runs.
struct Machine {
    /// The process outside that holds it: where it goes, all go.
    holder: Running,
    /// What systemd says.
    log: PathBuf,
    sandbox: Sandbox,
    /// The unit that is tried.
    unit: &'static str,
}

impl Machine {
    fn boot(unit: &'static str) -> Self {
        assert!(
            std::env::var_os("CGTAP_GUEST").is_some(),
            "this runs a systemd: it runs in guests, `./dev test-vm`"
        );
        let sandbox = Sandbox::new();
        let path = Path::new("/tmp").join(format!("{}.log", &sandbox.cgroup[1..]));
        let log = File::create(&path).unwrap();
        let script = "echo $$ > \"$1/cgroup.procs\"; shift; \
                      exec unshare --pid --mount --uts --ipc --net --fork --kill-child \
                      sh -ec \"$@\"";
        let child = Command::new("sh")
            .args(["-ec", script, "sh"])
            .arg(&sandbox.directory)
            .args([BOOT, "sh"])
            .arg(cgroup_root())
            .arg(env!("CARGO_BIN_EXE_cgtap"))
            .arg(format!("{EXAMPLES}/{unit}.service"))
            .env("SYSTEMD_UNIT_PATH", UNITS)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let machine = Self {
            log: path,
            holder: Running(child),
            sandbox,
            unit,
        };
        let up = |m: &Self| m.say("systemctl is-active empty.target") == "active";
        machine.wait("systemd is up", up);
        machine
    }

    /// A command in the machine.
    fn inside(&self, script: &str) -> Command {
        let holder = self.holder.0.id();
        let children = format!("/proc/{holder}/task/{holder}/children");
        let first = std::fs::read_to_string(children).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--pid", "--mount", "--uts", "--ipc", "--net", "-t"]);
        command.arg(first.trim());
        command.args(["bash", "-c", script]);
        command.env("SYSTEMD_UNIT_PATH", UNITS).stdin(Stdio::null());
        command
    }

    /// What a command says, whether it succeeds or not.
    fn say(&self, script: &str) -> String {
        Ran::of(&mut self.inside(script)).out.trim().to_owned()
    }

    /// What a command says that succeeds.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let ran = Ran::of(&mut self.inside(script)).done();
        ran.out.trim().to_owned()
    }

    #[track_caller]
    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(120);
        while !is_so(self) {
            let about = format!("systemctl status --no-pager {}; cat /run/said", self.unit);
            assert!(
                Instant::now() < end,
                "it never came that {what}: {}\n{}",
                self.say(&about),
                std::fs::read_to_string(&self.log).unwrap()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A page of the server, `None` while there is none.
    fn page(&self, path: &str) -> Option<String> {
        let answer = self.say(&format!(
            "exec 3<>/dev/tcp/127.0.0.1/9754 && printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        ));
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// The number behind the series that begins so.
    fn series(&self, begin: &str) -> Option<f64> {
        let page = self.page("/metrics")?;
        let line = page.lines().find(|l| l.starts_with(begin))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    fn unit(&self, property: &str) -> String {
        self.run(&format!(
            "systemctl show --value -p {property} {}",
            self.unit
        ))
    }

    /// Puts the unit file where docs/serve.md says, with two lines more about where its words go: no
    /// journal runs here.
    fn install(&self) {
        self.run(&format!("cp /run/{}.service {UNITS}/", self.unit));
        self.change_unit("StandardOutput=append:/run/said\nStandardError=append:/run/said\n");
    }

    /// More lines of the unit's drop-in; the last that says something counts.
    fn change_unit(&self, lines: &str) {
        let directory = format!("{UNITS}/{}.service.d", self.unit);
        self.run(&format!(
            "mkdir -p {directory} && printf '%s' '[Service]\n{lines}' >> {directory}/test.conf && \
             systemctl daemon-reload"
        ));
    }

    fn start(&self) {
        self.run(&format!("systemctl enable --now {}", self.unit));
    }

    fn serve(&self) {
        self.start();
        self.wait("it serves", |m| m.page("/healthz").is_some());
    }

    /// What the file says of it is so, and it may do no more than this; its process.
    #[track_caller]
    fn bounded(&self, capabilities: u64) -> String {
        let pid = self.unit("MainPID");
        let status = self.run(&format!("cat /proc/{pid}/status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        let bound = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
        assert_eq!(bound, capabilities);
        pid
    }

    #[track_caller]
    fn said_nothing_wrong(&self) {
        let said = self.run("cat /run/said");
        let is_wrong = |line: &&str| line.contains("WARN") || line.contains("error");
        assert_eq!(said.lines().find(is_wrong), None, "{said}");
    }

    /// Stops it, which is to be no failure.
    fn stop(&self) {
        self.run(&format!("systemctl stop {}", self.unit));
        assert_eq!(self.unit("Result"), "success");
        assert_eq!(self.unit("ActiveState"), "inactive");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.0.kill();
        let _ = self.holder.0.wait();
        let _ = std::fs::remove_file(&self.log);
        // systemd made cgroups below the sandbox's.
        for _ in 0..100 {
            let mut find = Command::new("find");
            find.arg(&self.sandbox.directory);
            find.args(["-mindepth", "1", "-depth", "-type", "d"]);
            let left = Ran::of(&mut find).out;
            if left.lines().all(|d| std::fs::remove_dir(d).is_ok()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
#[ignore = "runs a systemd: ./dev test-vm"]
fn the_unit_serves_is_started_anew_and_stops() {
    let mut machine = Machine::boot("cgtap-serve");
    let cgroup = machine.sandbox.child("worker");
    machine.install();
    machine.run("cgtap meter enable tasks");
    machine.serve();
    let work = |tasks: u32| {
        let script = format!("i=0; while [ $i -lt {tasks} ]; do (:); i=$((i+1)); done");
        machine.sandbox.inside("worker", &script);
    };
    let series = format!("cgtap_tasks_born_total{{cgroup=\"{cgroup}\"");
    work(25);
    assert_eq!(machine.series(&series), Some(25.0));

    // CAP_DAC_READ_SEARCH is 2, CAP_SYS_ADMIN 21.
    let pid = machine.bounded(1 << 2 | 1 << 21);

    // Killed, it is there again, and nothing that was counted is gone.
    machine.run(&format!("kill -9 {pid}"));
    machine.wait("it is started anew", |m| {
        m.unit("MainPID") != pid && m.page("/healthz").is_some()
    });
    assert_eq!(machine.unit("NRestarts"), "1");
    work(5);
    assert_eq!(machine.series(&series), Some(30.0));

    machine.stop();
    work(3);
    let usage = machine.run(&format!("cgtap --json usage {cgroup}"));
    let usage: Value = serde_json::from_str(&usage).unwrap();
    let meters = usage["cgroups"][0]["meters"].as_array().unwrap();
    let born = meters.iter().find(|m| m["meter"] == "tasks_born").unwrap();
    assert_eq!(born["own"], 33);
    machine.said_nothing_wrong();
}

#[test]
#[ignore = "runs a systemd: ./dev test-vm"]
fn the_unit_keeps_a_policy_in_force() {
    let mut machine = Machine::boot("cgtap-serve");
    let cgroup = machine.sandbox.child("worker");
    machine.install();
    let policy = |amount: u32| {
        machine.run(&format!(
            "printf '%s\\n' '[[limits]]' 'cgroup = \"{cgroup}\"' 'meter = \"device_opens\"' \
             'amount = \"{amount}\"' 'on = \"deny:EPERM\"' > /etc/cgtap/new && \
             mv /etc/cgtap/new /etc/cgtap/policy.toml"
        ))
    };
    policy(3);
    machine.change_unit(
        "ExecStart=\nExecStart=/usr/local/bin/cgtap serve --listen 127.0.0.1:9754 --config \
         /etc/cgtap/policy.toml\n",
    );
    machine.serve();
    let amount = |m: &Machine| m.series("cgtap_limit_amount{");
    assert_eq!(amount(&machine), Some(3.0));
    assert_eq!(machine.series("cgtap_policy_ok"), Some(1.0));
    let refused = |opens: u32, refused: u32| {
        let script = format!(
            "n=0; for i in $(seq {opens}); do true < /dev/zero || n=$((n+1)); done; \
             test $n = {refused}"
        );
        machine.sandbox.inside("worker", &script);
    };
    refused(5, 2);

    // Changed, it is taken over; broken, the old one stays.
    policy(100);
    machine.wait("the change is in force", |m| amount(m) == Some(100.0));
    refused(5, 0);
    machine.run("echo nonsense > /etc/cgtap/policy.toml");
    machine.wait("it is said that the file is wrong", |m| {
        m.series("cgtap_policy_ok") == Some(0.0)
    });
    assert_eq!(amount(&machine), Some(100.0));
    policy(4);
    machine.wait("the file is right again", |m| amount(m) == Some(4.0));

    // It holds without the service.
    machine.stop();
    refused(5, 5);
}

#[test]
#[ignore = "runs a systemd: ./dev test-vm"]
fn the_unit_freezes_and_thaws() {
    let mut machine = Machine::boot("cgtap-enforce");
    let cgroup = machine.sandbox.child("worker");
    machine.install();
    // Before there is a limit, or a state.
    machine.start();
    let _worker = machine.sandbox.spinner("worker");
    machine.run(&format!(
        "cgtap limit set {cgroup} cpu_time 10ms/10s --on freeze"
    ));
    let is_frozen = |m: &Machine| m.sandbox.is_frozen("worker");
    machine.wait("it is frozen", is_frozen);
    // CAP_DAC_OVERRIDE is 1, CAP_DAC_READ_SEARCH 2, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21.
    let pid = machine.bounded(1 << 1 | 1 << 2 | 1 << 19 | 1 << 21);

    // Killed, it is there again, and so is its guard.
    machine.run(&format!("kill -9 {pid}"));
    machine.wait("it is started anew", |m| {
        !["0", &pid].contains(&&*m.unit("MainPID"))
    });
    machine.wait("it is frozen again", is_frozen);
    machine.stop();
    machine.wait("it is thawed", |m| !is_frozen(m));
    machine.said_nothing_wrong();

    // Where it may not write cgroups it says so.
    machine.change_unit("ProtectControlGroups=yes\n");
    machine.start();
    machine.wait("it says that it cannot", |m| {
        m.say("cat /run/said").contains("cannot freeze")
    });
    assert!(!is_frozen(&machine));
    machine.stop();
}
