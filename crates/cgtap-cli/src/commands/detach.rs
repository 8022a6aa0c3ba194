//! `cgtap detach`.

use cgtap::engine::Detach;

use super::Context;
use crate::cli::DetachArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Detaches, and says what is gone.
pub fn run(context: &Context, args: DetachArgs) -> Result<Status, Failure> {
    let report = context.engine()?.detach(&what(args))?;
    context.result(&report, |_| render::detached(&report))?;
    if report.detached.is_empty() {
        context.teller.note("nothing was attached");
    }
    Ok(Status::DONE)
}

/// The parser lets exactly one of the ways through.
fn what(args: DetachArgs) -> Detach {
    match (args.cgroup, args.instance) {
        (Some(cgroup), _) => Detach::Cgroup(cgroup, args.hook),
        (None, Some(instance)) => Detach::Instance(instance),
        (None, None) if args.all => Detach::All,
        (None, None) => Detach::Ids(args.ids),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use cgtap::engine::CgroupRef;
    use cgtap::hook::HookFilter;
    use cgtap::id::{AttachmentId, InstanceId};
    use clap::Parser;

    fn asked(words: &str) -> Option<Detach> {
        let words = format!("cgtap detach {words}");
        let words = words.split(' ').filter(|w| !w.is_empty());
        match Cli::try_parse_from(words).ok()?.command {
            Command::Detach(args) => Some(what(args)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_way_is_understood() {
        let cgroup = || CgroupRef::Path("/a".into());
        let ids = Detach::Ids(vec![AttachmentId(1), AttachmentId(31)]);
        assert_eq!(asked("1 0x1f"), Some(ids));
        assert_eq!(asked("--cgroup /a"), Some(Detach::Cgroup(cgroup(), None)));
        let hook: Option<HookFilter> = "tp_btf:x".parse().ok();
        assert_eq!(
            asked("--cgroup /a --hook tp_btf:x"),
            Some(Detach::Cgroup(cgroup(), hook))
        );
        assert_eq!(asked("--instance 2"), Some(Detach::Instance(InstanceId(2))));
        assert_eq!(asked("--all"), Some(Detach::All));
    }

    #[test]
    fn exactly_one_way_at_a_time() {
        for words in [
            "",
            "1 --all",
            "1 --cgroup /a",
            "--cgroup /a --instance 2",
            "--instance 2 --all",
            "--hook tp_btf:x",
            "--all --hook tp_btf:x",
        ] {
            assert_eq!(asked(words), None, "{words}");
        }
    }
}
