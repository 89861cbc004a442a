//! The other end of the link, by hand.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lsync_agent::fault::Faults;
use lsync_agent::root::Root;
use lsync_agent::{ServeError, ServeOptions, serve};
use lsync_protocol::entry::{Kind, Meta, Named, Time, Wanted};
use lsync_protocol::frame::{self, Frame, HEADER, Header, Squeezer};
use lsync_protocol::handshake::{
    Answer, Create, Greeting, Hello, Refusal, Role, Standing, Welcome, greet, read_body,
};
use lsync_protocol::message::{Message, NoList, Op, OpId, Outcome};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Classes;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).unwrap()
}

pub(super) fn meta(mode: u32, sec: i64) -> Meta {
    Meta { mode: Some(mode), mtime: Some(Time { sec, nsec: 5 }), ..Meta::default() }
}

/// A temporary directory with a root in it and a place for the files of locks.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) options: ServeOptions,
}

impl World {
    pub(super) fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let options = ServeOptions {
            start: dir.path().to_path_buf(),
            home: Some(dir.path().join("home")),
            cache: Some(dir.path().join("cache")),
            umask: 0o022,
            in_process: true,
            ..ServeOptions::default()
        };
        World { dir, options }
    }

    pub(super) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("root").join(name)
    }

    pub(super) fn root(&self) -> Root {
        Root::open(self.at("")).unwrap()
    }

    pub(super) fn hello(&self) -> Hello {
        Hello {
            link: [1; 16],
            role: Role::Main,
            mirror: [7; 16],
            name: "host:/source".into(),
            root: b"root".to_vec(),
            create: Create::Root,
            key: [9; 32],
            wanted: Wanted {
                perms: true,
                owner: true,
                group: true,
                times: true,
                specials: true,
                devices: true,
                hard_links: true,
                xattrs: Classes::NONE,
            },
            fsync: false,
            inplace: false,
            trash: None,
            standing: Standing { boot: [0; 16], upwards: Vec::new() },
        }
    }

    pub(super) fn connect(&self) -> Peer {
        self.connect_as(&self.hello())
    }

    pub(super) fn connect_as(&self, hello: &Hello) -> Peer {
        match self.greet(hello) {
            Ok(peer) => peer,
            Err((refusal, error)) => panic!("{refusal:?} {error:?}"),
        }
    }

    pub(super) fn with_faults(mut self, faults: impl Faults + 'static) -> World {
        self.options.faults = Some(Arc::new(faults));
        self
    }

    /// Greets; the refusal if there is one.
    pub(super) fn greet(&self, hello: &Hello) -> Result<Peer, (Refusal, ServeError)> {
        let (mut peer, agent) = self.start();
        peer.write_all(&greet(hello)).unwrap();
        match read_answer(&mut peer) {
            Answer::Welcome(welcome) => Ok(Peer::new(Box::new(peer), welcome, Some(agent))),
            Answer::Refused(refusal) => Err((refusal, agent.join().unwrap().unwrap_err())),
        }
    }

    /// An agent that nobody has greeted yet.
    pub(super) fn start(&self) -> (UnixStream, Agent) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE / 10)).unwrap();
        let options = self.options.clone();
        let writer = theirs.try_clone().unwrap();
        let agent = std::thread::spawn(move || serve(&options, theirs, writer));
        (ours, agent)
    }

    /// Names in the root that look temporary.
    pub(super) fn stages(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut todo = vec![self.at("")];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_name().to_string_lossy().starts_with(".lsync-") {
                    found.push(entry.path());
                } else if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
            }
        }
        found
    }
}

pub(super) type Agent = JoinHandle<Result<(), ServeError>>;

pub(super) fn read_answer(from: &mut impl Read) -> Answer {
    let mut head = [0; 16];
    from.read_exact(&mut head).unwrap();
    let greeting = Greeting::decode(head[8..].try_into().unwrap()).unwrap();
    let mut body = vec![0; greeting.length];
    from.read_exact(&mut body).unwrap();
    read_body(&body).unwrap()
}

pub(super) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A link that is served.
pub(super) struct Peer {
    pub(super) stream: Box<dyn Stream>,
    pub(super) welcome: Welcome,
    agent: Option<Agent>,
    pub(super) next: OpId,
    /// What came while something else was waited for.
    pub(super) warnings: Vec<String>,
    pub(super) small: u64,
    pub(super) bulk: u64,
}

impl Peer {
    pub(super) fn new(stream: Box<dyn Stream>, welcome: Welcome, agent: Option<Agent>) -> Peer {
        Peer { stream, welcome, agent, next: 1, warnings: Vec::new(), small: 0, bulk: 0 }
    }

    pub(super) fn send(&mut self, message: &Message, raw: &[u8]) {
        assert!(self.try_send(message, raw));
    }

    /// Says whether the other end still takes it.
    pub(super) fn try_send(&mut self, message: &Message, raw: &[u8]) -> bool {
        let mut bytes = Vec::new();
        frame::encode(message, raw.len(), &mut bytes);
        bytes.extend_from_slice(raw);
        self.stream.write_all(&bytes).is_ok()
    }

    /// Sends it with its raw bytes compressed.
    pub(super) fn send_squeezed(&mut self, message: &Message, raw: &[u8]) {
        let mut bytes = Vec::new();
        assert!(Squeezer::default().encode(3, message, raw, &mut bytes));
        // Whether it arrived is seen by what the other end says.
        let _ = self.stream.write_all(&bytes);
    }

    pub(super) fn try_receive(&mut self) -> io::Result<Message> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.length];
        self.stream.read_exact(&mut body)?;
        Ok(Frame::decode(header, body).unwrap().message)
    }

    pub(super) fn receive(&mut self) -> Message {
        self.try_receive().unwrap()
    }

    /// Sends operations, with the contents of those that have one.
    pub(super) fn send_ops(&mut self, ops: Vec<(Op, &[u8])>) -> std::ops::Range<OpId> {
        let first = self.next;
        self.next += ops.len() as u64;
        let raw: Vec<u8> = ops.iter().flat_map(|(_, content)| content.iter().copied()).collect();
        let hash = (!raw.is_empty()).then(|| *blake3::hash(&raw).as_bytes());
        let ops = ops.into_iter().map(|(op, _)| op).collect();
        // Whether it arrived is seen by the acks.
        self.try_send(&Message::Ops { first, hash, ops }, &raw);
        first..self.next
    }

    /// Waits until these are acked: what they say.
    pub(super) fn outcomes(&mut self, ids: std::ops::Range<OpId>) -> Vec<Option<Outcome>> {
        let mut waiting: std::collections::BTreeSet<OpId> = ids.clone().collect();
        let mut said = HashMap::new();
        while !waiting.is_empty() {
            match self.receive() {
                Message::Acks { done, outcomes, small } => {
                    for (first, count) in done {
                        for id in first..first + count {
                            assert!(waiting.remove(&id), "{id} was acked twice, or never sent");
                        }
                    }
                    said.extend(outcomes);
                    self.small += u64::from(small);
                }
                Message::Warning { text } => self.warnings.push(text),
                Message::Credit { bulk } => self.bulk += u64::from(bulk),
                Message::StageTrouble { .. } | Message::Sums { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        ids.map(|id| said.remove(&id)).collect()
    }

    pub(super) fn ops(&mut self, ops: Vec<(Op, &[u8])>) -> Vec<Option<Outcome>> {
        let ids = self.send_ops(ops);
        self.outcomes(ids)
    }

    pub(super) fn op(&mut self, op: Op) -> Option<Outcome> {
        self.ops(vec![(op, b"")]).remove(0)
    }

    pub(super) fn file(&mut self, at: &str, content: &[u8], meta: Meta) -> Option<Outcome> {
        let op = Op::File { path: path(at), size: content.len() as u32, meta };
        self.ops(vec![(op, content)]).remove(0)
    }

    pub(super) fn list(&mut self, dir: &str) -> Result<Vec<Named>, NoList> {
        self.send(
            &Message::List {
                first: 5,
                dirs: vec![lsync_protocol::message::Asked { dir: path(dir), digest: None }],
            },
            b"",
        );
        let mut all = Vec::new();
        loop {
            match self.receive() {
                Message::Entries { request: 5, last, entries } => {
                    all.extend(entries);
                    if last {
                        return Ok(all);
                    }
                }
                Message::NoList { request: 5, why } => return Err(why),
                Message::Credit { bulk } => self.bulk += u64::from(bulk),
                Message::StageTrouble { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The names in the root.
    pub(super) fn list_names(&mut self) -> Vec<String> {
        let all = self.list("").unwrap();
        all.iter().map(|named| String::from_utf8_lossy(&named.name).into_owned()).collect()
    }

    /// Says goodbye and waits for the end.
    pub(super) fn bye(mut self) -> Result<(), ServeError> {
        self.send(&Message::Bye, b"");
        while self.try_receive().is_ok() {}
        self.agent.take().unwrap().join().unwrap()
    }

    /// Closes the link without a word and waits for the end.
    pub(super) fn cut(mut self) -> Result<(), ServeError> {
        let agent = self.agent.take().unwrap();
        drop(self);
        agent.join().unwrap()
    }

    /// Waits until the agent ended the link.
    pub(super) fn ended(mut self) -> Result<(), ServeError> {
        let agent = self.agent.take().unwrap();
        until("the agent ends", || agent.is_finished());
        agent.join().unwrap()
    }
}

/// Waits for something.
pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn remove(at: &str, kind: Kind) -> Op {
    Op::Remove { path: path(at), kind }
}
