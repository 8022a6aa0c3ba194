//! A quota on a network block device, by a user's program at a writable tracepoint: the real
//! driver, the real server and client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use guest_support::{example, modprobe, tool, wait_until};
use support::Sandbox;

const DEVICE: &str = "/dev/nbd0";
const SIZE_BYTES: u64 = 96 << 20;
const QUOTA_BYTES: u64 = 2 << 20;
const BLOCK_BYTES: u64 = 64 << 10;

/// A network block device of 96 MiB in memory, and cgroups `a` and `b` that do io.
struct Ground {
    server: Child,
    dir: PathBuf,
    sandbox: Sandbox,
}

impl Ground {
    fn new() -> Self {
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

    /// Attaches the quota to `a`; its instance.
    fn quota(&self, quota_bytes: u64) -> serde_json::Value {
        let object = example("nbd_quota");
        let cgroup = format!("{}/a", self.sandbox.cgroup);
        let set = format!("quota_bytes={quota_bytes}");
        let words = [
            "--json",
            "attach",
            &cgroup,
            object.to_str().unwrap(),
            "--set",
            &set,
            "--scope",
            "rq",
        ];
        self.sandbox.run(&words).done().json()["instance"].clone()
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
fn dd(ground: &Ground, cgroup: &str, words: &str) -> (i32, u64, String) {
    let (status, said) = ground.sandbox.try_inside(cgroup, &format!("dd {words}"));
    let bytes = said
        .lines()
        .find(|line| line.contains(" bytes"))
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("dd {words}: {said}"));
    (status, bytes, said)
}

/// Direct reads and writes end in EIO after exactly the quota; another cgroup's go on.
#[test]
#[ignore = "needs the nbd driver: ./dev test-vm"]
fn direct_io_ends_after_exactly_the_quota() {
    let ground = Ground::new();
    let count = SIZE_BYTES / BLOCK_BYTES;
    for (to, direction) in [
        (format!("if=/dev/zero of={DEVICE} oflag=direct"), "writing"),
        (format!("if={DEVICE} of=/dev/null iflag=direct"), "reading"),
    ] {
        let instance = ground.quota(QUOTA_BYTES);
        let words = format!("{to} bs={BLOCK_BYTES} count={count}");
        let (status, bytes, said) = dd(&ground, "a", &words);
        assert_eq!((status, bytes), (1, QUOTA_BYTES), "{said}");
        assert!(said.contains(&format!("error {direction}")), "{said}");
        assert!(said.contains("Input/output error"), "{said}");
        // The neighbour writes and reads beyond it.
        let words = format!("{to} bs={BLOCK_BYTES} count=64");
        let (status, bytes, said) = dd(&ground, "b", &words);
        assert_eq!((status, bytes), (0, 64 * BLOCK_BYTES), "{said}");
        // Used, denied requests, denied bytes.
        let counted = ground.sandbox.bss(&instance);
        assert_eq!(counted[0], QUOTA_BYTES);
        assert!(counted[1] >= 1, "{counted:?}");
        ground.sandbox.run(&["detach", "--all"]).done();
        let (status, bytes, _) = dd(&ground, "a", &words);
        assert_eq!((status, bytes), (0, 64 * BLOCK_BYTES));
    }
}

/// What a file system writes back later, by a kernel thread, is charged to who wrote it: the
/// writer's fsync fails, and the neighbour's does not.
#[test]
#[ignore = "needs the nbd driver: ./dev test-vm"]
fn write_back_through_ext4_is_charged_to_the_writer() {
    let ground = Ground::new();
    let mount = ground.dir.join("mount");
    std::fs::create_dir(&mount).unwrap();
    // Without a journal it is the writer's data alone that goes over the wire for the writer.
    tool(&["mkfs.ext4", "-q", "-O", "^has_journal", DEVICE]);
    let at = mount.display().to_string();
    tool(&["mount", "-o", "errors=continue", DEVICE, &at]);
    let result = std::panic::catch_unwind(|| {
        let words = |name: &str, mib: u64| {
            format!("if=/dev/zero of={at}/{name} bs=1M count={mib} conv=fsync")
        };
        let instance = ground.quota(QUOTA_BYTES);
        let (status, _, said) = dd(&ground, "a", &words("a", 8));
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("fsync failed"), "{said}");
        assert!(said.contains("Input/output error"), "{said}");
        let counted = ground.sandbox.bss(&instance);
        assert!(counted[0] <= QUOTA_BYTES, "{counted:?}");
        assert!(counted[0] + counted[2] >= 8 << 20, "{counted:?}");
        let (status, bytes, said) = dd(&ground, "b", &words("b", 8));
        assert_eq!((status, bytes), (0, 8 << 20), "{said}");
        // What the neighbour wrote cost the other nothing.
        let after = ground.sandbox.bss(&instance);
        assert_eq!(after[0], counted[0], "{after:?}");
    });
    tool(&["umount", &at]);
    result.unwrap();
}
