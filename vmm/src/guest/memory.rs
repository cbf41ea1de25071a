//! The memory a guest owns, seen from the host: one stretch of physical addresses over one backing.

use std::sync::Arc;

use crate::machine::{Backing, BackingError};
use crate::mmu::{Pa, TableMemory};

/// Physical addresses `base..base + bytes`.
#[derive(Clone, Debug)]
pub struct OwnMemory {
    base: u64,
    backing: Arc<Backing>,
}

impl OwnMemory {
    /// Zeroed memory at `base`.
    pub fn new(base: u64, bytes: u64) -> Result<Self, BackingError> {
        Ok(Self { base, backing: Backing::new(bytes)? })
    }

    /// Its first physical address.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The end, exclusive.
    pub fn end(&self) -> u64 {
        self.base + self.backing.bytes()
    }

    /// What is behind it.
    pub fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    /// Host address minus physical address, wrapping.
    pub fn host_offset(&self) -> u64 {
        (self.backing.host_address() as u64).wrapping_sub(self.base)
    }

    /// The 8 bytes at `pa`, None outside.
    #[inline]
    pub fn read_u64(&self, pa: u64) -> Option<u64> {
        self.backing.read_u64(pa.checked_sub(self.base)?)
    }

    /// Fills `bytes` from `pa`; false if that is not all inside.
    #[must_use]
    pub fn read(&self, pa: u64, bytes: &mut [u8]) -> bool {
        pa.checked_sub(self.base).is_some_and(|offset| self.backing.read(offset, bytes))
    }

    /// Puts `bytes` at `pa`; false if that is not all inside.
    #[must_use]
    pub fn write(&self, pa: u64, bytes: &[u8]) -> bool {
        pa.checked_sub(self.base).is_some_and(|offset| self.backing.write(offset, bytes))
    }

    /// Puts 8 bytes at `pa`; false outside.
    #[must_use]
    pub fn write_u64(&self, pa: u64, value: u64) -> bool {
        self.write(pa, &value.to_le_bytes())
    }
}

impl TableMemory for OwnMemory {
    #[inline]
    fn entry(&self, at: Pa) -> Option<u64> {
        self.read_u64(at.0)
    }
}
