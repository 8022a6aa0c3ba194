//! The meter of block devices on a real one: what direct and buffered writes of two cgroups come to, by
//! the workload's own count.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use guest_support::{modprobe, tool, wait_until};
use std::path::Path;
use support::{Sandbox, value};

/// The sum of a value over rows whose labels fit: own.
fn own(usage: &serde_json::Value, cgroup: &str, meter: &str, direction: &str) -> u64 {
    value(usage, cgroup, meter, Some(("direction", direction))).0
}

/// A sandbox with cgroups that the io controller charges.
fn ground() -> (Sandbox, String, String) {
    let mut sandbox = Sandbox::new();
    for controllers in [sandbox.directory.parent().unwrap(), &sandbox.directory] {
        std::fs::write(controllers.join("cgroup.subtree_control"), "+io +memory").unwrap();
    }
    let (a, b) = (sandbox.child("a"), sandbox.child("b"));
    sandbox.run(&["meter", "enable", "block"]).done();
    (sandbox, a, b)
}

#[test]
#[ignore = "needs a block device of its own: ./dev test-vm"]
fn direct_and_written_back_bytes_are_charged_exactly_to_who_wrote_them() {
    modprobe(&["brd", "rd_nr=1", "rd_size=65536"]);
    // A ram disk has no requests; on top of it a loop device, which has.
    modprobe(&["loop"]);
    wait_until("/dev/ram0", || Path::new("/dev/ram0").exists());
    let device = tool(&[
        "losetup",
        "--find",
        "--show",
        "--direct-io=off",
        "/dev/ram0",
    ]);
    let device = device.trim();
    tool(&["mkfs.ext4", "-q", "-F", "-O", "^has_journal", device]);
    let mount = tempfile::tempdir().unwrap();
    let dir = mount.path().to_str().unwrap();
    tool(&["mount", device, dir]);
    let (sandbox, a, b) = ground();

    // Direct: each write is a request of its own.
    let direct = format!("dd if=/dev/zero of={dir}/a bs=64k count=20 oflag=direct conv=notrunc");
    assert_eq!(sandbox.try_inside("a", &direct).0, 0);
    // Buffered: a kworker writes them back, or the fsync of whoever comes.
    let buffered = format!("dd if=/dev/zero of={dir}/b bs=64k count=30 conv=notrunc");
    assert_eq!(sandbox.try_inside("b", &buffered).0, 0);
    tool(&["sync", "-f", dir]);
    // And read again, past the caches.
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let read = format!("dd if={dir}/b of=/dev/null bs=64k iflag=direct");
    assert_eq!(sandbox.try_inside("a", &read).0, 0);

    let usage = sandbox
        .run(&["--json", "usage", "--recursive"])
        .done()
        .json();
    println!("{usage}");
    assert_eq!(own(&usage, &b, "block_bytes", "write"), 30 * 65_536);
    let written = own(&usage, &a, "block_bytes", "write");
    // The file's first blocks, and those that say where they are, are its writer's too.
    assert!(
        (20 * 65_536..20 * 65_536 + 16 * 4_096).contains(&written),
        "{written}"
    );
    let read = own(&usage, &a, "block_bytes", "read");
    assert!(
        (30 * 65_536..30 * 65_536 + 16 * 4_096).contains(&read),
        "{read}"
    );
    assert!(own(&usage, &a, "block_operations", "write") >= 20);
    assert!(own(&usage, &a, "block_device_latency", "write") > 0);

    sandbox.run(&["meter", "disable", "block"]).done();
    tool(&["umount", dir]);
    tool(&["losetup", "--detach", device]);
}

/// Devices that take so long for each request, by a timer of their own: bytes and requests are the
/// workload's, and no request is told to be quicker than the device is.
#[test]
#[ignore = "needs null_blk and scsi_debug: ./dev test-vm"]
fn a_device_of_known_delay_is_told_truly() {
    const DELAY_NS: u64 = 3_000_000;
    const BLOCK_BYTES: u64 = 65_536;
    let (null_delay, scsi_delay) = (
        format!("completion_nsec={DELAY_NS}"),
        format!("ndelay={DELAY_NS}"),
    );
    modprobe(&["null_blk", "nr_devices=1", "gb=1", "irqmode=2", &null_delay]);
    modprobe(&["scsi_debug", "dev_size_mb=16", &scsi_delay]);
    modprobe(&["sd_mod"]);
    let disk = || {
        let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
        let mut names = disks.map(|d| d.file_name().into_string().unwrap());
        names
            .find(|n| n.starts_with("sd"))
            .map(|n| format!("/dev/{n}"))
    };
    wait_until("a disk of scsi_debug", || {
        disk().is_some_and(|d| Path::new(&d).exists())
    });
    for device in ["/dev/nullb0".to_owned(), disk().unwrap()] {
        wait_until(&device, || Path::new(&device).exists());
        let (sandbox, a, b) = ground();
        let dd = |cgroup: &str, words: &str| {
            let (status, said) =
                sandbox.try_inside(cgroup, &format!("dd {words} bs={BLOCK_BYTES}"));
            assert_eq!(status, 0, "{said}");
        };
        dd(
            "a",
            &format!("if=/dev/zero of={device} oflag=direct count=20"),
        );
        dd(
            "b",
            &format!("if=/dev/zero of={device} oflag=direct count=7"),
        );
        dd(
            "a",
            &format!("if={device} of=/dev/null iflag=direct count=11"),
        );
        let usage = sandbox
            .run(&["--json", "usage", "--recursive"])
            .done()
            .json();
        for (cgroup, direction, count) in [(&a, "write", 20), (&b, "write", 7), (&a, "read", 11)] {
            let own = |meter: &str| own(&usage, cgroup, meter, direction);
            assert_eq!(own("block_bytes"), count * BLOCK_BYTES, "{device} {usage}");
            assert_eq!(own("block_operations"), count, "{device} {usage}");
            let latency_ns = own("block_device_latency");
            assert!(latency_ns >= count * DELAY_NS, "{device} {latency_ns}");
            println!(
                "{device}: {count} of {direction} took {} us each, {} the device's own",
                latency_ns / count / 1_000,
                DELAY_NS / 1_000
            );
        }
        let rows = usage["cgroups"].as_array().unwrap().iter();
        let values = rows.flat_map(|r| r["meters"].as_array().unwrap());
        let latencies: Vec<_> = values
            .filter(|v| v["meter"] == "block_device_latency" && v["own"] != 0)
            .collect();
        assert_eq!(latencies.len(), 3, "{usage}");
        for latency in latencies {
            let buckets = latency["own_buckets"].as_array().unwrap();
            let quicker = &buckets[..DELAY_NS.ilog2() as usize];
            assert!(quicker.iter().all(|n| n == 0), "{latency}");
        }
        sandbox.run(&["meter", "disable", "block"]).done();
    }
    for module in ["null_blk", "scsi_debug"] {
        tool(&["modprobe", "-r", module]);
    }
}
