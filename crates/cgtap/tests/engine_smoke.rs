//! The main job, end to end: attached to a cgroup, counted exactly there and below, nowhere else.

mod support;

use support::Sandbox;

#[test]
fn what_is_attached_to_a_cgroup_runs_there_and_below_and_nowhere_else() {
    let sandbox = Sandbox::new("smoke");
    sandbox.cgroup("b");
    let request = sandbox.request("a", "count");
    let report = sandbox
        .engine
        .attach(request)
        .unwrap_or_else(|e| panic!("{e}\n{}", e.log()));
    sandbox.getppid("a", 1000);
    sandbox.getppid("b", 100);
    sandbox.getppid("", 10);
    // Made after the attach (S14).
    sandbox.getppid("a/young", 3);
    assert_eq!(sandbox.map_word(&report, "counts", 0), 1003);
}
