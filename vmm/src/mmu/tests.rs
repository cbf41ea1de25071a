//! What the manuals say, as tables: the expected values are theirs (SDM 4.5 to 4.8), never taken
//! from this code's own output.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::bits::{A, D, G, NX, P, PAT_OF_LARGE, PCD, PS, PWT, U, W};
use super::*;

// ---- Tables in a map ----------------------------------------------------------------------------

/// Pages of tables: a page that was never named is not there, an entry never set is 0.
#[derive(Clone, Debug, Default)]
struct Tables(BTreeMap<u64, [u64; 512]>);

impl TableMemory for Tables {
    fn entry(&self, at: Pa) -> Option<u64> {
        self.0
            .get(&(at.0 >> 12))
            .map(|page| page[(at.0 >> 3 & 511) as usize])
    }
}

impl Tables {
    fn set(&mut self, at: Pa, entry: u64) {
        self.0.entry(at.0 >> 12).or_insert([0; 512])[(at.0 >> 3 & 511) as usize] = entry;
    }
}

/// Where the table of each level lies in a [`Path`].
const fn table(level: Level) -> Pa {
    Pa((level as u64) << 12)
}

const LEVELS: [Level; 5] = [
    Level::Pml5e,
    Level::Pml4e,
    Level::Pdpte,
    Level::Pde,
    Level::Pte,
];

/// An address with a different index at every level.
const VA: Va = Va(0x0000_5678_9abc_d123);
const OPEN: u64 = P | W | U;

/// One path of tables to `VA`, open to everybody; a test changes an entry or two of it.
#[derive(Clone)]
struct Path {
    entries: [u64; 5],
    va: Va,
    paging: Paging,
}

impl Path {
    /// Down to a PTE that maps 0x1234_5000.
    fn to_4k() -> Self {
        let refer = |level| table(level).0 | OPEN;
        Self {
            entries: [
                refer(Level::Pml4e),
                refer(Level::Pdpte),
                refer(Level::Pde),
                refer(Level::Pte),
                0x1234_5000 | OPEN,
            ],
            va: VA,
            paging: Paging::default(),
        }
    }

    /// Down to a PDE that maps 0x4000_0000.
    fn to_2m() -> Self {
        Self::to_4k().with(Level::Pde, 0x4000_0000 | OPEN | PS)
    }

    /// Down to a PDPTE that maps 0x8000_0000.
    fn to_1g() -> Self {
        Self::to_4k().with(Level::Pdpte, 0x8000_0000 | OPEN | PS)
    }

    fn with(mut self, level: Level, entry: u64) -> Self {
        self.entries[5 - level as usize] = entry;
        self
    }

    fn set(self, level: Level, bits: u64) -> Self {
        let entry = self.entries[5 - level as usize] | bits;
        self.with(level, entry)
    }

    fn clear(self, level: Level, bits: u64) -> Self {
        let entry = self.entries[5 - level as usize] & !bits;
        self.with(level, entry)
    }

    fn at(self, va: u64) -> Self {
        Self { va: Va(va), ..self }
    }

    fn cpu(mut self, change: impl FnOnce(&mut Paging)) -> Self {
        change(&mut self.paging);
        self
    }

    fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        for (level, entry) in LEVELS.into_iter().zip(self.entries) {
            tables.set(level.entry_addr(table(level), self.va), entry);
        }
        tables
    }

    fn root(&self) -> Pa {
        table(self.paging.top_level())
    }

    fn walk(&self, access: Access) -> Walk {
        walk(&self.tables(), self.root(), self.va, access, &self.paging)
    }

    /// The error code, or none if the access arrives.
    fn code(&self, access: Access) -> Option<u32> {
        match self.walk(access).outcome {
            Outcome::Translated(_) => None,
            Outcome::Fault(Fault {
                vector: Fault::PAGE_FAULT,
                error_code,
            }) => Some(error_code.0),
            other => panic!("{other:?}"),
        }
    }

    fn pa(&self) -> Option<u64> {
        self.walk(Access::read())
            .translation()
            .map(|translation| translation.pa.0)
    }

    /// The entries from the top down as the access must leave them, and what else it may set.
    fn after(&self, access: Access) -> Vec<(u64, u64)> {
        let marks = |after: EntryAfter, step: &Step| (after.entry ^ step.entry, after.may);
        let walk = self.walk(access);
        walk.entries_after()
            .zip(walk.steps())
            .map(|(after, step)| marks(after, step))
            .collect()
    }

    fn runs(&self, range: RangeInclusive<Va>) -> Vec<Run> {
        let tables = self.tables();
        Runs::new(&tables, self.root(), range, &self.paging, 1 << 20)
            .map(Result::unwrap)
            .collect()
    }
}

const EVERYTHING: RangeInclusive<Va> = Va(0)..=Va(u64::MAX);

// ---- Where an access arrives --------------------------------------------------------------------

#[test]
fn each_leaf_size_keeps_its_own_low_bits_of_the_address() {
    assert_eq!(Path::to_4k().pa(), Some(0x1234_5123));
    assert_eq!(Path::to_2m().pa(), Some(0x4000_0000 | VA.0 & 0x1f_ffff));
    assert_eq!(Path::to_1g().pa(), Some(0x8000_0000 | VA.0 & 0x3fff_ffff));
}

#[test]
fn five_levels_read_one_entry_more() {
    let five = Path::to_4k()
        .cpu(|cpu| cpu.la57 = true)
        .at(0x00ab_5678_9abc_d123);
    let walk = five.walk(Access::read());
    let levels: Vec<_> = walk.steps().iter().map(|step| step.level).collect();
    assert_eq!(levels, LEVELS);
    assert_eq!(walk.steps()[0].entry_addr, Pa(0x5000 + 0xab * 8));
    assert_eq!(walk.translation().unwrap().pa, Pa(0x1234_5123));
    assert_eq!(Path::to_4k().walk(Access::read()).steps().len(), 4);
}

#[test]
fn the_flags_of_cr3_are_no_address() {
    let path = Path::to_4k();
    // PCID, PWT and PCD below; the no-flush bit, LAM bits and all beyond MAXPHYADDR above.
    let cr3 = Pa(path.root().0 | 0xfff | 0xffff_0000_0000_0000);
    let walk = walk(&path.tables(), cr3, VA, Access::read(), &path.paging);
    assert_eq!(walk.translation().unwrap().pa, Pa(0x1234_5123));
}

#[test]
fn the_pat_bit_is_7_in_a_pte_and_12_in_a_large_leaf() {
    let index = |path: Path| path.walk(Access::read()).translation().unwrap().pat_index;
    assert_eq!(index(Path::to_4k()), 0);
    assert_eq!(index(Path::to_4k().set(Level::Pte, PWT)), 1);
    assert_eq!(index(Path::to_4k().set(Level::Pte, PCD)), 2);
    assert_eq!(index(Path::to_4k().set(Level::Pte, 1 << 7)), 4);
    assert_eq!(
        index(Path::to_4k().set(Level::Pde, PWT | PCD)),
        0,
        "of the leaf alone"
    );
    for (path, leaf) in [(Path::to_2m(), Level::Pde), (Path::to_1g(), Level::Pdpte)] {
        assert_eq!(index(path.clone()), 0);
        assert_eq!(index(path.clone().set(leaf, 1 << 12)), 4);
        assert_eq!(index(path.clone().set(leaf, 1 << 12 | PCD | PWT)), 7);
        assert_eq!(
            path.clone().set(leaf, 1 << 12).pa(),
            path.pa(),
            "and no address bit"
        );
    }
}

#[test]
fn the_global_bit_is_the_leafs() {
    let global = |path: Path| path.walk(Access::read()).translation().unwrap().global;
    assert!(!global(Path::to_4k().set(Level::Pde, G)));
    assert!(global(Path::to_4k().set(Level::Pte, G)));
    assert!(global(Path::to_2m().set(Level::Pde, G)));
}

#[test]
fn a_table_where_nothing_is_strands_the_walk() {
    let walk = Path::to_4k()
        .with(Level::Pde, 0xdead_0000 | OPEN)
        .walk(Access::read());
    assert_eq!(
        walk.outcome,
        Outcome::Stranded {
            table: Pa(0xdead_0000)
        }
    );
    assert_eq!(walk.steps().len(), 3);
}

// ---- Not present, and reserved bits -------------------------------------------------------------

#[test]
fn an_absent_entry_reports_the_access_alone_at_any_level() {
    for level in &LEVELS[1..] {
        let path = Path::to_4k().clear(*level, P);
        assert_eq!(path.code(Access::read()), Some(0x0));
        assert_eq!(path.code(Access::write()), Some(0x2));
        assert_eq!(path.code(Access::read().user()), Some(0x4));
        assert_eq!(path.code(Access::write().user()), Some(0x6));
        assert_eq!(path.code(Access::fetch()), Some(0x10));
        assert_eq!(path.code(Access::fetch().user()), Some(0x14));
    }
}

#[test]
fn bits_20_to_13_of_a_pde_that_maps_a_page_are_reserved() {
    for bit in 13..=20 {
        let path = Path::to_2m().set(Level::Pde, 1 << bit);
        assert_eq!(path.code(Access::read()), Some(0x9));
        assert_eq!(path.code(Access::write()), Some(0xb));
        assert_eq!(path.code(Access::fetch()), Some(0x19));
        assert_eq!(path.code(Access::write().user()), Some(0xf));
        assert_eq!(path.walk(Access::read()).steps()[2].reserved, 1 << bit);
        // Without PS they are the page table's address.
        assert_ne!(
            Path::to_4k()
                .with(Level::Pde, 1 << bit | OPEN)
                .code_if_any(),
            Some(0x9)
        );
    }
    assert_eq!(
        Path::to_2m().set(Level::Pde, 1 << 21).code(Access::read()),
        None
    );
}

#[test]
fn bits_29_to_13_of_a_pdpte_that_maps_a_page_are_reserved() {
    for bit in 13..=29 {
        let path = Path::to_1g().set(Level::Pdpte, 1 << bit);
        assert_eq!(path.code(Access::read()), Some(0x9));
    }
    assert_eq!(
        Path::to_1g()
            .set(Level::Pdpte, 1 << 30)
            .code(Access::read()),
        None
    );
}

#[test]
fn bit_12_of_a_large_leaf_is_pat_and_gives_no_fault() {
    assert_eq!(
        Path::to_2m()
            .set(Level::Pde, PAT_OF_LARGE)
            .code(Access::write()),
        None
    );
    assert_eq!(
        Path::to_1g()
            .set(Level::Pdpte, PAT_OF_LARGE)
            .code(Access::write()),
        None
    );
}

#[test]
fn address_bits_from_maxphyaddr_up_are_reserved_at_every_level() {
    for maxphyaddr in 36..=52u8 {
        for bit in 36..52u8 {
            for level in LEVELS {
                let path = Path::to_4k().cpu(|cpu| (cpu.la57, cpu.maxphyaddr) = (true, maxphyaddr));
                let expected = (bit >= maxphyaddr).then_some(0x9);
                assert_eq!(
                    path.set(level, 1 << bit).code_if_any(),
                    expected,
                    "{bit} {level}"
                );
            }
            let large = Path::to_2m().cpu(|cpu| cpu.maxphyaddr = maxphyaddr);
            let expected = (bit >= maxphyaddr).then_some(0x9);
            assert_eq!(
                large.set(Level::Pde, 1 << bit).code(Access::read()),
                expected
            );
        }
    }
}

#[test]
fn bits_62_to_52_are_ignored_at_every_level() {
    for level in &LEVELS[1..] {
        let path = Path::to_4k()
            .cpu(|cpu| cpu.maxphyaddr = 36)
            .set(*level, 0x7ff << 52);
        assert_eq!(path.code(Access::write().user()), None);
    }
}

#[test]
fn absurd_widths_of_addresses_do_no_harm() {
    for maxphyaddr in [0, 11, 12, 53, 64, 255] {
        let path = Path::to_4k().cpu(|cpu| cpu.maxphyaddr = maxphyaddr);
        let _ = path.walk(Access::read());
        let _ = path.runs(EVERYTHING);
    }
}

#[test]
fn bit_63_is_reserved_without_nxe() {
    for level in &LEVELS[1..] {
        let path = Path::to_4k().set(*level, NX);
        let off = path.clone().cpu(|cpu| cpu.nxe = false);
        assert_eq!(off.code(Access::read()), Some(0x9));
        assert_eq!(
            off.code(Access::fetch()),
            Some(0x9),
            "no I without NXE and SMEP"
        );
        assert_eq!(path.code(Access::read()), None);
        assert_eq!(path.code(Access::fetch()), Some(0x11));
    }
}

#[test]
fn ps_in_a_pdpte_needs_1g_pages() {
    assert_eq!(Path::to_1g().code(Access::write()), None);
    let path = Path::to_1g().cpu(|cpu| cpu.gbpages = false);
    assert_eq!(path.code(Access::write()), Some(0xb));
    assert_eq!(path.walk(Access::read()).steps()[1].reserved, PS);
}

#[test]
fn ps_above_the_pdpte_is_reserved() {
    for level in [Level::Pml4e, Level::Pml5e] {
        let path = Path::to_4k().cpu(|cpu| cpu.la57 = true).set(level, PS);
        assert_eq!(path.code(Access::read()), Some(0x9));
    }
}

#[test]
fn bit_8_above_the_pdpte_is_reserved_on_amd_only() {
    for level in [Level::Pml4e, Level::Pml5e] {
        let path = Path::to_4k().cpu(|cpu| cpu.la57 = true).set(level, G);
        assert_eq!(path.code(Access::read()), None);
        assert_eq!(
            path.cpu(|cpu| cpu.vendor = Vendor::Amd)
                .code(Access::read()),
            Some(0x9)
        );
    }
    let lower = Path::to_4k().set(Level::Pdpte, G).set(Level::Pde, G);
    assert_eq!(
        lower
            .cpu(|cpu| cpu.vendor = Vendor::Amd)
            .code(Access::read()),
        None
    );
}

#[test]
fn an_absent_entry_has_no_reserved_bits() {
    let path = Path::to_2m()
        .set(Level::Pde, 1 << 13 | 1 << 51)
        .clear(Level::Pde, P);
    assert_eq!(path.code(Access::read()), Some(0x0));
}

#[test]
fn a_higher_level_hides_all_below() {
    let reserved_pte = Path::to_4k().set(Level::Pte, 1 << 51);
    assert_eq!(
        reserved_pte
            .clone()
            .clear(Level::Pde, P)
            .code(Access::read()),
        Some(0x0)
    );
    let reserved_pde = Path::to_4k().set(Level::Pde, 1 << 51);
    assert_eq!(
        reserved_pde.clear(Level::Pte, P).code(Access::read()),
        Some(0x9)
    );
    // Rights are judged at the end, so a lower entry's fault comes before a higher one's refusal.
    assert_eq!(
        reserved_pte
            .clear(Level::Pml4e, U)
            .code(Access::read().user()),
        Some(0xd)
    );
    let absent = Path::to_4k().clear(Level::Pml4e, U).clear(Level::Pte, P);
    assert_eq!(absent.code(Access::read().user()), Some(0x4));
}

#[test]
fn a_machine_may_answer_reserved_bits_without_p() {
    let path = Path::to_2m()
        .set(Level::Pde, 1 << 13)
        .cpu(|cpu| cpu.reserved_fault_sets_p = false);
    assert_eq!(path.code(Access::read()), Some(0x8));
    assert_eq!(path.code(Access::write()), Some(0xa));
}

#[test]
fn reasons_name_each_rule_and_its_table() {
    let reasons = |level, entry, paging: &Paging| -> Vec<_> {
        reserved_reasons(level, entry, paging).collect()
    };
    let paging = Paging {
        nxe: false,
        maxphyaddr: 40,
        ..Paging::default()
    };
    let found = reasons(Level::Pde, NX | 1 << 45 | 0x0010_2000 | PS | P, &paging);
    assert_eq!(
        found,
        [
            (
                1 << 45,
                "address bits 51:MAXPHYADDR must be 0 (SDM 3A 4.5.4, table 4-18)"
            ),
            (
                NX,
                "bit 63 must be 0 while EFER.NXE = 0 (SDM 3A 4.5.4, table 4-18)"
            ),
            (
                0x0010_2000,
                "bits 20:13 of a PDE that maps a 2 MiB page must be 0 (SDM 3A 4.5.4, table 4-18)"
            ),
        ]
    );
    assert_eq!(reasons(Level::Pde, NX | PS, &paging), [], "not present");
    assert_eq!(
        reasons(Level::Pte, 1 << 45 | P, &paging)[0]
            .1
            .matches("4-20")
            .count(),
        1
    );
    assert_eq!(reasons(Level::Pml4e, PS | P, &paging)[0].0, PS);
}

// ---- Rights -------------------------------------------------------------------------------------

#[test]
fn every_level_must_grant_u_and_w_and_none_may_set_nx() {
    for level in &LEVELS[1..] {
        let no_u = Path::to_4k().clear(*level, U);
        assert_eq!(no_u.code(Access::read().user()), Some(0x5));
        assert_eq!(no_u.code(Access::write().user()), Some(0x7));
        assert_eq!(no_u.code(Access::fetch().user()), Some(0x15));
        assert_eq!(no_u.code(Access::write()), None);
        let no_w = Path::to_4k().clear(*level, W);
        assert_eq!(no_w.code(Access::write().user()), Some(0x7));
        assert_eq!(no_w.code(Access::write()), Some(0x3));
        assert_eq!(no_w.code(Access::read().user()), None);
        let nx = Path::to_4k().set(*level, NX);
        assert_eq!(nx.code(Access::fetch()), Some(0x11));
        assert_eq!(nx.code(Access::fetch().user()), Some(0x15));
        assert_eq!(nx.code(Access::read()), None);
    }
}

#[test]
fn without_wp_supervisors_write_anywhere() {
    let path = Path::to_4k().clear(Level::Pte, W).cpu(|cpu| cpu.wp = false);
    assert_eq!(path.code(Access::write()), None);
    assert_eq!(path.code(Access::write().implicit()), None);
    assert_eq!(path.code(Access::write().user()), Some(0x7));
}

#[test]
fn smep_forbids_supervisors_to_fetch_from_user_pages() {
    let path = Path::to_4k().cpu(|cpu| cpu.smep = true);
    assert_eq!(path.code(Access::fetch()), Some(0x11));
    assert_eq!(path.code(Access::fetch().user()), None);
    assert_eq!(path.code(Access::read()), None);
    for level in &LEVELS[1..] {
        assert_eq!(path.clone().clear(*level, U).code(Access::fetch()), None);
    }
}

#[test]
fn the_fetch_flag_needs_nxe_or_smep() {
    let code = |nxe, smep| {
        let path = Path::to_4k().clear(Level::Pte, P);
        path.cpu(|cpu| (cpu.nxe, cpu.smep) = (nxe, smep))
            .code(Access::fetch())
    };
    assert_eq!(code(false, false), Some(0x0));
    assert_eq!(code(false, true), Some(0x10));
    assert_eq!(code(true, false), Some(0x10));
    assert_eq!(code(true, true), Some(0x10));
}

#[test]
fn smap_forbids_supervisor_data_and_only_ac_of_explicit_accesses_lifts_it() {
    let path = Path::to_4k().cpu(|cpu| cpu.smap = true);
    assert_eq!(path.code(Access::read()), Some(0x1));
    assert_eq!(path.code(Access::write()), Some(0x3));
    assert_eq!(path.code(Access::fetch()), None);
    assert_eq!(path.code(Access::read().user()), None);
    assert_eq!(path.code(Access::read().with_ac()), None);
    assert_eq!(path.code(Access::write().with_ac()), None);
    assert_eq!(path.code(Access::read().implicit()), Some(0x1));
    assert_eq!(path.code(Access::write().implicit().with_ac()), Some(0x3));
    assert_eq!(
        path.clone()
            .clear(Level::Pte, U)
            .code(Access::write().implicit()),
        None
    );
    // AC lifts SMAP, not CR0.WP.
    assert_eq!(
        path.clear(Level::Pte, W).code(Access::write().with_ac()),
        Some(0x3)
    );
}

#[test]
fn implicit_accesses_are_the_supervisors() {
    let path = Path::to_4k().clear(Level::Pte, U);
    assert_eq!(path.code(Access::read().implicit()), None);
    assert_eq!(
        path.clear(Level::Pte, P).code(Access::read().implicit()),
        Some(0x0)
    );
}

const AD: u32 = 1;
const WD: u32 = 2;

/// A page of key 5 with these bits for it in PKRU.
fn keyed(pkru: u32) -> Path {
    Path::to_4k()
        .set(Level::Pte, 5 << 59)
        .cpu(|cpu| (cpu.pke, cpu.pkru) = (true, pkru << 10))
}

#[test]
fn protection_keys_guard_the_data_of_user_pages() {
    for privilege in [Access::user, |supervisor| supervisor] {
        let u = if privilege(Access::read()) == Access::read() {
            0
        } else {
            4
        };
        assert_eq!(keyed(AD).code(privilege(Access::read())), Some(0x21 | u));
        assert_eq!(keyed(AD).code(privilege(Access::write())), Some(0x23 | u));
        assert_eq!(keyed(WD).code(privilege(Access::read())), None);
        assert_eq!(keyed(WD).code(privilege(Access::write())), Some(0x23 | u));
        assert_eq!(keyed(AD | WD).code(privilege(Access::fetch())), None);
    }
    assert_eq!(
        keyed(AD | WD).clear(Level::Pde, U).code(Access::write()),
        None
    );
    assert_eq!(
        keyed(0)
            .cpu(|cpu| cpu.pkru = !(3 << 10))
            .code(Access::write().user()),
        None
    );
    assert_eq!(
        keyed(AD | WD)
            .cpu(|cpu| cpu.pke = false)
            .code(Access::write().user()),
        None
    );
}

#[test]
fn write_disable_binds_supervisors_by_wp() {
    let path = keyed(WD).cpu(|cpu| cpu.wp = false);
    assert_eq!(path.code(Access::write()), None);
    assert_eq!(path.code(Access::write().user()), Some(0x27));
    assert_eq!(
        keyed(AD).cpu(|cpu| cpu.wp = false).code(Access::write()),
        Some(0x23)
    );
}

#[test]
fn pk_is_reported_beside_other_missing_rights_but_not_beside_rsvd() {
    assert_eq!(
        keyed(WD).clear(Level::Pde, W).code(Access::write().user()),
        Some(0x27)
    );
    assert_eq!(
        keyed(AD).cpu(|cpu| cpu.smap = true).code(Access::read()),
        Some(0x21)
    );
    assert_eq!(
        keyed(AD).set(Level::Pte, 1 << 51).code(Access::read()),
        Some(0x9)
    );
    assert_eq!(
        keyed(AD).clear(Level::Pte, U).code(Access::read().user()),
        Some(0x5)
    );
}

#[test]
fn the_key_is_the_leafs() {
    assert_eq!(
        keyed(AD).set(Level::Pde, 2 << 59).code(Access::read()),
        Some(0x21)
    );
    let large = Path::to_2m().set(Level::Pde, 5 << 59);
    let large = large.cpu(|cpu| (cpu.pke, cpu.pkru) = (true, AD << 10));
    assert_eq!(large.code(Access::read()), Some(0x21));
    assert_eq!(
        Path::to_4k().set(Level::Pte, 5 << 59).walk_rights().pkey,
        0,
        "PKE = 0"
    );
    assert_eq!(keyed(0).walk_rights().pkey, 5);
}

// ---- Canonical addresses ------------------------------------------------------------------------

#[test]
fn forty_eight_bits_are_canonical_and_with_la57_fifty_seven() {
    let vector = |la57, va| {
        let path = Path::to_4k().cpu(|cpu| cpu.la57 = la57).at(va);
        path.walk(Access::read())
            .fault()
            .map(|fault| (fault.vector, fault.error_code.0))
    };
    for (va, four, five) in [
        (0x0000_7fff_ffff_ffff, true, true),
        (0x0000_8000_0000_0000, false, true),
        (0x00ff_ffff_ffff_ffff, false, true),
        (0x0100_0000_0000_0000, false, false),
        (0x8000_0000_0000_0000, false, false),
        (0xfeff_ffff_ffff_ffff, false, false),
        (0xff00_0000_0000_0000, false, true),
        (0xffff_7fff_ffff_ffff, false, true),
        (0xffff_8000_0000_0000, true, true),
        (0xffff_ffff_ffff_ffff, true, true),
    ] {
        assert_eq!(vector(false, va), (!four).then_some((13, 0)), "{va:#x}");
        assert_eq!(vector(true, va), (!five).then_some((13, 0)), "{va:#x}");
    }
}

#[test]
fn a_non_canonical_stack_access_is_a_stack_fault_and_reads_no_entry() {
    let path = Path::to_4k().at(1 << 47);
    let walk = path.walk(Access::write().user().on_stack());
    assert_eq!(
        walk.outcome,
        Outcome::Fault(Fault {
            vector: 12,
            error_code: ErrorCode(0)
        })
    );
    assert!(walk.steps().is_empty());
}

// ---- Accessed and dirty -------------------------------------------------------------------------

#[test]
fn success_sets_a_everywhere_and_a_write_d_at_the_leaf() {
    let reads = [(A, 0), (A, 0), (A, 0), (A, 0)];
    assert_eq!(Path::to_4k().after(Access::read()), reads);
    assert_eq!(Path::to_4k().after(Access::fetch()), reads);
    assert_eq!(
        Path::to_4k().after(Access::write()),
        [(A, 0), (A, 0), (A, 0), (A | D, 0)]
    );
    assert_eq!(
        Path::to_2m().after(Access::write()),
        [(A, 0), (A, 0), (A | D, 0)]
    );
    assert_eq!(Path::to_1g().after(Access::write()), [(A, 0), (A | D, 0)]);
    let used = Path::to_4k().set(Level::Pde, A).set(Level::Pte, A | D);
    assert_eq!(
        used.after(Access::write()),
        [(A, 0), (A, 0), (0, 0), (0, 0)]
    );
}

#[test]
fn a_fault_spares_the_leaf_and_may_set_a_above() {
    let read_only = Path::to_4k().clear(Level::Pte, W);
    assert_eq!(
        read_only.after(Access::write()),
        [(0, A), (0, A), (0, A), (0, 0)]
    );
    let reserved = Path::to_2m().set(Level::Pde, 1 << 13);
    assert_eq!(reserved.after(Access::write()), [(0, A), (0, A), (0, 0)]);
    let absent = Path::to_4k().clear(Level::Pde, P).set(Level::Pml4e, A);
    assert_eq!(absent.after(Access::write()), [(0, 0), (0, A), (0, 0)]);
    assert_eq!(Path::to_4k().at(1 << 47).after(Access::write()), []);
}

#[test]
fn an_entry_after_is_compared_without_the_bits_that_may_be_set() {
    let after = EntryAfter {
        addr: Pa(0x1000),
        entry: P | W,
        may: A,
    };
    assert!(after.accepts(P | W));
    assert!(after.accepts(P | W | A));
    assert!(!after.accepts(P | W | D));
    assert!(!after.accepts(P | A));
}

#[test]
fn an_entry_passed_twice_gets_the_marks_of_both_passes() {
    // A PML4 that refers to itself: its entry 511 serves at every level and is its own leaf.
    let mut tables = Tables::default();
    tables.set(Pa(0x1ff8), 0x1000 | OPEN);
    let top = walk(
        &tables,
        Pa(0x1000),
        Va(u64::MAX),
        Access::write(),
        &Paging::default(),
    );
    assert_eq!(top.translation().unwrap().pa, Pa(0x1fff));
    for after in top.entries_after() {
        assert_eq!(
            (after.addr, after.entry, after.may),
            (Pa(0x1ff8), 0x1000 | OPEN | A | D, 0)
        );
    }
}

// ---- Crossing pages -----------------------------------------------------------------------------

/// Writes 8 bytes at 0x1ffc: pages 1 and 2 of `pages`, each a PTE.
fn cross(pages: [u64; 2], change: impl FnOnce(&mut Paging)) -> Option<(u32, Option<u64>)> {
    let path = Path::to_4k().at(0x1ffc).cpu(change);
    let mut tables = path.tables();
    for (index, pte) in (1..).zip(pages) {
        tables.set(Pa(table(Level::Pte).0 + index * 8), pte);
    }
    let bytes = access_bytes(
        &tables,
        path.root(),
        path.va,
        8,
        Access::write(),
        &path.paging,
    );
    let raised = bytes.fault?;
    Some((raised.fault.error_code.0, raised.cr2.map(|cr2| cr2.0)))
}

const READ_ONLY: u64 = 0x3000 | P;
const WRITABLE: u64 = 0x3000 | P | W;

#[test]
fn a_crossing_access_faults_at_its_first_bad_byte() {
    assert_eq!(cross([WRITABLE, WRITABLE], |_| ()), None);
    assert_eq!(
        cross([READ_ONLY, WRITABLE], |_| ()),
        Some((0x3, Some(0x1ffc)))
    );
    assert_eq!(
        cross([WRITABLE, READ_ONLY], |_| ()),
        Some((0x3, Some(0x2000)))
    );
    assert_eq!(cross([WRITABLE, 0], |_| ()), Some((0x2, Some(0x2000))));
    assert_eq!(cross([0, READ_ONLY], |_| ()), Some((0x2, Some(0x1ffc))));
}

#[test]
fn an_access_that_ends_with_its_page_walks_once() {
    let path = Path::to_4k().at(0x1ff8);
    let second = |len| {
        let tables = path.tables();
        let access = Access::read();
        access_bytes(&tables, path.root(), path.va, len, access, &path.paging).second
    };
    assert_eq!(second(0), None);
    assert_eq!(second(8), None);
    assert_eq!(second(9).unwrap().va, Va(0x2000));
    assert_eq!(second(u64::MAX).unwrap().va, Va(0x2000));
}

#[test]
fn an_access_may_cross_into_the_hole_or_around_the_top() {
    let at = |va, len| {
        let path = Path::to_4k().at(va);
        access_bytes(
            &path.tables(),
            path.root(),
            path.va,
            len,
            Access::read(),
            &path.paging,
        )
    };
    let into_hole = at(0x0000_7fff_ffff_fffc, 8);
    assert_eq!(into_hole.fault.unwrap().fault.vector, 13);
    assert_eq!(into_hole.fault.unwrap().cr2, None);
    assert_eq!(at(u64::MAX, 2).second.unwrap().va, Va(0));
}

#[test]
fn no_second_walk_where_the_first_strands() {
    let path = Path::to_4k()
        .at(0x1ffc)
        .with(Level::Pml4e, 0xdead_0000 | OPEN);
    let bytes = access_bytes(
        &path.tables(),
        path.root(),
        path.va,
        8,
        Access::read(),
        &path.paging,
    );
    assert_eq!((bytes.second, bytes.fault), (None, None));
}

// ---- Negative controls --------------------------------------------------------------------------

/// The same question with every rule in force, and with one broken.
fn both<T>(rule: Rule, path: Path, ask: impl Fn(&Path) -> T) -> (T, T) {
    let broken = path
        .clone()
        .cpu(|cpu| cpu.rules = Rules::all().without(rule));
    (ask(&path), ask(&broken))
}

/// What breaking a rule changes, in a case made for it: the error codes before and after, none for
/// an access that arrives. Rules about other things than error codes answer with those things.
fn broken(rule: Rule) -> (Option<u64>, Option<u64>) {
    let code =
        |path: Path, access: Access| both(rule, path, |path| path.code(access).map(u64::from));
    let after = |path: Path, access: Access, index: usize| {
        both(rule, path, |path| Some(path.after(access)[index].0))
    };
    let vector = |path: Path, access: Access| {
        both(rule, path, |path| {
            path.walk(access)
                .fault()
                .map(|fault| u64::from(fault.vector))
        })
    };
    let crossing = |pages| {
        both(rule, Path::to_4k(), |path| {
            cross(pages, |cpu| *cpu = path.paging)
        })
    };
    let cr2 = |(held, broken): (Option<(u32, Option<u64>)>, Option<(u32, Option<u64>)>)| {
        (
            held.and_then(|(_, cr2)| cr2),
            broken.and_then(|(_, cr2)| cr2),
        )
    };
    let (read, write, fetch) = (Access::read(), Access::write(), Access::fetch());
    let small = Path::to_4k;
    match rule {
        Rule::ReservedPhys => code(small().set(Level::Pte, 1 << 51), read),
        Rule::ReservedNx => code(small().set(Level::Pte, NX).cpu(|cpu| cpu.nxe = false), read),
        Rule::ReservedPde2m => code(Path::to_2m().set(Level::Pde, 1 << 13), read),
        Rule::ReservedPdpte1g => code(Path::to_1g().set(Level::Pdpte, 1 << 29), read),
        Rule::PsInPdpteWithout1g => code(Path::to_1g().cpu(|cpu| cpu.gbpages = false), read),
        Rule::PsInUpper => code(small().set(Level::Pml4e, PS), read),
        Rule::GInUpperAmd => code(
            small()
                .set(Level::Pml4e, G)
                .cpu(|cpu| cpu.vendor = Vendor::Amd),
            read,
        ),
        Rule::PatInLargeLeaf => code(Path::to_2m().set(Level::Pde, PAT_OF_LARGE), read),
        Rule::NotPresentFirst => code(small().with(Level::Pte, 1 << 51), read),
        Rule::HigherLevelHidesLower => {
            code(small().set(Level::Pde, 1 << 51).clear(Level::Pte, P), read)
        }
        Rule::ReservedBeforePermission => {
            code(small().set(Level::Pte, 1 << 51).clear(Level::Pte, W), write)
        }
        Rule::ReservedSetsRsvd => code(small().set(Level::Pte, 1 << 51), read),
        Rule::ProtectionSetsP => code(small().clear(Level::Pte, W), write),
        Rule::WriteSetsW => code(small().clear(Level::Pte, P), write),
        Rule::UserSetsU => code(small().clear(Level::Pte, P), read.user()),
        Rule::FetchSetsI => code(small().clear(Level::Pte, P), fetch),
        Rule::FetchBitNeedsNxeOrSmep => code(
            small().clear(Level::Pte, P).cpu(|cpu| cpu.nxe = false),
            fetch,
        ),
        Rule::WOfEveryLevel => code(small().clear(Level::Pde, W), write),
        Rule::UOfEveryLevel => code(small().clear(Level::Pde, U), read.user()),
        Rule::NxOfAnyLevel => code(small().set(Level::Pde, NX), fetch),
        Rule::UserNeedsU => code(small().clear(Level::Pte, U), read.user()),
        Rule::WriteNeedsW => code(small().clear(Level::Pte, W), write.user()),
        Rule::WpForSupervisor => code(small().clear(Level::Pte, W), write),
        Rule::NxForbidsFetch => code(small().set(Level::Pte, NX), fetch),
        Rule::Smep => code(small().cpu(|cpu| cpu.smep = true), fetch),
        Rule::Smap => code(small().cpu(|cpu| cpu.smap = true), read),
        Rule::AcExempts => code(small().cpu(|cpu| cpu.smap = true), read.with_ac()),
        Rule::AcNeverForImplicit => code(
            small().cpu(|cpu| cpu.smap = true),
            read.implicit().with_ac(),
        ),
        Rule::ImplicitIsSupervisor => code(small().clear(Level::Pte, U), read.implicit()),
        Rule::PkeyNeedsPke => code(keyed(AD).cpu(|cpu| cpu.pke = false), read),
        Rule::PkeyAccessDisable => code(keyed(AD), read),
        Rule::PkeyWriteDisable => code(keyed(WD), write),
        Rule::PkeyWriteFreeWithoutWp => code(keyed(WD).cpu(|cpu| cpu.wp = false), write),
        Rule::PkeyUserPagesOnly => code(keyed(AD).clear(Level::Pte, U), read),
        Rule::PkeyDataOnly => code(keyed(AD), fetch),
        Rule::PkReportedAlways => code(keyed(WD).clear(Level::Pte, W), write),
        Rule::AccessedOnSuccess => after(small(), read, 0),
        Rule::DirtyOnWrite => after(small(), write, 3),
        Rule::DirtyOnWriteOnly => after(small(), read, 3),
        Rule::DirtyNeverUpper => after(small(), write, 2),
        Rule::FaultSparesLeaf => after(small().clear(Level::Pte, W), write, 3),
        Rule::UpperAccessedMaySet => {
            let absent = small().clear(Level::Pte, P);
            both(rule, absent, |path| Some(path.after(read)[0].1))
        }
        Rule::Canonical => vector(small().at(1 << 47), read),
        Rule::CanonicalLa57 => vector(small().at(1 << 47).cpu(|cpu| cpu.la57 = true), read),
        Rule::CanonicalStack => vector(small().at(1 << 47), read.on_stack()),
        Rule::CrossingSecondPage => cr2(crossing([WRITABLE, READ_ONLY])),
        Rule::CrossingFirstBadPage => cr2(crossing([0, READ_ONLY])),
        Rule::CrossingCr2 => cr2(crossing([WRITABLE, READ_ONLY])),
    }
}

#[test]
fn every_rule_can_be_broken_and_is_missed() {
    let expected = [
        (Rule::ReservedPhys, Some(0x9), None),
        (Rule::ReservedNx, Some(0x9), None),
        (Rule::ReservedPde2m, Some(0x9), None),
        (Rule::ReservedPdpte1g, Some(0x9), None),
        (Rule::PsInPdpteWithout1g, Some(0x9), None),
        (Rule::PsInUpper, Some(0x9), None),
        (Rule::GInUpperAmd, Some(0x9), None),
        (Rule::PatInLargeLeaf, None, Some(0x9)),
        (Rule::NotPresentFirst, Some(0x0), Some(0x9)),
        (Rule::HigherLevelHidesLower, Some(0x9), Some(0x0)),
        (Rule::ReservedBeforePermission, Some(0xb), Some(0x3)),
        (Rule::ReservedSetsRsvd, Some(0x9), Some(0x1)),
        (Rule::ProtectionSetsP, Some(0x3), Some(0x2)),
        (Rule::WriteSetsW, Some(0x2), Some(0x0)),
        (Rule::UserSetsU, Some(0x4), Some(0x0)),
        (Rule::FetchSetsI, Some(0x10), Some(0x0)),
        (Rule::FetchBitNeedsNxeOrSmep, Some(0x0), Some(0x10)),
        (Rule::WOfEveryLevel, Some(0x3), None),
        (Rule::UOfEveryLevel, Some(0x5), None),
        (Rule::NxOfAnyLevel, Some(0x11), None),
        (Rule::UserNeedsU, Some(0x5), None),
        (Rule::WriteNeedsW, Some(0x7), None),
        (Rule::WpForSupervisor, Some(0x3), None),
        (Rule::NxForbidsFetch, Some(0x11), None),
        (Rule::Smep, Some(0x11), None),
        (Rule::Smap, Some(0x1), None),
        (Rule::AcExempts, None, Some(0x1)),
        (Rule::AcNeverForImplicit, Some(0x1), None),
        (Rule::ImplicitIsSupervisor, None, Some(0x5)),
        (Rule::PkeyNeedsPke, None, Some(0x21)),
        (Rule::PkeyAccessDisable, Some(0x21), None),
        (Rule::PkeyWriteDisable, Some(0x23), None),
        (Rule::PkeyWriteFreeWithoutWp, None, Some(0x23)),
        (Rule::PkeyUserPagesOnly, None, Some(0x21)),
        (Rule::PkeyDataOnly, None, Some(0x31)),
        (Rule::PkReportedAlways, Some(0x23), Some(0x3)),
        // Bits set in an entry.
        (Rule::AccessedOnSuccess, Some(A), Some(0)),
        (Rule::DirtyOnWrite, Some(A | D), Some(A)),
        (Rule::DirtyOnWriteOnly, Some(A), Some(A | D)),
        (Rule::DirtyNeverUpper, Some(A), Some(A | D)),
        (Rule::FaultSparesLeaf, Some(0), Some(A | D)),
        (Rule::UpperAccessedMaySet, Some(A), Some(0)),
        // Vectors.
        (Rule::Canonical, Some(13), None),
        (Rule::CanonicalLa57, None, Some(13)),
        (Rule::CanonicalStack, Some(12), Some(13)),
        // CR2.
        (Rule::CrossingSecondPage, Some(0x2000), None),
        (Rule::CrossingFirstBadPage, Some(0x1ffc), Some(0x2000)),
        (Rule::CrossingCr2, Some(0x2000), Some(0x1ffc)),
    ];
    assert_eq!(
        expected.map(|(rule, ..)| rule),
        *Rule::ALL,
        "one case for each rule"
    );
    for (rule, held, missed) in expected {
        assert_eq!(broken(rule), (held, missed), "{rule:?}");
    }
}

#[test]
fn rule_sets_add_and_remove() {
    assert_eq!(Rules::all().iter().count(), Rule::ALL.len());
    for &rule in Rule::ALL {
        assert!(Rules::all().has(rule));
        assert!(!Rules::all().without(rule).has(rule));
        assert!(Rules::none().with(rule).iter().eq([rule]));
    }
}

// ---- The yardstick ------------------------------------------------------------------------------

/// Counts the combinations and faults of kvm-unit-tests' x86/access.c: one PTE or PDE leaf, the bits
/// of both entries, W of the PDPTE, every access, NXE, WP, protection keys. Its A and D bits and its
/// second access change no fault and stand for a factor of 32.
fn access_c(maxphyaddr: u8, keys: bool) -> (u64, u64, usize) {
    const SAME_FAULTS: u64 = 32;
    let (mut combinations, mut faults) = (0, 0);
    let mut codes = std::collections::BTreeSet::new();
    for_each_combination(maxphyaddr, keys, |path, access| {
        let code = path.code(access);
        combinations += SAME_FAULTS;
        faults += SAME_FAULTS * u64::from(code.is_some());
        codes.extend(code);
    });
    (combinations, faults, codes.len())
}

fn for_each_combination(maxphyaddr: u8, keys: bool, mut visit: impl FnMut(&Path, Access)) {
    const WUPX: [u64; 4] = [W, U, P, NX];
    let pick = |from: &[u64], choice: u32| -> u64 {
        from.iter()
            .enumerate()
            .filter(|(i, _)| choice >> i & 1 != 0)
            .map(|(_, bit)| bit)
            .sum()
    };
    let phys: &[u64] = if maxphyaddr > 36 {
        &[0, 1 << 51]
    } else {
        &[0, 1 << 51, 1 << 36]
    };
    let phys = if maxphyaddr >= 52 { &phys[..1] } else { phys };
    let accesses = [Access::read(), Access::write(), Access::fetch()];
    let accesses = accesses
        .into_iter()
        .flat_map(|access| [access, access.user()]);
    let accesses: Vec<_> = accesses.collect();
    // PKE and PKRU for key 1, by the choice of the pkey bit.
    let key_choices: &[(bool, u32)] = match keys {
        false => &[(false, 0)],
        true => &[
            (false, 0),
            (true, 0),
            (true, AD),
            (true, WD),
            (true, AD | WD),
        ],
    };
    for choice in 0..1u32 << 13 {
        let [nxe, wp, pdpte_w, ps] = [0, 1, 2, 3].map(|bit| choice >> bit & 1 != 0);
        let (pte, pde) = (pick(&WUPX, choice >> 4), pick(&WUPX, choice >> 8));
        let b13 = choice >> 12 & 1 != 0;
        if b13 && !ps {
            continue;
        }
        for (&pte_phys, &pde_phys) in phys.iter().flat_map(|a| phys.iter().map(move |b| (a, b))) {
            let nx_reserved = |entry: u64| u32::from(!nxe && entry & NX != 0);
            let reserved = nx_reserved(pte) + nx_reserved(pde) + u32::from(b13);
            if reserved + u32::from(pte_phys != 0) + u32::from(pde_phys != 0) > 1 {
                continue;
            }
            let pde_points = if ps {
                0x4000_0000 | PS
            } else {
                table(Level::Pte).0
            };
            let pde = pde | pde_phys | pde_points | if b13 { 1 << 13 } else { 0 };
            let leaf = if ps { Level::Pde } else { Level::Pte };
            let base = Path::to_4k()
                .with(Level::Pte, pte | pte_phys | 0x1234_5000)
                .with(Level::Pde, pde)
                .with(
                    Level::Pdpte,
                    table(Level::Pde).0 | P | U | if pdpte_w { W } else { 0 },
                )
                .cpu(|cpu| (cpu.nxe, cpu.wp, cpu.maxphyaddr) = (nxe, wp, maxphyaddr));
            for key in 0..=u64::from(keys) {
                for &(pke, pkru) in key_choices {
                    let path = base.clone().set(leaf, key << 59);
                    let path = path.cpu(|cpu| (cpu.pke, cpu.pkru) = (pke, pkru << 2));
                    accesses.iter().for_each(|&access| visit(&path, access));
                }
            }
        }
    }
}

#[test]
fn access_c_without_keys_has_its_known_numbers_of_faults() {
    assert_eq!(access_c(40, false), (1_916_928, 1_748_544, 17));
    assert_eq!(access_c(36, false).0, 2_899_968);
    assert_eq!(access_c(52, false).0, 933_888);
}

#[test]
fn access_c_with_keys_has_its_known_numbers_of_faults() {
    assert_eq!(access_c(40, true), (19_169_280, 17_637_664, 21));
}

// ---- Runs ---------------------------------------------------------------------------------------

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
fn a_range_cuts_large_leaves_at_both_ends() {
    let start = VA.0 & !0x1f_ffff;
    let runs = Path::to_2m().runs(Va(start + 0x3456)..=Va(start + 0x5001));
    assert_eq!(runs.len(), 1);
    assert_eq!(
        (runs[0].va, runs[0].pa, runs[0].bytes),
        (Va(start + 0x3000), Pa(0x4000_3000), 0x3000)
    );
    assert_eq!(
        (runs[0].leaf, runs[0].last()),
        (Level::Pde, Va(start + 0x5fff))
    );
    assert_eq!(Path::to_2m().runs(Va(5)..=Va(4)), []);
}

#[test]
fn runs_reach_the_last_byte_of_the_address_space() {
    for la57 in [false, true] {
        let path = Path::to_4k().at(u64::MAX).cpu(|cpu| cpu.la57 = la57);
        for range in [EVERYTHING, Va(u64::MAX)..=Va(u64::MAX)] {
            let runs = path.runs(range);
            assert_eq!(runs.len(), 1);
            assert_eq!(
                (runs[0].va, runs[0].bytes),
                (Va(0xffff_ffff_ffff_f000), 0x1000)
            );
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
    let runs: Vec<_> = Runs::new(&tables, Pa(0x1000), EVERYTHING, &paging, 1 << 20)
        .map(|run| run.unwrap().va.0)
        .collect();
    assert_eq!(runs.len(), 512);
    assert_eq!(
        runs[255..257],
        [0x0000_7f80_0000_0000, 0xffff_8000_0000_0000]
    );
}

#[test]
fn defects_are_runs_of_their_own() {
    let reserved = Path::to_4k().set(Level::Pml4e, PS).runs(EVERYTHING);
    let rules = Rules::none().with(Rule::PsInUpper);
    assert_eq!(reserved.len(), 1);
    assert_eq!(
        reserved[0].defect,
        Some(Defect::Reserved { rules, bits: PS })
    );
    assert_eq!(
        (reserved[0].leaf, reserved[0].bytes),
        (Level::Pml4e, 1 << 39)
    );

    let stranded = Path::to_4k()
        .with(Level::Pde, 0xdead_0000 | OPEN)
        .runs(EVERYTHING);
    assert_eq!(
        stranded.len(),
        1,
        "all entries of the missing table together"
    );
    assert_eq!(
        stranded[0].defect,
        Some(Defect::Stranded {
            table: Pa(0xdead_0000)
        })
    );
    assert_eq!(
        (stranded[0].va, stranded[0].bytes),
        (Va(VA.0 & !0x1f_ffff), 0x20_0000)
    );
}

#[test]
fn unaligned_2m_leaves_side_by_side_are_one_defect() {
    let path = Path::to_4k();
    let mut tables = path.tables();
    for index in 0..512 {
        let entry = (index << 21) + 0x0010_0000 | P | PS;
        tables.set(Pa(table(Level::Pde).0 + index * 8), entry);
    }
    let runs: Vec<_> = Runs::new(&tables, path.root(), EVERYTHING, &path.paging, 5000)
        .map(Result::unwrap)
        .collect();
    let rules = Rules::none().with(Rule::ReservedPde2m);
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].bytes, 1 << 30);
    assert_eq!(
        runs[0].defect,
        Some(Defect::Reserved {
            rules,
            bits: 0x0010_0000
        })
    );
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
    assert_eq!(
        found.pop(),
        Some(Err(LimitReached {
            limit: 1003,
            at: Va(999 << 12)
        }))
    );
    assert_eq!(found.len(), 999);
    assert_eq!(runs.next(), None);
}

// ---- Runs and walks agree -----------------------------------------------------------------------

/// A few tables that refer to one another at random, with random bits here and there.
fn random_tables() -> impl Strategy<Value = Tables> {
    let index = prop::sample::select(vec![0u64, 1, 2, 255, 256, 510, 511]);
    let target = prop_oneof![
        6 => (1..6u64).prop_map(|page| page << 12),
        1 => Just(0xdead_0000u64),
        2 => (0..1u64 << 40).prop_map(|frame| frame << 12 & bits::ADDRESS),
        2 => (0..1u64 << 14).prop_map(|frame| frame << 30),
    ];
    let flags = (
        any::<u16>(),
        prop::bits::u64::masked(bits::PKEY | NX),
        0..8u8,
    );
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
    let broken = prop_oneof![
        Just(None),
        prop::sample::select(&Rule::ALL[..9]).prop_map(Some)
    ];
    (any::<[bool; 6]>(), 36..=52u8, broken).prop_map(
        |([la57, gbpages, nxe, pke, amd, p], maxphyaddr, broken)| Paging {
            la57,
            maxphyaddr,
            gbpages,
            nxe,
            pke,
            vendor: if amd { Vendor::Amd } else { Vendor::Intel },
            reserved_fault_sets_p: p,
            rules: broken.map_or(Rules::all(), |rule| Rules::all().without(rule)),
            ..Paging::default()
        },
    )
}

/// The walk of a read, said in the words of runs.
fn expect_page(tables: &Tables, va: Va, paging: &Paging, run: Option<&Run>) {
    let walk = walk(tables, Pa(0x1000), va, Access::read(), paging);
    let last = walk.steps().last();
    let says = |run: Option<&Run>| -> String { format!("{va}: {walk:?}\nbut {run:?}") };
    let agrees = match (walk.outcome, run) {
        (Outcome::Translated(to), Some(run)) => {
            let here = Translation {
                pa: Pa(run.pa.0 + (va.0 - run.va.0)),
                ..to
            };
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
        (Outcome::Fault(_), None) => {
            last.is_none_or(|step| step.entry & P == 0 && step.reserved == 0)
        }
        (_, None) => false,
    };
    assert!(agrees, "{}", says(run));
}

/// The pages worth asking about: every combination of the random indexes, and the edges of runs.
fn pages_to_ask(runs: &[Run], paging: &Paging) -> Vec<Va> {
    let indexes = [0u64, 1, 3, 256, 511];
    let mut pages = vec![0u64];
    for level in LEVELS
        .into_iter()
        .filter(|&level| level <= paging.top_level())
    {
        let under = |page: &u64| indexes.map(|index| page | index * level.span_bytes());
        pages = pages.iter().flat_map(under).collect();
    }
    let width = if paging.la57 { 57 } else { 48 };
    for page in &mut pages {
        *page = ((*page << (64 - width)) as i64 >> (64 - width)) as u64;
    }
    for run in runs {
        let last = run.last().0;
        pages.extend([
            run.va.0,
            run.va.0.wrapping_sub(1),
            last,
            last.wrapping_add(1),
        ]);
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
            for &rule in Rule::ALL {
                let rules = Rules::all().without(rule);
                let paging = Paging { rules, pke: true, pkru: 0x5555_5555, ..Paging::default() };
                let walk = access_bytes(&tables, Pa(0x1000), Va(va), len, access, &paging).first;
                prop_assert!(walk.entries_after().count() <= 5);
                let _ = access_bytes(&tables, Pa(root), Va(va), len, access, &paging);
                let _ = Runs::new(&tables, Pa(root), Va(va)..=Va(u64::MAX), &paging, 500).count();
            }
        }
    }
}

// ---- Shown to people ----------------------------------------------------------------------------

#[test]
fn error_codes_are_shown_with_their_flags() {
    assert_eq!(ErrorCode(0x9).to_string(), "0x9 (P RSVD)");
    assert_eq!(ErrorCode(0).to_string(), "0x0");
    let all: Vec<_> = ErrorCode(0x8000_80ff).flags().collect();
    assert_eq!(
        all,
        ["P", "W", "U", "RSVD", "I", "PK", "SS", "HLAT", "SGX", "RMP"]
    );
    assert_eq!(
        Fault::page(ErrorCode(0x1b)).to_string(),
        "#PF 0x1b (P W RSVD I)"
    );
    assert_eq!(
        Fault {
            vector: 13,
            error_code: ErrorCode(0)
        }
        .to_string(),
        "#GP(0x0)"
    );
}

#[test]
fn addresses_and_levels_are_shown_as_the_manuals_do() {
    assert_eq!(
        format!("{} {:?} {:#x} {:x}", Pa(0x1000), Va(0x20), Pa(1), Va(2)),
        "0x1000 0x20 0x1 2"
    );
    assert_eq!(
        LEVELS.map(|level| level.to_string()),
        ["PML5E", "PML4E", "PDPTE", "PDE", "PTE"]
    );
    assert_eq!(
        LEVELS.map(Level::span_bytes),
        [1 << 48, 1 << 39, 1 << 30, 1 << 21, 1 << 12]
    );
    assert_eq!(
        LEVELS.map(|level| level.index(VA)),
        [0, 0xac, 0x1e2, 0xd5, 0x1cd]
    );
    assert_eq!(Access::write().user().to_string(), "user write");
}

impl Path {
    /// The error code, where the walk may also strand for the address the test has changed.
    fn code_if_any(&self) -> Option<u32> {
        self.walk(Access::read())
            .fault()
            .map(|fault| fault.error_code.0)
    }

    fn walk_rights(&self) -> Rights {
        self.walk(Access::read()).translation().unwrap().rights
    }
}
