//! Links: attachments that a process holds (S19-S21).

use cgtap_sys::Errno;

use super::error::{Error, ErrorKind, Result};
use super::request::{AttachRequest, Detach, Lifetime, ObjectSource, ReplaceRequest};
use super::session::Session;
use super::{Engine, Lock};
use crate::attach::Mode;
use crate::id::{AttachmentId, CgroupId, ProgramId};

/// An attachment that lives as long as this value, or as this process: whichever ends first, be
/// it by `kill -9`. [`Link::pin`] makes it stay.
#[derive(Debug)]
pub struct Link {
    engine: Engine,
    id: AttachmentId,
    held: bool,
}

impl Engine {
    /// Attaches one program and holds it. Links are of mode multi (S19).
    ///
    /// # Errors
    /// [`Error`] as [`Engine::attach`]; EINVAL for a request of another mode or for more than one
    /// program.
    pub fn link(&self, request: AttachRequest) -> Result<Link> {
        let wrong = |what: &str| {
            Err(Error::new(ErrorKind::Rule, format!("cannot link: {what}"))
                .with_errno(Errno::EINVAL))
        };
        if request.mode != Mode::Multi {
            return wrong("links are of mode multi");
        }
        if request.programs.len() > 1 {
            return wrong("a link has one program; make one for each");
        }
        let report = self.attach(AttachRequest {
            lifetime: Lifetime::Process,
            ..request
        })?;
        let ids: Vec<AttachmentId> = report.attachments.iter().map(|a| a.id).collect();
        match ids.as_slice() {
            [id] => Ok(Link {
                engine: self.clone(),
                id: *id,
                held: true,
            }),
            _ => {
                self.detach(&Detach::Ids(ids))?;
                wrong("the object has several programs; name one")
            }
        }
    }
}

impl Link {
    /// The attachment.
    #[must_use]
    pub fn id(&self) -> AttachmentId {
        self.id
    }

    /// The cgroup it is attached to; 0 once that is gone (S15).
    ///
    /// # Errors
    /// [`Error`] if the state cannot be read.
    pub fn cgroup_id(&self) -> Result<CgroupId> {
        let hierarchy = self.engine.hierarchy()?;
        let session = Session::open(self.engine.state(), Lock::Shared, hierarchy)?;
        let found = session.as_ref().and_then(|s| s.config.find(self.id));
        Ok(found.map_or(CgroupId(0), |(_, cgroup, _)| cgroup))
    }

    /// Puts another program in its place (S20), if `expect` is there or nothing is expected.
    ///
    /// # Errors
    /// [`Error`] as [`Engine::replace`]: ENOLINK once the cgroup is gone, EPERM if another program
    /// than the expected one is there.
    pub fn update(
        &self,
        source: ObjectSource,
        program: Option<String>,
        expect: Option<ProgramId>,
    ) -> Result<()> {
        self.engine
            .replace(ReplaceRequest {
                id: self.id,
                source,
                program,
                expect,
            })
            .map(drop)
    }

    /// Makes it stay when this process, or this value, ends (S21).
    ///
    /// # Errors
    /// [`Error`]: ENOLINK once the cgroup is gone, a state that cannot be changed. The link is held as
    /// before then.
    pub fn pin(&mut self) -> Result<AttachmentId> {
        let gone = || {
            Error::new(
                ErrorKind::Rule,
                format!("cannot pin attachment {}: its cgroup was removed", self.id),
            )
            .with_errno(Errno::ENOLINK)
        };
        let hierarchy = self.engine.hierarchy()?;
        let mut session =
            Session::open(self.engine.state(), Lock::Exclusive, hierarchy)?.ok_or_else(gone)?;
        session.change(|session| {
            let mut next = session.config.clone();
            next.owners.remove(&self.id).ok_or_else(gone)?;
            session.apply(next)
        })?;
        self.held = false;
        Ok(self.id)
    }

    /// Detaches it.
    ///
    /// # Errors
    /// [`Error`] if the state cannot be changed. That it went with its cgroup is none.
    pub fn detach(mut self) -> Result<()> {
        self.let_go()
    }

    fn let_go(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.held, false) {
            return Ok(());
        }
        match self.engine.detach(&Detach::Ids(vec![self.id])) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(e) = self.let_go() {
            tracing::warn!("attachment {} is still there: {e}", self.id);
        }
    }
}
