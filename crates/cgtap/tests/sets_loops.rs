//! Members with big loops: refused together as they are, accepted each checked alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use support::Sandbox;

#[test]
fn many_members_with_big_loops_all_run() {
    let sandbox = Sandbox::new("loops");
    let mut reports = Vec::new();
    for _ in 0..12 {
        let request = sandbox.request("a", "loops");
        reports.push(
            sandbox
                .engine
                .attach(request)
                .unwrap_or_else(|e| panic!("{e}\n{}", e.log())),
        );
    }
    sandbox.getppid("a", 50);
    for report in &reports {
        assert_eq!(sandbox.map_word(report, ".bss", 0), 50);
    }
}

/// The same where a global function takes its context by the name of a type, and `current` comes
/// from the helper.
#[test]
fn loops_share_a_set_without_the_tag() {
    support::again_without(
        "arg_ctx_tag,current_table",
        "loops_share_a_set_without_the_tag",
    );
}
