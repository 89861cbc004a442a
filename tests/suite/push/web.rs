//! The page and the metrics of a running lsyncd, asked for over HTTP as browsers and Prometheus do.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::super::tree::plant;
use super::{PATIENCE, Push, Stage, Way, wait_until};

/// One request, and all of its answer.
fn say(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// The body of an answer that is fine.
#[track_caller]
fn get(address: &str, path: &str) -> (String, String) {
    let answer = say(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    (head.to_owned(), body.to_owned())
}

fn live(stage: &Stage) -> (Push, String) {
    let push = stage.begin(&["--metrics", "127.0.0.1:0", "--name", "w\"eb"]);
    let url = push.wait_event("serving")["url"].as_str().unwrap().to_owned();
    push.wait_event("ready");
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    (push, address)
}

#[test]
fn page_status_and_metrics_say_how_it_stands() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let (push, address) = live(&stage);
    fs::write(stage.s("new"), "x").unwrap();
    fs::rename(stage.s("new"), stage.s("newer")).unwrap();
    wait_until("it arrives", || stage.t("newer").exists());

    let (head, page) = get(&address, "/");
    let nonce = page.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(nonce.len(), 32);
    assert!(head.contains(&format!("script-src 'nonce-{nonce}'")), "{head}");
    assert!(!page.contains("NONCE") && page.ends_with("</html>\n"));
    // It needs nothing else: whatever it names is here.
    for part in ["src=", "@import", "url(", "https://", "<link rel=\"stylesheet"] {
        assert!(!page.contains(part), "{part}");
    }
    let (other, _) = get(&address, "/");
    assert!(!other.contains(nonce), "a number is used once");

    let status: Value = serde_json::from_str(&get(&address, "/status.json").1).unwrap();
    assert_eq!(status["mirrors"][0]["name"], "w\"eb");
    assert_eq!(status["mirrors"][0]["state"], "live");

    let (head, metrics) = get(&address, "/metrics");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
    assert!(metrics.ends_with("# EOF\n"));
    let value = |sample: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(sample));
        let line = line.unwrap_or_else(|| panic!("{sample}: {metrics}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert_eq!(value("lsyncd_state{mirror=\"w\\\"eb\",state=\"live\"}"), 1.0);
    assert_eq!(value("lsyncd_problem_paths{"), 0.0);
    assert!(value("lsyncd_watches{") > 3.0 && value("lsyncd_watch_headroom{") > 0.0);
    assert!(value("lsyncd_ops_create_total") > 5.0 && value("lsyncd_acks_total") > 5.0);
    assert!(value("lsyncd_sent_bytes_total{") > 100_000.0);
    let bucket = "lsyncd_change_seconds_bucket{stage=\"travelling\",le=\"+Inf\"}";
    assert!(value(bucket) >= 1.0);
    push.terminate();
}

#[test]
fn a_page_that_is_open_is_told_again_and_again() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let (push, address) = live(&stage);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = String::new();
    let mut piece = [0; 4096];
    while said.matches("\n\ndata: {").count() < 2 {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(said.contains("Content-Type: text/event-stream"));
    let event = said.split("\n\n").nth(1).unwrap().strip_prefix("data: ").unwrap();
    let status: Value = serde_json::from_str(event).unwrap();
    assert_eq!(status["mirrors"][0]["state"], "live");
    // Whoever stays is no reason to stay.
    push.terminate();
}

#[test]
fn what_is_no_question_of_this_host_is_refused_and_harms_nobody() {
    let stage = Stage::new(Way::Local);
    plant(&stage.source());
    let (push, address) = live(&stage);
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), "421"),
        (format!("GET / HTTP/1.1\r\nHost: evil.example:{address}\r\n\r\n"), "421"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "421"),
        ("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "405"),
        ("DELETE /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "405"),
        ("GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), "404"),
        ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), "400"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), "400"),
    ] {
        let answer = say(&address, &request);
        let shown: String = request.chars().take(60).collect();
        // Where more was sent than is read, the answer may be lost with the connection.
        let fine = answer.starts_with(&format!("HTTP/1.1 {code} ")) || request.len() > 10_000;
        assert!(fine, "{shown}: {answer}");
    }
    let silent: Vec<TcpStream> =
        (0..100).map_while(|_| TcpStream::connect(&address).ok()).collect();
    fs::write(stage.s("small"), "goes on").unwrap();
    stage.settles();
    drop(silent);
    wait_until("it answers again", || {
        say(&address, "GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n").contains(" 200 ")
    });
    // Its place is taken.
    let second = stage.once(&["--metrics", &address]);
    assert_eq!(second.code, Some(255), "{second:?}");
    assert!(second.err.contains(&format!("cannot serve metrics at {address}: ")), "{second:?}");
    push.terminate();
}
