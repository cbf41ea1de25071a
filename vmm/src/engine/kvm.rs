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

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::Instant;

use efibed_guest::protocol::{IMAGE_BASE, USER_BASE};
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};

use efibed_guest::Mapper;
use efibed_guest::mapper::{RegionAtHand, Step};
use site::Site;
use stage::Stage;

use super::machines::{Lodging, Machines};
use super::snapshot::Snapshot;
use super::trials::{self, Abilities};
use super::{EngineError, Job, Miscall, Moment, Progress, course, cpu};
use crate::check::{self, Budget, Expectation, Marks, Phase, Question, Rule, Skipped, TableCheck, TableVerdict};
use crate::firmware::{Firmware, ServiceMisbehaviour};
use crate::guest::process::{Code, Process, open_maps};
use crate::guest::{BackedPage, BootError, End, Guest, Image, Loaded, MappedTables, PAGE_BYTES};
use crate::machine::{CpuidRequest, Exit, Hypervisor, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{Access, Cpu, Pa, Paging, Va};
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

    /// Runs a job to its report.
    pub fn run(&self, job: &Job<'_>) -> Result<Report, EngineError> {
        let start = Instant::now();
        let code = job.subject.code()?;
        let abilities = self.abilities(&job.cpu)?;
        let cpu = Cpu { told: abilities.told, checks: Paging { rules: job.rules, ..abilities.checks } };
        cpu::refuse_what_is_missing(&job.cpu, &cpu)?;

        let mut report = course::empty_report(job, EngineName::Kvm, cpu);
        let mut input = Marks::default();
        report.notes.extend(check::judge_map(job.map, &cpu.told, &mut input));
        if course::report_on_misread_map(job, &mut report, &mut input) {
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
                input.push_worded(Phase::Input, Rule::NoRoom, None, no_room.to_string());
                report.findings = input.into_findings(Phase::Input, job.map, None);
                report.regions = course::region_reports(job.map, None, &report.findings);
                return Ok(report);
            }
        };
        report.findings = input.into_findings(Phase::Input, job.map, None);

        let loaded = site.load(job, &cpu, lodging.guest.take())?;
        let process = Process::new(&loaded, site.process_memory(&code, lodging.process.take())?, &cpu.told, &code)?;
        let mut machine = match reused {
            Some(machine) => machine,
            None => self.machines.create(&job.cpu, site.internals)?,
        };
        Machines::prepare(&mut machine, job.map)?;
        let mut guest = Guest::boot(&mut machine, &loaded, &site.pages, &cpu.told, job.stretch_limit)?;
        guest.add_process(&process).map_err(BootError::from)?;
        guest.set_deadline(start.checked_add(job.limit));
        if guest.missing_state() != 0 && matches!(code, Code::Own) {
            report.notes.push(format!(
                "this KVM lacks extended state that this process has (XCR0 {:#x}): code made for it raises #UD in the guest",
                guest.missing_state()
            ));
        }
        report.timing.build = start.elapsed();

        let mut run = Run {
            job,
            guest,
            loaded: &loaded,
            mapper: job.subject.mapper(),
            process,
            cpu,
            firmware: site.firmware,
            pages: site.pages,
            kernel: course::ranges(&loaded.keep),
            report,
            marks: Marks::default(),
            phase: Phase::Map,
            stage: Stage::Mapping,
            unfinished: None,
            loaded_root: loaded.boot_root,
            tables: Snapshot::tables(&loaded, 0),
            given_up: false,
            services_abandoned: 0,
            committed: Vec::new(),
            miscalled: Vec::new(),
            denials: Vec::new(),
            missed_calls: Vec::new(),
            budget: Budget::new(start.checked_add(job.limit)),
        };
        run.carry_out();
        let Run { mut report, process, .. } = run;
        report.counters = process.counters();
        report.timing.total = start.elapsed();
        let lodging = Lodging { guest: Some(loaded.memory), process: Some(process.into_memory()) };
        self.machines.give_back(&job.cpu, machine, lodging);
        Ok(report)
    }
}

/// One run, from the mapper's first phase to the last call.
struct Run<'a, 'm> {
    job: &'a Job<'a>,
    guest: Guest<'m>,
    loaded: &'m Loaded,
    /// None: a program, which the process has.
    mapper: Option<Box<dyn Mapper>>,
    process: Process,
    cpu: Cpu,
    firmware: Option<Firmware>,
    /// By address.
    pages: Vec<BackedPage>,
    kernel: Vec<RangeInclusive<Va>>,
    report: Report,
    marks: Marks,
    phase: Phase,
    stage: Stage,
    /// What the mapper was at, if it did not come to an end.
    unfinished: Option<RegionAtHand>,
    /// What is in CR3.
    loaded_root: u64,
    /// The tables that were judged.
    tables: Snapshot,
    /// The guest has abandoned a runtime service, and calls no more of them.
    given_up: bool,
    /// The mailbox's word for that.
    services_abandoned: u64,
    /// What firmware has done that it must not.
    committed: Vec<ServiceMisbehaviour>,
    /// The mistakes that the kernel has made in calling services.
    miscalled: Vec<Miscall>,
    /// What firmware's own table denies it.
    denials: Vec<course::Denied>,
    /// Calls that were to be made, and were not.
    missed_calls: Vec<Skipped>,
    /// Of all walks over whole tables.
    budget: Budget,
}

impl Run<'_, '_> {
    fn carry_out(&mut self) {
        let mut judged = None;
        if let Err(end) = self.run(&mut judged) {
            self.ended(&end);
        }
        self.tell_what_was_served();
        self.skip_what_was_not_done();
        let known = judged.as_ref().map(|(expectation, tables)| (expectation, tables));
        self.report.regions = course::region_reports(self.job.map, known, &self.report.findings);
        self.report.runs = judged.map_or_else(Vec::new, |(_, tables)| tables.runs);
    }

    /// Phase `map`, the switch, the probes, and phase `finish` with what follows it. What the tables of phase `map` are to
    /// be, and are, goes into `judged` as soon as it is known.
    fn run(&mut self, judged: &mut Option<(Expectation, TableVerdict)>) -> Result<(), End> {
        self.call_for_the_earlier_kernel()?;
        let Some(tables) = self.run_mapper(Step::Map)? else { return Ok(()) };
        let mut root = tables.root;
        course::tamper(self.job, Moment::BeforeWalk, &self.loaded.memory, root, &self.cpu.told);
        self.tables = Snapshot::tables(self.loaded, tables.table_pages);
        let virtual_map = self.loaded.virtual_map(tables.mapped);
        let map_at = self.loaded.virtual_map_at(tables.mapped);
        let (kernel, told) = (self.kernel.clone(), self.cpu.told);
        let question = Question {
            map: self.job.map,
            contract: self.job.contract,
            virtual_map: &virtual_map,
            virtual_map_at: &(Pa(map_at.start)..Pa(map_at.end)),
            told: &told,
            nx: cpu::offer(&self.cpu).nx != 0,
            kernel: &kernel,
        };
        let expectation = Expectation::new(&question, &mut self.marks).on(&self.tables_at(root), &self.budget);
        if let Some(earlier) = self.job.earlier {
            expectation.compare_with_earlier(self.job.map, earlier.virtual_map, &mut self.marks);
        }
        let verdict = self.walk(&expectation, root);
        let intact = verdict.kernel_intact;
        let (expectation, _) = judged.insert((expectation, verdict));
        self.report.virtual_map.clone_from(&virtual_map);
        // On tables without the kernel's own ranges the guest would be stranded.
        let probed = if intact { self.switch_and_probe(expectation, &tables) } else { Ok(()) };
        self.conclude(Some(root));
        probed?;
        if !intact {
            return Ok(());
        }

        (self.phase, self.stage) = (Phase::Finish, Stage::Finishing);
        let mut finished_expectation = None;
        if self.job.kernel.finish {
            let Some(finished) = self.run_mapper(Step::Finish)? else { return Ok(()) };
            course::tamper(self.job, Moment::AfterFinish, &self.loaded.memory, finished.root, &told);
            let owed = expectation.finished(&question).on(&self.tables_at(finished.root), &self.budget);
            let is_new = finished.root != root || self.tables.first_change(&self.loaded.memory).is_some();
            root = finished.root;
            self.tables = Snapshot::tables(self.loaded, finished.table_pages);
            // Whether there is anything to check again is not for the mapper to say.
            finished_expectation = (is_new || owed != *expectation).then_some(owed);
        }
        if let Some(expectation) = &finished_expectation {
            let intact = self.walk(expectation, root).kernel_intact;
            let probed = if intact { self.probe(expectation, root) } else { Ok(()) };
            self.conclude(Some(root));
            probed?;
            if !intact {
                return Ok(());
            }
        }
        self.stage = Stage::Calls;
        let finished = finished_expectation.as_ref().unwrap_or(expectation);
        self.denials = course::denials(self.job, finished, self.loaded, root, &self.cpu.checks);
        let called = self.call_after_the_switch(finished, root);
        self.marks.push_findings(self.denials.drain(..).map(|denied| denied.finding));
        self.conclude(Some(root));
        called
    }

    /// Where this kernel was kexec'ed, the one before it has called SetVirtualAddressMap.
    fn call_for_the_earlier_kernel(&mut self) -> Result<(), End> {
        let Some(earlier) = self.job.earlier else { return Ok(()) };
        // Sizes were chosen so that there is room.
        if self.loaded.write_virtual_map(earlier.virtual_map) {
            self.call_before_the_switch("boot", self.loaded.boot_root, earlier.virtual_map.len() as u64)?;
            let physical = |virt| check::physical_of(earlier.virtual_map, Va(virt)).map(|pa| pa.0);
            self.verify_virtual_tables(earlier.virtual_map, physical);
        }
        self.loaded.write_virtual_map(&[]);
        Ok(())
    }

    fn is_stamped(&self, pa: u64) -> bool {
        self.pages.binary_search_by_key(&(pa & !(PAGE_BYTES - 1)), |page| page.phys).is_ok()
    }

    fn walk(&mut self, expectation: &Expectation, root: u64) -> TableVerdict {
        (self.job.progress)(Progress::Walking);
        let checking = Instant::now();
        let told = Paging { rules: self.job.rules, ..self.cpu.told };
        let check = TableCheck {
            memory: &self.loaded.memory,
            root: Pa(root),
            kernel_root: Pa(self.loaded.kernel_root),
            kernel: &self.kernel,
            told: &told,
            expectation,
            budget: &self.budget,
        };
        let verdict = check.run(&mut self.marks);
        course::dump(self.job, self.phase, &check, &mut self.report);
        course::report_on_walk(&verdict, &mut self.report);
        self.report.timing.check += checking.elapsed();
        verdict
    }

    fn switch_and_probe(&mut self, expectation: &Expectation, tables: &MappedTables) -> Result<(), End> {
        if self.job.earlier.is_none() {
            self.stage = Stage::Switch;
            let (name, root) = self.tables_for_the_switch(tables);
            self.call_before_the_switch(name, root, tables.mapped)?;
            let (loaded, root, checks) = (self.loaded, tables.root, self.cpu.checks);
            let virtual_map = self.report.virtual_map.clone();
            self.verify_virtual_tables(&virtual_map, |virt| {
                let walk = crate::mmu::walk(&loaded.memory, Pa(root), Va(virt), Access::read(), &checks);
                walk.translation().map(|translation| translation.pa.0)
            });
        }
        self.probe(expectation, tables.root)
    }

    /// Makes findings of the marks so far.
    fn conclude(&mut self, root: Option<u64>) {
        let marks = std::mem::take(&mut self.marks);
        self.report.findings_omitted += marks.omitted();
        let tables = root.map(|root| self.tables_at(root));
        let findings = marks.into_findings(self.phase, self.job.map, tables);
        self.report.findings.extend(findings);
        self.show_to_debugger();
    }

    fn tables_at(&self, root: u64) -> check::RootedTables<'_> {
        check::RootedTables { memory: &self.loaded.memory, root: Pa(root), told: &self.cpu.told }
    }

    /// The guest ended before its time.
    fn ended(&mut self, end: &End) {
        if matches!(end, End::OutOfTime) {
            self.report.skipped.extend(self.stage.not_done(self.job.limit));
            return self.conclude(None);
        }
        if matches!(end, End::Killed) {
            self.report.skipped.extend(self.stage.killed());
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
            && let Some(text) = instruction_at(self.loaded, crash.registers.frame[0])
        {
            message += &format!(", at `{text}`");
        }
        // Of ring 3, since the kernel does not loop.
        if let End::Exit(Exit::Watchdog { rip, cpl: 3, .. }) = end {
            message += &self.in_source(*rip);
        }
        if let Some(region) = self.unfinished {
            message += &format!("; {}", course::at_hand(region, self.job.map));
        }
        self.marks.push_worded(self.phase, rule, None, message);
        self.conclude(None);
    }
}

/// The instruction at an address of the guest image, as it stands in memory.
fn instruction_at(loaded: &Loaded, rip: u64) -> Option<String> {
    let header = loaded.image.header();
    let image = match rip {
        rip if (IMAGE_BASE..header.read_only_end).contains(&rip) => rip,
        rip if (USER_BASE..USER_BASE + PAGE_BYTES).contains(&rip) => header.user_text + (rip - USER_BASE),
        _ => return None,
    };
    let mut bytes = [0; 15];
    loaded.memory.read(loaded.physical(image), &mut bytes).then(|| disassembled(&bytes, rip))
}

/// The first instruction of some code.
fn disassembled(bytes: &[u8], rip: u64) -> String {
    let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    GasFormatter::new().format(&instruction, &mut text);
    text
}
