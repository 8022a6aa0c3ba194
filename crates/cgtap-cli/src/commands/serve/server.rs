//! HTTP: one thread that waits for all connections, one that reads.
//!
//! A client cannot hold up another: it has a place among a few, a time in which its request must
//! have come and a time in which it must have its answer; and where all places are taken the oldest
//! gives way, since an honest one is done in milliseconds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::exporter::{Exporter, Health};
use super::page::Format;
use crate::failure::Failure;

/// How patient the server is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// For the head of a request.
    pub head: Duration,
    /// For a reading, before a client is told that it takes too long.
    pub reading: Duration,
    /// For all of a connection.
    pub connection: Duration,
    /// For what is under way when the server ends.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            head: Duration::from_secs(5),
            reading: Duration::from_secs(8),
            connection: Duration::from_secs(10),
            grace: Duration::from_secs(2),
        }
    }
}

type Answer = Response<Full<Bytes>>;

#[derive(Clone)]
struct Site {
    exporter: Exporter,
    limits: Limits,
    // Held by a reading: those who wait for it wait here, where they can still be sent away, and
    // not as jobs that pile up.
    turn: Arc<Semaphore>,
}

/// What the server runs on.
///
/// # Errors
/// [`Failure::System`] if it cannot be made.
pub fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_name("reader")
        .build()
        .map_err(|e| Failure::system("cannot start the server", e))
}

/// Serves until `stop` is ready, and returns what it says.
///
/// # Errors
/// [`Failure::System`] if the listener cannot be waited for.
pub fn run<T>(
    runtime: Runtime,
    listener: StdListener,
    exporter: Exporter,
    limits: Limits,
    stop: impl Future<Output = T>,
) -> Result<T, Failure> {
    let site = Site {
        exporter,
        limits,
        turn: Arc::new(Semaphore::new(1)),
    };
    let said = runtime.block_on(async {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener))
            .map_err(|e| Failure::system("cannot wait for connections", e))?;
        let mut open = VecDeque::new();
        let said = tokio::select! {
            said = stop => said,
            never = accept(&listener, &site, &mut open) => match never {},
        };
        drop(listener);
        let ends = async {
            for connection in &mut open {
                let _ = connection.await;
            }
        };
        let _ = timeout(limits.grace, ends).await;
        Ok(said)
    });
    runtime.shutdown_timeout(limits.grace);
    said
}

async fn accept(
    listener: &TcpListener,
    site: &Site,
    open: &mut VecDeque<JoinHandle<()>>,
) -> Infallible {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free, or the client has gone: neither is the end.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= site.limits.connections
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
            // Its socket is closed before another takes its place.
            let _ = oldest.await;
        }
        open.push_back(tokio::spawn(converse(stream, site.clone())));
    }
}

async fn converse(stream: TcpStream, site: Site) {
    let limits = site.limits;
    let service = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Whatever goes wrong here is the client's affair.
    let _ = timeout(limits.connection, connection).await;
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let text = "only GET and HEAD are understood\n";
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, text);
            let headers = answer.headers_mut();
            headers.insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/metrics" => {
                let accept = request.headers().get_all(ACCEPT).iter();
                let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
                let format = Format::accepted(&accept.join(","));
                match self.scrape(format).await {
                    Ok(page) => answer(StatusCode::OK, format.content_type(), page),
                    Err(why) => unavailable(&why),
                }
            }
            "/healthz" => self.health().await,
            "/" => answer(StatusCode::OK, "text/html; charset=utf-8", INDEX),
            _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    async fn health(&self) -> Answer {
        // Where it failed it is tried again: what was wrong may be over, and nobody else may ask.
        let read = match self.exporter.health() {
            Health::Well => Ok(()),
            Health::Unread | Health::Failed(_) => self.scrape(Format::Text).await.map(|_| ()),
        };
        match read {
            // Readings go well, and what was in force before is: no reason to start anew.
            Ok(()) => match self.exporter.policy().and_then(|policy| policy.wrong) {
                None => plain(StatusCode::OK, "ok\n"),
                Some(why) => {
                    let text = format!("ok\nthe policy is not applied as it is now: {why}\n");
                    plain(StatusCode::OK, &text)
                }
            },
            Err(why) => unavailable(&why),
        }
    }

    async fn scrape(&self, format: Format) -> Result<String, String> {
        let read = async {
            let turn = Arc::clone(&self.turn).acquire_owned().await;
            let exporter = self.exporter.clone();
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                exporter.scrape(format)
            })
            .await
            .unwrap_or_else(|_| Err("the reading broke off".to_owned()))
        };
        timeout(self.limits.reading, read)
            .await
            .unwrap_or_else(|_| {
                let seconds = self.limits.reading.as_secs();
                Err(format!(
                    "reading takes longer than {seconds} s: is a change of the state under way?"
                ))
            })
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, value(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, value("no-store"));
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

fn unavailable(why: &str) -> Answer {
    let text = format!("the last reading failed: {why}\n");
    plain(StatusCode::SERVICE_UNAVAILABLE, &text)
}

const INDEX: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>cgtap</title></head>
<body>
<h1>cgtap</h1>
<p>What the meters counted, cgroup by cgroup.</p>
<ul>
<li><a href=\"/metrics\">/metrics</a> for Prometheus</li>
<li><a href=\"/healthz\">/healthz</a>: whether the last reading went well</li>
</ul>
</body>
</html>
";
