//! What the engines do alike: what the CPU is told, how many pages a mapper gets, and the report.

use std::ops::RangeInclusive;
use std::time::Duration;

use efibed_guest::MapError;
use efibed_guest::mapper::{KeepRange, RegionAtHand};
use efibed_stub::DESCRIPTOR_VERSION;

use super::mapping::Outcome as Mapped;
use super::{Job, Miscall, Moment};
use crate::check::{
    self, Alias, Contract, Denial, Expectation, Finding, LeafCounts, Marks, Phase, Question, Role, Rule, Severity,
    Skipped, Statement, TableCheck, TableVerdict, WalkStep, Witness,
};
use crate::firmware::{Misbehaviour, ServiceMisbehaviour};
use crate::guest::{Loaded, MappedTables, OwnMemory, Strides};
use crate::machine::{CpuidRequest, CpuidSeen};
use crate::memory_map::{MemoryDescriptor, MemoryMap, PAGE_BYTES, type_name};
use crate::mmu::{Access, Cpu, Kind, Listing, Outcome, Pa, Paging, PagingRules, Runs, Va, Vendor, walk};
use crate::report::{EngineName, RegionReport, Report, TableDump, Timing, Verdict};

/// Pages for tables that a mapper is given at most: a 64 GiB window of 4 KiB leaves takes 32,836, and as many again
/// where it is mapped 1:1 too. That is 320 MiB; and a walk of as many tables takes a second.
const MAX_POOL_PAGES: u64 = 81_920;

const _: () = {
    let entries = MAX_POOL_PAGES * PAGE_BYTES / 8;
    assert!(check::MAX_ENTRIES > 6 * entries, "right tables fit the budget: three walks in each of two phases");
};

/// What CPUID says, and what of it is switched on: everything that protects, five levels and keys only if asked for.
pub fn told(seen: &CpuidSeen, asked: &CpuidRequest) -> Paging {
    let on = |seen: bool, asked: Option<bool>| seen && asked != Some(false);
    Paging {
        la57: seen.la57 && asked.la57 == Some(true),
        maxphyaddr: seen.maxphyaddr,
        gbpages: on(seen.gbpages, asked.gbpages),
        nxe: on(seen.nx, asked.nx),
        wp: true,
        smep: on(seen.smep, asked.smep),
        smap: on(seen.smap, asked.smap),
        // Whether or not CPUID has it: some KVMs accept CR4.PKE anyway.
        pke: asked.pku == Some(true),
        pkru: 0,
        vendor: match seen.vendor {
            crate::machine::CpuVendor::Amd => Vendor::Amd,
            _ => Vendor::Intel,
        },
        reserved_fault_sets_p: true,
        rules: PagingRules::all(),
    }
}

/// Enough pages for 4 KiB leaves of everything that is mapped, up to a limit.
pub fn pool_pages(map: &MemoryMap, contract: &Contract) -> u64 {
    pages_wanted(map, contract).min(MAX_POOL_PAGES)
}

fn pages_wanted(map: &MemoryMap, contract: &Contract) -> u64 {
    let needs = map.regions().filter(|region| contract.maps(region)).map(|region| {
        let tables = |span: u64| region.pages / span + 2;
        let once = tables(512) + tables(512 * 512);
        // 1:1 the regions may lie anywhere, so each takes tables of every level.
        if contract.may_scatter() { 2 * once + tables(512 << 18) + 4 } else { once }
    });
    // The root, the tables on the arena's border, their copies, and those for page 0 and the virtual map.
    let own = 32 + map.descriptors().len() as u64 / 4096;
    // Each entry of the Memory Attributes Table may split a leaf at both of its ends, at both addresses.
    let splits = 8 * map.attributes_table().len() as u64;
    needs.fold(own + splits, u64::saturating_add)
}

/// The kernel's ranges, as the checks take them.
pub fn ranges(keep: &[KeepRange]) -> Vec<RangeInclusive<Va>> {
    keep.iter().map(|range| Va(range.first)..=Va(range.last)).collect()
}

/// Changes the tables, as a negative control asks; true: something was changed.
pub fn tamper(job: &Job<'_>, moment: Moment, memory: &OwnMemory, root: u64, told: &Paging) -> bool {
    let mut changed = false;
    for tamper in job.tampers.iter().filter(|tamper| tamper.moment == moment) {
        let walk = walk(memory, Pa(root), Va(tamper.virt), Access::read(), told);
        let step = walk.steps().iter().find(|step| step.level == tamper.level);
        // An entry the walk does not come to is not there to be changed; the run will be clean, and its test fail.
        if let Some(step) = step {
            changed |= memory.write_u64(step.entry_addr.0, step.entry ^ tamper.flip);
        }
    }
    changed
}

/// What a walk says besides its findings; what it says of both phases, once.
pub fn report_on_walk(verdict: &TableVerdict, report: &mut Report) {
    for note in &verdict.notes {
        if !report.notes.contains(note) {
            report.notes.push(note.clone());
        }
    }
    report.skipped.extend(verdict.not_done.clone());
}

/// Lists all of the tables, if the job asks for it. What that costs is no part of the run's budget: somebody wants to see it.
pub fn dump(job: &Job<'_>, phase: Phase, tables: &TableCheck<'_>, report: &mut Report) {
    if !job.dumps_tables {
        return;
    }
    let all = Va(0)..=Va(u64::MAX);
    let listing = Listing::of(tables.memory, tables.root, tables.told, MOST_LISTED_TABLES, MOST_DUMPED_RUNS);
    let kernel = tables.kernel.to_vec();
    let mut dump = TableDump { phase, runs: Vec::new(), kernel, is_cut: false, root: tables.root, listing };
    for run in Runs::new(tables.memory, tables.root, all, tables.told, MOST_DUMPED_ENTRIES) {
        match run {
            Ok(run) if dump.runs.len() < MOST_DUMPED_RUNS => dump.runs.push(run),
            Ok(_) | Err(_) => {
                dump.is_cut = true;
                break;
            }
        }
    }
    report.tables.push(dump);
}

/// Entries read for that, and runs listed: far more than right tables have, and few enough for a second and some megabytes.
const MOST_DUMPED_ENTRIES: u64 = 1 << 24;
const MOST_DUMPED_RUNS: usize = 1 << 16;
/// Tables that are listed entry by entry: those of 32 GiB in 4 KiB leaves.
const MOST_LISTED_TABLES: usize = 1 << 14;

/// Something that a run had no time for.
pub fn out_of_time(what: &str, limit: Duration) -> Skipped {
    Skipped::not_done(what, format!("the limit of {} s for the run was over", limit.as_secs_f64()))
}

/// What becomes of a run whose mapper gave up: that is a finding, unless the test bed gave it less than the map may need.
fn mapper_gave_up(
    job: &Job<'_>,
    phase: Phase,
    error: MapError,
    loaded: &Loaded,
    report: &mut Report,
    marks: &mut Marks,
) {
    if error == MapError::OutOfTablePages && pages_wanted(job.map, job.contract) > MAX_POOL_PAGES {
        let reason = format!("its tables take more than the {MAX_POOL_PAGES} pages that the test bed has for them");
        report.skipped.push(Skipped::not_done("the mapping", reason));
        judge_closed_form(job, &report.cpu.told, marks);
    } else {
        mapper_error(phase, error, job, loaded, marks);
    }
}

/// What is wrong with the addresses that the closed form gives, independent of who maps them.
fn judge_closed_form(job: &Job<'_>, told: &Paging, marks: &mut Marks) {
    let (map, contract) = (job.map, job.contract);
    let Some(form) = contract.whole_form() else { return };
    let formula = (form.addresses)(map);
    let virtual_map = map.descriptors().iter().enumerate().filter_map(|(index, descriptor)| {
        let virt_start = formula.get(&index)?.map_or(descriptor.virt_start, |virt| virt.0);
        Some(MemoryDescriptor { virt_start, ..*descriptor })
    });
    let virtual_map: Vec<_> = virtual_map.collect();
    let question = Question {
        map,
        contract,
        virtual_map: &virtual_map,
        virtual_map_at: &(Pa(0)..Pa(0)),
        told,
        nx: true,
        kernel: &[],
    };
    Expectation::new(&question, marks);
}

/// What a call of the mapper came to. Where it is no tables, that is a finding, and None.
pub fn judge_outcome(
    job: &Job<'_>,
    phase: Phase,
    outcome: &Mapped,
    loaded: &Loaded,
    report: &mut Report,
    marks: &mut Marks,
) -> Option<MappedTables> {
    match outcome {
        Mapped::Tables(tables) => return Some(*tables),
        Mapped::GaveUp(error) => mapper_gave_up(job, phase, *error, loaded, report, marks),
        Mapped::Panicked(account) => {
            let account = if account.is_empty() { "panicked, and its log had no room for more" } else { account };
            marks.push_worded(phase, Rule::GuestPanic, None, format!("the mapping code {account}"));
        }
        Mapped::Absurd(sentences) => {
            for sentence in sentences {
                marks.push_worded(phase, Rule::MapperError, None, sentence.clone());
            }
        }
    }
    None
}

/// What the mapper has logged, as notes. It adds to what it logged in an earlier phase, which has been told.
pub fn report_on_log(loaded: &Loaded, report: &mut Report) {
    const LOGGED: &str = "the mapping code logged: ";
    let told = report.notes.iter().filter(|note| note.starts_with(LOGGED)).count();
    report.notes.extend(loaded.logged().lines().skip(told).map(|line| format!("{LOGGED}{line}")));
}

/// A mapper's error as a finding.
fn mapper_error(phase: Phase, error: MapError, job: &Job<'_>, loaded: &Loaded, marks: &mut Marks) {
    let (map, contract) = (job.map, job.contract);
    let (rule, index, message) = match error {
        MapError::WindowOverflow { index } | MapError::AddressSpaceFull { index } => {
            (Rule::WindowOverflow, Some(index), contract.no_room(map, index))
        }
        MapError::OutOfTablePages => {
            let pool = pool_pages(map, contract);
            (Rule::MapperError, None, format!("the mapper used up the {pool} pages it was given for tables"))
        }
        MapError::TableOutOfReach { table } => {
            let message =
                format!("an entry names a table at {table:#x}, which is neither the kernel's nor the mapper's");
            (Rule::MapperError, None, message)
        }
        MapError::TooManyRegions { index } => {
            (Rule::MapperError, Some(index), format!("the virtual map has no room for region {index}"))
        }
        _ => (
            Rule::MapperError,
            None,
            format!(
                "the mapping code gave up: {}",
                loaded.logged().lines().last().unwrap_or("its log does not say why")
            ),
        ),
    };
    marks.push_worded(phase, rule, index, message);
}

/// The report on a kernel that misreads the memory map: it would map regions that firmware does not have, so it is not run.
/// `marks` are what is wrong with the map itself. False: it reads the map rightly.
pub fn report_on_misread_map(job: &Job<'_>, report: &mut Report, marks: &mut Marks) -> bool {
    let Strides { firmware, kernel } = job.strides();
    let Some(finding) = check::misread(job.map, firmware, kernel) else { return false };
    marks.push_finding(finding);
    report.findings = std::mem::take(marks).into_findings(Phase::Input, job.map, None);
    let why = "the kernel misreads the memory map";
    report.uncalled = Some(why.into());
    report.skipped.extend(asked_of_services(job).map(|what| Skipped::not_done(what, why)));
    report.regions = region_reports(job.map, None, &report.findings);
    true
}

/// Which region a mapper was at that did not come to an end.
pub fn at_hand(at_hand: RegionAtHand, map: &MemoryMap) -> String {
    let RegionAtHand { phys_start, page_count } = at_hand;
    let size =
        format!("{page_count:#x} pages ({:.1} GiB)", page_count as f64 * PAGE_BYTES as f64 / (1u64 << 30) as f64);
    match map.regions().find(|region| region.phys == phys_start && region.is_mapped()) {
        // Several descriptors may have been merged: the mapper's size is the one that counts.
        Some(region) => {
            format!("it was mapping region {} ({} at {phys_start:#x}), {size}", region.index, type_name(region.ty))
        }
        None => format!("it was mapping {size} at {phys_start:#x}, which is no region of the memory map"),
    }
}

/// What is said of a mapper's write to memory that it was not given.
pub fn stray_write(pa: u64) -> String {
    format!("the mapping code wrote to PA {pa:#x}, which it was not given")
}

/// A report on a job of which nothing is known yet.
pub fn empty_report(job: &Job<'_>, engine: EngineName, cpu: Cpu) -> Report {
    Report {
        source: job.map.source().to_owned(),
        mapper: job.subject.name().clone(),
        engine,
        cpu,
        regions: Vec::new(),
        probes: Default::default(),
        findings: Vec::new(),
        findings_omitted: 0,
        faults: Vec::new(),
        faults_omitted: 0,
        uncalled: None,
        calls: Vec::new(),
        skipped: Vec::new(),
        expected_rules: None,
        notes: job.subject.notes().collect(),
        timing: Timing::default(),
        runs: Vec::new(),
        virtual_map: Vec::new(),
        tables: Vec::new(),
        counters: Vec::new(),
    }
}

/// What a scenario asks for by name that only happens where runtime services are called.
pub fn asked_of_services(job: &Job<'_>) -> impl Iterator<Item = String> {
    let (firmware, kernel) = (job.firmware, job.kernel);
    let others = [
        (firmware.descriptor_version != DESCRIPTOR_VERSION, "firmware that reports another DescriptorVersion than 1"),
        (kernel.descriptor_version.is_some(), "a kernel with a DescriptorVersion of its own"),
        (kernel.guard_page, "a guard page behind GetTime's first argument"),
        (kernel.variable_bytes.is_some(), "a variable of a size asked for"),
    ];
    let others = others.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, what)| what.to_owned());
    firmware.misbehaves.iter().map(misbehaviour).chain(kernel.miscalls.iter().copied().map(miscall)).chain(others)
}

/// A misbehaviour, as something that was asked for.
pub fn misbehaviour(misbehaviour: &ServiceMisbehaviour) -> String {
    format!("firmware that misbehaves: {misbehaviour}")
}

/// A kernel's mistake, as something that was asked for.
pub fn miscall(miscall: Miscall) -> String {
    format!("a kernel's mistake: {}", miscall.name())
}

/// What became of each descriptor.
pub fn region_reports(
    map: &MemoryMap,
    expectation: Option<(&Expectation, &TableVerdict)>,
    findings: &[Finding],
) -> Vec<RegionReport> {
    // Where there are no tables, and nothing is wrong with the mapping either, nobody knows what it would have been.
    let is_known = expectation.is_some() || findings.iter().any(|finding| finding.phase != Phase::Input);
    let unmapped = if is_known { Verdict::Unmapped } else { Verdict::Skipped };
    let mut reports: Vec<RegionReport> = map
        .regions()
        .map(|region| {
            let verdict = if region.is_runtime() && region.pages > 0 { unmapped } else { Verdict::NotOwed };
            let (line, leaves) = (map.line(region.index), LeafCounts::default());
            RegionReport { region, line, virt: None, aliases: Vec::new(), leaves, verdict }
        })
        .collect();
    if let Some((expectation, tables)) = expectation {
        place(&mut reports, expectation, tables);
    }
    let errors = findings.iter().filter(|finding| finding.rule.severity() == Severity::Error);
    for index in errors.filter_map(|finding| finding.region) {
        // That is the worst that can be said of something not mapped.
        if let Some(report) = reports.get_mut(index).filter(|report| report.verdict != Verdict::Unmapped) {
            report.verdict = Verdict::Wrong;
        }
    }
    reports
}

/// Where regions lie, and with which leaves.
fn place(reports: &mut [RegionReport], expectation: &Expectation, tables: &TableVerdict) {
    for alias in &expectation.placed {
        let Some(report) = alias.region.and_then(|index| reports.get_mut(index)) else { continue };
        // A region that starts within a page does so at all of its addresses: that is what firmware is told.
        let virt = alias.virt.saturating_add(report.region.phys % PAGE_BYTES).0;
        if alias.role == Role::Virtual && report.virt.is_none() {
            report.verdict = if alias.past_maxphyaddr { Verdict::Skipped } else { Verdict::Ok };
            report.virt = Some(virt);
        } else {
            report.aliases.push(virt);
        }
    }
    let owed = |(alias, _): &(&Alias, &LeafCounts)| alias.role == Role::Virtual;
    for (alias, leaves) in expectation.aliases.iter().zip(&tables.leaves).filter(owed) {
        let Some(report) = alias.region.and_then(|index| reports.get_mut(index)) else { continue };
        report.leaves.of_4k += leaves.of_4k;
        report.leaves.of_2m += leaves.of_2m;
        report.leaves.of_1g += leaves.of_1g;
    }
}

/// What firmware's own Memory Attributes Table denies it in phase `finish`, with the fault that a call meets on these
/// tables. Where the scenario has the table lie, that is a misbehaviour, and shows as such.
pub fn denials(job: &Job<'_>, expectation: &Expectation, loaded: &Loaded, root: u64, paging: &Paging) -> Vec<Denied> {
    if job.firmware.misbehaves.iter().any(|misbehaviour| misbehaviour.what == Misbehaviour::AttributesTable) {
        return Vec::new();
    }
    let denied = |denial: Denial| {
        let walk = walk(&loaded.memory, Pa(root), denial.virt, denial.access, paging);
        let (what, forbids, first) = match denial.access.kind {
            Kind::Fetch => ("executed", "XP", "the first call of a service"),
            _ => ("written to", "RO", "a service's first write to its data"),
        };
        let ty = type_name(denial.ty);
        let met = match walk.outcome {
            Outcome::Fault(fault) => Statement::faulted(fault, denial.virt),
            _ => Statement::text("no fault: the mapping code did not apply the table"),
        };
        let message = format!(
            "firmware's Memory Attributes Table makes every page of {ty} {forbids} ({} in all): {first} meets {met}",
            denial.pages
        );
        let finding = Finding {
            virt: Some(denial.virt),
            pages: denial.pages,
            expected: Some(Statement::Text(format!("a page of {ty} that may be {what}").into())),
            observed: Some(met),
            walk: walk.steps().iter().map(WalkStep::from).collect(),
            witnesses: vec![Witness::Expectation, Witness::Walk],
            ..Finding::worded(Phase::Finish, Rule::AttributesTable, None, message)
        };
        Denied { kind: denial.access.kind, finding }
    };
    expectation.denials(job.map).into_iter().map(denied).collect()
}

/// What firmware's table denies it.
pub struct Denied {
    /// The access.
    pub kind: Kind,
    /// What is found.
    pub finding: Finding,
}

/// Whether `bytes` at `virt` lead to `phys`, writable or executable as asked, on these tables.
pub fn leads_to(loaded: &Loaded, root: u64, virt: u64, phys: u64, access: Access, paging: &Paging) -> bool {
    let reached = walk(&loaded.memory, Pa(root), Va(virt), access, paging).translation();
    reached.is_some_and(|translation| translation.pa.0 & !(PAGE_BYTES - 1) == phys & !(PAGE_BYTES - 1))
}

#[cfg(test)]
mod tests {
    use efibed_guest::mapper::Step;
    use efibed_guest::{Layout, LayoutMapper, LeafRule, Mapper};

    use super::super::native;
    use super::*;
    use crate::guest::{Image, Placement};

    const MAP: &str = "
        [[descriptor]]\ntype = 6\nphys = 0x7e729000\npages = 0x242\nattribute = \"RUNTIME|WB\"
        [[descriptor]]\ntype = 5\nphys = 0x7e000000\npages = 0x20\nattribute = \"RUNTIME|WB\"
        [[descriptor]]\ntype = 7\nphys = 0x100000\npages = 0x400\nattribute = \"WB\"";

    /// The region that is at hand once a layout has mapped all natively: its last.
    fn last_at_hand(layout: Layout) -> String {
        let map = MemoryMap::parse(MAP).unwrap();
        let image = Image::built_in().unwrap();
        let sizes = Loaded::sizes(image, &map, Strides::default(), 0, 64, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        let loaded = Loaded::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap();
        let mut mapper: Box<dyn Mapper> = Box::new(LayoutMapper { layout, leaf_rule: LeafRule::CoAligned });
        let cpu = efibed_guest::mapper::CpuAbilities { maxphyaddr: 46, ..Default::default() };
        assert!(matches!(native::call(&mut mapper, Step::Map, &loaded, cpu), Mapped::Tables(_)));
        at_hand(loaded.result().region_at_hand, &map)
    }

    #[test]
    fn a_mapper_says_what_it_is_at() {
        let first = "it was mapping region 0 (RuntimeServicesData at 0x7e729000), 0x242 pages (0.0 GiB)";
        let second = "it was mapping region 1 (RuntimeServicesCode at 0x7e000000), 0x20 pages (0.0 GiB)";
        // Linux goes from the last region to the first; the others follow the list.
        assert_eq!(last_at_hand(Layout::Linux), first);
        assert_eq!(last_at_hand(Layout::Window), second);
        assert_eq!(last_at_hand(Layout::PackedDown), second);
    }

    #[test]
    fn what_no_descriptor_has_is_said_to_be_none_of_the_maps() {
        let map = MemoryMap::parse(MAP).unwrap();
        let strange = RegionAtHand { phys_start: 0x6, page_count: 0x4_0000 };
        assert_eq!(
            at_hand(strange, &map),
            "it was mapping 0x40000 pages (1.0 GiB) at 0x6, which is no region of the memory map"
        );
    }
}
