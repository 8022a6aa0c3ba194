//! What a child says to its parent: a kind, bytes and descriptors over a socket. The parent
//! believes nothing of it but what it counts itself.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno as IoErrno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::child::{ChildError, ChildLimits, system};

/// Descriptors sent in one message; the kernel's limit is `SCM_MAX_FD`, 253.
const FDS_PER_MESSAGE: usize = 250;

/// Kind of reply, number of descriptors, number of bytes.
const HEADER_BYTES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Done = 1,
    Failed = 2,
    Panicked = 3,
}

pub(super) fn reply(
    socket: BorrowedFd<'_>,
    kind: Kind,
    bytes: &[u8],
    fds: &[OwnedFd],
) -> Result<(), IoErrno> {
    let mut header = [0_u8; HEADER_BYTES];
    header[0] = kind as u8;
    header[4..8].copy_from_slice(&(fds.len() as u32).to_ne_bytes());
    header[8..16].copy_from_slice(&(bytes.len() as u64).to_ne_bytes());
    send(socket, &header)?;
    for batch in fds.chunks(FDS_PER_MESSAGE) {
        let batch: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&batch));
        // Descriptors travel with at least one byte.
        loop {
            match sendmsg(
                socket,
                &[IoSlice::new(&[0])],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            ) {
                Err(IoErrno::INTR) => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
    }
    send(socket, bytes)
}

fn send(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), IoErrno> {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Err(IoErrno::INTR) => {}
            Err(e) => return Err(e),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
        }
    }
    Ok(())
}

pub(super) enum Answer {
    Reply(Kind, Vec<u8>, Vec<OwnedFd>),
    /// It closed its end, or died, before it was through.
    Ended,
}

/// What has come in so far.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Incoming {
    /// The whole reply if it is all here; an error once it can no longer become one.
    fn finished(&mut self, limits: &ChildLimits) -> Result<Option<Answer>, ChildError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let kind = match header[0] {
            1 => Kind::Done,
            2 => Kind::Failed,
            3 => Kind::Panicked,
            _ => return Err(ChildError::Protocol("an unknown kind of reply")),
        };
        let [_, _, _, _, f0, f1, f2, f3, length @ ..] = *header;
        let fds = u32::from_ne_bytes([f0, f1, f2, f3]) as usize;
        let length = usize::try_from(u64::from_ne_bytes(length)).unwrap_or(usize::MAX);
        if fds > limits.reply_fds || self.fds.len() > fds {
            return Err(ChildError::Protocol("too many descriptors"));
        }
        if length > limits.reply_bytes {
            return Err(ChildError::Protocol("a reply over the size limit"));
        }
        let start = HEADER_BYTES + fds.div_ceil(FDS_PER_MESSAGE);
        if self.bytes.len() > start + length {
            return Err(ChildError::Protocol("more bytes than announced"));
        }
        if self.bytes.len() < start + length {
            return Ok(None);
        }
        if self.fds.len() < fds {
            // The kernel drops what this process has no room for (RLIMIT_NOFILE).
            return Err(ChildError::Protocol(
                "fewer descriptors than announced (raise the limit of open files, ulimit -n)",
            ));
        }
        let bytes = self.bytes.split_off(start);
        Ok(Some(Answer::Reply(
            kind,
            bytes,
            std::mem::take(&mut self.fds),
        )))
    }

    /// Takes what the socket has now; `false` at its end.
    fn receive(&mut self, socket: BorrowedFd<'_>, chunk: &mut [u8]) -> Result<bool, ChildError> {
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let message = match recvmsg(
            socket,
            &mut [IoSliceMut::new(chunk)],
            &mut ancillary,
            RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(IoErrno::AGAIN | IoErrno::INTR) => return Ok(true),
            Err(IoErrno::CONNRESET) => return Ok(false),
            Err(e) => return Err(system("recvmsg", e)),
            Ok(message) => message,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.bytes
            .extend_from_slice(chunk.get(..message.bytes).unwrap_or_default());
        Ok(message.bytes > 0)
    }
}

pub(super) fn listen(
    socket: BorrowedFd<'_>,
    pidfd: BorrowedFd<'_>,
    limits: &ChildLimits,
) -> Result<Answer, ChildError> {
    let deadline = Instant::now() + limits.timeout;
    let timed_out = ChildError::TimedOut {
        after: limits.timeout,
    };
    let mut incoming = Incoming::default();
    let mut chunk = vec![0_u8; 256 * 1024];
    // After the end of its socket a child is only waited for, for the way it died.
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timed_out);
        }
        let mut fds = [
            PollFd::from_borrowed_fd(pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(socket, PollFlags::IN),
        ];
        let watched = if open { 2 } else { 1 };
        let wait = Timespec::try_from(left).map_err(|_| timed_out.clone())?;
        match poll(&mut fds[..watched], Some(&wait)) {
            Err(IoErrno::INTR) => continue,
            Err(e) => return Err(system("poll", e)),
            Ok(_) => {}
        }
        let dead = !fds[0].revents().is_empty();
        if open && !fds[1].revents().is_empty() {
            open = incoming.receive(socket, &mut chunk)?;
            if let Some(answer) = incoming.finished(limits)? {
                return Ok(answer);
            }
        } else if dead {
            // Nothing left to read. Its end of the socket can still be open: a child that another
            // thread forked at the same time holds a copy.
            return Ok(Answer::Ended);
        }
    }
}
