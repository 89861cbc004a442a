//! What a source must not say ends the link, cleanly and with a reason.

use std::io::Write;
use std::time::Duration;

use lsync_agent::{BULK_CREDIT, SMALL_CREDIT, ServeError};
use lsync_protocol::entry::{Kind, Meta};
use lsync_protocol::handshake::greet;
use lsync_protocol::message::{INLINE_MAX, MAX_ASKS, MAX_COPY, Message, Op, SumHow};
use proptest::prelude::*;

use super::peer::{Peer, World, meta, path, remove};

/// Plays something forbidden and returns the reason the agent gives.
fn reason(play: impl FnOnce(&mut Peer)) -> String {
    let world = World::new();
    std::fs::write(world.at("f"), b"x").unwrap();
    let mut peer = world.connect();
    play(&mut peer);
    let error = peer.ended().unwrap_err();
    assert!(matches!(error, ServeError::Broken(_)), "{error:?}");
    assert!(world.stages().is_empty());
    assert!(world.connect().bye().is_ok(), "the root is free again");
    error.to_string()
}

#[test]
fn what_a_source_must_not_say() {
    let open = Message::Open { stage: 1, hint: path(""), size: 0 };
    let data = |stage| Message::Data { stage, offset: 0 };
    let says = |messages: Vec<(Message, &[u8])>| {
        reason(|peer| messages.iter().for_each(|(message, raw)| peer.send(message, raw)))
    };
    let commit =
        Op::Commit { path: path("f"), stage: 9, size: 0, meta: Meta::default(), hash: [0; 32] };
    let ops = |first, ops: Vec<Op>| Message::Ops { first, hash: None, ops };
    assert_eq!(says(vec![(open.clone(), b""), (open, b"")]), "stage 1 is opened twice");
    assert_eq!(says(vec![(data(4), b"x")]), "content for stage 4, which is not open");
    assert_eq!(says(vec![(Message::Abort { stage: 4 }, b"")]), "stage 4 is given up, but not open");
    assert_eq!(says(vec![(ops(1, vec![commit]), b"")]), "stage 9 is committed, but not open");
    let twice = ops(5, vec![remove("x", Kind::File)]);
    assert_eq!(says(vec![(twice.clone(), b""), (twice, b"")]), "operation 5 comes again");
    assert_eq!(
        says(vec![(Message::Same { request: 1 }, b"")]),
        "a message of type 32, which no source sends"
    );
    let file = Op::File { path: path("f"), size: 1, meta: meta(0o644, 1) };
    let torn = Message::Ops { first: 1, hash: Some([0; 32]), ops: vec![file] };
    assert_eq!(says(vec![(torn, b"x")]), "content that does not match its hash");
    let many = (0..=256).map(|stage| (Message::Open { stage, hint: path(""), size: 0 }, &b""[..]));
    assert_eq!(says(many.collect()), "more than 256 stages are open");
    let raw = |bytes: &[u8]| reason(|peer| peer.stream.write_all(bytes).unwrap());
    assert_eq!(raw(&[255; 10]), "a frame of 4294967295 bytes, which is more than a frame may have");
    assert_eq!(raw(&[0, 0, 0, 0, 9, 2, 0, 0, 0, 0]), "a frame with unknown flags 0x02");
    let lies = "compressed bytes that do not give what is stated";
    assert_eq!(raw(&[0, 0, 0, 0, 9, 1, 0, 0, 0, 0]), lies);
    assert_eq!(raw(&[7, 0, 0, 0, 5, 1, 1, 0, 0, 0, 1, 0, 9, 0, 0, 0, 1]), lies);
    assert_eq!(raw(&[1, 0, 0, 0, 99, 0, 0, 0, 0, 0, 7]), "a message of unknown type 99");
    assert_eq!(
        raw(&[3, 0, 0, 0, 5, 0, 0, 0, 0, 0, 1, 0, 7]),
        "content on a stream that is not its own"
    );
}

#[test]
fn what_a_source_must_not_say_of_bases() {
    let open = Message::Open { stage: 1, hint: path(""), size: 0 };
    let base = |stage| Message::Base { stage, path: path("f"), version: None };
    let asks =
        |stage, block| Message::AskSums { stage, how: SumHow::Same, block, ranges: vec![(0, 1)] };
    let copy = |stage| Message::Copy { stage, copies: vec![(0, 0, 1)] };
    let says = |messages: &[Message]| {
        reason(|peer| {
            for message in messages {
                peer.try_send(message, b"");
            }
        })
    };
    let open = || open.clone();
    assert_eq!(says(&[base(4)]), "a base for stage 4, which is not open");
    assert_eq!(says(&[asks(4, 1 << 14)]), "sums for stage 4, which is not open");
    assert_eq!(says(&[copy(4)]), "copies for stage 4, which is not open");
    assert_eq!(says(&[open(), base(1), base(1)]), "stage 1 gets a second base");
    assert_eq!(says(&[open(), asks(1, 1 << 14), base(1)]), "sums without a base");
    assert_eq!(says(&[open(), copy(1), base(1)]), "copies without a base");
    assert_eq!(
        says(&[open(), base(1), asks(1, 1 << 14), asks(1, 1 << 15)]),
        "stage 1 is compared in blocks of two sizes"
    );
    let known = || Message::Known { stage: 1, version: 7 };
    assert_eq!(says(&[open(), known()]), "a version without a base");
    assert_eq!(says(&[known()]), "a version for stage 1, which is not open");
    let gone = Message::Abort { stage: 1 };
    assert_eq!(says(&[open(), base(1), gone, copy(1)]), "copies for stage 1, which is not open");
    for kind in [40, 41] {
        let message = match kind {
            40 => Message::BaseIs { stage: 1, size: None, known: false },
            _ => Message::Sums { stage: 1, sums: Vec::new() },
        };
        assert_eq!(says(&[message]), format!("a message of type {kind}, which no source sends"));
    }
    assert_eq!(
        says(&[open(), base(1), Message::Copy { stage: 1, copies: Vec::new() }]),
        "a message of type 12 with a count or size out of bounds"
    );
}

/// Everything is so slow that nothing is done or given back meanwhile.
struct Stuck;

impl lsync_agent::fault::Faults for Stuck {
    fn before(
        &self,
        _: lsync_agent::fault::Call,
        _: &lsync_protocol::path::RelPath,
    ) -> Result<(), rustix::io::Errno> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }
}

#[test]
fn no_more_questions_and_copies_than_agreed() {
    let world = World::new().with_faults(Stuck);
    std::fs::write(world.at("f"), b"content").unwrap();
    let begin = |peer: &mut Peer| {
        peer.send(&Message::Open { stage: 1, hint: path(""), size: 0 }, b"");
        peer.send(&Message::Base { stage: 1, path: path("f"), version: Some(7) }, b"");
    };
    let mut peer = world.connect();
    begin(&mut peer);
    let ask = Message::AskSums { stage: 1, how: SumHow::Search, block: 1024, ranges: vec![(0, 7)] };
    for _ in 0..=MAX_ASKS {
        peer.try_send(&ask, b"");
    }
    let why = format!("more than {MAX_ASKS} questions for sums of a stage");
    assert_eq!(peer.ended().unwrap_err().to_string(), why);

    let mut peer = world.connect();
    begin(&mut peer);
    let copy = Message::Copy { stage: 1, copies: vec![(0, 0, MAX_COPY)] };
    for _ in 0..=BULK_CREDIT / copy.bulk_cost(0) {
        peer.try_send(&copy, b"");
    }
    assert_eq!(peer.ended().unwrap_err().to_string(), "more content than the credit allows");
    assert!(world.stages().is_empty());
}

#[test]
fn credits_are_not_exceeded() {
    let world = World::new().with_faults(Stuck);
    let mut peer = world.connect();
    let content = vec![7; INLINE_MAX as usize];
    let file =
        |i| Op::File { path: path(format!("f{i}")), size: content.len() as u32, meta: meta(0, 1) };
    for round in 0..=SMALL_CREDIT as usize / content.len() / 8 {
        let ops = (0..8).map(|i| (file(round * 8 + i), &content[..])).collect();
        peer.send_ops(ops);
    }
    assert_eq!(peer.ended().unwrap_err().to_string(), "more operations than the credit allows");

    let mut peer = world.connect();
    peer.send(&Message::Open { stage: 1, hint: path(""), size: 0 }, b"");
    let piece = vec![7; 1 << 20];
    for i in 0..=u64::from(BULK_CREDIT) >> 20 {
        peer.try_send(&Message::Data { stage: 1, offset: i << 20 }, &piece);
    }
    assert_eq!(peer.ended().unwrap_err().to_string(), "more content than the credit allows");

    // Of what comes out, not of what went over the wire.
    let mut peer = world.connect();
    peer.send(&Message::Open { stage: 1, hint: path(""), size: 0 }, b"");
    for i in 0..=u64::from(BULK_CREDIT) >> 20 {
        peer.send_squeezed(&Message::Data { stage: 1, offset: i << 20 }, &piece);
    }
    assert_eq!(peer.ended().unwrap_err().to_string(), "more content than the credit allows");
    assert!(world.stages().is_empty());
}

#[test]
fn a_commit_of_any_size_ends_with_the_link() {
    let world = World::new();
    let mut peer = world.connect();
    peer.send(&Message::Open { stage: 1, hint: path(""), size: 0 }, b"");
    let commit = Op::Commit {
        path: path("f"),
        stage: 1,
        size: 1 << 42,
        meta: Meta::default(),
        hash: [0; 32],
    };
    peer.send_ops(vec![(commit, b"")]);
    peer.send(&Message::Ping(1), b"");
    assert_eq!(peer.receive(), Message::Pong(1), "others are served meanwhile");
    assert!(peer.cut().is_ok());
    assert!(world.stages().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn random_bytes_end_a_link_without_a_panic(
        greeted in any::<bool>(),
        kind in 0u8..48,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let world = World::new();
        let (mut stream, agent) = world.start();
        let mut out = Vec::new();
        if greeted {
            out.extend_from_slice(&greet(&world.hello()));
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
        }
        out.extend_from_slice(&bytes);
        // The agent may end before all is written.
        let _ = stream.write_all(&out);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let end = agent.join().unwrap();
        prop_assert!(greeted || end.is_err());
        prop_assert!(world.stages().is_empty());
    }
}
