//! Processes on NVIDIA's GPUs, as the driver's own library tells of them. It is loaded when it is first
//! asked; where there is none, that is said.
//!
//! Utilisation is the library's: it looks at each GPU a few times a second, and tells of each process in
//! what part of a hundred of such a while kernels of it ran. That times the while is an estimate of time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::{ProcessInfo, ProcessUtilizationSample};
use nvml_wrapper::{Device, Nvml};

use super::{Reading, Sample, key};
use crate::id::CgroupId;

/// The library, by the name under which drivers install it; `libnvidia-ml.so` alone comes with
/// developers' files.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The library looks at GPUs at least once a second: without a sample for longer, nobody has worked.
const IDLE_US: u64 = 2_000_000;

/// A process on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Bytes of the GPU's memory that it has, if that is told.
    pub memory_bytes: Option<u64>,
    /// In how many parts of ten thousand of the time kernels of it ran, since the samples before.
    pub share: u64,
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its name on its bus, as the kernel has it.
    pub name: String,
    /// Its processes, by their ids.
    pub processes: BTreeMap<u32, Process>,
    /// When the newest sample of utilisation was taken, in microseconds since 1970; none if there is none
    /// since the last one.
    pub sampled_us: Option<u64>,
    /// Why there is no utilisation.
    pub unsampled: Option<String>,
}

static LOADED: Mutex<Option<Nvml>> = Mutex::new(None);

/// Does something with the library, which stays loaded.
fn with<T>(work: impl FnOnce(&Nvml) -> Result<T, NvmlError>) -> Result<T, String> {
    if cfg!(target_feature = "crt-static") {
        return Err("this cgtap is linked statically, and can load no library".to_owned());
    }
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let nvml = match loaded.take() {
        Some(nvml) => nvml,
        None => Nvml::builder()
            .lib_path(LIBRARY.as_ref())
            .init()
            .map_err(|e| unloaded(&e))?,
    };
    let done = work(&nvml);
    // After a failure it is begun with anew: the driver may have been loaded anew.
    if done.is_ok() {
        *loaded = Some(nvml);
    }
    done.map_err(|e| format!("{LIBRARY}: {e}"))
}

fn unloaded(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) => format!(
            "there is no NVIDIA library {LIBRARY} here; it comes with NVIDIA's driver, and is looked for \
             where the dynamic linker looks"
        ),
        NvmlError::DriverNotLoaded => format!("{LIBRARY} is there, and no NVIDIA driver is loaded"),
        other => format!("{LIBRARY} cannot be used: {other}"),
    }
}

/// Whether there is a library that works.
///
/// # Errors
/// Why not.
pub fn check() -> Result<(), String> {
    with(Nvml::device_count).map(drop)
}

/// All GPUs. `since_us` is when the samples were taken that were read last of the GPU of a name.
///
/// # Errors
/// The library's answer.
pub fn read(since_us: impl Fn(&str) -> u64) -> Result<Vec<Gpu>, String> {
    with(|nvml| {
        let all = 0..nvml.device_count()?;
        all.map(|at| gpu(&nvml.device_by_index(at)?, &since_us))
            .collect()
    })
}

fn gpu(device: &Device<'_>, since_us: impl Fn(&str) -> u64) -> Result<Gpu, NvmlError> {
    let pci = device.pci_info()?;
    let name = format!("{:04x}:{:02x}:{:02x}.0", pci.domain, pci.bus, pci.device);
    let mut gpu = Gpu::default();
    let graphics = device.running_graphics_processes();
    for list in [device.running_compute_processes(), graphics] {
        match list {
            Ok(list) => gpu.hold(&list),
            // Cards for computing alone have no graphics.
            Err(NvmlError::NotSupported) => {}
            Err(e) => return Err(e),
        }
    }
    let is_mig = device.mig_mode().is_ok_and(|mode| mode.current == 1);
    let since = since_us(&name);
    match device.process_utilization_stats(since) {
        _ if is_mig => gpu.unsampled = Some("it is split up (MIG)".to_owned()),
        Ok(samples) => gpu.sample(&samples, since),
        // Nothing since then.
        Err(NvmlError::NotFound) => {}
        Err(e) => gpu.unsampled = Some(e.to_string()),
    }
    gpu.name = name;
    Ok(gpu)
}

impl Gpu {
    /// Takes a list of processes and their memory: one that is on several lists has what it has once; one
    /// that is several times on the same has parts of a GPU.
    fn hold(&mut self, list: &[ProcessInfo]) {
        let mut held: BTreeMap<u32, Option<u64>> = BTreeMap::new();
        for process in list {
            let known = held.entry(process.pid).or_default();
            if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
                *known = Some(known.unwrap_or(0).saturating_add(bytes));
            }
        }
        for (pid, bytes) in held {
            let known = self.processes.entry(pid).or_default();
            known.memory_bytes = known.memory_bytes.max(bytes);
        }
    }

    /// Takes samples: of each process the mean of those that are new.
    fn sample(&mut self, samples: &[ProcessUtilizationSample], since_us: u64) {
        let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for sample in samples.iter().filter(|s| s.timestamp > since_us) {
            self.sampled_us = self.sampled_us.max(Some(sample.timestamp));
            let sum = sums.entry(sample.pid).or_default();
            sum.0 += u64::from(sample.sm_util.min(100)) * 100;
            sum.1 += 1;
        }
        for (pid, (sum, count)) in sums {
            self.processes.entry(pid).or_default().share = sum / count;
        }
    }
}

/// Now, by the library's clock and by that of processes and readings.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// In microseconds since 1970.
    pub now_us: u64,
    /// In nanoseconds since boot.
    pub now_ns: u64,
}

impl Clock {
    /// A moment in nanoseconds since boot, by the library's clock in nanoseconds.
    fn library_ns(&self, at_ns: u64) -> u64 {
        let ago_ns = self.now_ns.saturating_sub(at_ns);
        (self.now_us * 1_000).saturating_sub(ago_ns)
    }
}

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose {
    /// Its cgroup.
    pub cgroup: CgroupId,
    /// When it was started, in nanoseconds since boot: another process with its id was not then.
    pub started_ns: u64,
}

/// What the GPUs tell of `values`. `before_ns` is when they were read before, in nanoseconds since boot,
/// `last_us` when the sample was taken that was read last of the GPU of a name; `whose` finds a process.
#[must_use]
pub fn readings(
    gpus: &[Gpu],
    values: &[&str],
    clock: Clock,
    before_ns: u64,
    last_us: impl Fn(&str) -> u64,
    mut whose: impl FnMut(u32) -> Option<Whose>,
) -> Vec<Reading> {
    let mut readings = Vec::new();
    for gpu in gpus {
        // Without a sample nobody is known to have worked; after a while nobody has.
        let is_idle = clock.now_us.saturating_sub(last_us(&gpu.name)) > IDLE_US;
        let at_us = gpu.sampled_us.or(is_idle.then_some(clock.now_us));
        let at_us = at_us.filter(|_| gpu.unsampled.is_none());
        for (pid, process) in &gpu.processes {
            let Some(whose) = whose(*pid) else { continue };
            let sample = |value: &&str| match *value {
                "busy" => at_us.map_or(Sample::None, |at_us| Sample::Rate {
                    share: process.share,
                    at_ns: at_us.saturating_mul(1_000),
                    since_ns: clock.library_ns(whose.started_ns.max(before_ns)),
                }),
                "memory" => process.memory_bytes.map_or(Sample::None, Sample::Held),
                _ => Sample::None,
            };
            readings.push(Reading {
                key: key([u64::from(*pid), whose.started_ns], &[&gpu.name]),
                rank: 0,
                cgroup: whose.cgroup,
                samples: values.iter().map(sample).collect(),
            });
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_from_later_ones_with_their_ids_and_idle_time_is_nobodys() {
        let clock = Clock {
            now_ns: 50_000_000_000,
            now_us: 1_000_000_000,
        };
        let mut gpu = Gpu {
            name: "0000:01:00.0".to_owned(),
            ..Gpu::default()
        };
        let process = Process {
            memory_bytes: Some(64),
            share: 5_000,
        };
        gpu.processes.insert(7, process);
        gpu.processes.insert(8, process);
        let read = |gpu: &Gpu, last_us: u64, started_ns, before_ns| {
            let whose = |pid| {
                (pid == 7).then_some(Whose {
                    cgroup: CgroupId(3),
                    started_ns,
                })
            };
            let gpus = std::slice::from_ref(gpu);
            let values = ["busy", "memory"];
            let mut all = readings(gpus, &values, clock, before_ns, |_| last_us, whose);
            // One of them is not there any more.
            assert_eq!(all.len(), 1);
            all.remove(0)
        };
        // No sample yet.
        let one = read(&gpu, 999_000_000, 10, 0);
        assert_eq!(one.samples, [Sample::None, Sample::Held(64)]);
        assert_ne!(one.key, read(&gpu, 999_000_000, 11, 0).key);
        // For long; 49 s ago it was started, or 20 s ago it was read before.
        let rate = |at_us: u64, since_s: u64| Sample::Rate {
            share: 5_000,
            at_ns: at_us * 1_000,
            since_ns: since_s * 1_000_000_000,
        };
        let started_ns = 1_000_000_000;
        let one = read(&gpu, 1, started_ns, 0);
        assert_eq!(one.samples[0], rate(1_000_000_000, 951));
        gpu.sampled_us = Some(999_999_000);
        let one = read(&gpu, 1, started_ns, 30_000_000_000);
        assert_eq!(one.samples[0], rate(999_999_000, 980));
        gpu.unsampled = Some("it is split up (MIG)".to_owned());
        let one = read(&gpu, 1, started_ns, 0);
        assert_eq!(one.samples, [Sample::None, Sample::Held(64)]);
    }

    fn sample(pid: u32, timestamp: u64, sm_util: u32) -> ProcessUtilizationSample {
        ProcessUtilizationSample {
            pid,
            timestamp,
            sm_util,
            mem_util: 1,
            enc_util: 2,
            dec_util: 3,
        }
    }

    fn held(pid: u32, used_gpu_memory: UsedGpuMemory) -> ProcessInfo {
        ProcessInfo {
            pid,
            used_gpu_memory,
            gpu_instance_id: None,
            compute_instance_id: None,
        }
    }

    #[test]
    fn samples_that_are_new_are_taken_by_their_mean() {
        let mut gpu = Gpu::default();
        let samples = [
            sample(1, 100, 90),
            sample(1, 200, 10),
            sample(1, 300, 21),
            sample(2, 250, 250),
        ];
        gpu.sample(&samples, 100);
        assert_eq!(gpu.sampled_us, Some(300));
        assert_eq!(
            (gpu.processes[&1].share, gpu.processes[&2].share),
            (1_550, 10_000)
        );
        let mut gpu = Gpu::default();
        gpu.sample(&samples, 300);
        assert_eq!(gpu, Gpu::default());
    }

    #[test]
    fn memory_counts_once_over_lists_and_adds_up_within_one() {
        let mut gpu = Gpu::default();
        gpu.hold(&[
            held(1, UsedGpuMemory::Used(10)),
            held(1, UsedGpuMemory::Used(5)),
            held(2, UsedGpuMemory::Unavailable),
        ]);
        gpu.hold(&[held(1, UsedGpuMemory::Used(12))]);
        assert_eq!(gpu.processes[&1].memory_bytes, Some(15));
        assert_eq!(gpu.processes[&2].memory_bytes, None);
    }
}
