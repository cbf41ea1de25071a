//! A KVM guest runs the mapping code, loads its tables, and its MMU is asked about every page.

mod abandoned;
mod calling;
mod debugging;
mod hand_over;
mod mapping;
mod probing;
mod serving;
mod site;
mod stage;
mod sweep;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use efibed_guest::protocol::{IMAGE_BASE, USER_BASE};
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};

use efibed_guest::Mapper;
use efibed_guest::mapper::{RegionAtHand, Step};
use site::Site;
use stage::Stage;

use super::course::{self, Course, Engine};
use super::machines::{Lodging, Machines};
use super::mapping::Outcome;
use super::snapshot::Snapshot;
use super::trials::{self, Abilities};
use super::writers::Writers;
use super::{EngineError, Job, Miscall, cpu, regions, reports};
use crate::check::{self, Budget, Depth, Expectation, Marks, Phase, Rule, Skipped};
use crate::firmware::{Firmware, ServiceMisbehaviour};
use crate::guest::process::{Code, Process, open_maps};
use crate::guest::{BackedPage, BootError, Case, End, Guest, Image, MappedTables, PAGE_BYTES};
use crate::machine::{CpuidRequest, Exit, Hypervisor, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{Access, Cpu, Pa, Paging};
use crate::report::{EngineName, Report};

/// The engine: one /dev/kvm, machines waiting for their next use, and what was found out about them.
pub struct Kvm {
    machines: Machines,
    abilities: Mutex<HashMap<CpuidRequest, Abilities>>,
}

impl Kvm {
    /// Opens /dev/kvm.
    pub fn open() -> Result<Self, EngineError> {
        let hypervisor = Hypervisor::open()?;
        open_maps().map_err(EngineError::OwnMemory)?;
        Ok(Self { machines: Machines::new(hypervisor), abilities: Mutex::default() })
    }

    /// What machines of this kind really do. Tried out once.
    pub fn abilities(&self, request: &CpuidRequest) -> Result<Abilities, EngineError> {
        let known = |abilities: &Mutex<HashMap<_, Abilities>>| {
            abilities.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(request).cloned()
        };
        if let Some(abilities) = known(&self.abilities) {
            return Ok(abilities);
        }
        let abilities = trials::try_out(&self.machines, request)?;
        let mut all = self.abilities.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        all.insert(*request, abilities.clone());
        Ok(abilities)
    }

    /// A machine with a CPU asked for in this way, as new.
    pub fn machine(&self, cpu: &CpuidRequest) -> Result<Machine, EngineError> {
        self.machines.any(cpu, &MemoryMap::from_descriptors("nothing", Vec::new()))
    }

    /// Takes it back.
    pub fn give_back(&self, cpu: &CpuidRequest, machine: Machine) {
        self.machines.give_back(cpu, machine, Lodging::default());
    }

    /// Has findings say which line of the mapping code set the entry that is to blame: the run is made once more, and watched.
    pub fn name_writers(&self, job: &Job<'_>, report: &mut Report) {
        let Some(writers) = Writers::of(&report.findings, job.subject) else { return };
        let writers = RefCell::new(writers);
        let limit = job.limit.saturating_sub(report.timing.total).min(MOST_WATCHING);
        let again = Job {
            debugger: Some(&writers),
            // Its verdict is that of the first run.
            depth: Depth::Pages,
            sweep_limit: 0,
            dumps_tables: false,
            limit,
            progress: &|_| {},
            ..*job
        };
        let start = Instant::now();
        let is_cut = self.run(&again).is_err() || start.elapsed() >= limit;
        let writers = writers.into_inner();
        if is_cut || writers.has_missed(&report.findings) {
            report.notes.push(NOT_KNOWN.into());
        }
        for finding in &mut report.findings {
            finding.set_by = writers.of_finding(finding);
        }
    }

    /// Runs a job to its report.
    pub fn run(&self, job: &Job<'_>) -> Result<Report, EngineError> {
        let start = Instant::now();
        let code = job.subject.code()?;
        let abilities = self.abilities(&job.cpu)?;
        let cpu = Cpu { told: abilities.told, checks: Paging { rules: job.rules, ..abilities.checks } };
        cpu::refuse_what_is_missing(&job.cpu, &cpu)?;

        let mut report = reports::empty(job, EngineName::Kvm, cpu);
        let mut input = Marks::default();
        report.notes.extend(check::judge_map(job.map, &cpu.told, &mut input));
        if reports::misread_map(job, &mut report, &mut input) {
            report.timing.total = start.elapsed();
            return Ok(report);
        }
        let (firmware, uncalled) = site::firmware(job, &cpu);
        report.uncalled = uncalled;
        let (reused, mut lodging) = match self.machines.reuse(&job.cpu, job.map) {
            Some((machine, lodging)) => (Some(machine), lodging),
            None => (None, Lodging::default()),
        };
        let site = match Site::find(job, &cpu, Image::built_in()?, firmware, reused.as_ref(), &lodging) {
            Ok(site) => site,
            Err(no_room) => {
                if let Some(machine) = reused {
                    self.machines.give_back(&job.cpu, machine, lodging);
                }
                return Ok(reports::without_room(job, report, input, &no_room));
            }
        };
        reports::file_input(job, &mut report, input);

        let kernel = site.kernel(lodging.kernel.take())?;
        let case = site.case(job, &cpu, &kernel)?;
        let process = Process::new(&case, site.process_memory(&code, lodging.process.take())?, &cpu.told, &code)?;
        let mut machine = match reused {
            Some(machine) => machine,
            None => self.machines.create(&job.cpu, site.internals)?,
        };
        Machines::prepare(&mut machine, job.map)?;
        let mut guest = Guest::boot(&mut machine, &case, &site.pages, &cpu.told, job.stretch_limit)?;
        guest.add_process(&process).map_err(BootError::from)?;
        guest.set_deadline(start.checked_add(job.limit));
        if guest.missing_state() != 0 && matches!(code, Code::Own) {
            report.notes.push(format!(
                "this KVM lacks extended state that this process has (XCR0 {:#x}): code made for it raises #UD in the guest",
                guest.missing_state()
            ));
        }
        report.timing.build = start.elapsed();

        let kernels_own = reports::ranges(&case.keep);
        let kernels_tables = Snapshot::kernels_tables(&case);
        let course = Course {
            job,
            case: &case,
            cpu,
            kernel: &kernels_own,
            report,
            marks: Marks::default(),
            phase: Phase::Map,
            tables: Snapshot::tables(&case, 0, &kernels_tables),
            stray_write: None,
            kernels_tables,
            denials: Vec::new(),
            budget: Budget::new(start.checked_add(job.limit)),
            look: &mut |_, _| {},
        };
        let run = Run {
            course,
            guest,
            mapper: job.subject.mapper(),
            process,
            firmware: site.firmware,
            pages: site.pages,
            stage: Stage::Mapping,
            unfinished: None,
            loaded_root: case.boot_root,
            given_up: false,
            services_abandoned: 0,
            committed: Vec::new(),
            miscalled: Vec::new(),
            missed_calls: Vec::new(),
        };
        let has_firmware = run.firmware.is_some();
        let (mut report, process) = run.carry_out();
        report.counters = process.counters();
        report.timing.total = start.elapsed();
        let lodging = Lodging { kernel: Some(kernel), process: Some(process.into_memory()) };
        // Else there may have been tables in what the next guest vouches for, and a debugger may have changed ring 3's.
        let is_ordinary = report.is_clean() && job.debugger.is_none();
        if is_ordinary && !has_firmware {
            // Nothing was in ring 0 but the kernel, and code of pages that probes fetch from. Neither changes any of it.
            machine.keep_ring_0s();
        }
        if is_ordinary || machine.forget_translations().is_ok() {
            self.machines.give_back(&job.cpu, machine, lodging);
        }
        Ok(report)
    }
}

/// How long a run is watched that has shown something. With the most halts it takes half of that.
const MOST_WATCHING: Duration = Duration::from_secs(10);

const NOT_KNOWN: &str = "which lines set all of the guilty entries is not known: their tables, or the writes to them, are \
                         too many to look at in the time there is";

/// The engine at work on one run, from the mapper's first phase to the last call.
struct Run<'a> {
    course: Course<'a>,
    guest: Guest<'a>,
    /// None: a program, which the process has.
    mapper: Option<Box<dyn Mapper>>,
    process: Process,
    firmware: Option<Firmware>,
    /// By address.
    pages: Vec<BackedPage>,
    stage: Stage,
    /// What the mapper was at, if it did not come to an end.
    unfinished: Option<RegionAtHand>,
    /// What is in CR3.
    loaded_root: u64,
    /// The guest has abandoned a runtime service, and calls no more of them.
    given_up: bool,
    /// The mailbox's word for that.
    services_abandoned: u64,
    /// What firmware has done that it must not.
    committed: Vec<ServiceMisbehaviour>,
    /// The mistakes that the kernel has made in calling services.
    miscalled: Vec<Miscall>,
    /// Calls that were to be made, and were not.
    missed_calls: Vec<Skipped>,
}

impl<'a> Engine<'a> for Run<'a> {
    type End = End;

    const LOADS_TABLES: bool = true;

    fn course(&mut self) -> &mut Course<'a> {
        &mut self.course
    }

    fn map(&mut self, step: Step) -> Result<Option<Outcome>, End> {
        self.run_mapper(step)
    }

    fn observe(&mut self, expectation: &Expectation, tables: &MappedTables) -> Result<(), End> {
        if self.course.phase == Phase::Map && self.course.job.earlier.is_none() {
            self.switch(tables)?;
        }
        self.probe(expectation, tables.root)
    }

    fn call(&mut self, expectation: &Expectation, root: u64) -> Result<(), End> {
        self.stage = Stage::Calls;
        self.call_after_the_switch(expectation, root)
    }

    /// Findings are told a debugger as soon as they are made.
    fn conclude(&mut self, root: Option<u64>) {
        self.course.conclude(root);
        self.show_to_debugger();
    }
}

impl Run<'_> {
    /// The whole run, and the process as it left it.
    fn carry_out(mut self) -> (Report, Process) {
        let mut judged = None;
        let ended = self.call_for_the_earlier_kernel().and_then(|()| course::run(&mut self, &mut judged));
        if let Err(end) = ended {
            self.ended(&end);
        }
        self.tell_what_was_served();
        self.skip_what_was_not_done();
        (self.course.into_report(judged), self.process)
    }

    /// Where this kernel was kexec'ed, the one before it has called SetVirtualAddressMap.
    fn call_for_the_earlier_kernel(&mut self) -> Result<(), End> {
        let Some(earlier) = self.course.job.earlier else { return Ok(()) };
        // Sizes were chosen so that there is room.
        if self.course.case.write_virtual_map(earlier.virtual_map) {
            self.call_before_the_switch("boot", self.course.case.boot_root, earlier.virtual_map.len() as u64)?;
            let physical = |virt| check::physical_of(earlier.virtual_map, virt);
            self.verify_virtual_tables(earlier.virtual_map, physical);
        }
        self.course.case.write_virtual_map(&[]);
        Ok(())
    }

    fn is_stamped(&self, pa: u64) -> bool {
        self.pages.binary_search_by_key(&(pa & !(PAGE_BYTES - 1)), |page| page.phys).is_ok()
    }

    /// SetVirtualAddressMap, and the calls before it.
    fn switch(&mut self, tables: &MappedTables) -> Result<(), End> {
        self.stage = Stage::Switch;
        let (name, root) = self.tables_for_the_switch(tables);
        self.call_before_the_switch(name, root, tables.mapped)?;
        let (case, root, checks) = (self.course.case, tables.root, self.course.cpu.checks);
        let virtual_map = self.course.report.virtual_map.clone();
        self.verify_virtual_tables(&virtual_map, |virt| {
            let walk = crate::mmu::walk(&case.memory, Pa(root), virt, Access::read(), &checks);
            walk.translation().map(|translation| translation.pa)
        });
        Ok(())
    }

    /// The guest ended before its time.
    fn ended(&mut self, end: &End) {
        if matches!(end, End::OutOfTime) {
            self.course.report.skipped.extend(self.stage.not_done(self.course.job.limit));
            return self.conclude(None);
        }
        if matches!(end, End::Killed) {
            self.course.report.skipped.extend(self.stage.killed());
            return self.conclude(None);
        }
        let rule = match end {
            End::Crash(_) => Rule::GuestFault,
            End::Panic { .. } => Rule::GuestPanic,
            End::Exit(Exit::Shutdown) => Rule::TripleFault,
            End::Exit(Exit::Watchdog { .. }) => Rule::Watchdog,
            End::Exit(Exit::InternalError(_)) => Rule::EmulationFailure,
            _ => Rule::MachineStopped,
        };
        let mut message = end.to_string();
        if let End::Crash(crash) = end
            && let Some(text) = instruction_at(self.course.case, crash.registers.frame[0])
        {
            message += &format!(", at `{text}`");
        }
        // Of ring 3, since the kernel does not loop.
        if let End::Exit(Exit::Watchdog { rip, cpl: 3, .. }) = end {
            message += &self.in_source(*rip);
        }
        if let Some(region) = self.unfinished {
            message += &format!("; {}", regions::at_hand(region, self.course.job.map));
        }
        self.course.marks.push_worded(self.course.phase, rule, None, message);
        self.conclude(None);
    }
}

/// The instruction at an address of the guest image, as it stands in memory.
fn instruction_at(case: &Case, rip: u64) -> Option<String> {
    let header = case.image.header();
    let image = match rip {
        rip if (IMAGE_BASE..header.read_only_end).contains(&rip) => rip,
        rip if (USER_BASE..USER_BASE + PAGE_BYTES).contains(&rip) => header.user_text + (rip - USER_BASE),
        _ => return None,
    };
    let mut bytes = [0; 15];
    case.memory.read(case.physical(image), &mut bytes).then(|| disassembled(&bytes, rip))
}

/// The first instruction of some code.
fn disassembled(bytes: &[u8], rip: u64) -> String {
    let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    GasFormatter::new().format(&instruction, &mut text);
    text
}
