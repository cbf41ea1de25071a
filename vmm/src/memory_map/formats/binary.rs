//! An array of EFI_MEMORY_DESCRIPTOR (UEFI 2.10, section 7.2.3), as GetMemoryMap leaves it in memory.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0-3 | Type |
//! | 4-7 | nothing |
//! | 8-15 | PhysicalStart |
//! | 16-23 | VirtualStart |
//! | 24-31 | NumberOfPages |
//! | 32-39 | Attribute |
//!
//! The next one starts DescriptorSize bytes on, which may be more: 48 on nearly every machine, so that nobody takes the
//! size of the structure for it.

use super::super::error::ReadError;
use super::super::file::bytes_error;
use super::super::region::end_of_pages;
use super::super::{MAX_DESCRIPTORS, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use super::Format;
use super::offset::Offset;

/// The size of the structure, and the least DescriptorSize.
pub(in super::super) const DESCRIPTOR_BYTES: usize = 40;

/// The DescriptorSize of nearly every machine.
pub(in super::super) const USUAL_STRIDE: usize = 48;

/// The largest size that is tried on an array whose DescriptorSize is not known.
const MAX_GUESSED_STRIDE: usize = 128;

/// Whether a size can be a DescriptorSize: the fields of each descriptor are aligned to their 8 bytes.
pub(in super::super) fn is_stride(stride: usize) -> bool {
    stride >= DESCRIPTOR_BYTES && stride.is_multiple_of(8)
}

/// Whether bytes are descriptors, by what they say: there is a size for which all make sense.
pub(in super::super) fn is_likely(bytes: &[u8]) -> bool {
    sensible_strides(bytes).next().is_some()
}

/// Reads the descriptors.
pub(in super::super) fn parse(name: &str, bytes: &[u8], stride: Option<usize>) -> Result<MemoryMap, ReadError> {
    let stride = match stride {
        Some(stride) => check_stride(name, stride)?,
        None => guess_stride(name, bytes)?,
    };
    let whole = bytes.chunks_exact(stride);
    let (count, cut) = (whole.len(), whole.remainder().len());
    if count > MAX_DESCRIPTORS {
        let problem = format!(
            "has more than {MAX_DESCRIPTORS} descriptors: the first too many is at byte {:#x}",
            start_of(MAX_DESCRIPTORS, stride)
        );
        return Err(bytes_error(
            name,
            at_byte(start_of(MAX_DESCRIPTORS, stride)),
            problem,
            "no firmware hands out so many: check that this is one map",
        ));
    }
    // The last descriptor may lack what lies beyond the structure.
    let has_last = cut >= DESCRIPTOR_BYTES;
    if cut > 0 && !has_last {
        let problem = format!(
            "descriptor {count} at byte {:#x} is cut: {cut} bytes of {stride} are there",
            start_of(count, stride)
        );
        return Err(bytes_error(
            name,
            at_byte(start_of(count, stride)),
            problem,
            "copy the file again, or give the right size of a descriptor (--stride)",
        ));
    }
    if bytes.is_empty() {
        return Err(bytes_error(name, at_byte(0), "has no descriptor: it is empty".into(), "copy the file again"));
    }
    let descriptors = bytes.chunks(stride).filter_map(descriptor).collect();
    let map = MemoryMap::from_descriptors(name, descriptors);
    Ok(MemoryMap { format: Some(Format::Binary), ..map })
}

/// Where a descriptor starts.
fn start_of(index: usize, stride: usize) -> usize {
    index.saturating_mul(stride)
}

/// Line and column of a byte, for bytes without lines.
fn at_byte(offset: usize) -> (usize, usize) {
    (1, offset.plus(1))
}

/// Writes descriptors, `stride` bytes each; an impossible size is an error.
pub(in super::super) fn write(descriptors: &[MemoryDescriptor], stride: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(start_of(descriptors.len(), stride));
    for descriptor in descriptors {
        let end = bytes.len().plus(stride);
        bytes.extend(u64::from(descriptor.ty.0).to_le_bytes());
        let fields = [descriptor.phys_start, descriptor.virt_start, descriptor.page_count, descriptor.att.bits()];
        bytes.extend(fields.into_iter().flat_map(u64::to_le_bytes));
        bytes.resize(end, 0);
    }
    bytes
}

fn check_stride(name: &str, stride: usize) -> Result<usize, ReadError> {
    if is_stride(stride) {
        return Ok(stride);
    }
    let problem =
        format!("cannot have descriptors of {stride} bytes: there are multiples of 8, from {DESCRIPTOR_BYTES} on");
    Err(bytes_error(name, at_byte(0), problem, "take firmware's DescriptorSize, 48 on nearly every machine"))
}

fn guess_stride(name: &str, bytes: &[u8]) -> Result<usize, ReadError> {
    let mut strides = sensible_strides(bytes);
    let (one, another) = (strides.next(), strides.next());
    let (place, problem) = match (one, another) {
        (Some(stride), None) => return Ok(stride),
        (Some(one), Some(another)) => {
            (at_byte(0), format!("makes sense with descriptors of {one} bytes, and of {another}"))
        }
        (None, _) => {
            let (index, what) = senseless(bytes, USUAL_STRIDE).unwrap_or((0, "is cut"));
            let problem = format!(
                "makes no sense with descriptors of any size; of {USUAL_STRIDE} bytes, descriptor {index} at byte {:#x} {what}",
                start_of(index, USUAL_STRIDE)
            );
            (at_byte(start_of(index, USUAL_STRIDE)), problem)
        }
    };
    Err(bytes_error(
        name,
        place,
        problem,
        "tell firmware's DescriptorSize to `efibed convert MAP --stride N --to toml`",
    ))
}

fn sensible_strides(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let sizes = (DESCRIPTOR_BYTES..=MAX_GUESSED_STRIDE).step_by(8);
    sizes.filter(|stride| {
        !bytes.is_empty() && bytes.len().is_multiple_of(*stride) && senseless(bytes, *stride).is_none()
    })
}

/// The first descriptor that makes no sense, and why.
fn senseless(bytes: &[u8], stride: usize) -> Option<(usize, &'static str)> {
    bytes.chunks(stride).enumerate().find_map(|(index, bytes)| problem(bytes).map(|problem| (index, problem)))
}

fn problem(bytes: &[u8]) -> Option<&'static str> {
    let Some(descriptor) = descriptor(bytes) else {
        return Some("is cut");
    };
    let MemoryDescriptor { ty, padding, phys_start, page_count, att, .. } = descriptor;
    let end = end_of_pages(phys_start, page_count);
    if ty >= MemoryType::MAX && ty.0 < *MemoryType::RESERVED_FOR_OEM.start() {
        Some("has a type that UEFI reserves")
    } else if padding != 0 || bytes[DESCRIPTOR_BYTES..].iter().any(|byte| *byte != 0) {
        Some("has something where nothing belongs")
    } else if !phys_start.is_multiple_of(PAGE_BYTES) {
        Some("starts at no page boundary")
    } else if page_count == 0 || end > 1 << 52 {
        Some("has no pages, or reaches past 2^52")
    } else if !MemoryAttribute::all().contains(att) {
        Some("has attributes that UEFI does not define")
    } else {
        None
    }
}

fn descriptor(bytes: &[u8]) -> Option<MemoryDescriptor> {
    let (words, _) = bytes.get(..DESCRIPTOR_BYTES)?.as_chunks::<8>();
    let [ty, phys_start, virt_start, page_count, att] = <[[u8; 8]; 5]>::try_from(words).ok()?.map(u64::from_le_bytes);
    // The low half is the type, the high half nothing.
    let (ty, padding) = (ty as u32, (ty >> 32) as u32);
    Some(MemoryDescriptor {
        ty: MemoryType(ty),
        padding,
        phys_start,
        virt_start,
        page_count,
        att: MemoryAttribute::from_bits_retain(att),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RuntimeServicesData, one page at 1 MiB, RUNTIME and WB, by hand.
    const ONE: [u8; 40] = [
        6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0,
        0, 0, 128,
    ];

    fn several(count: usize, stride: usize) -> Vec<u8> {
        let mut one = ONE.to_vec();
        one.resize(stride, 0);
        one.repeat(count)
    }

    fn error(bytes: &[u8], stride: Option<usize>) -> String {
        parse("map", bytes, stride).unwrap_err().to_string()
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let map = parse("map", &ONE, Some(40)).unwrap();
        let expected = MemoryDescriptor {
            ty: MemoryType::RUNTIME_SERVICES_DATA,
            phys_start: 0x10_0000,
            page_count: 1,
            att: MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK,
            ..Default::default()
        };
        assert_eq!((map.descriptors(), map.format()), ([expected].as_slice(), Some(Format::Binary)));
        assert_eq!(write(&[expected], 40), ONE);
        assert_eq!(write(&[expected, expected], 48), several(2, 48));
    }

    #[test]
    fn the_size_is_found_if_only_one_makes_sense() {
        for stride in [40, 48, 56, 64, 72] {
            let map = parse("map", &several(7, stride), None).unwrap();
            assert_eq!(map.descriptors().len(), 7, "{stride}");
        }
        assert!(!is_likely(&several(7, 48)[..200]) && !is_likely(b"") && !is_likely(&[0; 480]));
    }

    #[test]
    fn a_size_that_cannot_be_told_is_asked_for() {
        assert_eq!(
            error(&several(2, 40)[..79], None),
            "map:1:1: makes no sense with descriptors of any size; of 48 bytes, descriptor 0 at byte 0x0 has something where nothing belongs"
        );
        let zeros = [ONE.as_slice(), &[0; 40]].concat();
        assert_eq!(
            error(&[several(2, 48), zeros].concat(), None),
            "map:1:145: makes no sense with descriptors of any size; of 48 bytes, descriptor 3 at byte 0x90 is cut"
        );
        assert_eq!(
            error(&ONE, Some(44)),
            "map:1:1: cannot have descriptors of 44 bytes: there are multiples of 8, from 40 on"
        );
    }

    #[test]
    fn what_is_cut_is_pointed_at() {
        assert_eq!(
            error(&several(3, 48)[..120], Some(48)),
            "map:1:97: descriptor 2 at byte 0x60 is cut: 24 bytes of 48 are there"
        );
        assert_eq!(parse("map", &several(3, 48)[..136], Some(48)).unwrap().descriptors().len(), 3);
        assert_eq!(error(b"", Some(48)), "map:1:1: has no descriptor: it is empty");
    }

    #[test]
    fn one_descriptor_too_many_is_refused() {
        let bytes = several(MAX_DESCRIPTORS + 1, 40);
        assert_eq!(
            error(&bytes, Some(40)),
            "map:1:2621441: has more than 65536 descriptors: the first too many is at byte 0x280000"
        );
    }
}
