//! What the room's tests share: a map, guest memory, and a trap's registers.

use std::cell::Cell;
use std::collections::BTreeMap;

use efibed_stub::Service;
use efibed_stub::image::{ENTRY_BYTES, IMAGE_PAGE_OFFSET, TRAP_OFFSET};
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

use super::{Firmware, GuestMemory, PAGE_BYTES, PAGE_SIZE, StubCall};

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

/// Pages by their numbers; what was not put there is not backed.
#[derive(Clone, Default)]
pub struct TestMemory {
    pages: BTreeMap<u64, [u8; PAGE_BYTES]>,
    reads: Cell<usize>,
}

impl TestMemory {
    /// Firmware's pages.
    pub fn with_firmware(firmware: &Firmware) -> Self {
        let mut memory = Self::default();
        for (phys, content, _) in firmware.pages() {
            memory.put(phys, content);
        }
        memory
    }

    /// Backs the pages of the range, and writes it.
    pub fn put(&mut self, phys: u64, data: &[u8]) {
        for address in (phys..).take(data.len()).chain([phys]) {
            self.pages.entry(address / PAGE_SIZE).or_insert([0; PAGE_BYTES]);
        }
        assert!(self.write(phys, data));
    }

    /// Takes a page's backing away.
    pub fn take(&mut self, phys: u64) {
        self.pages.remove(&(phys / PAGE_SIZE));
    }

    pub fn u64(&self, phys: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.read(phys, &mut bytes));
        u64::from_le_bytes(bytes)
    }

    pub fn flip(&mut self, phys: u64, mask: u8) {
        self.pages.get_mut(&(phys / PAGE_SIZE)).unwrap()[(phys % PAGE_SIZE) as usize] ^= mask;
    }

    /// How often the memory has been read.
    pub fn reads(&self) -> usize {
        self.reads.get()
    }

    fn is_backed(&self, phys: u64, bytes: usize) -> bool {
        let Some(last) = phys.checked_add((bytes as u64).saturating_sub(1)) else {
            return false;
        };
        (phys / PAGE_SIZE..=last / PAGE_SIZE).all(|page| self.pages.contains_key(&page))
    }
}

impl GuestMemory for TestMemory {
    fn read(&self, phys: u64, buf: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        if !self.is_backed(phys, buf.len()) {
            return false;
        }
        for (address, byte) in (phys..=u64::MAX).zip(buf) {
            *byte = self.pages[&(address / PAGE_SIZE)][(address % PAGE_SIZE) as usize];
        }
        true
    }

    fn write(&mut self, phys: u64, data: &[u8]) -> bool {
        if !self.is_backed(phys, data.len()) {
            return false;
        }
        for (address, byte) in (phys..=u64::MAX).zip(data) {
            let page = self.pages.get_mut(&(address / PAGE_SIZE)).unwrap();
            page[(address % PAGE_SIZE) as usize] = *byte;
        }
        true
    }
}

/// A call of SetVirtualAddressMap at this address, with these arguments.
pub fn set_virtual_address_map(firmware: &Firmware, bytes: u64, stride: u64, version: u64, at: u64) -> StubCall {
    StubCall { rcx: bytes, rdx: stride, r8: version, r9: at, ..trap(firmware.entry(Service::SetVirtualAddressMap)) }
}
