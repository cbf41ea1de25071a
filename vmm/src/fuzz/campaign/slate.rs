//! What a client says of itself as it goes, in memory that outlives it: the map that it runs, and counts.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};

use super::input::MapInput;
use crate::memory_map::MAX_DESCRIPTORS;

/// Written by a client, read by its supervisor; only [`Word::Stop`] goes the other way. Each word has one writer.
pub struct Slate(MmapRegion);

/// The words at its start.
#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Word {
    /// Maps that were run.
    Runs,
    /// Of those, the ones that lie outside the mapping code's domain.
    Outside,
    /// Of those, the ones that could not be run.
    Unable,
    /// Of those, the ones of which something could not be asked.
    Incomplete,
    /// Of those, the ones that were run in a guest.
    Guests,
    /// Maps worth building on.
    Corpus,
    /// Cells of shape that were seen set.
    Cells,
    /// Counters of coverage that were.
    Covered,
    /// When the present run began, in milliseconds of the monotonic clock; 0: none is under way.
    Since,
    /// Bytes of the present map.
    Length,
    /// Findings that the supervisor was told of.
    Told,
    /// That the client is to end.
    Stop,
}

const WORDS: usize = 16;
const MAP_AT: usize = WORDS * 8;
/// The largest map that can be read, of twice 65,536 descriptors of at most 45 bytes. What is not used takes no memory.
const BYTES: usize = MAP_AT + 2 * MAX_DESCRIPTORS * 45 + 32;

impl Slate {
    /// A new one, and the file that a client finds it in.
    pub fn new() -> io::Result<(Self, File)> {
        let file = tempfile::tempfile()?;
        file.set_len(BYTES as u64)?;
        let slate = Self::of(file.try_clone()?)?;
        Ok((slate, file))
    }

    /// The one that a client was given as its standard input.
    pub fn given() -> io::Result<Self> {
        Self::of(io::stdin().as_fd().try_clone_to_owned()?.into())
    }

    fn of(file: File) -> io::Result<Self> {
        MmapRegion::from_file(FileOffset::new(file, 0), BYTES).map(Self).map_err(io::Error::other)
    }

    /// A word.
    pub fn get(&self, word: Word) -> u64 {
        self.all().load(word as usize * 8, Acquire).unwrap_or(0)
    }

    /// Sets a word.
    pub fn set(&self, word: Word, value: u64) {
        // Every word lies inside.
        let _ = self.all().store(value, word as usize * 8, Release);
    }

    /// Adds to a word of the caller's own.
    pub fn add(&self, word: Word, more: u64) {
        let before: u64 = self.all().load(word as usize * 8, Relaxed).unwrap_or(0);
        self.set(word, before.saturating_add(more));
    }

    /// Says that a run of this map begins.
    pub fn begin(&self, input: &MapInput, buffer: &mut Vec<u8>) {
        buffer.clear();
        let written = postcard::to_extend(input, std::mem::take(buffer));
        *buffer = written.unwrap_or_default();
        let has_room = self.all().write_slice(buffer, MAP_AT).is_ok();
        self.set(Word::Length, if has_room { buffer.len() as u64 } else { 0 });
        self.set(Word::Since, now().as_millis() as u64);
    }

    /// Says that it has ended.
    pub fn end(&self) {
        self.set(Word::Since, 0);
        self.add(Word::Runs, 1);
    }

    /// How long the present run takes already.
    pub fn running_for(&self) -> Option<Duration> {
        let since = Some(self.get(Word::Since)).filter(|since| *since != 0)?;
        Some(now().saturating_sub(Duration::from_millis(since)))
    }

    /// The map that was being run, if one was. A client that died may have left anything.
    pub fn interrupted(&self) -> Option<MapInput> {
        let length = usize::try_from(self.get(Word::Length)).ok().filter(|length| *length <= BYTES - MAP_AT)?;
        let is_running = self.get(Word::Since) != 0;
        let mut bytes = vec![0; length];
        self.all().read_slice(&mut bytes, MAP_AT).ok()?;
        let (input, rest) = postcard::take_from_bytes(&bytes).ok()?;
        (is_running && rest.is_empty()).then_some(input)
    }

    fn all(&self) -> VolatileSlice<'_> {
        self.0.as_volatile_slice()
    }
}

/// The clock that all processes of a machine share.
fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::synthesize::{Class, synthesize};
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType};

    #[test]
    fn the_map_of_an_interrupted_run_is_found() {
        let (slate, file) = Slate::new().unwrap();
        let seen = Slate::of(file).unwrap();
        assert_eq!((seen.interrupted(), seen.running_for()), (None, None));
        let input = MapInput::from(&synthesize(2013, Class::Valid));
        slate.begin(&input, &mut Vec::new());
        assert_eq!(seen.interrupted(), Some(input));
        assert!(seen.running_for().is_some());
        slate.end();
        assert_eq!((seen.interrupted(), seen.running_for(), seen.get(Word::Runs)), (None, None, 1));
    }

    #[test]
    fn the_largest_map_has_room() {
        let largest = MemoryDescriptor {
            ty: MemoryType(u32::MAX),
            padding: 0,
            phys_start: u64::MAX,
            virt_start: u64::MAX,
            page_count: u64::MAX,
            att: MemoryAttribute::from_bits_retain(u64::MAX),
        };
        let all = vec![largest; MAX_DESCRIPTORS];
        let map = MemoryMap::from_descriptors("", all.clone()).with_attributes_table(all);
        let (slate, _) = Slate::new().unwrap();
        let input = MapInput::from(&map);
        slate.begin(&input, &mut Vec::new());
        assert_eq!(slate.interrupted(), Some(input));
    }

    #[test]
    fn what_a_dead_client_left_is_not_trusted() {
        let (slate, _) = Slate::new().unwrap();
        slate.set(Word::Since, 1);
        for length in [0, 7, u64::MAX, BYTES as u64] {
            slate.set(Word::Length, length);
            assert_eq!(slate.interrupted(), None, "{length}");
        }
    }
}
