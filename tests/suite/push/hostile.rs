//! An agent that lies: whatever it says, nothing but the source is read, what is held of its words
//! is bounded, a person sees no control characters, and the mirror goes on with the next agent.
//!
//! The first link is played by hand, each further one by a real agent.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lsync_agent::{ServeOptions, serve};
use lsync_protocol::entry::{Entry, Holds, Keeps, Kind, Meta, Named};
use lsync_protocol::frame::{Frame, HEADER, Header, encode};
use lsync_protocol::handshake::{
    Answer, Greeting, Hello, Identity, Refusal, RootHere, Welcome, greet, read_body,
};
use lsync_protocol::message::{
    Hashed, MAX_ACKS, MAX_ENTRIES, MAX_OPS, MAX_SUMS, Message, NoList, Outcome, Trouble,
};
use lsync_protocol::xattr::Classes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::gauge;
use super::super::ssh::script;
use super::{Ended, Push, Stage, Way};

/// What the program may hold at its height, whatever it is told, in bytes. Most of it is a listing that
/// has come in part, which may be 128 MiB on the wire; when nobody lies, it holds some 30 MiB.
const MEMORY: u64 = 320 << 20;

/// How much a liar says that never stops by itself.
const ENDLESS: usize = 400 << 20;

/// What a terminal would obey.
const ESCAPES: &str = "\x1b[2J\x1b]0;owned\x07\r\n\u{9b}31m\u{202e}fdp.exe\0";

/// The agent's end of a link, by hand.
struct Far {
    stream: TcpStream,
    welcome: Welcome,
}

impl Far {
    /// Reads the greeting, and nothing is answered yet.
    fn meet(mut stream: TcpStream) -> io::Result<Far> {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        let greeting = Greeting::decode(head[8..].try_into().unwrap()).unwrap();
        let mut body = vec![0; greeting.length];
        stream.read_exact(&mut body)?;
        let _: Hello = read_body(&body).unwrap();
        let welcome = Welcome {
            fixed: None,
            agent: "0.1.0".into(),
            boot: [1; 16],
            root: Some(RootHere {
                identity: Identity { dev: 1, ino: 1 },
                path: b"/somewhere".to_vec(),
                entry: entry(Kind::Dir, 0),
                created: false,
            }),
            holds: Holds {
                chown: true,
                groups: Vec::new(),
                own_user: 0,
                own_group: 0,
                devices: true,
                xattrs: Classes::NONE,
                time_granularity: 1,
                folds_case: false,
                name_max: 255,
                keeps: Keeps::ALL,
            },
            small: 1 << 20,
            bulk: 8 << 20,
        };
        Ok(Far { stream, welcome })
    }

    fn agrees(&mut self) -> io::Result<()> {
        let answer = Answer::Welcome(self.welcome.clone());
        self.stream.write_all(&greet(&answer))
    }

    fn say(&mut self, message: &Message) -> io::Result<()> {
        self.stream.write_all(&bytes(message))
    }

    fn hear(&mut self) -> io::Result<Message> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head).unwrap();
        let mut body = vec![0; header.length];
        self.stream.read_exact(&mut body)?;
        Ok(Frame::decode(header, body).unwrap().message)
    }

    /// The numbers of the first listing that is asked.
    fn asked(&mut self) -> io::Result<u32> {
        loop {
            if let Message::List { first, .. } = self.hear()? {
                return Ok(first);
            }
        }
    }

    /// Answers as an agent would whose root is empty, and to which everything succeeds.
    fn obeys(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::List { first, dirs } => {
                for (request, _) in (first..).zip(dirs) {
                    self.say(&Message::Entries { request, last: true, entries: Vec::new() })?;
                }
            }
            Message::Ops { first, ops, .. } => {
                let small = ops.iter().map(lsync_protocol::message::Op::cost).sum();
                let done = vec![(first, ops.len() as u64)];
                self.say(&Message::Acks { done, outcomes: Vec::new(), small })?;
            }
            Message::Names { .. } => {
                self.say(&Message::NameIds { users: Vec::new(), groups: Vec::new() })?;
            }
            Message::Data { .. } => self.say(&Message::Credit { bulk: 256 * 1024 })?,
            Message::Base { stage, .. } => {
                self.say(&Message::BaseIs { stage, size: None, known: false })?;
            }
            Message::Resume { stage, .. } => self.say(&Message::Kept { stage, size: 0 })?,
            Message::Ping(number) => self.say(&Message::Pong(number))?,
            _ => {}
        }
        Ok(())
    }

    /// Obeys until the other end says goodbye, and first says what `lie` makes of a message.
    fn obeys_but(
        &mut self,
        mut lie: impl FnMut(&mut Far, &Message) -> io::Result<bool>,
    ) -> io::Result<()> {
        loop {
            let message = self.hear()?;
            if message == Message::Bye {
                return Ok(());
            }
            if !lie(self, &message)? {
                self.obeys(message)?;
            }
        }
    }

    /// Says it again and again, until nobody listens or it was enough.
    fn endlessly(&mut self, mut more: impl FnMut(u64) -> Vec<u8>) -> io::Result<()> {
        let mut said = 0;
        for count in 0.. {
            let mut piece = Vec::new();
            while piece.len() < 64 * 1024 {
                piece.extend(more(count));
            }
            self.stream.write_all(&piece)?;
            said += piece.len();
            if said > ENDLESS {
                break;
            }
        }
        Ok(())
    }
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(message, 0, &mut frame);
    frame
}

fn entry(kind: Kind, size: u64) -> Entry {
    let meta = Meta { mode: Some(0o755), ..Meta::default() };
    Entry { kind, size, link: None, meta, nlink: 1, file: None, device: None }
}

fn named(name: &[u8]) -> Named {
    Named { name: name.into(), entry: entry(Kind::File, 1) }
}

fn trouble() -> Trouble {
    Trouble { errno: 5, text: ESCAPES.into() }
}

/// What came of a run.
struct Came {
    ended: Ended,
    /// The most memory it ever had, in bytes.
    height: u64,
    links: usize,
}

type Play = dyn Fn(&mut Far) -> io::Result<()> + Send + Sync;

/// Mirrors a small tree once; the first agent is played.
fn mirrored(stage: &Stage, play: Arc<Play>) -> Came {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let shell = stage.path("shell");
    script(&shell, "shift\nexec sh -c \"$1\"");
    let agent = stage.path("agent");
    fs::write(
        &agent,
        format!(
            "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port} 4<&0\ncat <&4 >&3 2>/dev/null &\nexec cat <&3 4<&-\n"
        ),
    )
    .unwrap();
    super::super::tree::chmod(&agent, 0o755);
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let agents = std::thread::spawn(move || {
        let mut links = 0;
        let mut served = Vec::new();
        for stream in listener.incoming() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let stream = stream.unwrap();
            links += 1;
            let (play, first) = (Arc::clone(&play), links == 1);
            served.push(std::thread::spawn(move || {
                let (reader, writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
                if first {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
                    // The other end may hang up, and mostly does.
                    let _ = Far::meet(reader).and_then(|mut far| play(&mut far));
                } else {
                    let options = ServeOptions {
                        in_process: true,
                        confine: false,
                        ..ServeOptions::default()
                    };
                    let _ = serve(&options, reader, writer);
                }
                let _ = stream.shutdown(Shutdown::Both);
            }));
        }
        for thread in served {
            thread.join().unwrap();
        }
        links
    });
    let mut command = stage.lsyncd();
    let target = format!("liar:{}", stage.target().display());
    command.args(["push", "--once", "--json", "--ssh-command"]).arg(&shell);
    command.arg("--agent-path").arg(&agent).arg(stage.source()).arg(target);
    let mut push = Push::start(command);
    let mut height = 0;
    let end = Instant::now() + Duration::from_secs(90);
    while push.is_running() {
        height = height.max(gauge::height(push.pid()));
        assert!(Instant::now() < end, "it hangs; {}", push.said());
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(height > 0, "its memory was never looked at");
    let ended = push.end();
    over.store(true, Ordering::SeqCst);
    drop(TcpStream::connect(("127.0.0.1", port)));
    let links = agents.join().unwrap();
    Came { ended, height, links }
}

/// Something of every kind of thing that is sent.
fn furnish(stage: &Stage) {
    fs::create_dir_all(stage.s("d/e")).unwrap();
    for name in ["a", "b", "d/c", "d/e/f"] {
        fs::write(stage.s(name), name).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", stage.s("l")).unwrap();
    let large: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(stage.s("large"), large).unwrap();
}

/// What holds whatever was said.
#[track_caller]
fn sound(what: &str, came: &Came) {
    let Came { ended, height, .. } = came;
    assert!(ended.code.is_some_and(|code| code != 101), "{what}: {ended:?}");
    assert!(!ended.err.contains("panicked"), "{what}: {ended:?}");
    assert!(*height < MEMORY, "{what}: {} MiB", height >> 20);
    let odd = ended.err.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
    assert_eq!(odd, None, "{what}: {:?}", ended.err);
    // For programs: what JSON has to escape is.
    let odd = ended.out.chars().find(|c| c.is_ascii_control() && *c != '\n');
    assert_eq!(odd, None, "{what}: {:?}", ended.out);
}

/// A lie that ends the link: it is said why, and the next agent mirrors everything.
#[track_caller]
fn refused(
    what: &str,
    why: &str,
    play: impl Fn(&mut Far) -> io::Result<()> + Send + Sync + 'static,
) {
    let stage = Stage::new(Way::Local);
    furnish(&stage);
    let play = move |far: &mut Far| {
        far.agrees()?;
        play(far)?;
        // Until the other end has enough.
        while far.hear().is_ok() {}
        Ok(())
    };
    let came = mirrored(&stage, Arc::new(play));
    sound(what, &came);
    assert!(
        came.ended.err.contains(why) || came.ended.out.contains(why),
        "{what}: {:?}",
        came.ended
    );
    assert_eq!(came.ended.code, Some(0), "{what}: {:?}", came.ended);
    assert!(came.links > 1, "{what}");
    super::wait_equal(&stage.source(), &stage.target());
}

const NOT_AN_AGENTS: &str = "sent what an agent does not send";

#[test]
fn what_an_agent_must_not_say() {
    let list = |names: Vec<&'static [u8]>| {
        move |far: &mut Far| {
            let request = far.asked()?;
            let entries = names.iter().map(|name| named(name)).collect();
            far.say(&Message::Entries { request, last: true, entries })
        }
    };
    for name in [&b".."[..], b".", b"", b"a/b", b"/etc", b"a\0"] {
        refused("an impossible name", NOT_AN_AGENTS, list(vec![name]));
    }
    refused("unsorted", "entries out of order", list(vec![b"b", b"a"]));
    refused("twice", "entries out of order", list(vec![b"a", b"a"]));
    refused("twice, later", "entries out of order", |far| {
        let request = far.asked()?;
        far.say(&Message::Entries { request, last: false, entries: vec![named(b"b")] })?;
        far.say(&Message::Entries { request, last: true, entries: vec![named(b"b")] })
    });
    refused("answered twice", "an answer not asked for", |far| {
        let request = far.asked()?;
        far.say(&Message::Same { request })?;
        far.say(&Message::Same { request })
    });
    refused("a kind that only a source sends", NOT_AN_AGENTS, |far| far.say(&Message::Bye));
    refused("an unknown kind", "unknown type 99", |far| {
        far.stream.write_all(&[1, 0, 0, 0, 99, 0, 0, 0, 0, 0, 7])
    });
    refused("4 GiB announced", "more than a frame may have", |far| {
        far.stream.write_all(&[255, 255, 255, 255, 33, 0, 0, 0, 0, 0])
    });
    refused("a name of 4 GiB announced", NOT_AN_AGENTS, |far| {
        // One entry, whose name has as many bytes as a number of 32 bits can say.
        let request = far.asked()?;
        let mut body = bytes(&Message::Entries { request, last: true, entries: Vec::new() });
        body.pop();
        body.extend([1, 0xff, 0xff, 0xff, 0xff, 0x0f, b'a']);
        let length = (body.len() - HEADER) as u32;
        body[..4].copy_from_slice(&length.to_le_bytes());
        far.stream.write_all(&body)
    });
    refused("a count of entries that are not there", NOT_AN_AGENTS, |far| {
        let request = far.asked()?;
        let mut body = bytes(&Message::Entries { request, last: true, entries: Vec::new() });
        body.pop();
        body.extend([0x80, 0x40]);
        let length = (body.len() - HEADER) as u32;
        body[..4].copy_from_slice(&length.to_le_bytes());
        far.stream.write_all(&body)
    });
    refused("a bomb", NOT_AN_AGENTS, |far| {
        let zeros = vec![0; 1 << 20];
        let mut frame = Vec::new();
        let data = Message::Data { stage: 1, offset: 0 };
        assert!(lsync_protocol::frame::Squeezer::default().encode(3, &data, &zeros, &mut frame));
        far.stream.write_all(&frame)?;
        frame[4] = 33;
        far.stream.write_all(&frame)
    });
    for message in [
        Message::Same { request: 77 },
        Message::NoList { request: 77, why: NoList::Missing },
        Message::Entries { request: 77, last: false, entries: Vec::new() },
        Message::Hashes { request: 77, files: vec![Hashed::NoFile] },
    ] {
        refused("not asked", "not asked for", move |far| far.say(&message));
    }
}

#[test]
fn what_an_agent_says_without_end() {
    refused("problems of contents that nobody sent", NOT_AN_AGENTS, |far| {
        let text = "x".repeat(1000);
        far.endlessly(|count| {
            let trouble = Trouble { errno: 5, text: text.clone() };
            bytes(&Message::StageTrouble { stage: count as u32, trouble })
        })
    });
    refused("questions whether we are there", NOT_AN_AGENTS, |far| {
        let ping = bytes(&Message::Ping(1)).repeat(1000);
        far.endlessly(|_| ping.clone())
    });
    refused("warnings", NOT_AN_AGENTS, |far| {
        far.endlessly(|count| bytes(&Message::Warning { text: format!("{count} {ESCAPES}") }))
    });
    refused("a listing", NOT_AN_AGENTS, |far| {
        let request = far.asked()?;
        far.endlessly(|count| {
            let entries = (0..MAX_ENTRIES / 8)
                .map(|at| named(format!("{count:016}{at:08}{}", "n".repeat(200)).as_bytes()))
                .collect();
            bytes(&Message::Entries { request, last: false, entries })
        })
    });
    refused("a listing of nothing", NOT_AN_AGENTS, |far| {
        let request = far.asked()?;
        let nothing = bytes(&Message::Entries { request, last: false, entries: Vec::new() });
        far.endlessly(|_| nothing.repeat(1000))
    });
}

/// A lie that need not be seen through: it ends by itself, and soundly.
#[track_caller]
fn endured(
    what: &str,
    lie: impl Fn(&mut Far, &Message) -> io::Result<bool> + Send + Sync + 'static,
) -> Came {
    let stage = Stage::new(Way::Local);
    furnish(&stage);
    let play = move |far: &mut Far| {
        far.agrees()?;
        far.obeys_but(&lie)
    };
    let came = mirrored(&stage, Arc::new(play));
    sound(what, &came);
    came
}

#[test]
fn what_an_agent_may_say_and_does_not_mean() {
    let everything = u64::MAX;
    endured(
        "acks of what was never sent, twice, and more of them than numbers",
        move |far, said| {
            if let Message::Ops { .. } = said {
                let outcomes = (0..MAX_OPS as u64).map(|id| (id, Outcome::Problem(trouble())));
                far.say(&Message::Acks {
                    done: vec![(everything, everything), (everything - 9, 99)],
                    outcomes: outcomes.collect(),
                    small: u32::MAX,
                })?;
                far.say(&Message::Acks {
                    done: vec![(everything / 2, everything / 2); MAX_ACKS],
                    outcomes: Vec::new(),
                    small: u32::MAX,
                })?;
                far.say(&Message::Credit { bulk: u32::MAX })?;
            }
            Ok(false)
        },
    );
    endured("every operation is a problem with escapes in it", |far, said| {
        if let Message::Ops { first, ops, .. } = said {
            let ids = *first..first + ops.len() as u64;
            let outcomes = ids.map(|id| (id, Outcome::Problem(trouble()))).collect();
            let done = vec![(*first, ops.len() as u64)];
            far.say(&Message::Acks { done, outcomes, small: 1 << 20 })?;
            return Ok(true);
        }
        Ok(false)
    });
    endured("no directory can be listed, with escapes", |far, said| {
        if let Message::List { first, dirs } = said {
            for (request, _) in (*first..).zip(dirs) {
                far.say(&Message::NoList { request, why: NoList::Trouble(trouble()) })?;
            }
            return Ok(true);
        }
        Ok(false)
    });
    endured("everything is the same", |far, said| {
        if let Message::List { first, dirs } = said {
            for (request, _) in (*first..).zip(dirs) {
                far.say(&Message::Same { request })?;
            }
            return Ok(true);
        }
        Ok(false)
    });
    endured("names that terminals obey, and a large file that is there", |far, said| {
        if let Message::List { first, dirs } = said {
            for (request, asked) in (*first..).zip(dirs) {
                let mut entries = Vec::new();
                if asked.dir.is_root() {
                    let size = 2_400_001;
                    entries.push(named(b"\x1b[2J\x1b]0;owned\x07\r\n\xc2\x9b31m"));
                    entries
                        .push(Named { name: b"large"[..].into(), entry: entry(Kind::File, size) });
                }
                far.say(&Message::Entries { request, last: true, entries })?;
            }
            return Ok(true);
        }
        match said {
            Message::Base { stage, .. } => {
                far.say(&Message::BaseIs { stage: *stage, size: Some(u64::MAX), known: true })?;
            }
            Message::AskSums { stage, .. } => {
                far.say(&Message::Sums { stage: *stage, sums: vec![7; MAX_SUMS] })?;
            }
            Message::Resume { stage, .. } => {
                far.say(&Message::Kept { stage: *stage, size: u64::MAX })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    });
    endured("everybody is root, and nobody asked", |far, said| {
        let all = || (0..4096).map(|id| (id, 0)).collect();
        far.say(&Message::NameIds { users: all(), groups: all() })?;
        Ok(matches!(said, Message::Names { .. }))
    });
    endured("sums and bases of stages that are none", |far, _| {
        far.say(&Message::Sums { stage: 9, sums: vec![7; MAX_SUMS] })?;
        far.say(&Message::BaseIs { stage: u32::MAX, size: Some(1), known: true })?;
        far.say(&Message::Kept { stage: 0, size: u64::MAX })?;
        Ok(false)
    });
}

#[test]
fn what_an_agent_says_of_itself() {
    let greets = |change: fn(&mut Far) -> io::Result<()>| {
        let stage = Stage::new(Way::Local);
        furnish(&stage);
        mirrored(&stage, Arc::new(change))
    };
    let refuses = |refusal: Refusal| {
        let stage = Stage::new(Way::Local);
        let play =
            move |far: &mut Far| far.stream.write_all(&greet(&Answer::Refused(refusal.clone())));
        mirrored(&stage, Arc::new(play))
    };
    for refusal in [
        Refusal::Root(ESCAPES.into()),
        Refusal::Overlap(ESCAPES.into()),
        Refusal::Busy(ESCAPES.into()),
        Refusal::Unsupported(ESCAPES.into()),
        Refusal::Slash,
    ] {
        let came = refuses(refusal.clone());
        sound("a refusal", &came);
        assert_ne!(came.ended.code, Some(0), "{refusal:?}");
    }
    let came = greets(|far| {
        far.welcome.agent = ESCAPES.into();
        far.welcome.small = 0;
        far.welcome.bulk = 0;
        far.welcome.holds.time_granularity = 0;
        far.welcome.holds.name_max = 0;
        far.welcome.holds.groups = vec![7; 1000];
        let root = far.welcome.root.as_mut().unwrap();
        root.path = ESCAPES.as_bytes().to_vec();
        root.entry = entry(Kind::Fifo, u64::MAX);
        far.agrees()?;
        far.obeys_but(|_, _| Ok(false))
    });
    sound("a welcome from nowhere", &came);
    let came = greets(|far| far.stream.write_all(b"\xc7lsync\r\n\x01\0\x01\0\xff\xff\xff\xff"));
    sound("a greeting of 4 GiB", &came);
    assert_eq!(came.ended.code, Some(255), "{:?}", came.ended);
}

/// Anything that an agent can say, of numbers that may have been asked or not.
fn sayings() -> impl Strategy<Value = Message> {
    let small = || prop_oneof![6 => 0..12u32, 1 => any::<u32>()];
    let large = || prop_oneof![4 => 0..40u64, 1 => Just(u64::MAX), 1 => any::<u64>()];
    let kinds =
        || prop_oneof![3 => Just(Kind::File), 2 => Just(Kind::Dir), 1 => Just(Kind::Symlink)];
    let outcomes = prop_oneof![
        Just(Outcome::Missing),
        Just(Outcome::NoParent),
        Just(Outcome::NotEmpty),
        kinds().prop_map(Outcome::Occupied),
        Just(Outcome::Refused),
        Just(Outcome::OtherVersion),
        Just(Outcome::Problem(trouble())),
    ];
    let names = proptest::sample::subsequence(vec!["a", "b", "d", "large", "z"], 0..=5);
    let entries = (names, kinds(), large(), small()).prop_map(|(names, kind, size, nlink)| {
        let about = Entry { nlink, ..entry(kind, size) };
        let all = names.into_iter();
        all.map(|name| Named { name: name.as_bytes().into(), entry: about.clone() }).collect()
    });
    let hashed = prop_oneof![
        large().prop_map(|size| Hashed::Is(size, [7; 32])),
        Just(Hashed::Changing),
        Just(Hashed::NoFile),
        Just(Hashed::Trouble(trouble())),
    ];
    let vec = proptest::collection::vec::<BoxedStrategy<(u64, Outcome)>>;
    let pairs = || proptest::collection::vec((small(), small()), 0..4);
    prop_oneof![
        2 => small().prop_map(|request| Message::Same { request }),
        4 => (small(), any::<bool>(), entries)
            .prop_map(|(request, last, entries)| Message::Entries { request, last, entries }),
        1 => small().prop_map(|request| {
            Message::NoList { request, why: NoList::Trouble(trouble()) }
        }),
        1 => small().prop_map(|request| Message::NoList { request, why: NoList::Missing }),
        2 => (pairs(), pairs()).prop_map(|(users, groups)| Message::NameIds { users, groups }),
        6 => (
            proptest::collection::vec((large(), large()), 0..4),
            vec((large(), outcomes).boxed(), 0..4),
            small(),
        ).prop_map(|(done, outcomes, small)| Message::Acks { done, outcomes, small }),
        1 => small().prop_map(|bulk| Message::Credit { bulk }),
        1 => small().prop_map(|stage| Message::StageTrouble { stage, trouble: trouble() }),
        2 => (small(), proptest::option::of(large()), any::<bool>())
            .prop_map(|(stage, size, known)| Message::BaseIs { stage, size, known }),
        1 => (small(), large()).prop_map(|(stage, size)| Message::Kept { stage, size }),
        2 => (small(), 0..50usize)
            .prop_map(|(stage, len)| Message::Sums { stage, sums: vec![7; len] }),
        1 => (small(), proptest::collection::vec(hashed, 0..3))
            .prop_map(|(request, files)| Message::Hashes { request, files }),
        1 => Just(Message::Warning { text: ESCAPES.into() }),
        1 => large().prop_map(Message::Ping),
        1 => large().prop_map(Message::Pong),
    ]
}

#[test]
fn an_agent_that_says_anything_is_endured() {
    let config = Config { cases: 10, max_shrink_iters: 40, ..Config::default() };
    let says = proptest::collection::vec((sayings(), 0..4u8), 1..16);
    let ran = TestRunner::new(config).run(&says, |says| {
        let stage = Stage::new(Way::Local);
        furnish(&stage);
        let play = move |far: &mut Far| {
            far.agrees()?;
            let mut left = says.clone();
            left.reverse();
            far.obeys_but(move |far, _| {
                // Between so many true words.
                while let Some((message, after)) = left.pop() {
                    if after > 0 {
                        left.push((message, after - 1));
                        break;
                    }
                    far.say(&message)?;
                }
                Ok(false)
            })
        };
        sound("anything", &mirrored(&stage, Arc::new(play)));
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

/// Stops when it goes, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Nothing that stands outside of the source is in the target.
#[track_caller]
fn nothing_of_outside(stage: &Stage) {
    let mut todo = vec![stage.target()];
    while let Some(at) = todo.pop() {
        let Ok(about) = fs::symlink_metadata(&at) else { continue };
        if about.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
        } else if about.is_file() {
            let content = fs::read(&at).unwrap_or_default();
            let leaks = content.windows(8).any(|part| part == b"precious");
            assert!(!leaks, "{} has what is outside", at.display());
        }
        let name = at.file_name().unwrap_or_default();
        assert_ne!(name, "only-outside", "{}", at.display());
    }
}

#[test]
fn what_changes_places_with_a_link_while_it_is_read_sends_nothing_of_outside() {
    let stage = Stage::new(Way::Local);
    let outside = stage.path("outside");
    let furnish = |dir: &std::path::Path, word: &str| {
        fs::create_dir_all(dir.join("e")).unwrap();
        for name in ["f", "e/f", "g"] {
            fs::write(dir.join(name), word).unwrap();
        }
        fs::write(dir.join("large"), word.repeat(50_000)).unwrap();
    };
    furnish(&outside, "precious");
    fs::write(outside.join("only-outside"), "precious").unwrap();
    fs::create_dir(stage.s("d")).unwrap();
    furnish(&stage.s("d"), "harmless");
    std::os::unix::fs::symlink(&outside, stage.s("aside")).unwrap();
    let before = super::tree(&outside).unwrap();
    let stop = AtomicBool::new(false);
    let swaps = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (dir, aside) = (stage.s("d"), stage.s("aside"));
            while !stop.load(Ordering::SeqCst) {
                if renameat_with(CWD, &dir, CWD, &aside, RenameFlags::EXCHANGE).is_ok() {
                    swaps.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        for turn in 0..12 {
            // What is there by now is compared by its content, and hashed.
            let words: &[&str] = [&[][..], &["--checksum"], &["--inplace"]][turn % 3];
            let ended = stage.once(words);
            assert!(ended.code.is_some_and(|code| code != 101), "{ended:?}");
            assert!(!ended.err.contains("panicked"), "{ended:?}");
            nothing_of_outside(&stage);
        }
        // And live, while events tell of it.
        let mut push = stage.begin(&["--delay", "0"]);
        for turn in 0..150 {
            for dir in ["d", "aside"] {
                // Whichever it is: a link is not followed here either.
                let at = stage.s(dir);
                if fs::symlink_metadata(&at).is_ok_and(|about| about.is_dir()) {
                    let _ = fs::create_dir(stage.s(format!("n{turn}")));
                }
            }
            assert!(push.is_running(), "{}", push.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        nothing_of_outside(&stage);
        push.terminate();
        nothing_of_outside(&stage);
    });
    assert!(swaps.load(Ordering::SeqCst) > 1000, "they hardly changed places");
    assert_eq!(super::tree(&outside).unwrap(), before);
}
