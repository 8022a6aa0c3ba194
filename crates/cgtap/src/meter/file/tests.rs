//! Meter files, good and bad.

use cgtap_sys::Errno;

use super::super::source::Source;
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
[[gates]]
hook = "raw_tracepoint.w:sent"
if = "index > 1"
by.fd = "index"
ask.bytes = "len"
deny = "EIO"
retried = ["EAGAIN", "EINTR"]
write."request->from" = "0x10"
[[gates.else]]
hook = "lsm:file_ioctl"
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

#[test]
fn a_gate_is_read_as_it_is_written() {
    let meter = parse("x.toml", GOOD).unwrap();
    let ways = &meter.gates[0].choices;
    assert_eq!(meter.gates_of(0).count(), 1);
    assert_eq!(meter.gates_of(1).count(), 0);
    let (first, second) = (&ways[0], &ways[1]);
    let ask = first.held(0).unwrap().unwrap();
    assert_eq!((ask.text.as_str(), ask.line), ("len", 27));
    assert_eq!(first.by[0].as_ref().map(|e| e.line), Some(26));
    assert_eq!(first.deny, Errno::EIO);
    assert_eq!(first.retried, [Errno::EAGAIN, Errno::EINTR]);
    let (field, value) = &first.writes[0];
    assert_eq!((field.text.as_str(), *value), ("request->from", 0x10));
    // What another way does not say is as above, but for what only writable hooks can do.
    assert_eq!(second.hook.to_string(), "lsm:file_ioctl");
    assert_eq!((&second.holds, &second.by), (&first.holds, &first.by));
    assert_eq!(second.deny, first.deny);
    assert!(second.writes.is_empty());

    let shut = GOOD
        .replace("ask.bytes = \"len\"", "holds = [\"bytes\"]")
        .replace("by.fd = \"index\"\n", "");
    let meter = parse("x.toml", &shut).unwrap();
    let first = &meter.gates[0].choices[0];
    assert_eq!(first.holds, [(0, None)]);
    assert_eq!(first.by, [None]);

    let differs = GOOD
        .replace(
            "[labels.fd]",
            "[values.calls]\nhelp = \"Calls\"\n[labels.fd]",
        )
        .replace("do.bytes", "do.calls = \"count()\"\ndo.bytes")
        + "ask.calls = \"1\"\n";
    let error = parse("x.toml", &differs).expect_err("other values");
    assert!(
        error
            .to_string()
            .contains("x.toml:35: a gate holds the same")
    );
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
        "do.bytes = \"sum(count)\"",
        "do.bytes = \"sum(count)\"\nunless = \"tp_btf:newer\"",
        21,
        "one probe at least is needed on every kernel",
    ),
    (
        "do.bytes = \"sum(count)\"",
        "do.bytes = \"sum(count)\"\nunless = \"newer\"",
        21,
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
        "since = \"begun\"\n",
        "since = \"begun\"\ncarry.x = \"now\"\n",
        18,
        "or of the event before",
    ),
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
    (
        "hook = \"raw_tracepoint.w:sent\"",
        "hook = \"tp_btf:sent\"",
        24,
        "gates are at lsm:, fmod_ret:, cgroup:, raw_tracepoint.w:",
    ),
    (
        "hook = \"lsm:file_ioctl\"",
        "hook = \"kprobe:x\"",
        32,
        "nothing can be refused at kprobe:",
    ),
    (
        "hook = \"raw_tracepoint.w:sent\"",
        "hook = \"lsm:sent\"",
        30,
        "write is for raw_tracepoint.w:",
    ),
    (
        "if = \"index > 1\"",
        "if = \"index >\"",
        25,
        "a value is missing",
    ),
    (
        "by.fd = \"index\"",
        "by.fs = \"index\"",
        26,
        "`fs` is no label",
    ),
    (
        "ask.bytes = \"len\"",
        "ask.bites = \"len\"",
        27,
        "`bites` is no value of this meter; there are: bytes",
    ),
    (
        "ask.bytes = \"len\"",
        "holds = [\"bites\"]",
        27,
        "`bites` is no value of this meter; there are: bytes",
    ),
    (
        "ask.bytes = \"len\"",
        "ask.bytes = \"1\"\nholds = [\"bytes\"]",
        28,
        "bytes is said twice",
    ),
    (
        "ask.bytes = \"len\"",
        "ask.bytes = \"len +\"",
        27,
        "a value is missing",
    ),
    ("ask.bytes = \"len\"\n", "", 24, "holds nothing"),
    (
        "deny = \"EIO\"",
        "deny = \"EFOO\"",
        28,
        "`EFOO` is no errno",
    ),
    ("deny = \"EIO\"\n", "", 0, "missing field `deny`"),
    (
        "deny = \"EIO\"",
        "deny = \"EINTR\"",
        28,
        "again at EINTR for ever",
    ),
    ("\"EINTR\"]", "\"5\"]", 29, "`5` is no errno"),
    ("write.\"request->from\" = \"0x10\"\n", "", 24, "say write."),
    (
        "write.\"request->from\"",
        "write.\"1\"",
        30,
        "neither a field behind an argument",
    ),
    (
        "write.\"request->from\"",
        "write.\"request->\"",
        30,
        "missing behind ->",
    ),
    (
        "write.\"request->from\" = \"0x10\"",
        "write.\"request->from\" = \"len\"",
        30,
        "is a number",
    ),
    (
        "hook = \"lsm:file_ioctl\"",
        "hook = \"lsm:file_ioctl\"\nwrite.\"a->b\" = \"1\"",
        33,
        "nothing can be written at lsm:",
    ),
    (
        "hook = \"lsm:file_ioctl\"",
        "hook = \"lsm:file_ioctl\"\nask = {}",
        32,
        "holds nothing",
    ),
    (
        "hook = \"lsm:file_ioctl\"",
        "hook = \"lsm:file_ioctl\"\nholds = [\"bytes\"]",
        33,
        "unknown field `holds`",
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
    for word in [
        "cannot_see",
        "\"else\"",
        "keep",
        "measured",
        "since",
        "retried",
    ] {
        assert!(schema.contains(word), "{word}");
    }
}

const READS: &str = r#"
name = "engines"
help = "Engines"
source = "fdinfo_engines"
values.busy = { help = "Time", unit = "ns" }
labels.dev = { help = "Device" }
labels.engine = { help = "Engine" }
"#;

#[test]
fn a_meter_that_reads_has_the_values_and_labels_of_its_source() {
    let meter = parse("x.toml", READS).unwrap();
    assert_eq!(meter.source, Some(Source::FdinfoEngines));
    assert_eq!((meter.values.len(), meter.probes.len()), (1, 0));
    assert_eq!(meter.values[0].form, Form::Sum);
    for (from, to, why) in [
        (
            "\"ns\"",
            "\"bytes\"",
            "the unit of busy is ns where fdinfo_engines is read",
        ),
        (
            "values.busy",
            "values.idle",
            "fdinfo_engines has no idle; it has busy, cycles",
        ),
        (
            "labels.engine",
            "labels.ring",
            "the labels of fdinfo_engines are dev, engine",
        ),
        (
            "\"fdinfo_engines\"",
            "\"entrails\"",
            "unknown variant `entrails`",
        ),
        (
            "labels.engine = { help = \"Engine\" }",
            "labels.engine = { help = \"Engine\" }\n[[probes]]\nhook = \"raw_tracepoint:sys_enter\"\n\
             by.dev = \"1\"\nby.engine = \"2\"\ndo.busy = \"count()\"",
            "a meter that reads fdinfo_engines has no probes and no notes",
        ),
    ] {
        assert!(READS.contains(from), "{from}");
        let error = parse("x.toml", &READS.replacen(from, to, 1)).expect_err(to);
        let error = error.to_string();
        assert!(error.starts_with("x.toml:4: "), "{to}: {error}");
        assert!(error.contains(why), "{to}: {error}");
    }
}

#[test]
fn a_gate_of_what_is_read_holds_and_asks_nothing() {
    let gate = |says: &str| {
        format!("{READS}\n[[gates]]\nhook = \"lsm:file_ioctl\"\n{says}\ndeny = \"ENOMEM\"\n")
    };
    let meter = parse("x.toml", &gate("holds = [\"busy\"]")).unwrap();
    assert_eq!(meter.gates_of(0).count(), 1);
    for (says, behind) in [
        ("ask.busy = \"1\"", ""),
        ("expect.busy = \"cmd\"", ""),
        (
            "holds = [\"busy\"]",
            "[[gates.else]]\nhook = \"fmod_ret:security_file_ioctl\"\nask.busy = \"1\"\n",
        ),
    ] {
        let text = gate(says) + behind;
        let error = parse("x.toml", &text).expect_err(says).to_string();
        assert!(error.starts_with("x.toml:10: "), "{error}");
        assert!(error.contains("neither ask nor expect it"), "{error}");
    }
}
