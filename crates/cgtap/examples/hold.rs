//! Holds a link on an object until it is killed: `hold STATE CGROUP OBJECT`.
//!
//! Prints `held ID`. Kill it in any way and the program stops in that moment, although nothing of
//! cgtap is left alive to see it.

use cgtap::engine::{AttachRequest, CgroupRef, Engine, ObjectSource, Options, Result};

fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let (Some(state), Some(cgroup), Some(object)) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: hold STATE CGROUP OBJECT");
        std::process::exit(2);
    };
    let engine = Engine::open(Options {
        state: state.into(),
        cgroup_root: None,
    })?;
    let source = ObjectSource::File {
        path: object.into(),
        set: Vec::new(),
    };
    let link = engine.link(AttachRequest::new(CgroupRef::Path(cgroup.into()), source))?;
    println!("held {}", link.id());
    loop {
        std::thread::park();
    }
}
