//! Prometheus itself: its checker and its server, and a small HTTP client. Of the tests that run the
//! command and of those inside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// An answer: status, head, body.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request, with more header lines.
pub fn request(to: SocketAddr, method: &str, path: &str, headers: &str) -> Got {
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(600)))
        .unwrap();
    // 1.0: nothing comes in chunks.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    Got {
        status: status.parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// GET.
pub fn get(to: SocketAddr, path: &str) -> Got {
    request(to, "GET", path, "")
}

/// The page as OpenMetrics.
pub fn get_open(to: SocketAddr) -> Got {
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    request(to, "GET", "/metrics", accept)
}

/// What `promtool check metrics` has against a page in Prometheus' text: nothing, if all is well.
pub fn promtool(page: &str) -> String {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run promtool: {e}; `./dev test` installs it"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(page.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        said.into_owned()
    } else {
        format!("{}: {said}", output.status)
    }
}

/// A Prometheus that scrapes one address every three seconds.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    pub fn scraping(target: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 3s\n  scrape_timeout: 3s\nscrape_configs:\n  - job_name: \
             cgtap\n    static_configs:\n      - targets: ['{target}']\n"
        );
        std::fs::write(&config, text).unwrap();
        // It cannot be given port 0 and asked which it took.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run prometheus: {e}; `./dev test` installs it"));
        Self {
            child,
            address,
            _directory: directory,
        }
    }

    /// The results of an instant query, as soon as there is one.
    pub fn ask(&self, query: &str) -> Vec<Value> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let results = TcpStream::connect(self.address).is_ok().then(|| {
                let got = get(self.address, &format!("/api/v1/query?query={query}"));
                let value = serde_json::from_str::<Value>(&got.body).ok()?;
                value["data"]["result"].as_array().cloned()
            });
            if let Some(results) = results.flatten().filter(|r| !r.is_empty()) {
                return results;
            }
            let log = || std::fs::read_to_string(self._directory.path().join("log"));
            assert!(Instant::now() < end, "no answer to {query}: {:?}", log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The value of the only result.
    pub fn value(&self, query: &str) -> String {
        let results = self.ask(query);
        assert_eq!(results.len(), 1, "{results:?}");
        results[0]["value"][1].as_str().unwrap().to_owned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
