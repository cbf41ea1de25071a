//! A walk on paper: one line a level, and below an entry with reserved bits those bits, one by one.

use std::ops::Range;

use super::style::{Paint, wrapped};
use crate::check::WalkStep;
use crate::mmu::{Level, Paging, bits, reserved_reasons};

/// The entries of a walk, from the top down, judged by `paging`.
///
/// ```text
/// PDE    0x0000000000126020  0x000000007e1070e3  P W A D PS PAT   reserved bits are set
///        31:0  0111 1110 0001 0000 0111 0000 1110 0011
///                           ^       ^^
///        bits 20, 14:13 are set: bits 20:13 of a PDE that maps a 2 MiB page must be 0 (...)
/// ```
pub(super) fn lines(steps: &[WalkStep], paging: &Paging, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    for step in steps {
        let row = row(step, paint);
        match step.reserved {
            0 => lines.extend(row.iter().map(|line| paint.dim(line))),
            _ => {
                lines.extend(row);
                lines.extend(marked(step, paging, paint));
            }
        }
    }
    lines
}

/// The same without colours, for a caller that is no report.
#[cfg(feature = "cli")]
pub(crate) fn plain_lines(steps: &[WalkStep], paging: &Paging) -> Vec<String> {
    lines(steps, paging, Paint::PLAIN)
}

/// One entry of which only the value is known, and below it, bit by bit, what is reserved in it.
#[cfg(feature = "cli")]
pub(crate) fn entry_lines(level: Level, entry: u64, reserved: u64, paging: &Paging, paint: Paint) -> Vec<String> {
    let step = WalkStep { level, entry_addr: crate::mmu::Pa(0), entry, reserved };
    let mut lines = vec![format!("{level:<5}  {entry:#018x}  {:<16} {}", flags(level, entry), leads_to(&step))];
    if reserved != 0 {
        lines.extend(marked(&step, paging, paint));
    }
    lines
}

/// Where the lines below an entry begin: under its address.
const INDENT: usize = 7;
/// What callers put before each line, at most.
const MARGIN: usize = 5;

/// An entry, on a narrow terminal with its meaning below it.
fn row(step: &WalkStep, paint: Paint) -> Vec<String> {
    let numbers = format!("{:<5}  {:#018x}  {:#018x}", step.level, step.entry_addr, step.entry);
    let meaning = format!("{:<16} {}", flags(step.level, step.entry), leads_to(step));
    let row = format!("{numbers}  {meaning}");
    if row.len() + MARGIN <= paint.table_width() {
        vec![row]
    } else {
        vec![numbers, format!("{:INDENT$}{meaning}", "")]
    }
}

/// The short names of the bits set. D and G mean something in a leaf only, bit 7 and bit 12 by kind.
fn flags(level: Level, entry: u64) -> String {
    if entry & bits::P == 0 {
        return "-".into();
    }
    let set = named_bits(level, level.maps_page(entry)).filter(|(bit, _)| entry & bit != 0);
    set.map(|(_, name)| name).collect::<Vec<_>>().join(" ")
}

/// The bits that have a short name in an entry of a level, a leaf or one that refers to a table; PS and PAT are one bit or
/// another by kind.
pub(super) fn named_bits(level: Level, leaf: bool) -> impl Iterator<Item = (u64, &'static str)> {
    let large = leaf && level != Level::Pte;
    let names = [
        (true, bits::P, "P"),
        (true, bits::W, "W"),
        (true, bits::U, "U"),
        (true, bits::PWT, "PWT"),
        (true, bits::PCD, "PCD"),
        (true, bits::A, "A"),
        (leaf, bits::D, "D"),
        (level != Level::Pte, bits::PS, "PS"),
        (level == Level::Pte, bits::PAT_OF_PTE, "PAT"),
        (large, bits::PAT_OF_LARGE, "PAT"),
        (leaf, bits::G, "G"),
        (true, bits::NX, "NX"),
    ];
    names.into_iter().filter(|(counts, ..)| *counts).map(|(_, bit, name)| (bit, name))
}

fn leads_to(step: &WalkStep) -> String {
    let WalkStep { level, entry, reserved, .. } = *step;
    let address = entry & bits::ADDRESS;
    if entry & bits::P == 0 {
        return "not present".into();
    }
    if reserved != 0 {
        return "reserved bits are set".into();
    }
    if !level.maps_page(entry) {
        return format!("table at {address:#x}");
    }
    let size = match level {
        Level::Pte => "4 KiB",
        Level::Pde => "2 MiB",
        _ => "1 GiB",
    };
    format!("{size} at {:#x}", address & !(level.span_bytes() - 1))
}

/// The entry bit by bit, its guilty bits underlined, and why each is guilty.
pub(super) fn marked(step: &WalkStep, paging: &Paging, paint: Paint) -> Vec<String> {
    let margin = " ".repeat(INDENT);
    let mut lines = Vec::new();
    for (start, end) in shown_bits(step.reserved, paint).iter().copied() {
        let bits = start..end;
        let carets = nibbles(bits.clone(), |bit| if step.reserved >> bit & 1 == 1 { '^' } else { ' ' });
        let digits = nibbles(bits, |bit| if step.entry >> bit & 1 == 1 { '1' } else { '0' });
        let name = format!("{}:{start}", end - 1);
        lines.push(format!("{margin}{name:<6}{digits}"));
        lines.push(format!("{margin}      {}", paint.wrong(carets.trim_end())));
    }
    for text in why_reserved(step, paging) {
        let wrapped = wrapped(&text, paint.width() - 3 * INDENT, 2);
        lines.extend(wrapped.iter().map(|line| format!("{margin}{}", paint.wrong(line))));
    }
    lines
}

/// For each rule against which an entry offends, its guilty bits and the rule in words.
pub(super) fn why_reserved(step: &WalkStep, paging: &Paging) -> Vec<String> {
    // The rule's text is the manual's; here stands the width that it speaks of.
    let width = format!("51:{} must be 0, as MAXPHYADDR is {0}", paging.maxphyaddr);
    let words = |why: &str| why.replace("51:MAXPHYADDR must be 0", &width);
    reasons(step, paging).into_iter().map(|(guilty, why)| format!("{}: {}", are_set(guilty), words(why))).collect()
}

/// The bits to show, from and up to, a line each: half of an entry is easier to read, if the guilty bits are all in it.
fn shown_bits(guilty: u64, paint: Paint) -> &'static [(u32, u32)] {
    let all_64 = MARGIN + INDENT + 6 + 79;
    match (guilty >> 32, guilty as u32) {
        (0, _) => &[(0, 32)],
        _ if all_64 <= paint.table_width() => &[(0, 64)],
        (_, 0) => &[(32, 64)],
        _ => &[(32, 64), (0, 32)],
    }
}

/// The guilty bits by rule; those that no rule explains (the walk had other settings) at the end.
fn reasons(step: &WalkStep, paging: &Paging) -> Vec<(u64, &'static str)> {
    let of_step = |(guilty, why)| (guilty & step.reserved, why);
    let mut reasons: Vec<_> = reserved_reasons(step.level, step.entry, paging).map(of_step).collect();
    reasons.retain(|(guilty, _)| *guilty != 0);
    let explained = reasons.iter().fold(0, |all, (guilty, _)| all | guilty);
    if step.reserved & !explained != 0 {
        reasons.push((step.reserved & !explained, "reserved in an entry of this kind (SDM 3A 4.5.4)"));
    }
    reasons
}

/// A character for each bit, the highest first, in groups of four.
fn nibbles(bits: Range<u32>, show: impl Fn(u32) -> char) -> String {
    let mut text = String::new();
    for bit in bits.clone().rev() {
        text.push(show(bit));
        if bit % 4 == 0 && bit != bits.start {
            text.push(' ');
        }
    }
    text
}

/// `bit 20 is set`, `bits 20, 14:13 are set`.
fn are_set(mask: u64) -> String {
    let mut ranges = Vec::new();
    let mut rest = mask;
    while rest != 0 {
        let high = 63 - rest.leading_zeros();
        let run = (rest << rest.leading_zeros()).leading_ones();
        let low = high + 1 - run;
        ranges.push(if run == 1 { high.to_string() } else { format!("{high}:{low}") });
        rest &= !(u64::MAX >> (64 - run) << low);
    }
    match mask.count_ones() {
        1 => format!("bit {} is set", ranges.concat()),
        _ => format!("bits {} are set", ranges.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Pa;

    fn step(level: Level, entry: u64, reserved: u64) -> WalkStep {
        WalkStep { level, entry_addr: Pa(0x12_6020), entry, reserved }
    }

    fn plain(step: WalkStep, paging: &Paging) -> Vec<String> {
        lines(&[step], paging, Paint::PLAIN)
    }

    #[test]
    fn bits_20_to_13_of_a_pde_are_marked() {
        let shown = plain(step(Level::Pde, 0x7e10_70e3, 0x10_6000), &Paging::default());
        assert_eq!(
            shown,
            [
                "PDE    0x0000000000126020  0x000000007e1070e3  P W A D PS PAT   reserved bits are set",
                "       31:0  0111 1110 0001 0000 0111 0000 1110 0011",
                "                          ^       ^^",
                "       bits 20, 14:13 are set: bits 20:13 of a PDE that maps a 2 MiB page must be 0",
                "         (SDM 3A 4.5.4, table 4-18)",
            ]
        );
    }

    #[test]
    fn guilt_in_the_upper_half_shows_all_64_bits() {
        let paging = Paging { nxe: false, ..Paging::default() };
        let shown = plain(step(Level::Pte, 1 << 63 | 0x1003, 1 << 63), &paging);
        assert_eq!(shown[1].len(), INDENT + 6 + 79);
        assert_eq!(shown[2], format!("{}^", " ".repeat(INDENT + 6)));
        assert!(shown[3].trim_start().starts_with("bit 63 is set: bit 63 must be 0 while EFER.NXE = 0"), "{shown:?}");
    }

    #[test]
    fn a_bit_past_maxphyaddr_stands_beside_the_width() {
        let paging = Paging { maxphyaddr: 39, ..Paging::default() };
        let shown = plain(step(Level::Pte, 1 << 40 | 0x1003, 1 << 40), &paging);
        let says = "bit 40 is set: address bits 51:39 must be 0, as MAXPHYADDR is 39 (SDM 3A";
        assert!(shown[3].trim_start().starts_with(says), "{shown:?}");
    }

    #[test]
    fn a_narrow_terminal_has_the_meaning_below_and_the_halves_one_by_one() {
        let paging = Paging { nxe: false, ..Paging::default() };
        let all_flags = step(Level::Pde, 1 << 63 | 0x1fff, 1 << 63);
        let shown = lines(&[all_flags], &paging, Paint::PLAIN.on(Some(80)));
        assert_eq!(
            shown[..4],
            [
                "PDE    0x0000000000126020  0x8000000000001fff",
                "       P W U PWT PCD A D PS PAT G NX reserved bits are set",
                "       63:32 1000 0000 0000 0000 0000 0000 0000 0000",
                "             ^",
            ]
        );
        assert!(shown[4].starts_with("       bit 63 is set"), "{shown:#?}");
        let both =
            lines(&[step(Level::Pde, 1 << 63 | 0x1f_ffff, 1 << 63 | 1 << 20)], &paging, Paint::PLAIN.on(Some(80)));
        assert_eq!(both[4], "       31:0  0000 0000 0001 1111 1111 1111 1111 1111");
        assert_eq!(both[5], "                          ^");
        assert!(both.iter().all(|line| line.len() + MARGIN <= 80), "{both:#?}");
    }

    #[test]
    fn bits_that_no_rule_explains_are_named_all_the_same() {
        let shown = plain(step(Level::Pde, 0x1003, 1 << 51), &Paging::default());
        assert_eq!(shown[3], "       bit 51 is set: reserved in an entry of this kind (SDM 3A 4.5.4)");
    }

    #[test]
    fn each_kind_of_entry_says_where_it_leads() {
        let row = |level, entry| plain(step(level, entry, 0), &Paging::default())[0].split_off(47);
        assert_eq!(row(Level::Pml4e, 0x12_4063), "P W A            table at 0x124000");
        assert_eq!(row(Level::Pdpte, 0x4000_1083), "P W PS PAT       1 GiB at 0x40000000");
        assert_eq!(row(Level::Pte, 1 << 63 | 0x5185), "P U PAT G NX     4 KiB at 0x5000");
        assert_eq!(row(Level::Pte, 0x5002), "-                not present");
    }

    #[test]
    fn ranges_of_bits_are_joined() {
        assert_eq!(are_set(1 << 63 | 1), "bits 63, 0 are set");
        assert_eq!(are_set(u64::MAX), "bits 63:0 are set");
        assert_eq!(are_set(0x3f_e000), "bits 21:13 are set");
    }
}
