//! A whole agent, and whatever a source may send it.

use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use lsync_agent::{ServeOptions, serve};
use lsync_protocol::entry::Wanted;
use lsync_protocol::frame::{HEADER, Header};
use lsync_protocol::handshake::{Create, Hello, Role, Standing, Trash, greet};
use lsync_protocol::path::RelPath;
use lsync_protocol::xattr::Classes;

use crate::Taken;

/// What there is in a directory, to see that nothing of it is touched.
fn state(dir: &Path) -> Vec<(String, u64, i64, u32, u32, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("a directory that stays");
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("a file that stays");
            let content = if meta.is_file() { std::fs::read(&path) } else { Ok(Vec::new()) };
            let name = path.display().to_string();
            (name, meta.ino(), meta.mtime(), meta.mode(), meta.uid(), content.expect("content"))
        })
        .collect();
    all.sort();
    all
}

/// Messages, each a kind, two bytes of length and so many bytes: nothing outside the root is touched,
/// and the agent ends.
pub fn agent(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    for name in ["root", "root/d", "outside"] {
        std::fs::create_dir(at(name)).expect("a directory");
    }
    for name in ["root/a", "root/d/b", "outside/c"] {
        std::fs::write(at(name), name.repeat(300)).expect("a file");
    }
    // The ways out that a tree may have.
    std::os::unix::fs::symlink("../outside", at("root/l")).expect("a link");
    std::os::unix::fs::symlink("../../outside/c", at("root/d/l")).expect("a link");
    let before = state(&at("outside"));
    let mut taken = Taken(bytes);
    let how = taken.byte();
    let trash = RelPath::new(&b"t"[..]).ok().filter(|_| how & 1 != 0);
    let hello = Hello {
        link: [1; 16],
        role: Role::Main,
        mirror: [7; 16],
        name: "host:/source".into(),
        root: b"root".to_vec(),
        create: Create::Root,
        key: [9; 32],
        wanted: Wanted {
            perms: true,
            owner: how & 2 != 0,
            group: how & 2 != 0,
            times: true,
            specials: true,
            devices: false,
            hard_links: true,
            xattrs: if how & 4 != 0 { Classes::USER } else { Classes::NONE },
        },
        fsync: false,
        inplace: how & 8 != 0,
        trash: trash.map(|dir| Trash { dir, age: None }),
        standing: Standing { boot: [0; 16], upwards: Vec::new() },
    };
    let mut said = greet(&hello);
    while !taken.is_empty() {
        let kind = taken.byte();
        let most = usize::from(u16::from_le_bytes([taken.byte(), taken.byte()]));
        let body = taken.bytes(most);
        let mut head = [0; HEADER];
        head[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[4] = kind;
        assert_eq!(Header::decode(&head).map(|header| header.kind), Ok(kind));
        said.extend_from_slice(&head);
        said.extend_from_slice(body);
    }
    let options = ServeOptions {
        start: dir.path().to_owned(),
        home: Some(at("home")),
        cache: Some(at("cache")),
        umask: 0o022,
        in_process: true,
        handshake: Duration::from_secs(5),
        ..ServeOptions::default()
    };
    let _ = serve(&options, Cursor::new(said), std::io::sink());
    assert_eq!(state(&at("outside")), before, "something outside the root was touched");
    let mut names = state(dir.path()).into_iter().map(|(name, ..)| name);
    assert!(
        names.all(|name| ["root", "outside", "cache", "home"].iter().any(|n| name.ends_with(n))),
        "something was made beside the root"
    );
}
