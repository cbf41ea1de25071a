//! Regions: the page range of one descriptor, and arithmetic on it that cannot overflow.

use super::{MemoryAttribute, MemoryDescriptor, MemoryType, PAGE_BYTES};

/// The start of the page that an address lies in.
pub const fn page_of(address: u64) -> u64 {
    address & !(PAGE_BYTES - 1)
}

/// The address past so many pages from `first`, in more bits than an address has: no number of pages makes it wrap.
pub fn end_of_pages(first: u64, pages: u64) -> u128 {
    // 64 bits and 12: a sum of at most 77 bits.
    (u128::from(pages) << PAGE_BYTES.trailing_zeros()).saturating_add(first.into())
}

/// The page range of one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The descriptor's place in the list, from 0.
    pub index: usize,
    /// The descriptor's Type.
    pub ty: MemoryType,
    /// The descriptor's Attribute.
    pub attribute: MemoryAttribute,
    /// PhysicalStart, which a bad map may leave unaligned.
    pub phys: u64,
    /// NumberOfPages, of [`PAGE_BYTES`] each.
    pub pages: u64,
    /// VirtualStart as given, or 0.
    pub virt: u64,
}

impl Region {
    pub(crate) fn new(index: usize, descriptor: &MemoryDescriptor) -> Self {
        Self {
            index,
            ty: descriptor.ty,
            attribute: descriptor.att,
            phys: descriptor.phys_start,
            pages: descriptor.page_count,
            virt: descriptor.virt_start,
        }
    }

    /// The size in bytes; `None` if it overflows 64 bits.
    pub fn bytes(&self) -> Option<u64> {
        self.pages.checked_mul(PAGE_BYTES)
    }

    /// The physical address past the last byte, in more bits than an address has: 2^64 for a region that ends with
    /// the address space, more for one that [wraps](Self::wraps).
    pub fn end(&self) -> u128 {
        end_of_pages(self.phys, self.pages)
    }

    /// The physical address of the last byte; `None` if there is none, or if the region wraps.
    pub fn last(&self) -> Option<u64> {
        let last = self.end().checked_sub(1).filter(|_| self.pages > 0)?;
        u64::try_from(last).ok()
    }

    /// Whether the region reaches past 2^64.
    pub fn wraps(&self) -> bool {
        self.end() > 1 << 64
    }

    /// Whether the region starts at a page boundary, as it must (UEFI 2.10, section 7.2.3).
    pub fn is_aligned(&self) -> bool {
        self.phys.is_multiple_of(PAGE_BYTES)
    }

    /// Whether firmware needs the region after ExitBootServices. The attribute says so, not the type.
    pub fn is_runtime(&self) -> bool {
        self.attribute.contains(MemoryAttribute::RUNTIME)
    }

    /// Whether the type is BootServicesCode or BootServicesData.
    pub fn is_boot_services(&self) -> bool {
        matches!(self.ty, MemoryType::BOOT_SERVICES_CODE | MemoryType::BOOT_SERVICES_DATA)
    }

    /// Whether the type is BootServicesCode or RuntimeServicesCode: what must be executable in virtual mode.
    pub fn is_code(&self) -> bool {
        matches!(self.ty, MemoryType::BOOT_SERVICES_CODE | MemoryType::RUNTIME_SERVICES_CODE)
    }

    /// Whether layouts give the region a virtual address: it is a runtime or boot-services region of at least a page.
    pub fn is_mapped(&self) -> bool {
        self.pages > 0 && (self.is_runtime() || self.is_boot_services())
    }

    /// Whether the two regions share a byte. A region that wraps is taken to go on past 2^64, not back at 0.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.shared_bytes(other) > 0
    }

    /// How many bytes the two regions share.
    pub(super) fn shared_bytes(&self, other: &Self) -> u128 {
        let start = u128::from(self.phys.max(other.phys));
        self.end().min(other.end()).saturating_sub(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(phys: u64, pages: u64) -> Region {
        Region::new(0, &MemoryDescriptor { phys_start: phys, page_count: pages, ..Default::default() })
    }

    #[test]
    fn a_region_may_end_with_the_address_space_but_not_past_it() {
        let top = region(0xffff_ffff_ffff_f000, 1);
        assert_eq!((top.end(), top.last(), top.wraps()), (1 << 64, Some(u64::MAX), false));
        let past = region(0xffff_ffff_ffff_f000, 2);
        assert_eq!((past.last(), past.wraps(), past.bytes()), (None, true, Some(0x2000)));
        assert_eq!(region(0, u64::MAX).bytes(), None);
        assert!(region(u64::MAX, u64::MAX).wraps());
    }

    #[test]
    fn zero_pages_overlap_nothing_and_are_not_mapped() {
        let mut empty = region(0x1000, 0);
        empty.ty = MemoryType::BOOT_SERVICES_DATA;
        assert!(!empty.overlaps(&region(0, 16)) && !region(0, 16).overlaps(&empty));
        assert!(!empty.is_mapped());
        assert_eq!(empty.last(), None);
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!region(0, 1).overlaps(&region(0x1000, 1)));
        assert!(region(0, 2).overlaps(&region(0x1000, 1)));
    }

    #[test]
    fn any_type_with_the_runtime_attribute_is_mapped() {
        let mut reserved = region(0, 1);
        assert!(!reserved.is_mapped());
        reserved.attribute = MemoryAttribute::RUNTIME;
        assert!(reserved.is_mapped());
    }
}
