//! Containers of the real podman and the real containerd: what they are called, what each of them
//! used, and that a limit on one holds it alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of a test fail it by panicking"
)]

mod guest_support;
#[allow(
    dead_code,
    reason = "each test file is a crate of its own and uses a part"
)]
#[path = "support/prometheus.rs"]
mod prometheus;
mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;

use guest_support::containers::{Containerd, Ground, IMAGE, cuda, podman};
use guest_support::cri::Pod;
use guest_support::kubernetes::Manifest;
use guest_support::wait_until;
use serde_json::Value;
use support::{Running, Sandbox};

/// A cgroup's row of `cgtap usage`.
#[track_caller]
fn row(sandbox: &Sandbox, cgroup: &str) -> Value {
    let said = sandbox.run(&["--json", "usage", cgroup]).done().json();
    said["cgroups"][0].clone()
}

/// What a row's cgroup made itself of tasks.
fn born(row: &Value) -> u64 {
    let meters = row["meters"].as_array().unwrap();
    let born = meters.iter().find(|m| m["meter"] == "tasks_born");
    born.map_or(0, |m| m["own"].as_u64().unwrap())
}

/// The row of `word` is that of a container with this name and image, at this place.
#[track_caller]
fn assert_is(sandbox: &Sandbox, word: &str, cgroup: &str, name: &str, image: Option<&str>) {
    for word in [word, cgroup] {
        let row = row(sandbox, word);
        assert_eq!(row["cgroup"], cgroup, "{row}");
        assert_eq!(row["name"], name, "{row}");
        assert_eq!(row["image"].as_str(), image, "{row}");
    }
}

/// The page of a server on the sandbox's state.
fn metrics(sandbox: &Sandbox) -> String {
    let mut serve = sandbox.cgtap(&["--json", "serve", "--listen", "127.0.0.1:0"]);
    let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let _running = Running(child);
    out.read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let address = said["listen"].as_str().unwrap().parse().unwrap();
    let got = prometheus::get_open(address);
    assert_eq!(got.status, 200, "{got:?}");
    got.body
}

/// podman's are shown by name and image beside their paths, wherever cgroups are shown; a new name is
/// theirs at once, and a limit by it is.
#[test]
#[ignore = "needs podman, and takes its storage: ./dev test-vm"]
fn podmans_containers_have_their_names_images_and_usage() {
    let ground = Ground::new();
    let sandbox = Sandbox::new();
    let (web, web_cgroup) = ground.podman("web");
    let (db, db_cgroup) = ground.podman("db");
    assert!(
        web_cgroup.starts_with("/libpod_parent/libpod-"),
        "{web_cgroup}"
    );
    sandbox.run(&["meter", "enable", "tasks"]).done();
    sandbox.run(&["meter", "enable", "device"]).done();
    assert_eq!((web.does("born", 30), db.does("born", 12)), (30, 12));
    for (name, cgroup, count) in [("web", &web_cgroup, 30), ("db", &db_cgroup, 12)] {
        let word = format!("container:{name}");
        assert_is(&sandbox, &word, cgroup, &word, Some(IMAGE));
        assert_eq!(born(&row(&sandbox, &word)), count);
    }

    let table = sandbox.run(&["usage", "--recursive"]).done().out;
    assert!(
        table.contains(&format!("{web_cgroup} (container:web, {IMAGE})")),
        "{table}"
    );
    let top = sandbox.run(&["top", "--once"]).done().out;
    assert!(
        top.contains("container:web") && top.contains("container:db"),
        "{top}"
    );
    let page = metrics(&sandbox);
    let of = |name: &str| format!("{{cgroup=\"{web_cgroup}\",name=\"container:web\"{name}}}");
    let lines = [
        format!("cgtap_tasks_born_total{} 30", of("")),
        format!(
            "cgtap_container_info{} 1",
            of(&format!(",image=\"{IMAGE}\""))
        ),
    ];
    for line in lines {
        assert!(page.lines().any(|l| *l == line), "{line} in {page}");
    }

    // A limit by name holds it alone.
    let limit = ["limit", "set", "container:web", "device_opens", "3"];
    sandbox.run(&limit).done();
    assert_eq!((web.does("opened", 8), db.does("opened", 8)), (3, 8));
    let list = sandbox.run(&["--json", "limit", "list"]).done().json();
    assert_eq!(list["limits"][0]["cgroup"], web_cgroup.as_str(), "{list}");
    sandbox.run(&["limit", "clear", "--all"]).done();
    assert_eq!(web.does("opened", 8), 8);

    podman(&["rename", "web", "shop"]);
    assert_is(
        &sandbox,
        "container:shop",
        &web_cgroup,
        "container:shop",
        Some(IMAGE),
    );
    assert_eq!(sandbox.run(&["usage", "container:web"]).status, 1);

    // Gone, what it used is its parent's.
    let before = born(&row(&sandbox, "/libpod_parent"));
    podman(&["rm", "-f", "-t", "0", "shop"]);
    wait_until("the end of the cgroup", || {
        !support::cgroup_root().join(&web_cgroup[1..]).exists()
    });
    assert_eq!(born(&row(&sandbox, "/libpod_parent")), before + 30);
    assert_eq!(sandbox.run(&["usage", "container:shop"]).status, 1);
    assert_eq!(born(&row(&sandbox, "container:db")), 12);
    sandbox.run(&["meter", "disable", "--all"]).done();
}

/// The files that the meter of CUDA stands in, as podman and containerd keep them.
fn libraries(sandbox: &Sandbox) -> [Vec<String>; 2] {
    let files = sandbox.files("uprobe:*/libcuda.so.1:cuLaunchKernel");
    let at = |store: &str| {
        let here = files.iter().filter(|f| f.starts_with(store));
        let here: Vec<String> = here.cloned().collect();
        assert!(here.iter().all(|f| f.ends_with(cuda::LIBRARY)), "{files:?}");
        here
    };
    let both = [
        "/var/lib/containers/storage/overlay/",
        "/var/lib/containerd/",
    ]
    .map(at);
    assert_eq!(both.concat().len(), files.len(), "{files:?}");
    both
}

/// What containers call of a library that their image brings is counted, once for each of them; an image
/// that is removed is not held by it.
#[test]
#[ignore = "needs podman and containerd, and takes their storage: ./dev test-vm"]
fn libraries_of_images_are_seen_in_all_their_containers() {
    let ground = Ground::new();
    let sandbox = Sandbox::new();
    let (web, web_cgroup) = ground.podman("web");
    let (db, db_cgroup) = ground.podman("db");
    sandbox.run(&["meter", "enable", "cuda"]).done();
    assert_eq!((web.does("launched", 4), db.does("launched", 2)), (4, 2));
    let launched = |cgroup: &str| {
        let row = row(&sandbox, cgroup);
        let meters = row["meters"].as_array().unwrap().iter();
        let launches = meters.filter(|m| m["meter"] == "cuda_launches");
        launches.map(|m| m["own"].as_u64().unwrap()).sum::<u64>()
    };
    // Two kernels and a graph each time.
    assert_eq!((launched(&web_cgroup), launched(&db_cgroup)), (12, 6));
    let [podmans, none] = libraries(&sandbox);
    assert_eq!((podmans.len(), none.len()), (1, 0), "{podmans:?}");

    // Another runtime, later: found by a reading.
    let containerd = ground.containerd();
    let app = ground.work("app");
    let app_cgroup = containerd.run("default", "app", &[], &app);
    launched(&app_cgroup);
    assert_eq!(app.does("launched", 3), 3);
    assert_eq!(launched(&app_cgroup), 9);
    assert_eq!(libraries(&sandbox).map(|files| files.len()), [1, 1]);

    podman(&["rm", "-f", "-t", "0", "web", "db"]);
    podman(&["rmi", IMAGE]);
    assert_eq!(launched(&app_cgroup), 9);
    assert_eq!(libraries(&sandbox).map(|files| files.len()), [0, 1]);
    assert_eq!(app.does("launched", 1), 1);
    assert_eq!(launched(&app_cgroup), 12);
    containerd.remove("default", "app");
    sandbox.run(&["meter", "disable", "--all"]).done();
}

/// containerd's: one with an id that somebody thought of, and one with what CRI writes down of it.
#[test]
#[ignore = "needs containerd, and takes its storage: ./dev test-vm"]
fn containerds_containers_have_their_names_and_usage() {
    let ground = Ground::new();
    let sandbox = Sandbox::new();
    let containerd = ground.containerd();
    let (kept, app) = (ground.work("kept"), ground.work("app"));
    let kept_cgroup = containerd.run("default", "kept", &[], &kept);
    assert_eq!(kept_cgroup, "/default/kept");
    let uid = "6d1f7a52-8c3e-4b0a-9f4d-2e5c7b8a9d01";
    let id = "3f2a9c1b7d10aa55".repeat(4);
    let below = format!("/kubepods/burstable/pod{uid}");
    let app_cgroup = format!("{below}/{id}");
    let annotations = [
        "container-name=app".to_owned(),
        format!("image-name={IMAGE}"),
        "sandbox-name=app-1".to_owned(),
        "sandbox-namespace=prod".to_owned(),
        format!("sandbox-uid={uid}"),
    ]
    .map(|a| format!("io.kubernetes.cri.{a}"));
    let mut options = vec!["--cgroup", &app_cgroup];
    options.extend(annotations.iter().flat_map(|a| ["--annotation", a]));
    assert_eq!(containerd.run("k8s.io", &id, &options, &app), app_cgroup);

    sandbox.run(&["meter", "enable", "tasks"]).done();
    assert_eq!((kept.does("born", 9), app.does("born", 21)), (9, 21));
    let kept_name = "container:kept";
    assert_is(&sandbox, kept_name, &kept_cgroup, kept_name, None);
    assert_eq!(born(&row(&sandbox, kept_name)), 9);
    let app_name = "container:app";
    assert_is(&sandbox, app_name, &app_cgroup, app_name, Some(IMAGE));
    assert_eq!(born(&row(&sandbox, app_name)), 21);
    let pod_name = "pod:prod/app-1";
    assert_is(&sandbox, pod_name, &below, pod_name, None);

    containerd.remove("default", "kept");
    containerd.remove("k8s.io", &id);
    wait_until("the end of the cgroups", || {
        let gone = |cgroup: &str| !support::cgroup_root().join(&cgroup[1..]).exists();
        gone(&kept_cgroup) && gone(&app_cgroup)
    });
    assert_eq!(born(&row(&sandbox, "/default")), 9);
    // The pod's directory is ours and stays; what named it went with its containers.
    assert_eq!(born(&row(&sandbox, &below)), 21);
    assert_eq!(sandbox.run(&["usage", pod_name]).status, 1);
    assert_eq!(sandbox.run(&["usage", kept_name]).status, 1);
    sandbox.run(&["meter", "disable", "--all"]).done();
}

/// A pod as a kubelet has containerd make it: pod and containers are called as Kubernetes calls them, each
/// has its own usage and the pod has all, a limit on the pod holds over both, and one that is started
/// anew is known at once.
#[test]
#[ignore = "needs containerd, and takes its storage: ./dev test-vm"]
fn a_pod_of_kubernetes_has_its_names_usage_and_limit() {
    let ground = Ground::new();
    let sandbox = Sandbox::new();
    let containerd = ground.containerd();
    let mut cri = containerd.cri();
    let uid = "0b9b7c1e-3d52-4a6f-8e0d-5f1c2a7b9e34";
    let below = format!("/kubepods/besteffort/pod{uid}");
    let pod = cri.run(&Pod {
        namespace: "prod",
        name: "shop-0",
        uid,
        cgroup: &below,
        ..Pod::default()
    });
    let works = ["web", "db"].map(|name| ground.work(name));
    let mut add = |at: usize, name| {
        let id = cri.add(&pod, &works[at].container(name));
        let cgroup = Containerd::cgroup("k8s.io", &id);
        assert_eq!(cgroup, format!("{below}/{id}"));
        (id, cgroup)
    };
    let [(web_id, web), (_, db)] = [add(0, "web"), add(1, "db")];
    let pod_name = "pod:prod/shop-0";
    sandbox.run(&["meter", "enable", "tasks"]).done();
    assert_eq!(
        (works[0].does("born", 14), works[1].does("born", 6)),
        (14, 6)
    );
    for (name, cgroup, count) in [("web", &web, 14), ("db", &db, 6)] {
        let word = format!("container:{name}");
        assert_is(&sandbox, &word, cgroup, &word, Some(IMAGE));
        assert_eq!(born(&row(&sandbox, &word)), count);
    }
    assert_is(&sandbox, pod_name, &below, pod_name, None);
    let total = |word: &str| {
        let row = row(&sandbox, word);
        let meters = row["meters"].as_array().unwrap().clone();
        let born = meters.iter().find(|m| m["meter"] == "tasks_born").cloned();
        born.map(|m| m["total"].as_u64().unwrap())
    };
    assert_eq!(total(pod_name), Some(20));
    sandbox
        .run(&["limit", "set", pod_name, "device_opens", "5"])
        .done();
    assert_eq!(
        (works[0].does("opened", 3), works[1].does("opened", 4)),
        (3, 2)
    );
    assert_eq!(works[0].does("opened", 1), 0);
    sandbox.run(&["limit", "clear", "--all"]).done();

    // Kubernetes restarts one: another id, the same name.
    cri.remove(&web_id);
    let again = Containerd::cgroup("k8s.io", &cri.add(&pod, &works[0].container("web")));
    assert_ne!(again, web);
    // What it takes to start one is counted by now, and is its own.
    assert_eq!(works[0].does("born", 0), 0);
    let started = born(&row(&sandbox, &again));
    assert_eq!(works[0].does("born", 2), 2);
    assert_is(
        &sandbox,
        "container:web",
        &again,
        "container:web",
        Some(IMAGE),
    );
    assert_eq!(born(&row(&sandbox, "container:web")), started + 2);
    let whole = 20 + started + 2;
    assert_eq!(total(pod_name), Some(whole));
    cri.end(&pod);
    wait_until("the end of the cgroups", || {
        let gone = |cgroup: &str| !support::cgroup_root().join(&cgroup[1..]).exists();
        gone(&again) && gone(&db)
    });
    // A kubelet removes the pod's; what was used stays above.
    let dir = support::cgroup_root().join(&below[1..]);
    if dir.exists() {
        std::fs::remove_dir(dir).unwrap();
    }
    assert_eq!(total("/kubepods"), Some(whole));
    assert_eq!(sandbox.run(&["usage", pod_name]).status, 1);
    sandbox.run(&["meter", "disable", "--all"]).done();
}

/// `examples/kubernetes.yaml` on a node: from a cgroup namespace of its own, with the rights that it is given and
/// no others, it tells of the pods beside it and holds them; what it set goes on when it is gone.
#[test]
#[ignore = "needs containerd, and takes its storage: ./dev test-vm"]
fn a_pod_on_the_node_counts_and_holds_the_others() {
    let ground = Ground::new();
    let containerd = ground.containerd();
    let mut cri = containerd.cri();
    let shop = cri.run(&Pod {
        namespace: "prod",
        name: "shop-0",
        uid: "7f0e1d2c-3b4a-4958-8776-655443322110",
        cgroup: "/kubepods/besteffort/pod7f0e1d2c-3b4a-4958-8776-655443322110",
        ..Pod::default()
    });
    let works = ["web", "db"].map(|name| ground.work(name));
    let mut add = |at: usize, name| {
        let id = cri.add(&shop, &works[at].container(name));
        (Containerd::cgroup("k8s.io", &id), id)
    };
    let [(web, web_id), (db, _)] = [add(0, "web"), add(1, "db")];

    let manifest = Manifest::read();
    let agent = cri.run(&Pod {
        namespace: "kube-system",
        name: "cgtap-x7k2p",
        uid: "0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9",
        cgroup: "/kubepods/burstable/pod0a1b2c3d-4e5f-4061-8273-8495a6b7c8d9",
        host_pid: manifest.host_pid(),
    });
    let ids: Vec<String> = manifest
        .containers()
        .iter()
        .map(|container| cri.add(&agent, container))
        .collect();
    let address: SocketAddr = "127.0.0.1:9754".parse().unwrap();
    wait_until("the server of the pod", || {
        TcpStream::connect(address).is_ok()
    });
    // It answers when the policy is in force.
    assert_eq!(prometheus::get_open(address).status, 200);
    let mut cgtap = |words: &[&str]| {
        let done = cri.exec(&ids[0], &[&["/cgtap"], words].concat());
        let [out, err] = [done.out, done.err].map(|text| String::from_utf8(text).unwrap());
        assert_eq!(done.status, 0, "{words:?}: {out}{err}");
        out
    };

    assert_eq!(
        (works[0].does("born", 14), works[1].does("born", 6)),
        (14, 6)
    );
    let page = prometheus::get_open(address);
    assert_eq!(page.status, 200, "{page:?}");
    for (cgroup, name, count) in [(&web, "web", 14), (&db, "db", 6)] {
        let of = format!("cgroup=\"{cgroup}\",name=\"container:{name}\"");
        let line = format!("cgtap_tasks_born_total{{{of}}} {count}");
        assert!(
            page.body.lines().any(|l| l == line),
            "{line} in {}",
            page.body
        );
    }
    let pid = format!("pid:{}", Containerd::pid("k8s.io", &web_id));
    let said: Value = serde_json::from_str(&cgtap(&["--json", "explain", &pid])).unwrap();
    assert_eq!(said["cgroup"], web.as_str());
    assert!(cgtap(&["usage", "pod:prod/shop-0"]).contains("pod:prod/shop-0"));

    cgtap(&["limit", "set", "pod:prod/shop-0", "device_opens", "5"]);
    assert_eq!(
        (works[0].does("opened", 3), works[1].does("opened", 4)),
        (3, 2)
    );
    cgtap(&[
        "limit",
        "set",
        "container:db",
        "tasks_born",
        "0",
        "--on",
        "freeze",
    ]);
    let events = support::cgroup_root().join(&db[1..]).join("cgroup.events");
    let is_frozen = || {
        std::fs::read_to_string(&events)
            .unwrap()
            .contains("frozen 1")
    };
    wait_until("the container is frozen", is_frozen);

    cri.end(&agent);
    wait_until("the container is thawed", || !is_frozen());
    assert_eq!(works[0].does("opened", 1), 0);
    let usage = support::run(&["--json", "usage", "container:web"])
        .done()
        .json();
    assert_eq!(support::value(&usage, &web, "tasks_born", None).0, 14);
    support::run(&["detach", "--all"]).done();
    assert_eq!(works[0].does("opened", 1), 1);
    cri.end(&shop);
}
