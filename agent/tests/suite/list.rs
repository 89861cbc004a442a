//! Listings, digests and names.

use std::fs;

use lsync_protocol::entry::{DirDigest, Held};
use lsync_protocol::message::{Message, NoList};

use super::peer::{World, path};

#[test]
fn a_directory_is_listed_or_the_same() {
    let world = World::new();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/b"), b"12").unwrap();
    fs::write(world.at("d/a"), b"1").unwrap();
    let mut peer = world.connect();
    let entries = peer.list("d").unwrap();
    let names: Vec<_> = entries.iter().map(|named| &*named.name).collect();
    assert_eq!(names, [b"a", b"b"]);
    let hello = world.hello();
    let held = Held::new(hello.wanted, &peer.welcome.holds);
    let mut digest = DirDigest::new(&hello.key);
    for named in &entries {
        digest.add(&named.name, &named.entry, &held);
    }
    let digest = Some(digest.finish());
    peer.send(
        &Message::List {
            first: 8,
            dirs: vec![lsync_protocol::message::Asked { dir: path("d"), digest }],
        },
        b"",
    );
    assert_eq!(peer.receive(), Message::Same { request: 8 });
    fs::write(world.at("d/c"), b"").unwrap();
    peer.send(
        &Message::List {
            first: 9,
            dirs: vec![lsync_protocol::message::Asked { dir: path("d"), digest }],
        },
        b"",
    );
    let Message::Entries { request: 9, last: true, entries } = peer.receive() else { panic!() };
    assert_eq!(entries.len(), 3);
    assert_eq!(peer.list("x"), Err(NoList::Missing));
    assert_eq!(peer.list("d/a"), Err(NoList::Missing));
}

#[test]
fn a_large_directory_comes_in_parts() {
    let world = World::new();
    for i in 0..3000 {
        fs::write(world.at(format!("{i:0200}")), b"").unwrap();
    }
    let mut peer = world.connect();
    peer.send(
        &Message::List {
            first: 1,
            dirs: vec![lsync_protocol::message::Asked { dir: path(""), digest: None }],
        },
        b"",
    );
    let (mut parts, mut all) = (0, Vec::new());
    loop {
        let Message::Entries { request: 1, last, entries } = peer.receive() else { panic!() };
        parts += 1;
        all.extend(entries);
        if last {
            break;
        }
    }
    assert!(parts > 1);
    assert_eq!(all.len(), 3000);
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn dead_stages_are_swept_and_never_listed() {
    let world = World::new();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/.lsync-07070707-00000001"), b"dead").unwrap();
    fs::write(world.at("d/.lsync-08080808-00000001"), b"another mirror's").unwrap();
    let mut peer = world.connect();
    assert_eq!(peer.list("d"), Ok(vec![]));
    assert!(!world.at("d/.lsync-07070707-00000001").exists());
    assert!(world.at("d/.lsync-08080808-00000001").exists());
}

#[test]
fn names_are_numbered_as_they_are_here() {
    let world = World::new();
    let mut peer = world.connect();
    let users = vec![(77, "root".into()), (78, "no such user".into())];
    peer.send(&Message::Names { users, groups: vec![(5, "root".into())] }, b"");
    let want = Message::NameIds { users: vec![(77, 0), (78, 78)], groups: vec![(5, 0)] };
    assert_eq!(peer.receive(), want);
}
