//! The public face: scenarios, and the bed they run on.

mod require_kvm;
mod scenario_file;

use std::borrow::Cow;
#[cfg(feature = "cli")]
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use efibed_guest::{Layout, LayoutMapper, LeafRule, Mapper};

use crate::check::{self, Address, Contract, ContractItem, Depth, Phase, TableCheck};
use crate::engine::{
    Abilities, Earlier, EngineError, FirmwareOptions, Job, KernelOptions, Kvm, Memories, Progress, Subject, Tamper,
    walker,
};
use crate::firmware::{Misbehaviour, ServiceMisbehaviour, lying_attributes_table};
#[cfg(any(feature = "cli", feature = "fuzz"))]
use crate::guest::process::Code;
#[cfg(feature = "cli")]
use crate::guest::process::Debugger;
use crate::machine::{CpuidRequest, Machine};
use crate::memory_map::{MemoryDescriptor, MemoryMap, ParseError, ReadError, ReadOptions};
use crate::mmu::{Pa, PagingRule, PagingRules, Va};
#[cfg(any(feature = "cli", feature = "fuzz"))]
use crate::report::MapperName;
use crate::report::{EngineName, Report};

pub use require_kvm::bed_or_skip;
#[cfg(feature = "cli")]
pub(crate) use scenario_file::read_elf;
pub(crate) use scenario_file::{Found, Origin, OwnMapper};

/// A test bed: one /dev/kvm handle, and machines that are used again. Cheap to clone, and safe to share between threads.
///
/// After a fork it works in both processes: the child gets machines of its own. As everywhere, that is for a process of one
/// thread; a lock that another thread holds at the fork stays locked in the child.
///
/// ```no_run
/// use efibed::{Layout, MemoryMap, Pa, Scenario, TestBed};
///
/// let map = MemoryMap::read("tests/maps/ovmf-2013.toml".as_ref())?;
/// let bed = TestBed::new()?;
/// let report = bed.run(&Scenario::new(map).layout(Layout::Window))?;
/// report.assert_clean();
/// assert_eq!(report.translate(0xffff_fffe_8080_0000), Some(Pa(0x80_0000)));
/// # Ok::<(), efibed::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct TestBed {
    kvm: Arc<OnceLock<Kvm>>,
    memories: Arc<Memories>,
}

/// What to run: a memory map, mapping code, and a CPU to run it on.
///
/// ```
/// use efibed::{EngineName, LeafRule, Layout, MemoryMap, Scenario, TestBed};
///
/// let map = MemoryMap::parse(
///     r#"
///     [[descriptor]]
///     type = "RuntimeServicesData"
///     phys = 0x7e729000
///     pages = 0x242
///     attribute = "RUNTIME|WB"
///     "#,
/// )?;
/// let scenario = Scenario::new(map).layout(Layout::PackedDown).leaf_rule(LeafRule::VaOnly);
/// let report = TestBed::without_kvm().run(&scenario.engine(EngineName::Walker))?;
/// assert_eq!(report.findings[0].rule.name(), "reserved-bit");
/// # Ok::<(), efibed::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scenario {
    map: MemoryMap,
    mapper: LayoutMapper,
    subject: Subject,
    contract: Option<Contract>,
    /// The terms that the contract was made of, if it was made of such.
    contract_items: Vec<ContractItem>,
    cpu: CpuidRequest,
    engine: EngineName,
    seed: u64,
    limit: Duration,
    stretch_limit: Duration,
    sweep_limit: u64,
    depth: Depth,
    dumps_tables: bool,
    names_writers: bool,
    firmware: FirmwareOptions,
    kernel: KernelOptions,
    expected: Option<Vec<check::Rule>>,
    earlier: Option<Arc<(MemoryMap, Vec<MemoryDescriptor>)>>,
    tampers: Vec<Tamper>,
    rules: PagingRules,
}

/// The seed of everything sampled, where none is given.
const DEFAULT_SEED: u64 = 2013;
/// How long a run may take by default: no known map takes a tenth of it.
const DEFAULT_LIMIT: Duration = Duration::from_secs(300);
/// How long any stretch of running in the guest may take by default.
const DEFAULT_STRETCH_LIMIT: Duration = Duration::from_secs(30);

/// Pages that are swept in full by default: 9 GiB, at 1.2 us a page where ring 0 is emulated. The largest known real map
/// has 8.9 GiB to map.
const DEFAULT_SWEEP_LIMIT: u64 = 9 << 18;

impl TestBed {
    /// Opens /dev/kvm. The error says what is wrong with it, and what to do.
    pub fn new() -> Result<Self, EngineError> {
        let bed = Self::default();
        bed.kvm()?;
        Ok(bed)
    }

    /// A bed that opens /dev/kvm only when a scenario wants it.
    pub fn without_kvm() -> Self {
        Self::default()
    }

    /// Runs a scenario to its report. Safe to call from many threads at once.
    pub fn run(&self, scenario: &Scenario) -> Result<Report, EngineError> {
        self.run_telling(scenario, &|_| {})
    }

    /// The same, and tells `progress` now and then how far the run is.
    pub fn run_telling(&self, scenario: &Scenario, progress: &dyn Fn(Progress)) -> Result<Report, EngineError> {
        let (map, contract) = (scenario.map_as_told(), scenario.contract_in_force());
        let job = scenario.job(&map, contract, progress);
        let mut report = match scenario.engine {
            EngineName::Kvm => self.run_in_guest(scenario, &job)?,
            EngineName::Walker => walker::run(&job, &self.memories)?,
        };
        report.expected_rules.clone_from(&scenario.expected);
        Ok(report)
    }

    /// The same in a guest, with a debugger that looks on, and another limit for the whole run.
    #[cfg(feature = "cli")]
    pub(crate) fn run_debugged(
        &self,
        scenario: &Scenario,
        limit: Duration,
        debugger: &RefCell<dyn Debugger>,
        progress: &dyn Fn(Progress),
    ) -> Result<Report, EngineError> {
        let (map, contract) = (scenario.map_as_told(), scenario.contract_in_force());
        let job = scenario.job(&map, contract, progress);
        let mut report = self.run_in_guest(scenario, &Job { debugger: Some(debugger), limit, ..job })?;
        report.expected_rules.clone_from(&scenario.expected);
        Ok(report)
    }

    /// Runs a scenario, and then a second kernel that the first one starts by kexec and that sees the map `second`: it
    /// must find every runtime region where the first one put it. Both reports are the result.
    ///
    /// Under `linux-fixed` the first kernel, whose layout is `linux`, hands its addresses over; under any other layout the
    /// second one computes its own. The findings that the scenario expects are those of the second kernel.
    pub fn kexec(&self, scenario: &Scenario, second: MemoryMap) -> Result<[Report; 2], EngineError> {
        self.kexec_telling(scenario, second, &|_| {})
    }

    /// The same, and tells `progress` about each kernel as [`Self::run_telling`] does.
    pub fn kexec_telling(
        &self,
        scenario: &Scenario,
        second: MemoryMap,
        progress: &dyn Fn(Progress),
    ) -> Result<[Report; 2], EngineError> {
        let heir_of = scenario.subject.contract().heir_of();
        let first = match heir_of {
            Some(layout) => scenario.clone().layout(layout),
            None => scenario.clone(),
        };
        let started = Instant::now();
        let before = self.run_telling(&Scenario { expected: None, ..first.clone() }, progress)?;
        let virtual_map = before.virtual_map.clone();
        let map = if heir_of.is_some() {
            second.with_virtual_starts(|starts| {
                let starts: Vec<_> = starts.iter().copied().map(Pa).collect();
                let virtual_addresses = check::virtual_addresses(&virtual_map, &starts).into_iter();
                virtual_addresses.map(|virt| virt.map(|virt| virt.0)).collect()
            })
        } else {
            second
        };
        let earlier = Some(Arc::new((first.map, virtual_map)));
        let limit = scenario.limit.saturating_sub(started.elapsed());
        let after = self.run_telling(&Scenario { map, earlier, limit, ..scenario.clone() }, progress)?;
        Ok([before, after])
    }

    /// What this machine's KVM does, found by trying it on such a CPU.
    pub fn abilities(&self, cpu: &CpuidRequest) -> Result<Abilities, EngineError> {
        self.kvm()?.abilities(cpu)
    }

    /// A machine with such a CPU, for a caller that runs its own guest in it.
    pub(crate) fn borrow_machine(&self, cpu: &CpuidRequest) -> Result<Machine, EngineError> {
        self.kvm()?.machine(cpu)
    }

    /// Takes it back.
    pub(crate) fn return_machine(&self, cpu: &CpuidRequest, machine: Machine) {
        if let Some(kvm) = self.kvm.get() {
            kvm.give_back(cpu, machine);
        }
    }

    /// A run whose findings say which lines set the guilty entries.
    fn run_in_guest(&self, scenario: &Scenario, job: &Job<'_>) -> Result<Report, EngineError> {
        let kvm = self.kvm()?;
        let mut report = kvm.run(job)?;
        if scenario.names_writers {
            kvm.name_writers(job, &mut report);
        }
        Ok(report)
    }

    fn kvm(&self) -> Result<&Kvm, EngineError> {
        if self.kvm.get().is_none() {
            // Two threads may both get here; one handle is dropped again.
            let _ = self.kvm.set(Kvm::open()?);
        }
        Ok(self.kvm.get_or_init(|| unreachable!("it was set just now")))
    }
}

impl Scenario {
    /// The map under layout `linux` with right leaves, on KVM.
    pub fn new(map: MemoryMap) -> Self {
        Self {
            map,
            mapper: LayoutMapper::default(),
            subject: LayoutMapper::default().into(),
            contract: None,
            contract_items: Vec::new(),
            cpu: CpuidRequest::default(),
            engine: EngineName::default(),
            seed: DEFAULT_SEED,
            limit: DEFAULT_LIMIT,
            stretch_limit: DEFAULT_STRETCH_LIMIT,
            sweep_limit: DEFAULT_SWEEP_LIMIT,
            depth: Depth::Full,
            dumps_tables: false,
            names_writers: true,
            firmware: FirmwareOptions::default(),
            kernel: KernelOptions::default(),
            expected: None,
            earlier: None,
            tampers: Vec::new(),
            rules: PagingRules::all(),
        }
    }

    /// Reads a scenario TOML, or a map in any known format, from a file of at most
    /// [`MAX_INPUT_BYTES`](crate::memory_map::MAX_INPUT_BYTES). It is what `efibed check` does with a file: a text may be a
    /// whole boot log, descriptors may be binary, and a folder is read as `/sys/firmware/efi/runtime-map`.
    ///
    /// Besides `[[descriptor]]` a TOML may have the tables `mapper`, `cpu`, `firmware`, `kernel` and `expect`; the schema
    /// that `efibed schema` prints describes them all. If `mapper` names an ELF file, that is read too. Its path starts at
    /// the folder of the TOML.
    ///
    /// ```no_run
    /// use efibed::{Scenario, TestBed};
    ///
    /// let scenario = Scenario::read("tests/my-machine.toml")?;
    /// TestBed::new()?.run(&scenario)?.assert_clean();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        Ok(Found::at(path.as_ref(), &ReadOptions::default(), OwnMapper::Read)?.into_scenario())
    }

    /// The same from text. `name` appears in errors.
    ///
    /// A text has no folder, so a scenario that names an ELF file is an error: [`Self::read`] reads one, or name the file
    /// with [`Self::mapper_elf`].
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        scenario_file::parse(Origin { name, text, folder: None }, OwnMapper::Read)
    }

    /// The JSON schema (draft 2020-12) of a scenario TOML.
    #[cfg(feature = "cli")]
    pub fn schema() -> serde_json::Value {
        scenario_file::schema()
    }

    /// A built-in layout. The last of this, [`Self::leaf_rule`], [`Self::mapper`] and [`Self::mapper_elf`] says what runs.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.mapper.layout = layout;
        self.subject = self.mapper.into();
        self
    }

    /// Mapping code of this process, in place of a built-in layout. It runs in ring 3 of the guest, on copies of this
    /// process's pages: what it changes of them is not seen here. Each run works on a clone.
    ///
    /// It is held to [`Contract::default`], unless [`Self::contract`] says otherwise.
    #[must_use]
    pub fn mapper(mut self, mapper: impl Mapper + Clone + Send + Sync + 'static) -> Self {
        self.subject = Subject::function(mapper);
        self
    }

    /// Mapping code in an ELF file, as `efibed build` or `cc -O2 -static -nostdlib -ffreestanding -e efibed_map` makes it. It
    /// runs in ring 3 of the guest, and nowhere else. What is wrong with the file is an error of the run.
    ///
    /// It is held to [`Contract::default`], unless [`Self::contract`] says otherwise.
    #[must_use]
    pub fn mapper_elf(self, elf: impl AsRef<[u8]>) -> Self {
        self.mapper_elf_named("mapper.elf", elf)
    }

    /// The same, for a file whose name reports are to have.
    #[must_use]
    pub fn mapper_elf_named(mut self, name: impl Into<String>, elf: impl AsRef<[u8]>) -> Self {
        self.subject = Subject::program(name.into(), elf.as_ref());
        self
    }

    /// What must hold of the result, instead of the mapping code's usual contract. In [`TestBed::kexec`], of both kernels'
    /// results.
    #[must_use]
    pub fn contract(mut self, contract: Contract) -> Self {
        self.contract = Some(contract);
        self.contract_items.clear();
        self
    }

    /// The same, of the terms that a command line or a file has.
    #[must_use]
    pub(crate) fn contract_of_items(mut self, items: Vec<ContractItem>) -> Self {
        self.contract = Some(check::contract_of(&items));
        self.contract_items = items;
        self
    }

    /// The mapping code of this scenario, and what it is held to, in place of another scenario's.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn in_place_of(self, other: &Self) -> Self {
        let Self { mapper, subject, contract, contract_items, .. } = self;
        Self { mapper, subject, contract, contract_items, ..other.clone() }
    }

    /// The same contract with some of its terms replaced, besides arenas.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn terms_replaced(self, items: &[ContractItem]) -> Self {
        let contract = check::with_terms(self.contract_in_force().clone(), items);
        self.contract(contract)
    }

    /// A built-in layout's rule for the size of leaves.
    #[must_use]
    pub fn leaf_rule(mut self, leaf_rule: LeafRule) -> Self {
        self.mapper.leaf_rule = leaf_rule;
        self.subject = self.mapper.into();
        self
    }

    /// What the CPU reports. The mapper is offered only what the machine was also found to do.
    #[must_use]
    pub fn cpu(mut self, cpu: CpuidRequest) -> Self {
        self.cpu = cpu;
        self
    }

    /// What executes and observes.
    #[must_use]
    pub fn engine(mut self, engine: EngineName) -> Self {
        self.engine = engine;
        self
    }

    /// The seed of everything sampled.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long the run may take; in [`TestBed::kexec`], that of both kernels. What is not done by then is left out, and the
    /// run is `incomplete`.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long any stretch of running in the guest may take. What runs longer counts as hung, which is a finding. Give it
    /// seconds: a guest without a fault may take milliseconds.
    #[must_use]
    pub fn stretch_limit(mut self, limit: Duration) -> Self {
        self.stretch_limit = limit;
        self
    }

    /// How many pages of the regions the guest sweeps at most. Of the rest it reaches a seeded sample, and both ends of every
    /// run of leaves.
    #[must_use]
    pub fn sweep_limit(mut self, pages: u64) -> Self {
        self.sweep_limit = pages;
        self
    }

    /// How much the guest's MMU is asked.
    #[cfg(feature = "fuzz")]
    #[must_use]
    pub(crate) fn depth(mut self, depth: Depth) -> Self {
        self.depth = depth;
        self
    }

    /// Whether the report has the whole tables ([`Report::tables`]), and shows them.
    #[must_use]
    pub fn dump_tables(mut self, dumps: bool) -> Self {
        self.dumps_tables = dumps;
        self
    }

    /// Whether findings are to say which line set the guilty entry: each run in a guest that has findings is made twice then.
    #[cfg(feature = "fuzz")]
    #[must_use]
    pub(crate) fn name_writers(mut self, names: bool) -> Self {
        self.names_writers = names;
        self
    }

    /// Whether lines of the mapping code can be told at all.
    #[cfg(feature = "fuzz")]
    pub(crate) fn has_places(&self) -> bool {
        self.subject.has_places()
    }

    /// How firmware behaves.
    #[must_use]
    pub fn firmware(mut self, firmware: FirmwareOptions) -> Self {
        self.firmware = firmware;
        self
    }

    /// Whether the guest calls runtime services.
    #[must_use]
    pub fn firmware_calls(mut self, calls: bool) -> Self {
        self.firmware.calls = calls;
        self
    }

    /// See [`Self::firmware_calls`].
    #[cfg(feature = "fuzz")]
    pub(crate) fn calls_firmware(&self) -> bool {
        self.firmware.calls
    }

    /// Has firmware do something that it must not, besides what it does already.
    #[must_use]
    pub fn misbehave(mut self, misbehaviour: impl Into<ServiceMisbehaviour>) -> Self {
        self.firmware.misbehaves.push(misbehaviour.into());
        self
    }

    /// What the kernel around the mapping code does.
    #[must_use]
    pub fn kernel(mut self, kernel: KernelOptions) -> Self {
        self.kernel = kernel;
        self
    }

    /// The rules that must be found, and no others; none: the run must be clean.
    #[must_use]
    pub fn expect(mut self, findings: Vec<check::Rule>) -> Self {
        self.expected = Some(findings);
        self
    }

    /// Changes an entry of the finished tables: a negative control.
    #[must_use]
    pub fn tamper(mut self, tamper: Tamper) -> Self {
        self.tampers.push(tamper);
        self
    }

    /// Breaks a rule of the walker: a negative control.
    #[must_use]
    pub fn break_walker(mut self, rule: PagingRule) -> Self {
        self.rules = self.rules.without(rule);
        self
    }

    /// How firmware behaves.
    pub fn firmware_options(&self) -> &FirmwareOptions {
        &self.firmware
    }

    /// What the kernel around the mapping code does.
    pub fn kernel_options(&self) -> &KernelOptions {
        &self.kernel
    }

    /// The same run of another memory map.
    #[must_use]
    pub fn with_map(mut self, map: MemoryMap) -> Self {
        self.map = map;
        self
    }

    /// The memory map.
    pub fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// How the map is mapped, as tables of a scenario TOML. An ELF file is named by this path.
    #[cfg(any(feature = "cli", feature = "fuzz"))]
    pub(crate) fn tables_to_toml(&self, elf: Option<&Path>) -> String {
        scenario_file::tables(self, elf)
    }

    /// The built-in layout that was chosen last.
    #[cfg(feature = "cli")]
    pub(crate) fn built_in(&self) -> LayoutMapper {
        self.mapper
    }

    /// The name of the ELF file that holds the mapping code, if one does.
    #[cfg(any(feature = "cli", feature = "fuzz"))]
    pub(crate) fn program(&self) -> Option<&str> {
        match self.subject.name() {
            MapperName::Elf(name) => Some(name),
            _ => None,
        }
    }

    /// The same, where it is a built-in layout, in other code that does what it does; or, in the museum, nearly that.
    #[cfg(any(feature = "cli", feature = "fuzz"))]
    pub(crate) fn layout_in<M>(mut self, code: impl FnOnce(LayoutMapper) -> M) -> Self
    where
        M: Mapper + Clone + Send + Sync + 'static,
    {
        if let MapperName::Layout { .. } = self.subject.name() {
            self.subject = Subject::layout(self.mapper, code(self.mapper));
        }
        self
    }

    /// How many counters an ELF file's mapping code has.
    #[cfg(feature = "fuzz")]
    pub(crate) fn program_counters(&self) -> usize {
        match self.subject.code() {
            Ok(Code::Program(program)) => program.counters.clone().count(),
            _ => 0,
        }
    }

    /// What a guest's process runs of it.
    #[cfg(feature = "cli")]
    pub(crate) fn code(&self) -> Result<Code<'_>, EngineError> {
        self.subject.code()
    }

    /// Where the first segment of an ELF file with mapping code is put that was not linked for a fixed address; None: it is no
    /// such file.
    #[cfg(feature = "cli")]
    pub(crate) fn program_base(&self) -> Option<u64> {
        match self.code() {
            Ok(Code::Program(program)) if program.bias != 0 => program.segments.first().map(|segment| segment.virt),
            _ => None,
        }
    }

    /// What must hold of its result.
    pub(crate) fn contract_in_force(&self) -> &Contract {
        self.contract.as_ref().unwrap_or(self.subject.contract())
    }

    /// How long the run may take.
    #[cfg(feature = "cli")]
    pub(crate) fn limit_of_run(&self) -> Duration {
        self.limit
    }

    /// What the CPU reports.
    #[cfg(feature = "cli")]
    pub(crate) fn cpu_request(&self) -> CpuidRequest {
        self.cpu
    }

    /// What each phase makes of virtual addresses, on tables that this scenario's mapping code builds natively, and the
    /// report on them. A phase that changes no table is left out. Without tables (the report says why) all are.
    pub fn explain(&self, addresses: &[u64]) -> Result<(Report, Vec<Address>), EngineError> {
        let mut explained = Vec::new();
        let report = self.look(&mut |phase, tables| {
            explained.extend(addresses.iter().map(|virt| Address::new(phase, Va(*virt), tables)));
        })?;
        Ok((report, explained))
    }

    /// The virtual addresses at which a physical one is found in any phase, or must be.
    pub fn virtual_addresses(&self, phys: u64) -> Result<Vec<u64>, EngineError> {
        let (mut found, mut cut) = (BTreeSet::new(), None);
        self.look(&mut |_, tables| match check::addresses_of(Pa(phys), tables) {
            Ok(mut addresses) => found.append(&mut addresses),
            Err(short) => cut = Some(short),
        })?;
        match cut {
            None => Ok(found.into_iter().map(|virt| virt.0).collect()),
            Some(cut) => {
                let what = format!("a search of the tables for PA {phys:#x}");
                Err(EngineError::Unable { what, why: cut.as_text().into() })
            }
        }
    }

    fn look(&self, look: &mut dyn FnMut(Phase, &TableCheck<'_>)) -> Result<Report, EngineError> {
        let map = self.map_as_told();
        walker::run_and_look(&self.job(&map, self.contract_in_force(), &|_| {}), &Memories::default(), look)
    }

    /// The memory map, with the Memory Attributes Table that firmware hands out.
    fn map_as_told(&self) -> Cow<'_, MemoryMap> {
        let lies =
            self.firmware.misbehaves.iter().any(|misbehaviour| misbehaviour.what == Misbehaviour::AttributesTable);
        if !lies {
            return Cow::Borrowed(&self.map);
        }
        let table = lying_attributes_table(self.map.descriptors(), self.map.attributes_table());
        Cow::Owned(self.map.clone().with_attributes_table(table))
    }

    fn job<'a>(&'a self, map: &'a MemoryMap, contract: &'a Contract, progress: &'a dyn Fn(Progress)) -> Job<'a> {
        Job {
            map,
            subject: &self.subject,
            contract,
            cpu: self.cpu,
            seed: self.seed,
            limit: self.limit,
            stretch_limit: self.stretch_limit,
            sweep_limit: self.sweep_limit,
            depth: self.depth,
            firmware: &self.firmware,
            kernel: &self.kernel,
            earlier: self.earlier.as_deref().map(|(map, virtual_map)| Earlier { map, virtual_map }),
            tampers: &self.tampers,
            rules: self.rules,
            dumps_tables: self.dumps_tables,
            debugger: None,
            progress,
        }
    }
}
