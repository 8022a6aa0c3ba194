//! What of the model is looked at, and how: the state that keys change.

use std::collections::HashSet;
use std::time::Duration;

use cgtap::id::CgroupId;

use super::arrange::{Line, Order, arrange};
use super::model::Model;

/// What is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A filter. Before it there was this one.
    Filter(String),
    /// An interval in seconds.
    Interval(String),
}

/// What is looked at.
#[derive(Debug)]
pub struct View {
    /// In which order.
    pub order: Order,
    /// Only what contains this.
    pub filter: String,
    /// What is being typed.
    pub prompt: Option<Prompt>,
    /// What the last key could not do.
    pub message: Option<String>,
    /// The values of the selected cgroup are shown, from this line on.
    pub detail: Option<usize>,
    /// The keys are shown, from this line on.
    pub help: Option<usize>,
    /// Nothing is read.
    pub frozen: bool,
    /// How long between two readings.
    pub interval: Duration,
    /// How long between two at least, so that readings do not take much of a CPU.
    pub slowed_to: Duration,
    /// Columns that are scrolled away to the left.
    pub first_column: usize,
    /// Columns that had room when it was drawn.
    pub shown_columns: usize,
    folded: HashSet<CgroupId>,
    lines: Vec<Line>,
    selected: Option<CgroupId>,
    cursor: usize,
    top: usize,
    page: usize,
}

impl View {
    /// Everything unfolded, the first line selected.
    pub fn new(order: Order, interval: Duration) -> Self {
        Self {
            order,
            filter: String::new(),
            prompt: None,
            message: None,
            detail: None,
            help: None,
            frozen: false,
            interval,
            slowed_to: Duration::ZERO,
            first_column: 0,
            shown_columns: 1,
            folded: HashSet::new(),
            lines: Vec::new(),
            selected: None,
            cursor: 0,
            top: 0,
            page: 1,
        }
    }

    /// How long it is from one reading to the next, in tenths of seconds.
    pub fn pace(&self) -> Duration {
        if self.slowed_to <= self.interval {
            return self.interval;
        }
        let tenths = self.slowed_to.as_millis().div_ceil(100);
        Duration::from_millis(
            u64::try_from(tenths)
                .unwrap_or(u64::MAX)
                .saturating_mul(100),
        )
    }

    /// Puts the lines in order after the model or the view has changed. The cgroup that was selected
    /// stays so; if it is not to be seen any more, the nearest above it; if that is gone, the line
    /// that stands there now.
    pub fn arrange(&mut self, model: &Model) {
        self.folded.retain(|id| model.place(*id).is_some());
        self.lines = arrange(model, &self.order, &self.filter, &self.folded);
        let mut wanted = self.selected.and_then(|id| model.place(id));
        // By node, so that climbing is no search each time.
        let mut at = vec![None; model.nodes().len()];
        for (i, line) in self.lines.iter().enumerate() {
            at[line.node] = Some(i);
        }
        while let Some(node) = wanted {
            if let Some(line) = at[node] {
                self.cursor = line;
                break;
            }
            wanted = model.nodes()[node].parent;
        }
        self.move_to(self.cursor, model);
        let columns = model.columns().len();
        self.first_column = self.first_column.min(columns.saturating_sub(1));
    }

    /// The lines of the tree.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Which line is selected.
    pub fn cursor(&self) -> usize {
        self.cursor
    }

    /// The cgroup that is selected.
    pub fn selected(&self) -> Option<CgroupId> {
        self.selected
    }

    /// The lines that are seen where there is room for `height`.
    pub fn window(&mut self, height: usize) -> &[Line] {
        self.page = height.max(1);
        let last = self.lines.len().saturating_sub(height);
        let first = (self.cursor + 1).saturating_sub(self.page);
        self.top = self.top.clamp(first.min(last), self.cursor.min(last));
        let end = (self.top + height).min(self.lines.len());
        &self.lines[self.top..end]
    }

    /// The first line that is seen.
    pub fn top(&self) -> usize {
        self.top
    }

    /// How many lines a page has.
    pub fn page(&self) -> usize {
        self.page
    }

    /// Selects line `cursor`, or the last.
    pub fn move_to(&mut self, cursor: usize, model: &Model) {
        self.cursor = cursor.min(self.lines.len().saturating_sub(1));
        let line = self.lines.get(self.cursor);
        let id = line.map(|line| model.nodes()[line.node].id);
        if id != self.selected && self.detail.is_some() {
            self.detail = Some(0);
        }
        // Where nothing is shown, what was selected is waited for.
        self.selected = id.or(self.selected);
    }

    /// Folds or unfolds what is below the selected cgroup.
    pub fn fold(&mut self, model: &Model) {
        let Some(line) = self.lines.get(self.cursor) else {
            return;
        };
        let id = model.nodes()[line.node].id;
        if line.has_children && !self.folded.remove(&id) {
            self.folded.insert(id);
        }
        self.arrange(model);
    }

    /// Folds all below the uppermost cgroups, or unfolds all.
    pub fn fold_all(&mut self, fold: bool, model: &Model) {
        let nodes = model.nodes();
        self.folded = match fold {
            // Those with none below them are found out when the lines are made.
            true => nodes
                .iter()
                .filter(|n| n.parent.is_some())
                .map(|n| n.id)
                .collect(),
            false => HashSet::new(),
        };
        self.arrange(model);
    }

    /// Sorts by the next column; after the last one by name.
    pub fn sort_by_next(&mut self, model: &Model) {
        let columns = model.columns();
        let now = self.order.column.as_deref().and_then(|c| model.column(c));
        let next = now.map_or(0, |now| now + 1);
        self.order.column = columns.get(next).map(|c| c.meter.clone());
        if self.order.column.is_some() {
            let first = (next + 1).saturating_sub(self.shown_columns.max(1));
            self.first_column = self.first_column.clamp(first, next);
        }
        self.arrange(model);
    }

    /// Scrolls the columns.
    pub fn scroll_columns(&mut self, right: bool, model: &Model) {
        let last = model.columns().len().saturating_sub(1);
        self.first_column = if right {
            (self.first_column + 1).min(last)
        } else {
            self.first_column.saturating_sub(1)
        };
    }

    /// Sets what is filtered by.
    pub fn filter_by(&mut self, filter: String, model: &Model) {
        self.filter = filter;
        self.arrange(model);
    }
}
