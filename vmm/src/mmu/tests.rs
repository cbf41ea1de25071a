//! What the manuals say, as tables: the expected values are theirs (SDM 4.5 to 4.8), never taken
//! from this code's own output.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

mod controls;
mod runs;
mod yardstick;

use super::bits::{A, D, G, NX, P, PAT_OF_LARGE, PCD, PS, PWT, U, W};
use super::*;

// ---- Tables in a map ----------------------------------------------------------------------------

/// Pages of tables: a page that was never named is not there, an entry never set is 0.
#[derive(Clone, Debug, Default)]
struct Tables(BTreeMap<u64, [u64; 512]>);

impl TableMemory for Tables {
    fn entry(&self, at: Pa) -> Option<u64> {
        self.0.get(&(at.0 >> 12)).map(|page| page[(at.0 >> 3 & 511) as usize])
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

const LEVELS: [Level; 5] = [Level::Pml5e, Level::Pml4e, Level::Pdpte, Level::Pde, Level::Pte];

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
        walk(self, self.root(), self.va, access, &self.paging)
    }

    /// The error code, or none if the access arrives.
    fn code(&self, access: Access) -> Option<u32> {
        match self.walk(access).outcome {
            Outcome::Translated(_) => None,
            Outcome::Fault(Fault { vector: Fault::PAGE_FAULT, error_code }) => Some(error_code.0),
            other => panic!("{other:?}"),
        }
    }

    /// The error code, where the walk may also strand for the address the test has changed.
    fn code_if_any(&self) -> Option<u32> {
        self.walk(Access::read()).fault().map(|fault| fault.error_code.0)
    }

    fn walk_rights(&self) -> Rights {
        self.walk(Access::read()).translation().unwrap().rights
    }

    fn pa(&self) -> Option<u64> {
        self.walk(Access::read()).translation().map(|translation| translation.pa.0)
    }

    /// The entries from the top down as the access must leave them, and what else it may set.
    fn after(&self, access: Access) -> Vec<(u64, u64)> {
        let marks = |after: EntryAfter, step: &Step| (after.entry ^ step.entry, after.may);
        let walk = self.walk(access);
        walk.entries_after().zip(walk.steps()).map(|(after, step)| marks(after, step)).collect()
    }

    fn runs(&self, range: RangeInclusive<Va>) -> Vec<Run> {
        let tables = self.tables();
        Runs::new(&tables, self.root(), range, &self.paging, 1 << 20).map(Result::unwrap).collect()
    }
}

impl TableMemory for Path {
    fn entry(&self, at: Pa) -> Option<u64> {
        let level = LEVELS.into_iter().find(|&level| table(level).0 >> 12 == at.0 >> 12)?;
        let on_path = at == level.entry_addr(table(level), self.va);
        Some(if on_path { self.entries[5 - level as usize] } else { 0 })
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
    let five = Path::to_4k().cpu(|cpu| cpu.la57 = true).at(0x00ab_5678_9abc_d123);
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
    assert_eq!(index(Path::to_4k().set(Level::Pde, PWT | PCD)), 0, "of the leaf alone");
    for (path, leaf) in [(Path::to_2m(), Level::Pde), (Path::to_1g(), Level::Pdpte)] {
        assert_eq!(index(path.clone()), 0);
        assert_eq!(index(path.clone().set(leaf, 1 << 12)), 4);
        assert_eq!(index(path.clone().set(leaf, 1 << 12 | PCD | PWT)), 7);
        assert_eq!(path.clone().set(leaf, 1 << 12).pa(), path.pa(), "and no address bit");
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
    let walk = Path::to_4k().with(Level::Pde, 0xdead_0000 | OPEN).walk(Access::read());
    assert_eq!(walk.outcome, Outcome::Stranded { table: Pa(0xdead_0000) });
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
        assert_ne!(Path::to_4k().with(Level::Pde, 1 << bit | OPEN).code_if_any(), Some(0x9));
    }
    assert_eq!(Path::to_2m().set(Level::Pde, 1 << 21).code(Access::read()), None);
}

#[test]
fn bits_29_to_13_of_a_pdpte_that_maps_a_page_are_reserved() {
    for bit in 13..=29 {
        let path = Path::to_1g().set(Level::Pdpte, 1 << bit);
        assert_eq!(path.code(Access::read()), Some(0x9));
    }
    assert_eq!(Path::to_1g().set(Level::Pdpte, 1 << 30).code(Access::read()), None);
}

#[test]
fn bit_12_of_a_large_leaf_is_pat_and_gives_no_fault() {
    assert_eq!(Path::to_2m().set(Level::Pde, PAT_OF_LARGE).code(Access::write()), None);
    assert_eq!(Path::to_1g().set(Level::Pdpte, PAT_OF_LARGE).code(Access::write()), None);
}

#[test]
fn address_bits_from_maxphyaddr_up_are_reserved_at_every_level() {
    for maxphyaddr in 36..=52u8 {
        for bit in 36..52u8 {
            for level in LEVELS {
                let path = Path::to_4k().cpu(|cpu| (cpu.la57, cpu.maxphyaddr) = (true, maxphyaddr));
                let expected = (bit >= maxphyaddr).then_some(0x9);
                assert_eq!(path.set(level, 1 << bit).code_if_any(), expected, "{bit} {level}");
            }
            let large = Path::to_2m().cpu(|cpu| cpu.maxphyaddr = maxphyaddr);
            let expected = (bit >= maxphyaddr).then_some(0x9);
            assert_eq!(large.set(Level::Pde, 1 << bit).code(Access::read()), expected);
        }
    }
}

#[test]
fn bits_62_to_52_are_ignored_at_every_level() {
    for level in &LEVELS[1..] {
        let path = Path::to_4k().cpu(|cpu| cpu.maxphyaddr = 36).set(*level, 0x7ff << 52);
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
        assert_eq!(off.code(Access::fetch()), Some(0x9), "no I without NXE and SMEP");
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
        assert_eq!(path.cpu(|cpu| cpu.vendor = Vendor::Amd).code(Access::read()), Some(0x9));
    }
    let lower = Path::to_4k().set(Level::Pdpte, G).set(Level::Pde, G);
    assert_eq!(lower.cpu(|cpu| cpu.vendor = Vendor::Amd).code(Access::read()), None);
}

#[test]
fn an_absent_entry_has_no_reserved_bits() {
    let path = Path::to_2m().set(Level::Pde, 1 << 13 | 1 << 51).clear(Level::Pde, P);
    assert_eq!(path.code(Access::read()), Some(0x0));
}

#[test]
fn a_higher_level_hides_all_below() {
    let reserved_pte = Path::to_4k().set(Level::Pte, 1 << 51);
    assert_eq!(reserved_pte.clone().clear(Level::Pde, P).code(Access::read()), Some(0x0));
    let reserved_pde = Path::to_4k().set(Level::Pde, 1 << 51);
    assert_eq!(reserved_pde.clear(Level::Pte, P).code(Access::read()), Some(0x9));
    // Rights are judged at the end, so a lower entry's fault comes before a higher one's refusal.
    assert_eq!(reserved_pte.clear(Level::Pml4e, U).code(Access::read().user()), Some(0xd));
    let absent = Path::to_4k().clear(Level::Pml4e, U).clear(Level::Pte, P);
    assert_eq!(absent.code(Access::read().user()), Some(0x4));
}

#[test]
fn a_leaf_has_nothing_below_it_to_hide() {
    let reserved = Path::to_4k().set(Level::Pte, 1 << 51).clear(Level::Pte, W);
    let rules = PagingRules::all().without(PagingRule::HigherLevelHidesLower);
    let broken = reserved.cpu(|cpu| cpu.rules = rules);
    assert_eq!(broken.code(Access::write()), Some(0xb));
}

#[test]
fn memory_may_be_a_trait_object() {
    let path = Path::to_4k();
    let memory: &dyn TableMemory = &path;
    let walk = walk(memory, path.root(), VA, Access::read(), &path.paging);
    let runs = Runs::new(memory, path.root(), VA..=VA, &path.paging, 10);
    assert_eq!(walk.translation().unwrap().pa, Pa(0x1234_5123));
    assert_eq!(runs.count(), 1);
}

#[test]
fn a_machine_may_answer_reserved_bits_without_p() {
    let path = Path::to_2m().set(Level::Pde, 1 << 13).cpu(|cpu| cpu.reserved_fault_sets_p = false);
    assert_eq!(path.code(Access::read()), Some(0x8));
    assert_eq!(path.code(Access::write()), Some(0xa));
}

#[test]
fn reasons_name_each_rule_and_its_table() {
    let reasons = |level, entry, paging: &Paging| -> Vec<_> { reserved_reasons(level, entry, paging).collect() };
    let paging = Paging { nxe: false, maxphyaddr: 40, ..Paging::default() };
    let found = reasons(Level::Pde, NX | 1 << 45 | 0x0010_2000 | PS | P, &paging);
    assert_eq!(
        found,
        [
            (1 << 45, "address bits 51:MAXPHYADDR must be 0 (SDM 3A 4.5.4, table 4-18)"),
            (NX, "bit 63 must be 0 while EFER.NXE = 0 (SDM 3A 4.5.4, table 4-18)"),
            (0x0010_2000, "bits 20:13 of a PDE that maps a 2 MiB page must be 0 (SDM 3A 4.5.4, table 4-18)"),
        ]
    );
    assert_eq!(reasons(Level::Pde, NX | PS, &paging), [], "not present");
    assert_eq!(reasons(Level::Pte, 1 << 45 | P, &paging)[0].1.matches("4-20").count(), 1);
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
        path.cpu(|cpu| (cpu.nxe, cpu.smep) = (nxe, smep)).code(Access::fetch())
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
    assert_eq!(path.clone().clear(Level::Pte, U).code(Access::write().implicit()), None);
    // AC lifts SMAP, not CR0.WP.
    assert_eq!(path.clear(Level::Pte, W).code(Access::write().with_ac()), Some(0x3));
}

#[test]
fn implicit_accesses_are_the_supervisors() {
    let path = Path::to_4k().clear(Level::Pte, U);
    assert_eq!(path.code(Access::read().implicit()), None);
    assert_eq!(path.clear(Level::Pte, P).code(Access::read().implicit()), Some(0x0));
}

const AD: u32 = 1;
const WD: u32 = 2;

/// A page of key 5 with these bits for it in PKRU.
fn keyed(pkru: u32) -> Path {
    Path::to_4k().set(Level::Pte, 5 << 59).cpu(|cpu| (cpu.pke, cpu.pkru) = (true, pkru << 10))
}

#[test]
fn protection_keys_guard_the_data_of_user_pages() {
    for privilege in [Access::user, |supervisor| supervisor] {
        let u = if privilege(Access::read()) == Access::read() { 0 } else { 4 };
        assert_eq!(keyed(AD).code(privilege(Access::read())), Some(0x21 | u));
        assert_eq!(keyed(AD).code(privilege(Access::write())), Some(0x23 | u));
        assert_eq!(keyed(WD).code(privilege(Access::read())), None);
        assert_eq!(keyed(WD).code(privilege(Access::write())), Some(0x23 | u));
        assert_eq!(keyed(AD | WD).code(privilege(Access::fetch())), None);
    }
    assert_eq!(keyed(AD | WD).clear(Level::Pde, U).code(Access::write()), None);
    assert_eq!(keyed(0).cpu(|cpu| cpu.pkru = !(3 << 10)).code(Access::write().user()), None);
    assert_eq!(keyed(AD | WD).cpu(|cpu| cpu.pke = false).code(Access::write().user()), None);
}

#[test]
fn write_disable_binds_supervisors_by_wp() {
    let path = keyed(WD).cpu(|cpu| cpu.wp = false);
    assert_eq!(path.code(Access::write()), None);
    assert_eq!(path.code(Access::write().user()), Some(0x27));
    assert_eq!(keyed(AD).cpu(|cpu| cpu.wp = false).code(Access::write()), Some(0x23));
}

#[test]
fn pk_is_reported_beside_other_missing_rights_but_not_beside_rsvd() {
    assert_eq!(keyed(WD).clear(Level::Pde, W).code(Access::write().user()), Some(0x27));
    assert_eq!(keyed(AD).cpu(|cpu| cpu.smap = true).code(Access::read()), Some(0x21));
    assert_eq!(keyed(AD).set(Level::Pte, 1 << 51).code(Access::read()), Some(0x9));
    assert_eq!(keyed(AD).clear(Level::Pte, U).code(Access::read().user()), Some(0x5));
}

#[test]
fn the_key_is_the_leafs() {
    assert_eq!(keyed(AD).set(Level::Pde, 2 << 59).code(Access::read()), Some(0x21));
    let large = Path::to_2m().set(Level::Pde, 5 << 59);
    let large = large.cpu(|cpu| (cpu.pke, cpu.pkru) = (true, AD << 10));
    assert_eq!(large.code(Access::read()), Some(0x21));
    assert_eq!(Path::to_4k().set(Level::Pte, 5 << 59).walk_rights().pkey, 0, "PKE = 0");
    assert_eq!(keyed(0).walk_rights().pkey, 5);
}

// ---- Canonical addresses ------------------------------------------------------------------------

#[test]
fn forty_eight_bits_are_canonical_and_with_la57_fifty_seven() {
    let vector = |la57, va| {
        let path = Path::to_4k().cpu(|cpu| cpu.la57 = la57).at(va);
        path.walk(Access::read()).fault().map(|fault| (fault.vector, fault.error_code.0))
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
    assert_eq!(walk.outcome, Outcome::Fault(Fault { vector: 12, error_code: ErrorCode(0) }));
    assert!(walk.steps().is_empty());
}

// ---- Accessed and dirty -------------------------------------------------------------------------

#[test]
fn success_sets_a_everywhere_and_a_write_d_at_the_leaf() {
    let reads = [(A, 0), (A, 0), (A, 0), (A, 0)];
    assert_eq!(Path::to_4k().after(Access::read()), reads);
    assert_eq!(Path::to_4k().after(Access::fetch()), reads);
    assert_eq!(Path::to_4k().after(Access::write()), [(A, 0), (A, 0), (A, 0), (A | D, 0)]);
    assert_eq!(Path::to_2m().after(Access::write()), [(A, 0), (A, 0), (A | D, 0)]);
    assert_eq!(Path::to_1g().after(Access::write()), [(A, 0), (A | D, 0)]);
    let used = Path::to_4k().set(Level::Pde, A).set(Level::Pte, A | D);
    assert_eq!(used.after(Access::write()), [(A, 0), (A, 0), (0, 0), (0, 0)]);
}

#[test]
fn a_fault_spares_the_leaf_and_may_set_a_above() {
    let read_only = Path::to_4k().clear(Level::Pte, W);
    assert_eq!(read_only.after(Access::write()), [(0, A), (0, A), (0, A), (0, 0)]);
    let reserved = Path::to_2m().set(Level::Pde, 1 << 13);
    assert_eq!(reserved.after(Access::write()), [(0, A), (0, A), (0, 0)]);
    let absent = Path::to_4k().clear(Level::Pde, P).set(Level::Pml4e, A);
    assert_eq!(absent.after(Access::write()), [(0, 0), (0, A), (0, 0)]);
    assert_eq!(Path::to_4k().at(1 << 47).after(Access::write()), []);
}

#[test]
fn an_entry_after_is_compared_without_the_bits_that_may_be_set() {
    let after = EntryAfter { addr: Pa(0x1000), entry: P | W, may: A };
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
    let top = walk(&tables, Pa(0x1000), Va(u64::MAX), Access::write(), &Paging::default());
    assert_eq!(top.translation().unwrap().pa, Pa(0x1fff));
    for after in top.entries_after() {
        assert_eq!((after.addr, after.entry, after.may), (Pa(0x1ff8), 0x1000 | OPEN | A | D, 0));
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
    let bytes = access_bytes(&tables, path.root(), path.va, 8, Access::write(), &path.paging);
    let raised = bytes.fault?;
    Some((raised.fault.error_code.0, raised.cr2.map(|cr2| cr2.0)))
}

const READ_ONLY: u64 = 0x3000 | P;
const WRITABLE: u64 = 0x3000 | P | W;

#[test]
fn a_crossing_access_faults_at_its_first_bad_byte() {
    assert_eq!(cross([WRITABLE, WRITABLE], |_| ()), None);
    assert_eq!(cross([READ_ONLY, WRITABLE], |_| ()), Some((0x3, Some(0x1ffc))));
    assert_eq!(cross([WRITABLE, READ_ONLY], |_| ()), Some((0x3, Some(0x2000))));
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
        access_bytes(&path.tables(), path.root(), path.va, len, Access::read(), &path.paging)
    };
    let into_hole = at(0x0000_7fff_ffff_fffc, 8);
    assert_eq!(into_hole.fault.unwrap().fault.vector, 13);
    assert_eq!(into_hole.fault.unwrap().cr2, None);
    assert_eq!(at(u64::MAX, 2).second.unwrap().va, Va(0));
}

#[test]
fn no_second_walk_where_the_first_strands() {
    let path = Path::to_4k().at(0x1ffc).with(Level::Pml4e, 0xdead_0000 | OPEN);
    let bytes = access_bytes(&path.tables(), path.root(), path.va, 8, Access::read(), &path.paging);
    assert_eq!((bytes.second, bytes.fault), (None, None));
}

// ---- Shown to people ----------------------------------------------------------------------------

#[test]
fn error_codes_are_shown_with_their_flags() {
    assert_eq!(ErrorCode(0x9).to_string(), "0x9 (P RSVD)");
    assert_eq!(ErrorCode(0).to_string(), "0x0");
    let all: Vec<_> = ErrorCode(0x8000_80ff).flags().collect();
    assert_eq!(all, ["P", "W", "U", "RSVD", "I", "PK", "SS", "HLAT", "SGX", "RMP"]);
    assert_eq!(Fault::page(ErrorCode(0x1b)).to_string(), "#PF 0x1b (P W RSVD I)");
    assert_eq!(Fault { vector: 13, error_code: ErrorCode(0) }.to_string(), "#GP(0x0)");
}

#[test]
fn addresses_and_levels_are_shown_as_the_manuals_do() {
    assert_eq!(format!("{} {:?} {:#x} {:x}", Pa(0x1000), Va(0x20), Pa(1), Va(2)), "0x1000 0x20 0x1 2");
    assert_eq!(LEVELS.map(|level| level.to_string()), ["PML5E", "PML4E", "PDPTE", "PDE", "PTE"]);
    assert_eq!(LEVELS.map(Level::span_bytes), [1 << 48, 1 << 39, 1 << 30, 1 << 21, 1 << 12]);
    assert_eq!(LEVELS.map(|level| level.index(VA)), [0, 0xac, 0x1e2, 0xd5, 0x1cd]);
    assert_eq!(Access::write().user().to_string(), "user write");
}
