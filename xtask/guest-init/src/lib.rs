//! What the host tells a guest to do. The host writes it into the initramfs, the guest's init reads
//! it: one definition for both.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Where the job lies in the initramfs.
pub const JOB_FILE: &str = "job.json";
/// The tag of the 9p share that is the host's root, read-only.
pub const ROOT_TAG: &str = "host-root";
/// The tag of the 9p share that takes results.
pub const OUT_TAG: &str = "guest-out";
/// Where the guest mounts the share that takes results. The host's own /run is not visible.
pub const OUT_DIR: &str = "/run/cgtap-guest-out";
/// Tells programs in a guest where results go.
pub const OUT_VARIABLE: &str = "CGTAP_GUEST_OUT";
/// The names of the virtio ports that are the command's standard output and error.
pub const PORTS: [&str; 2] = ["cgtap.stdout", "cgtap.stderr"];
/// The I/O port of QEMU's `isa-debug-exit`.
pub const EXIT_PORT: u16 = 0xf4;
/// What is written there when all is told. QEMU then exits with [`EXIT_STATUS`].
pub const EXIT_VALUE: u8 = 0x31;
/// QEMU's exit status for a guest that ended itself.
pub const EXIT_STATUS: i32 = ((EXIT_VALUE as i32) << 1) | 1;

/// All that a guest is for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The guest's host name.
    pub hostname: String,
    /// Modules, in the order in which they are loaded.
    pub modules: Vec<Module>,
    /// The directory of all the kernel's modules, on the host.
    pub modules_dir: String,
    /// The directory with the kernel and its configuration, on the host.
    pub boot_dir: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub cwd: String,
    /// The file in the share for results that takes the exit status, as a shell counts it.
    pub status_file: String,
}

/// A kernel module in the initramfs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Module {
    /// The path in the initramfs.
    pub file: String,
    /// Its parameters, as `insmod` has them.
    pub parameters: String,
}
