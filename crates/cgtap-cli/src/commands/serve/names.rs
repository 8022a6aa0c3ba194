//! How meters and labels are called in metrics.

use cgtap::meter::usage::{Form, Unit};

/// What [`super::page`] exports beside the meters.
const TAKEN: [&str; 7] = [
    "cgtap_lost",
    "cgtap_cgroups",
    "cgtap_scrape_duration_seconds",
    "cgtap_build",
    "cgtap_container",
    "cgtap_policy_ok",
    "cgtap_policy_applied_timestamp_seconds",
];
/// How all that is exported of limits begins.
pub const LIMIT: &str = "cgtap_limit_";

/// The unit of a metric: time is exported in seconds.
pub fn unit(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Count => None,
        Unit::Bytes => Some("bytes"),
        Unit::Ns => Some("seconds"),
    }
}

/// The name of a meter's family, without what a sample has behind it.
pub fn family(meter: &str, of: Unit, form: Form) -> String {
    let mut name = word(meter);
    for (unit, end) in [
        (Unit::Ns, "_ns"),
        (Unit::Ns, "_seconds"),
        (Unit::Bytes, "_bytes"),
    ] {
        if of == unit {
            name = name.strip_suffix(end).unwrap_or(&name).to_owned();
        }
    }
    // What a sample has behind it would stand there twice, or be taken for that of another.
    if form != Form::Gauge {
        name = name.strip_suffix("_total").unwrap_or(&name).to_owned();
    }
    let unit = unit(of).map(|unit| format!("_{unit}")).unwrap_or_default();
    let full = format!("cgtap_{name}{unit}");
    if TAKEN.contains(&full.as_str()) || full.starts_with(LIMIT) {
        format!("cgtap_meter_{name}{unit}")
    } else {
        full
    }
}

/// The family of a gauge's peaks: the unit stays at the end.
pub fn peak(meter: &str, of: Unit) -> String {
    let name = family(meter, of, Form::Gauge);
    let Some(unit) = unit(of) else {
        return name + "_peak";
    };
    let stem = name.strip_suffix(unit).unwrap_or(&name);
    format!("{stem}peak_{unit}")
}

/// The names of labels, none twice, none of ours among them.
pub fn labels<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = vec!["cgroup".to_owned(), "name".to_owned(), "le".to_owned()];
    for key in keys {
        let mut name = word(key).trim_start_matches('_').to_owned();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert_str(0, "label_");
        }
        while names.contains(&name) {
            name.push('_');
        }
        names.push(name);
    }
    names.split_off(3)
}

fn word(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_base_units_and_stand_at_the_end_once() {
        for (meter, unit, form, want) in [
            ("block_bytes", Unit::Bytes, Form::Sum, "cgtap_block_bytes"),
            (
                "block_read",
                Unit::Bytes,
                Form::Sum,
                "cgtap_block_read_bytes",
            ),
            ("block_ops", Unit::Count, Form::Count, "cgtap_block_ops"),
            (
                "nbd_busy_ns",
                Unit::Ns,
                Form::Busy,
                "cgtap_nbd_busy_seconds",
            ),
            ("nbd_busy", Unit::Ns, Form::Busy, "cgtap_nbd_busy_seconds"),
            ("x_total", Unit::Count, Form::Count, "cgtap_x"),
            (
                "gpu.memory",
                Unit::Bytes,
                Form::Gauge,
                "cgtap_gpu_memory_bytes",
            ),
            ("lost", Unit::Count, Form::Count, "cgtap_meter_lost"),
            (
                "limit_left",
                Unit::Bytes,
                Form::Gauge,
                "cgtap_meter_limit_left_bytes",
            ),
        ] {
            assert_eq!(family(meter, unit, form), want);
        }
        assert_eq!(peak("gpu_bytes", Unit::Bytes), "cgtap_gpu_peak_bytes");
        assert_eq!(peak("jobs", Unit::Count), "cgtap_jobs_peak");
    }

    #[test]
    fn labels_are_words_and_never_ours() {
        let keys = ["cgroup", "dev", "le", "2", "a-b", "a_b", "__x"].map(str::to_owned);
        assert_eq!(
            labels(keys.iter()),
            ["cgroup_", "dev", "le_", "label_2", "a_b", "a_b_", "x"]
        );
    }
}
