//! Limits that a controller of the kernel's holds by itself: what is written into which file of the
//! cgroup (Documentation/admin-guide/cgroup-v2.rst).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A file of a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Controller {
    /// `cpu.max`: time on CPUs each period.
    CpuMax,
    /// `io.max`: bytes or operations of a device each second.
    IoMax,
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
    pub const ALL: [Self; 2] = [Self::CpuMax, Self::IoMax];

    /// Its file.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::CpuMax => "cpu.max",
            Self::IoMax => "io.max",
        }
    }

    /// What is written for a limit.
    ///
    /// # Errors
    /// Why it holds no such limit.
    pub fn setting(self, wanted: Wanted<'_>) -> Result<Setting, String> {
        let file = self.file();
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
                 block_operations"
            )),
        }
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
