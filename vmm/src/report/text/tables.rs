//! The page tables, as Linux's ptdump lists them (arch/x86/mm/dump_pagetables.c): runs of leaves, their sizes, rights and
//! cache types, and what lies behind them.

use super::super::style::{Paint, counted, size};
use super::super::table::Columns;
use super::super::{Report, TableDump};
use crate::check::memory_type;
use crate::memory_map::type_name;
use crate::mmu::{Defect, Run};

const COLUMNS: usize = 8;
const TITLES: [&str; COLUMNS] = ["virtual", "size", "leaf", "rights", "cache", "", "physical", "what"];
const RIGHT: [bool; COLUMNS] = [false, true, true, false, false, false, true, false];

pub(crate) fn lines(report: &Report, paint: Paint) -> Vec<String> {
    let of_phases: Vec<_> = report.tables.iter().map(|dump| of_phase(dump, report, paint)).collect();
    of_phases.join(&String::new())
}

fn of_phase(dump: &TableDump, report: &Report, paint: Paint) -> Vec<String> {
    let rows: Vec<[String; COLUMNS]> = dump.runs.iter().map(|run| row(run, dump, report)).collect();
    let columns = Columns::of(TITLES, RIGHT, &rows).within(paint.table_width(), &[7, 6]);
    let title = format!("page tables after phase {}", dump.phase);
    let note = format!(" ({}; R W X for ring 0, U for ring 3 too)", counted(rows.len() as u64, "run"));
    let mut lines = vec![format!("{}{}", paint.bold(title), paint.dim(note))];
    lines.extend(columns.titles().into_iter().map(|line| paint.dim(line)));
    for (row, run) in rows.iter().zip(&dump.runs) {
        let of_row = columns.lines(row);
        lines.extend(if run.defect.is_some() { of_row.iter().map(|line| paint.wrong(line)).collect() } else { of_row });
    }
    if dump.is_cut {
        lines.push("  ... and more, which is not listed".into());
    }
    lines
}

fn row(run: &Run, dump: &TableDump, report: &Report) -> [String; COLUMNS] {
    let last = run.va.0.saturating_add(run.bytes.saturating_sub(1));
    let (physical, what) = match run.defect {
        None => (format!("{:#x}", run.pa), behind(run, dump, report)),
        Some(Defect::Reserved { bits, .. }) => ("-".into(), format!("nothing translates: reserved bits {bits:#x}")),
        Some(Defect::Stranded { table }) => ("-".into(), format!("nothing translates: no memory at table {table:#x}")),
    };
    let cache = format!("{} ({})", memory_type(run.pat_index), run.pat_index);
    let leaf = size(u128::from(run.leaf.span_bytes())).replace(" KiB", "K").replace(" MiB", "M").replace(" GiB", "G");
    let global = if run.global { "G" } else { "" };
    let virt = format!("{:#018x}-{last:#018x}", run.va.0);
    [virt, size(u128::from(run.bytes)), leaf, rights(run), cache, global.into(), physical, what]
}

pub(in crate::report) fn rights(run: &Run) -> String {
    letters(run.rights.writable, run.rights.executable, run.rights.user)
}

/// What may be done with a page besides reading it, a letter or a dash each.
pub(in crate::report) fn letters(writable: bool, executable: bool, user: bool) -> String {
    let flags = [(true, 'R'), (writable, 'W'), (executable, 'X'), (user, 'U')];
    flags.into_iter().map(|(has, letter)| if has { letter } else { '-' }).collect()
}

/// Whose it is: the kernel's own mapping, or that of the map's regions that have a part in the physical pages.
fn behind(run: &Run, dump: &TableDump, report: &Report) -> String {
    if dump.kernel.iter().any(|range| range.contains(&run.va)) {
        return "the kernel's own".into();
    }
    let end = u128::from(run.pa.0) + u128::from(run.bytes);
    let regions = report.regions.iter().map(|report| &report.region).filter(|region| region.pages > 0);
    let mut inside = regions.filter(|region| u128::from(region.phys) < end && u128::from(run.pa.0) < region.end());
    match (inside.next(), inside.count()) {
        (None, _) => "no region".into(),
        (Some(region), 0) => format!("region {} {}", region.index, type_name(region.ty)),
        (Some(region), more) => format!("region {} {} and {more} more", region.index, type_name(region.ty)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;
    use crate::check::Phase;
    use crate::mmu::{Level, Listing, Pa, PagingRules, Rights, Va};

    fn run(va: u64, pa: u64, bytes: u64, leaf: Level) -> Run {
        let rights = Rights { writable: true, user: false, executable: false, pkey: 0 };
        let (pat_index, global, defect) = (0, false, None);
        Run { va: Va(va), bytes, pa: Pa(pa), leaf, rights, pat_index, global, defect, entry_addr: Pa(0x1000) }
    }

    #[test]
    fn each_run_has_a_row_that_says_what_it_is() {
        let mut report = samples::clean();
        let virt = 0xffff_fffe_fe00_0000;
        let wrong = Run {
            defect: Some(Defect::Reserved { rules: PagingRules::all(), bits: 0x2000 }),
            ..run(virt + (4 << 21), 0, 2 << 20, Level::Pde)
        };
        let code = Rights { writable: false, user: true, executable: true, pkey: 0 };
        let kernel =
            Run { rights: code, pat_index: 3, global: true, ..run(u64::MAX << 31, 0x10_0000, 4096, Level::Pte) };
        let runs = vec![run(virt, 0x7e00_0000, 4 << 21, Level::Pde), wrong, kernel];
        let kernel = vec![Va(u64::MAX << 31)..=Va(u64::MAX)];
        let (root, listing) = (Pa(0x1000), Listing::default());
        report.tables = vec![TableDump { phase: Phase::Map, runs, kernel, is_cut: true, root, listing }];
        let lines = lines(&report, Paint::PLAIN);
        let words = |index: usize| lines[index].split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(0).starts_with("page tables after phase map (3 runs"), "{lines:#?}");
        assert_eq!(
            words(2),
            "0xfffffffefe000000-0xfffffffefe7fffff 8 MiB 2M RW-- WB (0) 0x7e000000 region 1 RuntimeServicesData"
        );
        assert!(words(3).ends_with("2M RW-- WB (0) - nothing translates: reserved bits 0x2000"), "{lines:#?}");
        assert!(words(4).ends_with("4 KiB 4K R-XU UC (3) G 0x100000 the kernel's own"), "{lines:#?}");
        assert!(words(5).starts_with("... and more"), "{lines:#?}");
    }
}
