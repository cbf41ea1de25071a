//! The page tables a guest starts on.
//!
//! Two roots: the kernel's, with the image at the top 2 GiB, the direct map of the guest's own memory, and the two pages
//! of ring 3; and the boot root, which has all that and, at their physical addresses, the pages firmware runs in before
//! the switch. 4 KiB leaves throughout: the host fills them at its own speed, and nobody reads them but the MMU.

use super::{OwnMemory, PAGE_BYTES};

/// Entry bits (SDM vol. 3A, 4.5.4): present, writable, user, execute-disable.
pub mod flags {
    /// P.
    pub const P: u64 = 1;
    /// R/W.
    pub const W: u64 = 1 << 1;
    /// U/S.
    pub const U: u64 = 1 << 2;
    /// PS: a leaf above the last level.
    pub const PS: u64 = 1 << 7;
    /// XD.
    pub const NX: u64 = 1 << 63;
}

/// Builds tables in a stretch of the guest's own memory.
#[derive(Debug)]
pub struct BootTables<'m> {
    memory: &'m OwnMemory,
    next: u64,
    end: u64,
    levels: u32,
}

/// The pages set aside for boot tables are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pages for boot tables are used up")]
pub struct OutOfPages;

impl<'m> BootTables<'m> {
    /// Tables of 4 or 5 `levels` in the zeroed physical range `at..end`.
    pub fn new(memory: &'m OwnMemory, at: u64, end: u64, levels: u32) -> Self {
        Self { memory, next: at, end, levels }
    }

    /// An empty root.
    pub fn root(&mut self) -> Result<u64, OutOfPages> {
        self.allocate()
    }

    /// A root with all the entries of `other`.
    pub fn copy_root(&mut self, other: u64) -> Result<u64, OutOfPages> {
        let root = self.allocate()?;
        for at in (0..PAGE_BYTES).step_by(8) {
            self.set(root + at, self.get(other + at)?)?;
        }
        Ok(root)
    }

    /// Maps `pages` pages at `virt` to `phys`. `flags` are of the leaf; U goes into the entries above it too.
    pub fn map(&mut self, root: u64, virt: u64, phys: u64, pages: u64, leaf: u64) -> Result<(), OutOfPages> {
        for page in 0..pages {
            let offset = page * PAGE_BYTES;
            self.set_leaf(root, virt.wrapping_add(offset), phys.wrapping_add(offset) | leaf, 1)?;
        }
        Ok(())
    }

    /// Puts `entry` at `level` (1: PTE) for `virt`, with tables above it.
    pub fn set_leaf(&mut self, root: u64, virt: u64, entry: u64, level: u32) -> Result<(), OutOfPages> {
        let mut table = root;
        for above in (level + 1..=self.levels).rev() {
            let slot = table + slot(virt, above);
            let old = self.get(slot)?;
            let below = if old & flags::P != 0 { old & ADDRESS } else { self.allocate()? };
            self.set(slot, below | (old & flags::U) | flags::P | flags::W | (entry & flags::U))?;
            table = below;
        }
        self.set(table + slot(virt, level), entry)
    }

    /// The most pages that mapping these ranges (of so many pages each) takes, with two roots.
    pub fn pages_for(ranges: impl IntoIterator<Item = u64>) -> u64 {
        // A range crosses at most one more table at each level than its length needs.
        let range = |pages: u64| pages / 512 + 2 + pages / (512 * 512) + 2 + 2 + 2;
        2 + ranges.into_iter().map(range).sum::<u64>()
    }

    fn allocate(&mut self) -> Result<u64, OutOfPages> {
        if self.next >= self.end {
            return Err(OutOfPages);
        }
        self.next += PAGE_BYTES;
        Ok(self.next - PAGE_BYTES)
    }

    fn get(&self, at: u64) -> Result<u64, OutOfPages> {
        self.memory.read_u64(at).ok_or(OutOfPages)
    }

    fn set(&self, at: u64, entry: u64) -> Result<(), OutOfPages> {
        if self.memory.write_u64(at, entry) { Ok(()) } else { Err(OutOfPages) }
    }
}

/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Byte offset of the entry for `virt` in its table of `level`.
fn slot(virt: u64, level: u32) -> u64 {
    (virt >> (12 + 9 * (level - 1)) & 0x1ff) * 8
}
