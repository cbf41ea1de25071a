//! Damage to one row of a form that has none of its rows in a real file here: 500 seeded mutations of each.
//!
//! Whatever is done to a row, it does not change how others are read. The row itself is read as its text says, or is
//! named as skipped, or refused; it is never lost, and never read as something that is not there. What its text says is
//! found out here by splitting it into numbers, not by a reader.

use std::collections::HashSet;

use efibed::MemoryMap;
use efibed::Random;
use efibed::memory_map::{MemoryDescriptor, OddityKind, ReadOptions, oddities};

const RUNS: u64 = 500;
const DEFAULT_SEED: u64 = 13;

/// A form: what stands before the rows, the rows, and what stands behind them.
struct Form {
    name: &'static str,
    before: &'static str,
    rows: &'static [&'static str],
    after: &'static str,
    /// Whether the rows are those of the Memory Attributes Table.
    is_table: bool,
}

const FORMS: [Form; 12] = [
    Form {
        name: "edk2 table in one line",
        before: "MemoryAttributesTable: Version=0x1 Count=0x3 DescriptorSize=0x30\n\
                 Type       Start            End              # Pages          Attributes\n",
        rows: SHELL_ENTRIES,
        after: "\n  RT_Code   :              3 Pages (12288 Bytes)\n",
        is_table: true,
    },
    Form {
        name: "edk2 table under a heading",
        before: "MemoryAttributesTable:\n  Version         - 0x00000001\n  NumberOfEntries - 0x00000003\n  \
                 DescriptorSize  - 0x00000030\n\nType       Start            End              # Pages          Attributes\n",
        rows: SHELL_ENTRIES,
        after: "\n",
        is_table: true,
    },
    Form {
        name: "edk2 table over many lines",
        before: "MemoryAttributesTable:\n  Version              - 0x00000001\n  NumberOfEntries      - 0x00000003\n",
        rows: &[
            "Entry (0x7EC5A018)\n  Type              - 0x5\n  PhysicalStart     - 0x000000007951C000\n  VirtualStart      - \
             0x0000000000000000\n  NumberOfPages     - 0x0000000000000001\n  Attribute         - 0x8000000000004000\n",
            "Entry (0x7EC5A048)\n  Type              - 0x5\n  PhysicalStart     - 0x000000007951D000\n  VirtualStart      - \
             0x0000000000000000\n  NumberOfPages     - 0x0000000000000002\n  Attribute         - 0x8000000000020000\n",
            "Entry (0x7EC5A078)\n  Type              - 0x6\n  PhysicalStart     - 0x000000007952F000\n  VirtualStart      - \
             0x0000000000000000\n  NumberOfPages     - 0x0000000000000002\n  Attribute         - 0x8000000000004000\n",
        ],
        after: "",
        is_table: true,
    },
    Form {
        name: "haiku, bare",
        before: "System provided memory map:\n",
        rows: &[
            "  0x0-0x1000  0x0 0x3 0xf\n",
            "  0x1000-0x3000  0x0 0x7 0xf\n",
            "  0x7f8ef000-0x7fb6f000  0x0 0x5 0x800000000000000f\n",
        ],
        after: "Final PML4 at 0x7e5b3000\n",
        is_table: false,
    },
    Form {
        name: "haiku, named",
        before: "KERN: System provided memory map:\n",
        rows: &[
            "KERN:   phys: 0x00000000-0x00001000, virt: 0x00000000-0x00001000, type: EfiBootServicesCode (0x3), attr: 0xf\n",
            "KERN:   phys: 0x00001000-0x00003000, virt: 0x00000000-0x00002000, type: EfiConventionalMemory (0x7), attr: 0xf\n",
            "KERN:   phys: 0x7f8ef000-0x7fb6f000, virt: 0x00000000-0x00280000, type: EfiRuntimeServicesCode (0x5), attr: 0x800000000000000f\n",
        ],
        after: "",
        is_table: false,
    },
    Form {
        name: "runtime-map by head",
        before: "",
        rows: &[
            "==> /sys/firmware/efi/runtime-map/0/attribute <==\n0x8000000000000001\n\n==> /sys/firmware/efi/runtime-map/0/num_pages <==\n\
             0x400\n\n==> /sys/firmware/efi/runtime-map/0/phys_addr <==\n0xffc00000\n\n==> /sys/firmware/efi/runtime-map/0/type <==\n\
             0xb\n\n==> /sys/firmware/efi/runtime-map/0/virt_addr <==\n0xfffffffeffc00000\n\n",
            "==> /sys/firmware/efi/runtime-map/1/attribute <==\n0x800000000000000f\n\n==> /sys/firmware/efi/runtime-map/1/num_pages <==\n\
             0x84\n\n==> /sys/firmware/efi/runtime-map/1/phys_addr <==\n0x7fef4000\n\n==> /sys/firmware/efi/runtime-map/1/type <==\n\
             0x6\n\n==> /sys/firmware/efi/runtime-map/1/virt_addr <==\n0xfffffffeffaf4000\n\n",
        ],
        after: "",
        is_table: false,
    },
    Form {
        name: "runtime-map by grep",
        before: "",
        rows: &[
            "runtime-map/0/attribute:0x8000000000000001\nruntime-map/0/num_pages:0x400\nruntime-map/0/phys_addr:0xffc00000\n\
             runtime-map/0/type:0xb\nruntime-map/0/virt_addr:0xfffffffeffc00000\n",
            "runtime-map/1/attribute:0x800000000000000f\nruntime-map/1/num_pages:0x84\nruntime-map/1/phys_addr:0x7fef4000\n\
             runtime-map/1/type:0x6\nruntime-map/1/virt_addr:0xfffffffeffaf4000\n",
        ],
        after: "",
        is_table: false,
    },
    Form {
        name: "uefi-rs over many lines",
        before: "[\n",
        rows: &[
            "    MemoryDescriptor {\n        ty: CONVENTIONAL,\n        padding: 0,\n        phys_start: 4096,\n        virt_start: 0,\n        \
             page_count: 159,\n        att: MemoryAttribute(\n            UNCACHEABLE | WRITE_BACK,\n        ),\n    },\n",
            "    MemoryDescriptor {\n        ty: MemoryType(\n            2147483649,\n        ),\n        padding: 0,\n        \
             phys_start: 1048576,\n        virt_start: 0,\n        page_count: 5,\n        att: MemoryAttribute(\n            \
             WRITE_BACK | 0x10000000000,\n        ),\n    },\n",
        ],
        after: "]\n",
        is_table: false,
    },
    Form {
        name: "uefi-rs in a slice",
        before: "map: [",
        rows: &[
            "MemoryDescriptor { ty: CONVENTIONAL, padding: 0, phys_start: 4096, virt_start: 0, page_count: 159, att: MemoryAttribute(WRITE_BACK) }, ",
            "MemoryDescriptor { ty: MMIO, padding: 0, phys_start: 1048576, virt_start: 0, page_count: 5, att: MemoryAttribute(RUNTIME | 0x10000000000) }",
        ],
        after: "]\n",
        is_table: false,
    },
    Form {
        name: "HOBs of the cores",
        before: "HOBLIST address in DXE = 0x7EEA018\n",
        rows: &[
            "Memory Allocation 0x00000000 0x7F78000 - 0x7FFFFFF\n",
            "Memory Allocation 0x00000006 0x7ED4000 - 0x7EF3FFF\n",
            "Memory Allocation 0x00000004 0x7F56000 - 0x7F75FFF\n",
        ],
        after: "FV Hob            0x900000 - 0x14FFFFF\n",
        is_table: false,
    },
    Form {
        name: "HOBs of MinPlatformPkg",
        before: "Memory Allocation HOBs\n",
        rows: &[
            "  BA=0000000007F78000  L=0000000000088000  Reserved\n",
            "  BA=0000000007ED4000  L=0000000000020000  RT_Data  {4ED4BF27-4092-42E9-807D-527B1D00C9BD}\n",
        ],
        after: "GUID HOBs\n",
        is_table: false,
    },
    Form {
        name: "HOBs over many lines",
        before: "Print all Hob information from Hob 0x7EEA018\n",
        rows: &[
            "   MemoryBaseAddress = 0x7F78000\n   MemoryLength      = 0x88000\n   MemoryType        = EfiReservedMemoryType\n",
            "   MemoryBaseAddress = 0x7ED4000\n   MemoryLength      = 0x20000\n   MemoryType        = EfiRuntimeServicesData\n",
        ],
        after: "",
        is_table: false,
    },
];

const SHELL_ENTRIES: &[&str] = &[
    "RT_Code    000000007951C000-000000007951CFFF 0000000000000001 8000000000004000\n",
    "RT_Code    000000007951D000-000000007951EFFF 0000000000000002 8000000000020000\n",
    "RT_Data    000000007952F000-0000000079530FFF 0000000000000002 8000000000004000\n",
];

/// One edit: a character replaced, inserted or deleted, or the row cut short.
fn mutated(row: &str, random: &mut Random) -> String {
    const CHARACTERS: &[u8] = b"0123456789abcdefABCDEFxX-:=|,(){}[] _ZzOo";
    let mut row = row.as_bytes().to_vec();
    let at = random.index(row.len());
    let by = CHARACTERS[random.index(CHARACTERS.len())];
    match random.index(4) {
        0 => row[at] = by,
        1 => row.insert(at, by),
        2 => drop(row.remove(at)),
        _ => row.truncate(at),
    }
    if row.last() != Some(&b'\n') {
        row.push(b'\n');
    }
    String::from_utf8(row).unwrap_or_default()
}

/// All that was read of rows, and whether something is noted as skipped or missing.
struct Read {
    descriptors: Vec<MemoryDescriptor>,
    is_noted: bool,
}

fn read(form: &Form, text: &str, lenient: bool) -> Option<Read> {
    let maps = MemoryMap::parse_all("text", text, &ReadOptions { lenient, ..ReadOptions::default() }).ok()?;
    let rows =
        |map: &MemoryMap| if form.is_table { map.attributes_table().to_vec() } else { map.descriptors().to_vec() };
    let noted = [OddityKind::SkippedLine, OddityKind::MissingRows, OddityKind::SizeMismatch];
    let is_noted = maps.iter().flat_map(oddities).any(|odd| noted.contains(&odd.kind));
    Some(Read { descriptors: maps.iter().flat_map(rows).collect(), is_noted })
}

/// The numbers of a text, hexadecimal and decimal.
fn numbers(text: &str) -> HashSet<u64> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let of_word = |word: &str| {
        let hex = word.strip_prefix("0x").unwrap_or(word);
        [u64::from_str_radix(hex, 16).ok(), word.parse().ok()]
    };
    words.flat_map(of_word).flatten().collect()
}

/// Whether a text says what was read: where the region starts, and its pages, bytes, last byte or end.
fn says(text: &str, row: &MemoryDescriptor) -> bool {
    let numbers = numbers(text);
    let bytes = row.page_count.wrapping_mul(4096);
    let end = row.phys_start.wrapping_add(bytes);
    let sizes = [row.page_count, bytes, end, end.wrapping_sub(1)];
    numbers.contains(&row.phys_start) && sizes.iter().any(|size| numbers.contains(size))
}

/// What is wrong with how a text was read in which one row is damaged; None: nothing.
fn wrong_with(read: &Read, sound: &[MemoryDescriptor], damaged: usize, row: &str) -> Option<String> {
    let mut rest = read.descriptors.clone();
    for (index, expected) in sound.iter().enumerate().filter(|(index, _)| *index != damaged) {
        let Some(at) = rest.iter().position(|row| row == expected) else {
            return Some(format!("row {index} was not touched, and is not read as before"));
        };
        rest.remove(at);
    }
    match rest.as_slice() {
        [] if !read.is_noted => Some("the row is lost, and nothing says so".into()),
        [] => None,
        [only] if *only == sound[damaged] || says(row, only) => None,
        others => Some(format!("read as {others:x?}")),
    }
}

/// Whether so little of a row is left that nothing tells what it was, at the end of a list. (Between rows it is noticed.)
fn is_cut_short(row: &str, mutant: &str) -> bool {
    mutant.trim().len() * 2 < row.trim().len() && row.starts_with(mutant.trim_end())
}

#[test]
fn a_damaged_row_is_read_as_it_stands_or_named() {
    let seed = std::env::var("EFIBED_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(DEFAULT_SEED);
    let mut problems = Vec::new();
    for form in &FORMS {
        let text = |rows: &[String]| [form.before, &rows.concat(), form.after].concat();
        let rows: Vec<String> = form.rows.iter().map(|row| (*row).to_string()).collect();
        let sound =
            read(form, &text(&rows), false).unwrap_or_else(|| panic!("{} does not read", form.name)).descriptors;
        assert_eq!(sound.len(), rows.len(), "{}", form.name);
        let mut random = Random::new(seed);
        for run in 0..RUNS {
            let damaged = random.index(rows.len());
            let mut mutant = rows.clone();
            mutant[damaged] = mutated(&rows[damaged], &mut random);
            for lenient in [false, true] {
                let Some(read) = read(form, &text(&mutant), lenient) else {
                    assert!(!lenient, "{} (run {run}): the other rows are sound\n{}", form.name, mutant[damaged]);
                    continue;
                };
                if let Some(problem) = wrong_with(&read, &sound, damaged, &mutant[damaged]) {
                    if is_cut_short(&rows[damaged], &mutant[damaged]) && read.descriptors.len() < rows.len() {
                        continue;
                    }
                    let name = form.name;
                    problems.push(format!("{name} (run {run}, lenient {lenient}): {problem}\n{}", mutant[damaged]));
                }
            }
        }
    }
    let count = problems.len();
    assert!(problems.is_empty(), "seed {seed}, {count}:\n{}", problems[..count.min(10)].join("\n"));
}

/// The judge finds what it is there for.
#[test]
fn a_lost_or_misread_row_is_found_out() {
    let row = |phys_start| MemoryDescriptor { phys_start, page_count: 1, ..Default::default() };
    let sound = [row(0x1000), row(0x2000)];
    let wrong = |descriptors: &[MemoryDescriptor], is_noted| {
        wrong_with(&Read { descriptors: descriptors.to_vec(), is_noted }, &sound, 1, "0x5000-0x6000")
    };
    assert_eq!(wrong(&sound, false), None);
    assert_eq!(wrong(&[row(0x1000), row(0x5000)], false), None);
    assert_eq!(wrong(&[row(0x1000)], true), None);
    assert!(wrong(&[row(0x1000)], false).is_some_and(|problem| problem.contains("lost")));
    assert!(wrong(&[row(0x1000), row(0x7000)], true).is_some_and(|problem| problem.contains("read as")));
    assert!(wrong(&[row(0x2000)], true).is_some_and(|problem| problem.contains("row 0 was not touched")));
}
