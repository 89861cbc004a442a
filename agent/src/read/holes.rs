//! Holes of a file.

use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::meta;

/// Data of a file, as far as it was asked for.
#[derive(Debug, Default)]
pub(super) struct Data {
    /// Data that is known. To find its end costs as much as it is long on some file systems.
    known: Range<u64>,
    /// From here on up to it is a hole.
    hole: u64,
}

impl Data {
    /// The next bytes from `at` on, before `end`, that are not in a hole: where they begin and end;
    /// `None` when there are none. Where the file system does not tell, everything is data.
    pub(super) fn next(
        &mut self,
        fd: &OwnedFd,
        at: u64,
        end: u64,
    ) -> Result<Option<(u64, u64)>, Errno> {
        if !(self.hole..self.known.end).contains(&at) {
            let from = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                Ok(from) => from,
                // Nothing but a hole up to the end. If that is not where it was, the read tells.
                Err(Errno::NXIO) if meta::stat_fd(fd)?.size >= end => return Ok(None),
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => {
                    return Ok(Some((at, end)));
                }
                Err(error) => return Err(error),
            };
            let to = rustix::fs::seek(fd, SeekFrom::Hole(from))?;
            // It may have been punched in between.
            self.known = from..to.max(from + 1);
            self.hole = at;
        }
        let from = self.known.start.max(at);
        Ok((from < end).then(|| (from, self.known.end.min(end))))
    }

    /// Where, from `at` on and before `end`, the first byte is that is not in a hole; what follows it
    /// is not looked at, which costs next to nothing.
    pub(super) fn first(&mut self, fd: &OwnedFd, at: u64, end: u64) -> Result<Option<u64>, Errno> {
        if !(self.hole..self.known.start).contains(&at) {
            let from = match rustix::fs::seek(fd, SeekFrom::Data(at)) {
                Ok(from) => from,
                // Nothing but a hole up to the end. If that is not where it was, the read tells.
                Err(Errno::NXIO) if meta::stat_fd(fd)?.size >= end => return Ok(None),
                Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(at)),
                Err(error) => return Err(error),
            };
            (self.hole, self.known) = (at, from..from);
        }
        let from = self.known.start;
        Ok((from < end).then_some(from))
    }
}
