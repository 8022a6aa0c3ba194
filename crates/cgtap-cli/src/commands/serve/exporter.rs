//! Readings, and the pages that come of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cgtap::engine::{LimitReport, PatternReport};
use cgtap::meter::usage::UsageReport;

use super::ledger::Ledger;
use super::page::{Format, Page};
use super::policy::{Shared, Standing};
use crate::failure::Failure;

/// Where readings come from.
pub trait Source: Send {
    /// What was used, cgroup by cgroup.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be read; the next reading may succeed.
    fn usage(&self) -> Result<UsageReport, Failure>;

    /// How limits stand; read behind the usage.
    ///
    /// # Errors
    /// As of the usage.
    fn limits(&self) -> Result<Vec<LimitReport>, Failure>;

    /// How limits of what comes later stand.
    ///
    /// # Errors
    /// As of the usage.
    fn patterns(&self) -> Result<Vec<PatternReport>, Failure>;
}

/// How the last reading went: nothing yet, well, or why it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nobody has asked yet.
    #[default]
    Unread,
    /// Well.
    Well,
    /// It failed.
    Failed(String),
}

/// Reads and writes pages; shared by all connections. One reading is made at a time.
#[derive(Clone)]
pub struct Exporter {
    work: Arc<Mutex<Work>>,
    // Beside the work: how it went is told while the next reading is under way.
    health: Arc<Mutex<Health>>,
    policy: Option<Shared>,
}

struct Work {
    source: Box<dyn Source>,
    ledger: Ledger,
}

impl Exporter {
    /// With series for the `top` cgroups of each meter, and for a policy that is kept in force.
    pub fn new(source: Box<dyn Source>, top: usize, policy: Option<Shared>) -> Self {
        let ledger = Ledger::new(top);
        Self {
            work: Arc::new(Mutex::new(Work { source, ledger })),
            health: Arc::default(),
            policy,
        }
    }

    /// How the policy stands, if there is one.
    pub fn policy(&self) -> Option<Standing> {
        self.policy.as_ref().map(Shared::get)
    }

    /// How the last reading went.
    pub fn health(&self) -> Health {
        let health = self.health.lock();
        health.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads, and returns the page in `format`.
    ///
    /// # Errors
    /// Why that failed, in words.
    pub fn scrape(&self, format: Format) -> Result<String, String> {
        let page = self.read(format);
        let health = match &page {
            Ok(_) => Health::Well,
            Err(why) => Health::Failed(why.clone()),
        };
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
        page
    }

    fn read(&self, format: Format) -> Result<String, String> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        let report = work.source.usage().map_err(|failure| words(&failure))?;
        work.ledger.update(&report);
        // It is the largest thing here; the page need not stand beside it.
        drop(report);
        let limits = work.source.limits().map_err(|failure| words(&failure))?;
        work.ledger.limit_by(limits);
        let patterns = work.source.patterns().map_err(|failure| words(&failure))?;
        let mut page = Page::of(&work.ledger, format);
        page.places(&patterns);
        if let Some(standing) = self.policy() {
            page.policy(&standing);
        }
        Ok(page.end(begin.elapsed().as_secs_f64()))
    }
}

/// A failure in one line, with the kernel's answer.
fn words(failure: &Failure) -> String {
    let message = failure.message();
    match failure.errno() {
        Some(errno) if !message.contains(&errno) => format!("{message} ({errno})"),
        _ => message,
    }
}
