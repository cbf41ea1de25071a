//! What the room's tests share: a map, guest memory, and a trap's registers.

use std::cell::Cell;
use std::collections::BTreeMap;

use efibed_stub::image::{ENTRY_BYTES, IMAGE_PAGE_OFFSET, POINTER_OFFSET, RESUME, TRAP_OFFSET, code_offset};
use efibed_stub::script::{MAGIC, NO_SCRIPT, Op};
use efibed_stub::{DESCRIPTOR_STRIDE, Service};
use uefi_raw::Status;
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};
use uefi_raw::table::runtime::ResetType;

use super::call::image_at;
use super::{Answer, Call, Firmware, GuestMemory, PAGE_BYTES, PAGE_SIZE, Refusal, StubCall};
use crate::mmu::{Access, Pa, Va};

/// Conventional memory, code (3 pages), data (2 pages) and a device's registers; all but the first RUNTIME.
pub fn code_and_data() -> Vec<MemoryDescriptor> {
    let mut conventional = descriptor(MemoryType::CONVENTIONAL, 0, 0x40);
    conventional.att = MemoryAttribute::WRITE_BACK;
    vec![
        conventional,
        descriptor(MemoryType::RUNTIME_SERVICES_CODE, 0x80_0000, 3),
        descriptor(MemoryType::RUNTIME_SERVICES_DATA, 0x7C00_0000, 2),
        descriptor(MemoryType::MMIO, 0xFEE0_0000, 1),
    ]
}

/// A RUNTIME descriptor.
pub fn descriptor(ty: MemoryType, phys_start: u64, page_count: u64) -> MemoryDescriptor {
    MemoryDescriptor {
        ty,
        phys_start,
        page_count,
        att: MemoryAttribute::RUNTIME | MemoryAttribute::WRITE_BACK,
        ..MemoryDescriptor::default()
    }
}

/// The registers at the trap of the stub that was called at this address.
pub fn trap(called_at: u64) -> StubCall {
    let entry = called_at % PAGE_SIZE - IMAGE_PAGE_OFFSET as u64;
    StubCall { rax: entry / ENTRY_BYTES as u64, rip: called_at + TRAP_OFFSET as u64, ..StubCall::default() }
}

/// Pages by their numbers; what was not put there is not backed. Virtual addresses are physical ones, but where `map`
/// says otherwise.
#[derive(Clone, Default)]
pub struct TestMemory {
    pages: BTreeMap<u64, [u8; PAGE_BYTES]>,
    tables: BTreeMap<u64, Option<u64>>,
    reads: Cell<usize>,
}

impl TestMemory {
    /// Firmware's pages.
    pub fn with_firmware(firmware: &Firmware) -> Self {
        let mut memory = Self::default();
        for (phys, content, _) in firmware.pages() {
            memory.put(phys.0, content);
        }
        memory
    }

    /// Backs the pages of the range, and writes it.
    pub fn put(&mut self, phys: u64, data: &[u8]) {
        for address in (phys..).take(data.len()).chain([phys]) {
            self.pages.entry(address / PAGE_SIZE).or_insert([0; PAGE_BYTES]);
        }
        assert!(self.write(Pa(phys), data));
    }

    /// Takes a page's backing away.
    pub fn take(&mut self, phys: u64) {
        self.pages.remove(&(phys / PAGE_SIZE));
    }

    /// Maps a virtual page to a physical one, or to none.
    pub fn map(&mut self, virt: u64, phys: Option<u64>) {
        self.tables.insert(virt / PAGE_SIZE, phys);
    }

    pub fn u64(&self, phys: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.read(Pa(phys), &mut bytes));
        u64::from_le_bytes(bytes)
    }

    pub fn flip(&mut self, phys: u64, mask: u8) {
        self.pages.get_mut(&(phys / PAGE_SIZE)).unwrap()[(phys % PAGE_SIZE) as usize] ^= mask;
    }

    /// How often the memory has been read.
    pub fn reads(&self) -> usize {
        self.reads.get()
    }

    /// The page of each part of a range, and where in that page and in the range the part is.
    fn parts(phys: u64, bytes: usize) -> Option<impl Iterator<Item = (u64, usize, core::ops::Range<usize>)>> {
        let last = phys.checked_add((bytes as u64).saturating_sub(1))?;
        Some((phys / PAGE_SIZE..=last / PAGE_SIZE).map(move |page| {
            let start = phys.max(page * PAGE_SIZE);
            let end = (page * PAGE_SIZE + (PAGE_SIZE - 1)).min(last);
            let part = (start - phys) as usize..(end - phys) as usize + usize::from(bytes > 0);
            (page, (start % PAGE_SIZE) as usize, part)
        }))
    }

    fn is_backed(&self, phys: u64, bytes: usize) -> bool {
        Self::parts(phys, bytes).is_some_and(|mut parts| parts.all(|(page, ..)| self.pages.contains_key(&page)))
    }
}

impl GuestMemory for TestMemory {
    fn translate(&self, _cr3: Pa, Va(virt): Va, _access: Access) -> Option<Pa> {
        let page = self.tables.get(&(virt / PAGE_SIZE)).copied().unwrap_or(Some(virt - virt % PAGE_SIZE))?;
        Some(Pa(page + virt % PAGE_SIZE))
    }

    fn read(&self, Pa(phys): Pa, buf: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        if !self.is_backed(phys, buf.len()) {
            return false;
        }
        for (page, at, part) in Self::parts(phys, buf.len()).into_iter().flatten() {
            let bytes = part.len();
            buf[part].copy_from_slice(&self.pages[&page][at..][..bytes]);
        }
        true
    }

    fn write(&mut self, Pa(phys): Pa, data: &[u8]) -> bool {
        if !self.is_backed(phys, data.len()) {
            return false;
        }
        for (page, at, part) in Self::parts(phys, data.len()).into_iter().flatten() {
            let bytes = part.len();
            self.pages.get_mut(&page).unwrap()[at..][..bytes].copy_from_slice(&data[part]);
        }
        true
    }
}

/// Firmware, memory, and a caller whose stub is played here instead of by a processor.
pub struct Bed {
    pub firmware: Firmware,
    pub memory: TestMemory,
    last: Option<Call>,
}

/// Where the caller's stack is: RSP at the trap of a service, a multiple of 16 before the call.
const STACK: u64 = 0xF_0F58;

/// Scripts that a stub may need for one call: 16 MiB of a virtual map are touched in as many pages.
const MAX_SCRIPTS: usize = 200;

impl Bed {
    pub fn new() -> Self {
        Self::over(&code_and_data())
    }

    pub fn over(map: &[MemoryDescriptor]) -> Self {
        let firmware = Firmware::lay_out(map, &[], |_| true).unwrap();
        let mut memory = TestMemory::with_firmware(&firmware);
        memory.put(STACK, &[0; 64]);
        for descriptor in map {
            for offset in (0..descriptor.page_count.min(8)).map(|page| page * PAGE_SIZE) {
                let phys = descriptor.phys_start.wrapping_add(offset);
                memory.map(WINDOW.wrapping_add(phys), Some(phys));
            }
        }
        Self { firmware, memory, last: None }
    }

    /// Calls a service with up to five arguments, where the table says it is; returns what its stub does.
    pub fn call(&mut self, service: Service, args: &[u64]) -> Status {
        match self.run(service, args) {
            Ok(status) => status,
            Err(reset) => panic!("{reset:?}"),
        }
    }

    /// Calls ResetSystem.
    pub fn reset(&mut self, args: &[u64]) -> Option<ResetType> {
        self.run(Service::ResetSystem, args).err()
    }

    /// Why the last call was refused.
    pub fn refusal(&self) -> Option<Refusal> {
        self.last.as_ref().and_then(|call| call.refusal.clone())
    }

    /// The last call.
    pub fn last(&self) -> &Call {
        self.last.as_ref().unwrap()
    }

    pub fn array<const BYTES: usize>(&self, phys: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        assert!(self.memory.read(Pa(phys), &mut bytes));
        bytes
    }

    fn run(&mut self, service: Service, args: &[u64]) -> Result<Status, ResetType> {
        let arg = |index: usize| args.get(index).copied().unwrap_or(0);
        let entry = self.firmware.virtual_entry(service).unwrap_or(self.firmware.entry(service).one_to_one());
        let mut regs =
            StubCall { rcx: arg(0), rdx: arg(1), r8: arg(2), r9: arg(3), rsp: STACK, rflags: 2, ..trap(entry.0) };
        self.memory.put(STACK + 40, &arg(4).to_le_bytes());
        match self.firmware.answer(&regs, &mut self.memory).unwrap() {
            Answer::Called(call) => {
                let status = call.status;
                self.last = Some(call);
                assert_eq!(self.play_stub(&mut regs), Played::Returned(status));
                Ok(status)
            }
            Answer::Reset(call, reset) => {
                self.last = Some(call);
                Err(reset)
            }
            Answer::Resumed => panic!("nothing was resumed"),
        }
    }

    /// What the stub does after its trap.
    pub fn play_stub(&mut self, regs: &mut StubCall) -> Played {
        for _ in 0..MAX_SCRIPTS {
            match run_script(&mut self.memory, regs.rip) {
                Played::More => {}
                end => return end,
            }
            *regs = StubCall { rax: RESUME.into(), ..trap(resume_entry(regs.rip)) };
            assert_eq!(self.firmware.answer(regs, &mut self.memory), Ok(Answer::Resumed));
        }
        panic!("the stub did not come to an end");
    }
}

/// The resume entry in the page of a stub.
fn resume_entry(rip: u64) -> u64 {
    rip - rip % PAGE_SIZE + (IMAGE_PAGE_OFFSET + RESUME as usize * ENTRY_BYTES) as u64
}

/// What came of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Played {
    Returned(Status),
    /// There is more: the stub traps again.
    More,
    /// The stub has gone where the script sent it.
    Jumped(u64),
    /// It will never return.
    Hangs,
    /// There is nothing at this address.
    Faulted(u64),
}

/// Carries a script out, as the stub whose page this RIP is in does (`efibed_stub::image`).
pub fn run_script(memory: &mut TestMemory, rip: u64) -> Played {
    play_script(memory, rip).unwrap_or_else(Played::Faulted)
}

fn play_script(memory: &mut TestMemory, rip: u64) -> Result<Played, u64> {
    let pointer_at = rip - rip % PAGE_SIZE + (IMAGE_PAGE_OFFSET + POINTER_OFFSET) as u64;
    let [pointer] = words(memory, pointer_at)?;
    let [magic, scripts] = words(memory, pointer)?;
    if magic != MAGIC {
        return Ok(Played::Returned(Status(NO_SCRIPT as usize)));
    }
    write_virtual(memory, pointer.wrapping_add(8), &(scripts.wrapping_add(1)).to_le_bytes())?;
    let image = image_at(Va(rip));
    let mut step = pointer;
    loop {
        step = step.wrapping_add(32);
        let [code, a, b, c] = words(memory, step)?;
        let op = Op::ALL.into_iter().find(|op| image.wrapping_add(code_offset(*op) as u64).0 == code);
        // Firmware's data has been overwritten: the stub goes there.
        let Some(op) = op else { return Ok(Played::Jumped(code)) };
        match op {
            Op::Return => return Ok(Played::Returned(Status(a as usize))),
            Op::More => return Ok(Played::More),
            Op::Jump => return Ok(Played::Jumped(a)),
            Op::Hang => return Ok(Played::Hangs),
            Op::Move => write_virtual(memory, pointer_at, &a.to_le_bytes())?,
            Op::Read => {
                let _: [u8; 1] = read_virtual(memory, a)?;
                let _: [u8; 1] = read_virtual(memory, b)?;
            }
            Op::Write1 => write_virtual(memory, a, &b.to_le_bytes()[..1])?,
            Op::Write2 => write_virtual(memory, a, &b.to_le_bytes()[..2])?,
            Op::Write4 => write_virtual(memory, a, &b.to_le_bytes()[..4])?,
            Op::Write8 => write_virtual(memory, a, &b.to_le_bytes())?,
            Op::Write16 => write_virtual(memory, a, &[b.to_le_bytes(), c.to_le_bytes()].concat())?,
            Op::Copy => {
                for offset in 0..b {
                    let byte: [u8; 1] = read_virtual(memory, c.wrapping_add(offset))?;
                    write_virtual(memory, a.wrapping_add(offset), &byte)?;
                }
            }
        }
    }
}

fn words<const N: usize>(memory: &TestMemory, virt: u64) -> Result<[u64; N], u64> {
    let mut words = [0; N];
    for (word, at) in words.iter_mut().zip((0..).map(|index| virt.wrapping_add(8 * index))) {
        *word = u64::from_le_bytes(read_virtual(memory, at)?);
    }
    Ok(words)
}

fn read_virtual<const N: usize>(memory: &TestMemory, virt: u64) -> Result<[u8; N], u64> {
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).map(|index| virt.wrapping_add(index))) {
        let phys = memory.translate(Pa(0), Va(at), Access::read()).ok_or(at)?;
        memory.read(phys, std::slice::from_mut(byte)).then_some(()).ok_or(at)?;
    }
    Ok(bytes)
}

fn write_virtual(memory: &mut TestMemory, virt: u64, bytes: &[u8]) -> Result<(), u64> {
    for (byte, at) in bytes.iter().zip((0..).map(|index| virt.wrapping_add(index))) {
        let phys = memory.translate(Pa(0), Va(at), Access::write()).ok_or(at)?;
        memory.write(phys, &[*byte]).then_some(()).ok_or(at)?;
    }
    Ok(())
}

/// How far up a bed maps the first pages of each region, and [`Bed::switch`] moves all of [`code_and_data`].
pub const WINDOW: u64 = 0xffff_fffe_0000_0000;

/// Where a virtual address leads before that.
pub fn one_to_one(virt: Va) -> Option<Pa> {
    Some(virt.one_to_one())
}

/// And after it.
pub fn by_window(virt: Va) -> Option<Pa> {
    virt.checked_offset_from(Va(WINDOW)).map(Pa)
}

/// The map with all of its regions moved there, as SetVirtualAddressMap takes it.
pub fn virtual_map(map: &[MemoryDescriptor]) -> Vec<u8> {
    let words = |descriptor: &MemoryDescriptor| {
        let MemoryDescriptor { ty, phys_start, page_count, att, .. } = *descriptor;
        [u64::from(ty.0), phys_start, WINDOW + phys_start, page_count, att.bits(), 0]
    };
    map.iter().flat_map(words).flat_map(u64::to_le_bytes).collect()
}

/// Firmware after that, and its memory, mapped there too.
pub fn switched() -> (Firmware, TestMemory) {
    let mut bed = Bed::new();
    bed.switch();
    bed.firmware.expect_root(Pa(0x5000));
    (bed.firmware, bed.memory)
}

impl Bed {
    /// Calls SetVirtualAddressMap.
    pub fn switch(&mut self) {
        let bytes = virtual_map(&code_and_data());
        self.memory.put(0xE_0000, &bytes);
        let args = [bytes.len() as u64, DESCRIPTOR_STRIDE as u64, 1, 0xE_0000];
        assert_eq!(self.call(Service::SetVirtualAddressMap, &args), Status::SUCCESS);
    }
}
