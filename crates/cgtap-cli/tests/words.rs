//! Wrong words, and the exit status and the document that say so. Nothing here needs a kernel.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what surprises a test is to end it"
)]

mod support;

use support::{Ran, cgtap, run};

/// Calls whose words are wrong, and something that the message says.
const WRONG: &[(&[&str], &str)] = &[
    (&["nonsense"], "unrecognized subcommand"),
    (&["attach"], "<CGROUP>"),
    (&["attach", "/a"], "<OBJECT>"),
    (&["attach", "/a", "x.o", "--instance", "3"], "--instance"),
    (&["attach", "/a", "x.o", "--mode", "some"], "multi"),
    (&["attach", "/a", "x.o", "--replace", "x"], "0x"),
    (&["attach", "/a", "x.o", "--cookie", "1.5"], "--cookie"),
    (&["attach", "/a", "x.o", "--before", "last"], "--after last"),
    (
        &["attach", "/a", "x.o", "--before", "1", "--after", "2"],
        "two attachments",
    ),
    (
        &["attach", "/a", "x.o", "--program", "p@nowhere"],
        "hook kind",
    ),
    (
        &["attach", "/a", "--instance", "3", "--set", "a=1"],
        "--set",
    ),
    (&["attach", "/a", "x.o", "--set", "a"], "NAME=VALUE"),
    (&["attach", "id:x", "x.o"], "hexadecimal"),
    (&["attach", "pod:", "x.o"], "a name is missing"),
    (&["attach", "pid:x", "x.o"], "write a number"),
    (&["detach"], "required"),
    (&["detach", "1", "--all"], "cannot be used with"),
    (
        &["detach", "--cgroup", "/a", "--instance", "1"],
        "cannot be used with",
    ),
    (
        &["detach", "--all", "--hook", "tp_btf:x"],
        "cannot be used with",
    ),
    (&["detach", "4294967296"], "the largest is 4294967295"),
    (&["replace", "1"], "<OBJECT>"),
    (
        &["replace", "1", "x.o", "--expect-program", "1."],
        "--expect-program",
    ),
    (&["list", "--hook", "sys_enter"], "hook kind"),
    (&["storage"], "<ID>"),
    (&["serve", "--listen", "localhost:9754"], "numeric address"),
    (&["serve", "--top", "0"], "the smallest is 1"),
    (&["stat", "-d", "1"], "--event"),
    (
        &["stat", "-e", "contxt-switches", "-d", "1"],
        "did you mean context-switches?",
    ),
    (&["stat", "-e", "zzz", "-d", "1"], "write a hook"),
    (&["stat", "-e", "", "-d", "1"], "an event has a name"),
    (
        &["stat", "-e", "cs,,faults", "-d", "1"],
        "an event has a name",
    ),
    (&["stat", "-e", "cycles:u", "-d", "1"], "has a modifier"),
    (
        &[
            "stat",
            "-e",
            "cs,faults",
            "-e",
            "context-switches",
            "-d",
            "1",
        ],
        "the same event",
    ),
    (
        &[
            "stat",
            "-e",
            "r0,r1,r2,r3,r4,r5,r6,r7,r8,r9,ra,rb,rc,rd,re,rf,r10,r11,r12,r13,r14,r15,r16,r17,r18,\
             r19,r1a,r1b,r1c,r1d,r1e,r1f,r20",
            "-d",
            "1",
        ],
        "33 perf events are too many: at the most 32",
    ),
    (
        &["stat", "-e", "raw_tp:sys_enter", "-d", "0"],
        "greater than 0",
    ),
    (
        &["stat", "-e", "raw_tp:sys_enter", "-d", "1", "--", "true"],
        "cannot be used with",
    ),
    (
        &["stat", "-e", "tp:block/block_rq_issue avg(bytes) by dev"],
        "`avg` is no value",
    ),
    (
        &["stat", "-e", "raw_tp:sys_enter if id ="],
        "this is no operator",
    ),
    (&["meter", "enable"], "required"),
    (&["meter", "enable", "cpu", "--all"], "cannot be used with"),
    (&["usage", "--depth", "1"], "--recursive"),
    (
        &["stat", "-e", "raw_tp:sys_enter", "--depth", "1"],
        "--per-cgroup",
    ),
    (&["completions", "cmd.exe"], "bash"),
    (&["man", "nonsense"], "nonsense"),
    (&["--color", "red", "list"], "never"),
];

#[test]
fn wrong_words_exit_2_and_say_what_is_wrong() {
    for (words, said) in WRONG {
        let ran = run(words);
        assert_eq!(ran.status, 2, "{words:?}: {ran:?}");
        assert_eq!(ran.out, "", "{words:?}: {ran:?}");
        assert!(ran.err.starts_with("error: "), "{words:?}: {ran:?}");
        assert!(ran.err.contains(said), "{words:?}: {ran:?}");
    }
}

#[test]
fn with_json_wrong_words_are_a_document() {
    for (words, said) in WRONG {
        let mut words = words.to_vec();
        // Before the command that `stat` runs.
        let end = words.iter().position(|w| *w == "--").unwrap_or(words.len());
        words.insert(end, "--json");
        let ran = run(&words);
        assert_eq!(ran.status, 2, "{words:?}: {ran:?}");
        let error = ran.error();
        assert_eq!(error["kind"], "usage", "{words:?}");
        assert!(error["errno"].is_null(), "{words:?}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(said), "{words:?}: {message}");
        assert!(
            !message.contains('\n') && !message.starts_with("error"),
            "{message}"
        );
    }
}

#[test]
fn options_of_every_command_stand_before_or_behind_it() {
    for words in [
        ["--json", "--state", "/nowhere", "stat", "-e", "x"],
        ["stat", "-e", "x", "--state", "/nowhere", "--json"],
    ] {
        assert_eq!(run(&words).error()["kind"], "usage");
    }
}

#[test]
fn a_scope_that_cannot_be_read_is_a_usage_error() {
    let ran = run(&["--json", "attach", "/", "x.o", "--scope", "owner(fence)"]);
    assert_eq!(ran.status, 2);
    let error = ran.error();
    assert_eq!(error["kind"], "usage");
    assert!(error["message"].as_str().unwrap().contains("owner(fence)"));
}

#[test]
fn no_command_at_all_shows_the_help() {
    let ran = run(&[]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("Usage: cgtap"));
    assert_eq!(ran.out, "");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in [
        &["--help"][..],
        &["-h"],
        &["attach", "--help"],
        &["help", "stat"],
    ] {
        let ran = run(words).done();
        assert!(ran.out.contains("Usage: cgtap"), "{words:?}");
        assert_eq!(ran.err, "");
    }
    assert!(run(&["--help"]).out.contains("CGTAP_STATE"));
    assert!(run(&["--version"]).done().out.starts_with("cgtap "));
}

#[test]
fn colour_is_not_used_in_pipes_but_where_it_is_asked_for() {
    let escapes = |words: &[&str], variable: Option<(&str, &str)>| {
        let mut command = cgtap();
        command.args(words).envs(variable);
        Ran::of(&mut command).err.contains('\x1b')
    };
    let wrong = ["stat", "-e", "x"];
    let failing = ["attach", "/", "x.o", "--scope", "x"];
    for call in [&wrong[..], &failing] {
        let with = |word: &'static str| [call, &["--color", word]].concat();
        assert!(!escapes(call, None));
        assert!(escapes(&with("always"), None));
        assert!(!escapes(&with("never"), Some(("CLICOLOR_FORCE", "1"))));
        assert!(!escapes(call, Some(("NO_COLOR", "1"))));
        // What is said in the call counts more than what is set around it.
        assert!(escapes(&with("always"), Some(("NO_COLOR", "1"))));
    }
}
