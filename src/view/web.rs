//! What is seen of running mirrors over HTTP: a page for people, and numbers for programs. Read-only.
//!
//! `/` is one page that needs nothing else and keeps itself up to date, `/status.json` what
//! `lsyncd status --json` says of this process, `/metrics` the same in OpenMetrics, with what was
//! counted. A page of another site can make a browser ask, but not under a name that leads here: only
//! names of this host are answered (DNS rebinding), and nothing can be changed.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::View;
use crate::control::server::{Roll, status_of};
use crate::control::status::Status;
use crate::error::{Error, Result};
use crate::metrics::{Metrics, Notice};
use crate::mirror::connect;

mod openmetrics;

/// The page. `NONCE` stands where a number is put that a browser asks for before it runs a script.
const PAGE: &str = include_str!("web/page.html");
/// No request is longer.
const HEAD_MAX: usize = 8 * 1024;
/// Who has not asked by then is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many may be connected; pages that keep themselves up to date are among them.
const CONNECTED_MAX: usize = 64;
/// How often a page is told how it stands.
const EVERY: Duration = Duration::from_secs(1);
/// Others wait in the meantime.
const HEADERS_MAX: usize = 64;

/// Where the page is to be had.
#[derive(Debug)]
pub struct Web {
    listener: TcpListener,
    /// Names by which a browser may ask, without ports.
    names: Vec<String>,
    /// Any address may be asked by.
    any_address: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Page,
    State,
    Metrics,
    Events,
}

/// Why there is no answer: a number of HTTP, and a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal(u16, &'static str);

impl Web {
    /// Listens at an address. `host`: what this host is called.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn bind(address: SocketAddr, host: &str) -> Result<Web> {
        let failed = |error: io::Error| {
            Error::failed(format!("cannot serve metrics at {address}"))
                .because(error)
                .hint("--metrics 127.0.0.1:PORT names a port that is free")
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let names = vec!["localhost".to_owned(), host.to_ascii_lowercase()];
        Ok(Web { listener, names, any_address: !address.ip().is_loopback() })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, roll: Roll, view: Arc<View>) {
        let Web { listener, names, any_address } = self;
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!("cannot serve metrics: {error}");
                return std::future::pending().await;
            }
        };
        if let Ok(address) = listener.local_addr() {
            let url = format!("http://{address}/");
            view.notice(Notice::Serving { mirror: "lsyncd".into(), url });
        }
        let shared = Arc::new(Shared { roll, view, began: Instant::now(), names, any_address });
        let places = Arc::new(Semaphore::new(CONNECTED_MAX));
        let mut connected = JoinSet::new();
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { continue };
            while connected.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connected.spawn(async move {
                        let _place = place;
                        if let Err(error) = shared.answer(stream).await {
                            tracing::debug!("somebody who looked at the page left: {error}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot serve metrics: {error}");
                    // Out of descriptors, most likely.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// Answers until it is dropped; where nobody asked for that, it waits for ever.
pub async fn serve(web: Option<Web>, roll: Roll, view: Arc<View>) {
    match web {
        Some(web) => web.serve(roll, view).await,
        None => std::future::pending().await,
    }
}

struct Shared {
    roll: Roll,
    view: Arc<View>,
    began: Instant,
    names: Vec<String>,
    any_address: bool,
}

impl Shared {
    async fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let head = match tokio::time::timeout(PATIENCE, head(&mut stream)).await {
            Ok(head) => head?,
            Err(_) => return Ok(()),
        };
        match asked(&head, &self.names, self.any_address) {
            Err(Refusal(code, why)) => {
                say(&mut stream, code, "text/plain; charset=utf-8", &[], why.as_bytes()).await
            }
            Ok(Asked::Page) => {
                let nonce = connect::random::<16>().map(hex).unwrap_or_default();
                let policy = format!(
                    "default-src 'none'; connect-src 'self'; img-src data:; style-src \
                     'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; \
                     form-action 'none'; frame-ancestors 'none'"
                );
                let page = PAGE.replace("NONCE", &nonce);
                let more = [("Content-Security-Policy", policy.as_str())];
                say(&mut stream, 200, "text/html; charset=utf-8", &more, page.as_bytes()).await
            }
            Ok(Asked::State) => {
                let status = self.status().await;
                say(&mut stream, 200, "application/json", &[], status.as_bytes()).await
            }
            Ok(Asked::Metrics) => {
                let status = status_of(&self.roll, self.began).await;
                let text = metrics(&status, &self.view);
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                say(&mut stream, 200, kind, &[], text.as_bytes()).await
            }
            Ok(Asked::Events) => self.events(stream).await,
        }
    }

    /// How it stands, as a line.
    async fn status(&self) -> String {
        let status = status_of(&self.roll, self.began).await;
        serde_json::to_string(&status).unwrap_or_default()
    }

    /// Server-sent events: how it stands, again and again, until whoever looks has left.
    async fn events(&self, mut stream: TcpStream) -> io::Result<()> {
        let head = header(200, "text/event-stream", &[], None);
        stream.write_all(head.as_bytes()).await?;
        loop {
            let event = format!("data: {}\n\n", self.status().await);
            tokio::time::timeout(PATIENCE, stream.write_all(event.as_bytes())).await??;
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// How mirrors stand, and what was counted, in the text format of OpenMetrics.
#[must_use]
pub fn metrics(status: &Status, view: &View) -> String {
    openmetrics::text(status, view)
}

/// The head of a request: all before the empty line.
async fn head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_MAX {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        head.extend_from_slice(&piece[..read]);
    }
    Ok(head)
}

/// What a head asks for.
fn asked(head: &[u8], names: &[String], any_address: bool) -> Result<Asked, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return Err(Refusal(400, "this is no request\n"));
    }
    let mut hosts = request.headers.iter().filter(|one| one.name.eq_ignore_ascii_case("host"));
    let host = hosts.next().and_then(|host| std::str::from_utf8(host.value).ok());
    let known =
        hosts.next().is_none() && host.is_some_and(|host| is_ours(host.trim(), names, any_address));
    if !known {
        return Err(Refusal(421, "only asked by a name of this host\n"));
    }
    if request.method != Some("GET") {
        return Err(Refusal(405, "nothing can be changed here\n"));
    }
    let path = request.path.unwrap_or_default();
    match path.split('?').next().unwrap_or_default() {
        "/" => Ok(Asked::Page),
        "/status.json" => Ok(Asked::State),
        "/metrics" => Ok(Asked::Metrics),
        "/events" => Ok(Asked::Events),
        _ => Err(Refusal(404, "there is /, /status.json and /metrics\n")),
    }
}

/// Is this a name of this host, with or without a port?
fn is_ours(host: &str, names: &[String], any_address: bool) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => any_address || address.is_loopback(),
        Err(_) => names.iter().any(|known| known.eq_ignore_ascii_case(name)),
    }
}

fn header(code: u16, kind: &str, more: &[(&str, &str)], length: Option<usize>) -> String {
    let reason = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Misdirected Request",
    };
    let mut head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {kind}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n"
    );
    for (name, value) in more {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = length {
        head += &format!("Content-Length: {length}\r\n");
    }
    head + "\r\n"
}

async fn say(
    stream: &mut TcpStream,
    code: u16,
    kind: &str,
    more: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let head = header(code, kind, more, Some(body.len()));
    let all = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.shutdown().await
    };
    tokio::time::timeout(PATIENCE, all).await?
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_answered() {
        let names = ["localhost".to_owned(), "box".to_owned()];
        for (host, loopback, everywhere) in [
            ("localhost", true, true),
            ("LocalHost:9000", true, true),
            ("box:9000", true, true),
            ("127.0.0.1:9000", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:9000", true, true),
            ("[::1]", true, true),
            ("192.168.0.7:9000", false, true),
            ("[2001:db8::1]:80", false, true),
            ("evil.example", false, false),
            ("evil.example:9000", false, false),
            ("localhost.evil.example", false, false),
            ("", false, false),
            (":9000", false, false),
            ("[", false, false),
        ] {
            assert_eq!(is_ours(host, &names, false), loopback, "{host}");
            assert_eq!(is_ours(host, &names, true), everywhere, "{host}");
        }
    }

    #[test]
    fn a_request_is_one_of_four_or_refused() {
        let names = ["localhost".to_owned()];
        let of = |text: &str| asked(text.as_bytes(), &names, false).map_err(|refusal| refusal.0);
        let get = |path: &str| of(&format!("GET {path} HTTP/1.1\r\nHost: localhost:1\r\n\r\n"));
        assert_eq!(get("/"), Ok(Asked::Page));
        assert_eq!(get("/?x"), Ok(Asked::Page));
        assert_eq!(get("/status.json"), Ok(Asked::State));
        assert_eq!(get("/metrics"), Ok(Asked::Metrics));
        assert_eq!(get("/events"), Ok(Asked::Events));
        assert_eq!(get("/etc/passwd"), Err(404));
        assert_eq!(get("/../status.json"), Err(404));
        assert_eq!(of("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"), Err(405));
        assert_eq!(of("GET / HTTP/1.1\r\n\r\n"), Err(421));
        assert_eq!(of("GET / HTTP/1.1\r\nHost: evil\r\n\r\n"), Err(421));
        assert_eq!(of("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"), Err(421));
        for text in ["", "\r\n\r\n", "GET", "GET / HTTP/1.1\r\nHost: localhost", "\u{16}\u{3}\u{1}"]
        {
            assert_eq!(of(text), Err(400), "{text:?}");
        }
    }
}
