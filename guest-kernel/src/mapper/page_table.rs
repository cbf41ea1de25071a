//! The page-table builder (Intel SDM vol. 3A, 4.5).
//!
//! It descends once for each table, and fills the last level in a plain loop.

use core::ops::Range;

use super::MapError;

/// Bytes of a page, and of a table.
pub const PAGE_BYTES: u64 = 4096;
const ENTRIES: usize = 512;

/// P: the entry is in use.
pub const PRESENT: u64 = 1 << 0;
/// R/W: writes are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// PWT: page-level write-through, bit 0 of the PAT index.
pub const PWT: u64 = 1 << 3;
/// PCD: page-level cache disable, bit 1 of the PAT index.
pub const PCD: u64 = 1 << 4;
/// PS: in a PDE or PDPTE, the entry is a leaf.
const LARGE: u64 = 1 << 7;
/// XD: no instruction fetches.
pub const NX: u64 = 1 << 63;
/// The address in an entry, bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// In an entry that names a table, and not a page, permissions are left to the leaves.
const TABLE: u64 = PRESENT | WRITABLE;

/// How the size of a leaf is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum LeafRule {
    /// A large leaf only where VA *and* PA are aligned to it: the right one.
    #[default]
    CoAligned,
    /// A large leaf from the alignment of VA and the length alone; the low bits of PA go into the entry. The bug of 2013:
    /// bits 20:13 are reserved, and bit 12 is PAT.
    VaOnly,
    /// The same with the low bits of PA dropped, as Linux does today: no fault, but another frame.
    VaOnlyMasked,
    /// 4 KiB leaves only.
    FourK,
}

efibed_stub::names! {
    LeafRule, "leaf rule":
    CoAligned "co-aligned",
    VaOnly "va-only",
    VaOnlyMasked "va-only-masked",
    FourK "4k",
}

impl LeafRule {
    /// The address for a leaf of `size` at `virt`, or None if this rule wants smaller ones there.
    fn large_leaf(self, virt: u64, phys: u64, size: u64) -> Option<u64> {
        let low = size - 1;
        match self {
            Self::CoAligned => ((virt | phys) & low == 0).then_some(phys),
            Self::VaOnly => (virt & low == 0).then_some(phys),
            Self::VaOnlyMasked => (virt & low == 0).then_some(phys & !low),
            Self::FourK => None,
        }
    }
}

/// How a range is to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The flags of a PTE; PRESENT is understood.
    pub flags: u64,
    /// Which leaves to take.
    pub leaf_rule: LeafRule,
    /// Whether there are 1 GiB leaves.
    pub gbpages: bool,
}

/// The way to table memory: the mapper's, and the kernel's, which is read only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableReach {
    /// Virtual minus physical address.
    offset: u64,
    /// Physical addresses that can be reached at `offset`.
    range: Range<u64>,
}

impl TableReach {
    /// Where the table at a physical address is reached; None if it lies elsewhere.
    pub fn pointer(&self, table: u64) -> Option<*mut [u64; ENTRIES]> {
        let inside = table >= self.range.start && self.range.end.saturating_sub(PAGE_BYTES) >= table;
        inside.then(|| core::ptr::with_exposed_provenance_mut(table.wrapping_add(self.offset) as usize))
    }
}

/// The pages a mapper may use for tables: zeroed, contiguous in physical memory, reached at a fixed distance.
pub struct Tables {
    reach: TableReach,
    first: u64,
    next: u64,
    end: u64,
}

impl Tables {
    /// # Safety
    /// All of `reach` must be memory at `physical + offset` (wrapping) that nothing else refers to while this lives,
    /// page-aligned, and `pool` must lie in it and be zero behind its first `used_pages`.
    pub unsafe fn new(offset: u64, reach: Range<u64>, pool: Range<u64>, used_pages: u64) -> Self {
        let reach = TableReach { offset, range: reach };
        let mut tables = Self { reach, first: pool.start, next: pool.start, end: pool.end };
        tables.set_used_pages(used_pages);
        tables
    }

    /// The way to table memory, for page-table code that works with pointers.
    pub fn reach(&self) -> &TableReach {
        &self.reach
    }

    /// Takes somebody else's word for the pages taken of the pool. That it can be more than there are is for the host to find.
    pub(super) fn set_used_pages(&mut self, pages: u64) {
        self.next = pages.saturating_mul(PAGE_BYTES).saturating_add(self.first);
    }

    /// Pages taken so far.
    pub fn used_pages(&self) -> u64 {
        (self.next - self.first) / PAGE_BYTES
    }

    /// The physical address of the next zeroed page.
    pub fn allocate(&mut self) -> Result<u64, MapError> {
        let page = self.next;
        if self.end.saturating_sub(page) < PAGE_BYTES {
            return Err(MapError::OutOfTablePages);
        }
        self.next += PAGE_BYTES;
        Ok(page)
    }

    /// Whether the mapper was given this page, rather than shares it with the kernel.
    fn owns(&self, table: u64) -> bool {
        (self.first..self.next).contains(&table)
    }

    /// The entries of the table at a physical address: the kernel's, or one of the mapper's.
    pub fn table(&mut self, table: u64) -> Result<&mut [u64; ENTRIES], MapError> {
        let pointer = self.reach.pointer(table).ok_or(MapError::TableOutOfReach { table })?;
        // SAFETY: `new`'s caller vouches for the memory in `reach`, and the borrow of self makes this the only
        // reference into it.
        Ok(unsafe { &mut *pointer })
    }

    /// The table below entry `slot`: made if absent, split if a leaf is there, copied if it is the kernel's.
    fn descend(&mut self, table: u64, level: u32, slot: usize) -> Result<u64, MapError> {
        let entry = self.get(table, slot)?;
        let below = entry & ADDRESS;
        if entry & PRESENT != 0 && entry & LARGE == 0 && self.owns(below) {
            return Ok(below);
        }
        let new = self.allocate()?;
        let flags = match (entry & PRESENT != 0, entry & LARGE != 0) {
            (false, _) => TABLE,
            (true, true) => {
                self.split(new, level, entry)?;
                TABLE
            }
            (true, false) => {
                copy_table(self, below, new)?;
                entry & !ADDRESS
            }
        };
        self.set(table, slot, new | flags)?;
        Ok(new)
    }

    /// Fills `new` with leaves, one level down, that map what the large leaf `entry` of `level` maps.
    fn split(&mut self, new: u64, level: u32, entry: u64) -> Result<(), MapError> {
        // PAT is bit 12 of a large leaf and bit 7 of a PTE, where the others have PS.
        let (large, pat) = (if level == 2 { 0 } else { LARGE }, entry & PAT_LARGE);
        let pat = if level == 2 { pat >> 5 } else { pat };
        let mut below = (entry & !(LARGE | PAT_LARGE)) | large | pat;
        for slot in self.table(new)? {
            *slot = below;
            below = below.wrapping_add(span(level - 1));
        }
        Ok(())
    }

    fn get(&mut self, table: u64, slot: usize) -> Result<u64, MapError> {
        Ok(self.table(table)?[slot])
    }

    fn set(&mut self, table: u64, slot: usize, entry: u64) -> Result<(), MapError> {
        self.table(table)?[slot] = entry;
        Ok(())
    }
}

/// A tree of page tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AddressSpace {
    root: u64,
    levels: u32,
}

impl AddressSpace {
    /// A tree that exists: its root's physical address, and 4 or 5 levels.
    pub const fn existing(root: u64, levels: u32) -> Self {
        Self { root, levels }
    }

    /// An empty tree.
    pub fn new(tables: &mut Tables, levels: u32) -> Result<Self, MapError> {
        Ok(Self { root: tables.allocate()?, levels })
    }

    /// Physical address of the top table, for CR3.
    pub const fn root(self) -> u64 {
        self.root
    }

    /// 4, or 5 with LA57.
    pub const fn levels(self) -> u32 {
        self.levels
    }

    /// Maps `bytes` at `virt` to `phys`. All are page-aligned, and `virt + bytes` may reach the top of the address space,
    /// not pass it.
    pub fn map(self, tables: &mut Tables, virt: u64, phys: u64, bytes: u64, mapping: Mapping) -> Result<(), MapError> {
        let largest = if mapping.gbpages { 3 } else { 2 };
        let flags = mapping.flags | PRESENT;
        let mut fill = Fill { tables, space: self, flags, rule: mapping.leaf_rule, largest };
        fill.range(virt, phys, bytes)
    }

    /// Sets and clears flags of the leaves that map `bytes` at `virt`; a large leaf that reaches beyond is split. What is
    /// not mapped stays so.
    pub fn change(self, tables: &mut Tables, virt: u64, bytes: u64, set: u64, clear: u64) -> Result<(), MapError> {
        let mut done = 0;
        while done < bytes {
            done += self.change_some(tables, virt.wrapping_add(done), bytes - done, set, clear)?;
        }
        Ok(())
    }

    /// Changes what a range maps of one table of PTEs, or of the table in which its first large leaf is; returns how many
    /// bytes that are.
    fn change_some(self, tables: &mut Tables, virt: u64, bytes: u64, set: u64, clear: u64) -> Result<u64, MapError> {
        let mut table = self.root;
        for level in (2..=self.levels).rev() {
            let (slot, rest) = (index(virt, level), span(level) - virt % span(level));
            let entry = tables.get(table, slot)?;
            if entry & PRESENT == 0 {
                return Ok(rest);
            }
            if entry & LARGE != 0 && rest == span(level) && bytes >= rest {
                let end = ENTRIES.min(slot + (bytes >> shift(level)) as usize);
                let changed = change_leaves(&mut tables.table(table)?[slot..end], LARGE | PRESENT, set, clear);
                return Ok((changed as u64) << shift(level));
            }
            table = tables.descend(table, level, slot)?;
        }
        let first = index(virt, 1);
        let end = ENTRIES.min(first + bytes.div_ceil(PAGE_BYTES) as usize);
        for entry in &mut tables.table(table)?[first..end] {
            if *entry & PRESENT != 0 {
                *entry = *entry & !clear | set;
            }
        }
        Ok((end - first) as u64 * PAGE_BYTES)
    }

    /// Whether anything is mapped at an address.
    pub fn is_mapped(self, tables: &mut Tables, virt: u64) -> Result<bool, MapError> {
        let mut table = self.root;
        for level in (1..=self.levels).rev() {
            let entry = tables.get(table, index(virt, level))?;
            if entry & PRESENT == 0 {
                return Ok(false);
            }
            if level > 1 && entry & LARGE != 0 {
                break;
            }
            table = entry & ADDRESS;
        }
        Ok(true)
    }
}

/// The lowest bit of the index at a level: 12 at level 1, 9 more for each level up.
const fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

/// Bytes that one entry of a level spans.
const fn span(level: u32) -> u64 {
    1 << shift(level)
}

const fn index(virt: u64, level: u32) -> usize {
    (virt >> shift(level)) as usize % ENTRIES
}

struct Fill<'a> {
    tables: &'a mut Tables,
    space: AddressSpace,
    /// Of a 4 KiB leaf, present.
    flags: u64,
    rule: LeafRule,
    /// The highest level at which there are leaves.
    largest: u32,
}

impl Fill<'_> {
    /// Fills entries from the left, each time with the largest leaves that the rule allows, as many as their table takes.
    /// A larger one cannot begin before the table ends: its address would be that of a first entry.
    fn range(&mut self, mut virt: u64, mut phys: u64, mut bytes: u64) -> Result<(), MapError> {
        while bytes > 0 {
            let (level, address) = self.largest_leaf(virt, phys, bytes);
            let first = index(virt, level);
            let count = (bytes >> shift(level)).min((ENTRIES - first) as u64);
            let table = self.table_at(virt, level)?;
            let large = if level > 1 { LARGE } else { 0 };
            fill(
                &mut self.tables.table(table)?[first..first + count as usize],
                address | self.flags | large,
                span(level),
            );
            let done = count << shift(level);
            virt = virt.wrapping_add(done);
            phys = phys.wrapping_add(done);
            bytes -= done;
        }
        Ok(())
    }

    /// The level of the largest leaf for the start of a range, and the address that goes into it.
    fn largest_leaf(&self, virt: u64, phys: u64, bytes: u64) -> (u32, u64) {
        let large = (2..=self.largest).rev().filter(|level| bytes >= span(*level)).find_map(|level| {
            let address = self.rule.large_leaf(virt, phys, span(level))?;
            Some((level, address))
        });
        large.unwrap_or((1, phys))
    }

    /// The table whose entries for `virt` are of `level`.
    fn table_at(&mut self, virt: u64, level: u32) -> Result<u64, MapError> {
        let mut table = self.space.root;
        for above in (level + 1..=self.space.levels).rev() {
            table = self.tables.descend(table, above, index(virt, above))?;
        }
        Ok(table)
    }
}

/// Changes entries as long as they have all of `kind`; returns how many.
fn change_leaves(entries: &mut [u64], kind: u64, set: u64, clear: u64) -> usize {
    let mut changed = 0;
    for entry in entries.iter_mut().take_while(|entry| **entry & kind == kind) {
        *entry = *entry & !clear | set;
        changed += 1;
    }
    changed
}

/// The hot loop: consecutive leaves of one table, `step` bytes apart.
fn fill(slots: &mut [u64], mut entry: u64, step: u64) {
    let (blocks, rest) = slots.as_chunks_mut::<8>();
    let mut fill = |slots: &mut [u64]| {
        for slot in slots {
            *slot = entry;
            entry = entry.wrapping_add(step);
        }
    };
    for block in blocks {
        // Of known length, so it is unrolled: two instructions an entry.
        fill(block);
    }
    fill(rest);
}

/// PAT of a 2 MiB or 1 GiB leaf (SDM vol. 3A, 4.9.2).
const PAT_LARGE: u64 = 1 << 12;

fn copy_table(tables: &mut Tables, from: u64, to: u64) -> Result<(), MapError> {
    let entries = *tables.table(from)?;
    *tables.table(to)? = entries;
    Ok(())
}
