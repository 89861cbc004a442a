//! The receiver's loop: the handshake, then threads until the link ends.
//!
//! The reader only parses and hands on; it never touches the disk, so pings are answered while a
//! disk is slow. A dispatcher and its workers apply, one thread writes stages, one reads the bases
//! they share content with, two list, two hash files, one sweeps the trash, one writes to the link. This thread watches over them. When the link ends, what was not begun is
//! dropped, what runs finishes, and the lock is released last.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use lsync_protocol::entry::{Held, Holds};
use lsync_protocol::handshake::{self, Answer, Hello, Refusal, Welcome, greet, read_body};
use lsync_protocol::message::{MAX_ASKS, MAX_STAGES, Message, Outcome};

use crate::admit::{Admitted, admit};
use crate::apply::{Folding, Ground, Young};
use crate::fault::Faults;
use crate::fixed::Fixed;
use crate::listing::{self, Ask, Terms};
use crate::meta;
use crate::meta::xattr::{self, At};
use crate::order::{Applier, Fuse, Orders, Work, no_root};
use crate::outbox::{Ack, Outbox};
use crate::stage::Names;
use crate::trash::{self, Trash};

pub(crate) mod gauge;
mod hashes;
mod reader;
mod stages;
mod sums;

use hashes::Weigh;
use reader::{Doors, Heard};
use stages::Piece;
use sums::Sought;

/// Bytes of operations and their contents that may be on the way.
pub const SMALL_CREDIT: u32 = 4 << 20;
/// Bytes of stages' content that may be on the way. So much is for long ways alone: the source
/// has no more on the way than the link carries in a round trip or two.
pub const BULK_CREDIT: u32 = 64 << 20;

/// How to serve.
#[derive(Clone)]
pub struct ServeOptions {
    /// Where relative roots begin.
    pub start: PathBuf,
    /// What `~` means.
    pub home: Option<PathBuf>,
    /// Where to say who holds a root.
    pub cache: Option<PathBuf>,
    /// Threads that apply; at least one.
    pub workers: usize,
    /// What new files and directories without a given mode do not get.
    pub umask: u32,
    /// On threads of a process that does other things too: it is never killed for a lock.
    pub in_process: bool,
    /// Confine this process to the root, as far as the kernel can.
    pub confine: bool,
    /// What the source cannot choose.
    pub fixed: Option<Arc<Fixed>>,
    /// How long the source may take to greet.
    pub handshake: Duration,
    /// After so much silence the source is asked whether it is there; after three times as much
    /// the link is over.
    pub silence: Duration,
    /// How long to wait for an older agent of the same mirror to end.
    pub lock_wait: Duration,
    /// Faults on demand, for tests.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Default for ServeOptions {
    /// As a process of its own serves, from what its environment says.
    fn default() -> ServeOptions {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = home.or_else(meta::home);
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
            .or_else(|| home.as_ref().map(|home| home.join(".cache")))
            .map(|dir| dir.join("lsyncd"));
        ServeOptions {
            start: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            home,
            cache,
            workers: 2,
            umask: meta::current_umask(),
            in_process: false,
            confine: false,
            fixed: None,
            handshake: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            lock_wait: Duration::from_secs(10),
            faults: None,
        }
    }
}

/// Why serving ended before the source said goodbye.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The source was answered with this refusal.
    #[error("refused: {0:?}")]
    Refused(Refusal),
    /// What came is not a greeting.
    #[error("the other end does not greet as a source does: {0}")]
    Greeting(String),
    /// Nothing came for too long.
    #[error("the source is silent")]
    Silent,
    /// It sent what it may not send.
    #[error("{0}")]
    Broken(String),
    /// The link broke while reading.
    #[error("cannot read from the source: {}", crate::trouble::io_trouble(.0).text)]
    Read(std::io::Error),
    /// The link broke while writing.
    #[error("cannot write to the source: {}", crate::trouble::io_trouble(.0).text)]
    Write(std::io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {}", crate::trouble::io_trouble(.0).text)]
    Thread(std::io::Error),
    /// This process could not be confined to the root.
    #[error("cannot confine the agent to its root: {0}")]
    Confine(String),
}

/// What the threads tell the one that watches.
pub(crate) enum Event {
    /// The source greeted.
    Hello(Vec<u8>),
    /// The source closed its end.
    End,
    /// Everything the source asked for before its goodbye is done.
    Finished,
    /// Everything that was to be sent is sent.
    Written,
    /// The link is of no use any more.
    Broken(ServeError),
}

/// Serves one link until it ends. Returns `Ok` when the source said goodbye, or closed its end
/// between two messages.
///
/// A thread that reads from `reader` or writes to `writer` may stay blocked there after this
/// returned with an error, until the other end closes.
///
/// # Errors
/// [`ServeError`]; a refusal was sent to the source before.
pub fn serve(
    options: &ServeOptions,
    reader: impl Read + Send + 'static,
    mut writer: impl Write + Send + 'static,
) -> Result<(), ServeError> {
    let (events, told) = crossbeam_channel::unbounded();
    let heard = Arc::new(Heard::default());
    let (open, doors) = crossbeam_channel::bounded::<Doors>(1);
    {
        let (events, heard) = (events.clone(), heard.clone());
        spawn("read", move || reader::run(reader, &heard, &events, &doors))?;
    }
    let hello = match told.recv_timeout(options.handshake) {
        Ok(Event::Hello(body)) => body,
        Ok(Event::Broken(ServeError::Refused(refusal))) => return refuse(writer, refusal),
        Ok(Event::Broken(error)) => return Err(error),
        Ok(_) | Err(RecvTimeoutError::Disconnected) => {
            return Err(ServeError::Greeting("it ended".into()));
        }
        Err(RecvTimeoutError::Timeout) => return Err(ServeError::Silent),
    };
    let mut hello: Hello =
        read_body(&hello).map_err(|error| ServeError::Greeting(error.to_string()))?;
    if let Some(fixed) = &options.fixed {
        let said = &fixed.said;
        if let Some(dir) = &said.trash {
            // How long it is kept is for those on this side to say.
            hello.trash = Some(handshake::Trash { dir: dir.clone(), age: None });
        } else if said.no_delete
            && let Some(trash) = &mut hello.trash
        {
            trash.age = None;
        }
    }
    let admitted = match admit(options, &hello) {
        Ok(admitted) => admitted,
        Err(refusal) => return refuse(writer, refusal),
    };
    let Admitted { root, lock, boot } = admitted;
    let read_only = options.fixed.as_ref().is_some_and(|fixed| fixed.said.read_only);
    let tried_as = (!read_only).then(|| mirror_number(&hello));
    let holds = meta::holds(root.as_ref().map(|(root, _)| root), tried_as);
    let (root, mut here) = root.unzip();
    let classes = Held::new(hello.wanted, &holds).xattrs();
    let root = root.map(|root| root.with_xattrs(classes));
    if let (Some(root), Some(here)) = (&root, &mut here) {
        // What cannot be read is set anew.
        here.entry.meta.xattrs = xattr::read(&At::path_only(root), classes).unwrap_or_default();
    }
    if options.confine
        && let Some(root) = &root
    {
        // Where the kernel has no Landlock, resolving beneath the root is the only wall.
        let _ = crate::confine::confine(root, options.cache.as_deref(), hello.trash.is_some())
            .map_err(ServeError::Confine)?;
    }
    let welcome = Welcome {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        fixed: options.fixed.as_ref().map(|fixed| fixed.said.clone()),
        boot,
        root: here,
        holds: holds.clone(),
        small: SMALL_CREDIT,
        bulk: BULK_CREDIT,
    };
    let greeting = greet(&Answer::Welcome(welcome));
    writer.write_all(&greeting).and_then(|()| writer.flush()).map_err(ServeError::Write)?;
    let outbox = Arc::new(Outbox::new(events.clone()));
    // Without the lock nothing may be applied.
    let applies = lock.is_some();
    let ground = root.map(|root| ground(options, root, &hello, &holds, &outbox));
    let link = Link { ground, applies, outbox, events, told, heard };
    let done = link.run(options, &hello, &holds, writer, &open);
    drop(lock);
    done
}

fn refuse(mut writer: impl Write, refusal: Refusal) -> Result<(), ServeError> {
    let greeting = greet(&Answer::Refused(refusal.clone()));
    writer.write_all(&greeting).and_then(|()| writer.flush()).map_err(ServeError::Write)?;
    Err(ServeError::Refused(refusal))
}

/// What this mirror's temporary names begin with.
fn mirror_number(hello: &Hello) -> u32 {
    let [a, b, c, d, ..] = hello.mirror;
    u32::from_le_bytes([a, b, c, d])
}

fn ground(
    options: &ServeOptions,
    root: crate::root::Root,
    hello: &Hello,
    holds: &Holds,
    outbox: &Arc<Outbox>,
) -> Arc<Ground> {
    let (outbox, lost) = (outbox.clone(), outbox.clone());
    let mut apart = trash::found(&root);
    apart.extend(hello.trash.iter().map(|trash| trash.dir.clone()));
    Arc::new(Ground {
        root,
        apart,
        names: Names::new(mirror_number(hello)),
        fsync: hello.fsync,
        inplace: hello.inplace,
        no_delete: options.fixed.as_ref().and_then(|fixed| Young::of(&fixed.said)),
        trash: hello.trash.as_ref().map(Trash::new),
        pours: Default::default(),
        umask: options.umask,
        process_umask: meta::current_umask(),
        granularity: holds.time_granularity,
        folding: holds.folds_case.then(Folding::default),
        faults: options.faults.clone(),
        stop: AtomicBool::new(false),
        generation: AtomicU64::new(0),
        warn: Box::new(move |text| {
            outbox.say(Message::Warning { text: crate::trouble::bounded(text) });
        }),
        lost: Box::new(move || lost.broken("the root was removed")),
        warned: Default::default(),
        opened: Default::default(),
        versions: Default::default(),
    })
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, ServeError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(ServeError::Thread)
}

/// How many questions may wait before the reader does.
const ASKED: usize = 4096;
/// How many pieces may wait before the reader does; their bytes are bounded by the bulk credit.
const PIECES: usize = 1024;
/// How many bases and questions about them may wait before the reader does: more than all open
/// stages may have.
const SOUGHT: usize = 2 * MAX_STAGES * (MAX_ASKS + 1);
/// How long the last acks may take to be written after a goodbye.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// A link that is served.
struct Link {
    ground: Option<Arc<Ground>>,
    applies: bool,
    outbox: Arc<Outbox>,
    events: Sender<Event>,
    told: Receiver<Event>,
    heard: Arc<Heard>,
}

impl Link {
    fn run(
        &self,
        options: &ServeOptions,
        hello: &Hello,
        holds: &Holds,
        writer: impl Write + Send + 'static,
        open: &Sender<Doors>,
    ) -> Result<(), ServeError> {
        let (asks, asked) = crossbeam_channel::bounded(ASKED);
        let (pieces, to_write) = crossbeam_channel::bounded(PIECES);
        let (sought, to_read) = crossbeam_channel::bounded(SOUGHT);
        let (weigh, to_weigh) = crossbeam_channel::bounded(ASKED);
        // Bounded by the small credit, and in bytes by the reader's gauge.
        let (orders, to_apply) = crossbeam_channel::unbounded();
        let mut threads = Vec::new();
        let held = Held::new(hello.wanted, holds);
        const LISTERS: usize = 2;
        for _ in 0..LISTERS {
            let (ground, asked, outbox) = (self.ground.clone(), asked.clone(), self.outbox.clone());
            let terms = Terms { key: hello.key, held: held.clone(), applies: self.applies };
            threads.push(spawn("list", move || {
                listing::answer(ground.as_deref(), &asked, &outbox, &terms);
            })?);
        }
        const HASHERS: usize = 2;
        for _ in 0..HASHERS {
            let (ground, asked) = (self.ground.clone(), to_weigh.clone());
            let (outbox, key) = (self.outbox.clone(), hello.key);
            threads.push(spawn("hash", move || {
                hashes::run(ground.as_deref(), &asked, &outbox, &key);
            })?);
        }
        // These alone take questions: when they are gone, nobody waits to ask.
        drop((asked, to_weigh));
        let stop = Arc::new(AtomicBool::new(false));
        let doors = Doors {
            asks: asks.clone(),
            pieces: pieces.clone(),
            sought: sought.clone(),
            weigh: weigh.clone(),
            orders: orders.clone(),
            outbox: self.outbox.clone(),
            stop: stop.clone(),
            ended: {
                let ground = self.ground.clone();
                Box::new(move || {
                    if let Some(ground) = &ground {
                        ground.names.end();
                    }
                })
            },
        };
        let applying = self.ground.clone().filter(|_| self.applies);
        let (sweeps, no_more) = crossbeam_channel::bounded(0);
        if let Some(ground) = applying.clone().filter(|ground| ground.trash.is_some()) {
            threads.push(spawn("trash", move || {
                if let Some(trash) = &ground.trash {
                    trash::sweep(&ground, trash, &no_more);
                }
            })?);
        }
        {
            let (ground, outbox) = (applying.clone(), self.outbox.clone());
            threads
                .push(spawn("stage", move || stages::run(ground.as_deref(), &to_write, &outbox))?);
        }
        {
            let (ground, outbox, key) = (applying.clone(), self.outbox.clone(), hello.key);
            threads.push(spawn("sum", move || {
                sums::run(ground.as_deref(), &to_read, &outbox, &key);
            })?);
        }
        {
            let (events, outbox) = (self.events.clone(), self.outbox.clone());
            let workers = options.workers;
            threads.push(match applying {
                Some(ground) => {
                    let applier =
                        Applier::start(&ground, &outbox, workers).map_err(ServeError::Thread)?;
                    spawn("dispatch", move || {
                        let _fuse = Fuse(outbox);
                        if applier.run(&to_apply) {
                            let _ = events.send(Event::Finished);
                        }
                    })?
                }
                None => {
                    let read_only = options.fixed.as_ref().is_some_and(|f| f.said.read_only);
                    let why = if read_only { Outcome::Forbidden } else { no_root() };
                    spawn("dispatch", move || decline(&why, &to_apply, &outbox, &events))?
                }
            });
        }
        {
            let outbox = self.outbox.clone();
            spawn("write", move || {
                let _fuse = Fuse(outbox.clone());
                outbox.write_to(writer);
            })?;
        }
        // The reader may begin.
        let _ = open.send(doors);
        let done = self.watch(options.silence);
        let all_said = matches!(done, Ok(Over::Finished));
        if let Some(ground) = &self.ground {
            ground.names.end();
        }
        if !all_said {
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
            if let Some(ground) = &self.ground {
                ground.stop.store(true, std::sync::atomic::Ordering::SeqCst);
            }
            self.outbox.die();
        }
        // The threads are told to end; the reader, which may be blocked for good, keeps nobody.
        for _ in 0..LISTERS {
            let _ = asks.send(Ask::End);
        }
        for _ in 0..HASHERS {
            let _ = weigh.send(Weigh::End);
        }
        let _ = pieces.send(Piece::End);
        let _ = sought.send(Sought::End);
        let _ = orders.send(Orders::Finish);
        drop((asks, pieces, sought, weigh, orders, sweeps));
        for thread in threads {
            // A panic was told by the thread's guard.
            let _ = thread.join();
        }
        if let Some(ground) = &self.ground {
            ground.opened.restore(&ground.root);
        }
        if all_said {
            self.outbox.close();
            let deadline = Instant::now() + LAST_WORDS;
            while let Ok(event) = self.told.recv_deadline(deadline) {
                match event {
                    Event::Written => break,
                    Event::Broken(error) => return Err(error),
                    Event::Hello(_) | Event::End | Event::Finished => {}
                }
            }
        }
        done.map(|_| ())
    }

    /// Waits for the end, and asks after a source that is silent.
    fn watch(&self, silence: Duration) -> Result<Over, ServeError> {
        let tick = (silence / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut asked = 0;
        loop {
            match self.told.recv_timeout(tick) {
                Ok(Event::Finished) => return Ok(Over::Finished),
                Ok(Event::End) => return Ok(Over::Closed),
                Ok(Event::Broken(error)) => return Err(error),
                Ok(Event::Hello(_) | Event::Written) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(Over::Closed),
                Err(RecvTimeoutError::Timeout) => {
                    let silent = self.heard.since();
                    if silent < silence {
                        asked = 0;
                    }
                    // It may also be alive and never read.
                    if silent >= silence * 3 || self.outbox.stuck() >= silence * 3 {
                        return Err(ServeError::Silent);
                    }
                    if silent >= silence * (asked + 1) {
                        asked += 1;
                        self.outbox.urgent(Message::Ping(u64::from(asked)));
                    }
                }
            }
        }
    }
}

/// How a link ended well.
enum Over {
    /// The source said goodbye and everything is done.
    Finished,
    /// The source closed its end.
    Closed,
}

/// Where nothing may be applied, every operation is answered alike.
fn decline(why: &Outcome, orders: &Receiver<Orders>, outbox: &Outbox, events: &Sender<Event>) {
    for order in orders {
        match order {
            Orders::Apply(works) => {
                let ack = |work: Work| Ack {
                    id: work.id,
                    small: work.op.cost(),
                    outcome: Some(why.clone()),
                };
                outbox.acks(&mut works.into_iter().map(ack).collect());
            }
            Orders::Finish => {
                let _ = events.send(Event::Finished);
                return;
            }
        }
    }
}
