//! What can be done here, and whether the state is whole.

use super::error::Result;
use super::report::DoctorReport;
use super::{Engine, repair};
use crate::kernel::{self, feature};

impl Engine {
    /// Tries every feature, and looks the state over; with `repair` it mends what a crash left.
    ///
    /// # Errors
    /// [`super::Error`] if a repair was asked for and failed.
    pub fn doctor(&self, repair: bool) -> Result<DoctorReport> {
        let _kept = kernel::keep();
        let mut report = DoctorReport {
            kernel: feature::release(),
            features: feature::probe_all(self.state(), self.options.cgroup_root.as_deref()),
            state_problems: Vec::new(),
            repaired: Vec::new(),
        };
        if repair {
            report.repaired = self.repair()?;
        }
        report.state_problems = self.state_problems();
        Ok(report)
    }

    /// What is wrong with the state, in words; empty where it is whole or there is none. Changes
    /// nothing, not even what the next command would mend.
    #[must_use]
    pub fn state_problems(&self) -> Vec<String> {
        self.hierarchy()
            .and_then(|hierarchy| repair::examine(self.state(), hierarchy))
            .unwrap_or_else(|e| vec![e.to_string()])
    }

    /// Mends the state; what was done, in words.
    ///
    /// # Errors
    /// [`super::Error`]: a state that is not ours, or whose record cannot be read.
    pub fn repair(&self) -> Result<Vec<String>> {
        repair::repair(self.state(), self.hierarchy()?)
    }
}
