//! The contract: what must hold of a mapper's result. A value, not a branch.
//!
//! The contracts of the built-in layouts are one table, [`Contract::of`]; nothing else asks which layout it is.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use efibed_guest::Layout;

use super::Rule;
use super::cache::CacheRule;
use super::closed_form::{self, Addresses, BELOW_2G, BELOW_4G, BELOW_68G, ClosedForm};
use super::merged::{Merged, fits_an_entry};
#[cfg(feature = "fuzz")]
use crate::memory_map::PAGE_BYTES;
use crate::memory_map::{MemoryDescriptor, MemoryMap, Region};
use crate::mmu::{Paging, Va};

/// What must hold of what a mapper makes: of its page tables, and of the map that it hands to SetVirtualAddressMap.
///
/// Always owed is that every page of every RUNTIME region translates to its own physical page, at the virtual address that
/// the map handed to SetVirtualAddressMap gives it, for the supervisor alone. [`Contract::default`] is that of a mapper of
/// which nothing else is known:
///
/// - Any other descriptor in that map may be mapped, at the address given there. Nothing else translates in either half of
///   the canonical addresses, outside of the kernel's own ranges.
/// - Regions may be written to, and code may be executed; data may be executable or not. Where the Memory Attributes Table
///   says RO or XP, pages may be as strict as that.
/// - A cache type is wrong where the descriptor does not name it.
///
/// Each method changes one of these terms.
///
/// ```
/// use efibed::Va;
/// use efibed::check::{Arena, Contract, Term};
///
/// // A kernel that gives out addresses from -1 TiB up, may map firmware 1:1 too, and has the rest of the upper half for itself.
/// let contract = Contract::default()
///     .identity(Term::Allowed)
///     .arenas([Arena::Range(Va(0xffff_ff00_0000_0000)..=Va(0xffff_ff7f_ffff_ffff))])
///     .closed_form(|descriptor| Some(0xffff_ff00_0000_0000 + descriptor.phys_start));
/// # let _ = contract;
/// ```
#[derive(Clone, Debug)]
pub struct Contract {
    regions: Regions,
    arenas: Vec<Arena>,
    pub(super) off_limits: Vec<RangeInclusive<Va>>,
    pub(super) identity: Term,
    pub(super) page_zero: Term,
    pub(super) virtual_map: Term,
    pub(super) boot_services: Term,
    pub(super) executable_data: Term,
    pub(super) attributes_table: Term,
    pub(super) cache: CacheRule,
    pub(super) rising: bool,
    pub(super) contiguous_images: bool,
    closed_form: Option<Form>,
    heir_of: Option<Layout>,
}

/// What a contract says of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Term {
    /// It must be so.
    Owed,
    /// It may be so or not.
    Allowed,
    /// It must not be so.
    Forbidden,
}

impl Term {
    /// What is owed is no more than allowed.
    #[must_use]
    pub(crate) fn relaxed(self) -> Self {
        if self == Self::Owed { Self::Allowed } else { self }
    }
}

/// Which regions a mapper maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Regions {
    /// RUNTIME regions. What else the map handed to SetVirtualAddressMap lists may be mapped, and need not.
    Listed,
    /// RUNTIME regions, and no others. All that is listed must be mapped.
    Runtime,
    /// Those of boot services too, which real firmware still touches in SetVirtualAddressMap. All that is listed must be
    /// mapped.
    RuntimeAndBootServices,
}

/// Addresses that are a mapper's to use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arena {
    /// The lower half of the canonical addresses.
    LowHalf,
    /// The upper half of them.
    HighHalf,
    /// From the first to the last; empty if the last comes before the first.
    Range(RangeInclusive<Va>),
}

impl Arena {
    /// Its addresses on such a CPU.
    fn range(&self, told: &Paging) -> RangeInclusive<Va> {
        let high = u64::MAX << low_bits(told);
        match self {
            Self::LowHalf => Va(0)..=Va(!high),
            Self::HighHalf => Va(high)..=Va(u64::MAX),
            Self::Range(range) => range.clone(),
        }
    }
}

/// Bits of an address in the lower half (SDM vol. 1, 3.3.7.1).
pub(crate) fn low_bits(told: &Paging) -> u32 {
    if told.la57 { 56 } else { 47 }
}

/// Where regions are to be, said independently of the mapper.
#[derive(Clone)]
enum Form {
    /// A built-in layout's, from the whole map.
    Layout(&'static ClosedForm),
    /// A user's, for one descriptor at a time.
    Each(Arc<OfEach>),
}

type OfEach = dyn Fn(&MemoryDescriptor) -> Option<u64> + Send + Sync;

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Layout(_) => "of the whole map",
            Self::Each(_) => "of each descriptor",
        })
    }
}

/// The contract of a mapper that is not known.
impl Default for Contract {
    fn default() -> Self {
        Self {
            regions: Regions::Listed,
            arenas: vec![Arena::LowHalf, Arena::HighHalf],
            off_limits: Vec::new(),
            identity: Term::Forbidden,
            page_zero: Term::Forbidden,
            virtual_map: Term::Forbidden,
            boot_services: Term::Allowed,
            executable_data: Term::Allowed,
            attributes_table: Term::Allowed,
            cache: CacheRule::AnyCapable,
            rising: false,
            contiguous_images: false,
            closed_form: None,
            heir_of: None,
        }
    }
}

impl Contract {
    /// The contract of a built-in layout.
    pub fn of(layout: Layout) -> Self {
        let built_in = |form| Self {
            regions: Regions::RuntimeAndBootServices,
            arenas: vec![Arena::Range(Va(BELOW_68G)..=Va(BELOW_4G - 1))],
            off_limits: vec![Va(BELOW_2G)..=Va(u64::MAX)],
            boot_services: Term::Owed,
            executable_data: Term::Forbidden,
            attributes_table: Term::Forbidden,
            cache: CacheRule::FirstCapable,
            closed_form: Some(Form::Layout(form)),
            ..Self::default()
        };
        let linux = |form| Self {
            identity: Term::Owed,
            cache: CacheRule::WriteBackOrUncached,
            rising: true,
            contiguous_images: true,
            ..built_in(form)
        };
        match layout {
            Layout::Window => built_in(&closed_form::WINDOW),
            Layout::PackedDown => built_in(&closed_form::PACKED_DOWN),
            Layout::PackedUp => Self {
                arenas: vec![Arena::Range(Va(BELOW_4G)..=Va(BELOW_2G - 1))],
                ..built_in(&closed_form::PACKED_UP)
            },
            Layout::Linux => Self {
                page_zero: Term::Owed,
                virtual_map: Term::Owed,
                boot_services: Term::Forbidden,
                attributes_table: Term::Owed,
                ..linux(&closed_form::LINUX)
            },
            Layout::LinuxFixed => {
                Self { regions: Regions::Runtime, heir_of: Some(Layout::Linux), ..linux(&closed_form::LINUX_FIXED) }
            }
        }
    }

    /// Which regions are mapped.
    #[must_use]
    pub fn regions(self, regions: Regions) -> Self {
        Self { regions, ..self }
    }

    /// Where regions are put. Nothing else may translate there, nor in the lower half if 1:1 aliases are owed or allowed. What
    /// translates elsewhere is not looked at, unless it maps the page tables.
    #[must_use]
    pub fn arenas(self, arenas: impl IntoIterator<Item = Arena>) -> Self {
        Self { arenas: arenas.into_iter().collect(), ..self }
    }

    /// Addresses at which no region may lie, besides those of the test bed's kernel. A range that ends before it starts is
    /// empty.
    #[must_use]
    pub fn off_limits(self, ranges: impl IntoIterator<Item = RangeInclusive<Va>>) -> Self {
        Self { off_limits: ranges.into_iter().filter(|range| !range.is_empty()).collect(), ..self }
    }

    /// Whether RUNTIME and boot-services regions are mapped at their physical addresses, too. Where that is allowed, each
    /// page that is mapped so must reach its own frame.
    #[must_use]
    pub fn identity(self, term: Term) -> Self {
        Self { identity: term, ..self }
    }

    /// Whether page 0 is mapped 1:1: some firmware writes there in SetVirtualAddressMap.
    #[must_use]
    pub fn page_zero(self, term: Term) -> Self {
        Self { page_zero: term, ..self }
    }

    /// Whether the map that SetVirtualAddressMap is handed is mapped 1:1: firmware reads it in the call.
    #[must_use]
    pub fn virtual_map(self, term: Term) -> Self {
        Self { virtual_map: term, ..self }
    }

    /// Whether boot services stay mapped in phase `finish`. Where that is forbidden, the phase has to retire them.
    #[must_use]
    pub fn boot_services(self, term: Term) -> Self {
        Self { boot_services: term, ..self }
    }

    /// Whether data can be executed.
    #[must_use]
    pub fn executable_data(self, term: Term) -> Self {
        Self { executable_data: term, ..self }
    }

    /// Whether pages have the permissions that the Memory Attributes Table says. Where that is owed, phase `finish` has to
    /// apply the table; where it is allowed, pages may be as strict as the table in either phase.
    #[must_use]
    pub fn attributes_table(self, term: Term) -> Self {
        Self { attributes_table: term, ..self }
    }

    /// Which cache types pages may have.
    #[must_use]
    pub fn cache(self, cache: CacheRule) -> Self {
        Self { cache, ..self }
    }

    /// Whether virtual addresses must rise with firmware's list.
    #[must_use]
    pub fn rising(self, rising: bool) -> Self {
        Self { rising, ..self }
    }

    /// Whether runtime code and data that follow one another in the list and in memory, and so may be one image, must do so
    /// at their virtual addresses.
    #[must_use]
    pub fn contiguous_images(self, contiguous_images: bool) -> Self {
        Self { contiguous_images, ..self }
    }

    /// The VirtualStart that a descriptor must get, as one more witness; None: anything will do for it. It is a descriptor's
    /// field, and so a number.
    #[must_use]
    pub fn closed_form(self, form: impl Fn(&MemoryDescriptor) -> Option<u64> + Send + Sync + 'static) -> Self {
        Self { closed_form: Some(Form::Each(Arc::new(form))), ..self }
    }
}

/// What the checks ask.
impl Contract {
    /// Whether a region is one that the mapper is to map, and an entry can hold it.
    pub(crate) fn maps(&self, region: &Region) -> bool {
        self.wants(region) && fits_an_entry(region)
    }

    /// Whether it is one that the mapper would map if it could.
    pub(crate) fn wants(&self, region: &Region) -> bool {
        region.is_mapped() && (self.regions != Regions::Runtime || region.is_runtime())
    }

    /// Whether there are virtual addresses for all regions that the mapper is to map: by the closed form, and since they could
    /// lie side by side where it puts regions. On any CPU, if that is a half of the canonical addresses.
    #[cfg(feature = "fuzz")]
    pub(crate) fn has_room(&self, map: &MemoryMap) -> bool {
        let bytes =
            |range: RangeInclusive<Va>| u128::from(range.end().0.saturating_sub(range.start().0)).saturating_add(1);
        let room: u128 = self.arenas_on(&Paging::default()).into_iter().map(bytes).fold(0, u128::saturating_add);
        let wanted = map.regions().filter(|region| self.wants(region)).map(|region| u128::from(region.pages));
        let wanted = wanted.fold(0, u128::saturating_add).saturating_mul(u128::from(PAGE_BYTES));
        wanted <= room && self.gives_up_at(map).is_none() && self.addresses(map).values().all(Option::is_some)
    }

    /// Whether a region that the virtual map lists must be mapped there.
    pub(crate) fn owes(&self, listed: &Region) -> bool {
        self.regions != Regions::Listed || (listed.is_runtime() && listed.pages > 0)
    }

    /// Whether regions may lie so that each takes tables of its own at every level.
    pub(crate) fn may_scatter(&self) -> bool {
        self.identity != Term::Forbidden || self.regions == Regions::Listed
    }

    /// Whether phase `finish` has something to do, or may have.
    #[cfg(feature = "cli")]
    pub(crate) fn finishes(&self) -> bool {
        self.boot_services != Term::Owed || self.attributes_table == Term::Owed
    }

    /// Where regions are put on such a CPU.
    pub(crate) fn arenas_on(&self, told: &Paging) -> Vec<RangeInclusive<Va>> {
        self.arenas.iter().map(|arena| arena.range(told)).collect()
    }

    /// Where nothing else may translate: where regions are put, and where they are 1:1.
    pub(crate) fn ground_on(&self, told: &Paging) -> Vec<RangeInclusive<Va>> {
        let has_low_half = self.identity == Term::Forbidden || self.arenas.contains(&Arena::LowHalf);
        let low_half = (!has_low_half).then(|| Arena::LowHalf.range(told));
        low_half.into_iter().chain(self.arenas_on(told)).collect()
    }

    /// Where regions are put, as one range on any CPU.
    pub(crate) fn window(&self) -> RangeInclusive<Va> {
        let ranges = self.arenas_on(&Paging { la57: true, ..Paging::default() });
        let first = ranges.iter().map(|range| *range.start()).min();
        let last = ranges.iter().map(|range| *range.end()).max();
        first.unwrap_or(Va(0))..=last.unwrap_or(Va(u64::MAX))
    }

    /// The virtual address that each region must have, by index, as far as the closed form says. None: there is no room.
    pub(crate) fn addresses(&self, map: &MemoryMap) -> Addresses {
        match &self.closed_form {
            None => Addresses::new(),
            Some(Form::Layout(form)) => (form.addresses)(map),
            Some(Form::Each(form)) => {
                let all = map.descriptors().iter().map(|descriptor| form(descriptor)).enumerate();
                all.filter_map(|(index, virt)| Some((index, Some(Va(virt?))))).collect()
            }
        }
    }

    /// The closed form of a whole map, if there is one.
    pub(crate) fn whole_form(&self) -> Option<&'static ClosedForm> {
        match self.closed_form {
            Some(Form::Layout(form)) => Some(form),
            _ => None,
        }
    }

    /// The descriptor at which the mapper gives up, and then maps nothing at all; None: it goes on to the end.
    pub(crate) fn gives_up_at(&self, map: &MemoryMap) -> Option<usize> {
        (self.form().gives_up_at)(map)
    }

    /// Why it gives up at a descriptor, as a sentence.
    pub(crate) fn no_room(&self, map: &MemoryMap, index: usize) -> String {
        (self.form().no_room)(map, index)
    }

    /// What a region breaks that gets no address.
    pub(crate) fn without_address(&self) -> Rule {
        self.form().without_address
    }

    /// Descriptors that the mapper makes one of, and others; nothing where it leaves them all as they are.
    pub(crate) fn merged(&self, map: &MemoryMap) -> Vec<Merged> {
        (self.form().merged)(map)
    }

    /// Whether regions must be mapped at their physical addresses, too.
    pub(crate) fn has_identity(&self) -> bool {
        self.identity == Term::Owed
    }

    /// The layout of the kernel that hands its addresses over to this one, if one has to.
    pub(crate) fn heir_of(&self) -> Option<Layout> {
        self.heir_of
    }

    fn form(&self) -> &'static ClosedForm {
        self.whole_form().unwrap_or(&closed_form::NONE)
    }
}
