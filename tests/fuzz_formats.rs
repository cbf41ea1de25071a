//! Every parser, fed 200,000 mutated pieces of real maps. Whatever it is given, a parser neither panics nor hangs, and
//! takes memory in proportion to its input.
//!
//! All is seeded: a failure names format, seed and input. `EFIBED_FUZZ_SEED` runs another sequence, `EFIBED_FUZZ_RUNS` so
//! many inputs for each parser. Hangs are found by
//! what they allocate, not by a clock; a loop that allocates nothing would hang the test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use efibed::MemoryMap;
use efibed::Random;
use efibed::memory_map::{Format, MAX_DESCRIPTORS, ReadError, ReadOptions, WriteFormat, WriteOptions, oddities, write};
use efibed_tests::*;

/// Inputs for each parser.
const RUNS: u64 = 200_000;
const DEFAULT_SEED: u64 = 2013;
/// Bytes allocated in all, and at once, for each byte of the input and for any input. A descriptor of 48 bytes, its
/// place and its notes come from rows of 20 bytes and more; an error keeps the lines around it.
const ALLOCATED_PER_BYTE: u64 = 4096;
const HELD_PER_BYTE: u64 = 256;
const FOR_ANY_INPUT: u64 = 256 << 10;

/// What the parse of one thread has allocated in all, holds now, and held at most.
#[derive(Clone, Copy, Default)]
struct Allocated {
    all: u64,
    now: u64,
    most: u64,
}

thread_local! {
    static ALLOCATED: Cell<Allocated> = const { Cell::new(Allocated { all: 0, now: 0, most: 0 }) };
}

struct Counting;

// SAFETY: everything is the system allocator's; counting touches a Cell of this thread that needs no allocation and no
// destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Allocated { all, now, most } = ALLOCATED.get();
        let (all, now) = (all + layout.size() as u64, now + layout.size() as u64);
        ALLOCATED.set(Allocated { all, now, most: most.max(now) });
        // SAFETY: as our caller vouches.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let allocated = ALLOCATED.get();
        // What another thread allocated may be freed here.
        ALLOCATED.set(Allocated { now: allocated.now.saturating_sub(layout.size() as u64), ..allocated });
        // SAFETY: as our caller vouches.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Rows as their programs print them, of formats of which no whole real file is at hand.
const ROWS: [(Format, &str); 13] = [
    (
        Format::LinuxMemattr,
        "[    0.348138] efi: memattr:  0x0000bfbc5000-0x0000bfbc8fff [Runtime Code       |RUN|  |  |  |  |  |  |RO|   |  |  |  |  ]\n\
         [    0.348660] efi: memattr:  0x0000bfbc9000-0x0000bfbcafff [Runtime Code       |RUN|  |  |  |XP|  |  |  |   |  |  |  |  ]\n",
    ),
    (
        Format::Grub,
        "reserved  0000000000000000-0000000000000fff 00000001      4KiB WB\n\
         RT-data   0000000007ef6000-0000000007f09fff 00000014     80KiB RT WB\n",
    ),
    (
        Format::EsxBoot,
        "MMap[25]: 0x713d4000 - 0x71495fff len=794624, type=2, attr=0xf\n\
         MMap[26]: 0x71496000 - 0x7149ffff len=40960, type=7, attr=0xf\n",
    ),
    (
        Format::OpenCore,
        "OCMM: RT Code   [RUN|   |  |  |  |  |XP|  |  |   |  |  |  |  ] 0x000000004D81A000-0x000000004D838FFF -> 0x0000000000000000 (124 KB)\n",
    ),
    (
        Format::UefiRs,
        "INFO: MemoryDescriptor { ty: BOOT_SERVICES_CODE, padding: 0, phys_start: 0, virt_start: 0, page_count: 1, att: UNCACHEABLE | WRITE_COMBINE | WRITE_THROUGH | WRITE_BACK }\n\
         INFO: MemoryDescriptor { ty: CONVENTIONAL, padding: 0, phys_start: 4096, virt_start: 0, page_count: 159, att: UNCACHEABLE | WRITE_COMBINE | WRITE_THROUGH | WRITE_BACK }\n",
    ),
    (
        Format::UefiLessons,
        "[#112] Type: EfiRuntimeServicesData  Attr:  UC WC WT WB RUNTIME\n      Phys: 0000000007EF4000-0000000007F77FFF\n",
    ),
    (
        Format::UefiRs,
        "[\n    MemoryDescriptor {\n        ty: MemoryType(\n            2147483649,\n        ),\n        padding: 0,\n        \
         phys_start: 4096,\n        virt_start: 0,\n        page_count: 159,\n        att: MemoryAttribute(\n            \
         WRITE_BACK,\n        ),\n    },\n]\n",
    ),
    (
        Format::RuntimeMap,
        "==> /sys/firmware/efi/runtime-map/0/attribute <==\n0x8000000000000001\n\n==> 0/num_pages <==\n0x400\n\n\
         ==> 0/phys_addr <==\n0xffc00000\n\n==> 0/type <==\n0xb\n\n==> 0/virt_addr <==\n0xfffffffeffc00000\n",
    ),
    (
        Format::UefiShell,
        "MemoryAttributesTable: Version=0x1 Count=0x1 DescriptorSize=0x30\n\
         Type       Start            End              # Pages          Attributes\n\
         RT_Code    000000007951D000-000000007951EFFF 0000000000000002 8000000000020000\n\
         \n  RT_Code   :              2 Pages (8192 Bytes)\n",
    ),
    (
        Format::Edk2Memattr,
        "MemoryAttributesTable:\n  NumberOfEntries      - 0x00000001\nEntry (0x7EC5A018)\n  Type              - 0x5\n  \
         PhysicalStart     - 0x000000007951C000\n  VirtualStart      - 0x0000000000000000\n  NumberOfPages     - \
         0x0000000000000001\n  Attribute         - 0x8000000000004000\n",
    ),
    (
        Format::Edk2Hob,
        "HOBLIST address in DXE = 0x7EEA018\nMemory Allocation 0x00000006 0x7ED4000 - 0x7EF3FFF\n\
         Memory Allocation HOBs\n  BA=0000000007ED4000  L=0000000000020000  RT_Data  {4ED4BF27}\n   \
         MemoryBaseAddress = 0x7F78000\n   MemoryLength      = 0x88000\n   MemoryType        = EfiReservedMemoryType\n",
    ),
    (
        Format::Haiku,
        "System provided memory map:\n  0x0-0x1000  0x0 0x3 0xf\n  phys: 0x00001000-0x00003000, virt: \
         0x00000000-0x00002000, size = 0x00002000, type: EfiConventionalMemory (0x7), attr: 0xf\n",
    ),
    (
        Format::LinuxArm64,
        "@@ -1,2 +1,2 @@\n-efi:   0x000000000000-0x000000000fff [Reserved|   |WB]\n\
         +efi:   0x000000000000-0x000000001fff [Reserved|   |WB]\n 9c9\n< row\n---\n",
    ),
];

/// What is mutated for a format: real maps of it, the rows above, and real maps written in it.
fn seeds(format: Format) -> Vec<Vec<u8>> {
    let files = X86_MAPS.into_iter().chain(TRUTH).chain([
        APPLE_02_ARM64,
        FREEBSD_LX2160A_01,
        UBOOT_01,
        OVMF_2013,
        OFF_BY_PAGE,
        UNALIGNED,
    ]);
    let files = files.filter(|file| map(*file).format() == Some(format)).map(|(_, text)| text.as_bytes().to_vec());
    let runtime_maps = RUNTIME_MAPS.into_iter().filter(|_| format == Format::RuntimeMap);
    let rows = ROWS.into_iter().filter(|(of, _)| *of == format).map(|(_, text)| text);
    let texts = runtime_maps.chain(rows).map(|text| text.as_bytes().to_vec());
    let written = match format {
        Format::Json => Some(WriteFormat::Json),
        Format::Binary => Some(WriteFormat::Binary),
        Format::Grub => Some(WriteFormat::Grub),
        _ => None,
    };
    let written = written.map(|to| write(&map(OVMF_2013), to, &WriteOptions::default()).unwrap());
    files.chain(texts).chain(written).collect()
}

/// A few lines of a seed; now and then all of it. What is no text is cut anywhere.
fn piece(seed: &[u8], random: &mut Random) -> Vec<u8> {
    if random.index(2000) == 0 {
        return seed.to_vec();
    }
    let lines: Vec<&[u8]> = seed.split_inclusive(|byte| *byte == b'\n').collect();
    let count = 1 + random.index(6);
    let first = random.index(lines.len());
    let piece = lines[first..].iter().take(count).copied().collect::<Vec<_>>().concat();
    piece[..piece.len().min(2048)].to_vec()
}

/// What breaks readers: ends of ranges, other scripts, separators of all these formats.
const INSERTED: [&str; 22] = [
    "0xffffffffffffffff",
    "18446744073709551616",
    "00000000000000000000",
    "-1",
    "0x",
    "|",
    "]",
    "[",
    "-",
    "=",
    "(",
    ")",
    "\0",
    "\r",
    "\n",
    "\t",
    "\u{feff}",
    "é",
    "\u{1f600}",
    "efi: mem",
    "[[descriptor]]",
    "\"",
];

fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..1 + random.index(4) {
        let (at, end) = (random.index(input.len() + 1), random.index(input.len() + 1));
        let (first, last) = (at.min(end), at.max(end).min(at.min(end) + 64));
        match random.index(9) {
            0 if at < input.len() => input[at] ^= 1 << random.index(8),
            1 if at < input.len() => input[at] = random.number() as u8,
            2 if at < input.len() => input[at] = *random.one_of(b"0123456789abcdefxF"),
            3 => drop(input.drain(first..last)),
            4 => input.truncate(at),
            5 => {
                let copy = input[first..last].to_vec();
                input.splice(at..at, copy);
            }
            6 => drop(input.splice(at..at, random.one_of(&INSERTED).bytes())),
            7 => {
                let from = random.index(other.len());
                let to = other.len().min(from + 64);
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let run = vec![*random.one_of(b"0f |[,\n"); random.index(300)];
                input.splice(at..at, run);
            }
        }
    }
}

/// What is wrong with how a parser took an input; None: nothing.
fn wrong_with<T>(
    input: &[u8],
    parse: impl FnOnce(&[u8]) -> T,
    check: impl FnOnce(T) -> Option<String>,
) -> Option<String> {
    let before = ALLOCATED.get();
    ALLOCATED.set(Allocated { most: before.now, ..before });
    let parsed = catch_unwind(AssertUnwindSafe(|| parse(input)));
    let after = ALLOCATED.get();
    let (all, held) = (after.all - before.all, after.most - before.now);
    let bytes = input.len() as u64;
    // A panic allocates much for its message.
    let Ok(parsed) = parsed else { return Some("it panicked".into()) };
    if all > FOR_ANY_INPUT + ALLOCATED_PER_BYTE * bytes || held > FOR_ANY_INPUT + HELD_PER_BYTE * bytes {
        return Some(format!("{all} bytes allocated and {held} held for an input of {bytes}"));
    }
    check(parsed)
}

fn read(input: &[u8], options: &ReadOptions) -> Result<Vec<MemoryMap>, ReadError> {
    MemoryMap::parse_bytes("fuzz", input.to_vec(), options)
}

/// Strictly or leniently, in its own format or as whatever it seems to be.
fn check_input(format: Format, input: &[u8], run: u64) -> Option<String> {
    let stride = (format == Format::Binary).then_some([40, 48, 56, 44][(run / 4 % 4) as usize]);
    let own = if run.is_multiple_of(8) { None } else { Some(format) };
    let options = ReadOptions { lenient: run % 2 == 1, format: own, stride };
    wrong_with(input, |input| read(input, &options), |read| check_result(input, read, run, &options))
}

fn check_result(
    input: &[u8],
    result: Result<Vec<MemoryMap>, ReadError>,
    run: u64,
    options: &ReadOptions,
) -> Option<String> {
    let lists = match result {
        Ok(lists) => lists,
        Err(error) => {
            if run.is_multiple_of(64) {
                let _ = format!("{:?}", miette::Report::new(error));
            }
            return None;
        }
    };
    if lists.is_empty() || lists.iter().any(|map| map.descriptors().len() > MAX_DESCRIPTORS) {
        return Some(format!("{} lists", lists.len()));
    }
    if run.is_multiple_of(16) {
        lists.iter().for_each(|map| drop(oddities(map)));
        let lenient = ReadOptions { lenient: true, ..*options };
        if read(input, &lenient).is_err() {
            return Some("it reads strictly, and leniently it does not".into());
        }
        let first = &lists[0];
        let json = write(first, WriteFormat::Json, &WriteOptions::default()).ok()?;
        let back = read(&json, &ReadOptions::default()).ok()?;
        // The padding of a binary descriptor means nothing, and is not written.
        let fields = |map: &MemoryMap| -> Vec<_> {
            let all = map.descriptors().iter();
            all.map(|d| (d.ty, d.phys_start, d.virt_start, d.page_count, d.att)).collect()
        };
        if fields(&back[0]) != fields(first) {
            return Some("written as JSON it reads as another map".into());
        }
    }
    None
}

fn fuzz(format: Format, seed: u64, runs: u64) {
    let seeds = seeds(format);
    assert!(!seeds.is_empty(), "nothing to mutate for {}", format.name());
    let mut random = Random::new(seed ^ format as u64);
    for run in 0..runs {
        let seed_text = random.one_of(seeds.as_slice()).as_slice();
        let mut input = piece(seed_text, &mut random);
        let other = random.one_of(&ROWS).1;
        mutate(&mut input, other.as_bytes(), &mut random);
        if let Some(problem) = check_input(format, &input, run) {
            let text = String::from_utf8_lossy(&input);
            panic!("{} (EFIBED_FUZZ_SEED={seed}, run {run}): {problem}\n{text:?}", format.name());
        }
    }
}

#[test]
fn no_parser_panics_hangs_or_hoards() {
    let seed = from_environment("EFIBED_FUZZ_SEED", DEFAULT_SEED);
    let runs = from_environment("EFIBED_FUZZ_RUNS", RUNS);
    let next = std::sync::Mutex::new(Format::ALL.iter().copied());
    let take = || next.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| std::iter::from_fn(take).for_each(|format| fuzz(format, seed, runs)));
        }
    });
}

#[test]
fn a_parser_that_panics_or_hoards_is_found_out() {
    let none = |()| None;
    assert_eq!(wrong_with(b"input", |_| (), none), None);
    let panics = wrong_with(b"input", |input| assert!(input.is_empty(), "not today"), none);
    assert_eq!(panics.as_deref(), Some("it panicked"));
    let hoards = wrong_with(b"input", |_| drop(vec![0_u8; 1 << 20]), none);
    assert!(hoards.is_some_and(|problem| problem.contains("1048576 held")));
    // Work without end shows in what it allocates, even if it gives all of it back.
    let churns = wrong_with(b"input", |_| (0..1000).for_each(|_| drop(vec![0_u8; 1 << 10])), none);
    assert!(churns.is_some_and(|problem| problem.contains("allocated")));
    assert_eq!(wrong_with(b"input", |_| 1, |_| Some("odd".into())).as_deref(), Some("odd"));
}
