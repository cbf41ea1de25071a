//! The bits that the matrix combines, and a combination of them.

use std::fmt;
use std::str::FromStr;

use crate::mmu::{Level, bits};

/// One bit of a combination: of a table entry, of a control register, or of the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bit {
    /// Of the entry of this level on the way to the address.
    Of(Level, EntryBit),
    /// Of the PTE after the address's own, which leads to the page after it.
    OfNext(EntryBit),
    /// The leaf has protection key 1, otherwise 0.
    Key,
    /// The address lies in the first slot of the high half, `PML4[256]`, otherwise in any other.
    HighHalfStart,
    /// The access is to the last 4 bytes of a page and the first 4 of the next.
    Crossing,
    /// The page may lie where no memory is, at an address whose high bits are set.
    Unbacked,
    /// This bit of the address, 47 to 63, is inverted.
    Va(u8),
    /// EFER.NXE.
    Nxe,
    /// CR0.WP.
    Wp,
    /// CR4.SMEP.
    Smep,
    /// CR4.SMAP.
    Smap,
    /// CR4.PKE.
    Pke,
    /// PKRU.AD of key 1.
    AccessDisable,
    /// PKRU.WD of key 1.
    WriteDisable,
    /// EFLAGS.AC.
    Ac,
    /// The access is made in ring 3, otherwise in ring 0.
    User,
    /// It is a write; neither this nor [`Fetch`](Self::Fetch): a read.
    Write,
    /// It is a fetch.
    Fetch,
    /// It goes through the stack segment.
    Stack,
    /// It is the processor's own: the read of a segment descriptor.
    Implicit,
    /// A read in ring 0 goes before it.
    Twice,
}

/// A bit of a table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryBit {
    /// Present.
    P,
    /// Read/write.
    W,
    /// User/supervisor.
    U,
    /// Accessed.
    A,
    /// Dirty.
    D,
    /// Page size.
    Ps,
    /// Global.
    G,
    /// The leaf's PAT bit: 7 in a PTE, 12 in a larger leaf.
    Pat,
    /// Execute-disable.
    Nx,
    /// Any other, by its number.
    B(u8),
}

/// Which bits are set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Combination {
    /// Flags of the entry of each level, PTE first. Where it leads is not part of the combination.
    entries: [u64; LEVELS],
    /// Flags of the PTE after the address's own.
    next: u64,
    /// The other bits, by [`Bit::place`].
    rest: u64,
}

/// Levels there are at most.
pub const LEVELS: usize = Level::Pml5e as usize;

/// Bits that concern all accesses of a run in the guest; the others are of the single access.
pub const OF_RUN: [Bit; 14] = [
    Bit::Nxe,
    Bit::Wp,
    Bit::Smep,
    Bit::Smap,
    Bit::Pke,
    Bit::AccessDisable,
    Bit::WriteDisable,
    Bit::Ac,
    Bit::User,
    Bit::Write,
    Bit::Fetch,
    Bit::Stack,
    Bit::Implicit,
    Bit::Twice,
];

/// The first of them are set in control registers, and so concern all accesses between two exits.
const OF_REGISTERS: usize = 7;

impl Combination {
    /// These bits.
    pub fn of(bits: &[Bit]) -> Self {
        bits.iter().fold(Self::default(), |all, &bit| all.with(bit))
    }

    /// These bits and one more.
    #[must_use]
    pub fn with(mut self, bit: Bit) -> Self {
        match bit {
            Bit::Of(level, bit) => self.entries[level as usize - 1] |= bit.mask(level),
            Bit::OfNext(bit) => self.next |= bit.mask(Level::Pte),
            other => self.rest |= 1 << other.place(),
        }
        self
    }

    /// The bits of both.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (mine, others) in self.entries.iter_mut().zip(other.entries) {
            *mine |= others;
        }
        self.next |= other.next;
        self.rest |= other.rest;
        self
    }

    /// Whether a bit is set.
    pub fn has(&self, bit: Bit) -> bool {
        match bit {
            Bit::Of(level, bit) => self.entry(level) & bit.mask(level) != 0,
            Bit::OfNext(bit) => self.next & bit.mask(Level::Pte) != 0,
            other => self.rest >> other.place() & 1 != 0,
        }
    }

    /// The flags of a level's entry.
    pub fn entry(&self, level: Level) -> u64 {
        self.entries[level as usize - 1]
    }

    /// The flags of the PTE after the address's own.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The level whose entry maps the page, if the walk gets that far.
    pub fn leaf(&self) -> Level {
        [Level::Pdpte, Level::Pde].into_iter().find(|level| level.maps_page(self.entry(*level))).unwrap_or(Level::Pte)
    }

    /// The bits of control registers among them, as a number.
    pub fn registers(&self) -> u64 {
        self.rest & ((1 << OF_REGISTERS) - 1)
    }

    /// All that concerns a run, as a number.
    pub fn run(&self) -> u64 {
        self.rest & ((1 << OF_RUN.len()) - 1)
    }

    /// Which bits of the address are inverted.
    pub fn flipped_va(&self) -> u64 {
        Bit::FLIPPABLE.filter(|&bit| self.has(Bit::Va(bit))).map(|bit| 1 << bit).sum()
    }

    /// Every bit that is set, entries from the top down.
    pub fn iter(&self) -> impl Iterator<Item = Bit> {
        let levels = [Level::Pml5e, Level::Pml4e, Level::Pdpte, Level::Pde, Level::Pte];
        let entries = levels.into_iter().flat_map(move |level| {
            EntryBit::of_level(level).map(move |bit| Bit::Of(level, bit)).filter(|bit| self.has(*bit))
        });
        let next = EntryBit::of_level(Level::Pte).map(Bit::OfNext).filter(|bit| self.has(*bit));
        let rest = Bit::rest().filter(|bit| self.has(*bit));
        entries.chain(next).chain(rest)
    }
}

impl Bit {
    /// What there is only with protection keys.
    pub const KEYS: [Self; 4] = [Self::Key, Self::Pke, Self::AccessDisable, Self::WriteDisable];

    /// Bits of an address whose inversion can make it non-canonical.
    const FLIPPABLE: std::ops::RangeInclusive<u8> = 47..=63;

    /// Those that are of no entry.
    fn rest() -> impl Iterator<Item = Self> {
        let own = [Self::Key, Self::HighHalfStart, Self::Crossing, Self::Unbacked];
        own.into_iter().chain(Self::FLIPPABLE.map(Self::Va)).chain(OF_RUN)
    }

    /// Its place among those that are of no entry.
    fn place(self) -> u32 {
        match self {
            Self::Va(bit) => u32::from(bit),
            Self::Key => 20,
            Self::HighHalfStart => 21,
            Self::Crossing => 22,
            Self::Unbacked => 23,
            other => OF_RUN.iter().position(|bit| *bit == other).map_or(63, |place| place as u32),
        }
    }

    /// Whether it concerns all accesses of a run.
    pub fn is_of_run(self) -> bool {
        OF_RUN.contains(&self)
    }
}

impl EntryBit {
    const NAMED: [Self; 9] = [Self::P, Self::W, Self::U, Self::A, Self::D, Self::Ps, Self::G, Self::Pat, Self::Nx];

    /// Its mask in an entry of this level.
    pub const fn mask(self, level: Level) -> u64 {
        match self {
            Self::P => bits::P,
            Self::W => bits::W,
            Self::U => bits::U,
            Self::A => bits::A,
            Self::D => bits::D,
            Self::Ps => bits::PS,
            Self::G => bits::G,
            Self::Pat if matches!(level, Level::Pte) => bits::PAT_OF_PTE,
            Self::Pat => bits::PAT_OF_LARGE,
            Self::Nx => bits::NX,
            Self::B(bit) => 1 << (bit & 63),
        }
    }

    /// Every bit of an entry of this level, once.
    fn of_level(level: Level) -> impl Iterator<Item = Self> {
        let named = Self::NAMED.into_iter().filter(move |bit| level != Level::Pte || *bit != Self::Ps);
        let all = Self::NAMED.map(|bit| bit.mask(level)).into_iter().fold(0, |all, mask| all | mask);
        named.chain((0..64).map(Self::B).filter(move |bit| bit.mask(level) & all == 0))
    }
}

impl fmt::Display for Bit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(level, bit) => write!(f, "{}.{bit}", level.to_string().to_lowercase()),
            Self::OfNext(bit) => write!(f, "next.{bit}"),
            Self::Va(bit) => write!(f, "va.b{bit}"),
            other => f.write_str(other.name()),
        }
    }
}

impl Bit {
    fn name(self) -> &'static str {
        match self {
            Self::Of(..) | Self::OfNext(_) | Self::Va(_) => "",
            Self::Key => "pkey",
            Self::HighHalfStart => "pml4.256",
            Self::Crossing => "crossing",
            Self::Unbacked => "unbacked",
            Self::Nxe => "efer.nx",
            Self::Wp => "cr0.wp",
            Self::Smep => "cr4.smep",
            Self::Smap => "cr4.smap",
            Self::Pke => "cr4.pke",
            Self::AccessDisable => "pkru.ad",
            Self::WriteDisable => "pkru.wd",
            Self::Ac => "ac",
            Self::User => "user",
            Self::Write => "write",
            Self::Fetch => "fetch",
            Self::Stack => "stack",
            Self::Implicit => "implicit",
            Self::Twice => "twice",
        }
    }
}

impl fmt::Display for EntryBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::P => "p",
            Self::W => "w",
            Self::U => "u",
            Self::A => "a",
            Self::D => "d",
            Self::Ps => "ps",
            Self::G => "g",
            Self::Pat => "pat",
            Self::Nx => "nx",
            Self::B(bit) => return write!(f, "b{bit}"),
        };
        f.write_str(name)
    }
}

impl fmt::Display for Combination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, bit) in self.iter().enumerate() {
            write!(f, "{}{bit}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A word that is no bit's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{word}` is no bit: expected pte, pde, pdpte, pml4e, pml5e or next with .p .w .u .a .d .ps .g .pat .nx or .bN, va.bN, \
     or one of {}", Bit::rest().map(Bit::name).filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ")
)]
pub struct UnknownBit {
    word: String,
}

impl FromStr for Combination {
    type Err = UnknownBit;

    /// The names of the bits, in any order, with spaces between.
    fn from_str(text: &str) -> Result<Self, UnknownBit> {
        let bit = |word: &str| parse(word).ok_or_else(|| UnknownBit { word: word.to_owned() });
        text.split_whitespace().try_fold(Self::default(), |all, word| Ok(all.with(bit(word)?)))
    }
}

fn parse(word: &str) -> Option<Bit> {
    if let Some(bit) = Bit::rest().find(|bit| bit.to_string() == word) {
        return Some(bit);
    }
    let (of, name) = word.split_once('.')?;
    let level = Level::ALL.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(of));
    let bit = EntryBit::of_level(level.unwrap_or(Level::Pte)).find(|bit| bit.to_string() == name)?;
    match level {
        Some(level) => Some(Bit::Of(level, bit)),
        None if of == "next" => Some(Bit::OfNext(bit)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let text = "pml4e.p pdpte.ps pdpte.pat pde.ps pde.b13 pte.p pte.pat pte.nx next.u va.b47 pkey efer.nx cr0.wp user write";
        let combination: Combination = text.parse().unwrap();
        assert_eq!(combination.to_string().parse(), Ok(combination));
        assert_eq!(combination.iter().count(), 15);
        assert!(combination.has(Bit::Of(Level::Pde, EntryBit::B(13))));
        assert_eq!(combination.flipped_va(), 1 << 47);
    }

    #[test]
    fn what_is_no_bit_is_named() {
        for word in ["pte.x", "pte.ps", "cr0.pg", "next", "va.b46", "p"] {
            let error = word.parse::<Combination>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{word}` is no bit: expected pte,")), "{error}");
        }
    }

    #[test]
    fn every_bit_has_a_place_of_its_own() {
        let mut places: Vec<_> = Bit::rest().map(Bit::place).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), Bit::rest().count());
    }
}
