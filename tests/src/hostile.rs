//! Runs of hostile memory maps, and what a report on one may not say.

use std::time::Duration;

use efibed::memory_map::mutate::mutate;
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, PAGE_BYTES};
use efibed::report::Report;
use efibed::{
    CpuidRequest, DescriptorSize, FirmwareOptions, KernelOptions, Layout, LeafRule, MaxPhyAddr, Random, Scenario,
};

/// A run of a map, under any layout and leaf rule, on any CPU.
pub fn scenario(map: MemoryMap, random: &mut Random) -> Scenario {
    let mut cpu = CpuidRequest::default();
    cpu.maxphyaddr = *random.one_of(&[None, None, MaxPhyAddr::new(36), Some(MaxPhyAddr::MAX)]);
    cpu.gbpages = *random.one_of(&[None, Some(false)]);
    cpu.nx = *random.one_of(&[None, None, None, Some(false)]);
    cpu.la57 = *random.one_of(&[None, None, None, Some(true)]);
    let stride = *random.one_of(&[48, 48, 48, 40, 56, 4096]);
    let stride = DescriptorSize::new(stride).expect("each of these is allowed");
    let mut kernel = KernelOptions::default();
    kernel.descriptor_size = *random.one_of(&[None, None, None, None, None, None, None, Some(DescriptorSize::U_BOOT)]);
    Scenario::new(map)
        .layout(*random.one_of(Layout::ALL))
        .leaf_rule(*random.one_of(LeafRule::ALL))
        .cpu(cpu)
        .limit(LIMIT)
        .firmware(FirmwareOptions::default().descriptor_size(stride))
        .kernel(kernel)
}

/// How long a run may take.
pub const LIMIT: Duration = Duration::from_secs(2);

/// The same map as a second kernel may see it: changed a little, or not at all.
pub fn changed(map: &MemoryMap, random: &mut Random) -> MemoryMap {
    (0..random.below(3)).fold(map.clone(), |map, _| mutate(&map, random.number()))
}

/// Why a report cannot be clean, by the map's numbers alone, or by where it says that an address leads; None: it is not
/// said to be clean, or rightly so.
pub fn wrongly_clean(map: &MemoryMap, report: &Report) -> Option<String> {
    if !report.is_clean() {
        return None;
    }
    let all = map.descriptors();
    let end = |d: &MemoryDescriptor| u128::from(d.phys_start) + u128::from(d.page_count) * u128::from(PAGE_BYTES);
    let owed = |d: &&MemoryDescriptor| d.att.contains(MemoryAttribute::RUNTIME) && d.page_count > 0;
    for d in all.iter().filter(owed) {
        let what = format!("a region at {:#x} of {:#x} pages", d.phys_start, d.page_count);
        if end(d) > 1 << 52 {
            return Some(format!("{what} ends past 52 bits"));
        }
        if d.phys_start % PAGE_BYTES != 0 {
            return Some(format!("{what} is not aligned"));
        }
        let overlaps = |other: &&MemoryDescriptor| {
            !std::ptr::eq(*other, d)
                && u128::from(other.phys_start) < end(d)
                && u128::from(d.phys_start) < end(other)
                && other.page_count > 0
        };
        if let Some(other) = all.iter().find(overlaps) {
            return Some(format!("{what} overlaps one at {:#x}", other.phys_start));
        }
        if let Some(wrong) = leads_elsewhere(d, report) {
            return Some(format!("{what} {wrong}"));
        }
    }
    None
}

/// Whether the first, a middle and the last byte of a region are where SetVirtualAddressMap was told that they are.
fn leads_elsewhere(d: &MemoryDescriptor, report: &Report) -> Option<String> {
    let bytes = d.page_count * PAGE_BYTES;
    for phys in [0, bytes / 2, bytes - 1].map(|offset| d.phys_start + offset) {
        let virt = virtual_of(&report.virtual_map, phys);
        let reached = virt.and_then(|virt| report.translate(virt));
        if reached.map(|pa| pa.0) != Some(phys) {
            return Some(format!("has {phys:#x} at {virt:x?}, which leads to {reached:x?}"));
        }
    }
    None
}

/// Where such a map puts a physical address. Written here again: what is judged does not judge.
fn virtual_of(virtual_map: &[MemoryDescriptor], phys: u64) -> Option<u64> {
    let mut runtime = virtual_map.iter().filter(|d| d.att.contains(MemoryAttribute::RUNTIME));
    let d = runtime.find(|d| phys.checked_sub(d.phys_start).is_some_and(|at| at / PAGE_BYTES < d.page_count))?;
    Some(d.virt_start.wrapping_add(phys - d.phys_start))
}
