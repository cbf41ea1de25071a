//! Mapping code that answers anything at all: wrong counts, wrong roots, tables and a virtual map that it has written anything
//! into. What the host makes of it is what is tested.

use std::sync::Arc;
use std::time::Duration;

use efibed::mapper::{Elsewhere, MapRequest, MapResult, Step, carry_out};
use efibed::memory_map::PAGE_BYTES;
use efibed::report::RunVerdict;
use efibed::{Contract, EngineName, Layout, LayoutMapper, Random, Scenario, TestBed};

use crate::hostile::try_runs;
use crate::small_map;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs mapping code that forges what a fuzzer's bytes mean; the error says what is wrong with how it went.
pub fn try_bytes(bed: &TestBed, engine: EngineName, bytes: &[u8]) -> Result<RunVerdict, String> {
    let map = small_map(0x42);
    let mut choices = Random::of_bytes(bytes);
    let layout = *choices.one_of(Layout::ALL);
    let rest: Arc<[u8]> = bytes.get(1..).unwrap_or_default().into();
    let mapper = Elsewhere(move |step, request: &MapRequest, result: &mut MapResult| {
        // SAFETY: as it was asked for.
        unsafe { carry_out(&mut LayoutMapper { layout, ..LayoutMapper::default() }, step, request, result) };
        let half = rest.len() / 2;
        let bytes = if step == Step::Map { &rest[..half] } else { &rest[half..] };
        forge(&mut Random::of_bytes(bytes), request, result);
    });
    let scenario = Scenario::new(map.clone()).mapper(mapper).contract(Contract::of(layout)).engine(engine);
    let scenario = scenario.limit(LIMIT).stretch_limit(LIMIT).firmware_calls(false);
    try_runs(LIMIT, || Ok(vec![(map, bed.run(&scenario)?)]))
}

/// Up to seven forgeries.
fn forge(random: &mut Random, request: &MapRequest, result: &mut MapResult) {
    for _ in 0..random.below(8) {
        let what = random.below(6);
        let value = value(random, request, result);
        match what {
            0 | 1 => *field(random, result) = value,
            2 | 3 => write_word(random, request, request.table_pool, value),
            4 => {
                let start = request.virtual_map;
                write_word(random, request, [start, start + request.virtual_map_bytes], value);
            }
            _ => write_word(random, request, [request.log, request.log + request.log_bytes], value),
        }
    }
}

fn field<'a>(random: &mut Random, result: &'a mut MapResult) -> &'a mut u64 {
    match random.below(8) {
        0 => &mut result.status,
        1 => &mut result.detail,
        2 => &mut result.root,
        3 => &mut result.mapped,
        4 => &mut result.table_pages,
        5 => &mut result.log_used,
        6 => &mut result.region_at_hand.phys_start,
        _ => &mut result.region_at_hand.page_count,
    }
}

/// A number that may mean something.
fn value(random: &mut Random, request: &MapRequest, result: &MapResult) -> u64 {
    let pages = random.below(32) * PAGE_BYTES;
    match random.below(8) {
        0 => random.below(256),
        1 => 1 << random.below(64),
        2 => u64::MAX - random.below(256),
        // Entries that lead to tables, and leaves: P, W, U, A, D, PS and what else there is.
        3 => (request.table_pool[0] + pages) | random.below(0x200),
        4 => (result.root + pages) | random.below(0x200),
        5 => request.kernel_root | random.below(0x200),
        6 => request.keep[random.index(request.keep.len())].first,
        _ => random.number(),
    }
}

/// Puts a word somewhere into a physical range: near its start, since most of it is not looked at.
fn write_word(random: &mut Random, request: &MapRequest, [start, end]: [u64; 2], value: u64) {
    const NEAR: u64 = 64 * PAGE_BYTES;
    let words = (end - start).min(NEAR) / 8;
    if words > 0 {
        let at = request.direct_map.wrapping_add(start + 8 * random.below(words));
        // SAFETY: the range is memory at its direct map, and the mapping code's own.
        unsafe { std::ptr::with_exposed_provenance_mut::<u64>(at as usize).write_unaligned(value) };
    }
}
