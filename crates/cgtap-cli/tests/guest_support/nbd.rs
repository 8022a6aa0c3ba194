//! A network block device: the real driver, the real server and client.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{modprobe, tool, wait_until};
use crate::support::{self, Sandbox};

pub const DEVICE: &str = "/dev/nbd0";
pub const SIZE_BYTES: u64 = 96 << 20;
pub const BLOCK_BYTES: u64 = 64 << 10;

/// A network block device of 96 MiB in memory, and cgroups `a` and `b` that do io.
pub struct Ground {
    server: Child,
    pub dir: PathBuf,
    pub sandbox: Sandbox,
}

impl Ground {
    pub fn new() -> Self {
        modprobe(&["nbd", "max_part=0"]);
        let dir = PathBuf::from(format!("/tmp/cgtap-test-nbd-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let image = dir.join("image");
        std::fs::File::create(&image)
            .unwrap()
            .set_len(SIZE_BYTES)
            .unwrap();
        let (config, socket) = (dir.join("config"), dir.join("socket"));
        let words = format!(
            "[generic]\nallowlist = true\nunixsock = {}\nuser = root\ngroup = root\n[disk]\n\
             exportname = {}\n",
            socket.display(),
            image.display()
        );
        std::fs::write(&config, words).unwrap();
        let server = Command::new("/bin/nbd-server")
            .arg("-d")
            .arg("-C")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run nbd-server: {e}; `./dev test-vm` installs it"));
        wait_until("the server's socket", || socket.exists());
        let socket = socket.display().to_string();
        tool(&["nbd-client", "-unix", &socket, "-N", "disk", DEVICE]);
        let root = support::cgroup_root();
        // Without the controller all requests belong to the root.
        std::fs::write(root.join("cgroup.subtree_control"), "+io").unwrap();
        let mut sandbox = Sandbox::new();
        std::fs::write(sandbox.directory.join("cgroup.subtree_control"), "+io").unwrap();
        sandbox.child("a");
        sandbox.child("b");
        Self {
            server,
            dir,
            sandbox,
        }
    }
}

impl Ground {
    /// Does something with a file system on the device, which is told where it is mounted. Without a
    /// journal it is the writer's data alone that goes over the wire for the writer.
    pub fn with_ext4(&self, does: impl Fn(&str)) {
        let mount = self.dir.join("mount");
        std::fs::create_dir(&mount).unwrap();
        tool(&["mkfs.ext4", "-q", "-O", "^has_journal", DEVICE]);
        let at = mount.display().to_string();
        tool(&["mount", "-o", "errors=continue", DEVICE, &at]);
        // Whatever comes of it, the device has to be let go of.
        let does = std::panic::AssertUnwindSafe(|| does(&at));
        let result = std::panic::catch_unwind(does);
        tool(&["umount", &at]);
        result.unwrap();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/nbd-client")
            .args(["-d", DEVICE])
            .status();
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// `dd` in a cgroup: what it said, and the bytes that went through by its own count.
pub fn dd(ground: &Ground, cgroup: &str, words: &str) -> (i32, u64, String) {
    let (status, said) = ground.sandbox.try_inside(cgroup, &format!("dd {words}"));
    let bytes = said
        .lines()
        .find(|line| line.contains(" bytes"))
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("dd {words}: {said}"));
    (status, bytes, said)
}
