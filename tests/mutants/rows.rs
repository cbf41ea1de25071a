//! The mutants: right mapping code, with one thing wrong in it.

use efibed::Layout;

/// One of them.
pub struct Mutant {
    /// Mutants of a kind have one number; 0: those that the campaign was first made for.
    pub kind: u32,
    /// What is wrong.
    pub what: &'static str,
    /// The layout that shows it.
    pub layout: Layout,
    /// What it does to the sources of guest-kernel: file, text that is there once, text in its place.
    pub edits: &'static [(&'static str, &'static str, &'static str)],
    /// Pages to map, at most, of the maps that are tried.
    pub max_pages: u64,
    /// Why no map shows it, if none does.
    pub equivalent: Option<&'static str>,
}

impl Mutant {
    const fn pages(self, max_pages: u64) -> Self {
        Self { max_pages, ..self }
    }

    const fn shows_nowhere(self, why: &'static str) -> Self {
        Self { equivalent: Some(why), ..self }
    }
}

type Edits = &'static [(&'static str, &'static str, &'static str)];

const fn mutant(kind: u32, what: &'static str, layout: Layout, edits: Edits) -> Mutant {
    Mutant { kind, what, layout, edits, max_pages: 1 << 18, equivalent: None }
}

const MOD: &str = "layouts/mod.rs";
const LINUX: &str = "layouts/linux.rs";
const TABLE: &str = "mapper/page_table.rs";

use Layout::{Linux, LinuxFixed, PackedDown, Window};

/// All of the window: 64 GiB, and a little more.
const WINDOW: u64 = 17 << 20;

/// Why what is done with the kernel's tables shows nowhere.
const APART: &str = "the given root shares page tables alone with the kernel, and the window is further than 2 MiB from the \
                     kernel's pages";

/// By kind.
pub const MUTANTS: &[Mutant] = &[
    mutant(
        0,
        "the bug of 2013: a large leaf by VA alone",
        PackedDown,
        &[(
            TABLE,
            "Self::CoAligned => ((virt | phys) & low == 0).then_some(phys),",
            "Self::CoAligned => (virt & low == 0).then_some(phys),",
        )],
    ),
    mutant(
        0,
        "a large leaf by VA alone, with the low bits of PA dropped",
        PackedDown,
        &[(
            TABLE,
            "Self::CoAligned => ((virt | phys) & low == 0).then_some(phys),",
            "Self::CoAligned => (virt & low == 0).then_some(phys & !low),",
        )],
    ),
    mutant(
        0,
        "a wrong frame behind five branches",
        PackedDown,
        &[(
            MOD,
            "let mapping =\n            Mapping { flags: leaf_flags(descriptor, context.cpu)",
            "let mut phys = phys;
        if descriptor.ty == memory_type::BOOT_SERVICES_CODE {
            if index >= 2 {
                if descriptor.page_count % 8 == 5 {
                    if phys & 0x20_0000 != 0 {
                        if descriptor.attribute & attribute::WT == 0 {
                            phys ^= PAGE_BYTES;
                        }
                    }
                }
            }
        }
        let mapping =
            Mapping { flags: leaf_flags(descriptor, context.cpu)",
        )],
    ),
    mutant(1, "the window starts at -67 GiB", Window, &[(MOD, "(68u64 << 30)", "(67u64 << 30)")]),
    mutant(1, "the window starts at -69 GiB", Window, &[(MOD, "(68u64 << 30)", "(69u64 << 30)")]),
    mutant(2, "the window's first address is not given out", Linux, &[(MOD, "(*next >= WINDOW_START)", "(*next > WINDOW_START)")])
        .pages(WINDOW),
    mutant(
        2,
        "an address below the window is given out",
        Linux,
        &[(MOD, "(*next >= WINDOW_START)", "(*next >= WINDOW_START - (2 << 20))")],
    )
    .pages(WINDOW),
    mutant(
        3,
        "after a region that does not fit, later ones are placed",
        Linux,
        &[
            (MOD, "let below = next.saturating_sub(bytes);", "let before = *next; let below = next.saturating_sub(bytes);"),
            (
                MOD,
                "Ok((*next >= WINDOW_START).then_some(*next))",
                "if *next >= WINDOW_START { Ok(Some(*next)) } else { *next = before; Ok(None) }",
            ),
        ],
    )
    .pages(WINDOW),
    mutant(4, "the offset in the page is dropped", PackedDown, &[(MOD, "Ok(Some(*next + phys % PAGE_BYTES))", "Ok(Some(*next))")]),
    mutant(
        4,
        "PA is not rounded down to a page",
        PackedDown,
        &[(
            MOD,
            "[virt_start, descriptor.phys_start].map(|start| start & !(PAGE_BYTES - 1))",
            "[virt_start & !(PAGE_BYTES - 1), descriptor.phys_start]",
        )],
    ),
    mutant(
        4,
        "VirtualStart is rounded down",
        PackedDown,
        &[(
            MOD,
            "context.push_mapped(index, &MemoryDescriptor { virt_start, ..*descriptor })?;",
            "context.push_mapped(index, &MemoryDescriptor { virt_start: virt_start & !(PAGE_BYTES - 1), ..*descriptor })?;",
        )],
    ),
    mutant(5, "the last region's end is taken for the highest", Window, &[(MOD, "if end > highest {", "if end > 0 {")]),
    mutant(
        6,
        "that all fits into 64 GiB is not checked",
        Window,
        &[(MOD, "if highest > WINDOW_END - WINDOW_START {", "if highest > WINDOW_END {")],
    ),
    mutant(
        6,
        "exactly 64 GiB are refused",
        Window,
        &[(MOD, "if highest > WINDOW_END - WINDOW_START {", "if highest >= WINDOW_END - WINDOW_START {")],
    ),
    mutant(7, "regions without pages are mapped", Window, &[(MOD, "wanted && descriptor.page_count > 0 &&", "wanted &&")]),
    mutant(7, "regions past 2^48 are left out", PackedDown, &[(MOD, "MAX_PHYS_PAGES: u64 = 1 << 40", "MAX_PHYS_PAGES: u64 = 1 << 36")]),
    mutant(7, "regions past 2^52 are let in", PackedDown, &[(MOD, "MAX_PHYS_PAGES: u64 = 1 << 40", "MAX_PHYS_PAGES: u64 = 1 << 41")]),
    mutant(
        8,
        "VirtualStart 0 is taken for an address",
        LinuxFixed,
        &[(
            MOD,
            "Ok((descriptor.virt_start != 0 || phys == 0).then_some(descriptor.virt_start))",
            "Ok(Some(descriptor.virt_start))",
        )],
    )
    .pages(WINDOW),
    mutant(
        9,
        "a 1 GiB leaf where PA is aligned to 2 MiB",
        Window,
        &[(
            TABLE,
            "Self::CoAligned => ((virt | phys) & low == 0).then_some(phys),",
            "Self::CoAligned => (virt & low == 0 && phys % (2 << 20) == 0).then_some(phys),",
        )],
    )
    .pages(1 << 20),
    mutant(
        9,
        "a 1 GiB leaf where PA is aligned to 2 MiB, with the low bits of PA dropped",
        Window,
        &[(
            TABLE,
            "Self::CoAligned => ((virt | phys) & low == 0).then_some(phys),",
            "Self::CoAligned => (virt & low == 0 && phys % (2 << 20) == 0).then_some(phys & !low),",
        )],
    )
    .pages(1 << 20),
    mutant(
        9,
        "a 1 GiB leaf where 2 MiB are left",
        Window,
        &[
            (TABLE, "bytes >= span(*level))", "bytes >= span(2) && (*level == 2 || bytes > span(2)))"),
            (TABLE, "let count = (bytes >> shift(level)).min((ENTRIES - first) as u64);", "let count = (bytes >> shift(level)).max(1).min((ENTRIES - first) as u64);"),
            (TABLE, "bytes -= done;", "bytes = bytes.saturating_sub(done);"),
        ],
    )
    .pages(1 << 20),
    mutant(9, "the smaller large leaf first", Window, &[(TABLE, "(2..=self.largest).rev().filter", "(2..=self.largest).filter")])
        .pages(1 << 20)
        .shows_nowhere("what is mapped is the same, with more tables"),
    mutant(
        10,
        "the length in 32 bits",
        Window,
        &[(
            MOD,
            "space.map(&mut context.tables, virt, phys, descriptor.page_count * PAGE_BYTES, mapping)?;",
            "space.map(&mut context.tables, virt, phys, u64::from((descriptor.page_count * PAGE_BYTES) as u32), mapping)?;",
        )],
    )
    .pages(1 << 21),
    mutant(
        10,
        "the physical address in 32 bits",
        PackedDown,
        &[(
            MOD,
            "space.map(&mut context.tables, virt, phys, descriptor",
            "space.map(&mut context.tables, virt, u64::from(phys as u32), descriptor",
        )],
    ),
    mutant(
        10,
        "the physical address in 40 bits",
        PackedDown,
        &[(
            MOD,
            "space.map(&mut context.tables, virt, phys, descriptor",
            "space.map(&mut context.tables, virt, phys % (1 << 40), descriptor",
        )],
    ),
    mutant(
        11,
        "leaves end one before their table does",
        Window,
        &[(
            TABLE,
            "[first..first + count as usize],",
            "[first..first + count as usize - usize::from(first > 0 && count > 1 && first + count as usize == ENTRIES)],",
        )],
    ),
    mutant(
        11,
        "leaves do not end with their table",
        Window,
        &[(
            TABLE,
            "let count = (bytes >> shift(level)).min((ENTRIES - first) as u64);",
            "let count = (bytes >> shift(level)).min(ENTRIES as u64);",
        )],
    ),
    mutant(12, "PS stays in PTEs", Linux, &[(TABLE, "(if level == 2 { 0 } else { LARGE }, entry", "(if level == 0 { 0 } else { LARGE }, entry")]),
    mutant(12, "the PAT bit is not moved", Linux, &[(TABLE, "let pat = if level == 2 { pat >> 5 } else { pat };", "")])
        .shows_nowhere("no layout has a leaf with the PAT bit, so there is none to move"),
    mutant(12, "NX is lost", Linux, &[(TABLE, "(entry & !(LARGE | PAT_LARGE)) | large", "(entry & !(LARGE | PAT_LARGE | NX)) | large")]),
    mutant(12, "the table's entry takes NX", Linux, &[(TABLE, "self.split(new, level, entry)?;\n                TABLE", "self.split(new, level, entry)?;\n                TABLE | entry & NX")]),
    mutant(12, "the last slot stays empty", Linux, &[(TABLE, "for slot in self.table(new)? {", "for slot in &mut self.table(new)?[..ENTRIES - 1] {")]),
    mutant(12, "frames a page apart, whatever the level", Linux, &[(TABLE, "below.wrapping_add(span(level - 1))", "below.wrapping_add(PAGE_BYTES)")])
        .pages(1 << 20),
    mutant(12, "an empty table instead", Linux, &[(TABLE, "self.split(new, level, entry)?;\n", "")]),
    mutant(
        13,
        "a large leaf that reaches beyond the run is changed whole",
        Linux,
        &[
            (TABLE, "rest == span(level) && bytes >= rest {", "rest == span(level) {"),
            (TABLE, "slot + (bytes >> shift(level)) as usize)", "slot + ((bytes >> shift(level)) as usize).max(1))"),
        ],
    ),
    mutant(
        13,
        "a large leaf that begins before the run is changed whole",
        Linux,
        &[
            (TABLE, "rest == span(level) && bytes >= rest {", "bytes >= rest {"),
            (TABLE, "slot + (bytes >> shift(level)) as usize)", "slot + ((bytes >> shift(level)) as usize).max(1))"),
        ],
    ),
    mutant(
        13,
        "set before clear",
        Linux,
        &[
            (TABLE, "if *entry & PRESENT != 0 {\n                *entry = *entry & !clear | set;", "if *entry & PRESENT != 0 {\n                *entry = (*entry | set) & !clear;"),
        ],
    )
    .shows_nowhere("no bit is both set and cleared"),
    mutant(
        13,
        "large leaves are cleared and not set",
        Linux,
        &[(TABLE, "take_while(|entry| **entry & kind == kind) {\n        *entry = *entry & !clear | set;", "take_while(|entry| **entry & kind == kind) {\n        *entry &= !clear; let _ = set;")],
    ),
    mutant(
        13,
        "one PTE too few",
        Linux,
        &[(TABLE, "&mut tables.table(table)?[first..end] {", "&mut tables.table(table)?[first..end - 1] {")],
    ),
    mutant(13, "an absent entry ends the run", Linux, &[(TABLE, "return Ok(rest);", "return Ok(bytes);")]),
    mutant(
        13,
        "absent entries are changed, too",
        Linux,
        &[(TABLE, "if *entry & PRESENT != 0 {\n                *entry = *entry & !clear", "if true {\n                *entry = *entry & !clear")],
    )
    .shows_nowhere("an entry that is not present is ignored, whatever else is in it (SDM vol. 3A, 4.1.1)"),
    mutant(14, "a run of the table that ends with its region is left out", Linux, &[(LINUX, "entry.page_count * PAGE_BYTES <= room)", "entry.page_count * PAGE_BYTES < room)")]),
    mutant(14, "a run may have a page too many", Linux, &[(LINUX, "entry.page_count * PAGE_BYTES <= room)", "entry.page_count * PAGE_BYTES <= room + PAGE_BYTES)")]),
    mutant(14, "a run must have a page less", Linux, &[(LINUX, "entry.page_count * PAGE_BYTES <= room)", "entry.page_count * PAGE_BYTES + PAGE_BYTES <= room)")]),
    mutant(
        14,
        "a run right behind a region is taken for a part of it",
        Linux,
        &[
            (LINUX, "(region.phys_start..region.phys_start + region.page_count * PAGE_BYTES).contains(&entry.phys_start)", "(region.phys_start..=region.phys_start + region.page_count * PAGE_BYTES).contains(&entry.phys_start)"),
        ],
    ),
    mutant(15, "1:1 up to 2^46", Linux, &[(LINUX, "(space.levels() * 9 + 11)", "(space.levels() * 9 + 10)")]),
    mutant(15, "1:1 past 2^47", Linux, &[(LINUX, "(space.levels() * 9 + 11)", "(space.levels() * 9 + 12)")]),
    mutant(15, "not 1:1 for what ends with the low half", Linux, &[(LINUX, "start + pages * PAGE_BYTES <= low_half", "start + pages * PAGE_BYTES < low_half")]),
    mutant(16, "leaves are global", Window, &[(MOD, "WRITABLE | execute | cache", "WRITABLE | execute | cache | 1 << 8")]),
    mutant(16, "leaves have protection key 5", Window, &[(MOD, "WRITABLE | execute | cache", "WRITABLE | execute | cache | 5 << 59")]),
    mutant(16, "leaves have A and D preset", Window, &[(MOD, "WRITABLE | execute | cache", "WRITABLE | execute | cache | 3 << 5")])
        .shows_nowhere("the CPU sets these bits, and software may (SDM vol. 3A, 4.8)"),
    mutant(16, "leaves have U under a supervisor's table", Window, &[(MOD, "WRITABLE | execute | cache", "WRITABLE | execute | cache | 1 << 2")])
        .shows_nowhere("a page is the user's only if every entry on the way says so (SDM vol. 3A, 4.6.1)"),
    mutant(16, "entries of tables have PCD", Window, &[(TABLE, "const TABLE: u64 = PRESENT | WRITABLE;", "const TABLE: u64 = PRESENT | WRITABLE | PCD;")]),
    mutant(17, "the last page of the pool is never given out", Linux, &[(TABLE, "self.end.saturating_sub(page) < PAGE_BYTES", "self.end.saturating_sub(page) <= PAGE_BYTES")])
        .shows_nowhere("the pool is for leaves of 4 KiB, and has room to spare for any map"),
    mutant(18, "a copy of the kernel's table lacks its last slot", Window, &[(TABLE, "let entries = *tables.table(from)?;", "let mut entries = *tables.table(from)?; entries[ENTRIES - 1] = 0;")])
        .shows_nowhere(APART),
    mutant(18, "a copy of the kernel's table lacks the slot of its image", Window, &[(TABLE, "let entries = *tables.table(from)?;", "let mut entries = *tables.table(from)?; entries[ENTRIES - 2] = 0;")])
        .shows_nowhere(APART),
    mutant(18, "the kernel's tables are written to in place", Window, &[(TABLE, "(self.first..self.next).contains(&table)", "table != self.first.wrapping_sub(1)")])
        .shows_nowhere(APART),
];
