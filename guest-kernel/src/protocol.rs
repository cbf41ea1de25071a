//! What the host and the guest say to each other.
//!
//! One [`Mailbox`] lies in the guest's memory. The host writes a list of [`Command`]s and runs the guest, which carries
//! them all out and hands over with HLT. Faults in probes are recorded and resumed without the host; a fault in a runtime
//! service ends its call, and one anywhere else the run, with the registers in [`Mailbox::crash`].
//!
//! A HLT leaves KVM nothing to finish, so that the host may set registers at once, as it does around each run of mapping
//! code. What is said by [`PORT`] is rare.
//!
//! The host finds everything it needs through the [`ImageHeader`] at the start of the image.

/// Changes with any change to this file.
pub const VERSION: u32 = 12;
/// First bytes of the image header: "EFIBED" and two spaces, little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"EFIBED  ");
/// Where the guest image is linked, as a kernel's is: -2 GiB.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Virtual minus physical address of the memory the guest owns, as Linux's direct map.
pub const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;
/// Where the page of ring-3 code, and that of its stack above it, are mapped. In the low half, since what maps the
/// kernel's text should not be marked as the user's.
pub const USER_BASE: u64 = 0x0000_7fff_f000_0000;

/// The I/O port by which the guest hands over before its time; the 32-bit value says why.
pub const PORT: u16 = 0x0ef1;
/// [`Mailbox::faults`] is full; empty it and go on.
pub const HANDOVER_FAULTS_FULL: u32 = 1;
/// A fault outside a probe; see [`Mailbox::crash`].
pub const HANDOVER_CRASH: u32 = 2;
/// A panic in the kernel; see [`Mailbox::panic`].
pub const HANDOVER_PANIC: u32 = 3;

/// Commands in one batch.
pub const MAX_COMMANDS: usize = 256;
/// Probes in one batch.
pub const MAX_PROBES: usize = 8192;
/// [`Sweep`]s in one batch, its end among them. With so many the image is a multiple of eight pages long. So what lies behind it
/// begins a line of a table's entries where the image does, as it mostly does: KVM without two-dimensional paging takes in a
/// line with one fault.
pub const MAX_SWEEPS: usize = 6144;
/// Fault records before the guest hands over.
pub const MAX_FAULTS: usize = 2048;

/// What a command does. Arguments are in [`Command::args`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Op {
    /// Load CR3 with argument 0.
    LoadRoot = 0,
    /// Call the function at argument 0 in the EFI calling convention with arguments 1 to 5; the result is its status. After
    /// a fault in one, it is abandoned and [`Mailbox::services_abandoned`] set.
    Call = 1,
    /// A [`Op::Call`] that is made in the manner of [`Mailbox::odd_call`].
    OddCall = 2,
    /// Write to each page of [`Mailbox::sweeps`], up to [`SweepKind::End`].
    Sweep = 3,
    /// Do the accesses of [`Mailbox::probes`], argument 1 of them, one at least, from argument 0 on, all of the [`ProbeKind`] in
    /// argument 2.
    Probe = 4,
    /// Do the accesses of the [`Trial`]s from argument 0 on, where the ring that makes them sees them: argument 1 of them, one
    /// at least, all of the [`TrialKind`] in argument 2 and with RFLAGS from argument 3. The result is the number that
    /// succeeded, and from bit 32 the number that faulted. On the IDT at [`TRIAL_IDT`] only.
    Try = 5,
}

/// Where in the page of descriptor tables the IDT is whose handlers record the faults of [`Op::Try`].
pub const TRIAL_IDT: u64 = 0x800;
/// The same for the bare loops of [`TrialKind`].
pub const BARE_IDT: u64 = 0xa00;
/// The same for mapping code: while it runs in ring 3, every exception is handed to the host, by HLT. The stack then holds,
/// from RSP up, the vector, the error code (0 where the exception has none) and the frame that the CPU pushed; all other
/// registers are ring 3's. The guest goes on by popping the first two, and IRETQ.
pub const PROCESS_IDT: u64 = 0xc00;

/// The access of a trial; ring 3 makes it if [`TRIAL_USER`] is added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum TrialKind {
    /// Reads 8 bytes.
    Read = 0,
    /// Writes the address to itself.
    Write = 1,
    /// Jumps to the address, where code puts its number into EAX and jumps to RBP.
    Fetch = 2,
    /// Reads through the stack segment: a bad address is #SS.
    StackRead = 3,
    /// Writes through it.
    StackWrite = 4,
    /// Loads FS with the first descriptor of the LDT, which lies at the address: the CPU itself reads it.
    Implicit = 5,
    /// A bare loop, to compare speed with: writes 0 to the three words that the first record points at with what comes
    /// after its first field. Nothing is recorded.
    BareEntries = 6,
    /// A bare loop that reads at the address of the first record, each time. Its faults are not recorded either: on the
    /// IDT at [`BARE_IDT`].
    BareRead = 7,
    /// The same, written.
    BareWrite = 8,
    /// The same, jumped to.
    BareFetch = 9,
}

/// Added to a [`TrialKind`].
pub const TRIAL_USER: u64 = 1 << 8;

/// Bytes of each array of a list of [`Trial`]s.
pub const TRIAL_ARRAY: usize = 4096;

/// [`Trial::value`] and [`Trial::error_code`] before the trial.
pub const TRIAL_NOT_RUN: u64 = u64::MAX;

/// One access of [`Op::Try`] and what came of it, in as few words as possible. Records are in memory as four arrays of
/// [`TRIAL_ARRAY`] bytes, one after another, one for each field: an emulator takes its time for every instruction, and so
/// it takes the fewest to go from one record to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Trial {
    /// Where.
    pub virt: u64,
    /// What was read, written or returned, if the access succeeded.
    pub value: u64,
    /// If it faulted: the error code, with the vector from bit 56, or 0 there for #PF.
    pub error_code: u64,
    /// CR2, if it was a #PF.
    pub cr2: u64,
}

/// The access of a probe, and the ring it is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum ProbeKind {
    /// Ring 0 reads 8 bytes.
    Read = 0,
    /// Ring 0 writes the address to itself.
    Write = 1,
    /// Ring 0 calls the address.
    Fetch = 2,
    /// Ring 3 reads.
    UserRead = 3,
    /// Ring 3 writes.
    UserWrite = 4,
    /// Ring 3 calls.
    UserFetch = 5,
}

/// One step of a batch.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Command {
    /// An [`Op`].
    pub op: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned, if its kind returns something.
    pub result: u64,
}

/// [`Probe::status`]: the guest has not said that the access succeeded.
pub const PROBE_NOT_RUN: u64 = 0;
/// The access succeeded; [`Probe::value`] is what was read, or what the called routine returned.
pub const PROBE_DONE: u64 = 1;
/// The access faulted. The guest leaves this, and the address in [`Probe::fault`], to the host, which knows it by the
/// vector: no probe can raise vector 0.
pub const PROBE_FAULTED: u64 = 2;

/// One access and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Probe {
    /// Where.
    pub virt: u64,
    /// One of the `PROBE_` constants.
    pub status: u64,
    /// What was read or returned.
    pub value: u64,
    /// How it faulted.
    pub fault: Fault,
}

/// One exception, as the CPU delivered it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Fault {
    /// The vector (SDM vol. 3A, 6.3.1).
    pub vector: u32,
    /// The error code, 0 where the exception has none.
    pub error_code: u32,
    /// CR2 at entry of the handler; says something for page faults only.
    pub cr2: u64,
    /// The instruction that faulted.
    pub rip: u64,
    /// The address of the access.
    pub virt: u64,
}

/// Pages to be swept, one after another, all in one way.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Sweep {
    /// The first page.
    pub virt: u64,
    /// How many of its kind, one at least.
    pub count: u64,
    /// What carries it out: [`ImageHeader::sweep_codes`]. To choose it where the guest is emulated would take instructions.
    pub code: u64,
}

/// The ways to sweep.
///
/// Where ring 0 is emulated every instruction takes its time, so a pair is written with one store of 8 bytes across the border
/// of its pages, a group shares its number, and a block the step to the next one. Groups, in blocks or not, and pairs outside
/// of groups are numbered from 0 on through a batch, up to 65,536 of them. What is written has the number in its lowest 16 bits
/// and in its highest, and zeros between. Of pair `k` of a group, 2 + k bytes lie at the end of the first page and the others
/// at the start of the second; a pair by itself is written as pair 0. So each half tells the number, and its length which pair
/// it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum SweepKind {
    /// [`SWEEP_BLOCK`] groups.
    Block = 0,
    /// [`SWEEP_GROUP`] pairs.
    Group = 1,
    /// Two pages.
    Pair = 2,
    /// One page, which is written its address at its start. So are both pages of a pair whose store has faulted.
    Single = 3,
    /// No page: the sweeps are over.
    End = 4,
}

/// Pairs of pages that share a number.
pub const SWEEP_GROUP: u64 = 5;
/// Groups in a block.
pub const SWEEP_BLOCK: u64 = 8;

/// Registers at a fault outside a probe.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Crash {
    /// RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
    pub registers: [u64; 15],
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// The vector.
    pub vector: u64,
    /// The error code, 0 where the exception has none.
    pub error_code: u64,
    /// The frame that the CPU pushed: RIP, CS, RFLAGS, RSP, SS.
    pub frame: [u64; 5],
}

/// Where the kernel panicked.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Panic {
    /// Virtual address of the source file's name.
    pub file: u64,
    /// Its length.
    pub file_bytes: u64,
    /// The line.
    pub line: u64,
}

/// Everything that host and guest share.
#[repr(C, align(4096))]
pub struct Mailbox {
    /// [`VERSION`], from the host.
    pub version: u32,
    /// Commands in this batch.
    pub command_count: u32,
    /// The command being carried out, or `command_count` when all are done.
    pub command_at: u64,
    /// At [`HANDOVER_CRASH`], and once a runtime service has been abandoned after a fault (else all 0).
    pub crash: Crash,
    /// At [`HANDOVER_PANIC`].
    pub panic: Panic,
    /// Records in `faults`, when all commands are done; at [`HANDOVER_FAULTS_FULL`] all are.
    pub fault_count: u64,
    /// The batch.
    pub commands: [Command; MAX_COMMANDS],
    /// For [`Op::Sweep`].
    pub sweeps: [Sweep; MAX_SWEEPS],
    /// For [`Op::Probe`].
    pub probes: [Probe; MAX_PROBES],
    /// Faults of sweeps.
    pub faults: [Fault; MAX_FAULTS],
    /// Not 0: the runtime service that the command of this number, counted from 1, called has been abandoned, after a fault
    /// that [`Mailbox::crash`] describes or by the host. No more are called.
    pub services_abandoned: u64,
    /// The one [`Op::Call`] that is not a correct call of a runtime service: a kernel's mistake.
    pub odd_call: OddCall,
}

/// What is odd about a call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct OddCall {
    /// Bytes that the stack pointer is below a multiple of 16.
    pub stack_bytes: u64,
    /// RFLAGS during the call.
    pub rflags: u64,
}

/// What the call of a service that is abandoned returns (UEFI 2.10, appendix D).
pub const EFI_ABORTED: u64 = 1 << 63 | 21;
/// What those after it return.
pub const EFI_UNSUPPORTED: u64 = 1 << 63 | 3;

/// At [`IMAGE_BASE`]: where the host finds things. All addresses are virtual.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u64,
    /// First instruction.
    pub entry: u64,
    /// RSP there.
    pub stack_top: u64,
    /// The [`Mailbox`].
    pub mailbox: u64,
    /// One page in the read-only part, which the host fills with the IDT, GDT and TSS.
    pub descriptor_tables: u64,
    /// An array of 32 addresses: the handler of each vector.
    pub vectors: u64,
    /// The same for [`Op::Try`], and after them the handler of #PF for the bare loops.
    pub trial_vectors: u64,
    /// An array of 32 addresses: the handlers while mapping code runs.
    pub process_vectors: u64,
    /// An array of addresses: what carries out each [`SweepKind`].
    pub sweep_codes: u64,
    /// RIP when a batch is done, after its HLT.
    pub batch_done: u64,
    /// The same when an exception of mapping code is handed over.
    pub process_halted: u64,
    /// The top of the first of seven interrupt stacks, [`IST_BYTES`] apart.
    pub ist_top: u64,
    /// One page of ring-3 code.
    pub user_text: u64,
    /// One page for the ring-3 stack.
    pub user_stack: u64,
    /// Where a fetch probe returns to in ring 0.
    pub fetch_return: u64,
    /// The same in ring 3, as mapped at [`USER_BASE`].
    pub user_fetch_return: u64,
    /// Where a call of a runtime service is abandoned: the host may set RIP to it.
    pub call_abandon: u64,
    /// A word that is not 0 while a service is called.
    pub call_rsp: u64,
    /// The last page of the image, for arguments after which nothing is mapped.
    pub edge: u64,
    /// End of the read-only part, page-aligned.
    pub read_only_end: u64,
    /// End of the image, page-aligned.
    pub end: u64,
}

/// Bytes of the kernel's stack, below [`ImageHeader::stack_top`].
pub const STACK_BYTES: u64 = 32 * 1024;
/// Bytes of each interrupt stack.
pub const IST_BYTES: u64 = 4096;

/// Segment selectors in the GDT that the host lays out.
pub mod selector {
    /// Ring-0 code.
    pub const KERNEL_CODE: u16 = 0x08;
    /// Ring-0 data.
    pub const KERNEL_DATA: u16 = 0x10;
    /// Ring-3 data.
    pub const USER_DATA: u16 = 0x18 | 3;
    /// Ring-3 code.
    pub const USER_CODE: u16 = 0x20 | 3;
    /// The task-state segment (two slots).
    pub const TSS: u16 = 0x28;
}
