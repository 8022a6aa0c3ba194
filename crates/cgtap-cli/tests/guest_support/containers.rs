//! Containers of real runtimes: podman with crun, containerd with runc, an image of busybox and a stand-in for CUDA's library,
//! no network. Their storage is in memory, since overlayfs takes no overlayfs for what is below it; that
//! hides the machine's own, so it is done in guests only.

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};

use super::cri::{Container, Cri, Shared};
use super::{tool, wait_until};

#[path = "../../../cgtap/tests/support/cuda.rs"]
pub mod cuda;

/// What the image is called.
pub const IMAGE: &str = "localhost/worker:1";
/// Where runtimes keep images and containers.
const STORES: [&str; 2] = ["/var/lib/containers", "/var/lib/containerd"];

/// What containerd keeps apart: what is nobody's in particular, and pods.
const SPACES: [&str; 2] = ["default", "k8s.io"];
/// Where containerd answers.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// What a container does: what it is asked for, so many times, and says how many came to something. All
/// but the subshells and `launched` is done by the shell itself, so that nothing else is made or opened. One
/// more process has its libraries open all the time.
const WORKER: &str = "export LD_LIBRARY_PATH=/lib; mkfifo /work/never; \
    /client - 0 wait <> /work/never > /dev/null & while read what count; do done=0; i=0; while [ $i -lt $count ]; do \
    case $what in born) (:);; opened) true < /dev/zero;; launched) /client - 1;; esac && \
    done=$((done+1)); i=$((i+1)); done; echo $done > /work/said; done <> /work/ask";

/// A place for images and containers.
pub struct Ground {
    dir: PathBuf,
}

impl Ground {
    pub fn new() -> Self {
        assert!(
            std::env::var_os("CGTAP_GUEST").is_some(),
            "this hides the machine's containers: it runs in guests, `./dev test-vm`"
        );
        let dir = PathBuf::from(format!("/tmp/cgtap-test-box-{}", std::process::id()));
        for store in STORES {
            std::fs::create_dir_all(store).unwrap();
            tool(&["mount", "-t", "tmpfs", "none", store]);
        }
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "work"] {
            std::fs::create_dir_all(dir.join("root").join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", dir.join("root/bin/busybox")).unwrap();
        for name in ["sh", "mkfifo"] {
            std::os::unix::fs::symlink("busybox", dir.join("root/bin").join(name)).unwrap();
        }
        cuda::base(&dir.join("root"));
        cuda::image(&dir.join("root"));
        let (root, tar) = (dir.join("root"), dir.join("image.tar"));
        let [root, tar] = [&root, &tar].map(|p| p.to_str().unwrap());
        tool(&["tar", "-C", root, "-cf", tar, "."]);
        // What a pod's first container, which only holds its namespaces, does.
        let waits = r#"CMD ["/bin/busybox", "sleep", "2147483647"]"#;
        podman(&["import", "--change", waits, tar, IMAGE]);
        Self { dir }
    }

    /// The image as an OCI archive.
    fn archive(&self) -> String {
        let path = self.dir.join("image.oci").display().to_string();
        podman(&["save", "--format", "oci-archive", "-o", &path, IMAGE]);
        path
    }

    /// What a container of this name shares with the test.
    pub fn work(&self, name: &str) -> Work {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        let ask = CString::new(dir.join("ask").to_str().unwrap()).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &ask, FileType::Fifo, mode, 0).unwrap();
        Work { dir }
    }

    /// Starts containerd, with the image.
    pub fn containerd(&self) -> Containerd {
        let config = self.dir.join("containerd.toml");
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        Containerd::start(&config, &self.archive())
    }

    /// A container of podman's; its cgroup as reports name it.
    pub fn podman(&self, name: &str) -> (Work, String) {
        let work = self.work(name);
        let share = format!("{}:/work", work.dir.display());
        let start = ["run", "-d", "--name", name, "-v", &share];
        let program = ["--network", "none", IMAGE, "/bin/sh", "-c", WORKER];
        podman(&[&start[..], &program].concat());
        let pid = podman(&["inspect", "--format", "{{.State.Pid}}", name]);
        (work, cgroup_of(pid.trim()))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let words = ["rm", "-f", "-t", "0", "--all"];
        quiet(&[&PODMAN[..], &words[..]].concat());
        for store in STORES {
            quiet(&["umount", "-R", store]);
            quiet(&["umount", store]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Runs a program whose failing changes nothing.
fn quiet(words: &[&str]) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    drop(command.stdout(Stdio::null()).stderr(Stdio::null()).status());
}

/// Nobody runs systemd or journald here.
const PODMAN: [&str; 4] = [
    "podman",
    "--cgroup-manager=cgroupfs",
    "--events-backend=none",
    "--runtime=crun",
];

/// Runs podman; what it says.
#[track_caller]
pub fn podman(words: &[&str]) -> String {
    tool(&[&PODMAN[..], words].concat())
}

/// The cgroup of a process, as reports name it.
fn cgroup_of(pid: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("0::"));
    line.unwrap().to_owned()
}

/// The container at the other end.
pub struct Work {
    dir: PathBuf,
}

impl Work {
    /// Where it is on the host.
    pub fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// What a runtime is told of it.
    pub fn container<'a>(&'a self, name: &'a str) -> Container<'a> {
        Container {
            name,
            image: IMAGE,
            command: vec!["/bin/sh", "-c", WORKER],
            mounts: vec![Shared {
                host: self.dir(),
                inside: "/work",
                readonly: false,
            }],
            rights: None,
        }
    }

    /// Has it do `what` so many times; how many came to something.
    #[track_caller]
    pub fn does(&self, what: &str, count: u64) -> u64 {
        let said = self.dir.join("said");
        let _ = std::fs::remove_file(&said);
        std::fs::write(self.dir.join("ask"), format!("{what} {count}\n")).unwrap();
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            if let Some(number) = text.strip_suffix('\n') {
                return number.parse().unwrap();
            }
            assert!(
                Instant::now() < end,
                "{} does not {what}",
                self.dir.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// containerd, which ends with the value.
pub struct Containerd(Child);

impl Containerd {
    fn start(config: &Path, archive: &str) -> Self {
        let child = Command::new("/usr/bin/containerd")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run containerd: {e}; `./dev test-vm` installs it"));
        let containerd = Self(child);
        let mut version = Command::new("/usr/bin/ctr");
        version
            .arg("version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let version = std::cell::RefCell::new(version);
        wait_until("containerd's answer", || {
            version.borrow_mut().status().is_ok_and(|s| s.success())
        });
        for space in SPACES {
            tool(&["ctr", "-n", space, "image", "import", archive]);
        }
        containerd
    }

    /// Starts a container; its cgroup as reports name it.
    pub fn run(&self, space: &str, id: &str, options: &[&str], work: &Work) -> String {
        let source = work.dir.display();
        let share = format!("type=bind,src={source},dst=/work,options=rbind:rw");
        let start = ["ctr", "-n", space, "run", "-d", "--mount", &share];
        let program = [IMAGE, id, "/bin/sh", "-c", WORKER];
        tool(&[&start[..], options, &program].concat());
        Self::cgroup(space, id)
    }

    /// The cgroup of a container that runs.
    pub fn cgroup(space: &str, id: &str) -> String {
        cgroup_of(&Self::pid(space, id))
    }

    /// Its first process.
    pub fn pid(space: &str, id: &str) -> String {
        let file = format!("/run/containerd/io.containerd.runtime.v2.task/{space}/{id}/init.pid");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// Its interface for Kubernetes.
    pub fn cri(&self) -> Cri {
        Cri::connect(SOCKET)
    }

    /// Ends one and forgets it.
    pub fn remove(&self, space: &str, id: &str) {
        tool(&["ctr", "-n", space, "task", "rm", "-f", id]);
        tool(&["ctr", "-n", space, "container", "rm", id]);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What a failed test leaves would have names and libraries that other tests look for.
        for space in SPACES {
            let list = Command::new("ctr")
                .args(["-n", space, "task", "ls", "-q"])
                .output();
            let list = list.map(|l| String::from_utf8_lossy(&l.stdout).into_owned());
            for id in list.unwrap_or_default().lines() {
                quiet(&["ctr", "-n", space, "task", "rm", "-f", id]);
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
