//! `cgtap doctor`.

use cgtap::engine::{DoctorReport, FeatureState};

use super::Context;
use crate::cli::DoctorArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Says what works here, and fails if nothing would.
pub fn run(context: &Context, args: &DoctorArgs) -> Result<Status, Failure> {
    let report = context.engine()?.doctor(args.repair)?;
    context.result(&report, |look| render::doctor(&report, look))?;
    match lacking(&report) {
        None => Ok(Status::DONE),
        Some(names) => Err(Failure::Bad(format!(
            "nothing would work here without {names}"
        ))),
    }
}

/// What is required and not known to work.
fn lacking(report: &DoctorReport) -> Option<String> {
    let lacking: Vec<&str> = report
        .features
        .iter()
        .filter(|f| f.required && f.state != FeatureState::Yes)
        .map(|f| f.name.as_str())
        .collect();
    (!lacking.is_empty()).then(|| lacking.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::engine::Feature;

    #[test]
    fn only_what_is_required_and_not_there_is_lacking() {
        let feature = |name: &str, state, required| Feature {
            name: name.to_owned(),
            state,
            why: String::new(),
            remedy: String::new(),
            required,
        };
        let mut report = DoctorReport {
            kernel: "6.1".to_owned(),
            features: vec![
                feature("a", FeatureState::Yes, true),
                feature("b", FeatureState::No, false),
            ],
            state_problems: vec![],
            repaired: vec![],
        };
        assert_eq!(lacking(&report), None);
        report.features.push(feature("c", FeatureState::No, true));
        report
            .features
            .push(feature("d", FeatureState::Unknown, true));
        assert_eq!(lacking(&report).unwrap(), "c, d");
    }
}
