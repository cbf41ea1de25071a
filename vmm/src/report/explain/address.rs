//! What is said of an address: whose it is, and in each phase the walk, every access, and whether all is right.

use std::ops::RangeInclusive;

use super::{end, granted, joined};
use crate::check::{self, Accessed, Address, Alias, Due, Finding, Phase, Role, Standing, Term};
use crate::memory_map::{PAGE_BYTES, Region, type_name};
use crate::mmu::{Kind, Outcome, Pa, Privilege, Va};
use crate::report::map::{Fate, MapReport, Placed};
use crate::report::style::Paint;
use crate::report::{Report, walk};

/// Where an address is asked about.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The map, and what the layout does with each of its regions.
    pub map: &'a MapReport<'a>,
    /// The run on whose tables the address was looked up.
    pub report: &'a Report,
    /// Whether the kernel runs phase `finish`.
    pub finishes: bool,
    /// How many columns the terminal has; None: the text is for a file or a pipe.
    pub columns: Option<usize>,
}

impl Ground<'_> {
    fn paint(self) -> Paint {
        Paint::PLAIN.on(self.columns)
    }
}

/// What each phase makes of one virtual address. `phases` has it once for each phase that has tables of its own.
pub fn explain_address(phases: &[&Address], ground: Ground<'_>) -> String {
    let Some(first) = phases.first() else { return String::new() };
    let mut lines = title(&format!("VA {:#x}", first.virt), ground);
    for paragraph in whose(first, ground) {
        lines.push(String::new());
        lines.extend(ground.paint().wrapped(&paragraph, 0));
    }
    for address in phases {
        lines.push(String::new());
        let walked_before = address.phase != first.phase && address.steps() == first.steps();
        lines.extend(phase(address, walked_before, ground));
    }
    if phases.len() == 1 {
        lines.push(String::new());
        lines.extend(ground.paint().wrapped(&no_finish(ground), 0));
    }
    joined(&lines)
}

/// What each phase makes of every virtual address of a physical one.
pub fn explain_physical(phys: Pa, addresses: &[Address], ground: Ground<'_>) -> String {
    let mut lines = title(&format!("PA {phys:#x}"), ground);
    lines.push(String::new());
    let mut descriptors = described(phys, ground, |placed| fate(placed, phys, ground));
    if descriptors.is_empty() {
        descriptors.push("No descriptor covers it.".into());
    }
    lines.extend(descriptors.iter().flat_map(|text| ground.paint().wrapped(text, 2)));
    let mut all: Vec<Va> = addresses.iter().map(|address| address.virt).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        lines.extend(ground.paint().wrapped("No virtual address leads to it, and none must.", 0));
    }
    if all.len() >= check::MAX_ADDRESSES {
        lines.extend(ground.paint().wrapped("More virtual addresses may lead to it than are listed here.", 0));
    }
    for virt in all {
        let phases: Vec<&Address> = addresses.iter().filter(|address| address.virt == virt).collect();
        lines.push(String::new());
        lines.extend(ground.paint().wrapped(&format!("VA {virt:#x}, {}", role(phases[0], phys)), 2));
        for address in &phases {
            let text = format!("{}; {}", verdict(address, ground), arrival(address));
            lines.extend(ground.paint().labelled(&format!("  {}", address.phase.name()), &text, LABEL));
        }
    }
    if addresses.iter().all(|address| address.phase == Phase::Map) {
        lines.push(String::new());
        lines.extend(ground.paint().wrapped(&no_finish(ground), 0));
    }
    joined(&lines)
}

/// Where the text beside a phase's name begins, and that beside an access.
const LABEL: usize = 10;
const ACCESS: usize = 19;

fn title(what: &str, ground: Ground<'_>) -> Vec<String> {
    let Report { mapper, cpu, .. } = ground.report;
    let bits = cpu.told.maxphyaddr;
    let pages = if cpu.told.gbpages { "and 1 GiB pages" } else { "and no 1 GiB pages" };
    let text = format!(
        "{what} under {mapper}, for a CPU with {bits} bits of physical address {pages} (`--cpu` asks for another)"
    );
    ground.paint().wrapped(&text, 0)
}

/// A phase: its verdict, the walk, every access, and what the check finds there.
fn phase(address: &Address, walked_before: bool, ground: Ground<'_>) -> Vec<String> {
    let (name, what) = match address.phase {
        Phase::Finish => ("finish", "after SetVirtualAddressMap"),
        _ => ("map", "before SetVirtualAddressMap"),
    };
    let mut lines = ground.paint().wrapped(&format!("Phase `{name}`, {what}: {}", verdict(address, ground)), 2);
    let steps = address.steps();
    match walked_before {
        true => lines.push("  The walk is that of phase `map`.".into()),
        false => {
            let walk = walk::lines(&steps, &ground.report.cpu.told, ground.paint());
            lines.extend(walk.iter().map(|line| format!("  {line}")));
        }
    }
    for accessed in &address.accesses {
        let text = format!("{}: {}", end(&accessed.walk.outcome), judged(accessed, address));
        lines.extend(ground.paint().labelled(&format!("  {}", accessed.walk.access), &text, ACCESS));
    }
    if let Some(to) = address.translation() {
        lines.extend(ground.paint().labelled(
            &format!("  the {}", to.leaf),
            &format!("grants: {}", granted(&to)),
            ACCESS,
        ));
    }
    for finding in findings(address, ground.report) {
        lines.extend(ground.paint().labelled(&format!("  {}", finding.rule), &finding.message, ACCESS));
    }
    lines
}

/// `right`, or `WRONG` and why.
fn verdict(address: &Address, ground: Ground<'_>) -> String {
    // What firmware did wrong says nothing against the mapping.
    let against = findings(address, ground.report).filter(|finding| !finding.rule.is_firmwares());
    let mut rules: Vec<_> = against.map(|finding| format!("`{}`", finding.rule)).collect();
    rules.dedup();
    if !rules.is_empty() {
        return format!("WRONG because of {}", rules.join(", "));
    }
    match address.accesses.iter().find(|accessed| !accessed.is_right) {
        Some(accessed) => format!("WRONG because a {} {}", accessed.walk.access, due(accessed.expected)),
        None => "right".into(),
    }
}

/// What the check finds in a phase about the page of an address, or about its region as a whole.
fn findings<'a>(address: &'a Address, report: &'a Report) -> impl Iterator<Item = &'a Finding> {
    let is_about = |finding: &&Finding| match finding.virt {
        Some(first) => {
            let distance = address.virt.page().checked_offset_from(first.page());
            distance.is_some_and(|distance| distance / PAGE_BYTES < finding.pages.max(1))
        }
        None => finding.region.is_some() && finding.region == address.region(),
    };
    report.findings.iter().filter(|finding| finding.phase == address.phase).filter(is_about)
}

/// An access's verdict.
fn judged(accessed: &Accessed, address: &Address) -> String {
    let Accessed { walk, expected, is_right } = accessed;
    if !is_right {
        return format!("WRONG, it {}", due(*expected));
    }
    let why = match (expected, walk.access.privilege, walk.access.kind) {
        (Due::Refused, Privilege::User, _) => "firmware's pages are not for ring 3",
        (Due::Refused, _, Kind::Fetch) => "it must not be executed",
        (Due::Refused, ..) => "the Memory Attributes Table makes it read-only",
        (Due::NotMapped, ..) => match address.standing {
            Standing::Dropped(_) => "boot services, dropped",
            _ => "nothing may be mapped here",
        },
        (Due::NotCanonical, ..) => "no table is read",
        (Due::As(_), ..) => "as on the kernel's own tables",
        (Due::Reaches(_) | Due::MayReach(_), ..) => return "right".into(),
    };
    format!("right, {why}")
}

fn due(expected: Due) -> String {
    match expected {
        Due::Reaches(pa) => format!("must reach PA {pa:#x}"),
        Due::MayReach(pa) => format!("must reach PA {pa:#x}, or be refused by the page"),
        Due::Refused => "must be refused by the page".into(),
        Due::NotMapped => "must find nothing mapped".into(),
        Due::NotCanonical => "must not get as far as the tables".into(),
        Due::As(outcome) => format!("must end as on the kernel's own tables, where it {}", end(&outcome)),
    }
}

fn arrival(address: &Address) -> String {
    match (address.translation(), address.accesses.first().map(|accessed| accessed.walk.outcome)) {
        (Some(to), _) => format!("reaches PA {:#x} by a {}: {}", to.pa.0, to.leaf, granted(&to)),
        (None, Some(outcome @ (Outcome::Fault(_) | Outcome::Stranded { .. }))) => match address.standing {
            Standing::Dropped(_) => format!("boot services, dropped in phase `finish`: {}", end(&outcome)),
            _ => format!("a read {}", end(&outcome)),
        },
        (None, _) => "nothing is there".into(),
    }
}

/// Why phase `finish` has no tables of its own.
fn no_finish(ground: Ground<'_>) -> String {
    let failed = ground.report.findings.iter().find(|finding| finding.phase == Phase::Finish);
    match failed {
        Some(finding) => format!("Phase `finish` came to no end: {}", finding.message),
        None if ground.finishes => "Phase `finish` changes no table: all is as in phase `map`.".into(),
        None => "Phase `finish` is not run: all stays as in phase `map`.".into(),
    }
}

/// Whose an address is and why, a paragraph each.
fn whose(address: &Address, ground: Ground<'_>) -> Vec<String> {
    let virt = address.virt;
    match address.standing {
        Standing::Mapped(alias) | Standing::Dropped(alias) => mapped(&alias, virt, ground),
        Standing::Kernel => {
            let mut text = vec!["The address is in one of the ranges of the kernel that runs the mapping code: its \
                                 image, its direct map, or its code for ring 3."
                .to_owned()];
            text.extend(described_1_to_1(virt, ground));
            text
        }
        Standing::NotCanonical => vec![
            "The address is not canonical: bits above its width do not repeat its top bit. No access reads a table (SDM \
             vol. 1, 3.3.7.1)."
                .into(),
        ],
        Standing::Nobody { in_arena } => {
            let reasons = described_1_to_1(virt, ground);
            match reasons.is_empty() {
                false => reasons,
                true => vec![nobody(in_arena, ground)],
            }
        }
    }
}

fn nobody(in_arena: bool, ground: Ground<'_>) -> String {
    let MapReport { layout, contract, .. } = ground.map;
    let window = contract.window();
    let range = |range: RangeInclusive<Va>| format!("{:#x} to {:#x}", range.start(), range.end());
    let also = if contract.has_identity() { " and 1:1" } else { "" };
    match in_arena {
        true => format!(
            "The address belongs to no region of the map. It lies where layout `{}` may map regions ({}{also}), and the \
             layout put none here.",
            layout.name(),
            range(window)
        ),
        false => format!(
            "The address belongs to no region of the map, and lies outside every range in which layout `{}` maps regions \
             ({}{also}).",
            layout.name(),
            range(window)
        ),
    }
}

/// An address that a region, page 0 or the virtual map has, or had.
fn mapped(alias: &Alias, virt: Va, ground: Ground<'_>) -> Vec<String> {
    let region = alias.region.and_then(|index| ground.map.regions.get(index)).map(|placed| placed.region);
    let mut text: Vec<String> = region.iter().map(|region| in_region(region, alias, virt)).collect();
    match alias.role {
        Role::Virtual => {}
        Role::Physical => text.push("It is a physical address of the region: the layout maps that 1:1, too.".into()),
        Role::PageZero => text.push(
            "It is in page 0: kept 1:1 on purpose, since some firmware writes there in SetVirtualAddressMap.".into(),
        ),
        Role::VirtualMap => text.push(
            "Here lies the map that SetVirtualAddressMap is handed: kept 1:1 on purpose, since firmware reads it in the \
             call."
                .into(),
        ),
    }
    if region.is_none() {
        text.extend(described_1_to_1(virt, ground));
    }
    if alias.stays == Term::Forbidden {
        text.push("The region is boot services, dropped in phase `finish`.".into());
    }
    text
}

fn in_region(region: &Region, alias: &Alias, virt: Va) -> String {
    let pa = alias.target(virt).0;
    let name = format!("region {}'s ({})", region.index, type_name(region.ty));
    let pages_end = (region.phys & !(PAGE_BYTES - 1)).saturating_add(region.pages.saturating_mul(PAGE_BYTES));
    let at = match pa.checked_sub(region.phys) {
        None => {
            let before = region.phys - pa;
            format!(
                "is {before:#x} bytes before region {}'s start ({}), in the same page",
                region.index,
                type_name(region.ty)
            )
        }
        Some(distance) if u128::from(pa) >= region.end() => {
            format!("is past {name} last byte, in the same page; {distance:#x} bytes from its start")
        }
        Some(distance) => format!("is {name}, {distance:#x} bytes from its start"),
    };
    let mut text = format!("The address {at}; it must reach PA {pa:#x}.");
    if pa >= pages_end {
        let inside = region.phys % PAGE_BYTES;
        text += &format!(
            " This page is the region's own tail. The region starts {inside:#x} bytes into a page, so its last {inside:#x} \
             bytes lie in a page more than its page count. Mapping code that rounds the start down, as x86 Linux does, \
             leaves them out."
        );
    }
    text
}

/// A sentence for each descriptor that covers the physical address which a virtual one would be 1:1.
fn described_1_to_1(virt: Va, ground: Ground<'_>) -> Vec<String> {
    let phys = Pa(virt.0);
    described(phys, ground, |placed| fate(placed, phys, ground))
}

/// A sentence for each descriptor that covers a physical address.
fn described(phys: Pa, ground: Ground<'_>, say: impl Fn(&Placed) -> String) -> Vec<String> {
    let pages_of = |region: &Region| {
        let first = u128::from(region.phys & !(PAGE_BYTES - 1));
        first..region.end()
    };
    let covering = ground
        .map
        .regions
        .iter()
        .filter(|placed| placed.region.pages > 0 && pages_of(&placed.region).contains(&u128::from(phys.0)));
    covering
        .map(|placed| {
            let Region { index, ty, .. } = placed.region;
            format!("descriptor {index}, {}: {}", type_name(ty), say(placed))
        })
        .collect()
}

/// What the layout does with a descriptor, and why nothing of it is 1:1 if nothing is.
fn fate(placed: &Placed, phys: Pa, ground: Ground<'_>) -> String {
    let MapReport { layout, contract, .. } = ground.map;
    match placed.fate {
        Fate::LeftOut if placed.region.is_boot_services() => {
            format!("layout `{}` maps RUNTIME only, since boot services are gone after kexec", layout.name())
        }
        Fate::LeftOut => "layouts map RUNTIME and boot services only".into(),
        Fate::At(virt) | Fate::Outside(virt) => {
            let at = virt.wrapping_add(phys.wrapping_offset_from(Pa(placed.region.phys)));
            let identity = match contract.has_identity() {
                true => "also 1:1, as far as the lower half reaches",
                false => "and nothing 1:1",
            };
            format!("layout `{}` maps it, this byte at VA {at:#x}, {identity}", layout.name())
        }
        Fate::NoAddress => format!("layout `{}` has no virtual address for it", layout.name()),
        Fate::Impossible => "it has physical addresses that no page-table entry can hold".into(),
    }
}

/// What a virtual address of a physical one is.
fn role(address: &Address, phys: Pa) -> String {
    match address.standing {
        Standing::Mapped(alias) | Standing::Dropped(alias) if alias.target(address.virt) == phys => {
            let whose = alias.region.map_or_else(String::new, |index| format!("region {index}'s: "));
            let what = match alias.role {
                Role::Virtual => "as SetVirtualAddressMap is told",
                Role::Physical => "1:1",
                Role::PageZero => "page 0, kept 1:1 on purpose",
                Role::VirtualMap => "1:1, the map that SetVirtualAddressMap is handed",
            };
            format!("{whose}{what}")
        }
        Standing::Mapped(alias) | Standing::Dropped(alias) => {
            let whose = alias.region.map_or_else(|| "another page's".into(), |index| format!("region {index}'s"));
            format!("{whose}, which must lead elsewhere")
        }
        Standing::Kernel => "the kernel's own".into(),
        Standing::Nobody { .. } => "a stray mapping".into(),
        Standing::NotCanonical => "not canonical".into(),
    }
}
