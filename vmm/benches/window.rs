//! The largest map there is: layout `window`'s 64 GiB in 4 KiB leaves, and a quarter, a sixteenth, a sixty-fourth of it.
//!
//! - `walker`: built natively and walked in full.
//! - `guest`: built in the guest, beside its floor, a loop that stores as many consecutive PTEs and knows nothing of
//!   tables. Machines differ in what an instruction costs: the ratio is what to look at. Where ring 0 is emulated this
//!   takes minutes, so each number is one measurement, and criterion has no part in it; the four sizes are as good as
//!   samples, because the time an entry takes must not grow with their number.
//!
//! `cargo bench --bench window -- walker` is for those in a hurry, `-- guest` for those who are not.

use std::arch::global_asm;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use efibed::guest::{BackedPage, Guest, Image, Loaded, NoEvents, PAGE_BYTES, Placement, Strides, command};
use efibed::machine::{CpuidRequest, Hypervisor, Machine};
use efibed::mmu::Paging;
use efibed::{EngineName, Layout, LeafRule, MemoryMap, Scenario, TestBed};
use efibed_guest::LayoutMapper;
use efibed_guest::protocol::{CpuAbilities, DIRECT_MAP, Op};

const SIZES_GIB: [u64; 4] = [1, 4, 16, 64];
const PAGES_PER_GIB: u64 = 1 << 18;
/// The guest lives below the region, in memory as large as the tables for 64 GiB and something more.
const BELOW_PAGES: u64 = 0xc000;
const MAPPER: LayoutMapper = LayoutMapper { layout: Layout::Window, leaf_rule: LeafRule::FourK };
/// No measurement takes as long.
const LIMIT: Duration = Duration::from_secs(1800);

/// One region that ends at so many GiB.
fn map(gib: u64) -> MemoryMap {
    let text = format!(
        r#"
        [[descriptor]]
        type = "ConventionalMemory"
        phys = 0
        pages = {BELOW_PAGES}
        attribute = "WB"

        [[descriptor]]
        type = "MemoryMappedIO"
        phys = {phys}
        pages = {pages}
        attribute = "RUNTIME|UC"
        "#,
        phys = BELOW_PAGES * PAGE_BYTES,
        pages = leaves(gib),
    );
    MemoryMap::parse(&text).expect("the map is a good one")
}

fn leaves(gib: u64) -> u64 {
    gib * PAGES_PER_GIB - BELOW_PAGES
}

fn walker(criterion: &mut Criterion) {
    let bed = TestBed::without_kvm();
    let mut group = criterion.benchmark_group("walker");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(4));
    for gib in SIZES_GIB {
        let scenario = Scenario::new(map(gib)).leaf_rule(LeafRule::FourK).engine(EngineName::Walker);
        group.throughput(Throughput::Elements(leaves(gib)));
        group.bench_function(format!("{gib} GiB of 4 KiB leaves"), |b| {
            b.iter(|| black_box(bed.run(&scenario).expect("a report")))
        });
    }
    group.finish();
}

fn guest(_: &mut Criterion) {
    if !is_wanted("guest") {
        return;
    }
    let abilities = TestBed::new().and_then(|bed| bed.abilities(&CpuidRequest::default()));
    let (hypervisor, abilities) = match (Hypervisor::open(), abilities) {
        (Ok(hypervisor), Ok(abilities)) => (hypervisor, abilities),
        (Err(error), _) => return eprintln!("skipped: {error}"),
        (_, Err(error)) => return eprintln!("skipped: {error}"),
    };
    println!("guest: {:>6} {:>10} {:>22} {:>22} {:>6}", "GiB", "leaves", "bare fill", "mapper", "ratio");
    for gib in SIZES_GIB {
        let leaves = leaves(gib);
        let bare = Bench::new(gib, &abilities.told).time(&hypervisor, |guest, bench| bench.fill_bare(guest, leaves));
        let mapper = Bench::new(gib, &abilities.told).time(&hypervisor, |guest, bench| bench.run_mapper(guest));
        let shown = |time: Duration| {
            let per_entry = time.as_secs_f64() * 1e6 / leaves as f64;
            format!("{:.2} s, {per_entry:.2} us each", time.as_secs_f64())
        };
        let ratio = mapper.as_secs_f64() / bare.as_secs_f64();
        println!("guest: {gib:>6} {leaves:>10} {:>22} {:>22} {ratio:>6.2}", shown(bare), shown(mapper));
    }
}

/// Whether the command line asks for a benchmark of that name, and for measurements at all.
fn is_wanted(name: &str) -> bool {
    let mut arguments = std::env::args().skip(1).peekable();
    let filtered = arguments.peek().is_some_and(|first| !first.starts_with('-'));
    let named = !filtered || arguments.peek().is_some_and(|first| name.contains(first.as_str()));
    named && !arguments.any(|argument| ["--test", "--list"].contains(&argument.as_str()))
}

/// A guest's memory, new and untouched: the first write to a page pays for it.
struct Bench<'a> {
    loaded: Loaded,
    told: &'a Paging,
}

/// The page of the loop: the last one below the region.
const CODE_AT: u64 = (BELOW_PAGES - 1) * PAGE_BYTES;

impl<'a> Bench<'a> {
    fn new(gib: u64, told: &'a Paging) -> Self {
        let map = map(gib);
        let image = Image::built_in().expect("an image");
        // A table for 512 leaves, one for 512 of these, and some for what is above and the kernel's.
        let pool_pages = leaves(gib).div_ceil(512) + leaves(gib).div_ceil(512 * 512) + 32;
        let sizes = Loaded::sizes(image, &map, Strides::default(), 0, pool_pages, 1);
        let code = CODE_AT..CODE_AT + PAGE_BYTES;
        let placement = Placement::find(&map, sizes, 1 << told.maxphyaddr, &[code]).expect("room below the region");
        let loaded = Loaded::new(image, &map, Strides::default(), placement, &[CODE_AT], told).expect("memory");
        Self { loaded, told }
    }

    /// How long `work` takes in the guest, booted for it alone.
    fn time(&self, hypervisor: &Hypervisor, work: impl FnOnce(&mut Guest<'_>, &Self)) -> Duration {
        let internals = self.internals();
        let mut machine = Machine::new(hypervisor, &CpuidRequest::default(), internals).expect("a machine");
        let page = BackedPage { phys: CODE_AT, content: bare_fill_page() };
        let mut guest = Guest::boot(&mut machine, &self.loaded, &[page], self.told, LIMIT).expect("a guest");
        let start = Instant::now();
        work(&mut guest, self);
        start.elapsed()
    }

    /// KVM's own pages, right below the loop's.
    fn internals(&self) -> efibed::machine::Internals {
        let at = CODE_AT - 4 * PAGE_BYTES;
        assert!(self.loaded.memory.end() <= at, "the guest leaves room");
        efibed::machine::Internals { tss_pages_at: at, identity_map_page_at: at + 3 * PAGE_BYTES }
    }

    /// The loop, over the pages that the mapper would make tables of.
    fn fill_bare(&self, guest: &mut Guest<'_>, entries: u64) {
        let pool = self.loaded.placement.pool();
        let first = (BELOW_PAGES * PAGE_BYTES) | PRESENT_AND_WRITABLE;
        let blocks = entries / ENTRIES_PER_BLOCK;
        let call = command(Op::Call, [CODE_AT, DIRECT_MAP.wrapping_add(pool.start), blocks, first, 0, 0]);
        guest.batch(&[call], &mut NoEvents).expect("the loop ends");
        let last = self.loaded.memory.read_u64(pool.start + (entries - 1) * 8);
        assert_eq!(last, Some(first + (entries - 1) * PAGE_BYTES), "every entry was stored");
    }

    fn run_mapper(&self, guest: &mut Guest<'_>) {
        let cpu = CpuAbilities { gbpages: 0, nx: 1, la57: 0, maxphyaddr: self.told.maxphyaddr.into() };
        guest.put_request(MAPPER, cpu).expect("the mailbox is there");
        let mapped = guest.map(Op::Map, 0, &mut NoEvents).expect("the mapper ends");
        mapped.expect("it has pages enough");
    }
}

const ENTRIES_PER_BLOCK: u64 = 8;
const PRESENT_AND_WRITABLE: u64 = 3;

// The tightest loop there is for it: two instructions an entry, and three for each eight. (address, blocks, first entry),
// in the EFI calling convention, from anywhere in memory.
global_asm!(
    ".globl efibed_bare_fill, efibed_bare_fill_end",
    "efibed_bare_fill:",
    "2: .set slot, 0",
    ".rept 8",
    "mov [rcx + slot], r8",
    "add r8, 4096",
    ".set slot, slot + 8",
    ".endr",
    "add rcx, 64",
    "dec rdx",
    "jnz 2b",
    "ret",
    "efibed_bare_fill_end:",
);

unsafe extern "C" {
    static efibed_bare_fill: u8;
    static efibed_bare_fill_end: u8;
}

/// A page with the loop at its start.
fn bare_fill_page() -> [u8; PAGE_BYTES as usize] {
    let (start, end) = (&raw const efibed_bare_fill, &raw const efibed_bare_fill_end);
    // SAFETY: both symbols are in this executable, one piece of its text lies between them, and nobody writes it.
    let code = unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    let mut page = [0; PAGE_BYTES as usize];
    page[..code.len()].copy_from_slice(code);
    page
}

criterion_group!(benches, walker, guest);
criterion_main!(benches);
