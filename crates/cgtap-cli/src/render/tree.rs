//! The cgroup tree, with what runs where.

use cgtap::engine::{TreeAttachment, TreeHook, TreeReport};
use unicode_width::UnicodeWidthStr;

use super::{Look, Tone, counted, printable};

/// The pieces that branches are drawn with; each is three columns wide.
struct Branches {
    child: &'static str,
    last: &'static str,
    past: &'static str,
    none: &'static str,
}

const UNICODE: Branches = Branches {
    child: "├─ ",
    last: "└─ ",
    past: "│  ",
    none: "   ",
};

const ASCII: Branches = Branches {
    child: "|- ",
    last: "`- ",
    past: "|  ",
    none: "   ",
};

/// Draws `report`: below each cgroup the hooks where it has programs of its own, with all that run
/// there for its events, own and inherited, in their order. Where it has none of its own it says
/// only how many it inherits, and from where. Cgroups for which nothing runs, there and below, are
/// left out; how many is the second value.
pub fn tree(report: &TreeReport, look: &Look) -> (String, usize) {
    let branches = if look.unicode { &UNICODE } else { &ASCII };
    let mut drawing = Drawing {
        text: String::new(),
        look,
        branches,
        left_out: 0,
    };
    let name = look.paint(Tone::Heading, &printable(&report.cgroup));
    drawing.text += &name;
    drawing.text.push('\n');
    drawing.below(report, "");
    (drawing.text, drawing.left_out)
}

struct Drawing<'a> {
    text: String,
    look: &'a Look,
    branches: &'static Branches,
    left_out: usize,
}

impl Drawing<'_> {
    /// What stands below the name of `cgroup`; each line begins with `trunk`.
    fn below(&mut self, cgroup: &TreeReport, trunk: &str) {
        let (shown, hidden): (Vec<_>, Vec<_>) = cgroup.children.iter().partition(|c| runs(c));
        self.left_out += hidden.into_iter().map(size).sum::<usize>();
        let bar = match shown.last() {
            Some(_) => self.branches.past,
            None => self.branches.none,
        };
        self.programs(&cgroup.hooks, &format!("{trunk}{bar}"));
        for (i, child) in shown.iter().enumerate() {
            let last = i + 1 == shown.len();
            let (branch, next) = if last {
                (self.branches.last, self.branches.none)
            } else {
                (self.branches.child, self.branches.past)
            };
            let name = child.cgroup.rsplit('/').next().unwrap_or(&child.cgroup);
            let name = self.look.paint(Tone::Heading, &printable(name));
            let lines = self.look.paint(Tone::Dim, &format!("{trunk}{branch}"));
            self.text += &format!("{lines}{name}\n");
            self.below(child, &format!("{trunk}{next}"));
        }
    }

    /// A hook where the cgroup has a list of its own, with what runs there in order. The others
    /// are summed up: whatever runs there is told where it is attached.
    fn programs(&mut self, hooks: &[TreeHook], trunk: &str) {
        let (own, inherited): (Vec<_>, Vec<_>) = hooks
            .iter()
            .partition(|hook| hook.attachments.iter().any(|a| !a.inherited));
        for hook in own {
            self.line(trunk, &hook.hook.to_string());
            self.attachments(&hook.attachments, trunk);
        }
        let inherited = inherited.into_iter().flat_map(|hook| &hook.attachments);
        self.inherited_only(inherited, trunk);
    }

    fn attachments(&mut self, attachments: &[TreeAttachment], trunk: &str) {
        let rows: Vec<(&TreeAttachment, String, String)> = attachments
            .iter()
            .map(|a| (a, a.id.to_string(), printable(&a.program).into_owned()))
            .collect();
        let id_width = rows.iter().map(|(_, id, _)| id.len()).max();
        let name_width = rows.iter().map(|(_, _, name)| name.width()).max();
        for (attachment, id, name) in &rows {
            let blanks = " ".repeat(name_width.unwrap_or(0) - name.width());
            let line = format!(
                "{id:>width$}  {name}{blanks}",
                width = id_width.unwrap_or(0)
            );
            let line = if attachment.inherited {
                let line = format!("{line}  inherited from {}", printable(&attachment.from));
                self.look.paint(Tone::Dim, &line)
            } else {
                let runs = usize::try_from(attachment.run_count).unwrap_or(usize::MAX);
                format!("{line}  {}", counted(runs, "run", "runs"))
            };
            self.line(trunk, &format!("  {line}"));
        }
    }

    fn inherited_only<'r>(
        &mut self,
        attachments: impl Iterator<Item = &'r TreeAttachment>,
        trunk: &str,
    ) {
        let mut sources: Vec<(&str, usize)> = Vec::new();
        for attachment in attachments {
            match sources
                .iter_mut()
                .find(|(from, _)| *from == attachment.from)
            {
                Some((_, number)) => *number += 1,
                None => sources.push((&attachment.from, 1)),
            }
        }
        for (from, number) in sources {
            let line = format!("{number} inherited from {}", printable(from));
            let line = self.look.paint(Tone::Dim, &line);
            self.line(trunk, &line);
        }
    }

    fn line(&mut self, trunk: &str, line: &str) {
        let trunk = self.look.paint(Tone::Dim, trunk);
        self.text += &format!("{trunk}  {line}\n");
    }
}

/// Whether anything runs for events of `cgroup` or of one below it.
fn runs(cgroup: &TreeReport) -> bool {
    !cgroup.hooks.is_empty() || cgroup.children.iter().any(runs)
}

fn size(cgroup: &TreeReport) -> usize {
    1 + cgroup.children.iter().map(size).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cgtap::id::{AttachmentId, CgroupId};

    const SYS_ENTER: &str = "raw_tracepoint:sys_enter";
    const SWITCH: &str = "tp_btf:sched_switch";

    fn attachment(id: u32, from: &str, inherited: bool) -> TreeAttachment {
        TreeAttachment {
            id: AttachmentId(id),
            program: "count".to_owned(),
            from: from.to_owned(),
            inherited,
            run_count: u64::from(id) * 7 - 6,
        }
    }

    fn hook(hook: &str, attachments: Vec<TreeAttachment>) -> TreeHook {
        TreeHook {
            hook: hook.parse().unwrap(),
            attachments,
        }
    }

    fn cgroup(path: &str, hooks: Vec<TreeHook>, children: Vec<TreeReport>) -> TreeReport {
        TreeReport {
            cgroup: path.to_owned(),
            cgroup_id: CgroupId(1),
            hooks,
            children,
        }
    }

    fn report() -> TreeReport {
        let (own, inherited) = (attachment(1, "/d", false), attachment(1, "/d", true));
        let below = vec![attachment(12, "/d/a", false), inherited.clone()];
        let deeper = vec![attachment(12, "/d/a", true), inherited.clone()];
        let a = cgroup(
            "/d/a",
            vec![
                hook(SYS_ENTER, below),
                hook(SWITCH, vec![attachment(2, "/d", true)]),
            ],
            vec![cgroup("/d/a/job1", vec![hook(SYS_ENTER, deeper)], vec![])],
        );
        let b = cgroup("/d/b", vec![hook(SYS_ENTER, vec![inherited])], vec![]);
        let d = cgroup("/d", vec![hook(SYS_ENTER, vec![own])], vec![a, b]);
        let quiet = cgroup("/quiet", vec![], vec![cgroup("/quiet/x", vec![], vec![])]);
        cgroup("/", vec![], vec![d, quiet])
    }

    #[test]
    fn the_tree_shows_own_and_inherited_programs() {
        let unicode = Look {
            unicode: true,
            ..Look::PLAIN
        };
        let (text, left_out) = tree(&report(), &unicode);
        assert_eq!(
            text,
            "\
/
└─ d
   │    raw_tracepoint:sys_enter
   │      1  count  1 run
   ├─ a
   │  │    raw_tracepoint:sys_enter
   │  │      12  count  78 runs
   │  │       1  count  inherited from /d
   │  │    1 inherited from /d
   │  └─ job1
   │          1 inherited from /d/a
   │          1 inherited from /d
   └─ b
           1 inherited from /d
"
        );
        assert_eq!(left_out, 2);
    }

    #[test]
    fn without_utf8_the_branches_are_ascii() {
        let (text, _) = tree(&report(), &Look::PLAIN);
        assert!(text.is_ascii());
        assert!(text.contains("\n   |- a\n"));
        assert!(text.contains("\n   |  `- job1\n"));
    }

    #[test]
    fn inherited_programs_are_dim() {
        let colour = Look {
            colour: true,
            ..Look::PLAIN
        };
        let (text, _) = tree(&report(), &colour);
        assert!(text.contains("\x1b[2m1 inherited from /d\x1b[0m"));
    }
}
