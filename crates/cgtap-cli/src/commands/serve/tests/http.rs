//! Clients, good and bad.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::super::server::Limits;
use super::prometheus::{get, request};
use super::{Fake, Serving, every_kind, report, row, value};
use crate::failure::Failure;
use cgtap::meter::usage::{Form, Unit};

#[test]
fn each_path_and_method_has_its_answer() {
    let serving = Serving::of(every_kind());
    let to = serving.address;
    let index = get(to, "/");
    assert_eq!(index.status, 200);
    assert!(index.head.contains("content-type: text/html"));
    assert!(index.body.contains("href=\"/metrics\"") && index.body.contains("href=\"/healthz\""));
    assert_eq!(get(to, "/healthz").body, "ok\n");
    assert_eq!(get(to, "/metrics?x=y").status, 200);
    assert_eq!(get(to, "/nonsense").status, 404);
    let head = request(to, "HEAD", "/metrics", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let got = request(to, method, "/metrics", "");
        assert_eq!(got.status, 405, "{method}");
        assert!(got.head.contains("allow: get, head"), "{got:?}");
    }
}

#[test]
fn a_reading_that_fails_is_told_and_is_not_the_end() {
    let fails = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&fails);
    let source = Fake::source(move || {
        if asked.load(Ordering::Relaxed) {
            Err(Failure::Unsupported("no such luck".to_owned()))
        } else {
            Ok(every_kind())
        }
    });
    let serving = Serving::start(source, 200, Limits::default());
    let to = serving.address;
    assert_eq!(get(to, "/healthz").status, 200);
    fails.store(true, Ordering::Relaxed);
    // Nobody has found out yet.
    assert_eq!(get(to, "/healthz").status, 200);
    for path in ["/metrics", "/healthz"] {
        let got = get(to, path);
        assert_eq!(got.status, 503);
        assert_eq!(got.body, "the last reading failed: no such luck\n");
    }
    fails.store(false, Ordering::Relaxed);
    assert_eq!(get(to, "/healthz").status, 200);
    assert_eq!(get(to, "/metrics").status, 200);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Connections that this process holds to or from `port`, as far as they stand.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let of = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words[1].ends_with(&local) && words[3] == "01"
    };
    table.lines().skip(1).filter(of).count()
}

#[test]
fn clients_that_send_nothing_or_read_nothing_hold_up_nobody() {
    // A page too large for the buffers of a socket: whoever does not read it is waited for.
    let long = "x".repeat(2000);
    let rows = (0..20_000).map(|n| {
        let used = value("x", Unit::Count, Form::Count, &[], 1);
        row(n + 1, &format!("/{long}{n}"), vec![used])
    });
    let large = report(rows.take(5000).collect());
    // However slow this machine is, who reads all the time gets all of it.
    let limits = Limits {
        connections: 8,
        connection: Duration::from_secs(600),
        reading: Duration::from_secs(600),
        ..Limits::default()
    };
    let source = Fake::source(move || Ok(large.clone()));
    let serving = Serving::start(source, 5000, limits);
    let to = serving.address;
    let page = get(to, "/metrics");
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.len() > 10_000_000, "{}", page.body.len());
    let before = threads();
    let mut idle: Vec<TcpStream> = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(to).unwrap();
        match n % 4 {
            0 => {}
            1 => stream.write_all(b"GET /metr").unwrap(),
            2 => write!(stream, "GET / HTTP/1.1\r\nX: ").unwrap(),
            _ => write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap(),
        }
        idle.push(stream);
    }
    // An honest client is served while they stand, and neither threads nor connections pile up.
    assert_eq!(get(to, "/").status, 200);
    assert_eq!(get(to, "/healthz").status, 200);
    // Other tests of this process start threads too; forty would be these.
    assert!(threads() < before + 30, "{} after {before}", threads());
    assert!(
        established(to.port()) <= 8 + 1,
        "{}",
        established(to.port())
    );
    drop(idle);
    assert_eq!(get(to, "/metrics").status, 200);
}

#[test]
fn who_is_too_slow_is_sent_away() {
    let limits = Limits {
        head: Duration::from_millis(100),
        connection: Duration::from_millis(300),
        ..Limits::default()
    };
    let serving = Serving::start(Fake::source(|| Ok(every_kind())), 200, limits);
    for sent in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nX: y"] {
        let mut stream = TcpStream::connect(serving.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(sent).unwrap();
        let mut text = String::new();
        // The end, and no answer of success; a reset is an end too.
        let _ = stream.read_to_string(&mut text);
        assert!(!text.contains("200 OK"), "{text}");
    }
}

#[test]
fn a_reading_that_hangs_is_told_and_only_one_is_made_at_a_time() {
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, high) = (Arc::clone(&at_once), Arc::clone(&most));
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let source = Fake::source(move || {
        high.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _ = wait.recv();
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(every_kind())
    });
    let limits = Limits {
        reading: Duration::from_millis(100),
        ..Limits::default()
    };
    let serving = Serving::start(source, 200, limits);
    let to = serving.address;
    for _ in 0..5 {
        let got = get(to, "/metrics");
        assert_eq!(got.status, 503);
        assert!(got.body.contains("takes longer"), "{got:?}");
    }
    // The rest is served meanwhile.
    assert_eq!(get(to, "/").status, 200);
    assert_eq!(most.load(Ordering::SeqCst), 1);
    drop(go);
    // Readings are free now.
    let served = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        get(to, "/metrics").status == 200
    });
    assert!(served);
}
