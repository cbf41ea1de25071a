//! The yardstick: the numbers that kvm-unit-tests' x86/access.c is known to arrive at.

use std::collections::BTreeSet;

use super::super::bits::{NX, P, PS, U, W};
use super::*;

/// Counts the combinations and faults of kvm-unit-tests' x86/access.c: one PTE or PDE leaf, the bits
/// of both entries, W of the PDPTE, every access, NXE, WP, protection keys. Its A and D bits and its
/// second access change no fault and stand for a factor of 32.
fn access_c(maxphyaddr: u8, keys: bool) -> (u64, u64, usize) {
    const SAME_FAULTS: u64 = 32;
    let (mut combinations, mut faults) = (0, 0);
    let mut codes = BTreeSet::new();
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
        from.iter().enumerate().filter(|(i, _)| choice >> i & 1 != 0).map(|(_, bit)| bit).sum()
    };
    let phys: &[u64] = if maxphyaddr > 36 { &[0, 1 << 51] } else { &[0, 1 << 51, 1 << 36] };
    let phys = if maxphyaddr >= 52 { &phys[..1] } else { phys };
    let accesses = [Access::read(), Access::write(), Access::fetch()];
    let accesses = accesses.into_iter().flat_map(|access| [access, access.user()]);
    let accesses: Vec<_> = accesses.collect();
    // PKE and PKRU for key 1, by the choice of the pkey bit.
    let key_choices: &[(bool, u32)] = match keys {
        false => &[(false, 0)],
        true => &[(false, 0), (true, 0), (true, AD), (true, WD), (true, AD | WD)],
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
            let pde_points = if ps { 0x4000_0000 | PS } else { table(Level::Pte).0 };
            let pde = pde | pde_phys | pde_points | if b13 { 1 << 13 } else { 0 };
            let leaf = if ps { Level::Pde } else { Level::Pte };
            let base = Path::to_4k()
                .with(Level::Pte, pte | pte_phys | 0x1234_5000)
                .with(Level::Pde, pde)
                .with(Level::Pdpte, table(Level::Pde).0 | P | U | if pdpte_w { W } else { 0 })
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
