//! Runs: what they are, where they end, and that they agree with walks on every page.

use proptest::prelude::*;

use super::super::bits::{G, NX, P, PS, PWT, W};
use super::*;

#[test]
fn a_run_is_all_that_is_contiguous_and_alike() {
    let path = Path::to_4k();
    let mut tables = path.tables();
    let pte = |index: u64| Pa(table(Level::Pte).0 + index * 8);
    for (index, entry) in [
        (0, 0x10_0000 | P),
        (1, 0x10_1000 | P),
        (2, 0x10_2000 | P | W), // other rights
        (3, 0x20_3000 | P | W), // elsewhere
        (5, 0x20_5000 | P | W), // after a gap
        (6, 0x20_6000 | P | W | PWT),
        (7, 0x20_7000 | P | W | PWT | G),
    ] {
        tables.set(pte(index), entry);
    }
    let start = VA.0 & !0x1f_ffff;
    let range = Va(start)..=Va(start + 0x7fff);
    let runs: Vec<_> = Runs::new(&tables, path.root(), range, &path.paging, 1000)
        .map(|run| run.map(|run| (run.va.0 - start, run.bytes, run.pa.0, run.entry_addr)))
        .collect();
    let run = |va: u64, pages: u64, pa: u64| Ok((va, pages * 0x1000, pa, pte(va >> 12)));
    assert_eq!(
        runs,
        [
            run(0x0000, 2, 0x10_0000),
            run(0x2000, 1, 0x10_2000),
            run(0x3000, 1, 0x20_3000),
            run(0x5000, 1, 0x20_5000),
            run(0x6000, 1, 0x20_6000),
            run(0x7000, 1, 0x20_7000),
        ]
    );
}

#[test]
fn one_odd_entry_of_a_full_page_table_cuts_its_run() {
    let path = Path::to_4k();
    let start = VA.0 & !0x1f_ffff;
    let range = Va(start)..=Va(start + 0x1f_ffff);
    let odd = [(P, 1), (W, 2), (PWT, 2), (bits::PAT_OF_PTE, 2), (G, 2), (NX, 2), (0x8000_0000, 2), (1 << 51, 2)];
    let ignored = [(bits::A, 0), (bits::D, 0), (bits::A | bits::D, 0)];
    for (at, (flip, cuts)) in
        [1u64, 7, 255, 510].into_iter().flat_map(|at| odd.iter().chain(&ignored).map(move |o| (at, *o)))
    {
        let mut tables = path.tables();
        for index in 0..512 {
            let entry = 0x4000_0000 | index << 12 | OPEN;
            tables.set(Pa(table(Level::Pte).0 + index * 8), if index == at { entry ^ flip } else { entry });
        }
        let runs = Runs::new(&tables, path.root(), range.clone(), &path.paging, 1000).map(Result::unwrap);
        let pages: Vec<_> = runs.map(|run| (run.va.0 - start) >> 12).collect();
        let expected: &[u64] = match cuts {
            0 => &[0],
            1 => &[0, at + 1],
            _ => &[0, at, at + 1],
        };
        assert_eq!(pages, expected, "{flip:#x} flipped in entry {at}");
    }
}

#[test]
fn a_run_ends_where_its_frames_pass_maxphyaddr() {
    let path = Path::to_4k();
    let start = VA.0 & !0x1f_ffff;
    for (maxphyaddr, defect) in [(40, true), (41, false)] {
        let mut tables = path.tables();
        for index in 0..512 {
            tables.set(Pa(table(Level::Pte).0 + index * 8), ((1 << 40) - 0x5000 + (index << 12)) | OPEN);
        }
        let paging = Paging { maxphyaddr, ..path.paging };
        let range = Va(start)..=Va(start + 0x1f_ffff);
        let runs: Vec<_> = Runs::new(&tables, path.root(), range, &paging, 1000).map(Result::unwrap).collect();
        let shown: Vec<_> = runs.iter().map(|run| (run.bytes >> 12, run.defect.is_some())).collect();
        assert_eq!(shown, if defect { vec![(5, false), (507, true)] } else { vec![(512, false)] });
    }
    // The last frame that an entry can hold is followed by frame 0, not by bit 52.
    let mut tables = path.tables();
    for (index, frame) in [(0, bits::ADDRESS), (1, 0), (2, 1 << 52)] {
        tables.set(Pa(table(Level::Pte).0 + index * 8), frame | OPEN);
    }
    let paging = Paging { maxphyaddr: 52, ..path.paging };
    let range = Va(start)..=Va(start + 0x2fff);
    assert_eq!(Runs::new(&tables, path.root(), range, &paging, 1000).count(), 3);
}

#[test]
fn the_limit_counts_every_entry_of_a_run() {
    let path = Path::to_4k();
    let mut tables = path.tables();
    for index in 0..512 {
        tables.set(Pa(table(Level::Pte).0 + index * 8), index << 12 | OPEN);
    }
    let start = VA.0 & !0x1f_ffff;
    let range = Va(start)..=Va(start + 0x1f_ffff);
    // Three entries above, and then one for each page.
    for (limit, pages) in [(4, 1), (5, 2), (103, 100), (514, 511), (515, 512)] {
        let mut runs = Runs::new(&tables, path.root(), range.clone(), &path.paging, limit);
        assert_eq!(runs.next().unwrap().unwrap().bytes, pages << 12);
        let end = (pages < 512).then_some(Err(LimitReached { limit, at: Va(start + (pages << 12)) }));
        assert_eq!(runs.next(), end);
    }
}

#[test]
fn a_range_cuts_large_leaves_at_both_ends() {
    let start = VA.0 & !0x1f_ffff;
    let runs = Path::to_2m().runs(Va(start + 0x3456)..=Va(start + 0x5001));
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].va, runs[0].pa, runs[0].bytes), (Va(start + 0x3000), Pa(0x4000_3000), 0x3000));
    assert_eq!((runs[0].leaf, runs[0].last()), (Level::Pde, Va(start + 0x5fff)));
    assert_eq!(Path::to_2m().runs(Va(5)..=Va(4)), []);
}

#[test]
fn runs_reach_the_last_byte_of_the_address_space() {
    for la57 in [false, true] {
        let path = Path::to_4k().at(u64::MAX).cpu(|cpu| cpu.la57 = la57);
        for range in [EVERYTHING, Va(u64::MAX)..=Va(u64::MAX)] {
            let runs = path.runs(range);
            assert_eq!(runs.len(), 1);
            assert_eq!((runs[0].va, runs[0].bytes), (Va(0xffff_ffff_ffff_f000), 0x1000));
            assert_eq!(runs[0].last(), Va(u64::MAX));
        }
    }
}

#[test]
fn runs_skip_the_hole_and_do_not_join_across_it() {
    // All 512 PML4Es refer to one PDPT of 1 GiB leaves with one PA: 131072 leaves, none joined.
    let mut tables = Tables::default();
    for index in 0..512 {
        tables.set(Pa(0x1000 + index * 8), 0x2000 | OPEN);
    }
    tables.set(Pa(0x2000), 0x4000_0000 | OPEN | PS);
    let paging = Paging::default();
    let runs: Vec<_> =
        Runs::new(&tables, Pa(0x1000), EVERYTHING, &paging, 1 << 20).map(|run| run.unwrap().va.0).collect();
    assert_eq!(runs.len(), 512);
    assert_eq!(runs[255..257], [0x0000_7f80_0000_0000, 0xffff_8000_0000_0000]);
}

#[test]
fn defects_are_runs_of_their_own() {
    let reserved = Path::to_4k().set(Level::Pml4e, PS).runs(EVERYTHING);
    let rules = PagingRules::none().with(PagingRule::PsInUpper);
    assert_eq!(reserved.len(), 1);
    assert_eq!(reserved[0].defect, Some(Defect::Reserved { rules, bits: PS }));
    assert_eq!((reserved[0].leaf, reserved[0].bytes), (Level::Pml4e, 1 << 39));

    let stranded = Path::to_4k().with(Level::Pde, 0xdead_0000 | OPEN).runs(EVERYTHING);
    assert_eq!(stranded.len(), 1, "all entries of the missing table together");
    assert_eq!(stranded[0].defect, Some(Defect::Stranded { table: Pa(0xdead_0000) }));
    assert_eq!((stranded[0].va, stranded[0].bytes), (Va(VA.0 & !0x1f_ffff), 0x20_0000));
}

#[test]
fn unaligned_2m_leaves_side_by_side_are_one_defect() {
    let path = Path::to_4k();
    let mut tables = path.tables();
    for index in 0..512 {
        let entry = ((index << 21) + 0x0010_0000) | P | PS;
        tables.set(Pa(table(Level::Pde).0 + index * 8), entry);
    }
    let runs: Vec<_> = Runs::new(&tables, path.root(), EVERYTHING, &path.paging, 5000).map(Result::unwrap).collect();
    let rules = PagingRules::none().with(PagingRule::ReservedPde2m);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].bytes, 1 << 30);
    assert_eq!(runs[0].defect, Some(Defect::Reserved { rules, bits: 0x0010_0000 }));
}

#[test]
fn defects_of_different_rules_are_not_joined() {
    let path = Path::to_4k();
    let mut tables = path.tables();
    for (index, entry) in [(0, 1 << 51 | P), (1, 1 << 50 | P), (2, NX | P)] {
        tables.set(Pa(table(Level::Pte).0 + index * 8), entry);
    }
    let paging = Paging { nxe: false, ..path.paging };
    let start = VA.0 & !0x1f_ffff;
    let range = Va(start)..=Va(start + 0x2fff);
    let runs: Vec<_> = Runs::new(&tables, path.root(), range, &paging, 100)
        .map(|run| run.unwrap())
        .map(|run| (run.bytes, run.defect.unwrap()))
        .collect();
    let reserved = |rule, bits| Defect::Reserved { rules: PagingRules::none().with(rule), bits };
    assert_eq!(
        runs,
        [
            (0x2000, reserved(PagingRule::ReservedPhys, 1 << 51 | 1 << 50)),
            (0x1000, reserved(PagingRule::ReservedNx, NX)),
        ]
    );
}

#[test]
fn leaves_of_different_sizes_are_not_joined() {
    // A page table full of 4 KiB leaves, and beside it the 2 MiB leaf that continues it.
    let path = Path::to_4k();
    let mut tables = path.tables();
    for index in 0..512 {
        tables.set(Pa(table(Level::Pte).0 + index * 8), index << 12 | OPEN);
    }
    let beside = Va(VA.0 + 0x20_0000);
    let entry_addr = Level::Pde.entry_addr(table(Level::Pde), beside);
    tables.set(entry_addr, 0x20_0000 | OPEN | PS);
    let runs: Vec<_> = Runs::new(&tables, path.root(), EVERYTHING, &path.paging, 5000)
        .map(|run| run.unwrap())
        .map(|run| (run.leaf, run.pa, run.bytes))
        .collect();
    let first = (Level::Pte, Pa(0), 0x20_0000);
    assert_eq!(runs, [first, (Level::Pde, Pa(0x20_0000), 0x20_0000)]);
}

#[test]
fn a_hole_within_one_entry_cuts_its_run() {
    // Five levels with 48 canonical bits: the hole begins in the middle of PML5E 0.
    let path = Path::to_4k()
        .at(0)
        .cpu(|cpu| (cpu.la57, cpu.rules) = (true, PagingRules::all().without(PagingRule::CanonicalLa57)));
    let runs = path.set(Level::Pml5e, PS).runs(EVERYTHING);
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].va, runs[0].bytes), (Va(0), 1 << 47));
}

#[test]
fn tables_that_refer_to_themselves_end_at_the_limit() {
    let mut tables = Tables::default();
    for index in 0..512 {
        tables.set(Pa(0x1000 + index * 8), 0x1000 | OPEN);
    }
    let paging = Paging::default();
    let mut runs = Runs::new(&tables, Pa(0x1000), EVERYTHING, &paging, 1003);
    let mut found = runs.by_ref().collect::<Vec<_>>();
    // Three entries on the way down, then 1000 leaves, of which none continues another's frame.
    assert_eq!(found.pop(), Some(Err(LimitReached { limit: 1003, at: Va(999 << 12) })));
    assert_eq!(found.len(), 999);
    assert_eq!(runs.next(), None);
}

// ---- Runs and walks agree -------------------------------------------------------------------------

/// A few tables that refer to one another at random, with random bits here and there.
fn random_tables() -> impl Strategy<Value = Tables> {
    let index = prop::sample::select(vec![0u64, 1, 2, 255, 256, 510, 511]);
    let target = prop_oneof![
        6 => (1..6u64).prop_map(|page| page << 12),
        1 => Just(0xdead_0000u64),
        2 => (0..1u64 << 40).prop_map(|frame| frame << 12 & bits::ADDRESS),
        2 => (0..1u64 << 14).prop_map(|frame| frame << 30),
    ];
    let flags = (any::<u16>(), prop::bits::u64::masked(bits::PKEY | NX), 0..8u8);
    let entry = (target, flags).prop_map(|(target, (low, high, present))| {
        let low = u64::from(low) & 0x1fff & !P;
        let high = if present & 1 != 0 { high } else { 0 };
        target ^ low ^ high | u64::from(present != 7)
    });
    prop::collection::vec((1..6u64, index, entry), 1..24).prop_map(|entries| {
        let mut tables = Tables::default();
        tables.set(Pa(0x1000), 0x2000 | OPEN);
        for (page, index, entry) in entries {
            tables.set(Pa(page << 12 | index << 3), entry);
        }
        tables
    })
}

fn random_paging() -> impl Strategy<Value = Paging> {
    // The rules that decide what a page translates to: reserved bits, absence, and the hole.
    let breakable = [&PagingRule::ALL[..9], &[PagingRule::CanonicalLa57]].concat();
    let broken = prop::option::of(prop::sample::select(breakable));
    (any::<[bool; 6]>(), 36..=52u8, broken).prop_map(|([la57, gbpages, nxe, pke, amd, p], maxphyaddr, broken)| Paging {
        la57,
        maxphyaddr,
        gbpages,
        nxe,
        pke,
        vendor: if amd { Vendor::Amd } else { Vendor::Intel },
        reserved_fault_sets_p: p,
        rules: broken.map_or(PagingRules::all(), |rule| PagingRules::all().without(rule)),
        ..Paging::default()
    })
}

/// The walk of a read, said in the words of runs.
fn expect_page(tables: &Tables, va: Va, paging: &Paging, run: Option<&Run>) {
    let walk = walk(tables, Pa(0x1000), va, Access::read(), paging);
    let last = walk.steps().last();
    let says = |run: Option<&Run>| -> String { format!("{va}: {walk:?}\nbut {run:?}") };
    let agrees = match (walk.outcome, run) {
        (Outcome::Translated(to), Some(run)) => {
            let here = Translation { pa: Pa(run.pa.0 + (va.0 - run.va.0)), ..to };
            let by_run = (run.leaf, run.rights, run.pat_index, run.global, run.defect);
            here == to && by_run == (to.leaf, to.rights, to.pat_index, to.global, None)
        }
        (Outcome::Stranded { table }, Some(run)) => run.defect == Some(Defect::Stranded { table }),
        (Outcome::Fault(_), Some(run)) => match (run.defect, last) {
            (Some(Defect::Reserved { bits, .. }), Some(step)) => {
                step.reserved != 0 && step.reserved & !bits == 0 && step.level == run.leaf
            }
            _ => false,
        },
        (Outcome::Fault(_), None) => last.is_none_or(|step| step.entry & P == 0 && step.reserved == 0),
        (_, None) => false,
    };
    assert!(agrees, "{}", says(run));
}

/// The pages worth asking about: every combination of the random indexes, and the edges of runs.
fn pages_to_ask(runs: &[Run], paging: &Paging) -> Vec<Va> {
    let indexes = [0u64, 1, 3, 256, 511];
    let mut pages = vec![0u64];
    for level in LEVELS.into_iter().filter(|&level| level <= paging.top_level()) {
        let under = |page: &u64| indexes.map(|index| page | (index * level.span_bytes()));
        pages = pages.iter().flat_map(under).collect();
    }
    let width = if paging.la57 { 57 } else { 48 };
    for page in &mut pages {
        *page = ((*page << (64 - width)) as i64 >> (64 - width)) as u64;
    }
    for run in runs {
        let last = run.last().0;
        pages.extend([run.va.0, run.va.0.wrapping_sub(1), last, last.wrapping_add(1)]);
    }
    pages.into_iter().map(Va).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn runs_agree_with_walks_on_every_page(tables in random_tables(), paging in random_paging()) {
        let mut runs = Vec::new();
        let mut end = None;
        for run in Runs::new(&tables, Pa(0x1000), EVERYTHING, &paging, 200_000) {
            match run {
                Ok(run) => runs.push(run),
                Err(limit) => end = Some(limit.at),
            }
        }
        prop_assert!(runs.windows(2).all(|pair| pair[0].last() < pair[1].va), "ascending");
        for va in pages_to_ask(&runs, &paging) {
            if end.is_none_or(|end| va < end) {
                let before = runs.partition_point(|run| run.va <= va);
                let run = runs[..before].last().filter(|run| run.contains(va));
                expect_page(&tables, va, &paging, run);
            }
        }
    }

    #[test]
    fn a_part_of_a_range_has_the_same_runs_cut_to_it(
        tables in random_tables(),
        paging in random_paging(),
        edges in any::<[u64; 2]>(),
    ) {
        let (first, last) = (edges[0].min(edges[1]) & !0xfff, edges[0].max(edges[1]) | 0xfff);
        let part = Va(first)..=Va(last);
        let list = |range| Runs::new(&tables, Pa(0x1000), range, &paging, 200_000);
        if let Ok(whole) = list(EVERYTHING).collect::<Result<Vec<_>, _>>() {
            let cut = whole.iter().filter(|run| run.va.0 <= last && run.last().0 >= first);
            let cut: Vec<_> = cut
                .map(|run| (run.va.0.max(first), run.last().0.min(last)))
                .collect();
            let part: Vec<_> = list(part).map(|run| run.unwrap()).collect();
            let part: Vec<_> = part.iter().map(|run| (run.va.0, run.last().0)).collect();
            prop_assert_eq!(part, cut);
        }
    }

    #[test]
    fn nothing_panics_on_any_tables(tables in random_tables(), va: u64, len: u64, root: u64) {
        for access in [Access::read(), Access::write().user().on_stack(), Access::fetch()] {
            for &rule in PagingRule::ALL {
                let rules = PagingRules::all().without(rule);
                let paging = Paging { rules, pke: true, pkru: 0x5555_5555, ..Paging::default() };
                let walk = access_bytes(&tables, Pa(0x1000), Va(va), len, access, &paging).first;
                prop_assert!(walk.entries_after().count() <= 5);
                let _ = access_bytes(&tables, Pa(root), Va(va), len, access, &paging);
                let _ = Runs::new(&tables, Pa(root), Va(va)..=Va(u64::MAX), &paging, 500).count();
            }
        }
    }
}
