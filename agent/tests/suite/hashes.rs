//! What files hold, by their hashes; and what an agent leaves alone that only looks.

use std::fs;

use lsync_protocol::handshake::Create;
use lsync_protocol::message::{Hashed, Message, NoList};
use lsync_protocol::path::stage_name;

use super::peer::{World, path};

#[test]
fn files_are_hashed_in_the_order_asked_and_nothing_else_is() {
    let world = World::new();
    let content = vec![5; 600_000];
    fs::create_dir_all(world.at("d/sub")).unwrap();
    fs::write(world.at("d/a"), &content).unwrap();
    fs::write(world.at("d/b"), b"").unwrap();
    std::os::unix::fs::symlink("a", world.at("d/link")).unwrap();
    let mut peer = world.connect();
    let names = ["link", "b", "missing", "a", "sub"];
    let names = names.map(|name| name.as_bytes().into()).to_vec();
    peer.send(&Message::AskHashes { request: 9, dir: path("d"), names, calm: true }, b"");
    let keyed = |content: &[u8]| *blake3::keyed_hash(&world.hello().key, content).as_bytes();
    let files = vec![
        Hashed::NoFile,
        Hashed::Is(0, keyed(b"")),
        Hashed::NoFile,
        Hashed::Is(600_000, keyed(&content)),
        Hashed::NoFile,
    ];
    assert_eq!(peer.receive(), Message::Hashes { request: 9, files });
}

#[test]
fn an_agent_that_only_looks_leaves_temporary_names_alone() {
    let world = World::new();
    let [a, b, c, d, ..] = world.hello().mirror;
    let name = stage_name(u32::from_le_bytes([a, b, c, d]), 1);
    fs::write(world.at(&name), b"another agent is writing this").unwrap();
    let mut hello = world.hello();
    hello.create = Create::Nothing;
    let mut looks = world.connect_as(&hello);
    assert_eq!(looks.list(""), Ok(Vec::new()));
    looks.send(&Message::Mirrored, b"");
    assert_eq!(looks.list("x"), Err(NoList::Missing));
    assert!(world.at(&name).exists());
    // One that may apply is the only one of its mirror, and the name is dead.
    let mut applies = world.connect();
    assert_eq!(applies.list(""), Ok(Vec::new()));
    assert!(!world.at(&name).exists());
}
