use cgtap::engine::*;
fn main() {
    let e = Engine::open(Options {
        state: "/sys/fs/bpf/smoke".into(),
        cgroup_root: None,
    })
    .unwrap();
    let root = e.cgroup_root().unwrap();
    let (a, b) = (root.join("smoke/a"), root.join("smoke/b"));
    std::fs::create_dir_all(&a).unwrap();
    std::fs::create_dir_all(&b).unwrap();
    let src = || ObjectSource::File {
        path: "/tmp/t/a.bpf.o".into(),
        set: vec![],
    };
    let t = std::time::Instant::now();
    let r = e.attach(AttachRequest::new(CgroupRef::Path("smoke/a".into()), src()));
    println!("{:?} {r:#?}", t.elapsed());
    if let Err(x) = &r {
        println!("{}", x.log());
    }
    let t = std::time::Instant::now();
    let r = e.attach(AttachRequest::new(CgroupRef::Path("smoke".into()), src()));
    println!(
        "{:?} {:?}",
        t.elapsed(),
        r.map(|r| r.instance).map_err(|e| e.to_string())
    );
    for cg in [&a, &b] {
        let s = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!(
                "echo $$ > {}/cgroup.procs; for i in 1 2 3 4 5; do :; done; exec sleep 0.01",
                cg.display()
            ))
            .status()
            .unwrap();
        println!("{s}");
    }
    println!(
        "{}",
        serde_json::to_string_pretty(&e.list(&ListRequest::default()).unwrap()).unwrap()
    );
    println!(
        "{}",
        serde_json::to_string(
            &e.list(&ListRequest {
                cgroup: Some(CgroupRef::Path("smoke/a".into())),
                effective: true,
                ..Default::default()
            })
            .unwrap()
        )
        .unwrap()
    );
    println!("{}", serde_json::to_string(&e.maps(None).unwrap()).unwrap());
    let t = std::time::Instant::now();
    println!(
        "{:?} {:?}",
        e.detach(&Detach::All).map_err(|e| e.to_string()),
        t.elapsed()
    );
    std::fs::remove_dir(&a).unwrap();
    std::fs::remove_dir(&b).unwrap();
    std::fs::remove_dir(root.join("smoke")).unwrap();
}
