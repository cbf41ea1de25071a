//! What a machine's MMU really does, found by trying it.
//!
//! CPUID says what a CPU is; what checks the guest's accesses may be another: shadow paging follows CPUID, two-dimensional
//! paging follows the hardware, and some virtual machines do neither. One guest, one root made by the host, one access
//! for each question.

use std::time::Duration;

use efibed_guest::protocol::{Op, PROBE_DONE, PROBE_FAULTED, Probe, ProbeKind};
use efibed_stub::stamp::{stamp, stamp_page};

use super::EngineError;
use super::cpu;
use super::machines::{Lodging, Machines};
use crate::guest::layout::{TRIAL_ARENA, TRIAL_PHYS_BYTES};
use crate::guest::{
    BackedPage, BootError, BootTables, Case, End, Guest, Image, NoEvents, PAGE_BYTES, Placement, Strides, command,
    flags,
};
use crate::machine::{CpuidRequest, CpuidSeen, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{ErrorCode, Fault, Paging};

/// What a machine was found to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// What KVM says it supports.
    pub supported: CpuidSeen,
    /// What was told to the guests: the CPUID with everything that may be off switched off.
    pub told: Paging,
    /// That, without the modes that KVM refuses to switch on.
    pub taken: Paging,
    /// What checks their accesses.
    pub checks: Paging,
    /// Whether ring 3 has the first slot of the high half, `PML4[256]`; it is asked with 4-level paging only.
    pub high_half_start: bool,
    /// Each question and its answer.
    pub trials: Vec<TrialResult>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialResult {
    /// What was tried.
    pub what: &'static str,
    /// Whether it is as the manual says.
    pub works: bool,
    /// What was seen.
    pub seen: String,
}

/// Each trial has a gigabyte of its own, so that any leaf fits.
const SPACING: u64 = 1 << 30;
/// The narrowest MAXPHYADDR of a 64-bit CPU, and the widest (SDM vol. 3A, 4.1.4).
const NARROWEST: u8 = TRIAL_PHYS_BYTES.ilog2() as u8;
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
    let mut machine = machines.any(request, &map)?;
    let seen = *machine.cpuid();
    let asked = cpu::told(&seen, request);
    let result = ask_what_is_taken(&mut machine, &map, &asked);
    machines.give_back(request, machine, Lodging::default());
    let (Answers { mut checks, high_half_start, mut trials }, taken) = result?;
    let mut tell = |what, asked: bool, taken: bool| {
        if asked {
            let seen = if taken { "KVM accepts it, and the guest runs" } else { "KVM refuses it" };
            trials.push(TrialResult { what, works: taken, seen: seen.into() });
        }
    };
    tell("five-level paging (CR4.LA57)", asked.la57, taken.la57);
    tell("protection keys (CR4.PKE)", asked.pke, taken.pke);
    checks.la57 = taken.la57;
    Ok(Abilities { supported: machines.supported(), told: asked, taken, checks, high_half_start, trials })
}

/// What the trials of one CPU found.
struct Answers {
    checks: Paging,
    high_half_start: bool,
    trials: Vec<TrialResult>,
}

/// KVM refuses a CR4 with LA57 or PKE where it does not have them, whatever CPUID says; the rest can still be
/// asked.
fn ask_what_is_taken(machine: &mut Machine, map: &MemoryMap, asked: &Paging) -> Result<(Answers, Paging), EngineError> {
    let without = [(true, true), (true, false), (false, true), (false, false)];
    let candidates = without.map(|(la57, pke)| Paging { la57: asked.la57 && la57, pke: asked.pke && pke, ..*asked });
    for told in &candidates[..3] {
        match ask(machine, map, told) {
            Err(EngineError::Boot(BootError::Registers(_))) => {
                machine.reset().map_err(|error| EngineError::Kvm(error.to_string()))?;
            }
            other => return other.map(|answers| (answers, *told)),
        }
    }
    let told = candidates[3];
    ask(machine, map, &told).map(|answers| (answers, told))
}

fn ask(machine: &mut Machine, map: &MemoryMap, told: &Paging) -> Result<Answers, EngineError> {
    let image = Image::built_in()?;
    // A page to be executed, just below KVM's own.
    let page = machine.internals().tss_pages_at.0 - 0x10_0000;
    let questions = questions(page, told);
    let mut sizes = Case::sizes(image, map, Strides::default(), 0, 0, 1);
    sizes.boot_tables += (questions.len() as u64 * 4 + 16) * PAGE_BYTES;
    let placement = Placement::find(map, sizes, TRIAL_PHYS_BYTES, &machine.internals().ranges())
        .map_err(|no_room| EngineError::Kvm(no_room.to_string()))?;
    let case = Case::new(image, map, Strides::default(), placement, &[page], told)?;
    let root = build(&case, &questions, told)?;
    let mut content = [0; PAGE_BYTES as usize];
    stamp_page(page, &mut content);

    let mut guest = Guest::boot(machine, &case, &[BackedPage { phys: page, content }], told, LIMIT)?;
    let failed = |end: End| EngineError::Kvm(format!("while finding out what it can do: {end}"));
    // Key 1 may not be accessed. Where there are no keys there is no PKRU, and the page can be read.
    if told.pke {
        let _ = guest.machine().set_pkru(1 << 2);
    }
    guest.mail().put_probes((0..questions.len()).map(address)).map_err(failed)?;
    let mut commands = vec![command(Op::LoadRoot, [root, 0, 0, 0, 0, 0])];
    let probe =
        |(index, question): (usize, &Question)| command(Op::Probe, [index as u64, 1, question.kind as u64, 0, 0, 0]);
    commands.extend(questions.iter().enumerate().map(probe));
    guest.batch(&commands, &mut NoEvents).map_err(failed)?;
    let records = guest.mail().probes(questions.len()).map_err(failed)?;
    Ok(answers(&records, told, page))
}

/// Which question is about the first slot of the high half, and so has its page there.
const OF_HIGH_HALF_START: usize = 7;
const HIGH_HALF_START: u64 = 0xffff_8000_0000_0000;

fn address(index: usize) -> u64 {
    if index == OF_HIGH_HALF_START { HIGH_HALF_START } else { TRIAL_ARENA + index as u64 * SPACING }
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
        new(ProbeKind::UserRead, page | data | flags::U, 1),
    ];
    debug_assert_eq!(all.len(), OF_HIGH_HALF_START + 1);
    all.extend((NARROWEST..WIDEST).map(|bit| new(ProbeKind::Read, empty | 1 << bit | data, 1)));
    all
}

fn build(case: &Case, questions: &[Question], told: &Paging) -> Result<u64, EngineError> {
    let range = case.placement.boot_tables();
    let levels = if told.la57 { 5 } else { 4 };
    // The boot tables were built from the range's start; these come at its end.
    let extra = (questions.len() as u64 * 4 + 16) * PAGE_BYTES;
    let mut tables = BootTables::new(&case.memory, range.end - extra, range.end, levels);
    let out_of_pages = |error: crate::guest::OutOfPages| EngineError::Kvm(error.to_string());
    let root = tables.copy_root(case.kernel_root).map_err(out_of_pages)?;
    for (index, question) in questions.iter().enumerate() {
        tables.set_leaf(root, address(index), question.entry, question.level).map_err(out_of_pages)?;
    }
    Ok(root)
}

fn answers(records: &[Probe], told: &Paging, page: u64) -> Answers {
    let (mut checks, mut high_half_start) = (*told, true);
    let mut trials = Vec::new();
    let mut tell = |what, works, record: &Probe| trials.push(TrialResult { what, works, seen: describe(record) });
    let [gbpages, reserved, nx, smep, smap, wp, pku, high_half, widths @ ..] = records else {
        return Answers { checks, high_half_start, trials };
    };

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
    checks.pke = faults(pku, ErrorCode::P | ErrorCode::U | ErrorCode::PK);
    if told.pke {
        tell("a page whose key PKRU denies", checks.pke, pku);
    }
    if !told.la57 {
        high_half_start = high_half.status == PROBE_DONE;
        tell("ring 3 in the first slot of the high half", high_half_start, high_half);
    }
    let refused = widths.iter().position(|record| record.status == PROBE_FAULTED);
    checks.maxphyaddr = refused.map_or(WIDEST, |index| NARROWEST + index as u8);
    let first = refused.and_then(|index| widths.get(index));
    let works = checks.maxphyaddr == told.maxphyaddr;
    let seen = match first {
        Some(record) => format!("bit {} is the first that faults: {}", checks.maxphyaddr, describe(record)),
        None => "no bit of an address faults".into(),
    };
    trials.push(TrialResult { what: "physical-address width (MAXPHYADDR)", works, seen });
    Answers { checks, high_half_start, trials }
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
