//! What a GPU's driver tells of one open file: the lines `drm-...` of `/proc/PID/fdinfo/FD`
//! (Documentation/gpu/drm-usage-stats.rst). Lines that are not as they should be are not there.

use std::collections::BTreeMap;

use crate::meter::text::cut;

/// Engines or regions of one file that are looked at.
const NAMES_MAX: usize = 64;

/// One open file of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The driver.
    pub driver: String,
    /// The device's name on its bus; empty for one that is on none.
    pub pdev: String,
    /// What tells this open file from others, however many descriptors it has.
    pub id: Option<u64>,
    /// By name.
    pub engines: BTreeMap<String, Engine>,
    /// By name.
    pub regions: BTreeMap<String, Region>,
}

/// What an engine did for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Engine {
    /// Time that it worked.
    pub busy_ns: Option<u64>,
    /// Cycles that it worked.
    pub cycles: Option<u64>,
    /// Cycles that went by meanwhile, for whomever.
    pub total_cycles: Option<u64>,
}

/// What it holds of a kind of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Of buffers, whether or not they have memory.
    pub total_bytes: Option<u64>,
    /// Of the total, in buffers that others have too.
    pub shared_bytes: Option<u64>,
    /// Of the total, what has memory.
    pub resident_bytes: Option<u64>,
    /// The same in the older words (`drm-memory-`).
    pub memory_bytes: Option<u64>,
}

impl Client {
    /// What `text` tells; none if it is of no GPU.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut client = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let Some(key) = key.strip_prefix("drm-") else {
                continue;
            };
            client.take(key, value.trim());
        }
        (!client.driver.is_empty()).then_some(client)
    }

    /// The label that tells its device from others.
    #[must_use]
    pub fn device(&self) -> &str {
        if self.pdev.is_empty() {
            &self.driver
        } else {
            &self.pdev
        }
    }

    fn take(&mut self, key: &str, value: &str) {
        match key {
            "driver" => value.clone_into(&mut self.driver),
            "pdev" => value.clone_into(&mut self.pdev),
            "client-id" => self.id = value.parse().ok(),
            // How many engines there are of a name is no use of one.
            _ if key.starts_with("engine-capacity-") => {}
            _ => self.number(key, value),
        }
    }

    fn number(&mut self, key: &str, value: &str) {
        type InEngine = fn(&mut Engine) -> &mut Option<u64>;
        type InRegion = fn(&mut Region) -> &mut Option<u64>;
        const ENGINES: [(&str, InEngine); 3] = [
            ("engine-", |e| &mut e.busy_ns),
            ("cycles-", |e| &mut e.cycles),
            ("total-cycles-", |e| &mut e.total_cycles),
        ];
        const REGIONS: [(&str, InRegion); 4] = [
            ("total-", |r| &mut r.total_bytes),
            ("shared-", |r| &mut r.shared_bytes),
            ("resident-", |r| &mut r.resident_bytes),
            ("memory-", |r| &mut r.memory_bytes),
        ];
        for (prefix, place) in ENGINES {
            if let Some(name) = key.strip_prefix(prefix) {
                let read = if prefix == "engine-" { ns } else { plain };
                return put(&mut self.engines, name, read(value), place);
            }
        }
        for (prefix, place) in REGIONS {
            if let Some(name) = key.strip_prefix(prefix) {
                return put(&mut self.regions, name, bytes(value), place);
            }
        }
    }
}

/// Notes a number. Names that are the same as far as a label keeps them are one.
fn put<T: Default>(
    all: &mut BTreeMap<String, T>,
    name: &str,
    number: Option<u64>,
    place: fn(&mut T) -> &mut Option<u64>,
) {
    let (name, Some(number)) = (cut(name), number) else {
        return;
    };
    if name.is_empty() || (all.len() >= NAMES_MAX && !all.contains_key(name)) {
        return;
    }
    let place = place(all.entry(name.to_owned()).or_default());
    *place = Some(place.unwrap_or(0).saturating_add(number));
}

fn plain(value: &str) -> Option<u64> {
    value.parse().ok()
}

fn ns(value: &str) -> Option<u64> {
    let number = value.strip_suffix("ns")?;
    number.trim_end().parse().ok()
}

fn bytes(value: &str) -> Option<u64> {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let scale = match unit.trim() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_of_amdgpu_in_the_older_words() {
        let text = "pos:\t0\nflags:\t02100002\nmnt_id:\t26\nino:\t500\ndrm-driver:\tamdgpu\n\
                    drm-client-id:\t1413\ndrm-pdev:\t0000:03:00.0\ndrm-memory-vram:\t8192 KiB\n\
                    drm-memory-gtt: \t2 MiB\namd-evicted-vram:\t0 KiB\ndrm-engine-gfx:\t98765432 ns\n\
                    drm-engine-capacity-gfx:\t2\n";
        let client = Client::parse(text).unwrap();
        assert_eq!(
            (client.device(), client.id, client.driver.as_str()),
            ("0000:03:00.0", Some(1413), "amdgpu")
        );
        let names: Vec<&String> = client.engines.keys().collect();
        assert_eq!(names, ["gfx"]);
        assert_eq!(client.engines["gfx"].busy_ns, Some(98_765_432));
        assert_eq!(client.regions["vram"].memory_bytes, Some(8 << 20));
        assert_eq!(client.regions["gtt"].memory_bytes, Some(2 << 20));
    }

    #[test]
    fn a_file_of_xe_in_the_newer_words() {
        let text = "drm-driver:\txe\ndrm-client-id:\t59\ndrm-pdev:\t0000:00:02.0\n\
                    drm-total-system:\t2144\ndrm-shared-system:\t0\ndrm-active-system:\t7\n\
                    drm-resident-system:\t2144 KiB\ndrm-purgeable-system:\t1\n\
                    drm-cycles-rcs:\t28257900\ndrm-total-cycles-rcs:\t7655183225\n\
                    drm-engine-capacity-vcs:\t2\ndrm-cycles-vcs:\t0\ndrm-total-cycles-vcs:\t7655183225\n";
        let client = Client::parse(text).unwrap();
        let rcs = client.engines["rcs"];
        assert_eq!(
            (rcs.busy_ns, rcs.cycles, rcs.total_cycles),
            (None, Some(28_257_900), Some(7_655_183_225))
        );
        let system = client.regions["system"];
        assert_eq!(system.total_bytes, Some(2_144));
        assert_eq!(system.shared_bytes, Some(0));
        assert_eq!(system.resident_bytes, Some(2_144 << 10));
        assert_eq!(client.regions.len(), 1);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_not_there() {
        assert_eq!(Client::parse("pos: 0\n"), None);
        assert_eq!(Client::parse("drm-driver:\n"), None);
        let text = "drm-driver: x\ndrm-client-id: -1\ndrm-engine-: 5 ns\ndrm-engine-a: 5\n\
                    drm-engine-b: 99999999999999999999 ns\ndrm-engine-c: 5 us\n\
                    drm-memory-m: 18446744073709551615 MiB\ndrm-memory-n: 1 GiB\ndrm-engine\n";
        let client = Client::parse(text).unwrap();
        assert_eq!(client.id, None);
        assert_eq!(client.device(), "x");
        assert!(client.engines.is_empty() && client.regions.is_empty());
        // Names of which a label keeps the same are added up.
        let text = "drm-driver: x\ndrm-engine-video-enhance-zero: 5 ns\n\
                    drm-engine-video-enhance-zone: 6 ns\n";
        let client = Client::parse(text).unwrap();
        assert_eq!(client.engines["video-enhance-z"].busy_ns, Some(11));
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "(drm-)?[a-z-]{0,30}:?[ \\t]?[0-9a-zA-Z:. ]{0,30}(\n|\\PC{0,20}\n)*") {
            let _ = Client::parse(&text);
            let all = format!("drm-driver: x\n{text}");
            if let Some(client) = Client::parse(&all) {
                prop_assert!(client.engines.len() <= NAMES_MAX);
                prop_assert!(client.engines.keys().all(|k| !k.is_empty() && k.len() < 16));
            }
        }

        #[test]
        fn what_is_written_is_read(
            id in any::<u64>(),
            engines in proptest::collection::btree_map("[a-z]{1,15}", any::<u64>(), 0..NAMES_MAX),
            // A region is no engine's `total-cycles-`.
            regions in proptest::collection::btree_map("[a-z]{1,15}", 0..u64::MAX >> 20, 0..NAMES_MAX),
        ) {
            let mut text = format!("drm-driver:\tx\ndrm-client-id:\t{id}\n");
            for (name, ns) in &engines {
                text += &format!("drm-engine-{name}:\t{ns} ns\ndrm-cycles-{name}:\t{ns}\n");
            }
            for (name, mib) in &regions {
                text += &format!("drm-resident-{name}:\t{mib} MiB\n");
            }
            let client = Client::parse(&text).unwrap();
            prop_assert_eq!(client.id, Some(id));
            let read: BTreeMap<String, u64> =
                client.engines.iter().map(|(n, e)| (n.clone(), e.busy_ns.unwrap())).collect();
            prop_assert_eq!(read, engines);
            let read: BTreeMap<String, u64> = client.regions.iter()
                .map(|(n, r)| (n.clone(), r.resident_bytes.unwrap() >> 20)).collect();
            prop_assert_eq!(read, regions);
        }
    }
}
