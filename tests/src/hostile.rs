//! Memory maps that no firmware should hand out, of random numbers, and what a report on one may not say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use efibed::memory_map::{ListKind, MemoryAttribute, MemoryDescriptor, MemoryMap, MemoryType, PAGE_BYTES};
use efibed::report::text::Text;
use efibed::report::{Report, RunVerdict, json};
use efibed::{
    CpuidRequest, DescriptorSize, EngineError, EngineName, FirmwareOptions, KernelOptions, Layout, LeafRule,
    MaxPhyAddr, Scenario, TestBed,
};

use crate::random::Random;

/// What a run on the walker engine may take past its limit: walks end at it, but the mapping code runs natively, and fills up
/// to 320 MiB of tables before this engine looks at the clock again. On a busy machine that was seen to take 20 s.
const GRACE: Duration = Duration::from_secs(60);

/// How long a run of [`try_bytes`] may take: a fuzzer wants many.
const LIMIT_OF_BYTES: Duration = Duration::from_millis(100);

/// Runs what a fuzzer's bytes mean; the error says what is wrong with how it went.
pub fn try_bytes(bed: &TestBed, bytes: &[u8]) -> Result<RunVerdict, String> {
    try_map(bed, &mut Random::of_bytes(bytes), LIMIT_OF_BYTES)
}

/// Runs a random map on the walker engine, now and then with a second kernel after it; the error says what is wrong with
/// how it went.
pub fn try_map(bed: &TestBed, random: &mut Random, limit: Duration) -> Result<RunVerdict, String> {
    let map = map(random);
    let second = random.once_in(8).then(|| changed(&map, random));
    let scenario = scenario(map.clone(), random).engine(EngineName::Walker).limit(limit);
    let what = format!("{scenario:x?}");
    let started = Instant::now();
    let kernels = catch_unwind(AssertUnwindSafe(|| -> Result<Vec<(MemoryMap, Report)>, EngineError> {
        let Some(second) = second else { return Ok(vec![(map, bed.run(&scenario)?)]) };
        let [first, after] = bed.kexec(&scenario, second.clone())?;
        Ok(vec![(map, first), (second, after)])
    }));
    let took = started.elapsed();
    let kernels = kernels.map_err(|_| format!("it panicked: {what}"))?.map_err(|error| format!("{error}: {what}"))?;
    if took > limit + GRACE {
        return Err(format!("it took {took:?}: {what}"));
    }
    for (map, report) in &kernels {
        if let Some(why) = wrongly_clean(map, report) {
            return Err(format!("clean, and {why}: {what}"));
        }
        let shown = catch_unwind(AssertUnwindSafe(|| (Text::plain(report).to_string(), json::to_json(report))));
        shown.map_err(|_| format!("its report panicked: {what}"))?;
    }
    let (_, last) = kernels.last().ok_or("no report")?;
    Ok(last.verdict())
}

/// Addresses at which something ends: of a table's span, of physical and canonical addresses, of the windows, of what is
/// a machine's own, and the sign bit.
const BORDERS: [u64; 24] = [
    0,
    0x1_0000,
    1 << 20,
    2 << 20,
    1 << 30,
    0xf000_0000,
    0xfee0_0000,
    1 << 32,
    1 << 36,
    1 << 39,
    1 << 40,
    1 << 46,
    1 << 47,
    1 << 48,
    1 << 51,
    1 << 52,
    1 << 56,
    1 << 57,
    1 << 63,
    (1_u64 << 47).wrapping_neg(),
    (68_u64 << 30).wrapping_neg(),
    (4_u64 << 30).wrapping_neg(),
    (2_u64 << 30).wrapping_neg(),
    0_u64.wrapping_sub(PAGE_BYTES),
];

/// A map of random descriptors, each with a look at those before it.
pub fn map(random: &mut Random) -> MemoryMap {
    let mut descriptors: Vec<MemoryDescriptor> = Vec::new();
    if !random.once_in(8) {
        descriptors.push(MemoryDescriptor {
            ty: MemoryType::CONVENTIONAL,
            phys_start: 1 << 30,
            page_count: 1 << 18,
            ..MemoryDescriptor::default()
        });
    }
    for _ in 0..1 + random.below(10) {
        let next = descriptor(&descriptors, random);
        let at = random.below(descriptors.len() + 1);
        descriptors.insert(at, next);
    }
    let table = (0..random.below(5)).map(|_| attributes_entry(&descriptors, random)).collect();
    let kind = if random.once_in(4) { ListKind::Runtime } else { ListKind::Firmware };
    MemoryMap::from_descriptors("hostile", descriptors).with_kind(kind).with_attributes_table(table)
}

/// A run of such a map, under any layout and leaf rule, on any CPU.
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

/// The same map as a second kernel may see it: some descriptors changed, or gone.
pub fn changed(map: &MemoryMap, random: &mut Random) -> MemoryMap {
    let mut descriptors = map.descriptors().to_vec();
    for _ in 0..random.below(3) {
        let at = random.below(descriptors.len());
        match random.below(3) {
            0 => descriptors[at] = descriptor(&descriptors, random),
            1 => descriptors[at].virt_start = address(random),
            _ => drop(descriptors.swap_remove(at)),
        }
        if descriptors.is_empty() {
            descriptors.push(descriptor(&[], random));
        }
    }
    MemoryMap::from_descriptors("hostile, again", descriptors).with_kind(map.kind())
}

fn descriptor(before: &[MemoryDescriptor], random: &mut Random) -> MemoryDescriptor {
    let types = [MemoryType::RUNTIME_SERVICES_CODE, MemoryType::RUNTIME_SERVICES_DATA, MemoryType::BOOT_SERVICES_DATA];
    let neighbour = (!before.is_empty() && random.once_in(3)).then(|| *random.one_of(before));
    let page_count = pages(random);
    let phys_start = match neighbour {
        Some(d) => match random.below(3) {
            // It goes on where another ends, overlaps its start, or ends where it starts.
            0 => d.phys_start.wrapping_add(d.page_count.wrapping_mul(PAGE_BYTES)),
            1 => d.phys_start.wrapping_add(PAGE_BYTES * random.below(4) as u64),
            _ => d.phys_start.wrapping_sub(page_count.wrapping_mul(PAGE_BYTES)),
        },
        None => address(random),
    };
    let usual = MemoryAttribute::WRITE_BACK | MemoryAttribute::RUNTIME;
    let att = match random.below(8) {
        0 => MemoryAttribute::from_bits_retain(random.number()),
        1 => MemoryAttribute::WRITE_BACK,
        2 => MemoryAttribute::RUNTIME,
        3 => neighbour.map_or(usual, |d| d.att),
        _ => usual,
    };
    MemoryDescriptor {
        ty: match random.below(8) {
            0 => MemoryType(random.below(18) as u32),
            1 => MemoryType(random.number() as u32),
            2 => neighbour.map_or(MemoryType::MMIO, |d| d.ty),
            _ => *random.one_of(&types),
        },
        padding: 0,
        phys_start,
        virt_start: if random.once_in(3) { 0 } else { address(random) },
        page_count,
        att,
    }
}

/// Page-aligned most of the time, and near a border as often as not.
fn address(random: &mut Random) -> u64 {
    let pages = random.below(8) as u64;
    let page = match random.below(6) {
        0 => random.number() & !(PAGE_BYTES - 1),
        1 | 2 => random.one_of(&BORDERS).wrapping_sub(PAGE_BYTES * pages),
        3 => random.one_of(&BORDERS).wrapping_add(PAGE_BYTES * pages),
        _ => random.number() % (1 << 20) * PAGE_BYTES,
    };
    if random.once_in(16) { page ^ (random.number() % PAGE_BYTES) } else { page }
}

fn pages(random: &mut Random) -> u64 {
    let few = random.below(4) as u64;
    match random.below(64) {
        0 => 0,
        1 => random.number(),
        2 => (1_u64 << random.below(64)).wrapping_sub(few),
        3 => (1_u64 << random.below(64)).wrapping_add(few),
        4 => u64::MAX - few,
        5 => random.one_of(&BORDERS) / PAGE_BYTES + few,
        6..=10 => random.below(1 << 18) as u64,
        11..=20 => 512 * few + few,
        21..=40 => 1 + random.below(4096) as u64,
        _ => 1 + few,
    }
}

fn attributes_entry(map: &[MemoryDescriptor], random: &mut Random) -> MemoryDescriptor {
    let of_a_region = !random.once_in(4);
    let like = if of_a_region { *random.one_of(map) } else { descriptor(map, random) };
    let kinds = [MemoryAttribute::EXECUTE_PROTECT, MemoryAttribute::READ_ONLY, MemoryAttribute::empty()];
    let page_count = if random.once_in(2) { like.page_count } else { pages(random) };
    let phys_start = like.phys_start.wrapping_add(PAGE_BYTES * random.below(3) as u64);
    MemoryDescriptor { phys_start, page_count, att: MemoryAttribute::RUNTIME | *random.one_of(&kinds), ..like }
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
