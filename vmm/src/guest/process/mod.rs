//! Ring 3 of the guest: the address space in which mapping code runs, and what becomes of its exceptions.
//!
//! Mapping code sees what it was given (memory map, pool, request, result, log) where this process has the guest's memory
//! mapped; a stack and a heap; and the pages that its code lies in. All of that is mapped as it is touched, and what is touched
//! by nearly all mapping code beforehand. The kernel is there too, out of its reach.
//!
//! | file | holds |
//! | --- | --- |
//! | `space` | the tables, and what they map |
//! | `own` | code of this process: copies of its pages, and where it begins |
//! | `maps` | which pages this process has |
//! | `heap` | `malloc` and its like, for code of this process |
//! | `exception` | one exception, and the instruction at which it came |
//! | `halted` | ring 3 halted, for a debugger |
//! | `unwind` | from one frame of the stack to the next |
//! | `program` | an ELF file with mapping code |
//! | `loading` | such a file in ring 3 |
//! | `symbols` | from an instruction to a function, a file and a line |
//! | `start` | the registers with which it is entered |
//! | `privileged` | privileged instructions that a kernel's mapping code may use |

#[cfg(test)]
mod compiled;
mod exception;
mod halted;
mod heap;
mod loading;
mod maps;
mod own;
mod privileged;
pub mod program;
mod space;
mod start;
pub mod symbols;
mod unwind;

use std::collections::BTreeMap;
use std::ops::Range;

use efibed_guest::mapper::Step;

use super::layout::{
    AT_HAND_AT, AT_HAND_BYTES, COPIES_AT, COPY_BYTES, GUARD_BYTES, HEAP_AT, HEAP_BYTES, PROGRAM_DIRECT_MAP, STACK_AT,
    STACK_BYTES, TABLE_BYTES,
};
use super::stretch::stretch;
use super::{Case, OwnMemory, PAGE_BYTES};
use crate::machine::{Backing, BackingError, Machine, kvm_regs};
use crate::mmu::{Access, Fault, Pa, Paging, Va, bits, walk};
use vmm_sys_util::errno;

pub use exception::Exception;
pub use halted::{Debugger, FaultOfRing0, Halt, Halted, Resume};
use loading::Loading;
pub use maps::{PROCMAP_QUERY, first_address_of, open as open_maps};
use own::Pages;
pub use own::{Called, call_natively};
pub use program::{Program, ProgramError, Segment};
use space::{Area, Rights, Space};
pub use start::Start;
pub use symbols::Symbols;
pub use unwind::Frame;

/// Where the code of a process comes from.
pub enum Code<'a> {
    /// This process: a mapper that is called with [`Process::start`].
    Own,
    /// An ELF file, which is called with [`Process::start_program`].
    Program(&'a Program),
}

/// Mapping code in ring 3, and what it may touch.
pub struct Process {
    memory: OwnMemory,
    space: Space,
    source: Source,
    stack: Range<u64>,
    heap: Range<u64>,
    /// Virtual minus physical address of all memory that it is given.
    direct_map: u64,
    paging: Paging,
    served: BTreeMap<&'static str, u64>,
    has_foreseen: bool,
    ended: Option<Ended>,
    /// The bases of FS and GS.
    bases: [u64; 2],
    /// The registers with which it was left last.
    left_with: kvm_regs,
}

/// How ring 3 was left.
#[derive(Clone, Debug)]
pub enum Ended {
    /// The mapping code returned, with this in RAX.
    Returned {
        /// It says something of a program only: the value of its function.
        rax: u64,
    },
    /// An exception that nothing could be done about.
    Exception(Box<Exception>),
    /// A debugger ended it.
    Killed,
}

impl Process {
    /// Makes the memory of a process that has come to its end fit for another. Its tables are left, to be compared.
    pub fn clear(memory: &Backing, code: &Code<'_>) -> Result<(), errno::Error> {
        let end = match code {
            // No page of the copies is shown before something else is copied to it, all of it.
            Code::Own => COPIES_AT,
            Code::Program(_) => memory.bytes(),
        };
        memory.clear_part(space::end_of_tables(memory)..end)
    }

    /// A process with [`PROCESS_BYTES`](super::layout::PROCESS_BYTES) of memory, which is new or was cleared.
    pub fn new(case: &Case, memory: OwnMemory, paging: &Paging, code: &Code<'_>) -> Result<Self, ProcessError> {
        let at = memory.base();
        // Code of this process finds things where this process has them.
        let [own_map, direct_map] = match code {
            Code::Own => [memory.host_offset(), case.memory.host_offset()],
            Code::Program(_) => [PROGRAM_DIRECT_MAP; 2],
        };
        let virt = |phys: u64| phys.wrapping_add(own_map);
        let tables = stretch(at, TABLE_BYTES);
        let part = |from: u64, bytes| stretch(at.saturating_add(from), bytes);
        let [stack, heap, copies, at_hand] =
            [(STACK_AT, STACK_BYTES), (HEAP_AT, HEAP_BYTES), (COPIES_AT, COPY_BYTES), (AT_HAND_AT, AT_HAND_BYTES)]
                .map(|(at, bytes)| part(at, bytes));
        let mut space = Space::new(&memory, tables, case, paging)?;
        let given = |phys: Range<u64>, rights| Area { virt: phys.start.wrapping_add(direct_map), phys, rights };
        let own = |phys: &Range<u64>| Area { virt: virt(phys.start), phys: phys.clone(), rights: Rights::WRITE };
        let placement = &case.placement;
        for area in [
            given(placement.memory_map(), Rights::WRITE),
            given(placement.virtual_map(), Rights::WRITE),
            given(placement.attributes(), Rights::READ),
            given(placement.desk(), Rights::WRITE),
            given(placement.boot_tables(), Rights::READ),
            given(placement.pool(), Rights::WRITE),
            own(&stack),
            own(&heap),
        ] {
            space.give(area);
        }
        let as_seen = |phys: Range<u64>| virt(phys.start)..virt(phys.end);
        let source = match code {
            Code::Own => {
                heap::prepare(&memory, heap.clone());
                Source::Own(Pages::new([copies, at_hand], [&memory, &case.memory]))
            }
            Code::Program(program) => Source::Program(Loading::new(program, &memory, &mut space, copies)?),
        };
        Ok(Self {
            stack: as_seen(stack),
            heap: as_seen(heap),
            direct_map,
            source,
            space,
            memory,
            paging: *paging,
            served: BTreeMap::new(),
            has_foreseen: false,
            ended: None,
            bases: [0; 2],
            left_with: kvm_regs::default(),
        })
    }

    /// Virtual minus physical address of what [`Case::ask`] names.
    pub fn direct_map(&self) -> u64 {
        self.direct_map
    }

    /// Its memory.
    pub fn memory(&self) -> &OwnMemory {
        &self.memory
    }

    /// Its memory, once it has come to its end.
    pub fn into_memory(self) -> OwnMemory {
        if let Source::Own(pages) = &self.source {
            pages.remember(|page| self.was_used(page));
        }
        self.memory
    }

    /// Whether the CPU has used the entry of a page.
    fn was_used(&self, page: u64) -> bool {
        let walk = walk(&self.memory, Pa(self.root()), Va(page), Access::read().user(), &self.paging);
        walk.steps().last().is_some_and(|leaf| leaf.entry & bits::A != 0)
    }

    /// The root of its tables.
    pub fn root(&self) -> u64 {
        self.space.root()
    }

    /// How it is entered for a call of a mapper of this process. The mapper's box must stay where it is meanwhile.
    pub fn start(&mut self, called: &Called<'_>) -> Start {
        let start = own::start(called, &self.heap);
        self.begin(start, called.pages())
    }

    /// How it is entered for a step of a program; None: the program has no such function.
    pub fn start_program(&mut self, step: Step, case: &Case) -> Option<Start> {
        let Source::Program(loading) = &self.source else { return None };
        let rip = loading.entry(step)?;
        let [request, result] = [case.request_at(), case.result_at()].map(|at| at.wrapping_add(self.direct_map));
        Some(self.begin(Start { rip, rsp: 0, arguments: [request, result, 0, 0], bases: [0; 2] }, Vec::new()))
    }

    /// A fresh stack, with the address to return to on it, as after a call (System V ABI for x86-64, 3.2.2).
    fn begin(&mut self, start: Start, at_hand: Vec<u64>) -> Start {
        self.ended = None;
        self.foresee(at_hand);
        self.bases = start.bases;
        let rsp = self.stack.end.wrapping_sub(8);
        let top = self.heap_at().wrapping_sub(8);
        // The stack is a part of this memory.
        let _ = self.memory.write_u64(top, self.source.leave());
        Start { rsp, ..start }
    }

    /// Maps, once, what mapping code touches anyway: each fault that is spared is an exit.
    fn foresee(&mut self, at_hand: Vec<u64>) {
        /// Of the stack.
        const TOP_BYTES: u64 = 16 * PAGE_BYTES;
        if std::mem::replace(&mut self.has_foreseen, true) {
            return;
        }
        self.space.foresee(&self.memory, self.stack.end.saturating_sub(TOP_BYTES));
        if let Source::Own(pages) = &mut self.source {
            pages.foresee(at_hand, &self.memory, &mut self.space);
        }
    }

    /// The parts of its memory, physical: ring 3's tables; what mostly lies where it lay in the process before; what does not.
    pub fn parts(&self) -> [Range<u64>; 3] {
        let [start, end] = [self.memory.base(), self.memory.end()];
        let [tables_end, at_hand] = [TABLE_BYTES, AT_HAND_AT].map(|at| start.saturating_add(at));
        [start..tables_end, tables_end..at_hand, at_hand..end]
    }

    /// Whether its tables map all that those of the process before it did to the first two parts, in the same way.
    pub fn maps_as_before(&self) -> bool {
        let [tables, usual, _] = self.parts();
        self.space.maps_as_before(&self.memory, &(tables.start..usual.end))
    }

    /// How it was left, if it was.
    pub fn ended(&mut self) -> Option<Ended> {
        self.ended.take()
    }

    /// The privileged instructions that were carried out for it, and how often.
    pub fn served(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.served.iter().map(|(what, count)| (*what, *count))
    }

    /// What becomes of an exception, with the machine stopped in ring 0's handler. True: ring 3 goes on.
    pub(super) fn handle(&mut self, exception: Exception, machine: &mut Machine, case: &Case) -> bool {
        if exception.fault.vector == Fault::INVALID_OPCODE && exception.rip == self.source.leave() {
            self.leave_with(&exception, case);
            self.ended = Some(Ended::Returned { rax: exception.registers.rax });
            return false;
        }
        if exception.is_not_present() && self.provide(exception.cr2) {
            return true;
        }
        if let Some(what) = privileged::serve(&exception, &self.code_at(exception.rip), machine, case) {
            let count = self.served.entry(what).or_default();
            *count = count.saturating_add(1);
            return true;
        }
        self.leave_with(&exception, case);
        self.ended = Some(Ended::Exception(Box::new(exception)));
        false
    }

    /// Maps what is to be found at an address; false: nothing is.
    fn provide(&mut self, virt: u64) -> bool {
        if self.space.touch(&self.memory, virt) {
            return true;
        }
        match &mut self.source {
            Source::Own(pages) => pages.provide(virt, &self.memory, &mut self.space),
            Source::Program(_) => false,
        }
    }

    /// The instruction at an address, as ring 3 sees it, and what follows it: 15 bytes at most (SDM vol. 2A, 2.3.11).
    pub fn code_at(&self, rip: u64) -> Vec<u8> {
        let byte = |offset: u64| {
            let mut byte = [0];
            self.read(rip.wrapping_add(offset), Access::fetch(), &mut byte).then_some(byte[0])
        };
        (0..15).map_while(byte).collect()
    }

    /// What a program has counted of its coverage; empty: nothing counts.
    pub fn counters(&self) -> Vec<u8> {
        let Source::Program(loading) = &self.source else { return Vec::new() };
        let range = loading.counters();
        let mut counters = vec![0; range.end.saturating_sub(range.start) as usize];
        let mut rest = &mut counters[..];
        let mut virt = range.start;
        while !rest.is_empty() {
            let in_page = PAGE_BYTES.saturating_sub(virt % PAGE_BYTES);
            let (part, others) = rest.split_at_mut(rest.len().min(in_page as usize));
            // What cannot be read was not counted in.
            let _ = self.read(virt, Access::read(), part);
            virt = virt.saturating_add(in_page);
            rest = others;
        }
        counters
    }

    /// Reads what ring 3 sees at an address, within a page; false: it sees nothing there.
    fn read(&self, virt: u64, access: Access, bytes: &mut [u8]) -> bool {
        let walk = walk(&self.memory, Pa(self.root()), Va(virt), access.user(), &self.paging);
        walk.translation().is_some_and(|translation| self.memory.read(translation.pa.0, bytes))
    }

    /// What lies at an address; None: nothing.
    pub fn what_lies_at(&self, virt: u64, case: &Case) -> Option<String> {
        if virt < PAGE_BYTES {
            return Some("the null page".into());
        }
        if self.is_below_the_stack(virt) {
            return Some("the guard below the stack".into());
        }
        self.space.owner(virt, self.direct_map, case).or_else(|| match &self.source {
            Source::Own(pages) => pages.what_lies_at(virt),
            Source::Program(loading) => loading.what_lies_at(virt),
        })
    }

    /// A word of the stack.
    pub fn stack_word(&self, virt: u64) -> Option<u64> {
        let offset = virt.checked_sub(self.stack.start).filter(|_| virt < self.stack.end)?;
        let stack = self.memory.base().checked_add(STACK_AT)?;
        self.memory.read_u64(stack.checked_add(offset)?)
    }

    /// What the code wanted and this test bed has no room for, if that is what it met an exception at.
    pub fn no_room_for(&self, exception: &Exception) -> Option<String> {
        match &self.source {
            Source::Own(pages) if exception.is_not_present() && pages.is_full_at(exception.cr2) => {
                Some(format!("copies of more than {} MiB of this process", COPY_BYTES >> 20))
            }
            _ => None,
        }
    }

    /// Whether it was refused memory: its heap has no more.
    pub fn is_out_of_heap(&self) -> bool {
        matches!(self.source, Source::Own(_)) && heap::has_refused(&self.memory, self.heap_at())
    }

    /// The physical address of the heap, and the end of the stack.
    fn heap_at(&self) -> u64 {
        self.memory.base().wrapping_add(HEAP_AT)
    }

    /// Whether an exception came of an instruction that is ring 0's.
    pub fn is_privileged(&self, exception: &Exception) -> bool {
        privileged::is_cause(exception, &self.code_at(exception.rip))
    }

    /// Whether an address is right below the stack.
    pub fn is_below_the_stack(&self, virt: u64) -> bool {
        (self.stack.start.saturating_sub(GUARD_BYTES)..self.stack.start).contains(&virt)
    }
}

/// What ring 3 runs.
enum Source {
    Own(Pages),
    Program(Loading),
}

impl Source {
    /// Where a call returns to: UD2 ends it on every KVM.
    fn leave(&self) -> u64 {
        match self {
            Self::Own(_) => own::leave(),
            Self::Program(loading) => loading.leave(),
        }
    }
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The host has no memory for it.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// Its tables do not fit.
    #[error(transparent)]
    Tables(#[from] super::OutOfPages),
}

#[cfg(test)]
mod tests {
    use super::super::layout::PROCESS_BYTES;
    use super::super::{Image, Kernel, Placement, Sizes, Strides};
    use super::*;
    use crate::memory_map::MemoryMap;

    /// What a page table maps: 512 pages (SDM vol. 3A, table 4-15).
    const TABLE_REACH: u64 = 512 * PAGE_BYTES;

    /// What one process leaves to the next.
    struct Lodging {
        kernel: Kernel,
        memory: OwnMemory,
    }

    fn map() -> MemoryMap {
        MemoryMap::from_descriptors("test", Vec::new())
    }

    fn sizes(pool_pages: u64) -> Sizes {
        Case::sizes(Image::built_in().unwrap(), &map(), Strides::default(), 0, pool_pages, 0)
    }

    impl Lodging {
        fn new(pool_pages: u64) -> Self {
            let placement = Placement::find(&map(), sizes(pool_pages), 1 << 36, &[]).unwrap();
            let backing = Backing::new(placement.sizes.total()).unwrap();
            let kernel = Kernel::new(Image::built_in().unwrap(), backing, placement);
            Self { kernel, memory: OwnMemory::new(0x1_0000_0000, PROCESS_BYTES).unwrap() }
        }

        /// A process with so many pages in its pool, all of which it looks at, that lies in one page itself and touches others, in
        /// this order. The result: whether its tables map as those before it did.
        fn runs(self, pool_pages: u64, own: u64, touches: &[u64]) -> (bool, Self) {
            let placement = Placement { sizes: sizes(pool_pages), ..self.kernel.placement() };
            let kernel = self.kernel.again(placement).unwrap();
            let case = Case::beside(&kernel, &map(), Strides::default(), &[], &Paging::default()).unwrap();
            Process::clear(self.memory.backing(), &Code::Own).unwrap();
            let mut process = Process::new(&case, self.memory, &Paging::default(), &Code::Own).unwrap();
            process.foresee(vec![own]);
            assert!(process.provide(placement.pool().end.wrapping_add(process.direct_map()) - 1));
            assert!(touches.iter().all(|page| process.provide(*page)));
            (process.maps_as_before(), Self { kernel, memory: process.into_memory() })
        }
    }

    #[test]
    fn tables_that_map_the_same_pages_of_a_process_are_as_before() {
        // Pages of this process, far from one another, and of one table: else the order of the tables would differ, too.
        let memory = vec![1_u8; 2 * TABLE_REACH as usize];
        let start = (memory.as_ptr() as u64).next_multiple_of(TABLE_REACH);
        let [one, two, own, other] = [1, 17, 33, 49].map(|page| start + page * PAGE_BYTES);
        let (is_as_before, lodging) = Lodging::new(64).runs(64, own, &[one]);
        assert!(is_as_before, "there was nothing before");
        let (is_as_before, lodging) = lodging.runs(40, other, &[one]);
        assert!(is_as_before, "the mapper lies elsewhere, and the pool is smaller");
        let (is_as_before, lodging) = lodging.runs(40, own, &[one, two]);
        assert!(is_as_before, "what is mapped besides was not there");
        let (is_as_before, lodging) = lodging.runs(40, own, &[two, one]);
        assert!(!is_as_before, "each page is where the other one was");
        let (is_as_before, _) = lodging.runs(40, own, &[two]);
        assert!(!is_as_before, "a page is not there any more");
    }
}
