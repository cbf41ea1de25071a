//! How far a wrong physical page is from the right one, and what that suggests.

use crate::memory_map::{MemoryMap, PAGE_BYTES, type_name};
use crate::mmu::{Pa, Va, bits};

/// `0x66000 bytes below it: the low 21 bits of the frame were dropped`. The page at `virt` should be `right`.
pub fn compare(virt: Va, right: Pa, wrong: Pa, region: Option<usize>, map: &MemoryMap) -> String {
    let bytes = right.0.abs_diff(wrong.0);
    let distance = format!("{bytes:#x} bytes {} it", if wrong < right { "below" } else { "above" });
    match suggestion(virt.0, right.0, wrong.0).or_else(|| owner(wrong, region, map)) {
        Some(suggestion) => format!("{distance}: {suggestion}"),
        None => distance,
    }
}

/// So many bits set, at the low end.
fn low_bits(bits: u32) -> u64 {
    !(u64::MAX << bits)
}

/// The mistake that gives just this page. To a mistake an address is a number like any other.
fn suggestion(virt: u64, right: u64, wrong: u64) -> Option<String> {
    let page = |address: u64| address & !(PAGE_BYTES - 1);
    let dropped = |bits: &u32| {
        let mask = low_bits(*bits);
        let leaf = right.wrapping_sub(virt & mask);
        leaf & mask != 0 && (leaf & !mask).wrapping_add(virt & mask) == wrong
    };
    if let Some(bits) = [21, 30].iter().find(|bits| dropped(bits)) {
        return Some(format!("the low {bits} bits of the frame were dropped"));
    }
    if let Some(bits) = [32, 40].iter().find(|bits| right >> **bits != 0 && right & low_bits(**bits) == wrong) {
        return Some(format!("the address was cut to {bits} bits"));
    }
    let other = match wrong {
        _ if wrong == page(right) >> 12 << 24 & bits::ADDRESS => "the address was taken for a page number",
        _ if wrong == page(right >> 12) => "the page number was taken for an address",
        _ if wrong.checked_add(PAGE_BYTES) == Some(right) => "the frame is that of the page before",
        _ if right.checked_add(PAGE_BYTES) == Some(wrong) => "the frame is that of the page after",
        _ => return None,
    };
    Some(other.to_owned())
}

/// Whose page it is, if it is another region's.
fn owner(wrong: Pa, region: Option<usize>, map: &MemoryMap) -> Option<String> {
    let holds = |it: &crate::memory_map::Region| {
        wrong.checked_offset_from(Pa(it.phys)).is_some_and(|offset| offset / PAGE_BYTES < it.pages)
    };
    let owner = map.regions().find(holds).filter(|owner| Some(owner.index) != region)?;
    Some(format!("it is in region {} ({} at {:#x})", owner.index, type_name(owner.ty), owner.phys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryDescriptor, MemoryType};

    const GIB: u64 = 1 << 30;

    fn map() -> MemoryMap {
        let region = |phys_start, page_count| MemoryDescriptor {
            ty: MemoryType::RUNTIME_SERVICES_DATA,
            phys_start,
            page_count,
            ..Default::default()
        };
        MemoryMap::from_descriptors("test", vec![region(0x7e72_9000, 0x242), region(0x50_0000, 4)])
    }

    fn compared(virt: u64, right: u64, wrong: u64) -> String {
        compare(Va(virt), Pa(right), Pa(wrong), Some(0), &map())
    }

    #[test]
    fn known_mistakes_have_their_distances() {
        for (virt, right, wrong, says) in [
            // Bug 1: a 2 MiB leaf at VA 0xffffffff00000000 for PA 0x7e729000, bits 20:13 dropped; and its last page.
            (
                0xffff_ffff_0000_0000,
                0x7e72_9000,
                0x7e60_0000,
                "0x129000 bytes below it: the low 21 bits of the frame were dropped",
            ),
            (
                0xffff_ffff_001f_f000,
                0x7e92_8000,
                0x7e7f_f000,
                "0x129000 bytes below it: the low 21 bits of the frame were dropped",
            ),
            // Bug 4: a 1 GiB leaf for PA 0x80200000, which reads 0x80000000.
            (
                0xffff_fffe_c000_0000,
                2 * GIB + 0x20_0000,
                2 * GIB,
                "0x200000 bytes below it: the low 30 bits of the frame were dropped",
            ),
            // Bug 8: 0x6000 leads to 0x5000, where 0x5000 was mapped before.
            (0x6000, 0x6000, 0x5000, "0x1000 bytes below it: the frame is that of the page before"),
            (0x6000, 0x6000, 0x7000, "0x1000 bytes above it: the frame is that of the page after"),
            // Mutant 10: a physical address in 32 bits, in 40.
            (0x9000, 0x1_7e72_9000, 0x7e72_9000, "0x100000000 bytes below it: the address was cut to 32 bits"),
            (0x9000, 0x100_7e72_9000, 0x7e72_9000, "0x10000000000 bytes below it: the address was cut to 32 bits"),
            (0x9000, 0x101_7e72_9000, 0x1_7e72_9000, "0x10000000000 bytes below it: the address was cut to 40 bits"),
            // Bug 7: cpa->pfn holds an address, and is shifted once more.
            (
                0x9000,
                0x7e72_9000,
                0x7e7_2900_0000,
                "0x7e6aa8d7000 bytes above it: the address was taken for a page number",
            ),
            (0x9000, 0x7e72_9000, 0x7_e000, "0x7e6ab000 bytes below it: the page number was taken for an address"),
            (
                0x9000,
                0x7e72_9000,
                0x50_2000,
                "0x7e227000 bytes below it: it is in region 1 (RuntimeServicesData at 0x500000)",
            ),
            // Nothing is known of these: another page of the same region, and a page of no region.
            (0x9000, 0x7e72_9000, 0x7e72_c000, "0x3000 bytes above it"),
            (0x9000, 0x7e72_9000, 0x1_0000, "0x7e719000 bytes below it"),
        ] {
            assert_eq!(compared(virt, right, wrong), says);
        }
    }

    #[test]
    fn an_aligned_leaf_has_dropped_nothing() {
        assert_eq!(compared(0x20_0000, 0x7e60_0000, 0x7e40_0000), "0x200000 bytes below it");
    }
}
