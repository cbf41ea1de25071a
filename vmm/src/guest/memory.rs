//! The memory a guest owns, seen from the host: one stretch of physical addresses over one backing.

use std::ops::Range;
use std::sync::Arc;

use efibed_guest::mapper::{MapRequest, MapResult};
use efibed_guest::protocol::{Command, Crash, Fault, OddCall, Panic, Probe, Sweep};

use super::PAGE_BYTES;
use crate::machine::{Backing, BackingError};
use crate::mmu::{Pa, TableMemory};

/// Physical addresses `base..base + bytes`.
#[derive(Clone, Debug)]
pub struct OwnMemory {
    base: u64,
    bytes: u64,
    backing: Arc<Backing>,
}

impl OwnMemory {
    /// Zeroed memory at `base`.
    pub fn new(base: u64, bytes: u64) -> Result<Self, BackingError> {
        let backing = Backing::new(bytes)?;
        Ok(Self { base, bytes: backing.bytes(), backing })
    }

    /// The first `bytes` of a backing, which has as many at least, at `base`.
    pub fn on(backing: Arc<Backing>, base: u64, bytes: u64) -> Self {
        Self { base, bytes: bytes.min(backing.bytes()), backing }
    }

    /// Its first physical address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The end, exclusive.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.bytes)
    }

    /// What is behind it.
    pub fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    /// What is behind it, alone.
    pub fn into_backing(self) -> Arc<Backing> {
        self.backing
    }

    /// Host address minus physical address, wrapping.
    pub fn host_offset(&self) -> u64 {
        (self.backing.host_address() as u64).wrapping_sub(self.base)
    }

    /// The 8 bytes at `pa`, None outside.
    #[inline]
    pub fn read_u64(&self, pa: u64) -> Option<u64> {
        self.backing.read_u64(self.offset(pa, 8)?)
    }

    /// The 64 bytes at `pa`, a multiple of 64, as words; None outside.
    #[inline]
    pub fn read_line(&self, pa: u64) -> Option<[u64; 8]> {
        self.backing.read_line(self.offset(pa, 64)?)
    }

    /// Whether all bytes of a range are zero; false if they are not all inside.
    pub fn is_zero(&self, range: Range<u64>) -> bool {
        let bytes = range.end.saturating_sub(range.start);
        self.offset(range.start, bytes).is_some_and(|offset| self.backing.is_zero(offset..offset.saturating_add(bytes)))
    }

    /// Fills `bytes` from `pa`; false if that is not all inside.
    #[must_use]
    pub fn read(&self, pa: u64, bytes: &mut [u8]) -> bool {
        self.offset(pa, bytes.len() as u64).is_some_and(|offset| self.backing.read(offset, bytes))
    }

    /// The parts of a range, in whole pages, that may have been touched since the memory was new: they are there to be read. All
    /// else is zeros.
    pub fn touched(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let base = self.base;
        let offset = |pa: u64| pa.clamp(base, self.end()).saturating_sub(base);
        let parts = self.backing.touched(offset(range.start)..offset(range.end));
        parts.into_iter().map(move |part| part.start.saturating_add(base)..part.end.saturating_add(base))
    }

    /// Puts `bytes` at `pa`; false if that is not all inside.
    #[must_use]
    pub fn write(&self, pa: u64, bytes: &[u8]) -> bool {
        self.offset(pa, bytes.len() as u64).is_some_and(|offset| self.backing.write(offset, bytes))
    }

    /// A structure at `pa`, None outside.
    pub fn read_object<T: Plain>(&self, pa: u64) -> Option<T> {
        let mut object = std::mem::MaybeUninit::<T>::zeroed();
        // SAFETY: the bytes of the structure, all written to.
        let bytes = unsafe { std::slice::from_raw_parts_mut(object.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
        // SAFETY: any bytes are valid for it, as its trait says.
        self.read(pa, bytes).then(|| unsafe { object.assume_init() })
    }

    /// Puts a structure at `pa`; false if that is not all inside.
    #[must_use]
    pub fn write_object<T: Plain>(&self, pa: u64, object: &T) -> bool {
        self.write(pa, bytes_of(std::slice::from_ref(object)))
    }

    /// Puts structures one after another from `pa` on; false if that is not all inside.
    #[must_use]
    pub fn write_objects<T: Plain>(&self, pa: u64, objects: &[T]) -> bool {
        self.write(pa, bytes_of(objects))
    }

    /// Whether these are at `pa`, one after another; false if that is not all inside.
    pub fn holds<T: Plain>(&self, pa: u64, objects: &[T]) -> bool {
        let bytes = bytes_of(objects);
        self.offset(pa, bytes.len() as u64).is_some_and(|offset| self.backing.equals(offset, bytes))
    }

    /// Puts 8 bytes at `pa`; false outside.
    #[must_use]
    pub fn write_u64(&self, pa: u64, value: u64) -> bool {
        self.write(pa, &value.to_le_bytes())
    }

    /// How far into the backing so many bytes from `pa` on lie; None if they are not all inside.
    #[inline]
    fn offset(&self, pa: u64, bytes: u64) -> Option<u64> {
        let offset = pa.checked_sub(self.base)?;
        (bytes <= self.bytes.checked_sub(offset)?).then_some(offset)
    }
}

fn bytes_of<T: Plain>(objects: &[T]) -> &[u8] {
    // SAFETY: structures without padding, as their trait says: all of their bytes are initialised.
    unsafe { std::slice::from_raw_parts(objects.as_ptr().cast::<u8>(), size_of_val(objects)) }
}

/// A structure that is passed through guest memory.
///
/// # Safety
/// It is an integer, or made of integers, in C's layout, without padding.
pub unsafe trait Plain: Copy {}

// SAFETY: each is `repr(C)`, of u64s, and of u32s in pairs.
unsafe impl Plain for MapRequest {}
// SAFETY: as above.
unsafe impl Plain for MapResult {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: as for the request.
unsafe impl Plain for Command {}
// SAFETY: as above.
unsafe impl Plain for Sweep {}
// SAFETY: as above.
unsafe impl Plain for Probe {}
// SAFETY: as above.
unsafe impl Plain for Fault {}
// SAFETY: as above.
unsafe impl Plain for Crash {}
// SAFETY: as above.
unsafe impl Plain for Panic {}
// SAFETY: as above.
unsafe impl Plain for OddCall {}

impl TableMemory for OwnMemory {
    #[inline]
    fn entry(&self, at: Pa) -> Option<u64> {
        self.read_u64(at.0)
    }

    #[inline]
    fn line(&self, at: Pa) -> Option<[u64; 8]> {
        self.read_line(at.0)
    }

    fn lines_in_use(&self, at: Pa) -> u64 {
        self.offset(at.0, PAGE_BYTES).and_then(|offset| self.backing.lines_in_use(offset)).unwrap_or(u64::MAX)
    }
}
