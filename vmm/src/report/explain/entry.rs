//! A table entry bit by bit, by the SDM's tables (vol. 3A, tables 4-14 to 4-20).

use super::joined;
use crate::check::{WalkStep, memory_type};
use crate::mmu::{Level, Pa, Paging, bits, reserved_reasons};
use crate::report::style::Paint;
use crate::report::walk;

/// Every bit of an entry that sits at `level`, with what it means there; `paging` says which are reserved. `columns` are
/// the terminal's.
pub fn explain_entry(level: Level, entry: u64, paging: &Paging, columns: Option<usize>) -> String {
    let paint = Paint::PLAIN.on(columns);
    let kind = Kind::of(level, entry);
    let guilty = reserved_reasons(level, entry, paging).fold(0, |all, (bits, _)| all | bits);
    let mut lines = paint.wrapped(&format!("{level} {entry:#018x} {}", effect(kind, entry, guilty)), 2);
    lines.push(String::new());
    if entry & bits::P == 0 {
        lines.extend(paint.wrapped("Bit 0 (P) is 0, so the CPU ignores all other bits, reserved ones too.", 0));
        return joined(&lines);
    }
    for field in fields(kind, entry, paging) {
        lines.extend(row(&field, entry, paint));
    }
    if guilty != 0 {
        lines.push(String::new());
        let step = WalkStep { level, entry_addr: Pa(0), entry, reserved: guilty };
        lines.extend(walk::marked(&step, paging, paint));
    }
    lines.push(String::new());
    lines.extend(paint.wrapped(&source(kind, paging), 0));
    joined(&lines)
}

/// An entry's level, and whether it maps a page.
#[derive(Clone, Copy)]
struct Kind {
    level: Level,
    is_leaf: bool,
}

/// Bits that mean something together.
struct Field {
    high: u32,
    low: u32,
    name: &'static str,
    meaning: String,
}

impl Kind {
    fn of(level: Level, entry: u64) -> Self {
        Self { level, is_leaf: level.maps_page(entry) }
    }

    fn is_large(self) -> bool {
        self.is_leaf && self.level != Level::Pte
    }

    /// The lowest bit of the address.
    fn address_bit(self) -> u32 {
        if self.is_leaf { self.level.span_bytes().trailing_zeros() } else { 12 }
    }

    fn page(self) -> &'static str {
        match self.level {
            Level::Pte => "4 KiB page",
            Level::Pde => "2 MiB page",
            _ => "1 GiB page",
        }
    }

    /// What the entry refers to, if it maps no page.
    fn table(self) -> &'static str {
        match self.level {
            Level::Pml5e => "PML4 table",
            Level::Pml4e => "page-directory-pointer table",
            Level::Pdpte => "page directory",
            _ => "page table",
        }
    }
}

fn effect(kind: Kind, entry: u64, guilty: u64) -> String {
    let address = entry & bits::ADDRESS & !0 << kind.address_bit();
    match (entry & bits::P != 0, guilty, kind.is_leaf) {
        (false, ..) => "is not present: it maps and references nothing.".into(),
        (_, 0, true) => format!("maps a {} at PA {address:#x}.", kind.page()),
        (_, 0, false) => format!("references a {} at PA {address:#x}.", kind.table()),
        _ => "has reserved bits set: every access through it faults with P and RSVD, whatever its rights.".into(),
    }
}

/// All 64 bits, the highest first.
fn fields(kind: Kind, entry: u64, paging: &Paging) -> Vec<Field> {
    let mut fields = upper(kind, entry, paging);
    fields.extend(lower(kind, entry, paging));
    fields
}

/// Bit 63 down to the bit above the flags.
fn upper(kind: Kind, entry: u64, paging: &Paging) -> Vec<Field> {
    let field = |high, low, name, meaning: &str| Field { high, low, name, meaning: meaning.into() };
    let address = entry & bits::ADDRESS & !0 << kind.address_bit();
    let width = u32::from(paging.maxphyaddr).clamp(kind.address_bit() + 1, 52);
    let mut fields = vec![match (paging.nxe, entry & bits::NX != 0) {
        (false, _) => field(63, 63, "reserved", "must be 0 while EFER.NXE = 0"),
        (true, true) => field(63, 63, "XD", "nothing below may be executed"),
        (true, false) => field(63, 63, "XD", "execution is not forbidden here"),
    }];
    match kind.is_leaf {
        true => fields.push(field(62, 59, "PKEY", "protection key, which counts for user pages with CR4.PKE")),
        false => fields.push(field(62, 59, "ignored", "")),
    }
    fields.push(field(58, 52, "ignored", ""));
    if width < 52 {
        fields.push(field(51, width, "reserved", "past the CPU's physical-address width, must be 0"));
    }
    let what = if kind.is_leaf { kind.page() } else { kind.table() };
    fields.push(field(width - 1, kind.address_bit(), "address", &format!("of the {what}: {address:#x}")));
    if kind.is_large() {
        fields.push(field(
            kind.address_bit() - 1,
            13,
            "reserved",
            "must be 0: a large page starts at a multiple of its size",
        ));
        fields.push(field(12, 12, "PAT", &cache(kind, entry)));
    }
    fields.push(field(11, 11, "R", "ignored, but in HLAT paging (restart)"));
    fields.push(field(10, 9, "ignored", ""));
    fields
}

/// Bits 8 to 0: the flags.
fn lower(kind: Kind, entry: u64, paging: &Paging) -> Vec<Field> {
    let field = |bit, name, meaning: &str| Field { high: bit, low: bit, name, meaning: meaning.into() };
    let either =
        |bit: u64, name, set, clear| field(bit.trailing_zeros(), name, if entry & bit != 0 { set } else { clear });
    let global = match kind.is_leaf {
        true => either(bits::G, "G", "global: kept over a load of CR3 with CR4.PGE", "not global"),
        false if reserves(kind, entry, bits::G, paging) => field(8, "reserved", "must be 0 on AMD"),
        false => field(8, "ignored", ""),
    };
    let whose =
        if kind.is_leaf { "with PAT: the page's cache type" } else { "the cache type of the table it references" };
    vec![
        global,
        bit_7(kind, entry, paging),
        match kind.is_leaf {
            true => either(bits::D, "D", "dirty: it was written to", "not written to yet"),
            false => field(6, "ignored", ""),
        },
        either(bits::A, "A", "accessed: a walk used it", "not used by a walk yet"),
        field(4, "PCD", whose),
        field(3, "PWT", whose),
        either(bits::U, "U/S", "ring 3 may get through, if every level says so", "supervisor only"),
        either(
            bits::W,
            "R/W",
            "writes may get through, if every level says so",
            "read-only: no write gets through, but the supervisor's with CR0.WP = 0",
        ),
        either(bits::P, "P", "present", "not present"),
    ]
}

/// PAT of a PTE, PS of a PDE and PDPTE, reserved above.
fn bit_7(kind: Kind, entry: u64, paging: &Paging) -> Field {
    let (name, meaning) = match kind.level {
        Level::Pte => ("PAT", cache(kind, entry)),
        Level::Pml4e | Level::Pml5e => ("reserved", "must be 0: no page is so large".into()),
        _ if reserves(kind, entry | bits::PS, bits::PS, paging) => {
            ("PS", "must be 0: the CPU has no 1 GiB pages".into())
        }
        _ if kind.is_leaf => ("PS", format!("maps a {}", kind.page())),
        _ => ("PS", format!("references a {}", kind.table())),
    };
    Field { high: 7, low: 7, name, meaning }
}

/// Whether a bit would be reserved if it were set.
fn reserves(kind: Kind, entry: u64, bit: u64, paging: &Paging) -> bool {
    reserved_reasons(kind.level, entry | bit, paging).any(|(guilty, _)| guilty & bit != 0)
}

fn cache(kind: Kind, entry: u64) -> String {
    let pat = if kind.is_large() { bits::PAT_OF_LARGE } else { bits::PAT_OF_PTE };
    let index =
        u8::from(entry & pat != 0) << 2 | u8::from(entry & bits::PCD != 0) << 1 | u8::from(entry & bits::PWT != 0);
    format!("with PCD and PWT: PAT index {index} ({} in the PAT at reset)", memory_type(index))
}

fn row(field: &Field, entry: u64, paint: Paint) -> Vec<String> {
    let Field { high, low, name, meaning } = field;
    let value = entry >> low & u64::MAX >> (63 - (high - low));
    let place = if high == low { high.to_string() } else { format!("{high}:{low}") };
    // The address's own value is in its meaning.
    let value = if *name == "address" {
        "-".into()
    } else if high == low {
        value.to_string()
    } else {
        format!("{value:#x}")
    };
    let mark = if *name == "reserved" && value != "0" && value != "0x0" { "SET: " } else { "" };
    let label = format!("  {place:<5}  {name:<8}  {value:<5}  ");
    let mut lines = paint.labelled(&label, &format!("{mark}{meaning}"), label.len());
    lines.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
    lines
}

fn source(kind: Kind, paging: &Paging) -> String {
    let table = match (kind.level, kind.is_leaf) {
        (Level::Pml5e, _) => "4-14",
        (Level::Pml4e, _) => "4-15",
        (Level::Pdpte, true) => "4-16",
        (Level::Pdpte, false) => "4-17",
        (Level::Pde, true) => "4-18",
        (Level::Pde, false) => "4-19",
        (Level::Pte, _) => "4-20",
    };
    let has = |what: &str, has: bool| if has { format!("with {what}") } else { format!("without {what}") };
    format!(
        "The bits are those of SDM vol. 3A, 4.5.4, table {table}, on a CPU with {} bits of physical address, {}, {} \
         (`--cpu` asks for another).",
        paging.maxphyaddr,
        has("1 GiB pages", paging.gbpages),
        has("execute-disable", paging.nxe)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(level: Level, entry: u64, paging: &Paging) -> Vec<String> {
        explain_entry(level, entry, paging, None)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    fn has(level: Level, entry: u64, paging: &Paging, row: &str) {
        let rows = rows(level, entry, paging);
        assert!(rows.iter().any(|line| line.starts_with(row)), "no `{row}`: {rows:#?}");
    }

    const TABLE: u64 = 0x2000;

    #[test]
    fn a_pde_that_maps_2_mib() {
        let pde = |row| has(Level::Pde, 0x3860_00e1, &Paging::default(), row);
        pde("PDE 0x00000000386000e1 maps a 2 MiB page at PA 0x38600000.");
        for row in [
            "63 XD 0",
            "62:59 PKEY 0x0",
            "58:52 ignored 0x0",
            "51:48 reserved 0x0",
            "47:21 address - of the 2 MiB page: 0x38600000",
            "20:13 reserved 0x0 must be 0",
            "12 PAT 0 with PCD and PWT: PAT index 0 (WB in the PAT at reset)",
            "8 G 0",
            "7 PS 1 maps a 2 MiB page",
            "6 D 1",
            "5 A 1",
            "2 U/S 0 supervisor only",
            "1 R/W 0 read-only",
            "0 P 1 present",
            "The bits are those of SDM vol. 3A, 4.5.4, table 4-18",
        ] {
            pde(row);
        }
    }

    #[test]
    fn reserved_bits_are_marked_by_the_cpu_that_is_asked_for() {
        // 0x7e107000, 4 KiB aligned, in a 2 MiB leaf: bits 20, 14 and 13; bit 12 is PAT.
        has(Level::Pde, 0x7e10_70e3, &Paging::default(), "PDE 0x000000007e1070e3 has reserved bits set");
        has(Level::Pde, 0x7e10_70e3, &Paging::default(), "20:13 reserved 0x83 SET: must be 0");
        has(Level::Pde, 0x7e10_70e3, &Paging::default(), "12 PAT 1 with PCD and PWT: PAT index 4 (WB");
        has(Level::Pde, 0x7e10_70e3, &Paging::default(), "bits 20, 14:13 are set: bits 20:13 of a PDE");
        let narrow = Paging { maxphyaddr: 36, ..Paging::default() };
        has(Level::Pte, 0x10_0000_0003, &narrow, "51:36 reserved 0x1 SET: past the CPU's physical-address width");
        has(Level::Pte, 0x10_0000_0003, &Paging::default(), "47:12 address - of the 4 KiB page: 0x1000000000");
        let small = Paging { gbpages: false, ..Paging::default() };
        has(Level::Pdpte, 0x4000_0083, &small, "7 PS 1 must be 0: the CPU has no 1 GiB pages");
        has(
            Level::Pdpte,
            0x4000_0083,
            &Paging::default(),
            "PDPTE 0x0000000040000083 maps a 1 GiB page at PA 0x40000000.",
        );
        let open = Paging { nxe: false, ..Paging::default() };
        has(Level::Pml4e, 1 << 63 | TABLE | 3, &open, "63 reserved 1 SET: must be 0 while EFER.NXE = 0");
        has(Level::Pml4e, TABLE | 0x83, &Paging::default(), "7 reserved 1 SET: must be 0");
        let amd = Paging { vendor: crate::mmu::Vendor::Amd, ..Paging::default() };
        has(Level::Pml4e, TABLE | 0x103, &amd, "8 reserved 1 SET: must be 0 on AMD");
        has(Level::Pml4e, TABLE | 0x103, &Paging::default(), "8 ignored 1");
    }

    #[test]
    fn every_kind_of_entry_names_its_table() {
        for (level, entry, effect, table) in [
            (Level::Pml5e, TABLE | 3, "references a PML4 table at PA 0x2000.", "4-14"),
            (Level::Pml4e, TABLE | 3, "references a page-directory-pointer table at PA 0x2000.", "4-15"),
            (Level::Pdpte, 0x83, "maps a 1 GiB page at PA 0x0.", "4-16"),
            (Level::Pdpte, TABLE | 3, "references a page directory at PA 0x2000.", "4-17"),
            (Level::Pde, 0x83, "maps a 2 MiB page at PA 0x0.", "4-18"),
            (Level::Pde, TABLE | 3, "references a page table at PA 0x2000.", "4-19"),
            (Level::Pte, TABLE | 3, "maps a 4 KiB page at PA 0x2000.", "4-20"),
        ] {
            let text = rows(level, entry, &Paging::default()).join(" ");
            assert!(text.contains(effect) && text.contains(&format!("table {table},")), "{text}");
        }
    }

    #[test]
    fn each_bit_is_in_one_row_and_rows_keep_to_the_width() {
        for level in [Level::Pml5e, Level::Pml4e, Level::Pdpte, Level::Pde, Level::Pte] {
            for (entry, maxphyaddr) in [(3, 46), (0x83, 46), (u64::MAX, 52), (u64::MAX, 32), (0x83, 20), (3, 0)] {
                let paging = Paging { maxphyaddr, ..Paging::default() };
                let mut next = 64;
                for field in fields(Kind::of(level, entry), entry, &paging) {
                    assert_eq!(field.high + 1, next, "{level} {entry:#x} {maxphyaddr}");
                    next = field.low;
                }
                assert_eq!(next, 0);
                for (columns, width) in [(None, 100), (Some(80), 80)] {
                    let text = explain_entry(level, entry, &paging, columns);
                    let fits = |line: &str| line.chars().count() <= width && line.trim_end() == line;
                    assert!(text.lines().all(fits), "{text}");
                }
            }
        }
    }

    #[test]
    fn an_absent_entry_means_nothing() {
        let text = explain_entry(Level::Pte, 0xdead_beef_0000_0000, &Paging::default(), None);
        assert!(text.starts_with("PTE 0xdeadbeef00000000 is not present: it maps and references nothing.\n"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
