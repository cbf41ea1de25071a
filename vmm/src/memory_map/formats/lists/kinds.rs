//! What each list is: firmware's or Linux's own.

use super::super::super::{Format, ListKind, MemoryDescriptor, MemoryType, Region};
use super::List;

/// What each list is.
pub(super) fn kinds(lists: &[List]) -> Vec<ListKind> {
    let mut firmware: Option<&List> = None;
    let mut kinds = Vec::new();
    for list in lists {
        let is_runtime = list.is_announced
            || list.format.format == Format::RuntimeMap
            || list.format.format == Format::LinuxX86
                && (descends(list) || firmware.is_some_and(|firmware| is_what_linux_mapped(list, firmware)));
        if !is_runtime && !list.is_excerpt && list.partial.is_none() {
            firmware = Some(list);
        }
        kinds.push(if is_runtime { ListKind::Runtime } else { ListKind::Firmware });
    }
    kinds
}

/// Whether the addresses fall over nothing but regions that Linux maps. No firmware's map looks so, but a lone list of
/// Linux's own does.
fn descends(list: &List) -> bool {
    let falls = list.rows.windows(2).all(|pair| pair[0].descriptor.phys_start > pair[1].descriptor.phys_start);
    let is_mapped = |descriptor: &MemoryDescriptor| {
        let region = Region::new(0, descriptor);
        region.is_runtime() || region.is_boot_services()
    };
    list.rows.len() >= 2 && falls && list.descriptors().all(is_mapped)
}

/// Whether a list without an announcement (`grep 'efi: mem'` loses it) is Linux's own of the same log: another one than
/// firmware's, and without the regions that Linux never maps, of which every firmware's map has some. (It maps free
/// memory and the loader's only under a firmware of 32 bits.)
fn is_what_linux_mapped(list: &List, firmware: &List) -> bool {
    let is_mappable = |descriptor: &MemoryDescriptor| {
        let region = Region::new(0, descriptor);
        let is_mixed_mode =
            matches!(region.ty, MemoryType::CONVENTIONAL | MemoryType::LOADER_CODE | MemoryType::LOADER_DATA);
        region.is_runtime() || region.is_boot_services() || is_mixed_mode
    };
    firmware.boot == list.boot
        && list.partial.is_none()
        && firmware.format.format == list.format.format
        && !firmware.descriptors().eq(list.descriptors())
        && list.descriptors().all(is_mappable)
}
