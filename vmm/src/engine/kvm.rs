//! A KVM guest runs the mapping code, loads its tables, and its MMU is asked about every page.

mod abandoned;
mod calling;
mod hand_over;
mod mapping;
mod site;
mod stage;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::Instant;

use efibed_guest::protocol::{IMAGE_BASE, MAX_COMMANDS, MAX_PROBES, Op, PROBE_DONE, Probe, ProbeKind, USER_BASE};
use efibed_stub::TRAP_PORT;
use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter};
use uefi_raw::table::runtime::ResetType;

use efibed_guest::Mapper;
use efibed_guest::mapper::{RegionAtHand, Step};
use site::Site;
use stage::Stage;
use sweep::{SweepBatch, Sweeping};

use super::firmware_memory::FirmwareMemory;
use super::machines::Machines;
use super::snapshot::Snapshot;
use super::trials::{self, Abilities};
use super::{EngineError, Job, Miscall, Moment, Progress, course, cpu};
use crate::check::{
    self, Behind, Budget, Expectation, Ground, Judge, Marks, Observations, Phase, Plan, PlannedProbe, ProbeCounts,
    Question, Rule, Skipped, TableCheck, TableVerdict,
};
use crate::firmware::{Answer, Call, Firmware, Offence, StubCall};
use crate::guest::process::{Code, Process, open_maps};
use crate::guest::{
    BackedPage, BootError, End, Guest, GuestEvents, Image, Loaded, MappedTables, NoEvents, OwnMemory, PAGE_BYTES,
    PortAnswer, command,
};
use crate::machine::{CpuidRequest, Exit, Hypervisor, Machine};
use crate::memory_map::MemoryMap;
use crate::mmu::{Access, Cpu, Pa, Paging, Va};
use crate::random::Random;
use crate::report::{Culprit, EngineName, FaultDetail, Report};

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
        self.machines.give_back(cpu, machine);
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
        let reused = self.machines.reuse(&job.cpu, job.map);
        let site = match Site::find(job, &cpu, Image::built_in()?, firmware, reused.as_ref()) {
            Ok(site) => site,
            Err(no_room) => {
                if let Some(machine) = reused {
                    self.machines.give_back(&job.cpu, machine);
                }
                input.push_worded(Phase::Input, Rule::NoRoom, None, no_room.to_string());
                report.findings = input.into_findings(Phase::Input, job.map, None);
                report.regions = course::region_reports(job.map, None, &report.findings);
                return Ok(report);
            }
        };
        report.findings = input.into_findings(Phase::Input, job.map, None);

        let loaded = site.load(job, &cpu)?;
        let process = Process::new(&loaded, site.process_at, &cpu.told, &code)?;
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
        let mut report = run.report;
        report.timing.total = start.elapsed();
        self.machines.give_back(&job.cpu, machine);
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
    kernel: Vec<RangeInclusive<u64>>,
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
    committed: Vec<Offence>,
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
            virtual_map_at: &map_at,
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
            let physical = |virt| check::physical_of(earlier.virtual_map, virt);
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

    /// Asks the guest's MMU everything there is to ask.
    fn probe(&mut self, expectation: &Expectation, root: u64) -> Result<(), End> {
        self.stage = if self.phase == Phase::Map { Stage::Probes } else { Stage::LastProbes };
        let planning = Instant::now();
        let (sweep_owed, sweep_others) = sweep_limits(self.phase, self.job.sweep_limit);
        let plan = {
            let own =
                [&self.loaded.memory, self.process.memory()].map(|memory| (memory.base()..memory.end(), Behind::Own));
            let stamped = self.pages.iter().map(|page| (page.phys..page.phys + PAGE_BYTES, Behind::Stamped));
            let mut memory_behind: Vec<_> = stamped.chain(own).collect();
            memory_behind.sort_unstable_by_key(|(range, _)| range.start);
            let ground = Ground {
                memory: &self.loaded.memory,
                root: Pa(root),
                checks: &self.cpu.checks,
                memory_behind: &memory_behind,
                kernel: &self.kernel,
                seed: self.job.seed,
                sweep_owed,
                sweep_others,
                budget: &self.budget,
            };
            Plan::new(expectation, &ground)
        };
        if course::tamper(self.job, Moment::AfterWalk, &self.loaded.memory, root, &self.cpu.told) {
            // It stands for a machine that sees other tables than the walk did, so it is no change of them.
            self.tables.renew(&self.loaded.memory);
            // Firmware's calls have used these tables, and a shadow MMU keeps what it saw of them. Where it cannot be made to
            // forget, the run stays clean, and its test fails.
            let _ = self.guest.machine().forget_translations();
        }
        self.report.timing.check += planning.elapsed();

        let probing = Instant::now();
        let text = [IMAGE_BASE..self.loaded.image.header().read_only_end, USER_BASE..USER_BASE + PAGE_BYTES];
        let mut judge = Judge::new(expectation, &plan, text);
        let outcome = self.ask(&plan, root, &mut judge);
        self.look_at_tables("the probes");
        self.ask_kvm(expectation, root, &mut judge);
        let (observations, marks) = judge.finish(outcome.is_ok());
        self.report.timing.probe += probing.elapsed();
        self.marks.absorb(marks);
        let when = if self.phase == Phase::Finish { ", in phase finish" } else { "" };
        let told = plan.skipped.iter().map(|row| Skipped { what: format!("{}{when}", row.what), ..row.clone() });
        self.report.skipped.extend(told);
        self.observed(observations);
        outcome
    }

    fn ask(&mut self, plan: &Plan, root: u64, judge: &mut Judge<'_>) -> Result<(), End> {
        let load = command(Op::LoadRoot, [root, 0, 0, 0, 0, 0]);
        self.guest.batch(&[load], &mut NoEvents)?;
        self.loaded_root = root;
        course::tamper(self.job, Moment::WhileProbed, &self.loaded.memory, root, &self.cpu.told);
        let all = plan.sweeps.iter().map(|sweep| sweep.pages).sum();
        let mut done = 0;
        for batch in SweepBatch::all(&plan.sweeps) {
            (self.job.progress)(Progress::Sweeping { done, all });
            done += batch.pages();
            self.guest.mail().put_sweeps(batch.sweeps())?;
            let sweep = command(Op::Sweep, [batch.sweeps().len() as u64, 0, 0, 0, 0, 0]);
            self.guest.batch(&[sweep], &mut Sweeping { batch: &batch, judge })?;
            self.look_after_batch("a sweep");
        }
        let mut listener = Listener { judge: Some(judge), firmware: None, calls: Vec::new(), reset: None };
        for group in &plan.groups {
            for probes in group.probes.chunks(MAX_PROBES) {
                self.guest.mail().put_probes(probes.iter().map(|probe| probe.virt))?;
                let arguments = [0, probes.len() as u64, group.kind as u64, 0, 0, 0];
                self.guest.batch(&[command(Op::Probe, arguments)], &mut listener)?;
                self.look_after_batch("probes");
                let records = self.guest.mail().probes(probes.len())?;
                let Some(judge) = &mut listener.judge else { continue };
                judge.probed(group.kind, probes, &records);
                if group.kind == ProbeKind::Write {
                    self.look_at_scratch(probes, &records, judge);
                }
            }
        }
        Ok(())
    }

    /// A write to a page with memory goes unreported: whether it arrived is seen in the page.
    fn look_at_scratch(&mut self, probes: &[PlannedProbe], records: &[Probe], judge: &mut Judge<'_>) {
        for (planned, record) in probes.iter().zip(records) {
            let Some(to) = planned.predicted.translation().filter(|_| record.status == PROBE_DONE) else { continue };
            if self.is_stamped(to.pa.0) {
                let found = self.guest.machine().read_u64(to.pa.0) == Some(planned.virt);
                judge.scratch(planned.virt, to.pa.0, found);
            }
        }
    }

    /// The fourth witness: at every finding so far, and at a seeded sample.
    fn ask_kvm(&mut self, expectation: &Expectation, root: u64, judge: &mut Judge<'_>) {
        const SAMPLE: usize = 16;
        const AT_FINDINGS: usize = 64;
        let mut random = Random(self.job.seed ^ 0x4b56_4d00);
        let aliases: Vec<_> = expectation.aliases.iter().filter(|alias| !alias.past_maxphyaddr).collect();
        let sample = (0..SAMPLE).filter_map(|_| {
            let alias = aliases.get(random.below(aliases.len().max(1) as u64) as usize)?;
            Some(alias.virt + random.below(alias.pages) * PAGE_BYTES)
        });
        // KVM_TRANSLATE goes by an address's low bits, and knows no #GP: it is no witness to one that is not canonical.
        let is_canonical = |virt: &u64| self.cpu.checks.is_canonical(Va(*virt));
        let found = self.marks.addresses().chain(judge.marks.addresses()).filter(is_canonical);
        let found: BTreeSet<u64> = found.collect();
        for virt in sample.collect::<Vec<_>>().into_iter().chain(found.into_iter().take(AT_FINDINGS)) {
            // KVM's own walker goes by what the CPU was told, the hardware's by what it checks.
            let walked = [&self.cpu.checks, &self.cpu.told].map(|paging| {
                let walk = crate::mmu::walk(&self.loaded.memory, Pa(root), Va(virt), Access::read(), paging);
                walk.translation().map(|to| to.pa.0)
            });
            if let Ok(answer) = self.guest.machine().translate(virt) {
                judge.translated(virt, answer, walked);
            }
        }
    }

    fn observed(&mut self, observations: Observations) {
        let (phase, report) = (self.phase, &mut self.report);
        let pages_verified = match phase {
            // Phase `finish` asks about fewer pages; those it finds wrong do not count.
            Phase::Finish => report.probes.pages_verified.saturating_sub(observations.pages_spoiled),
            _ => observations.counts.pages_verified,
        };
        report.probes = ProbeCounts {
            total: report.probes.total + observations.counts.total,
            translated: report.probes.translated + observations.counts.translated,
            faulted: report.probes.faulted + observations.counts.faulted,
            faulted_rightly: report.probes.faulted_rightly + observations.counts.faulted_rightly,
            pages_verified,
        };
        report.faults_omitted += observations.faults_omitted;
        for record in observations.faults {
            let instruction = instruction_at(self.loaded, record.rip);
            report.faults.push(FaultDetail {
                phase,
                record,
                instruction,
                service: None,
                culprit: Culprit::MappingCode,
            });
        }
    }

    /// Makes findings of the marks so far.
    fn conclude(&mut self, root: Option<u64>) {
        let marks = std::mem::take(&mut self.marks);
        self.report.findings_omitted += marks.omitted();
        let tables = root.map(|root| self.tables_at(root));
        self.report.findings.extend(marks.into_findings(self.phase, self.job.map, tables));
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

/// Pages swept at most: at the addresses that SetVirtualAddressMap is told, and at others. Nobody is owed the others,
/// and phase `finish` changes permissions, which large regions of MMIO have none of: 256 MiB each will do.
fn sweep_limits(phase: Phase, limit: u64) -> (u64, u64) {
    let others = limit.min(1 << 16);
    match phase {
        Phase::Finish => (others, others),
        _ => (limit, others),
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

/// Hears what happens while a batch runs.
struct Listener<'j, 'e, 'f> {
    judge: Option<&'j mut Judge<'e>>,
    firmware: Option<Served<'f>>,
    /// What was called, and by which command of the batch.
    calls: Vec<(u64, Call)>,
    /// ResetSystem was called.
    reset: Option<ResetType>,
}

/// Firmware, and what it needs to see its callers' memory.
struct Served<'f> {
    firmware: &'f mut Firmware,
    tables: &'f OwnMemory,
    paging: &'f Paging,
    /// Where the guest says which command it carries out.
    command_at: u64,
}

impl GuestEvents for Listener<'_, '_, '_> {
    fn wrote(&mut self, pa: u64, value: u64) {
        if let Some(judge) = &mut self.judge {
            judge.wrote(value, pa);
        }
    }

    fn port(&mut self, port: u16, _data: u32, machine: &mut Machine) -> PortAnswer {
        let served = self.firmware.as_mut().filter(|_| port == u16::from(TRAP_PORT));
        let Some(Served { firmware, tables, paging, command_at }) = served else { return PortAnswer::Unknown };
        let regs = machine.regs();
        let call = StubCall {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            rsp: regs.rsp,
            rip: regs.rip,
            rflags: regs.rflags,
            cr3: machine.sregs().cr3,
        };
        let Ok(answer) = firmware.answer(&call, &mut FirmwareMemory { machine, tables, paging }) else {
            return PortAnswer::Unknown;
        };
        if let Answer::Reset(_, reset) = answer {
            self.reset = Some(reset);
        }
        let command = tables.read_u64(*command_at).unwrap_or(u64::MAX);
        self.calls.extend(answer.call().map(|call| (command, call)));
        // Only code that has gone astray traps as often.
        let is_too_often = self.calls.len() > MAX_COMMANDS;
        if self.reset.is_some() || is_too_often { PortAnswer::Stop } else { PortAnswer::GoOn }
    }
}
