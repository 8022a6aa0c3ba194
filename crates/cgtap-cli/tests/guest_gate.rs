//! Gates on real devices, by a user's lsm programs: an ioctl and an open denied in one cgroup, with
//! a chosen errno, and nowhere else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
mod support;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_support::{example, modprobe, wait_until};
use support::{Sandbox, compiled};

/// `DRM_IOCTL_VERSION`, which every DRM device has: 'd', 0.
const DRM_VERSION: u32 = 0x6400;
const EDQUOT: i32 = 122;
const ENODEV: i32 = 19;

/// A program that does one ioctl (struct of zeros) on a file: it prints the errno of the open, or
/// of the ioctl.
fn client() -> PathBuf {
    compiled("fixtures/ioctl")
}

/// The first DRM device of a driver (of the device it sits on, for virtio): node in /dev/dri, and its number as the kernel keeps it.
fn device(driver: &str) -> (String, u64) {
    let find = || {
        let nodes = std::fs::read_dir("/sys/class/drm").ok()?;
        let mut names: Vec<String> = nodes
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| n.starts_with("card") && !n.contains('-'))
            .collect();
        names.sort();
        names.into_iter().find(|name| {
            let link = format!("/sys/class/drm/{name}/device");
            let bound = std::fs::read_link(format!("{link}/driver")).unwrap_or_default();
            let device = std::fs::canonicalize(&link).unwrap_or_default();
            bound.ends_with(driver) || device.ends_with(driver)
        })
    };
    wait_until(&format!("a DRM device of {driver}"), || find().is_some());
    let node = format!("/dev/dri/{}", find().unwrap());
    wait_until(&node, || Path::new(&node).exists());
    let number = std::fs::metadata(&node).unwrap().rdev();
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff);
    (node, major << 20 | minor)
}

fn drivers() -> [(&'static str, &'static str); 2] {
    [("vgem", "vgem"), ("virtio-gpu", "virtio-pci")]
}

/// An ioctl on a DRM device is denied with EDQUOT in one cgroup and below; other ioctls there, the
/// same one elsewhere, and another device are let through.
#[test]
#[ignore = "needs BPF LSM and DRM devices: ./dev test-vm"]
fn an_ioctl_on_a_device_is_denied_in_one_cgroup_only() {
    let client = client();
    let client = client.to_str().unwrap();
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("a/inner");
    sandbox.child("b");
    for (module, driver) in drivers() {
        modprobe(&[module]);
        let (node, number) = device(driver);
        let ask = |cgroup: &str, command: u32| -> i32 {
            let (status, said) = sandbox.try_inside(cgroup, &format!("{client} {node} {command}"));
            assert_eq!(status, 0, "{said}");
            said.trim().parse().unwrap()
        };
        assert_eq!(ask("a", DRM_VERSION), 0, "{node}");
        let object = example("deny_device");
        let words = [
            "--json",
            "attach",
            &format!("{}/a", sandbox.cgroup),
            object.to_str().unwrap(),
            "--program",
            "deny_ioctl",
            "--set",
            &format!("device={number}"),
            "--set",
            &format!("command={DRM_VERSION}"),
            "--set",
            &format!("verdict=-{EDQUOT}"),
        ];
        let instance = sandbox.run(&words).done().json()["instance"].clone();
        assert_eq!(ask("a", DRM_VERSION), EDQUOT, "{node}");
        assert_eq!(ask("a/inner", DRM_VERSION), EDQUOT, "{node}");
        assert_eq!(ask("b", DRM_VERSION), 0, "{node}");
        // Another ioctl of the device: DRM_IOCTL_GET_CAP fails with its own EINVAL.
        assert_ne!(ask("a", 0x640c), EDQUOT, "{node}");
        let counted = sandbox.bss(&instance);
        assert_eq!(counted[1], 2, "{counted:?}");
        sandbox.run(&["detach", "--all"]).done();
        assert_eq!(ask("a", DRM_VERSION), 0, "{node}");
    }
}

/// The same for opening it.
#[test]
#[ignore = "needs BPF LSM and DRM devices: ./dev test-vm"]
fn opening_a_device_is_denied_in_one_cgroup_only() {
    let client = client();
    let client = client.to_str().unwrap();
    let mut sandbox = Sandbox::new();
    sandbox.child("a");
    sandbox.child("b");
    for (module, driver) in drivers() {
        modprobe(&[module]);
        let (node, number) = device(driver);
        let object = example("deny_device");
        let words = [
            "attach",
            &format!("{}/a", sandbox.cgroup),
            object.to_str().unwrap(),
            "--program",
            "deny_open",
            "--set",
            &format!("device={number}"),
            "--set",
            &format!("verdict=-{ENODEV}"),
        ];
        sandbox.run(&words).done();
        for (cgroup, want) in [("a", ENODEV), ("b", 0)] {
            let (status, said) =
                sandbox.try_inside(cgroup, &format!("{client} {node} {DRM_VERSION}"));
            assert_eq!(
                (status, said.trim()),
                (0, want.to_string().as_str()),
                "{node}"
            );
        }
        sandbox.run(&["detach", "--all"]).done();
    }
}
