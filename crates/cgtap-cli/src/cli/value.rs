//! How single words are read: cgroups, ids, programs, variables, events, times.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::IntErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use cgtap::engine::{CgroupRef, NameKind, ProgramChoice, StatEvent};
use cgtap::hook::HookSpec;
use cgtap::id::{AttachmentId, CgroupId, InstanceId, LimitId, ProgramId};
use clap::builder::{OsStringValueParser, TypedValueParser};

/// A parser of `CGROUP`. The name of a directory need not be UTF-8.
pub fn cgroup_parser() -> impl TypedValueParser<Value = CgroupRef> {
    OsStringValueParser::new().try_map(cgroup)
}

/// Other ways to name a cgroup than by its path.
const KINDS: [NameKind; 3] = [NameKind::Container, NameKind::Pod, NameKind::Unit];

fn cgroup(text: OsString) -> Result<CgroupRef, String> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err("a cgroup has a name; `/` is the root".to_owned());
    }
    if let Some(id) = bytes.strip_prefix(b"id:") {
        let id = String::from_utf8_lossy(id);
        return Ok(CgroupRef::Id(CgroupId(number(&id, u64::MAX)?)));
    }
    if let Some(pid) = bytes.strip_prefix(b"pid:") {
        return Ok(CgroupRef::Pid(number_u32(&String::from_utf8_lossy(pid))?));
    }
    for kind in KINDS {
        let prefix = format!("{}:", kind.word());
        if let Some(name) = bytes.strip_prefix(prefix.as_bytes()) {
            let name = String::from_utf8_lossy(name).into_owned();
            if name.is_empty() {
                return Err(format!("a name is missing behind `{prefix}`"));
            }
            return Ok(CgroupRef::Named(kind, name));
        }
    }
    Ok(CgroupRef::Path(PathBuf::from(text)))
}

/// A cgroup in a file, as on the command line.
///
/// # Errors
/// Why it is none.
pub fn cgroup_ref(text: &str) -> Result<CgroupRef, String> {
    cgroup(OsString::from(text))
}

/// An id of a limit.
pub fn limit(text: &str) -> Result<LimitId, String> {
    number_u32(text).map(LimitId)
}

/// A number up to `max`, decimal, or hexadecimal behind `0x`.
fn number(text: &str, max: u64) -> Result<u64, String> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` takes a sign, which no id has.
    let parsed = if digits.starts_with('+') {
        Err("a number has no sign here".to_owned())
    } else {
        u64::from_str_radix(digits, radix).map_err(|e| match e.kind() {
            IntErrorKind::PosOverflow => format!("the largest is {max}"),
            _ => "write a number, decimal or behind 0x hexadecimal".to_owned(),
        })
    }?;
    if parsed > max {
        return Err(format!("the largest is {max}"));
    }
    Ok(parsed)
}

fn number_u32(text: &str) -> Result<u32, String> {
    let number = number(text, u64::from(u32::MAX))?;
    u32::try_from(number).map_err(|e| e.to_string())
}

/// `--cookie` and `--expect-revision`.
pub fn number_u64(text: &str) -> Result<u64, String> {
    number(text, u64::MAX)
}

/// The `ID` of an attachment.
pub fn attachment(text: &str) -> Result<AttachmentId, String> {
    number_u32(text).map(AttachmentId)
}

/// The `ID` of an instance.
pub fn instance(text: &str) -> Result<InstanceId, String> {
    number_u32(text).map(InstanceId)
}

/// A loaded program: `INSTANCE` or `INSTANCE.INDEX`.
pub fn program_id(text: &str) -> Result<ProgramId, String> {
    let (id, index) = text.split_once('.').unwrap_or((text, "0"));
    Ok(ProgramId {
        instance: instance(id)?,
        index: number_u32(index)?,
    })
}

/// `NAME[@HOOK]`.
pub fn program_choice(text: &str) -> Result<ProgramChoice, String> {
    let (name, hook) = match text.split_once('@') {
        Some((name, hook)) => (name, Some(hook.parse::<HookSpec>())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("the program's name is missing: write NAME or NAME@HOOK".to_owned());
    }
    Ok(ProgramChoice {
        name: name.to_owned(),
        hook: hook.transpose().map_err(|e| e.to_string())?,
    })
}

/// `NAME=VALUE`.
pub fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// What one `-e` names: one event with values, or several without, with commas between.
#[derive(Clone, Debug)]
pub struct Events(pub Vec<StatEvent>);

/// `EVENT`, or `EVENT,EVENT`.
pub fn events(text: &str) -> Result<Events, String> {
    let one = |text: &str| text.parse::<StatEvent>().map_err(|e| e.to_string());
    let text = text.trim();
    if text.contains(char::is_whitespace) {
        return Ok(Events(vec![one(text)?]));
    }
    text.split(',')
        .map(one)
        .collect::<Result<_, _>>()
        .map(Events)
}

/// `SECONDS`, with a fraction if need be.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number of seconds greater than 0".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if seconds <= 0.0 {
        return Err(wrong());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// The shortest time between two readings of everything.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// The `SECONDS` between two readings.
pub fn interval(text: &str) -> Result<Duration, String> {
    match seconds(text) {
        Ok(interval) if interval < SHORTEST_INTERVAL => {
            Err("the shortest interval is 0.1 seconds".to_owned())
        }
        other => other,
    }
}

/// `ADDRESS:PORT`.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write a numeric address and a port, 127.0.0.1:9754 or [::1]:9754".to_owned())
}

/// How many cgroups `serve` names.
pub fn top(text: &str) -> Result<usize, String> {
    match number_u32(text)? {
        0 => Err("the smallest is 1".to_owned()),
        top if top > 100_000 => Err("the largest is 100000".to_owned()),
        top => usize::try_from(top).map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn a_cgroup_is_a_path_or_an_id() {
        let path = |text: &str| Ok(CgroupRef::Path(PathBuf::from(text)));
        assert_eq!(cgroup("/".into()), path("/"));
        assert_eq!(cgroup("tenants/a".into()), path("tenants/a"));
        assert_eq!(cgroup("./pod:x".into()), path("./pod:x"));
        assert_eq!(cgroup("id:17".into()), Ok(CgroupRef::Id(CgroupId(17))));
        assert_eq!(cgroup("id:0x1f".into()), Ok(CgroupRef::Id(CgroupId(31))));
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        assert_eq!(cgroup(odd.clone()), Ok(CgroupRef::Path(odd.into())));
    }

    #[test]
    fn what_is_no_cgroup_is_said() {
        for text in ["", "id:", "id:x", "id:-1", "id:18446744073709551616"] {
            assert!(cgroup(text.into()).is_err(), "{text}");
        }
        for text in ["container:", "pod:", "unit:", "pid:", "pid:x", "pid:-1"] {
            assert!(cgroup(text.into()).is_err(), "{text}");
        }
        let named = |kind, name: &str| Ok(CgroupRef::Named(kind, name.to_owned()));
        assert_eq!(
            cgroup("container:web".into()),
            named(NameKind::Container, "web")
        );
        assert_eq!(
            cgroup("pod:prod/app".into()),
            named(NameKind::Pod, "prod/app")
        );
        assert_eq!(cgroup("pid:1".into()), Ok(CgroupRef::Pid(1)));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_and_bounded() {
        assert_eq!(attachment("12"), Ok(AttachmentId(12)));
        assert_eq!(attachment("0xC"), Ok(AttachmentId(12)));
        assert_eq!(number_u64("0xffffffffffffffff"), Ok(u64::MAX));
        for text in ["", "0x", "-1", "+1", "1 ", "1.5", "4294967296", "0x+1"] {
            assert!(attachment(text).is_err(), "{text}");
        }
        assert_eq!(
            attachment("99999999999").unwrap_err(),
            "the largest is 4294967295"
        );
    }

    #[test]
    fn a_program_is_named_by_its_instance_and_place() {
        let program = |instance, index| ProgramId {
            instance: InstanceId(instance),
            index,
        };
        assert_eq!(program_id("3"), Ok(program(3, 0)));
        assert_eq!(program_id("3.2"), Ok(program(3, 2)));
        assert!(program_id("3.").is_err());
        assert!(program_id(".3").is_err());
    }

    #[test]
    fn a_choice_may_say_where_the_program_runs() {
        let choice = program_choice("count@tp/sched/sched_switch").unwrap();
        assert_eq!(choice.name, "count");
        assert_eq!(
            choice.hook.unwrap().to_string(),
            "tracepoint:sched/sched_switch"
        );
        assert_eq!(program_choice("count").unwrap().hook, None);
        assert!(program_choice("@tp_btf:x").is_err());
        assert!(program_choice("count@nowhere").is_err());
    }

    fn event(text: &str) -> Result<StatEvent, String> {
        let mut all = events(text)?.0;
        assert_eq!(all.len(), 1, "{text}");
        Ok(all.remove(0))
    }

    #[test]
    fn an_event_is_a_hook_alone_or_with_values() {
        assert_eq!(
            event(" raw_tp:sys_enter ").unwrap().to_string(),
            "raw_tracepoint:sys_enter"
        );
        let all = events("cs,task-clock,raw_tp:sys_enter").unwrap().0;
        assert_eq!(all.len(), 3);
        // Commas within an event with values part its labels.
        let written = "tracepoint:block/block_rq_issue sum(bytes) by dev, rwbs if bytes > 0";
        let StatEvent::Meter(found) = event(written).unwrap() else {
            panic!()
        };
        let meter = found.meter();
        assert_eq!((meter.values.len(), meter.labels.len()), (1, 2));
        assert_eq!(event(written).unwrap().to_string(), written);
        assert!(
            event("raw_tracepoint:sys_enter avg(id)")
                .unwrap_err()
                .contains("`avg` is no value")
        );
        assert!(event("sys_enter").is_err());
    }

    #[test]
    fn an_event_may_be_one_of_perf() {
        for name in ["task-clock", "cs", "r1a8"] {
            let event = event(name).unwrap();
            assert!(matches!(&event, StatEvent::Counter(_)), "{name}");
            assert_eq!(event.to_string(), name);
        }
        let wrong = |text: &str| event(text).unwrap_err();
        assert!(wrong("task-clok").contains("did you mean task-clock?"));
        assert!(wrong("cycles:u").contains("modifier"));
        assert!(wrong("tracepont:sched/sched_switch").contains("names no hook kind"));
        assert!(wrong("").contains("an event has a name"));
    }

    #[test]
    fn a_time_is_greater_than_nothing() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "-1", "x", "", "nan", "inf", "1e300"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_is_not_too_short() {
        assert_eq!(interval("0.1"), Ok(Duration::from_millis(100)));
        assert!(interval("0.01").unwrap_err().contains("0.1 seconds"));
        assert!(interval("0").unwrap_err().contains("greater than 0"));
    }

    #[test]
    fn a_socket_is_an_address_and_a_port() {
        assert_eq!(socket("[::1]:80").unwrap().port(), 80);
        for text in ["", "localhost:80", "127.0.0.1", ":9754", "127.0.0.1:70000"] {
            assert!(socket(text).is_err(), "{text}");
        }
        assert_eq!(top("200"), Ok(200));
        assert!(top("0").is_err() && top("100001").is_err());
    }

    #[test]
    fn a_variable_has_a_name() {
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(assignment("a=b=c"), pair("a", "b=c"));
        assert_eq!(assignment("a="), pair("a", ""));
        assert!(assignment("=b").is_err());
        assert!(assignment("a").is_err());
    }
}
