//! A kernel that steps through firmware's memory map with another DescriptorSize: what it reads.

use super::{Finding, Phase, Rule, Statement};
use crate::memory_map::{MemoryMap, PAGE_BYTES};

/// What an array of descriptors `firmware` bytes apart is to a kernel that takes them to be `kernel` bytes apart; None:
/// the same.
pub fn misread(map: &MemoryMap, firmware: usize, kernel: usize) -> Option<Finding> {
    let count = map.descriptors().len();
    let seen = count.saturating_mul(firmware).checked_div(kernel)?;
    let is_misread = |index: &usize| !index.saturating_mul(kernel).is_multiple_of(firmware);
    let wrong: Vec<_> = (0..seen).filter(is_misread).collect();
    let seen_bytes = seen.saturating_mul(kernel);
    let is_lost = |offset: &usize| !offset.is_multiple_of(kernel) || *offset >= seen_bytes;
    let lost = (0..count).map(|index| index.saturating_mul(firmware)).filter(is_lost).count();
    if wrong.is_empty() && lost == 0 {
        return None;
    }
    let mut message = format!(
        "the kernel takes descriptors to be {kernel} bytes apart, and firmware's are {firmware} apart: {} of the {seen} that \
         it reads are not firmware's, and {lost} of firmware's {count} are lost",
        wrong.len()
    );
    let sizes = wrong.iter().map(|index| (*index, Seen::at(map, firmware, index.saturating_mul(kernel))));
    if let Some((index, seen)) = sizes.max_by_key(|(index, seen)| (seen.pages, std::cmp::Reverse(*index))) {
        message += &format!(
            "; the largest is descriptor {index}, read as type {:#x} at {:#x}, {:#x} pages ({} GiB)",
            seen.ty,
            seen.phys,
            seen.pages,
            seen.pages / PAGES_PER_GIB
        );
    }
    Some(Finding {
        expected: Some(Statement::DescriptorSize(firmware)),
        observed: Some(Statement::DescriptorSize(kernel)),
        remedy: Some("step by the DescriptorSize that GetMemoryMap returns, not by the size of the structure".into()),
        ..Finding::worded(Phase::Map, Rule::DescriptorSize, None, message)
    })
}

const PAGES_PER_GIB: u64 = (1 << 30) / PAGE_BYTES;

/// A descriptor as it is read.
struct Seen {
    ty: u32,
    phys: u64,
    pages: u64,
}

impl Seen {
    /// At this offset in the array (UEFI 2.10, 7.2.3: Type, PhysicalStart, VirtualStart, NumberOfPages, Attribute).
    fn at(map: &MemoryMap, firmware: usize, offset: usize) -> Self {
        let word = |index: usize| {
            let offset = offset.saturating_add(index.saturating_mul(8));
            let descriptor = map.descriptors().get(offset.checked_div(firmware)?)?;
            let fields = [
                u64::from(descriptor.ty.0),
                descriptor.phys_start,
                descriptor.virt_start,
                descriptor.page_count,
                descriptor.att.bits(),
            ];
            fields.get(offset.checked_rem(firmware)? / 8).copied()
        };
        let [ty, phys, pages] = [0, 1, 3].map(|index| word(index).unwrap_or(0));
        Self { ty: ty as u32, phys, pages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryType};

    fn map(count: u64) -> MemoryMap {
        let descriptor = |index: u64| MemoryDescriptor {
            ty: MemoryType::RUNTIME_SERVICES_DATA,
            phys_start: 0x1000_0000 * (index + 1),
            page_count: 0x10 + index,
            att: MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK,
            ..Default::default()
        };
        MemoryMap::from_descriptors("test", (0..count).map(descriptor).collect())
    }

    fn message(count: u64, firmware: usize, kernel: usize) -> Option<String> {
        misread(&map(count), firmware, kernel).map(|finding| finding.message)
    }

    #[test]
    fn equal_strides_and_single_descriptors_are_read_rightly() {
        assert_eq!(message(9, 48, 48), None);
        assert_eq!(message(1, 48, 40), None);
        assert_eq!(message(0, 48, 40), None);
    }

    /// Descriptors 48 apart at 0, 48, 96; read at 0, 40, 80 of 144 bytes. At 40 is the padding of the first, so its fields
    /// are type 0, type 6 of the second for PhysicalStart, and VirtualStart 0 for NumberOfPages. At 80 is the second's
    /// Attribute: PhysicalStart is padding, then come type and PhysicalStart of the third.
    #[test]
    fn a_structures_size_for_descriptor_size() {
        assert_eq!(
            message(3, 48, 40).unwrap(),
            "the kernel takes descriptors to be 40 bytes apart, and firmware's are 48 apart: 2 of the 3 that it reads are \
             not firmware's, and 2 of firmware's 3 are lost; the largest is descriptor 2, read as type 0x8 at 0x0, \
             0x30000000 pages (3072 GiB)"
        );
    }

    /// At 0, 40, 80; read at 0 and 48 of 120 bytes. At 48 is the second's PhysicalStart for a type, and its VirtualStart,
    /// NumberOfPages, Attribute for PhysicalStart, VirtualStart, NumberOfPages.
    #[test]
    fn attributes_become_page_counts() {
        let message = message(3, 40, 48).unwrap();
        assert!(message.contains("1 of the 2 that it reads are not firmware's, and 2 of firmware's 3 are lost"));
        let largest = "descriptor 1, read as type 0x20000000 at 0x0, 0x8000000000000008 pages (35184372088832 GiB)";
        assert!(message.ends_with(largest), "{message}");
    }

    #[test]
    fn twice_the_size_loses_every_other_one() {
        let message = message(4, 40, 80).unwrap();
        assert!(message.ends_with("0 of the 2 that it reads are not firmware's, and 2 of firmware's 4 are lost"));
    }
}
