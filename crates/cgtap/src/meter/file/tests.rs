//! Meter files, good and bad.

use super::super::usage::Form;
use super::*;

const GOOD: &str = r#"name = "writes"
help = "What is written"
room = 64
[values.bytes]
help = "Bytes"
unit = "bytes"
[labels.fd]
help = "File"
[[notes]]
name = "begun"
hook = "raw_tracepoint:sys_enter"
key = "current->pid, id"
keep.n = "id"
[[probes]]
hook = "tracepoint:syscalls/sys_enter_write"
if = "count > 0"
since = "begun"
key = "current->pid, 1"
by.fd = "fd"
do.bytes = "sum(count)"
[[probes.else]]
hook = "tp_btf:other"
"#;

#[test]
fn a_file_is_read_as_it_is_written() {
    let meter = parse("x.toml", GOOD).unwrap();
    assert_eq!((meter.name.as_str(), meter.room), ("writes", 64));
    assert_eq!(meter.values[0].form, Form::Sum);
    assert_eq!(meter.notes[0].choices[0].keep[0].0, "n");
    let ways = &meter.probes[0].choices;
    assert_eq!(ways.len(), 2);
    // What another way does not say is as above.
    assert_eq!(ways[1].updates, ways[0].updates);
    assert_eq!(ways[1].hook.to_string(), "tp_btf:other");
    assert_eq!(ways[0].condition.as_ref().map(|c| c.line), Some(16));
}

/// One change to the good file, the line of what is wrong then, and something that is said.
const WRONG: &[(&str, &str, usize, &str)] = &[
    ("name = \"writes\"", "name = \"Writes\"", 1, "lower-case"),
    ("name = \"writes\"", "name = \"stat\"", 1, "not `stat`"),
    ("name = \"writes\"\n", "", 0, "missing field `name`"),
    ("help = \"What", "hlep = \"What", 2, "unknown field `hlep`"),
    ("room = 64", "room = 0", 3, "from 1 to"),
    ("room = 64", "room = \"x\"", 3, "invalid type"),
    ("room = 64", "room = ", 3, "string values must be quoted"),
    (
        "unit = \"bytes\"",
        "unit = \"pounds\"",
        6,
        "unknown variant `pounds`",
    ),
    (
        "[values.bytes]",
        "[values.Bytes]",
        0,
        "cannot be a value's name",
    ),
    (
        "raw_tracepoint:sys_enter",
        "sys_enter",
        11,
        "names no hook kind",
    ),
    (
        "key = \"current->pid, id\"",
        "key = \"a, b, c\"",
        12,
        "at most 2",
    ),
    (
        "key = \"current->pid, id\"",
        "key = \"a +\"",
        12,
        "a value is missing",
    ),
    (
        "if = \"count > 0\"",
        "if = \"count >\"",
        16,
        "a value is missing",
    ),
    (
        "since = \"begun\"",
        "since = \"begn\"",
        15,
        "no note `begn`",
    ),
    ("since = \"begun\"\n", "", 17, "say since which"),
    (
        "key = \"current->pid, 1\"",
        "key = \"1\"",
        15,
        "found by 2 numbers",
    ),
    ("by.fd = \"fd\"\n", "", 15, "does not say the label fd"),
    (
        "by.fd = \"fd\"",
        "by.fd = \"fd\"\nby.x = \"fd\"",
        20,
        "no label",
    ),
    (
        "do.bytes = \"sum(count)\"",
        "do.bites = \"count()\"",
        20,
        "no value",
    ),
    (
        "do.bytes = \"sum(count)\"",
        "do.bytes = \"avg(count)\"",
        20,
        "`avg` is no value",
    ),
    (
        "do.bytes = \"sum(count)\"",
        "do.bytes = \"sum(count) 3\"",
        20,
        "operator is missing",
    ),
    ("do.bytes = \"sum(count)\"", "do = {}", 15, "does nothing"),
    (
        "hook = \"tp_btf:other\"",
        "hook = \"tp_btf:other\"\ndo.bytes = \"count()\"",
        23,
        "something else",
    ),
    (
        "hook = \"tp_btf:other\"",
        "of = \"rq\"",
        21,
        "missing field `hook`",
    ),
    (
        "hook = \"tp_btf:other\"",
        "hook = \"tp_btf:other\"\nof = \"owner(a) noted at tp_btf:b by a\"",
        23,
        "write a note",
    ),
];

#[test]
fn each_mistake_is_told_with_its_line() {
    for (from, to, line, why) in WRONG {
        assert!(GOOD.contains(from), "{from}");
        let error = parse("x.toml", &GOOD.replacen(from, to, 1)).expect_err(to);
        let place = if *line == 0 {
            "x.toml".to_owned()
        } else {
            format!("x.toml:{line}: ")
        };
        let error = error.to_string();
        assert!(error.starts_with(&place), "{to}: {error}");
        assert!(error.contains(why), "{to}: {error}");
    }
}

#[test]
fn the_schema_names_what_files_may_say() {
    let schema = schema().to_string();
    for word in ["cannot_see", "\"else\"", "keep", "measured", "since"] {
        assert!(schema.contains(word), "{word}");
    }
}
