//! A relay on loopback that counts what goes through it, both ways, and may be slow.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that went through: to the target's host, and from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    pub to: u64,
    pub from: u64,
}

/// Listens as long as the program runs.
pub struct Relay {
    port: u16,
    to: Arc<AtomicU64>,
    from: Arc<AtomicU64>,
}

impl Relay {
    /// Hands on everything to this port on loopback.
    pub fn new(to_port: u16) -> std::io::Result<Relay> {
        Relay::with(to_port, None)
    }

    /// The same; with a rate, no more than so many bytes a second each way.
    pub fn with(to_port: u16, rate: Option<u64>) -> std::io::Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let relay = Relay {
            port: listener.local_addr()?.port(),
            to: Arc::new(AtomicU64::new(0)),
            from: Arc::new(AtomicU64::new(0)),
        };
        let (to, from) = (Arc::clone(&relay.to), Arc::clone(&relay.from));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to_port)) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                for (from, to, count) in [(&client, &server, &to), (&server, &client, &from)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let count = Arc::clone(count);
                    std::thread::spawn(move || pass(from, to, &count, rate));
                }
            }
        });
        Ok(relay)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What went through since this was asked last.
    pub fn take(&self) -> Wire {
        let take = |count: &AtomicU64| count.swap(0, Ordering::SeqCst);
        Wire { to: take(&self.to), from: take(&self.from) }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64, rate: Option<u64>) {
    let mut buffer = vec![0; if rate.is_some() { 16 } else { 256 } * 1024];
    while let Ok(n) = from.read(&mut buffer)
        && n > 0
    {
        count.fetch_add(n as u64, Ordering::SeqCst);
        if let Some(rate) = rate {
            std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
