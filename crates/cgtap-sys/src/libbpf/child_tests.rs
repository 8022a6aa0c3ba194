//! Each way a child can end.

use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{ChildError, ChildLimits, run_in_child};

fn limits() -> ChildLimits {
    ChildLimits {
        timeout: Duration::from_secs(20),
        ..ChildLimits::default()
    }
}

fn signal(number: i32) -> ChildError {
    ChildError::Signal { signal: number }
}

#[test]
fn bytes_and_descriptors_arrive_in_order() {
    // More bytes than a socket holds, more descriptors than a message.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let files = || -> Vec<OwnedFd> {
        (0..600_u32)
            .map(|i| {
                let name = std::ffi::CString::new(format!("{i}")).unwrap();
                let fd = rustix::fs::memfd_create(&name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                let mut file = std::fs::File::from(fd);
                file.write_all(&i.to_ne_bytes()).unwrap();
                file.into()
            })
            .collect()
    };
    let (got, fds) = run_in_child(|| Ok((bytes.clone(), files())), &limits()).unwrap();
    assert!(got == bytes);
    assert_eq!(fds.len(), 600);
    for (i, fd) in (0_u32..).zip(fds) {
        let flags = rustix::io::fcntl_getfd(fd.as_fd()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let mut file = std::fs::File::from(fd);
        let mut number = [0; 4];
        file.rewind().unwrap();
        file.read_exact(&mut number).unwrap();
        assert_eq!(u32::from_ne_bytes(number), i);
    }
}

#[test]
fn nothing_at_all_arrives_too() {
    let (bytes, fds) = run_in_child(|| Ok((Vec::new(), Vec::new())), &limits()).unwrap();
    assert!(bytes.is_empty() && fds.is_empty());
}

#[test]
fn its_own_error_arrives_as_it_is() {
    let error = run_in_child(|| Err(b"no".to_vec()), &limits()).unwrap_err();
    assert_eq!(error, ChildError::Failed(b"no".to_vec()));
}

#[test]
fn a_panic_stays_there() {
    let error = run_in_child(|| panic!("at {}", "once"), &limits()).unwrap_err();
    assert_eq!(error, ChildError::Panicked("at once".to_owned()));
}

#[test]
fn death_by_signal_is_named() {
    for number in [libc::SIGSEGV, libc::SIGABRT, libc::SIGFPE, libc::SIGKILL] {
        let error = run_in_child(
            || {
                // SAFETY: ends this process, which is the child.
                unsafe { libc::raise(number) };
                Ok((Vec::new(), Vec::new()))
            },
            &limits(),
        )
        .unwrap_err();
        assert_eq!(error, signal(number));
    }
    assert_eq!(
        signal(libc::SIGSEGV).to_string(),
        "the child process died of SIGSEGV (a memory fault)"
    );
}

#[test]
fn a_true_memory_fault_is_one_too() {
    let error = run_in_child(
        || {
            // SAFETY: reads where nothing is mapped: the child is meant to die of it.
            let byte = unsafe { std::ptr::without_provenance::<u8>(16).read_volatile() };
            Ok((vec![byte], Vec::new()))
        },
        &limits(),
    )
    .unwrap_err();
    assert_eq!(error, signal(libc::SIGSEGV));
}

#[test]
fn one_that_ends_without_a_word() {
    let error = run_in_child(
        // SAFETY: ends the child.
        || unsafe { libc::_exit(7) },
        &limits(),
    )
    .unwrap_err();
    assert_eq!(error, ChildError::NoAnswer { status: 7 });
}

#[test]
fn one_that_does_not_end_is_killed() {
    let limits = ChildLimits {
        timeout: Duration::from_millis(300),
        ..limits()
    };
    let start = Instant::now();
    let error = run_in_child(
        || {
            std::thread::sleep(Duration::from_secs(60));
            Ok((Vec::new(), Vec::new()))
        },
        &limits,
    )
    .unwrap_err();
    assert_eq!(
        error,
        ChildError::TimedOut {
            after: limits.timeout
        }
    );
    // Much sooner than the child would have ended.
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn one_that_computes_without_end_runs_out_of_cpu() {
    let limits = ChildLimits {
        cpu_s: 1,
        ..limits()
    };
    let error = run_in_child(
        || {
            let mut x = 1_u64;
            loop {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        },
        &limits,
    )
    .unwrap_err();
    assert_eq!(error, signal(libc::SIGXCPU));
}

#[test]
fn one_that_wants_all_memory_gets_none() {
    let limits = ChildLimits {
        address_space_bytes: 64 << 20,
        ..limits()
    };
    let (bytes, _) = run_in_child(
        || {
            let mut much: Vec<u8> = Vec::new();
            let refused = much.try_reserve_exact(1 << 30).is_err();
            let mut little: Vec<u8> = Vec::new();
            let granted = little.try_reserve_exact(1 << 20).is_ok();
            Ok((vec![refused.into(), granted.into()], Vec::new()))
        },
        &limits,
    )
    .unwrap();
    assert_eq!(bytes, [1, 1]);
}

#[test]
fn a_reply_over_the_limits_is_refused() {
    let limits = ChildLimits {
        reply_bytes: 1000,
        reply_fds: 1,
        ..limits()
    };
    let error = run_in_child(|| Ok((vec![0; 1001], Vec::new())), &limits).unwrap_err();
    assert!(matches!(error, ChildError::Protocol(_)), "{error}");
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = run_in_child(|| Ok((Vec::new(), vec![null(), null()])), &limits).unwrap_err();
    assert!(matches!(error, ChildError::Protocol(_)), "{error}");
    run_in_child(|| Ok((vec![0; 1000], vec![null()])), &limits).unwrap();
}

#[test]
fn many_threads_may_do_it_at_once_and_none_is_left() {
    let work = |i: u32| {
        for turn in 0..20_u32 {
            let result = run_in_child(
                || {
                    if turn % 3 == 0 {
                        // SAFETY: ends the child.
                        unsafe { libc::abort() }
                    }
                    // Allocates, as libbpf does, while other threads of the parent do too.
                    let text = format!("{i} {turn}");
                    Ok((text.into_bytes(), Vec::new()))
                },
                &limits(),
            );
            if turn % 3 == 0 {
                assert_eq!(result.unwrap_err(), signal(libc::SIGABRT));
            } else {
                assert_eq!(result.unwrap().0, format!("{i} {turn}").into_bytes());
            }
        }
        // Each thread waited for its own.
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let path = format!("/proc/self/task/{tid}/children");
        if let Ok(left) = std::fs::read_to_string(path) {
            assert_eq!(left, "");
        }
    };
    std::thread::scope(|scope| {
        for i in 0..8 {
            scope.spawn(move || work(i));
        }
    });
}
