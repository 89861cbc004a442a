//! Special files: FIFOs, sockets and device files, staged and renamed into place like all else.
//! None of them is ever opened: that could block, or do something to a device.

use lsync_protocol::entry::{Device, Kind, Meta};
use lsync_protocol::path::RelPath;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

use super::{Hand, Stop, set_unreadable, split};
use crate::fault::Call;
use crate::meta::{self, Kept};
use crate::stage::Fresh;

impl Hand {
    /// Has a special file.
    pub(super) fn put_special(
        &mut self,
        path: &RelPath,
        kind: Kind,
        device: Option<Device>,
        meta: &Meta,
    ) -> Result<(), Stop> {
        let (dir, name) = split(path)?;
        self.within(dir, |hand, at| {
            let mut fresh = hand.stage_special(at, path, kind, device, meta)?;
            hand.place(at, &mut fresh, path, name)
        })
    }

    /// A special file under a temporary name.
    pub(super) fn stage_special(
        &mut self,
        at: usize,
        path: &RelPath,
        kind: Kind,
        device: Option<Device>,
        meta: &Meta,
    ) -> Result<Fresh, Stop> {
        self.ground.fault(Call::Special, path)?;
        let what = match kind {
            Kind::Fifo => FileType::Fifo,
            Kind::Socket => FileType::Socket,
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            Kind::File | Kind::Dir | Kind::Symlink => return Err(Errno::INVAL.into()),
        };
        let Device { major, minor } = device.unwrap_or_default();
        let number = rustix::fs::makedev(major, minor);
        // The wanted mode comes when the owner is right.
        let first = Mode::from_raw_mode(0o600);
        let dir = &self.parents[at].fd;
        let (fresh, ()) = Fresh::make(&self.ground.names, dir, false, |dir, name| {
            rustix::fs::mknodat(dir, name, what, first, number)
        })?;
        self.ground.fault(Call::Meta, path)?;
        let now = meta::stat_name(dir, fresh.name())?;
        let mode = meta.mode.unwrap_or(0o666 & !self.ground.umask) & 0o7777;
        let want = Meta { mode: Some(mode), ..meta.clone() };
        self.kept(set_unreadable(dir, fresh.name(), &now, &want, Kept::default())?);
        Ok(fresh)
    }
}
