//! How the demo is told: in words and tables, or as a stream of objects.

use std::path::Path;

use cgtap::engine::{StatReport, TreeReport};
use serde::Serialize;

use super::check::{Check, row};
use super::events::Event;
use super::worker::Work;
use crate::commands::Context;
use crate::failure::Failure;
use crate::render::{self, Cell, Column, Look, Table, Tone};

/// Where a worker works.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Place {
    /// The cgroup, below the demo's.
    pub cgroup: &'static str,
    /// What is done there.
    #[serde(serialize_with = "name_of_work")]
    pub work: Work,
}

fn name_of_work<S: serde::Serializer>(work: &Work, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(work.name())
}

/// What is told, as JSON.
#[derive(Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
enum Step<'a> {
    Cgroups {
        directory: &'a Path,
        workers: &'a [Place],
    },
    Attached {
        tree: &'a TreeReport,
    },
    Counts {
        #[serde(flatten)]
        report: &'a StatReport,
    },
    Created {
        cgroup: &'a str,
        work: &'static str,
    },
    Check {
        #[serde(flatten)]
        check: &'a Check,
    },
    Detached {
        attachments_left: usize,
    },
    Done {
        ok: bool,
        checks: usize,
        failed: usize,
        seconds: f64,
    },
}

/// Tells the demo, step by step.
#[derive(Debug)]
pub struct Show<'c> {
    context: &'c Context,
    /// Name of the topmost cgroup.
    top: String,
    /// Lines of the table that the next one takes the place of.
    drawn: usize,
}

impl<'c> Show<'c> {
    /// Tells of a cgroup tree whose topmost cgroup is called `top`.
    pub fn new(context: &'c Context, top: String) -> Self {
        Self {
            context,
            top,
            drawn: 0,
        }
    }

    /// Whether what was drawn can be drawn over: on a terminal that takes escape codes.
    pub fn is_live(&self) -> bool {
        let Look { colour, width, .. } = self.context.look;
        !self.context.json && colour && width.is_some()
    }

    fn tell(&self, step: &Step<'_>, text: impl FnOnce(&Look) -> String) -> Result<(), Failure> {
        self.context.result(step, text)
    }

    fn heading(look: &Look, text: &str) -> String {
        format!("\n{}\n", look.paint(Tone::Heading, text))
    }

    /// The cgroups, and who works in them.
    pub fn cgroups(&self, directory: &Path, workers: &[Place]) -> Result<(), Failure> {
        self.tell(&Step::Cgroups { directory, workers }, |look| {
            let mut text =
                "Real work in a small cgroup tree, counted where it happens.\n".to_owned();
            text += &Self::heading(look, "1. Two tenants with jobs, and a process in each job");
            text += &format!("   {}\n", render::printable(&directory.to_string_lossy()));
            for place in workers {
                text += &format!("     {}  {}\n", place.cgroup, place.work.description());
            }
            text
        })
    }

    /// The tree, with what was attached.
    pub fn attached(&self, tree: &TreeReport) -> Result<(), Failure> {
        self.tell(&Step::Attached { tree }, |look| {
            let title = "2. Counting programs attached to the top, to tenant-a and to its job1";
            let (drawn, _) = render::tree(tree, look);
            Self::heading(look, title) + &indented(&drawn)
        })
    }

    /// Says what comes next.
    pub fn work_begins(&self) -> Result<(), Failure> {
        if self.context.json {
            return Ok(());
        }
        let look = &self.context.look;
        let title = "3. The work runs; a cgroup's events count in all cgroups above it too";
        self.context.print(&Self::heading(look, title))
    }

    /// The counts of the cgroups called `names`; on a terminal in place of those before.
    pub fn counts(
        &mut self,
        report: &StatReport,
        names: &[&str],
        events: &[Event],
    ) -> Result<(), Failure> {
        if self.context.json {
            return self.context.document(Step::Counts { report });
        }
        let table = self.table(report, names, events);
        let text = if self.is_live() && self.drawn > 0 {
            // Up to where the last one began, and away with what is below.
            format!("\x1b[{}A\x1b[J{table}", self.drawn)
        } else {
            table.clone()
        };
        self.drawn = table.lines().count();
        self.context.print(&text)
    }

    fn table(&self, report: &StatReport, names: &[&str], events: &[Event]) -> String {
        let mut columns = vec![Column::words("CGROUP")];
        columns.extend(events.iter().map(|event| Column::numbers(event.heading())));
        let mut table = Table::new(columns).indented(3);
        for name in names {
            let Some(row) = row(report, &self.top, name) else {
                continue;
            };
            let mut cells: Vec<Cell> = vec![self.label(name).into()];
            cells.extend(row.events.iter().map(|event| Cell::from(event.count)));
            table.push(cells);
        }
        let look = &self.context.look;
        // The colour ends before the line does: what follows the last line would be one more.
        let time = look.paint(Tone::Dim, &format!("   after {:.1} s", report.seconds));
        format!("{}{time}\n", table.render(look))
    }

    /// The last part of the name, as far to the right as the cgroup is deep.
    fn label(&self, name: &str) -> String {
        match name.rsplit_once('/') {
            None if name.is_empty() => self.top.clone(),
            None => format!("  {name}"),
            Some((_, last)) => format!("    {last}"),
        }
    }

    /// A cgroup that was made after everything was attached.
    pub fn created(&mut self, cgroup: &str, work: Work) -> Result<(), Failure> {
        let step = Step::Created {
            cgroup,
            work: work.name(),
        };
        // What is said here stays: the next table goes below.
        self.drawn = 0;
        self.tell(&step, |_| {
            format!(
                "   New: {cgroup}, where another process now {}.\n",
                work.description()
            )
        })
    }

    /// The comparison of what was done with what was counted.
    pub fn checks(&self, checks: &[Check]) -> Result<(), Failure> {
        if self.context.json {
            return checks
                .iter()
                .try_for_each(|check| self.context.document(Step::Check { check }));
        }
        let look = &self.context.look;
        let title = "4. What was done, and what was counted";
        let mut table = Table::new(vec![
            Column::words("CGROUP"),
            Column::words("WHAT"),
            Column::numbers("DONE"),
            Column::numbers("COUNTED"),
            Column::words(""),
        ])
        .indented(3);
        for check in checks {
            table.row([
                check.cgroup.as_str().into(),
                check.what.as_str().into(),
                check.expected.into(),
                check.counted.into(),
                match (check.ok, check.lost) {
                    (true, 0) => Cell::toned("exact", Tone::Good),
                    (true, lost) => Cell::toned(format!("{lost} lost"), Tone::Warn),
                    (false, _) => Cell::toned("WRONG", Tone::Bad),
                },
            ]);
        }
        self.context
            .print(&(Self::heading(look, title) + &table.render(look)))
    }

    /// Everything is detached; so many attachments are left, which should be none.
    pub fn detached(&self, attachments_left: usize) -> Result<(), Failure> {
        self.tell(&Step::Detached { attachments_left }, |look| {
            let left = match attachments_left {
                0 => "nothing is attached there any more".to_owned(),
                left => format!("{left} attachments are left there"),
            };
            Self::heading(look, &format!("5. Detached: {left}"))
        })
    }

    /// The end.
    pub fn done(&self, checks: &[Check], seconds: f64) -> Result<(), Failure> {
        let failed = checks.iter().filter(|check| !check.ok).count();
        let exact = checks.iter().filter(|c| c.ok && c.lost == 0).count();
        let step = Step::Done {
            ok: failed == 0,
            checks: checks.len(),
            failed,
            seconds,
        };
        self.tell(&step, |_| {
            format!(
                "   {exact} of {} numbers exact, in {seconds:.1} s. Cgroups, processes and state go now.\n",
                checks.len()
            )
        })
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
