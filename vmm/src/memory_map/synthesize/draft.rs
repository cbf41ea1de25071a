//! A map in the making: its regions do not overlap, and it keeps to its limits.

use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES, Region};

/// How large a map may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Descriptors at most.
    pub descriptors: usize,
    /// Pages of regions that layouts map, at most.
    pub mapped_pages: u64,
    /// Where physical addresses end.
    pub end: u64,
}

/// The cache types that memory is capable of.
pub const MEMORY: MemoryAttribute = MemoryAttribute::UNCACHEABLE
    .union(MemoryAttribute::WRITE_COMBINE)
    .union(MemoryAttribute::WRITE_THROUGH)
    .union(MemoryAttribute::WRITE_BACK);

/// What a region is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its type.
    pub ty: MemoryType,
    /// Its attributes.
    pub att: MemoryAttribute,
}

impl Kind {
    /// Runtime code.
    pub const CODE: Self = Self::runtime(MemoryType::RUNTIME_SERVICES_CODE, MEMORY);
    /// Runtime data.
    pub const DATA: Self = Self::runtime(MemoryType::RUNTIME_SERVICES_DATA, MEMORY);
    /// A device's registers that firmware needs at runtime.
    pub const MMIO: Self = Self::runtime(MemoryType::MMIO, MemoryAttribute::UNCACHEABLE);

    const fn runtime(ty: MemoryType, caches: MemoryAttribute) -> Self {
        Self { ty, att: caches.union(MemoryAttribute::RUNTIME) }
    }

    /// Memory of a type, which firmware needs at runtime only if the type says so.
    pub fn memory(ty: MemoryType) -> Self {
        Self { ty, att: MEMORY }
    }

    /// A descriptor of the kind.
    pub fn at(self, phys_start: u64, page_count: u64) -> MemoryDescriptor {
        MemoryDescriptor { ty: self.ty, padding: 0, phys_start, virt_start: 0, page_count, att: self.att }
    }

    fn is_mapped(self) -> bool {
        Region::new(0, &self.at(0, 1)).is_mapped()
    }
}

/// A map in the making.
pub struct Draft {
    /// What it may become.
    pub limits: Limits,
    descriptors: Vec<MemoryDescriptor>,
    mapped_pages: u64,
}

impl Draft {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, descriptors: Vec::new(), mapped_pages: 0 }
    }

    /// Appends a region, unless there is no place for it; true: it is there.
    pub fn add(&mut self, kind: Kind, phys: u64, pages: u64) -> bool {
        let region = Region::new(0, &kind.at(phys, pages));
        let is_free = !self.descriptors.iter().any(|other| Region::new(0, other).overlaps(&region));
        is_free && self.append(kind, phys, pages)
    }

    /// The same for one that overlaps none, by the way in which it was made.
    pub fn append(&mut self, kind: Kind, phys: u64, pages: u64) -> bool {
        let fits = phys.is_multiple_of(PAGE_BYTES)
            && Region::new(0, &kind.at(phys, pages)).end() <= u128::from(self.limits.end)
            && self.descriptors.len() < self.limits.descriptors
            && pages <= self.pages_left(kind);
        if fits {
            self.mapped_pages = self.mapped_pages.saturating_add(if kind.is_mapped() { pages } else { 0 });
            self.descriptors.push(kind.at(phys, pages));
        }
        fits
    }

    /// How many pages another region of the kind may have.
    pub fn pages_left(&self, kind: Kind) -> u64 {
        if kind.is_mapped() { self.limits.mapped_pages.saturating_sub(self.mapped_pages) } else { u64::MAX }
    }

    /// Whether it has no region yet.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// The regions, in the order in which they were added.
    pub fn into_descriptors(self) -> Vec<MemoryDescriptor> {
        self.descriptors
    }
}
