//! Limits that a controller of the kernel's holds by itself: what is written into which file of the
//! cgroup (Documentation/admin-guide/cgroup-v2.rst).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::meter::library::{Known, Source};
use crate::meter::usage::{Form, Truth, Unit};
use crate::meter::written::{LabelText, Meter, Value};

/// A file of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Controller {
    /// `cpu.max`: time on CPUs each period.
    CpuMax,
    /// `io.max`: bytes or operations of a device each second.
    IoMax,
    /// `memory.high`: bytes, beyond which tasks are slowed down and their memory is reclaimed.
    MemoryHigh,
    /// `dmem.max`: bytes of a region of a device's memory (since 6.14).
    DmemMax,
}

/// A value that the kernel counts and holds by itself, in files of the cgroup.
struct OwnValue {
    controller: Controller,
    meter: &'static str,
    help: &'static str,
    /// The file that says what is used; its name, with `_` for the dot, is that of the value.
    file: &'static str,
    label: Option<(&'static str, &'static str)>,
}

const OWN: [OwnValue; 2] = [
    OwnValue {
        controller: Controller::MemoryHigh,
        meter: "memory",
        help: "Memory that the kernel charges to the cgroup",
        file: "memory.current",
        label: None,
    },
    OwnValue {
        controller: Controller::DmemMax,
        meter: "dmem",
        help: "Memory of devices that the kernel charges to the cgroup",
        file: "dmem.current",
        label: Some((
            "region",
            "Of the device's memory, as dmem.capacity calls it",
        )),
    },
];

/// The value of this name, `memory_current` or `dmem_current`, if the kernel counts and holds it by
/// itself: no program of ours does.
#[must_use]
pub fn own_value(name: &str) -> Option<Known> {
    let own = OWN.iter().find(|own| own.file.replace('.', "_") == name)?;
    let labels = own.label.iter().map(|(name, help)| LabelText {
        name: (*name).to_owned(),
        help: (*help).to_owned(),
    });
    let meter = Meter {
        source: None,
        name: own.meter.to_owned(),
        help: own.help.to_owned(),
        cannot_see: Vec::new(),
        room: 0,
        values: vec![Value {
            name: "current".to_owned(),
            help: own.help.to_owned(),
            unit: Unit::Bytes,
            truth: Truth::Measured,
            form: Form::Gauge,
        }],
        labels: labels.collect(),
        notes: Vec::new(),
        probes: Vec::new(),
        gates: Vec::new(),
    };
    Some(Known {
        meter,
        source: Source::Builtin,
        text: String::new(),
    })
}

/// What is written for a limit, and what takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file, in the cgroup.
    pub file: &'static str,
    /// What holds the limit.
    pub set: String,
    /// What lifts it.
    pub lift: String,
}

/// A limit as controllers see it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What is limited, `cpu_time`.
    pub meter: &'a str,
    /// Labels that events must have.
    pub labels: &'a BTreeMap<String, String>,
    /// How much.
    pub amount: u64,
    /// Each so many nanoseconds.
    pub period_ns: Option<u64>,
}

/// Periods of `cpu.max` in microseconds (kernel/sched/core.c, `tg_set_cfs_bandwidth`).
const CPU_PERIODS_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The period that longer ones are cut to.
const CPU_PERIOD_US: u64 = 100_000;
const SECOND_NS: u128 = 1_000_000_000;

impl Controller {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::CpuMax, Self::IoMax, Self::MemoryHigh, Self::DmemMax];

    /// The one that holds a value that the kernel counts by itself.
    #[must_use]
    pub fn of_own(meter: &str) -> Option<Self> {
        let own = OWN.iter().find(|own| own.file.replace('.', "_") == meter);
        own.map(|own| own.controller)
    }

    /// The file that says what is used, where the kernel counts by itself.
    #[must_use]
    pub fn usage_file(self) -> Option<&'static str> {
        let own = OWN.iter().find(|own| own.controller == self);
        own.map(|own| own.file)
    }

    /// What is used, by the text of that file.
    #[must_use]
    pub fn usage(self, labels: &BTreeMap<String, String>, text: &str) -> Option<u64> {
        match self {
            Self::MemoryHigh => text.trim().parse().ok(),
            Self::DmemMax => {
                let region = labels.get("region")?;
                let mut lines = text.lines().filter_map(|l| l.rsplit_once(' '));
                lines.find(|(name, _)| name == region)?.1.parse().ok()
            }
            Self::CpuMax | Self::IoMax => None,
        }
    }

    /// Its file.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::CpuMax => "cpu.max",
            Self::IoMax => "io.max",
            Self::MemoryHigh => "memory.high",
            Self::DmemMax => "dmem.max",
        }
    }

    /// What its file says, as it is written there, of what `lift` would lift.
    #[must_use]
    pub fn present(self, lift: &str, text: &str) -> String {
        let found = match self {
            Self::CpuMax | Self::MemoryHigh => Some(text.trim().to_owned()),
            // A line a device, with all its keys; none without a limit.
            Self::IoMax => lift.split_once([' ', '=']).and_then(|(device, rest)| {
                let key = rest.split('=').next().unwrap_or_default();
                let line = text
                    .lines()
                    .find_map(|l| l.strip_prefix(device)?.strip_prefix(' '))?;
                let is_it = |word: &&str| word.split_once('=').is_some_and(|(k, _)| k == key);
                Some(format!("{device} {}", line.split(' ').find(is_it)?))
            }),
            // A line a region.
            Self::DmemMax => lift.rsplit_once(' ').and_then(|(region, _)| {
                let is_it = |line: &&str| line.rsplit_once(' ').is_some_and(|(r, _)| r == region);
                Some(text.lines().find(is_it)?.to_owned())
            }),
        };
        found.unwrap_or_else(|| lift.to_owned())
    }

    /// What is written for a limit.
    ///
    /// # Errors
    /// Why it holds no such limit.
    pub fn setting(self, wanted: Wanted<'_>) -> Result<Setting, String> {
        let file = self.file();
        if Self::of_own(wanted.meter) == Some(self) {
            return self.own_setting(wanted);
        }
        let (amount, Some(period_ns)) = (wanted.amount, wanted.period_ns) else {
            return Err(format!("{file} holds rates: write AMOUNT/PERIOD"));
        };
        match (self, wanted.meter) {
            (Self::CpuMax, "cpu_time") => {
                let period_us = period_ns / 1_000;
                let (quota_us, period_us) = if CPU_PERIODS_US.contains(&period_us) {
                    (amount / 1_000, period_us)
                } else {
                    let quota = u128::from(amount) * u128::from(CPU_PERIOD_US);
                    let quota_us = quota / u128::from(period_ns);
                    (u64::try_from(quota_us).unwrap_or(u64::MAX), CPU_PERIOD_US)
                };
                if quota_us < 1_000 {
                    return Err(format!(
                        "{file} gives out at least 1 ms at a time, and this is {quota_us} us each \
                         {period_us} us; take a longer period"
                    ));
                }
                Ok(Setting {
                    file,
                    set: format!("{quota_us} {period_us}"),
                    lift: "max".to_owned(),
                })
            }
            (Self::IoMax, "block_bytes" | "block_operations") => {
                let per_second = u128::from(amount) * SECOND_NS / u128::from(period_ns);
                let label = |name: &str| wanted.labels.get(name).map(String::as_str);
                let (Some(device), Some(direction @ ("read" | "write"))) =
                    (label("dev"), label("direction"))
                else {
                    return Err(format!(
                        "{file} holds one direction of one device: write {}{{dev=MAJOR:MINOR,\
                         direction=read}} or direction=write",
                        wanted.meter
                    ));
                };
                let unit = if wanted.meter == "block_bytes" {
                    "bps"
                } else {
                    "iops"
                };
                let key = format!("{}{unit}", &direction[..1]);
                if per_second == 0 {
                    return Err(format!("{file} holds at least 1 a second"));
                }
                Ok(Setting {
                    file,
                    set: format!("{device} {key}={per_second}"),
                    lift: format!("{device} {key}=max"),
                })
            }
            (_, meter) => Err(format!(
                "{file} does not hold {meter}: cpu.max holds cpu_time, io.max block_bytes and \
                 block_operations, memory.high memory_current, dmem.max dmem_current"
            )),
        }
    }

    /// What is written for a limit on a value that the kernel counts by itself.
    fn own_setting(self, wanted: Wanted<'_>) -> Result<Setting, String> {
        let (file, amount) = (self.file(), wanted.amount);
        let words = match (self, wanted.labels.get("region")) {
            (Self::DmemMax, None) => {
                return Err(format!(
                    "{file} holds one region: write dmem_current{{region=NAME}}; dmem.capacity of \
                     the root has their names"
                ));
            }
            (Self::DmemMax, Some(region)) => {
                (format!("{region} {amount}"), format!("{region} max"))
            }
            _ => (amount.to_string(), "max".to_owned()),
        };
        let (set, lift) = words;
        Ok(Setting { file, set, lift })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(
        controller: Controller,
        meter: &str,
        labels: &[(&str, &str)],
        amount: u64,
        ns: u64,
    ) -> Result<String, String> {
        let labels = labels
            .iter()
            .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()));
        let labels = labels.collect();
        let wanted = Wanted {
            meter,
            labels: &labels,
            amount,
            period_ns: (ns > 0).then_some(ns),
        };
        controller
            .setting(wanted)
            .map(|s| format!("{} {}", s.file, s.set))
    }

    #[test]
    fn what_a_file_says_is_what_would_be_written() {
        let cpu = |text| Controller::CpuMax.present("max", text);
        assert_eq!(cpu("max 100000\n"), "max 100000");
        assert_eq!(cpu("50000 100000\n"), "50000 100000");
        assert_eq!(Controller::MemoryHigh.present("max", "4096\n"), "4096");
        let io = |lift, text| Controller::IoMax.present(lift, text);
        let text =
            "8:0 rbps=max wbps=1 riops=2 wiops=max\n254:0 rbps=max wbps=77 riops=max wiops=max\n";
        assert_eq!(io("254:0 wbps=max", text), "254:0 wbps=77");
        assert_eq!(io("8:0 riops=max", text), "8:0 riops=2");
        assert_eq!(io("8:0 rbps=max", text), "8:0 rbps=max");
        assert_eq!(io("4:0 rbps=max", text), "4:0 rbps=max");
        let dmem = |text| Controller::DmemMax.present("drm/0/vram0 max", text);
        assert_eq!(
            dmem("drm/0/vram1 max\ndrm/0/vram0 4096\n"),
            "drm/0/vram0 4096"
        );
        assert_eq!(dmem(""), "drm/0/vram0 max");
    }

    #[test]
    fn what_the_kernel_counts_is_held_by_its_own_file() {
        let memory = |ns| written(Controller::MemoryHigh, "memory_current", &[], 2 << 30, ns);
        assert_eq!(memory(0).unwrap(), "memory.high 2147483648");
        let dmem =
            |labels: &[(&str, &str)]| written(Controller::DmemMax, "dmem_current", labels, 4096, 0);
        let region = [("region", "drm/0000:03:00.0/vram0")];
        assert_eq!(
            dmem(&region).unwrap(),
            "dmem.max drm/0000:03:00.0/vram0 4096"
        );
        assert!(dmem(&[]).unwrap_err().contains("one region"));
        let cpu = written(Controller::MemoryHigh, "cpu_time", &[], 1, 1);
        assert!(cpu.unwrap_err().contains("does not hold cpu_time"));
        let labels = region.map(|(n, t)| (n.to_owned(), t.to_owned())).into();
        let text = "drm/0000:03:00.0/stolen 7\ndrm/0000:03:00.0/vram0 42\n";
        assert_eq!(Controller::DmemMax.usage(&labels, text), Some(42));
        let none = BTreeMap::new();
        assert_eq!(Controller::MemoryHigh.usage(&none, "4096\n"), Some(4096));
        assert_eq!(own_value("memory_current").unwrap().meter.labels, []);
        assert!(own_value("memory_faults").is_none());
    }

    #[test]
    fn rates_are_as_controllers_take_them() {
        let cpu = |amount, ns| written(Controller::CpuMax, "cpu_time", &[], amount, ns);
        assert_eq!(
            cpu(300_000_000, 1_000_000_000).unwrap(),
            "cpu.max 300000 1000000"
        );
        assert_eq!(
            cpu(3_000_000_000, 10_000_000_000).unwrap(),
            "cpu.max 30000 100000"
        );
        assert!(cpu(100, 1_000_000).unwrap_err().contains("at least 1 ms"));
        assert!(cpu(100, 0).unwrap_err().contains("AMOUNT/PERIOD"));
        let labels = [("dev", "8:0"), ("direction", "write")];
        let io = |meter, labels: &[(&str, &str)]| {
            written(Controller::IoMax, meter, labels, 10 << 20, 2_000_000_000)
        };
        assert_eq!(
            io("block_bytes", &labels).unwrap(),
            "io.max 8:0 wbps=5242880"
        );
        assert_eq!(
            io("block_operations", &labels).unwrap(),
            "io.max 8:0 wiops=5242880"
        );
        assert!(
            io("block_bytes", &labels[..1])
                .unwrap_err()
                .contains("one direction")
        );
        assert!(
            io("nbd_bytes", &labels)
                .unwrap_err()
                .contains("does not hold nbd_bytes")
        );
    }
}
