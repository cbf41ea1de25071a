//! What a machine's MMU really does, found by trying it.
//!
//! CPUID says what a CPU is; what checks the guest's accesses may be another: shadow paging follows CPUID, two-dimensional
//! paging follows the hardware, and some virtual machines do neither. One guest, one root made by the host, one access
//! for each question.

use std::time::Duration;

use efibed_guest::protocol::{Op, PROBE_DONE, PROBE_FAULTED, Probe, ProbeKind};
use efibed_stub::stamp::{stamp, stamp_page};

use super::EngineError;
use super::course;
use super::machines::Machines;
use crate::guest::{
    BackedPage, BootError, BootTables, End, Guest, Image, Loaded, NoEvents, PAGE_BYTES, Placement, command, flags,
};
use crate::machine::{CpuidRequest, CpuidSeen, Internals, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{ErrorCode, Fault, Paging};

/// What a machine was found to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// What its CPUID says.
    pub cpuid: CpuidSeen,
    /// What was told to the guests: the CPUID with everything that may be off switched off.
    pub told: Paging,
    /// What checks their accesses.
    pub checks: Paging,
    /// Each question and its answer.
    pub trials: Vec<Trial>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What was tried.
    pub what: &'static str,
    /// Whether it is as the manual says.
    pub works: bool,
    /// What was seen.
    pub seen: String,
}

/// Where trial pages are mapped: a PML4 slot that is nobody's.
const ARENA: u64 = 0xffff_a000_0000_0000;
/// Each trial has a gigabyte of its own, so that any leaf fits.
const SPACING: u64 = 1 << 30;
/// Physical addresses below this are every CPU's: the narrowest MAXPHYADDR of a 64-bit CPU is 36.
const NARROWEST: u8 = 36;
const WIDEST: u8 = 52;
const LIMIT: Duration = Duration::from_secs(5);

/// A mapping and the access made through it.
struct Question {
    kind: ProbeKind,
    entry: u64,
    level: u32,
}

/// Tries out what the machines of this kind do.
pub fn try_out(machines: &Machines, request: &CpuidRequest) -> Result<Abilities, EngineError> {
    let map = MemoryMap::from_descriptors("trials", Vec::new());
    // Far from the guest's own memory, which is placed as low as can be.
    let internals = Internals { tss_pages_at: 0xf000_0000, identity_map_page_at: 0xf000_3000 };
    let mut machine = match machines.reuse(request, &map) {
        Some(machine) => machine,
        None => machines.create(request, internals)?,
    };
    let seen = *machine.cpuid();
    let mut told = course::told(&seen, request);
    let five_levels = told.la57;
    let result = match ask(&mut machine, &map, &told) {
        // KVM refuses CR4.LA57 where it has no five levels; the rest can still be asked.
        Err(EngineError::Boot(BootError::Registers(_))) if five_levels => {
            told.la57 = false;
            machine.reset().map_err(|error| EngineError::Kvm(error.to_string()))?;
            ask(&mut machine, &map, &told)
        }
        other => other,
    };
    machines.give_back(request, machine);
    let (mut checks, mut trials) = result?;
    if five_levels {
        let seen = if told.la57 { "CR4.LA57 was taken, and five levels are walked" } else { "KVM refuses CR4.LA57" };
        trials.push(Trial { what: "five-level paging", works: told.la57, seen: seen.into() });
    }
    checks.la57 = told.la57;
    told.la57 = five_levels;
    Ok(Abilities { cpuid: seen, told, checks, trials })
}

fn ask(machine: &mut Machine, map: &MemoryMap, told: &Paging) -> Result<(Paging, Vec<Trial>), EngineError> {
    let image = Image::built_in()?;
    // A page to be executed, just below KVM's own.
    let page = machine.internals().tss_pages_at - 0x10_0000;
    let questions = questions(page, told);
    let mut sizes = Loaded::sizes(image, map, 0, 1);
    sizes.boot_tables += (questions.len() as u64 * 4 + 16) * PAGE_BYTES;
    let placement = Placement::find(map, sizes, 1 << NARROWEST, Some(machine.internals()))
        .map_err(|no_room| EngineError::Kvm(no_room.to_string()))?;
    let loaded = Loaded::new(image, map, placement, &[page], told)?;
    let root = build(&loaded, &questions, told)?;
    let mut content = [0; PAGE_BYTES as usize];
    stamp_page(page, &mut content);

    let mut guest = Guest::boot(machine, &loaded, &[BackedPage { phys: page, content }], told, LIMIT)?;
    let failed = |end: End| EngineError::Kvm(format!("while finding out what it can do: {end}"));
    guest.put_probes((0..questions.len()).map(address)).map_err(failed)?;
    let mut commands = vec![command(Op::LoadRoot, [root, 0, 0, 0, 0, 0])];
    let probe =
        |(index, question): (usize, &Question)| command(Op::Probe, [index as u64, 1, question.kind as u64, 0, 0, 0]);
    commands.extend(questions.iter().enumerate().map(probe));
    guest.batch(&commands, &mut NoEvents).map_err(failed)?;
    let records = guest.probes(questions.len()).map_err(failed)?;
    Ok(answers(&records, told, page))
}

fn address(index: usize) -> u64 {
    ARENA + index as u64 * SPACING
}

/// In the order that `answers` takes them.
fn questions(page: u64, told: &Paging) -> Vec<Question> {
    let nx = if told.nxe { flags::NX } else { 0 };
    let data = flags::P | flags::W;
    // Somewhere low without memory, 1 GiB aligned: 2 GiB.
    let empty = 0x8000_0000;
    let new = |kind, entry, level| Question { kind, entry, level };
    let mut all = vec![
        new(ProbeKind::Read, empty | data | flags::PS, 3),
        new(ProbeKind::Read, empty | data | flags::PS | 1 << 13, 2),
        new(ProbeKind::Fetch, page | flags::P | nx, 1),
        new(ProbeKind::Fetch, page | flags::P | flags::U, 1),
        new(ProbeKind::Read, page | data | flags::U, 1),
        new(ProbeKind::Write, page | flags::P, 1),
        new(ProbeKind::UserRead, page | data | flags::U | 1 << 59, 1),
    ];
    all.extend((NARROWEST..WIDEST).map(|bit| new(ProbeKind::Read, empty | 1 << bit | data, 1)));
    all
}

fn build(loaded: &Loaded, questions: &[Question], told: &Paging) -> Result<u64, EngineError> {
    let range = loaded.placement.boot_tables();
    let levels = if told.la57 { 5 } else { 4 };
    // The boot tables were built from the range's start; these come at its end.
    let extra = (questions.len() as u64 * 4 + 16) * PAGE_BYTES;
    let mut tables = BootTables::new(&loaded.memory, range.end - extra, range.end, levels);
    let out_of_pages = |error: crate::guest::OutOfPages| EngineError::Kvm(error.to_string());
    let root = tables.copy_root(loaded.kernel_root).map_err(out_of_pages)?;
    for (index, question) in questions.iter().enumerate() {
        tables.set_leaf(root, address(index), question.entry, question.level).map_err(out_of_pages)?;
    }
    Ok(root)
}

fn answers(records: &[Probe], told: &Paging, page: u64) -> (Paging, Vec<Trial>) {
    let mut checks = *told;
    let mut trials = Vec::new();
    let mut tell = |what, works, record: &Probe| trials.push(Trial { what, works, seen: describe(record) });
    let [gbpages, reserved, nx, smep, smap, wp, pku, widths @ ..] = records else { return (checks, trials) };

    checks.gbpages = gbpages.status == PROBE_DONE && gbpages.value == stamp(0x8000_0000);
    tell("1 GiB leaves", checks.gbpages == told.gbpages, gbpages);
    let code = ErrorCode(reserved.fault.error_code);
    checks.reserved_fault_sets_p = code.contains(ErrorCode::P);
    tell("reserved bits of a 2 MiB leaf", faults(reserved, ErrorCode::P | ErrorCode::RSVD), reserved);
    let executed = |record: &Probe| record.status == PROBE_DONE && record.value == stamp(page);
    for (what, is_told, is_checked, record) in [
        ("execute-disable (EFER.NXE)", told.nxe, &mut checks.nxe, nx),
        ("supervisor-mode execution prevention (CR4.SMEP)", told.smep, &mut checks.smep, smep),
    ] {
        *is_checked = faults(record, ErrorCode::P | ErrorCode::I);
        tell(what, *is_checked == is_told && (is_told || executed(record)), record);
    }
    checks.smap = faults(smap, ErrorCode::P);
    tell("supervisor-mode access prevention (CR4.SMAP)", checks.smap == told.smap, smap);
    checks.wp = faults(wp, ErrorCode::P | ErrorCode::W);
    tell("read-only pages in ring 0 (CR0.WP)", checks.wp == told.wp, wp);
    if told.pke {
        // PKRU is 0 at reset and grants everything; that the key is heeded at all is another trial's work.
        tell("protection keys (CR4.PKE)", pku.status == PROBE_DONE, pku);
    }
    let refused = widths.iter().position(|record| record.status == PROBE_FAULTED);
    checks.maxphyaddr = refused.map_or(WIDEST, |index| NARROWEST + index as u8);
    let first = refused.and_then(|index| widths.get(index));
    let works = checks.maxphyaddr == told.maxphyaddr;
    let seen = match first {
        Some(record) => format!("bit {} is the first that faults: {}", checks.maxphyaddr, describe(record)),
        None => "no bit of an address faults".into(),
    };
    trials.push(Trial { what: "physical-address width (MAXPHYADDR)", works, seen });
    (checks, trials)
}

fn faults(record: &Probe, code: ErrorCode) -> bool {
    record.status == PROBE_FAULTED
        && record.fault.vector == u32::from(Fault::PAGE_FAULT)
        && record.fault.error_code == code.0
}

fn describe(record: &Probe) -> String {
    match record.status {
        PROBE_DONE => match efibed_stub::stamp::stamped(record.value) {
            Some(pa) => format!("reached PA {pa:#x}"),
            None => "succeeded".into(),
        },
        PROBE_FAULTED => {
            let fault = Fault { vector: record.fault.vector as u8, error_code: ErrorCode(record.fault.error_code) };
            fault.to_string()
        }
        _ => "was not made".into(),
    }
}
