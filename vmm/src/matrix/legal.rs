//! What does not go together: combinations that do not exist, or say the same as another.

use super::bits::{Bit, Combination, EntryBit};
use crate::mmu::{Level, Paging, Vendor, bits};

/// Why a combination is left out, on a CPU that is told to be `cpu`; None: it is tried.
///
/// The rules for table entries look at the bits of single accesses and at EFER.NXE only, those for accesses at the rest:
/// a set may judge the two halves apart ([`super::part`]).
pub fn illegal(of: &Combination, cpu: &Paging) -> Option<&'static str> {
    access(of).or_else(|| entries(of, cpu))
}

fn access(of: &Combination) -> Option<&'static str> {
    let has = |bit| of.has(bit);
    let data = !has(Bit::Fetch);
    match () {
        () if has(Bit::Fetch) && has(Bit::Write) => Some("an access is a write or a fetch, not both"),
        () if !has(Bit::Pke) && (has(Bit::AccessDisable) || has(Bit::WriteDisable)) => {
            Some("without CR4.PKE there is no PKRU")
        }
        () if has(Bit::Implicit) && (has(Bit::Write) || has(Bit::Fetch) || has(Bit::Stack) || has(Bit::Crossing)) => {
            Some("the processor's own access is a read of 8 bytes")
        }
        () if has(Bit::Fetch) && has(Bit::Unbacked) => Some("KVM executes nothing where no memory is"),
        () if !data && (has(Bit::Stack) || has(Bit::Crossing)) => Some("a fetch has no operand"),
        () => None,
    }
}

fn entries(of: &Combination, cpu: &Paging) -> Option<&'static str> {
    let large = of.leaf() != Level::Pte;
    match () {
        () if of.next() != 0 && !of.has(Bit::Crossing) => Some("only an access that crosses reaches the next page"),
        () if of.has(Bit::Crossing) && (large || of.flipped_va() != 0) => Some("crossing is tried between two PTEs"),
        () if of.has(Bit::HighHalfStart) && (cpu.la57 || of.flipped_va() != 0) => Some("another address"),
        () if cpu.la57 && of.flipped_va() & ROOT_INDEX_57 != 0 => Some("the address of another combination"),
        () if !cpu.la57 && of.entry(Level::Pml5e) != 0 => Some("there is no PML5E"),
        () if Level::ALL.into_iter().any(|level| moves_the_page(of, level, cpu)) => {
            Some("an address bit here: it would lead elsewhere")
        }
        () if reserved_bits(of, cpu) > 1 => Some("one reserved bit is enough for the fault"),
        () => None,
    }
}

/// The bits of an address that choose the PML5E, except for the highest, which all bits above it must equal.
const ROOT_INDEX_57: u64 = 0xff << 48;

/// Whether a bit that is reserved elsewhere is, in this entry on this CPU, part of an address.
fn moves_the_page(of: &Combination, level: Level, cpu: &Paging) -> bool {
    let leaf = level != Level::Pte && level.maps_page(of.entry(level));
    let low = match level {
        Level::Pte => 0,
        // Bit 12 is PAT there, and what lies between it and the address is reserved.
        Level::Pde if leaf => bits::RESERVED_2M | bits::PAT_OF_LARGE,
        Level::Pdpte if leaf => bits::RESERVED_1G | bits::PAT_OF_LARGE,
        _ => 0,
    };
    let allowed = if of.has(Bit::Unbacked) && level == of.leaf() { HIGH_ADDRESS } else { 0 };
    let entry = if level == Level::Pte { of.entry(level) | of.next() } else { of.entry(level) };
    entry & bits::ADDRESS & !low & !beyond(cpu) & !allowed != 0
}

/// Bits of a physical address that no page of the matrix's own has.
const HIGH_ADDRESS: u64 = bits::ADDRESS & !((1 << 36) - 1);

fn reserved_bits(of: &Combination, cpu: &Paging) -> u32 {
    let entries = Level::ALL.map(|level| (level, of.entry(level)));
    let all = entries.into_iter().chain([(Level::Pte, of.next())]);
    all.map(|(level, entry)| (entry & reserved(level, entry, of, cpu)).count_ones()).sum()
}

/// The bits that are reserved in an entry, present or not: SDM tables 4-14 to 4-20, in words of this file's own, since
/// the software MMU is what is to be tried. PS of a PDPTE without 1 GiB pages is left out: it is one of the things to be
/// combined.
fn reserved(level: Level, entry: u64, of: &Combination, cpu: &Paging) -> u64 {
    let mut mask = beyond(cpu);
    if !of.has(Bit::Nxe) {
        mask |= EntryBit::Nx.mask(level);
    }
    match level {
        Level::Pte => {}
        Level::Pde | Level::Pdpte if !level.maps_page(entry) => {}
        Level::Pde => mask |= bits::RESERVED_2M,
        Level::Pdpte => mask |= bits::RESERVED_1G,
        Level::Pml4e | Level::Pml5e => {
            mask |= bits::PS;
            if cpu.vendor == Vendor::Amd {
                mask |= bits::G;
            }
        }
    }
    mask
}

/// Bits 51:MAXPHYADDR.
fn beyond(cpu: &Paging) -> u64 {
    bits::ADDRESS & u64::MAX.unbounded_shl(cpu.maxphyaddr.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str, maxphyaddr: u8) -> Option<&'static str> {
        illegal(&text.parse().unwrap(), &Paging { maxphyaddr, ..Paging::default() })
    }

    #[test]
    fn what_access_c_leaves_out_is_left_out() {
        assert!(why("write fetch", 40).is_some());
        assert!(why("pkru.ad", 40).is_some());
        assert!(why("pkru.ad cr4.pke", 40).is_none());
        assert!(why("pde.b13", 40).is_some());
        assert!(why("pde.b13 pde.ps", 40).is_none());
        assert!(why("pte.b36", 40).is_some());
        assert!(why("pte.b36", 36).is_none());
        assert!(why("pte.b51", 52).is_some());
        assert!(why("pte.b51 pte.nx", 40).is_some());
        assert!(why("pte.b51 pte.nx efer.nx", 40).is_none());
        assert!(why("pte.b51 pde.ps pde.b13", 40).is_some());
    }
}
