//! The page tables a guest starts on.
//!
//! Two roots: the kernel's, with the image at the top 2 GiB, the direct map of the guest's own memory, and the two pages
//! of ring 3; and the boot root, which has all that and, at their physical addresses, the pages firmware runs in before
//! the switch. 4 KiB leaves throughout: the host fills them at its own speed, and nobody reads them but the MMU.

use super::stretch::{bytes_of, sum};
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

    /// A root with all the entries of `other`; what is then mapped in the lower half is not mapped in `other` too, unless
    /// both have tables there within the same 512 GiB.
    pub fn copy_root(&mut self, other: u64) -> Result<u64, OutOfPages> {
        let root = self.copy_table(other)?;
        let lowest = self.get(root)?;
        // With five levels the first entry is all that four levels have for the lower half.
        if self.levels == 5 && lowest & flags::P != 0 {
            let below = self.copy_table(lowest & ADDRESS)?;
            self.set(root, below | (lowest & !ADDRESS))?;
        }
        Ok(root)
    }

    /// Maps `pages` pages at `virt` to `phys`. `flags` are of the leaf; U goes into the entries above it too.
    pub fn map(&mut self, root: u64, virt: u64, phys: u64, pages: u64, leaf: u64) -> Result<(), OutOfPages> {
        let mut done = 0;
        while done < pages {
            let [virt, phys] = [virt, phys].map(|start| start.wrapping_add(bytes_of(done)));
            let at = entry_at(self.table_at(root, virt, 1, leaf & flags::U)?, virt, 1);
            let left = (PAGE_BYTES.saturating_sub(at % PAGE_BYTES) / 8).min(pages.saturating_sub(done));
            let entries: Vec<u64> = (0..left).map(|page| phys.wrapping_add(bytes_of(page)) | leaf).collect();
            if !self.memory.write_objects(at, &entries) {
                return Err(OutOfPages);
            }
            done = done.saturating_add(left);
        }
        Ok(())
    }

    /// Puts `entry` at `level` (1: PTE) for `virt`, with tables above it.
    pub fn set_leaf(&mut self, root: u64, virt: u64, entry: u64, level: u32) -> Result<(), OutOfPages> {
        let table = self.table_at(root, virt, level, entry & flags::U)?;
        self.set(entry_at(table, virt, level), entry)
    }

    /// The table whose entries for `virt` are of `level`, with tables above it.
    fn table_at(&mut self, root: u64, virt: u64, level: u32, user: u64) -> Result<u64, OutOfPages> {
        let mut table = root;
        for above in (1..=self.levels).rev().take_while(|above| *above > level) {
            table = self.below(table, virt, above, user)?;
        }
        Ok(table)
    }

    /// The table below the entry for `virt` in a table of level `above`, made if it is not there.
    fn below(&mut self, table: u64, virt: u64, above: u32, user: u64) -> Result<u64, OutOfPages> {
        let slot = entry_at(table, virt, above);
        let old = self.get(slot)?;
        let below = if old & flags::P != 0 { old & ADDRESS } else { self.allocate()? };
        self.set(slot, below | (old & flags::U) | flags::P | flags::W | user)?;
        Ok(below)
    }

    /// Opens the tables above the last two levels to ring 3.
    fn open(&mut self, root: u64, virt: u64) -> Result<(), OutOfPages> {
        let mut table = root;
        for above in (3..=self.levels).rev() {
            table = self.below(table, virt, above, flags::U)?;
        }
        Ok(())
    }

    /// Maps first..=last in `root` as `other` does. All tables but the last level's are `root`'s own, so that more can be
    /// mapped beside them; those of the last level are `other`'s.
    pub fn share(&mut self, root: u64, other: u64, first: u64, last: u64) -> Result<(), OutOfPages> {
        const SPAN: u64 = 512 * PAGE_BYTES;
        let mut virt = first & !(SPAN - 1);
        loop {
            let [mut own, mut theirs] = [root, other];
            for above in (3..=self.levels).rev() {
                own = self.below(own, virt, above, 0)?;
                theirs = self.get(entry_at(theirs, virt, above))? & ADDRESS;
            }
            let entry = self.get(entry_at(theirs, virt, 2))?;
            self.set(entry_at(own, virt, 2), entry)?;
            // Ring 3's pages are reached through entries that are open to it.
            if entry & flags::U != 0 {
                self.open(root, virt)?;
            }
            match virt.checked_add(SPAN) {
                Some(next) if next <= last => virt = next,
                _ => return Ok(()),
            }
        }
    }

    /// The next page that is free.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The most pages that mapping these ranges (of so many pages each) takes, with two roots, and a table more to copy.
    pub fn pages_for(ranges: impl IntoIterator<Item = u64>) -> u64 {
        // A range crosses at most one more table at each level than its length needs.
        let range = |pages: u64| sum([pages / 512, pages / (512 * 512), 4 * 2]);
        sum(ranges.into_iter().map(range).chain([3]))
    }

    fn copy_table(&mut self, other: u64) -> Result<u64, OutOfPages> {
        let table = self.allocate()?;
        for at in (0..PAGE_BYTES).step_by(8) {
            self.set(table.wrapping_add(at), self.get(other.wrapping_add(at))?)?;
        }
        Ok(table)
    }

    fn allocate(&mut self) -> Result<u64, OutOfPages> {
        let page = self.next;
        if page >= self.end {
            return Err(OutOfPages);
        }
        self.next = page.saturating_add(PAGE_BYTES);
        Ok(page)
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

/// Where the entry for `virt` is in its table of `level`: an index has 9 bits, an entry 8 bytes.
fn entry_at(table: u64, virt: u64, level: u32) -> u64 {
    let page = (1..level).fold(virt >> 12, |page, _| page >> 9);
    table.wrapping_add((page & 0x1ff) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::{Access, Outcome, Pa, Paging, Va, walk};

    #[test]
    fn what_is_mapped_in_a_copy_is_not_mapped_in_the_first() {
        for la57 in [false, true] {
            let memory = OwnMemory::new(0x10_0000, 64 * PAGE_BYTES).unwrap();
            let mut tables = BootTables::new(&memory, memory.base(), memory.end(), if la57 { 5 } else { 4 });
            let (user, identity) = (0x7fff_f000_0000, 0x1a_f000);
            let kernel = tables.root().unwrap();
            tables.map(kernel, user, 0x5000, 1, flags::P | flags::U).unwrap();
            let boot = tables.copy_root(kernel).unwrap();
            tables.map(boot, identity, identity, 1, flags::P | flags::W).unwrap();

            let paging = Paging { la57, ..Paging::default() };
            let reached = |root, virt| match walk(&memory, Pa(root), Va(virt), Access::read(), &paging).outcome {
                Outcome::Translated(translation) => Some(translation.pa.0),
                _ => None,
            };
            assert_eq!([reached(boot, user), reached(boot, identity)], [Some(0x5000), Some(identity)], "{la57}");
            assert_eq!([reached(kernel, user), reached(kernel, identity)], [Some(0x5000), None], "{la57}");
        }
    }
}
