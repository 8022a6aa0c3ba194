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

use guest_support::example;
use guest_support::nbd::{BLOCK_BYTES, DEVICE, Ground, SIZE_BYTES, dd};

const QUOTA_BYTES: u64 = 2 << 20;

/// Attaches the quota to `a`; its instance.
fn quota(ground: &Ground, quota_bytes: u64) -> serde_json::Value {
    let object = example("nbd_quota");
    let cgroup = format!("{}/a", ground.sandbox.cgroup);
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
    ground.sandbox.run(&words).done().json()["instance"].clone()
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
        let instance = quota(&ground, QUOTA_BYTES);
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
    ground.with_ext4(|at| {
        let words = |name: &str, mib: u64| {
            format!("if=/dev/zero of={at}/{name} bs=1M count={mib} conv=fsync")
        };
        let instance = quota(&ground, QUOTA_BYTES);
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
}
