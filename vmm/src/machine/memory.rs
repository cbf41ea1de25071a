//! Host memory shown to the guest in slots, and the host's own access to it by guest-physical address.
//!
//! What no slot covers has no memory behind it: the guest's accesses there end its run with the
//! physical address ([`Exit::MmioRead`](super::Exit::MmioRead)), and the host's are refused.

use std::arch::x86_64::*;
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_MEM_READONLY, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};
use vmm_sys_util::errno;

use super::{Machine, PAGE_BYTES};
use crate::mmu::Pa;

/// Zeroed host memory that slots show to guests. Costs what is touched of it, not its size.
#[derive(Debug)]
pub struct Backing {
    region: MmapRegion,
    /// While it holds, the system can tell which pages were touched.
    lock: Option<Lock>,
}

/// A stretch of guest-physical memory.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Guest-physical address of its first byte, page-aligned.
    pub phys: Pa,
    /// Its length, whole pages.
    pub bytes: u64,
    /// The guest's writes do not reach it but end the run as writes to nowhere do. The host's own do.
    pub readonly: bool,
    /// The memory shown.
    pub memory: Arc<Backing>,
    /// Where in `memory` it begins, page-aligned. Slots may show the same parts.
    pub offset: u64,
}

impl Backing {
    /// Reserves `bytes`, rounded up to whole pages.
    pub fn new(bytes: u64) -> Result<Arc<Self>, BackingError> {
        let failed = |cause| BackingError { bytes, cause };
        let whole_pages = bytes.checked_next_multiple_of(PAGE_BYTES);
        let size = whole_pages.and_then(|bytes| usize::try_from(bytes).ok());
        let region = MmapRegion::new(size.unwrap_or(usize::MAX)).map_err(failed)?;
        Ok(Arc::new(Self { region, lock: None }))
    }

    /// The same, of which the system tells what was touched ([`Self::touched`]), if it allows so much memory to be locked.
    ///
    /// What it tells is whether a page is in memory. One that is swapped out is not; so none may be, once it was touched.
    pub fn that_tells_touched(bytes: u64) -> Result<Arc<Self>, BackingError> {
        let mut backing = Self::new(bytes)?;
        if let Some(backing) = Arc::get_mut(&mut backing) {
            backing.lock = Lock::of(&backing.region);
        }
        Ok(backing)
    }

    /// Whether the system tells what was touched of it.
    pub fn tells_touched(&self) -> bool {
        self.lock.as_ref().is_some_and(Lock::holds)
    }

    /// Its length.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.region.size() as u64
    }

    /// Where it is mapped in this process, for code that works on it natively.
    pub fn host_address(&self) -> *mut u8 {
        self.region.as_ptr()
    }

    /// Reads eight bytes (little-endian) at an offset; None if they are not inside, or not aligned.
    #[inline]
    pub fn read_u64(&self, offset: u64) -> Option<u64> {
        let is_inside = offset.checked_add(8).is_some_and(|end| end <= self.bytes());
        // Not by the volatile slice: walks over tables read nothing but words, and this is a third of its time.
        (is_inside && offset.is_multiple_of(8)).then(|| {
            let at = self.host_address().wrapping_add(offset as usize);
            // SAFETY: the eight bytes are inside of the mapping, which is page-aligned and lives as long as this does. Others
            // may write to them at the same time, so they are read atomically.
            let word = unsafe { AtomicU64::from_ptr(at.cast()) };
            u64::from_le(word.load(Ordering::Relaxed))
        })
    }

    /// Eight words (little-endian) from an offset on, which is a multiple of 64: a line of the cache; None if it is not inside.
    #[inline]
    pub fn read_line(&self, offset: u64) -> Option<[u64; 8]> {
        let is_inside = offset.checked_add(64).is_some_and(|end| end <= self.bytes());
        (is_inside && offset.is_multiple_of(64)).then(|| {
            let at = self.host_address().wrapping_add(offset as usize);
            // SAFETY: the line is inside of the mapping, which is page-aligned and lives as long as this does. It is copied, as
            // by `read`; a guest that runs meanwhile spoils the value and nothing else.
            unsafe { at.cast::<[u64; 8]>().read() }.map(u64::from_le)
        })
    }

    /// Which of the 64 lines of a page are not all zeros, bit n for line n; None if there is no page at the offset.
    pub fn lines_in_use(&self, offset: u64) -> Option<u64> {
        let at = self.at(offset, PAGE_BYTES).filter(|_| offset.is_multiple_of(64))?;
        // SAFETY: the page is inside of the mapping, which lives as long as this does, and begins at a multiple of 64.
        Some(unsafe { lines_in_use(at.cast()) })
    }

    /// Whether these are the bytes from an offset on; false if there are not so many inside.
    pub fn equals(&self, offset: u64, bytes: &[u8]) -> bool {
        self.at(offset, bytes.len() as u64).is_some_and(|at| {
            // Not by a slice of the mapping: others may write to it.
            // SAFETY: as many bytes are inside of the mapping, which lives as long as this does.
            unsafe { libc::memcmp(at.cast(), bytes.as_ptr().cast(), bytes.len()) == 0 }
        })
    }

    /// Whether all bytes of a range are zero; false if they are not all inside.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        pages(&range).all(|page| match page.end - page.start {
            PAGE_BYTES => self.lines_in_use(page.start) == Some(0),
            bytes => self.equals(page.start, &ZEROS[..bytes as usize]),
        })
    }

    /// Where so many bytes from an offset on are in this process; None if they are not all inside.
    #[inline]
    fn at(&self, offset: u64, bytes: u64) -> Option<*mut u8> {
        let is_inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes());
        is_inside.then(|| self.host_address().wrapping_add(offset as usize))
    }

    /// Zeroes a range, as much of it as is inside.
    pub fn zero(&self, range: Range<u64>) {
        let end = range.end.min(self.bytes());
        if range.start < end {
            let at = self.host_address().wrapping_add(range.start as usize);
            // SAFETY: the range is a part of this mapping, and nobody holds a reference into it.
            unsafe { at.write_bytes(0, (end - range.start) as usize) };
        }
    }

    /// Brings the pages of a range into memory, all at once instead of each with its first write; as many as the system will
    /// (MADV_POPULATE_WRITE, since Linux 5.14). Nothing in them changes.
    pub fn populate(&self, range: Range<u64>) {
        // What the system will not do is left to the first writes.
        let _ = self.advise(range, libc::MADV_POPULATE_WRITE);
    }

    /// The parts of a range, in whole pages, that may have been touched since the memory was new: they are there to be read. All
    /// else is zeros. Where the system does not tell, that is the whole range.
    pub fn touched(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let start = range.start & !(PAGE_BYTES - 1);
        let end = range.end.min(self.bytes()).next_multiple_of(PAGE_BYTES);
        if start >= end {
            return Vec::new();
        }
        /// So few pages are read as fast as the system is asked.
        const FEW: u64 = 8;
        if (end - start) / PAGE_BYTES <= FEW {
            return iter::once(start..end).collect();
        }
        let mut pages = vec![0_u8; ((end - start) / PAGE_BYTES) as usize];
        let tells = self.tells_touched() && {
            let at = self.host_address().wrapping_add(start as usize);
            // SAFETY: there is a byte for each page of the range, which is a part of this mapping.
            unsafe { libc::mincore(at.cast(), (end - start) as usize, pages.as_mut_ptr()) == 0 }
        };
        if !tells {
            // They will be read, and the first read of each would be a fault of its own. What the system will not do is left to
            // those faults.
            let _ = self.advise(start..end, libc::MADV_POPULATE_READ);
            return iter::once(start..end).collect();
        }
        let mut at = start;
        let runs = pages.chunk_by(|one, other| one & 1 == other & 1).map(|run| {
            let first = at;
            at += run.len() as u64 * PAGE_BYTES;
            (run[0] & 1 != 0).then_some(first..at)
        });
        runs.flatten().collect()
    }

    /// Fills `bytes` from an offset; false if they are not all inside.
    #[must_use]
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> bool {
        usize::try_from(offset).is_ok_and(|at| self.region.as_volatile_slice().read_slice(bytes, at).is_ok())
    }

    /// Puts `bytes` at an offset; false if there is no room for all of them.
    #[must_use]
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        usize::try_from(offset).is_ok_and(|at| self.region.as_volatile_slice().write_slice(bytes, at).is_ok())
    }

    /// Makes it all zeros again and gives its pages back. Not for while a guest runs on it.
    pub fn clear(&self) -> Result<(), errno::Error> {
        self.clear_part(0..self.bytes())
    }

    /// The same of a part, in whole pages.
    pub fn clear_part(&self, range: Range<u64>) -> Result<(), errno::Error> {
        self.advise(range, libc::MADV_DONTNEED)
    }

    /// Tells the system what to do with the pages of a range, as far as it is inside (madvise(2)).
    fn advise(&self, range: Range<u64>, advice: libc::c_int) -> Result<(), errno::Error> {
        let start = range.start & !(PAGE_BYTES - 1);
        let end = range.end.min(self.bytes());
        if start >= end {
            return Ok(());
        }
        let at = self.host_address().wrapping_add(start as usize);
        // SAFETY: the range is a part of this mapping, private and anonymous. What is asked for above leaves its bytes as they are, or
        // has them read as zeros; all access to it is volatile or atomic, so none is surprised by a new value.
        let result = unsafe { libc::madvise(at.cast(), (end - start) as usize, advice) };
        if result == 0 { Ok(()) } else { Err(errno::Error::last()) }
    }
}

/// The pages that a range has a part in, as much of each as it has.
pub fn pages(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let Range { start, end } = *range;
    let pages = (start & !(PAGE_BYTES - 1)..end).step_by(PAGE_BYTES as usize);
    pages.map(move |page| page.max(start)..end.min(page.saturating_add(PAGE_BYTES)))
}

/// That no page of a memory leaves it once it was touched. A child process has a copy of the memory, and no lock (mlock(2)). To be
/// told so, it finds zeros in a page (MADV_WIPEONFORK, madvise(2)): to ask for the process's number each time is a call.
#[derive(Debug)]
struct Lock(MmapRegion);

impl Lock {
    /// None: the system does not lock so much, or is older than Linux 4.14.
    fn of(memory: &MmapRegion) -> Option<Self> {
        let page = MmapRegion::new(PAGE_BYTES as usize).ok()?;
        // SAFETY: the range is this mapping.
        let is_wiped = unsafe { libc::madvise(page.as_ptr().cast(), page.size(), libc::MADV_WIPEONFORK) } == 0;
        let (at, size) = (memory.as_ptr(), memory.size());
        // SAFETY: as above, of the other mapping. No byte of it is changed.
        let is_locked = is_wiped && unsafe { libc::mlock2(at.cast(), size, libc::MLOCK_ONFAULT as _) } == 0;
        let lock = is_locked.then_some(Self(page))?;
        lock.mark().store(1, Ordering::Relaxed);
        Some(lock)
    }

    fn holds(&self) -> bool {
        self.mark().load(Ordering::Relaxed) != 0
    }

    fn mark(&self) -> &AtomicU64 {
        // SAFETY: it is the beginning of a page that lives as long as this does, and nobody reads or writes otherwise.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) }
    }
}

/// A page, line by line.
type Page = [[u64; 8]; 64];

/// Which of the lines of a page are not all zeros.
///
/// # Safety
/// It is there to be read. A guest that writes to it meanwhile spoils the value and nothing else.
unsafe fn lines_in_use(page: *const Page) -> u64 {
    match is_x86_feature_detected!("avx2") {
        // SAFETY: as the caller vouches; and the CPU has what it needs.
        true => unsafe { lines_in_use_avx2(page) },
        // SAFETY: as the caller vouches.
        false => unsafe { lines_in_use_any(page) },
    }
}

/// The same on registers of 32 bytes, eight lines at a time and without a branch: which lines are in use, no CPU foresees.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx2")]
unsafe fn lines_in_use_avx2(page: *const Page) -> u64 {
    const LINES: usize = 8;
    let half = |nth: usize| {
        // SAFETY: as the caller vouches, for half a line of the page.
        unsafe { _mm256_loadu_si256(page.cast::<__m256i>().add(nth)) }
    };
    let line = |nth: usize| _mm256_or_si256(half(2 * nth), half(2 * nth + 1));
    // To pack saturates, so what is not zero stays so. Each half of what comes out has a dword of each of the four lines.
    let four = |nth: usize| {
        let two = |nth: usize| _mm256_packs_epi32(line(nth), line(nth + 1));
        _mm256_packs_epi16(two(nth), two(nth + 2))
    };
    // From the first line to the last, as caches expect.
    (0..64).step_by(LINES).fold(0, |in_use, nth| {
        let (these, next) = (four(nth), four(nth + 4));
        let lower = _mm256_permute2x128_si256::<0x20>(these, next);
        let upper = _mm256_permute2x128_si256::<0x31>(these, next);
        let is_zero = _mm256_cmpeq_epi32(_mm256_or_si256(lower, upper), _mm256_setzero_si256());
        let zeros = _mm256_movemask_ps(_mm256_castsi256_ps(is_zero)) as u64;
        in_use >> LINES | !zeros << (64 - LINES)
    })
}

/// The same on any CPU.
///
/// # Safety
/// As above.
unsafe fn lines_in_use_any(page: *const Page) -> u64 {
    // From the last on: to shift by one is faster than by as many bits as the line's number says.
    (0..64).rev().fold(0, |lines, nth| {
        // SAFETY: as the caller vouches, for a line of the page.
        let line = unsafe { (&raw const (*page)[nth]).read() };
        lines << 1 | u64::from(line.iter().fold(0, |bits, word| bits | word) != 0)
    })
}

/// Memory could not be reserved.
#[derive(Debug, thiserror::Error)]
#[error("reserving {bytes:#x} bytes of memory failed: {cause}")]
pub struct BackingError {
    /// How much was wanted.
    pub bytes: u64,
    /// What the system said.
    pub cause: MmapRegionError,
}

/// An access by the host met an address without memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes at physical {phys}: there is memory for only {completed} of them")]
pub struct AccessError {
    /// Where the access began.
    pub phys: Pa,
    /// How many bytes it was for.
    pub wanted: usize,
    /// How many were read or written.
    pub completed: usize,
}

/// Why a slot was refused. Addresses are guest-physical, ends exclusive.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SlotError {
    /// An address or length is not a multiple of the page size.
    #[error("slot at {phys} ({bytes:#x} bytes, offset {offset:#x}): not in whole 4-KiB pages")]
    Unaligned {
        /// Its address.
        phys: Pa,
        /// Its length.
        bytes: u64,
        /// Its offset in the backing.
        offset: u64,
    },
    /// It has no bytes, or more than there are addresses.
    #[error("slot at {phys} of {bytes:#x} bytes: empty, or past the end of the address space")]
    Extent {
        /// Its address.
        phys: Pa,
        /// Its length.
        bytes: u64,
    },
    /// It shows more than its backing has.
    #[error("slot at {phys} shows bytes up to {end:#x} of a backing of {backing:#x}")]
    Backing {
        /// Its address.
        phys: Pa,
        /// Where it ends in the backing.
        end: u64,
        /// The backing's length.
        backing: u64,
    },
    /// Another slot, or KVM's own pages, are there.
    #[error("slot {:#x}..{:#x} overlaps {:#x}..{:#x}{}", slot.start, slot.end, other.start, other.end,
            if *internal { ", where KVM's own pages are" } else { "" })]
    Overlap {
        /// Where it was to be.
        slot: Range<u64>,
        /// What is there.
        other: Range<u64>,
        /// Whether that is [`Internals`](super::Internals).
        internal: bool,
    },
    /// As many slots as KVM allows.
    #[error("all of KVM's {limit} memory slots are in use")]
    Full {
        /// How many there may be.
        limit: usize,
    },
    /// KVM refused.
    #[error("KVM_SET_USER_MEMORY_REGION for {:#x}..{:#x} failed: {cause}", slot.start, slot.end)]
    Kvm {
        /// The slot.
        slot: Range<u64>,
        /// What KVM said.
        cause: errno::Error,
    },
}

impl Machine {
    /// Puts memory at a guest-physical address.
    pub fn add_slot(&mut self, slot: Slot) -> Result<(), SlotError> {
        let range = slot.check()?;
        for other in self.internals.ranges() {
            if overlap(&range, &other) {
                return Err(SlotError::Overlap { slot: range, other, internal: true });
            }
        }
        self.memory.add(&self.vm, slot, range)
    }

    /// Takes all memory away. KVM lets go of it before the next run, except of what is there again by then: to make that anew
    /// costs more.
    pub(super) fn set_slots_aside(&mut self) {
        self.memory.set_aside();
    }

    /// Memory that was shown at this address when the machine was last reset, if it has so many bytes and nobody uses it any
    /// more. What is in it is what was left there.
    pub fn memory_before_reset(&self, phys: Pa, bytes: u64) -> Option<Arc<Backing>> {
        self.memory.set_aside_at(phys).filter(|backing| backing.bytes() == bytes).cloned()
    }

    /// Vouches for a slot that is where it was before the last reset, with the same memory: whatever tables the guest had in it
    /// are as they were. So KVM may go on with what it knows of them.
    pub fn keep_translations(&mut self, phys: Pa) {
        self.memory.keep(phys);
    }

    /// Before a run: has KVM let go of what was there before the last reset, and of the translations it knew then. The host
    /// has written other tables since, where there may be the same memory.
    pub(super) fn settle_slots(&mut self) -> Result<(), SlotError> {
        self.memory.let_go_of_all(&self.vm)?;
        let stale = self.memory.take_stale();
        self.forget(stale)
    }

    /// The slots there are, by address.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.memory.mounted.iter().map(|mounted| &mounted.slot)
    }

    /// Reads guest memory. Bytes before an address without memory are read even on error.
    pub fn read(&self, phys: Pa, bytes: &mut [u8]) -> Result<(), AccessError> {
        self.memory.each_part(phys, bytes.len(), |backing, at, part| {
            backing.region.as_volatile_slice().read_slice(&mut bytes[part], at).is_ok()
        })
    }

    /// Writes guest memory, [`readonly`](Slot::readonly) or not. Bytes before an address without
    /// memory are written even on error.
    pub fn write(&mut self, phys: Pa, bytes: &[u8]) -> Result<(), AccessError> {
        self.memory.each_part(phys, bytes.len(), |backing, at, part| {
            backing.region.as_volatile_slice().write_slice(&bytes[part], at).is_ok()
        })
    }

    /// Reads eight bytes (little-endian), in one load where `phys` is aligned.
    #[inline]
    pub fn read_u64(&self, phys: Pa) -> Option<u64> {
        if let Some((backing, at)) = self.memory.aligned_u64(phys) {
            let cell = backing.region.get_atomic_ref::<AtomicU64>(at).ok()?;
            return Some(u64::from_le(cell.load(Ordering::Relaxed)));
        }
        let mut bytes = [0; 8];
        self.read(phys, &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Writes eight bytes (little-endian), in one store where `phys` is aligned.
    pub fn write_u64(&mut self, phys: Pa, value: u64) -> Result<(), AccessError> {
        if let Some((backing, at)) = self.memory.aligned_u64(phys)
            && let Ok(cell) = backing.region.get_atomic_ref::<AtomicU64>(at)
        {
            cell.store(value.to_le(), Ordering::Relaxed);
            return Ok(());
        }
        self.write(phys, &value.to_le_bytes())
    }

    /// Whether there is memory at an address.
    pub fn is_backed(&self, phys: Pa) -> bool {
        self.memory.find(phys).is_some()
    }

    /// Makes KVM forget every translation it has cached, as after the host has edited page tables
    /// that the guest uses: a shadow MMU learns of the guest's writes only.
    pub fn forget_translations(&mut self) -> Result<(), SlotError> {
        let all = self.slots().cloned().collect();
        self.forget(all)
    }

    /// The same of those by tables in the slot at an address.
    pub fn forget_translations_by(&mut self, phys: Pa) -> Result<(), SlotError> {
        let slot = self.memory.find(phys).map(|mounted| mounted.slot.clone());
        self.forget(slot.into_iter().collect())
    }

    /// Makes KVM forget what it knows of the tables in some slots. It does so when a slot is deleted: of that one, or else, as by
    /// default, of all memory, for which one is added and removed.
    fn forget(&mut self, slots: Vec<Slot>) -> Result<(), SlotError> {
        if self.memory.forgets_by_slot {
            return slots.into_iter().try_for_each(|slot| {
                self.memory.remove_at(&self.vm, slot.phys)?;
                self.add_slot(slot)
            });
        }
        let Some(slot) = slots.into_iter().next() else { return Ok(()) };
        let phys = self.memory.free_page(&self.internals.ranges());
        self.add_slot(Slot { phys, bytes: PAGE_BYTES, readonly: true, offset: 0, ..slot })?;
        self.memory.remove_at(&self.vm, phys)
    }
}

impl Slot {
    fn is_same(&self, other: &Self) -> bool {
        let place = |slot: &Self| (slot.phys, slot.bytes, slot.readonly, slot.offset);
        place(self) == place(other) && Arc::ptr_eq(&self.memory, &other.memory)
    }

    fn check(&self) -> Result<Range<u64>, SlotError> {
        let Self { phys, bytes, offset, .. } = *self;
        if (phys.0 | bytes | offset) & (PAGE_BYTES - 1) != 0 {
            return Err(SlotError::Unaligned { phys, bytes, offset });
        }
        let end = match phys.0.checked_add(bytes) {
            Some(end) if bytes != 0 => end,
            _ => return Err(SlotError::Extent { phys, bytes }),
        };
        let backing = self.memory.bytes();
        let shown = offset.saturating_add(bytes);
        if shown > backing {
            return Err(SlotError::Backing { phys, end: shown, backing });
        }
        Ok(phys.0..end)
    }
}

/// The slots of a machine, by address.
pub(super) struct Memory {
    mounted: Vec<Mounted>,
    /// Those from before the last reset, which KVM still has.
    aside: Vec<Mounted>,
    /// With a slot that is deleted KVM forgets what it knows of the tables in that one, not all it knows.
    forgets_by_slot: bool,
    /// Numbers of slots that were removed, to be used again.
    free_numbers: Vec<u32>,
    /// Where the last search ended: a page-table walk stays in one slot.
    last: AtomicUsize,
    limit: usize,
}

struct Mounted {
    slot: Slot,
    range: Range<u64>,
    number: u32,
    /// KVM may know translations by tables in it from before the last reset.
    is_stale: bool,
}

impl Memory {
    pub(super) fn new(vm: &VmFd, limit: usize) -> Self {
        Self {
            mounted: Vec::new(),
            aside: Vec::new(),
            forgets_by_slot: forget_by_slot(vm),
            free_numbers: Vec::new(),
            last: AtomicUsize::new(0),
            limit,
        }
    }

    fn add(&mut self, vm: &VmFd, slot: Slot, range: Range<u64>) -> Result<(), SlotError> {
        let index = self.mounted.partition_point(|mounted| mounted.range.end <= range.start);
        if let Some(other) = self.mounted.get(index)
            && overlap(&other.range, &range)
        {
            return Err(SlotError::Overlap { slot: range, other: other.range.clone(), internal: false });
        }
        if let Some(same) = self.aside.iter().position(|aside| aside.slot.is_same(&slot)) {
            self.mounted.insert(index, self.aside.swap_remove(same));
            return Ok(());
        }
        while let Some(other) = self.aside.iter().position(|aside| overlap(&aside.range, &range)) {
            self.let_go(vm, other)?;
        }
        let number = self.take_number()?;
        if let Err(cause) = tell(vm, number, &slot, slot.bytes) {
            self.free_numbers.push(number);
            return Err(SlotError::Kvm { slot: range, cause });
        }
        let mounted = Mounted { slot, range, number, is_stale: false };
        self.mounted.insert(index, mounted);
        Ok(())
    }

    fn take_number(&mut self) -> Result<u32, SlotError> {
        if self.mounted.len() + self.aside.len() >= self.limit {
            return Err(SlotError::Full { limit: self.limit });
        }
        // Numbers are handed out densely: those in use and those free are all there have been.
        let unused = (self.mounted.len() + self.aside.len() + self.free_numbers.len()) as u32;
        Ok(self.free_numbers.pop().unwrap_or(unused))
    }

    fn set_aside(&mut self) {
        self.mounted.iter_mut().for_each(|mounted| mounted.is_stale = true);
        self.aside.append(&mut self.mounted);
    }

    fn keep(&mut self, phys: Pa) {
        if let Some(index) = self.index_of(phys) {
            self.mounted[index].is_stale = false;
        }
    }

    /// Those in which there may be stale tables, which are taken to be fresh from now on.
    fn take_stale(&mut self) -> Vec<Slot> {
        let stale = |mounted: &mut Mounted| std::mem::take(&mut mounted.is_stale).then(|| mounted.slot.clone());
        self.mounted.iter_mut().filter_map(stale).collect()
    }

    /// What was shown at an address, if nothing but slots has it.
    fn set_aside_at(&self, phys: Pa) -> Option<&Arc<Backing>> {
        let at = self.aside.iter().find(|aside| aside.range.start == phys.0)?;
        let memory = &at.slot.memory;
        let shown = self.aside.iter().filter(|aside| Arc::ptr_eq(&aside.slot.memory, memory)).count();
        (Arc::strong_count(memory) == shown).then_some(memory)
    }

    /// Lets go of all that was set aside.
    fn let_go_of_all(&mut self, vm: &VmFd) -> Result<(), SlotError> {
        while let Some(last) = self.aside.len().checked_sub(1) {
            self.let_go(vm, last)?;
        }
        Ok(())
    }

    /// A slot that KVM would not let go of stays, and with it the memory it shows.
    fn let_go(&mut self, vm: &VmFd, index: usize) -> Result<(), SlotError> {
        unmount(vm, &self.aside[index])?;
        self.free_numbers.push(self.aside.swap_remove(index).number);
        if !self.forgets_by_slot {
            self.mounted.iter_mut().chain(&mut self.aside).for_each(|mounted| mounted.is_stale = false);
        }
        Ok(())
    }

    fn remove_at(&mut self, vm: &VmFd, phys: Pa) -> Result<(), SlotError> {
        match self.index_of(phys) {
            Some(index) => self.remove(vm, index),
            None => Ok(()),
        }
    }

    /// See [`Self::let_go`].
    fn remove(&mut self, vm: &VmFd, index: usize) -> Result<(), SlotError> {
        unmount(vm, &self.mounted[index])?;
        self.free_numbers.push(self.mounted.remove(index).number);
        Ok(())
    }

    /// A page that neither a slot nor KVM itself uses.
    fn free_page(&self, internals: &[Range<u64>]) -> Pa {
        let used = self.mounted.iter().map(|mounted| &mounted.range).chain(internals);
        let mut candidates: Vec<u64> = used.clone().map(|range| range.end).collect();
        candidates.push(0);
        let is_free = |&phys: &u64| {
            let page = phys..phys.saturating_add(PAGE_BYTES);
            !page.is_empty() && !used.clone().any(|range| overlap(range, &page))
        };
        // The end of the highest range is always free, unless it is that of the address space.
        candidates.sort_unstable();
        Pa(candidates.into_iter().find(is_free).unwrap_or(0))
    }

    #[inline]
    fn find(&self, phys: Pa) -> Option<&Mounted> {
        self.index_of(phys).map(|index| &self.mounted[index])
    }

    #[inline]
    fn index_of(&self, phys: Pa) -> Option<usize> {
        let last = self.last.load(Ordering::Relaxed);
        if let Some(mounted) = self.mounted.get(last)
            && mounted.range.contains(&phys.0)
        {
            return Some(last);
        }
        let index = self.mounted.partition_point(|mounted| mounted.range.end <= phys.0);
        let found = self.mounted.get(index)?.range.contains(&phys.0);
        found.then(|| {
            self.last.store(index, Ordering::Relaxed);
            index
        })
    }

    /// An aligned address cannot cross the end of a slot.
    #[inline]
    fn aligned_u64(&self, phys: Pa) -> Option<(&Backing, usize)> {
        if !phys.0.is_multiple_of(8) {
            return None;
        }
        self.find(phys).map(|mounted| mounted.locate(phys))
    }

    /// Splits an access at the borders of slots. `access` gets a backing, the offset in it, and
    /// which of the bytes.
    fn each_part(
        &self,
        phys: Pa,
        wanted: usize,
        mut access: impl FnMut(&Backing, usize, Range<usize>) -> bool,
    ) -> Result<(), AccessError> {
        let mut completed = 0;
        while completed < wanted {
            let at = phys.checked_add(completed as u64);
            let refused = AccessError { phys, wanted, completed };
            let at = at.ok_or(refused)?;
            let mounted = self.find(at).ok_or(refused)?;
            let left = usize::try_from(mounted.range.end - at.0).unwrap_or(usize::MAX);
            let part = completed..completed + left.min(wanted - completed);
            let (backing, offset) = mounted.locate(at);
            completed = part.end;
            if !access(backing, offset, part) {
                return Err(refused);
            }
        }
        Ok(())
    }
}

impl Mounted {
    /// Only for an address in the slot.
    #[inline]
    fn locate(&self, phys: Pa) -> (&Backing, usize) {
        let offset = self.slot.offset + (phys.0 - self.range.start);
        (&self.slot.memory, offset as usize)
    }
}

/// Whether two ranges share an address.
pub(super) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn unmount(vm: &VmFd, mounted: &Mounted) -> Result<(), SlotError> {
    tell(vm, mounted.number, &mounted.slot, 0).map_err(|cause| SlotError::Kvm { slot: mounted.range.clone(), cause })
}

/// Asks KVM to forget by slot: since Linux 6.12 it can, and all else is a quirk that is kept for the sake of old users.
fn forget_by_slot(vm: &VmFd) -> bool {
    let mut quirk = kvm_enable_cap { cap: KVM_CAP_DISABLE_QUIRKS2, ..Default::default() };
    quirk.args[0] = KVM_X86_QUIRK_SLOT_ZAP_ALL.into();
    vm.enable_cap(&quirk).is_ok()
}

/// Tells KVM of a slot, or with no `bytes` that it is gone.
fn tell(vm: &VmFd, number: u32, slot: &Slot, bytes: u64) -> Result<(), errno::Error> {
    let flags = if slot.readonly { KVM_MEM_READONLY } else { 0 };
    let region = kvm_userspace_memory_region {
        slot: number,
        flags,
        guest_phys_addr: slot.phys.0,
        memory_size: bytes,
        userspace_addr: slot.memory.region.as_ptr() as u64 + slot.offset,
    };
    // SAFETY: `Slot::check` found the range within the backing, and `Memory` holds on to the backing
    // until KVM has let go of the slot or, by the order of `Machine`'s fields, the VM is gone.
    unsafe { vm.set_user_memory_region(region) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 16;

    fn touch(backing: &Backing, pages: &[u64]) {
        pages.iter().for_each(|page| assert!(backing.write(page * PAGE_BYTES + 8, &[1])));
    }

    #[test]
    fn the_system_tells_what_was_touched_where_memory_may_be_locked() {
        let backing = Backing::that_tells_touched(PAGES * PAGE_BYTES).unwrap();
        if !backing.tells_touched() {
            return eprintln!("skipped: this process may not lock {PAGES} pages (RLIMIT_MEMLOCK)");
        }
        let touched = |bytes: Range<u64>| -> Vec<[u64; 2]> {
            backing.touched(bytes).into_iter().map(|run| [run.start / PAGE_BYTES, run.end / PAGE_BYTES]).collect()
        };
        let of_pages = |pages: Range<u64>| touched(pages.start * PAGE_BYTES..pages.end * PAGE_BYTES);
        assert_eq!(of_pages(0..PAGES), [[0; 2]; 0]);
        touch(&backing, &[3, 4, 9, 15]);
        assert_eq!(of_pages(0..PAGES), [[3, 5], [9, 10], [15, 16]]);
        assert_eq!(of_pages(4..15), [[4, 5], [9, 10]]);
        // A part of a page is the page, and what is past the end is nothing.
        assert_eq!(touched(4 * PAGE_BYTES + 8..4 * PAGE_BYTES + 16), [[4, 5]]);
        assert_eq!(of_pages(15..99), [[15, 16]]);
        assert_eq!(of_pages(16..99), [[0; 2]; 0]);
        // What is zero again was touched nevertheless.
        backing.zero(3 * PAGE_BYTES..5 * PAGE_BYTES);
        assert_eq!(of_pages(0..9), [[3, 5]]);
        assert!(backing.is_zero(0..9 * PAGE_BYTES) && !backing.is_zero(0..10 * PAGE_BYTES));
        // The system is not asked about a few.
        assert_eq!(of_pages(0..5), [[0, 5]]);
        backing.zero(9 * PAGE_BYTES..u64::MAX);
        assert!(backing.is_zero(0..PAGES * PAGE_BYTES));
    }

    #[test]
    fn pages_are_brought_in_as_they_are() {
        let backing = Backing::that_tells_touched(PAGES * PAGE_BYTES).unwrap();
        if !backing.tells_touched() {
            return eprintln!("skipped: this process may not lock {PAGES} pages (RLIMIT_MEMLOCK)");
        }
        touch(&backing, &[4]);
        backing.populate(3 * PAGE_BYTES + 8..6 * PAGE_BYTES);
        backing.populate(PAGES * PAGE_BYTES - 1..u64::MAX);
        backing.populate(PAGES * PAGE_BYTES..u64::MAX);
        let is_zero = |page: u64| backing.is_zero(page * PAGE_BYTES..(page + 1) * PAGE_BYTES);
        let in_memory = backing.touched(0..PAGES * PAGE_BYTES);
        assert_eq!([3, 4, 5, 15].map(is_zero), [true, false, true, true]);
        if in_memory.len() == 1 {
            return eprintln!("skipped: this system brings no pages in (Linux 5.14)");
        }
        assert_eq!(in_memory, [3 * PAGE_BYTES..6 * PAGE_BYTES, 15 * PAGE_BYTES..16 * PAGE_BYTES]);
    }

    #[test]
    fn what_is_not_told_may_all_have_been_touched() {
        let backing = Backing::new(PAGES * PAGE_BYTES).unwrap();
        assert!(!backing.tells_touched());
        assert_eq!(backing.touched(0..PAGES * PAGE_BYTES).first(), Some(&(0..PAGES * PAGE_BYTES)));
        touch(&backing, &[7]);
        assert!(!backing.is_zero(0..PAGES * PAGE_BYTES) && backing.is_zero(0..7 * PAGE_BYTES + 8));
        assert!(!backing.is_zero(7 * PAGE_BYTES + 8..7 * PAGE_BYTES + 9));
        assert!(!backing.is_zero(15 * PAGE_BYTES..17 * PAGE_BYTES), "not all of it is inside");
    }

    #[test]
    fn bytes_are_compared_and_lines_are_told_where_they_are_inside() {
        let backing = Backing::new(2 * PAGE_BYTES).unwrap();
        let end = 2 * PAGE_BYTES;
        assert!(backing.write(PAGE_BYTES + 3 * 64 + 63, &[7]) && backing.write(end - 1, &[9]));
        assert_eq!([0, PAGE_BYTES].map(|page| backing.lines_in_use(page)), [Some(0), Some(1 << 3 | 1 << 63)]);
        assert_eq!([PAGE_BYTES + 64, end, u64::MAX - 63].map(|offset| backing.lines_in_use(offset)), [None; 3]);
        assert!(backing.equals(end - 2, &[0, 9]) && backing.equals(end, &[]));
        assert!(!backing.equals(end - 2, &[0, 8]) && !backing.equals(end - 1, &[9, 0]));
    }

    #[test]
    fn each_byte_of_a_page_is_seen_in_its_line_on_any_cpu() {
        let backing = Backing::new(PAGE_BYTES).unwrap();
        let page: *const Page = backing.host_address().cast();
        for byte in 0..PAGE_BYTES {
            assert!(backing.write(byte, &[1 << (byte % 8)]));
            let line = 1 << (byte / 64);
            assert_eq!((backing.lines_in_use(0), backing.is_zero(0..PAGE_BYTES)), (Some(line), false), "{byte}");
            // SAFETY: it is a page, and lives as long as the backing.
            assert_eq!(unsafe { lines_in_use_any(page) }, line, "{byte}");
            assert!(backing.write(byte, &[0]));
        }
        assert!(backing.is_zero(0..PAGE_BYTES));
        assert!(backing.write(0, &[1; PAGE_BYTES as usize]));
        assert_eq!(backing.lines_in_use(0), Some(u64::MAX));
    }

    #[test]
    fn only_aligned_words_that_are_inside_are_read() {
        let backing = Backing::new(PAGE_BYTES).unwrap();
        assert!(backing.write(PAGE_BYTES - 8, &[1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(backing.read_u64(PAGE_BYTES - 8), Some(0x0807_0605_0403_0201));
        for offset in [1, 4, PAGE_BYTES - 4, PAGE_BYTES, u64::MAX - 7, u64::MAX] {
            assert_eq!(backing.read_u64(offset), None, "{offset:#x}");
        }
    }
}
