//! `cgtap attach`.

use cgtap::engine::{AttachRequest, ObjectSource};

use super::Context;
use crate::cli::AttachArgs;
use crate::failure::{Failure, Status};
use crate::render;

/// Attaches, and says what it made.
pub fn run(context: &Context, args: AttachArgs) -> Result<Status, Failure> {
    let request = request(args)?;
    let report = context.engine()?.attach(request)?;
    context.result(&report, |_| render::attached(&report))?;
    Ok(Status::DONE)
}

fn request(args: AttachArgs) -> Result<AttachRequest, Failure> {
    let place = args.place().map_err(Failure::Usage)?;
    let source = match (args.object, args.instance) {
        (Some(path), None) => ObjectSource::File {
            path,
            set: args.set,
        },
        (None, Some(instance)) => ObjectSource::Instance(instance),
        // The parser lets neither through.
        (Some(_), Some(_)) | (None, None) => {
            return Err(Failure::Usage(
                "give either an OBJECT or --instance".to_owned(),
            ));
        }
    };
    Ok(AttachRequest {
        programs: args.programs,
        scope: args.scope,
        mode: args.mode,
        preorder: args.preorder,
        place,
        replace: args.replace,
        cookie: args.cookie,
        expect_revision: args.expect_revision,
        ..AttachRequest::new(args.cgroup, source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use cgtap::attach::{Anchor, Mode, Place};
    use cgtap::engine::CgroupRef;
    use cgtap::id::{AttachmentId, InstanceId};
    use clap::Parser;

    fn asked(words: &str) -> Result<AttachRequest, Failure> {
        let words = format!("cgtap attach {words}");
        match Cli::try_parse_from(words.split(' ')).unwrap().command {
            Command::Attach(args) => request(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_word_reaches_the_request() {
        let request = asked(
            "/a io.o --program p@tp_btf:x --program q --mode override --preorder --before 0x10 \
             --replace 3 --cookie 0xff --expect-revision 9 --set a=1 --set b=2 --scope rq->bio",
        )
        .unwrap();
        assert_eq!(request.cgroup, CgroupRef::Path("/a".into()));
        let ObjectSource::File { path, set } = &request.source else {
            panic!("{request:?}");
        };
        assert_eq!(path.to_str(), Some("io.o"));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(*set, [pair("a", "1"), pair("b", "2")]);
        let names: Vec<_> = request.programs.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["p", "q"]);
        assert!(request.programs[0].hook.is_some() && request.programs[1].hook.is_none());
        assert_eq!(request.scope, "rq->bio".parse().unwrap());
        assert_eq!((request.mode, request.preorder), (Mode::Override, true));
        let sixteen = Anchor::Id(AttachmentId(16));
        assert_eq!(request.place, Place::Before(Some(sixteen)));
        assert_eq!(request.replace, Some(AttachmentId(3)));
        assert_eq!((request.cookie, request.expect_revision), (255, Some(9)));
    }

    #[test]
    fn without_options_it_is_multi_and_last() {
        let request = asked("id:7 io.o").unwrap();
        assert_eq!((request.mode, request.place), (Mode::Multi, Place::Append));
        assert_eq!((request.cookie, request.expect_revision), (0, None));
    }

    #[test]
    fn an_instance_stands_for_an_object() {
        let request = asked("/a --instance 4").unwrap();
        assert!(matches!(
            request.source,
            ObjectSource::Instance(InstanceId(4))
        ));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let place = asked("/a io.o --before 1 --after 2").unwrap_err();
        assert_eq!(place.status(), 2);
    }
}
