//! `examples/kubernetes.yaml`, as a kubelet would tell a runtime of it. The image is the tests' one, with this
//! build of `cgtap` and what that stands on.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::containers::IMAGE;
use super::cri::{Container, Shared};

/// What the image of the manifest would hold: on the machine, in the container.
const IN_IMAGE: [(&str, &str); 3] = [
    (env!("CARGO_BIN_EXE_cgtap"), "/cgtap"),
    ("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2"),
    ("/usr/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"),
];

/// The manifest.
pub struct Manifest {
    pod: Value,
    /// The volume of its ConfigMap.
    policy: TempDir,
}

impl Manifest {
    pub fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/kubernetes.yaml");
        let text = std::fs::read_to_string(path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let of_kind = |kind: &str| documents.iter().find(|d| d["kind"] == kind).unwrap();
        let policy = tempfile::tempdir().unwrap();
        for (name, text) in of_kind("ConfigMap")["data"].as_object().unwrap() {
            std::fs::write(policy.path().join(name), text.as_str().unwrap()).unwrap();
        }
        Self {
            pod: of_kind("DaemonSet")["spec"]["template"]["spec"].clone(),
            policy,
        }
    }

    /// Its pods see the node's processes.
    pub fn host_pid(&self) -> bool {
        self.pod["hostPID"] == true
    }

    /// Its containers.
    pub fn containers(&self) -> Vec<Container<'_>> {
        let all = self.pod["containers"].as_array().unwrap();
        all.iter().map(|c| self.container(c)).collect()
    }

    fn container<'a>(&'a self, told: &'a Value) -> Container<'a> {
        let rights = &told["securityContext"];
        for profile in ["seccompProfile", "appArmorProfile"] {
            assert_eq!(rights[profile]["type"], "Unconfined");
        }
        let capabilities = &rights["capabilities"];
        assert_eq!(capabilities["drop"], serde_json::json!(["ALL"]));
        let mounts = told["volumeMounts"].as_array().unwrap().iter();
        let mounts = mounts.map(|mount| Shared {
            host: self.volume(&mount["name"]),
            inside: mount["mountPath"].as_str().unwrap(),
            readonly: mount["readOnly"] == true,
        });
        let in_image = IN_IMAGE.map(|(host, inside)| Shared {
            host,
            inside,
            readonly: true,
        });
        Container {
            name: told["name"].as_str().unwrap(),
            image: IMAGE,
            command: texts(&told["command"]),
            mounts: mounts.chain(in_image).collect(),
            rights: Some(texts(&capabilities["add"])),
        }
    }

    /// Where a volume is on the machine.
    fn volume(&self, name: &Value) -> &str {
        let volumes = self.pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|v| v["name"] == *name).unwrap();
        match volume["hostPath"]["path"].as_str() {
            Some(path) => path,
            None => {
                assert!(volume["configMap"].is_object(), "{volume}");
                self.policy.path().to_str().unwrap()
            }
        }
    }
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|text| text.as_str().unwrap()).collect()
}
