//! What can be done here, and whether the state is whole.

use super::error::Result;
use super::report::DoctorReport;
use super::session::Session;
use super::{Engine, Lock};
use crate::kernel::feature;
use crate::store::dir::StateDir;
use crate::store::pins;

impl Engine {
    /// Tries every feature, and looks the state over; with `repair` it mends what a crash left.
    ///
    /// # Errors
    /// [`super::Error`] if a repair was asked for and failed.
    pub fn doctor(&self, repair: bool) -> Result<DoctorReport> {
        let mut report = DoctorReport {
            kernel: feature::release(),
            features: feature::probe_all(self.state(), self.options.cgroup_root.as_deref()),
            state_problems: Vec::new(),
            repaired: Vec::new(),
        };
        match self.examine(repair) {
            Ok((problems, repaired)) => {
                report.state_problems = problems;
                report.repaired = repaired;
            }
            Err(e) if repair => return Err(e),
            Err(e) => report.state_problems.push(e.to_string()),
        }
        Ok(report)
    }

    /// What is wrong with the state, and what was mended.
    fn examine(&self, repair: bool) -> Result<(Vec<String>, Vec<String>)> {
        let Some(dir) = StateDir::open(self.state(), Lock::Exclusive)? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let names: Vec<String> = dir.walk()?.into_iter().map(|(name, _)| name).collect();
        drop(dir);
        let Some(mut session) = Session::open_unmended(self.state(), self.hierarchy()?)? else {
            let mut problems = Vec::new();
            let mut repaired = Vec::new();
            if !names.is_empty() {
                problems.push("the state was never finished: its maker died".to_owned());
            }
            if repair {
                if let Some(dir) = StateDir::open(self.state(), Lock::Exclusive)? {
                    repaired = dir.sweep(&std::collections::BTreeSet::new())?;
                    dir.remove_itself()?;
                }
                problems.clear();
            }
            return Ok((problems, repaired));
        };
        let mut problems = Vec::new();
        if session.is_interrupted() {
            problems.push("a change was under way when its process died".to_owned());
        }
        let expected = pins::expected(&session.config);
        problems.extend(
            names
                .iter()
                .filter(|n| !expected.contains(*n))
                .map(|n| format!("{n} belongs to nothing")),
        );
        problems.extend(
            expected
                .iter()
                .filter(|n| !names.contains(n))
                .map(|n| format!("{n} is missing")),
        );
        if !repair {
            return Ok((problems, Vec::new()));
        }
        let repaired = session.repair()?;
        Ok((Vec::new(), repaired))
    }
}
