//! The page tables of ring 3.

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::layout::{DIRECT_MAP, IMAGE_BASE, TABLE_BYTES};
use super::super::stretch::{bytes_of, length, stretch};
use super::super::{BootTables, Case, OutOfPages, OwnMemory, PAGE_BYTES, flags};
use crate::machine::{Backing, pages};
use crate::memory_map::page_of;
use crate::mmu::{Paging, bits, each_line};

/// What ring 3 may do with a page besides reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    pub write: bool,
    pub execute: bool,
}

impl Rights {
    pub const READ: Self = Self { write: false, execute: false };
    pub const WRITE: Self = Self { write: true, execute: false };
}

/// Memory that is mapped as it is touched.
#[derive(Clone, Debug)]
pub struct Area {
    pub virt: u64,
    pub phys: Range<u64>,
    pub rights: Rights,
}

/// With four levels the kernel's image has the last entry of a root to itself. With five its direct map is there too, out of
/// ring 3's reach as well.
const _: () = assert!(IMAGE_BASE >> 39 == u64::MAX >> 39 && DIRECT_MAP >> 39 != IMAGE_BASE >> 39);

impl Area {
    fn contains(&self, virt: u64) -> bool {
        virt.wrapping_sub(self.virt) < length(&self.phys)
    }
}

/// Pages of an area that are mapped at once: tables cost the host a tenth of a microsecond a page, and a fault fifty.
const PAGES_AT_ONCE: u64 = 1024;

/// Pages of an area that are mapped before anything is touched: more than most mapping code touches.
const PAGES_FORESEEN: u64 = 32;

/// Tables in a stretch of the process's own memory.
pub struct Space {
    earlier: Earlier,
    root: u64,
    next: u64,
    end: u64,
    levels: u32,
    no_execute: u64,
    areas: Vec<Area>,
    /// Pages that are not written to for now, whatever their areas allow.
    closed: BTreeSet<u64>,
}

impl Space {
    /// Tables with nothing but the kernel in them: its image, for the handlers of exceptions. There may be those of an earlier
    /// process, and are zeros else.
    pub fn new(memory: &OwnMemory, tables: Range<u64>, case: &Case, paging: &Paging) -> Result<Self, OutOfPages> {
        let mut space = Self {
            earlier: Earlier::take(memory, &tables),
            root: 0,
            next: tables.start,
            end: tables.end,
            levels: if paging.la57 { 5 } else { 4 },
            no_execute: if paging.nxe { flags::NX } else { 0 },
            areas: Vec::new(),
            closed: BTreeSet::new(),
        };
        let mut tables = space.tables(memory);
        let root = tables.root()?;
        // The kernel's tables lie in other memory, so the entry is copied: the image has the last one of the root alone.
        let last_of = |root: u64| root.wrapping_add(8 * 511);
        let entry = case.memory.read_u64(last_of(case.kernel_root)).ok_or(OutOfPages)?;
        if !memory.write_u64(last_of(root), entry) {
            return Err(OutOfPages);
        }
        space.next = tables.next();
        space.root = root;
        Ok(space)
    }

    pub fn root(&self) -> u64 {
        self.root
    }

    /// Whether all that the earlier process's tables map to a part of memory is mapped so here.
    pub fn maps_as_before(&self, memory: &OwnMemory, part: &Range<u64>) -> bool {
        self.earlier.is_kept(memory, part)
    }

    /// Lets ring 3 have an area.
    pub fn give(&mut self, area: Area) {
        if area.phys.start < area.phys.end {
            self.areas.push(area);
        }
    }

    /// Maps pages of the area that an address is in, from that address on; false: it is in none.
    pub fn touch(&mut self, memory: &OwnMemory, virt: u64) -> bool {
        self.touch_pages(memory, virt, PAGES_AT_ONCE)
    }

    /// Maps some pages before they are touched: the first ones of each area, and those from an address on.
    pub fn foresee(&mut self, memory: &OwnMemory, virt: u64) {
        let starts: Vec<u64> = self.areas.iter().map(|area| area.virt).collect();
        for virt in starts.into_iter().chain([virt]) {
            // Without room for tables they are missing when they are touched, too.
            let _ = self.touch_pages(memory, virt, PAGES_FORESEEN);
        }
    }

    fn touch_pages(&mut self, memory: &OwnMemory, virt: u64, at_once: u64) -> bool {
        let Some(area) = self.areas.iter().find(|area| area.contains(virt)).cloned() else { return false };
        let offset = page_of(virt.wrapping_sub(area.virt));
        let phys = area.phys.start.saturating_add(offset);
        let pages = (length(&(phys..area.phys.end)) / PAGE_BYTES).min(at_once);
        let start = area.virt.wrapping_add(offset);
        self.map(memory, start, phys, pages, area.rights)
            && self.keep_closed(memory, &stretch(start, bytes_of(pages)), phys)
    }

    /// What has just been mapped may have closed pages in it.
    fn keep_closed(&mut self, memory: &OwnMemory, mapped: &Range<u64>, phys: u64) -> bool {
        let closed: Vec<u64> = self.closed.range(mapped.clone()).copied().collect();
        let phys_of = |virt: u64| phys.wrapping_add(virt.wrapping_sub(mapped.start));
        closed.into_iter().all(|virt| self.map(memory, virt, phys_of(virt), 1, Rights::READ))
    }

    /// Closes a page to writes; false: ring 3 could not write there anyway. What KVM has cached of an open page stays in force.
    pub fn close(&mut self, memory: &OwnMemory, virt: u64) -> bool {
        let is_writable = self.areas.iter().any(|area| area.contains(virt) && area.rights.write);
        if is_writable {
            self.closed.insert(page_of(virt));
        }
        is_writable && self.touch_pages(memory, page_of(virt), 1)
    }

    /// Opens it again; false: it is in no area.
    pub fn open(&mut self, memory: &OwnMemory, virt: u64) -> bool {
        self.closed.remove(&page_of(virt));
        self.touch_pages(memory, page_of(virt), 1)
    }

    pub fn is_closed(&self, virt: u64) -> bool {
        self.closed.contains(&page_of(virt))
    }

    /// Maps pages; false: there is no room for the tables.
    ///
    /// Their entries look used and written to. KVM without two-dimensional paging then has up to eight of them at hand once one is
    /// touched, where each takes a fault otherwise: it foresees only entries with A, and lets nobody write where D is not set.
    pub fn map(&mut self, memory: &OwnMemory, virt: u64, phys: u64, pages: u64, rights: Rights) -> bool {
        self.map_as(memory, virt, phys, pages, rights, bits::A | bits::D)
    }

    /// Maps a page of which its A bit is to tell whether it was used.
    pub fn map_unused(&mut self, memory: &OwnMemory, virt: u64, phys: u64, rights: Rights) -> bool {
        self.map_as(memory, virt, phys, 1, rights, bits::D)
    }

    fn map_as(&mut self, memory: &OwnMemory, virt: u64, phys: u64, pages: u64, rights: Rights, used: u64) -> bool {
        let write = if rights.write { flags::W } else { 0 };
        let no_execute = if rights.execute { 0 } else { self.no_execute };
        let mut tables = self.tables(memory);
        let mapped = tables.map(self.root, virt, phys, pages, flags::P | flags::U | write | no_execute | used);
        self.next = tables.next();
        mapped.is_ok()
    }

    /// What an address is of what ring 3 was given, or of the kernel's.
    pub fn owner(&self, virt: u64, direct_map: u64, case: &Case) -> Option<String> {
        if virt >= IMAGE_BASE {
            return Some("the kernel's image".into());
        }
        let phys = virt.wrapping_sub(direct_map);
        if !case.owns(phys) {
            return None;
        }
        let placement = &case.placement;
        let parts = [
            ("the kernel's image", placement.image()),
            ("the memory map", placement.memory_map()),
            ("the room for the virtual map", placement.virtual_map()),
            ("the Memory Attributes Table", placement.attributes()),
            ("the request, the result or the log", placement.desk()),
            ("the kernel's tables, which may only be read", placement.boot_tables()),
            ("the pool of table pages", placement.pool()),
        ];
        parts.into_iter().find(|(_, part)| part.contains(&phys)).map(|(what, _)| format!("{what} (PA {phys:#x})"))
    }

    fn tables<'m>(&self, memory: &'m OwnMemory) -> BootTables<'m> {
        BootTables::new(memory, self.next, self.end, self.levels)
    }
}

/// The tables at the start of a memory, each with its lines that are not all zeros. None of them is empty.
fn tables_in_use(memory: &Backing) -> impl Iterator<Item = (Range<u64>, u64)> {
    let with_lines = |page: Range<u64>| Some((page.clone(), memory.lines_in_use(page.start)?));
    pages(&(0..TABLE_BYTES)).map_while(with_lines).take_while(|(_, lines)| *lines != 0)
}

/// Where those end.
pub fn end_of_tables(memory: &Backing) -> u64 {
    tables_in_use(memory).last().map_or(0, |(page, _)| page.end)
}

/// What the tables of an earlier process held, by physical address: KVM may have it in mind still.
struct Earlier(Vec<(u64, [u64; 8])>);

impl Earlier {
    /// Takes it away: there are zeros then.
    fn take(memory: &OwnMemory, tables: &Range<u64>) -> Self {
        let backing = memory.backing();
        let mut earlier = Vec::new();
        for (page, lines) in tables_in_use(backing) {
            let at = each_line(lines).map(|nth| page.start.wrapping_add(nth.wrapping_mul(64)));
            earlier.extend(at.filter_map(|at| Some((at.wrapping_add(tables.start), backing.read_line(at)?))));
            backing.zero(page);
        }
        Self(earlier)
    }

    /// Whether every entry that was present and led to a part of memory is the same now. The CPU may have set A and D; and what
    /// was not present, KVM looks for anew.
    fn is_kept(&self, memory: &OwnMemory, part: &Range<u64>) -> bool {
        let matters = |was: u64| was & flags::P != 0 && part.contains(&(was & bits::ADDRESS));
        let is_same = |(was, is): (&u64, u64)| !matters(*was) || (was ^ is) & !(bits::A | bits::D) == 0;
        let is_kept =
            |(at, was): &(u64, [u64; 8])| memory.read_line(*at).is_some_and(|is| was.iter().zip(is).all(is_same));
        self.0.iter().all(is_kept)
    }
}
