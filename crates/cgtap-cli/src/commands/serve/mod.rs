//! `cgtap serve`: what meters counted, for Prometheus.

mod account;
mod exporter;
mod ledger;
mod names;
mod numbers;
mod page;
mod policy;
mod privileges;
mod roster;
mod server;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};

use cgtap::engine::{Engine, LimitReport, PatternReport, UsageRequest};
use cgtap::meter::usage::UsageReport;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::exporter::{Exporter, Source};
use self::policy::Keeper;
use super::Context;
use super::reading::Reading;
use crate::cli::ServeArgs;
use crate::failure::{Failure, Status};

#[derive(Serialize)]
struct Listening {
    listen: SocketAddr,
}

impl Source for Engine {
    fn usage(&self) -> Result<UsageReport, Failure> {
        let request = UsageRequest {
            cgroup: None,
            recursive: true,
            depth: None,
        };
        Ok(Engine::usage(self, &request)?)
    }

    fn limits(&self) -> Result<Vec<LimitReport>, Failure> {
        Ok(Engine::limits(self, None)?)
    }

    fn patterns(&self) -> Result<Vec<PatternReport>, Failure> {
        Ok(Engine::patterns(self)?)
    }
}

/// Serves metrics until a signal ends it.
pub fn run(context: &Context, args: &ServeArgs) -> Result<Status, Failure> {
    let engine = context.engine()?;
    let listener = TcpListener::bind(args.listen).map_err(|e| refused(args.listen, e))?;
    let listen = listener
        .local_addr()
        .map_err(|e| Failure::system("cannot look at the socket", e))?;
    // With all privileges: what is wrong with it is said here, and nothing is served.
    let config = args.config.as_deref();
    let keeper = config.map(|path| Keeper::start(context, &args.meters, path));
    let keeper = keeper.transpose()?;
    // Before there is a second thread: each has privileges of its own.
    let mut keep = privileges::KEPT;
    if config.is_some() || engine.is_reading()? {
        keep |= privileges::FOR_PROCESSES;
    }
    privileges::drop_all_but(keep)?;
    let runtime = server::runtime()?;
    let stop = {
        let _inside = runtime.enter();
        signals().map_err(|e| Failure::system("cannot watch for signals", e))?
    };
    let text = format!("serving http://{listen}/metrics\n");
    context.result(Listening { listen }, |_| text)?;
    if !listen.ip().is_loopback() {
        context
            .teller
            .note("whoever reaches this address can read the names of cgroups and what they use");
    }
    let standing = keeper.as_ref().map(Keeper::standing);
    let _reading = Reading::start(&engine, args.read_every, context.teller)?;
    let exporter = Exporter::new(Box::new(engine), args.top, standing);
    let _running = keeper.map(Keeper::run).transpose()?;
    server::run(runtime, listener, exporter, server::Limits::default(), stop)?
}

/// What the first signal means: SIGTERM is how a service is ended, Ctrl-C interrupts.
fn signals() -> io::Result<impl Future<Output = Result<Status, Failure>>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => Ok(Status::DONE),
            _ = int.recv() => Err(Failure::Interrupted),
        }
    })
}

fn refused(listen: SocketAddr, error: io::Error) -> Failure {
    let port = listen.port();
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another process has it: end that (`ss -ltnp 'sport = :{port}'` names it), or choose \
             another port with --listen"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: `ip address` names those it has".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with --listen"
                .to_owned()
        }
        _ => String::new(),
    };
    Failure::system(format!("cannot listen on {listen}{why}"), error)
}
