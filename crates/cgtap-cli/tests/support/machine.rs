//! A machine with GPUs that is made up: processes with open files of character devices of DRM's major,
//! whose text is what a test writes there. The device nodes are real ones, with nothing behind them.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Ran, Sandbox};

/// A directory that is made as `/` is, as far as cgtap looks.
pub struct Machine {
    dir: TempDir,
}

impl Machine {
    /// With a GPU (226:128), an accelerator (261:0), and no process.
    pub fn new() -> Self {
        let machine = Self {
            dir: TempDir::new().unwrap(),
        };
        for (name, major, minor) in [("gpu", 226, 128), ("accel", 261, 0), ("zero", 1, 5)] {
            let number = format!("{major}:{minor}");
            std::fs::create_dir_all(machine.path("sys/dev/char").join(number)).unwrap();
            let status = Command::new("mknod")
                .arg(machine.path(name))
                .args(["c", &major.to_string(), &minor.to_string()])
                .status()
                .unwrap();
            assert!(status.success(), "mknod: run this as root");
        }
        std::fs::create_dir_all(machine.path("proc/self")).unwrap();
        machine
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn process_dir(&self, pid: u32) -> PathBuf {
        self.path(&format!("proc/{pid}"))
    }

    /// A process that was started at `started`, in a cgroup; or it moves there.
    pub fn process(&self, pid: u32, started: u64, cgroup: &str) {
        let dir = self.process_dir(pid);
        std::fs::create_dir_all(dir.join("fd")).unwrap();
        std::fs::create_dir_all(dir.join("fdinfo")).unwrap();
        let zeros = "0 ".repeat(18);
        let stat = format!("{pid} (a name) with) S {zeros}{started} 0 0\n");
        std::fs::write(dir.join("stat"), stat).unwrap();
        std::fs::write(dir.join("cgroup"), format!("3:cpu:/x\n0::{cgroup}\n")).unwrap();
    }

    /// It has `device` open as `fd`, and this is what the driver tells of it.
    pub fn open(&self, pid: u32, fd: u32, device: &str, text: &str) {
        let dir = self.process_dir(pid);
        let fds = dir.join("fd").join(fd.to_string());
        let _ = std::fs::remove_file(&fds);
        std::os::unix::fs::symlink(self.path(device), fds).unwrap();
        let head = "pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t500\n";
        std::fs::write(
            dir.join("fdinfo").join(fd.to_string()),
            format!("{head}{text}"),
        )
        .unwrap();
    }

    /// It ends.
    pub fn end(&self, pid: u32) {
        std::fs::remove_dir_all(self.process_dir(pid)).unwrap();
    }
}

/// What amdgpu tells of a client.
pub fn amdgpu(id: u64, gfx_ns: u64, vram_kib: u64) -> String {
    format!(
        "drm-driver:\tamdgpu\ndrm-client-id:\t{id}\ndrm-pdev:\t0000:03:00.0\n\
         drm-engine-gfx:\t{gfx_ns} ns\ndrm-engine-capacity-gfx:\t1\n\
         drm-total-vram:\t{vram_kib} KiB\ndrm-resident-vram:\t{vram_kib} KiB\n\
         drm-shared-vram:\t0\n"
    )
}

/// That machine, and two real cgroups.
pub struct Bench {
    pub machine: Machine,
    pub sandbox: Sandbox,
    pub a: String,
    pub b: String,
}

impl Bench {
    pub fn new() -> Self {
        let mut sandbox = Sandbox::new();
        let (a, b) = (sandbox.child("a"), sandbox.child("b"));
        Self {
            machine: Machine::new(),
            sandbox,
            a,
            b,
        }
    }

    pub fn cgtap(&self, words: &[&str]) -> Command {
        let mut command = self.sandbox.cgtap(words);
        command.env("CGTAP_PRETEND_ROOT", self.machine.root());
        command
    }

    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.cgtap(words))
    }
}
