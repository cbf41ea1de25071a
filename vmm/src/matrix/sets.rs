//! What is combined: sets of planes, each a declaration of bits.

use super::bits::{Bit, EntryBit};
use crate::machine::{CpuidRequest, MaxPhyAddr};
use crate::mmu::Level;

use Bit::{Of, OfNext};
use EntryBit::{A, B, D, G, Nx, P, Pat, Ps, U, W};
use Level::{Pde, Pdpte, Pml4e, Pml5e, Pte};

/// A set of combinations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Set {
    /// Those of kvm-unit-tests' x86/access.c: a PTE or a PDE as leaf, and all that can be said of it.
    Access,
    /// Those, and every other level, bit and mode.
    Full,
}

/// Some bits that are always set, and some that are combined in every way that is legal.
#[derive(Clone, Debug)]
pub struct Plane {
    /// A name for it.
    pub name: &'static str,
    /// Always set.
    pub always: Vec<Bit>,
    /// Set or not.
    pub each: Vec<Bit>,
    /// At most one of them is set.
    pub one_of: Vec<Bit>,
    /// On which CPUs.
    pub cpus: Vec<CpuidRequest>,
}

efibed_stub::names! {
    Set, "set":
    Access "access",
    Full "full",
}

impl Set {
    /// Its planes.
    pub fn planes(self) -> Vec<Plane> {
        match self {
            Self::Access => vec![access()],
            Self::Full => vec![
                access(),
                levels(),
                reserved(),
                addresses(),
                large(),
                supervisor(),
                keys(),
                crossing(),
                canonical(),
                high_half_start(),
                five_levels(),
                five_levels_canonical(),
            ],
        }
    }
}

/// Widths of a physical address: the narrowest of 64-bit CPUs, common ones, and the widest.
const WIDTHS: [MaxPhyAddr; 5] = [width(36), width(40), width(46), width(48), width(52)];
/// Bits of an address that are reserved on the narrowest.
const HIGH_BITS: std::ops::RangeInclusive<u8> = 36..=51;

/// The levels of 4-level paging.
const FOUR: [Level; 4] = [Pml4e, Pdpte, Pde, Pte];
/// Reading is what an access does that has neither bit.
const KINDS: [Bit; 3] = [Bit::User, Bit::Write, Bit::Fetch];

const USUAL: CpuidRequest =
    CpuidRequest { maxphyaddr: None, gbpages: None, nx: None, la57: None, smep: None, smap: None, pku: None };

/// The enumeration of access.c, keys included.
fn access() -> Plane {
    let high = |level| [36, 51].map(|bit| Of(level, B(bit)));
    let pte = [W, U, A, D, Nx, P].map(|bit| Of(Pte, bit));
    let pde = [W, U, A, D, Ps, Nx, P, B(13)].map(|bit| Of(Pde, bit));
    let modes = [Bit::Twice, Bit::Nxe, Bit::Wp, Bit::Pke, Bit::AccessDisable, Bit::WriteDisable];
    Plane {
        name: "access",
        always: [leads_on(&[Pml4e]), vec![Of(Pdpte, P), Of(Pdpte, U)]].concat(),
        each: all(&[&pte, &high(Pte), &pde, &high(Pde), &[Of(Pdpte, W), Bit::Key], &KINDS, &modes]),
        one_of: Vec::new(),
        cpus: vec![USUAL],
    }
}

/// P, W, U and NX of every level: rights are of all levels together, and what is absent hides what is below it.
fn levels() -> Plane {
    Plane {
        name: "levels",
        always: Vec::new(),
        each: all(&[&of_each(&FOUR, &[P, W, U, Nx]), &KINDS, &[Bit::Nxe, Bit::Wp]]),
        one_of: Vec::new(),
        cpus: vec![USUAL],
    }
}

/// Each bit that is reserved anywhere, alone, in entries that are present or not, below and above others that are not.
fn reserved() -> Plane {
    let high: Vec<_> = HIGH_BITS.map(B).collect();
    Plane {
        name: "reserved",
        always: all(&[&of_each(&FOUR, &[U]), &of_each(&[Pml4e, Pdpte, Pde], &[W]), &[Bit::Wp]]),
        each: all(&[&of_each(&FOUR, &[P]), &[Of(Pdpte, Ps), Of(Pde, Ps), Of(Pte, W)], &KINDS, &[Bit::Nxe]]),
        one_of: all(&[
            &of_each(&FOUR, &high),
            &of_each(&FOUR, &[Nx]),
            &(13..=29).map(|bit| Of(Pdpte, B(bit))).collect::<Vec<_>>(),
            &(13..=20).map(|bit| Of(Pde, B(bit))).collect::<Vec<_>>(),
            &of_each(&[Pml4e], &[Ps, G]),
        ]),
        cpus: widths(),
    }
}

/// Each bit of a leaf's address that is reserved on some CPUs, on these and on others: where it leads.
fn addresses() -> Plane {
    let high: Vec<_> = HIGH_BITS.map(B).collect();
    Plane {
        name: "addresses",
        always: all(&[&leads_on(&FOUR), &[Bit::Unbacked, Bit::Nxe, Bit::Wp]]),
        each: all(&[&[Of(Pdpte, Ps), Of(Pde, Ps)], &[Bit::User, Bit::Write]]),
        one_of: of_each(&[Pdpte, Pde, Pte], &high),
        cpus: widths(),
    }
}

/// Each width, with 1 GiB pages and without.
fn widths() -> Vec<CpuidRequest> {
    let sizes =
        |bits| [true, false].map(|gbpages| CpuidRequest { maxphyaddr: Some(bits), gbpages: Some(gbpages), ..USUAL });
    WIDTHS.into_iter().flat_map(sizes).collect()
}

const fn width(bits: u8) -> MaxPhyAddr {
    MaxPhyAddr::new(bits).unwrap()
}

/// Leaves of each size: which page is reached, and A and D of every entry.
fn large() -> Plane {
    let cpus = [true, false].map(|gbpages| CpuidRequest { gbpages: Some(gbpages), ..USUAL });
    let sizes = [Of(Pdpte, Ps), Of(Pde, Ps)];
    Plane {
        name: "large",
        always: all(&[&of_each(&FOUR, &[P, U]), &[Of(Pml4e, W), Of(Pde, W), Bit::Nxe, Bit::Wp]]),
        each: all(&[
            &of_each(&[Pdpte, Pde, Pte], &[A, D]),
            &[Of(Pml4e, A), Of(Pte, W), Of(Pdpte, W)],
            &sizes,
            &KINDS,
            &[Bit::Twice],
        ]),
        one_of: of_each(&[Pdpte, Pde, Pte], &[G, Pat]),
        cpus: cpus.to_vec(),
    }
}

/// SMEP and SMAP, lifted by AC or not, and the processor's own accesses.
fn supervisor() -> Plane {
    let modes = [Bit::Implicit, Bit::Ac, Bit::Smep, Bit::Smap, Bit::Wp, Bit::Nxe];
    Plane {
        name: "supervisor",
        always: all(&[&of_each(&FOUR, &[P]), &of_each(&[Pml4e, Pdpte, Pde], &[W])]),
        each: all(&[&of_each(&FOUR, &[U]), &[Of(Pte, W), Of(Pte, Nx), Of(Pde, Ps)], &KINDS, &modes]),
        one_of: Vec::new(),
        cpus: vec![USUAL],
    }
}

/// Protection keys: of leaves of each size, and ignored elsewhere.
fn keys() -> Plane {
    let modes = [Bit::Wp, Bit::Smap, Bit::Pke, Bit::AccessDisable, Bit::WriteDisable];
    Plane {
        name: "keys",
        always: all(&[&of_each(&[Pml4e, Pdpte], &[P, W, U]), &[Of(Pde, P), Of(Pde, W), Bit::Nxe]]),
        each: all(&[
            &[Bit::Key, Of(Pdpte, Ps), Of(Pde, Ps), Of(Pde, U)],
            &[P, W, U, Nx].map(|bit| Of(Pte, bit)),
            &KINDS,
            &modes,
        ]),
        one_of: vec![Of(Pde, B(59)), Of(Pdpte, B(59)), Of(Pml4e, B(59))],
        cpus: vec![CpuidRequest { pku: Some(true), ..USUAL }],
    }
}

/// Accesses whose second half lies in another page.
fn crossing() -> Plane {
    let rights = [P, W, U, A, D];
    Plane {
        name: "crossing",
        always: all(&[&leads_on(&[Pml4e, Pdpte, Pde]), &[Bit::Crossing, Bit::Nxe]]),
        each: all(&[&rights.map(|bit| Of(Pte, bit)), &rights.map(OfNext), &[Bit::User, Bit::Write, Bit::Wp]]),
        one_of: vec![Of(Pte, B(51)), OfNext(B(51)), Of(Pte, Nx), OfNext(Nx)],
        cpus: vec![USUAL],
    }
}

/// Addresses that are not canonical, or only just.
fn canonical() -> Plane {
    Plane {
        name: "canonical",
        always: all(&[&leads_on(&[Pml4e, Pdpte, Pde]), &[Of(Pte, W), Of(Pte, U), Bit::Nxe]]),
        each: all(&[&[Of(Pte, P), Bit::Stack, Bit::Wp], &KINDS]),
        one_of: (47..=63).map(Bit::Va).collect(),
        cpus: vec![USUAL],
    }
}

/// The first addresses after the hole between the halves.
fn high_half_start() -> Plane {
    Plane {
        name: "high half",
        always: all(&[&leads_on(&[Pml4e, Pdpte, Pde]), &[Of(Pte, W), Bit::HighHalfStart, Bit::Nxe, Bit::Wp]]),
        each: all(&[&[Of(Pte, P), Of(Pte, U)], &KINDS]),
        one_of: Vec::new(),
        cpus: vec![USUAL],
    }
}

const FIVE: CpuidRequest = CpuidRequest { la57: Some(true), ..USUAL };

/// The fifth level: its rights, its reserved bits, its A.
fn five_levels() -> Plane {
    let high: Vec<_> = HIGH_BITS.map(B).collect();
    Plane {
        name: "five levels",
        always: all(&[&leads_on(&[Pdpte, Pde]), &[Of(Pte, P)]]),
        each: all(&[
            &of_each(&[Pml5e, Pml4e], &[P, W, U, Nx]),
            &[Of(Pml5e, A), Of(Pte, W), Of(Pte, U)],
            &KINDS,
            &[Bit::Nxe, Bit::Wp],
        ]),
        one_of: all(&[&of_each(&[Pml5e], &high), &of_each(&[Pml5e, Pml4e], &[Ps, G])]),
        cpus: vec![FIVE, CpuidRequest { maxphyaddr: Some(WIDTHS[0]), ..FIVE }],
    }
}

/// The wider canonical addresses.
fn five_levels_canonical() -> Plane {
    let four = canonical();
    let always = all(&[&leads_on(&[Pml5e]), &four.always]);
    // Bits 48 to 55 are of the root's index there: the address is another combination's.
    let one_of = [47].into_iter().chain(56..=63).map(Bit::Va).collect();
    Plane { name: "canonical, five levels", always, one_of, cpus: vec![FIVE], ..four }
}

/// What entries have that lead on to any page.
fn leads_on(levels: &[Level]) -> Vec<Bit> {
    of_each(levels, &[P, W, U])
}

/// Each of these bits of each of these levels.
fn of_each(levels: &[Level], bits: &[EntryBit]) -> Vec<Bit> {
    levels.iter().flat_map(|&level| bits.iter().map(move |&bit| Of(level, bit))).collect()
}

fn all(lists: &[&[Bit]]) -> Vec<Bit> {
    lists.concat()
}

impl Plane {
    /// Its name, and the CPU if that is not the usual one.
    pub fn title(&self, request: &CpuidRequest) -> String {
        match cpu(request) {
            cpu if cpu.is_empty() => self.name.into(),
            cpu => format!("{} ({cpu})", self.name),
        }
    }
}

/// A CPU as `--cpu` takes it.
pub fn cpu(request: &CpuidRequest) -> String {
    let switch = |name: &str, on: Option<bool>| on.map(|on| format!("{name}={}", if on { "on" } else { "off" }));
    let width = request.maxphyaddr.map(|bits| format!("maxphyaddr={bits}"));
    let switches = [switch("1g", request.gbpages), switch("la57", request.la57), switch("pku", request.pku)];
    let parts: Vec<_> = width.into_iter().chain(switches.into_iter().flatten()).collect();
    parts.join(",")
}
