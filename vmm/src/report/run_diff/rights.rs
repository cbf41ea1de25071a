//! What page tables grant of a region: rights and cache types, page by page, whatever leaves map it.

use super::Difference;
use super::told::{Address, ToldRegion, ToldReport, ToldRun, ToldTables};
use crate::check::memory_type;
use crate::memory_map::PAGE_BYTES;
use crate::report::text::tables::letters;

/// The phases of which both runs have whole tables.
pub struct Comparable<'a> {
    phases: Vec<[&'a ToldTables; 2]>,
    /// One of them has tables that the other lacks, or that are cut.
    pub is_partial: bool,
}

/// What can be compared, and in words what not.
pub fn comparable<'a>(sides: [(&str, &'a ToldReport); 2], not_compared: &mut Vec<String>) -> Comparable<'a> {
    const HOW: &str = "`efibed check MAP --tables --json FILE` writes them";
    let without: Vec<&str> =
        sides.iter().filter(|(_, report)| report.tables.is_empty()).map(|(name, _)| *name).collect();
    let [(_, first), (_, second)] = sides;
    match without.as_slice() {
        [] => {}
        [one] => not_compared.push(format!("rights and cache types: {one} has no page tables; {HOW}")),
        both => not_compared.push(format!("rights and cache types: {} have no page tables; {HOW}", both.join(" and "))),
    }
    let mut phases = Vec::new();
    for before in first.tables.iter().filter(|_| without.is_empty()) {
        match second.tables.iter().find(|after| after.phase == before.phase) {
            Some(after) if before.cut || after.cut => {
                not_compared.push(format!("rights and cache types of phase {}: the tables are cut", before.phase));
            }
            Some(after) => phases.push([before, after]),
            None => not_compared.push(format!("rights and cache types of phase {}: one run has none", before.phase)),
        }
    }
    let has_tables = |report: &ToldReport| !report.tables.is_empty();
    let is_partial = (has_tables(first) || has_tables(second)) && !not_compared.is_empty();
    Comparable { phases, is_partial }
}

impl Comparable<'_> {
    /// What is granted of a region in one run, and not so in the other, in each phase.
    pub fn differences(&self, before: &ToldRegion, after: &ToldRegion) -> Vec<Difference> {
        let of_phase = |[first, second]: &[&ToldTables; 2]| {
            let (before, after) = (granted(before, first), granted(after, second));
            let what = if first.phase == "finish" { "rights after the switch" } else { "rights" };
            (before != after).then(|| Difference { what, before: in_words(&before), after: in_words(&after) })
        };
        self.phases.iter().filter_map(of_phase).collect()
    }
}

/// A stretch of a region of which all pages have the same: from which byte on, how many bytes, and what.
type Stretch = (u64, u64, String);

/// What the tables grant at a region's virtual address, alike stretches joined. Where nothing translates, nothing is granted.
fn granted(region: &ToldRegion, tables: &ToldTables) -> Vec<Stretch> {
    let Some(Address(virt)) = region.virt else { return Vec::new() };
    let bytes = region.pages.saturating_mul(PAGE_BYTES);
    let mut stretches: Vec<Stretch> = Vec::new();
    for run in &tables.runs {
        let (first, end) = (run.virt.0.max(virt), run.virt.0.saturating_add(run.bytes).min(virt.saturating_add(bytes)));
        if first >= end {
            continue;
        }
        let (offset, bytes, words) = (first.saturating_sub(virt), end.saturating_sub(first), words(run));
        match stretches.last_mut() {
            Some((before, length, same)) if before.saturating_add(*length) == offset && *same == words => {
                *length = length.saturating_add(bytes);
            }
            _ => stretches.push((offset, bytes, words)),
        }
    }
    stretches
}

fn words(run: &ToldRun) -> String {
    if run.phys.is_none() {
        return "nothing translates".into();
    }
    format!("{} {}", letters(run.writable, run.executable, run.user), memory_type(run.pat_index))
}

/// Stretches named at most.
const MAX_NAMED: usize = 4;

fn in_words(stretches: &[Stretch]) -> String {
    let one = |(offset, bytes, words): &Stretch| match stretches.len() {
        1 => words.clone(),
        _ => format!("{words} for {} pages from {offset:#x}", bytes / PAGE_BYTES),
    };
    let mut all: Vec<String> = stretches.iter().take(MAX_NAMED).map(one).collect();
    if stretches.len() > MAX_NAMED {
        all.push(format!("and {} more", stretches.len().saturating_sub(MAX_NAMED)));
    }
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::super::{Change, RunDiff};
    use super::*;

    /// A report of one region in leaves of two pages each.
    fn report(tables: &str) -> ToldReport {
        let text = format!(
            r#"{{"schema":1,"verdict":"clean","map":{{"source":"m"}},"mapper":{{"elf":"a.elf"}},"findings":[],"tables":{tables},
            "regions":[{{"type":"RuntimeServicesCode","attribute":"0xf","phys":"0x1000","pages":4,"virt":"0xa000",
            "leaves":{{"4k":4,"2m":0,"1g":0}},"verdict":"ok"}}]}}"#
        );
        ToldReport::read("a", &text).unwrap().unwrap()
    }

    fn run(virt: u64, bytes: u64, executable: bool, pat_index: u8) -> String {
        format!(
            r#"{{"virt":"{virt:#x}","bytes":{bytes},"writable":true,"executable":{executable},"user":false,"pat_index":{pat_index},"phys":"0x1000"}}"#
        )
    }

    fn tables(runs: &[String], cut: bool) -> String {
        format!(r#"[{{"phase":"map","runs":[{}],"cut":{cut}}}]"#, runs.join(","))
    }

    #[test]
    fn other_rights_and_another_cache_type_are_changes_and_other_leaves_are_none() {
        let whole = report(&tables(&[run(0x8000, 0x8000, true, 0)], false));
        let pieces = report(&tables(&[run(0x8000, 0x4000, true, 0), run(0xc000, 0x2000, true, 0)], false));
        assert!(RunDiff::new(("a", &whole), ("b", &pieces)).is_empty());
        let denied = report(&tables(&[run(0xa000, 0x2000, true, 0), run(0xc000, 0x2000, false, 3)], false));
        let diff = RunDiff::new(("a", &whole), ("b", &denied));
        assert_eq!(diff.regions[0].change, Change::Changed);
        let after = "RWX- WB for 2 pages from 0x0, RW-- UC for 2 pages from 0x2000".into();
        let expected = Difference { what: "rights", before: "RWX- WB".into(), after };
        assert_eq!((&diff.regions[0].differences[..], diff.not_compared.len()), (&[expected][..], 0));
    }

    #[test]
    fn other_rights_of_the_same_pages_are_a_change() {
        let [all, none] = [true, false].map(|executable| report(&tables(&[run(0xa000, 0x4000, executable, 0)], false)));
        let expected = Difference { what: "rights", before: "RWX- WB".into(), after: "RW-- WB".into() };
        assert_eq!(RunDiff::new(("a", &all), ("b", &none)).regions[0].differences, [expected]);
    }

    /// As many stretches on both sides, of the same length, at the same place.
    #[test]
    fn rights_that_change_places_are_a_change() {
        let halves =
            |first, second| report(&tables(&[run(0xa000, 0x2000, first, 0), run(0xc000, 0x2000, second, 0)], false));
        let (one, other) = (halves(true, false), halves(false, true));
        let diff = RunDiff::new(("a", &one), ("b", &other));
        let before = "RWX- WB for 2 pages from 0x0, RW-- WB for 2 pages from 0x2000".into();
        let after = "RW-- WB for 2 pages from 0x0, RWX- WB for 2 pages from 0x2000".into();
        assert_eq!(diff.regions[0].differences, [Difference { what: "rights", before, after }]);
    }

    #[test]
    fn rights_are_compared_in_each_phase() {
        let phase = |name: &str, executable| {
            format!(r#"{{"phase":"{name}","runs":[{}],"cut":false}}"#, run(0xa000, 0x4000, executable, 0))
        };
        let both = |finish| report(&format!("[{},{}]", phase("map", true), phase("finish", finish)));
        let (kept, tightened) = (both(true), both(false));
        let diff = RunDiff::new(("a", &kept), ("b", &tightened));
        let expected =
            Difference { what: "rights after the switch", before: "RWX- WB".into(), after: "RW-- WB".into() };
        assert_eq!(diff.regions[0].differences, [expected]);
    }

    #[test]
    fn what_one_file_does_not_tell_is_said() {
        let (with, without) = (report(&tables(&[run(0xa000, 0x4000, true, 0)], false)), report("[]"));
        let diff = RunDiff::new(("a.json", &with), ("b.json", &without));
        assert!(diff.is_empty() && diff.is_partial, "{diff:?}");
        assert!(diff.not_compared[0].contains("b.json has no page tables"), "{diff:?}");
        let cut = report(&tables(&[], true));
        let diff = RunDiff::new(("a.json", &with), ("b.json", &cut));
        assert!(diff.is_empty() && diff.is_partial, "{diff:?}");
        assert!(diff.not_compared[0].contains("the tables are cut"), "{diff:?}");
        assert!(!RunDiff::new(("a", &with), ("b", &with)).is_partial);
    }
}
