//! The base, as the agent tells of it, and what stands in it where it stands in the new content.

use std::sync::Arc;

use lsync_agent::read::FileReader;
use lsync_protocol::delta::search::Index;
use lsync_protocol::delta::sums::SUM;
use lsync_protocol::delta::tree::{Short, short};
use lsync_protocol::delta::{BLOCK_MAX, block, fine_block};
use lsync_protocol::message::{MAX_BLOCKS, MAX_RANGES, Message, OpId, SumHow};
use lsync_protocol::path::RelPath;

use super::copies::Copies;
use super::sought::Sought;
use super::{HARDLY, Ranges, bytes, push, read_to};
use crate::carrier::agent::base::{Answers, Said};
use crate::carrier::agent::transfer::{Lane, Stopped, blocking};
use crate::carrier::agent::versions::Version;

/// So much is hashed and compared at a time.
const SEGMENT: u64 = 16 << 20;
/// So many segments are asked ahead of what is compared.
const AHEAD: u64 = 2;
/// After so much of which hardly anything stood at its place, the rest is not asked for: it is
/// looked for anywhere, also where it was.
const PATIENCE: u64 = 32 << 20;
/// The same where the blocks that are looked for are known without asking.
const IMPATIENCE: u64 = 4 << 20;
/// So much of a known version's successor is sent at once rather than looked for elsewhere in it.
const UNASKED: u64 = 128 * 1024;

/// What did not stand at its place.
pub(super) struct Left {
    /// Of the new content.
    pub(super) new: Ranges,
    /// Of it, what stands where it stood.
    pub(super) same: Ranges,
    /// What of the base is looked for there.
    pub(super) sought: Sought,
    /// All of the base stands where it stood, and can grow there.
    pub(super) grows: bool,
}

/// The base.
pub(super) struct Base<'a> {
    pub(super) lane: &'a Lane,
    pub(super) answers: Answers,
    pub(super) size: u64,
    /// What it is believed to be.
    pub(super) version: Option<(OpId, Version)>,
    /// It may grow in place if that is all.
    pub(super) may_grow: bool,
}

impl Drop for Base<'_> {
    fn drop(&mut self) {
        self.lane.shared.bases.end(self.lane.stage);
    }
}

impl Base<'_> {
    /// Has the agent open the first of these names that is a file. Is there one, and of use?
    pub(super) async fn first_of(
        &mut self,
        names: &[RelPath],
        own: &RelPath,
    ) -> Result<bool, Stopped> {
        for (at, path) in names.iter().enumerate() {
            if at > 0 {
                self.answers = self.lane.shared.bases.ask(self.lane.stage, false);
            }
            let stage = self.lane.stage;
            self.lane.say(&Message::Base { stage, path: path.clone(), version: None }).await?;
            match self.answers.next().await? {
                Said::Is(None, _) => {}
                Said::Is(Some(size), may_grow) => {
                    self.size = size;
                    self.may_grow &= path == own && may_grow;
                    return Ok(size >= u64::from(block(0)));
                }
                _ => return Ok(false),
            }
        }
        Ok(false)
    }

    async fn ask(&self, how: SumHow, block: u32, ranges: Ranges) -> Result<(), Stopped> {
        let size = match how {
            SumHow::Same | SumHow::Kept => size_of::<Short>(),
            SumHow::Search => SUM,
        };
        let blocks: u64 = ranges.iter().map(|(_, len)| len.div_ceil(u64::from(block))).sum();
        let stage = self.lane.stage;
        self.lane.shared.bases.expect(stage, blocks * size as u64);
        self.lane.say(&Message::AskSums { stage, how, block, ranges }).await
    }

    /// Asks for the sums of the first `common` bytes, of which so many blocks were asked for, some
    /// segments ahead of the block at `index`: how many were asked for then.
    async fn ask_ahead(
        &self,
        how: SumHow,
        block: u32,
        common: u64,
        mut asked: u64,
        index: u64,
    ) -> Result<u64, Stopped> {
        let length = u64::from(block);
        let (blocks, segment) = (common.div_ceil(length), (SEGMENT / length).max(1));
        while asked < blocks && asked < index + AHEAD * segment {
            let count = segment.min(blocks - asked);
            let at = asked * length;
            self.ask(how, block, vec![(at, (count * length).min(common - at))]).await?;
            asked += count;
        }
        Ok(asked)
    }

    /// The next sums, so many bytes of them; `None` when there are no more.
    pub(super) async fn next(&mut self, bytes: usize) -> Result<Option<Vec<u8>>, Stopped> {
        let sums = self.answers.sums(bytes).await?;
        self.believed()?;
        Ok(sums)
    }

    /// Is the base what it is believed to be, as far as was said by now?
    pub(super) fn believed(&mut self) -> Result<(), Stopped> {
        match &self.version {
            Some((id, _)) if self.answers.is_other() => {
                self.lane.shared.versions.forget(*id);
                Err(Stopped::Other)
            }
            _ => Ok(()),
        }
    }

    /// Hashes the file where a former link left some of it: which blocks need not be brought again.
    pub(super) async fn kept(
        &mut self,
        mut reader: FileReader,
        kept: u64,
    ) -> Result<(FileReader, Vec<bool>), Stopped> {
        let (size, length) = (reader.entry().size, u64::from(reader.block()));
        let segment = (SEGMENT / length).max(1);
        let common = if size == kept { size } else { size.min(kept) / length * length };
        let common_blocks = common.div_ceil(length);
        let mut have = Vec::new();
        let (mut asked, mut index) = (0, 0);
        while index < common_blocks {
            self.lane.go_on()?;
            asked = self.ask_ahead(SumHow::Kept, reader.block(), common, asked, index).await?;
            let count = segment.min(common_blocks - index);
            reader = read_to(reader, (index + count) * length).await?;
            // It cannot be read any more: the rest has to be brought.
            let Some(sums) = self.next(count as usize * size_of::<Short>()).await? else { break };
            let chains = reader.chains().iter().skip(index as usize);
            let sums = sums.chunks_exact(size_of::<Short>());
            have.extend(chains.zip(sums).map(|(chain, sum)| sum == short(chain)));
            index += count;
        }
        Ok((reader, have))
    }

    /// Hashes the file and copies what stands at its place, but for what is in the stage already.
    /// Where hardly anything does, the rest is left to be hashed when it is looked for.
    pub(super) async fn same(
        &mut self,
        mut reader: FileReader,
        have: &[bool],
    ) -> Result<(FileReader, Left), Stopped> {
        let (size, length) = (reader.entry().size, u64::from(reader.block()));
        let segment = (SEGMENT / length).max(1);
        // A short block at the end is one of the base's only where the base ends as well.
        let common = if size == self.size { size } else { size.min(self.size) / length * length };
        let (blocks, common_blocks) = (reader.blocks(), common.div_ceil(length));
        let mut left = Left {
            new: Ranges::new(),
            same: Ranges::new(),
            sought: Sought::nothing(),
            grows: false,
        };
        // Of the base, what did not stand at its place.
        let mut old = Ranges::new();
        let mut copies = Copies::default();
        let (mut index, mut equal) = (0, 0);
        // Of a version everything is known as if it had been asked and answered.
        let version = self.version.as_ref().map(|(_, version)| Arc::clone(&version.chains));
        let patience = if self.sums().is_some() { IMPATIENCE } else { PATIENCE };
        let mut asked = if version.is_some() { common_blocks } else { 0 };
        let mut asking = true;
        // While it seems only to have grown nothing is copied. What grew is written twice then.
        let rest = size.saturating_sub(self.size);
        let mut growing = self.may_grow && have.is_empty() && rest > 0 && rest < self.size;
        while index < blocks {
            self.lane.go_on()?;
            if asking {
                asked = self.ask_ahead(SumHow::Same, reader.block(), common, asked, index).await?;
            }
            let count = segment.min(blocks - index);
            reader = read_to(reader, (index + count) * length).await?;
            let known = asked.saturating_sub(index).min(count) as usize;
            let sums = match &version {
                Some(chains) => {
                    self.believed()?;
                    let chains = chains.iter().skip(index as usize).take(known);
                    chains.flat_map(short).collect()
                }
                None => match self.next(known * size_of::<Short>()).await? {
                    Some(sums) => sums,
                    // It cannot be read any more: all that is left has to be sent.
                    None => {
                        (asking, asked) = (false, index);
                        Vec::new()
                    }
                },
            };
            let mut sums = sums.chunks_exact(size_of::<Short>());
            let chains = reader.chains().get(index as usize..).unwrap_or_default();
            for (chain, index) in chains.iter().zip(index..) {
                let at = index * length;
                let len = length.min(size - at);
                let same = sums.next().is_some_and(|sum| sum == short(chain));
                if have.get(index as usize) == Some(&true) {
                    equal += len;
                } else if same {
                    equal += len;
                    copies.push(at, at, len);
                    push(&mut left.same, at, len);
                } else {
                    push(&mut left.new, at, len);
                    growing &= index >= common_blocks;
                    if index < asked {
                        push(&mut old, at, len.min(self.size - at));
                    }
                }
            }
            index += count;
            if growing && index >= blocks {
                (reader, left.grows) = self.is_known(reader, common).await?;
                if left.grows {
                    return Ok((reader, left));
                }
                growing = false;
            }
            if !growing {
                copies.send(self.lane).await?;
            }
            // On this host nothing is looked for elsewhere.
            let hardly = self.lane.shared.far
                && index * length >= patience
                && equal < index * length / HARDLY;
            // What a former link left is compared to its end: that costs the agent nothing more.
            let early = hardly && index < blocks && have.is_empty();
            if asking && (hardly || index >= blocks) {
                asking = false;
                let ahead = asked.saturating_sub(index);
                if version.is_none() {
                    // What was asked ahead is not wanted any more.
                    self.next(ahead as usize * size_of::<Short>()).await?;
                }
                asked -= ahead;
                // What nobody asked about may stand anywhere.
                let seen = (asked * length).min(common);
                push(&mut old, seen, self.size - seen);
                left.sought = self.search(old.clone(), size - equal).await?;
            }
            if early {
                push(&mut left.new, index * length, size - index * length);
                break;
            }
        }
        Ok((reader, left))
    }

    /// Is it as the file is up to its very end, of which all before `common` is known to be, and does
    /// the agent know it so well that it can grow where it stands?
    async fn is_known(
        &mut self,
        mut reader: FileReader,
        common: u64,
    ) -> Result<(FileReader, bool), Stopped> {
        let (block, stage) = (reader.block(), self.lane.stage);
        // Less than a block.
        let end = (self.size - common) as u32;
        if end > 0 {
            self.ask(SumHow::Same, block, vec![(common, u64::from(end))]).await?;
            let sum = self.next(size_of::<Short>()).await?;
            let same;
            (reader, same) = blocking(move || {
                let chain = reader.chain_of(common / u64::from(block), end)?;
                let same = chain.zip(sum).is_some_and(|(chain, sum)| short(&chain)[..] == sum[..]);
                Ok((reader, same))
            })
            .await?;
            if !same {
                return Ok((reader, false));
            }
        }
        self.lane.shared.bases.ask_again(stage);
        self.lane.say(&Message::Known { stage, version: self.lane.id }).await?;
        let known = matches!(self.answers.next().await?, Said::Is(_, true));
        Ok((reader, known))
    }

    /// The sums of the version's blocks, where they are known.
    pub(super) fn sums(&self) -> Option<&Arc<Index>> {
        self.version.as_ref().and_then(|(_, version)| version.sums.as_ref())
    }

    /// What of the base is looked for, to find `new` bytes in what is left of it: the sums of that
    /// are asked for, unless they are known. Only where sending them costs something.
    async fn search(&mut self, mut old: Ranges, new: u64) -> Result<Sought, Stopped> {
        let block = fine_block(bytes(&old));
        if old.is_empty() || block > BLOCK_MAX || !self.lane.shared.far {
            return Ok(Sought::nothing());
        }
        // Finer ones would find more than those that are known, where little is left.
        if let Some(known) = self.sums().filter(|known| known.block() <= block) {
            return Ok(Sought::known(Arc::clone(known)));
        }
        let count = |len: u64| len.div_ceil(u64::from(block));
        let mut blocks = 0;
        old.truncate(MAX_RANGES);
        let fit = old.iter().take_while(|(_, len)| {
            blocks += count(*len);
            blocks <= MAX_BLOCKS
        });
        let fit = fit.count();
        old.truncate(fit);
        let sums = old.iter().map(|(_, len)| count(*len) * SUM as u64).sum();
        // What is left may be less than its sums, or than what could be sent while they are waited for.
        let little = if self.version.is_some() { UNASKED } else { 0 };
        if old.is_empty() || new <= little.max(sums) {
            return Ok(Sought::nothing());
        }
        self.ask(SumHow::Search, block, old.clone()).await?;
        Ok(Sought::asked(block, old))
    }
}
