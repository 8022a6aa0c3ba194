use cgtap::limit::record::Action;

use super::testing::{limit, model, report, tenants};
use super::*;

#[test]
fn what_is_not_counted_is_nothing_to_sort_by() {
    let order = |name: &str| Order {
        column: Some(name.to_owned()),
        ..Order::default()
    };
    let counted = model([tenants(1)]);
    assert!(check(&order("cpu_time"), &counted).is_ok());
    assert!(check(&Order::default(), &counted).is_ok());
    let failure = check(&order("cpu"), &counted).unwrap_err();
    assert_eq!(failure.status(), 2);
    assert_eq!(
        failure.message(),
        "nothing called `cpu` is counted here; sort by name, block_bytes, block_latency, cpu_time, \
         gpu_jobs, gpu_memory"
    );
    assert!(check(&order("cpu"), &model([report(vec![])])).is_ok());
}

#[test]
fn a_frame_is_a_table_or_a_document() {
    let model = model([tenants(1), tenants(2)]);
    let look = crate::render::Look::PLAIN;
    let table = plain::table(&model, &Order::default(), &look);
    let mut lines = table.lines();
    assert_eq!(
        lines.next().unwrap(),
        "CGROUP          block_bytes B/s  block_latency % of one  cpu_time~ % of one  gpu_jobsp /s  \
         gpu_memory bytes"
    );
    assert_eq!(
        lines.nth(2).unwrap(),
        "/tenants/a              32.0MiB                   90.0%              250.0%             -  \
         \x20         3.0GiB"
    );
    assert_eq!(lines.last().unwrap(), "1.000 s");

    let frame = plain::frame(&model, &Order::default());
    let frame = serde_json::to_value(&frame).unwrap();
    assert_eq!(frame["seconds"], 1.0);
    assert_eq!(frame["lost"], 0);
    let tenant = &frame["cgroups"][2];
    assert_eq!(tenant["cgroup"], "/tenants/a");
    assert_eq!(tenant["cgroup_id"], 3);
    let read = &tenant["meters"][0];
    assert_eq!(read["meter"], "block_bytes");
    assert_eq!(read["labels"]["op"], "read");
    assert_eq!(read["total"], 48 << 20);
    assert_eq!(read["total_per_second"], 24.0 * 1048576.0);
    let latency = &tenant["meters"][2];
    assert_eq!(latency["total_buckets"][15], 60);
    let memory = &tenant["meters"][4];
    assert_eq!(memory["peak"], 5_u64 << 30);
    assert!(memory["own_per_second"].is_null());
}

#[test]
fn a_frame_has_limits_where_there_are_any() {
    let look = crate::render::Look::PLAIN;
    let frame = |model: &Model| {
        let table = plain::table(model, &Order::default(), &look);
        let document = serde_json::to_value(plain::frame(model, &Order::default())).unwrap();
        (table, document)
    };
    let mut model = model([tenants(1), tenants(2)]);
    let (table, document) = frame(&model);
    assert!(!table.contains("LIMITS"), "{table}");
    assert!(document.get("limits").is_none(), "{document}");
    model.limit_by(vec![limit(1, "/tenants/a", "tasks_born", Action::Freeze)]);
    let (table, document) = frame(&model);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with("  LIMITS"), "{table}");
    assert!(lines[2].ends_with("  -"), "{table}");
    assert!(lines[3].ends_with("  tasks_born -2 left"), "{table}");
    assert!(lines[4].ends_with("  held by /tenants/a"), "{table}");
    assert_eq!(document["limits"][0]["left"], -2);
}
