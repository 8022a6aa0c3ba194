//! A stand-in for NVIDIA's library, that tells what a test writes down (`nvidia/nvml.c`).
#![allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The library, and the directory of what it tells.
pub struct Nvml {
    dir: TempDir,
}

impl Nvml {
    pub fn new() -> Self {
        let nvml = Self {
            dir: TempDir::new().unwrap(),
        };
        std::fs::create_dir(nvml.told()).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvidia/nvml.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(nvml.library())
            .arg(source);
        assert!(cc.status().unwrap().success());
        nvml
    }

    pub fn library(&self) -> PathBuf {
        self.dir.path().join("libnvidia-ml.so.1")
    }

    pub fn told(&self) -> PathBuf {
        self.dir.path().join("told")
    }

    /// Has a command find it in place of NVIDIA's.
    pub fn lend(&self, command: &mut Command) {
        command
            .env("LD_LIBRARY_PATH", self.dir.path())
            .env("CGTAP_STAND_IN", self.told());
    }

    /// What it tells of a process from now on: samples that are taken when it is asked.
    pub fn tell(&self, pid: u32, bytes: u64, utilisation: u32) {
        self.tell_of(pid, bytes, utilisation, 0);
    }

    /// What it tells of a process: one sample, that was taken so many microseconds after 1970.
    pub fn tell_of(&self, pid: u32, bytes: u64, utilisation: u32, at_us: u64) {
        let text = format!("{bytes} {utilisation} {at_us}");
        let path = self.told().join(pid.to_string());
        // Whole or not at all: a reader may be at it.
        std::fs::write(self.dir.path().join("next"), text).unwrap();
        std::fs::rename(self.dir.path().join("next"), path).unwrap();
    }

    /// When it last was asked, and had samples then.
    pub fn asked_us(&self) -> u64 {
        let text = std::fs::read_to_string(self.told().join("told")).unwrap();
        text.parse().unwrap()
    }
}
