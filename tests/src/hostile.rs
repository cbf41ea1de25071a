//! Runs of hostile memory maps, and what a report on one may not say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use efibed::memory_map::mutate::mutate;
use efibed::memory_map::synthesize::{Class, Synthesis};
use efibed::memory_map::{MemoryAttribute, MemoryDescriptor, MemoryMap, PAGE_BYTES};
use efibed::report::text::Text;
use efibed::report::{Report, RunVerdict, json};
use efibed::{
    CpuidRequest, DescriptorSize, EngineError, EngineName, FirmwareOptions, KernelOptions, Layout, LeafRule,
    MaxPhyAddr, Random, Scenario, TestBed,
};

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
    let map = Synthesis::new(Class::Hostile).draw(random);
    let second = random.once_in(8).then(|| changed(&map, random));
    let scenario = scenario(map.clone(), random).engine(EngineName::Walker).limit(limit);
    let what = format!("{scenario:x?}");
    let runs = || {
        let Some(second) = second else { return Ok(vec![(map, bed.run(&scenario)?)]) };
        let [first, after] = bed.kexec(&scenario, second.clone())?;
        Ok(vec![(map, first), (second, after)])
    };
    try_runs(limit, runs).map_err(|problem| format!("{problem}: {what}"))
}

/// Runs that must come to reports in their time, which can be shown, and are not clean if they cannot be; the error says what
/// is wrong. The verdict is the last one's.
pub fn try_runs(
    limit: Duration,
    runs: impl FnOnce() -> Result<Vec<(MemoryMap, Report)>, EngineError>,
) -> Result<RunVerdict, String> {
    let started = Instant::now();
    let runs = catch_unwind(AssertUnwindSafe(runs)).map_err(|_| "it panicked")?.map_err(|error| error.to_string())?;
    let took = started.elapsed();
    if took > limit + GRACE {
        return Err(format!("it took {took:?}"));
    }
    for (map, report) in &runs {
        if let Some(why) = wrongly_clean(map, report) {
            return Err(format!("clean, and {why}"));
        }
        let shown = catch_unwind(AssertUnwindSafe(|| (Text::plain(report).to_string(), json::to_json(report))));
        shown.map_err(|_| "its report panicked")?;
    }
    let (_, last) = runs.last().ok_or("no report")?;
    Ok(last.verdict())
}

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
