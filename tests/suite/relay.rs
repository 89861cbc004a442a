//! A relay on loopback that counts what goes through it, both ways, and is as slow as it is told.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

/// Bytes that went through: to the target's host, and from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    pub to: u64,
    pub from: u64,
}

/// A slow link.
#[derive(Debug, Clone, Copy)]
pub struct Slow {
    /// Bytes a second, each way.
    pub rate: u64,
    /// How long they are on the way, each way.
    pub delay: Duration,
}

/// 10 Mbit/s.
pub const MBIT_10: Slow = Slow { rate: 1_250_000, delay: Duration::ZERO };

/// What a socket of a slow link holds, about: what the link carries is to be seen, and not what the
/// kernel takes.
const HELD: usize = 16 * 1024;
/// What a slow link carries at a time.
const PACKET: usize = 1448;
/// A link that overslept makes up for so much.
const SLACK: Duration = Duration::from_millis(5);

/// Listens as long as the program runs.
pub struct Relay {
    port: u16,
    to: Arc<AtomicU64>,
    from: Arc<AtomicU64>,
}

impl Relay {
    /// Hands on everything to this port on loopback.
    pub fn new(to_port: u16) -> std::io::Result<Relay> {
        Relay::start(to_port, None)
    }

    /// The same as a slow link would, which takes no more than it can carry.
    pub fn slow(to_port: u16, slow: Slow) -> std::io::Result<Relay> {
        Relay::start(to_port, Some(slow))
    }

    fn start(to_port: u16, slow: Option<Slow>) -> std::io::Result<Relay> {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = socket(slow)?;
        listener.bind(&address(0).into())?;
        listener.listen(128)?;
        let listener = TcpListener::from(listener);
        let relay = Relay {
            port: listener.local_addr()?.port(),
            to: Arc::new(AtomicU64::new(0)),
            from: Arc::new(AtomicU64::new(0)),
        };
        let (to, from) = (Arc::clone(&relay.to), Arc::clone(&relay.from));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = socket(slow) else { continue };
                if server.connect(&address(to_port).into()).is_err() {
                    continue;
                }
                let server = TcpStream::from(server);
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                for (from, to, count) in [(&client, &server, &to), (&server, &client, &from)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let count = Arc::clone(count);
                    std::thread::spawn(move || match slow {
                        None => pass(from, to, &count),
                        Some(slow) => pass_slowly(from, to, &count, slow),
                    });
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

    /// What went through since it was taken last.
    pub fn so_far(&self) -> Wire {
        let get = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Wire { to: get(&self.to), from: get(&self.from) }
    }
}

/// A socket of the relay; its buffers are fixed before it listens or connects, as they must be.
fn socket(slow: Option<Slow>) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(slow) = slow {
        // Two milliseconds, so that the link is in use while the relay sleeps.
        let held = HELD.max(slow.rate as usize / 500);
        socket.set_recv_buffer_size(held)?;
        socket.set_send_buffer_size(held)?;
        // Loopback's own packets are larger than these buffers.
        socket.set_tcp_mss(PACKET as u32)?;
    }
    Ok(socket)
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(n) = from.read(&mut buffer)
        && n > 0
    {
        count.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads at the link's rate; what it does not read stays with the sender.
fn pass_slowly(mut from: TcpStream, to: TcpStream, count: &Arc<AtomicU64>, slow: Slow) {
    // What is on the way, and hardly more: beyond that, who does not read stops who writes.
    let on_the_way = (slow.rate as f64 * slow.delay.as_secs_f64()) as usize / PACKET;
    let (way, far) = sync_channel(on_the_way + 8);
    let count = Arc::clone(count);
    std::thread::spawn(move || arrive(to, &far, &count));
    let mut buffer = [0; PACKET];
    let mut free = Instant::now();
    while let Ok(n) = from.read(&mut buffer)
        && n > 0
    {
        let now = Instant::now();
        free = free.max(now.checked_sub(SLACK).unwrap_or(now));
        free += Duration::from_nanos(n as u64 * 1_000_000_000 / slow.rate);
        std::thread::sleep(free.saturating_duration_since(now));
        if way.send((free + slow.delay, buffer[..n].to_vec())).is_err() {
            break;
        }
    }
}

fn arrive(mut to: TcpStream, far: &Receiver<(Instant, Vec<u8>)>, count: &AtomicU64) {
    while let Ok((due, bytes)) = far.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        count.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
