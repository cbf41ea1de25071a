//! The caller of a service, as the service sees it: arguments, and memory through the caller's own tables.
//!
//! What a service reads and writes here is noted as an [`Access`]; the stub makes the same accesses in the guest
//! (`script.rs`). Writes are only noted: it is the stub that carries them out.

use uefi_raw::Status;

use super::PAGE_SIZE;
use super::guest::{GuestMemory, StubCall};
use super::ranges::left_in_page;
use super::refusal::Refusal;
use crate::mmu::{self, Pa, Va};

/// Memory that a service touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// So many bytes, in one page or in two: of each its stub reads one, and no more than the first and the last.
    Read { at: Va, bytes: u64 },
    /// These bytes.
    Write { at: Va, data: Vec<u8> },
    /// Goes on there, with this status to be returned.
    Jump { at: Va, status: Status },
    /// Never ends.
    Hang,
}

/// The caller of a service.
pub(super) struct Caller<'m> {
    regs: StubCall,
    memory: &'m mut dyn GuestMemory,
    accesses: Vec<Access>,
}

impl<'m> Caller<'m> {
    pub fn new(regs: &StubCall, memory: &'m mut dyn GuestMemory) -> Self {
        Self { regs: *regs, memory, accesses: Vec::new() }
    }

    /// The first four arguments (UEFI 2.10, 2.3.4.2). A service that wants fewer than 64 bits drops the rest: what
    /// is above a small argument has no meaning.
    pub fn args(&self) -> [u64; 4] {
        [self.regs.rcx, self.regs.rdx, self.regs.r8, self.regs.r9]
    }

    /// The fifth argument: above the return address and the 32 bytes that belong to the called (2.3.4.2).
    pub fn fifth(&mut self) -> Result<u64, Refusal> {
        self.u64("the fifth argument", Va(self.regs.rsp).wrapping_add(40))
    }

    /// What the service has touched so far.
    pub fn into_accesses(self) -> Vec<Access> {
        self.accesses
    }

    /// Has the stub write to firmware's own data, by a pointer of firmware's.
    pub fn write_own(&mut self, at: Va, data: &[u8]) {
        self.accesses.push(Access::Write { at, data: data.to_vec() });
    }

    /// Reads what an argument points to.
    pub fn read(&mut self, argument: &'static str, at: Va, buf: &mut [u8]) -> Result<(), Refusal> {
        for (at, part) in parts(at, buf.len()) {
            let phys = self.reach(argument, at, mmu::Access::read())?;
            if !self.memory.read(phys, &mut buf[part.clone()]) {
                return Err(Refusal::Unreachable { argument, at, phys: Some(phys) });
            }
            self.note_read(at, part.len() as u64);
        }
        Ok(())
    }

    pub fn array<const BYTES: usize>(&mut self, argument: &'static str, at: Va) -> Result<[u8; BYTES], Refusal> {
        let mut bytes = [0; BYTES];
        self.read(argument, at, &mut bytes)?;
        Ok(bytes)
    }

    pub fn u64(&mut self, argument: &'static str, at: Va) -> Result<u64, Refusal> {
        self.array(argument, at).map(u64::from_le_bytes)
    }

    /// So many bytes, which the service has found to be few enough.
    pub fn bytes(&mut self, argument: &'static str, at: Va, count: usize) -> Result<Vec<u8>, Refusal> {
        let mut bytes = vec![0; count];
        self.read(argument, at, &mut bytes)?;
        Ok(bytes)
    }

    /// The UCS-2 string up to its null, which is left out; None if that is not among the first `limit` units.
    pub fn string(&mut self, argument: &'static str, at: Va, limit: usize) -> Result<Option<Vec<u16>>, Refusal> {
        let mut units = Vec::new();
        for index in 0..limit as u64 {
            match u16::from_le_bytes(self.array(argument, at.wrapping_add(index.wrapping_mul(2)))?) {
                0 => return Ok(Some(units)),
                unit => units.push(unit),
            }
        }
        Ok(None)
    }

    /// Has the stub write to where an argument points. Nothing is written before the stub goes on.
    pub fn write(&mut self, argument: &'static str, at: Va, data: &[u8]) -> Result<(), Refusal> {
        for (at, _) in parts(at, data.len()) {
            let phys = self.reach(argument, at, mmu::Access::write())?;
            if !self.memory.read(phys, &mut [0]) {
                return Err(Refusal::Unreachable { argument, at, phys: Some(phys) });
            }
        }
        self.accesses.push(Access::Write { at, data: data.to_vec() });
        Ok(())
    }

    fn reach(&self, argument: &'static str, at: Va, access: mmu::Access) -> Result<Pa, Refusal> {
        let reached = self.memory.translate(Pa(self.regs.cr3), at, access);
        reached.ok_or(Refusal::Unreachable { argument, at, phys: None })
    }

    /// Strings are read unit by unit, and need no step for each. What lies across a border of two pages needs one.
    fn note_read(&mut self, at: Va, bytes: u64) {
        if let Some(Access::Read { at: first, bytes: before }) = self.accesses.last_mut()
            && first.wrapping_add(*before) == at
            && at.page().wrapping_offset_from(first.page()) <= PAGE_SIZE
        {
            *before = before.saturating_add(bytes);
        } else {
            self.accesses.push(Access::Read { at, bytes });
        }
    }
}

/// A range's parts, page by page: the address of each, and its place in the range. Addresses wrap as the processor's do.
pub(super) fn parts(at: Va, bytes: usize) -> impl Iterator<Item = (Va, core::ops::Range<usize>)> {
    let mut done = 0_usize;
    core::iter::from_fn(move || {
        let address = at.wrapping_add(done as u64);
        let part = done..bytes.min(done.saturating_add(left_in_page(address)));
        done = part.end;
        (!part.is_empty()).then_some((address, part))
    })
}

#[cfg(test)]
mod tests {
    use super::super::test_memory::TestMemory;
    use super::*;

    fn memory() -> TestMemory {
        let mut memory = TestMemory::default();
        memory.put(0x1000, &[0x5A; 0x2000]);
        memory
    }

    #[test]
    fn of_every_page_a_byte_is_read() {
        let mut memory = memory();
        memory.put(0x3000, &[0x5A; 0x1000]);
        let mut caller = Caller::new(&StubCall::default(), &mut memory);
        assert_eq!(caller.bytes("Data", Va(0x1FFD), 5).unwrap(), [0x5A; 5]);
        assert_eq!(caller.array("Data", Va(0x2002)).unwrap(), [0x5A; 2]);
        // Three pages are more than the first and the last byte stand for.
        assert_eq!(caller.bytes("Data", Va(0x1FFF), 0x1002).unwrap(), [0x5A; 0x1002]);
        let read = |at, bytes| Access::Read { at: Va(at), bytes };
        let expected = [read(0x1FFD, 7), read(0x1FFF, 0x1001), read(0x3000, 1)];
        assert_eq!(caller.into_accesses(), expected);
    }

    #[test]
    fn what_is_not_mapped_or_not_memory_is_named() {
        let mut memory = memory();
        memory.map(0x8000, None);
        memory.map(0x9000, Some(0x7000));
        let mut caller = Caller::new(&StubCall::default(), &mut memory);
        let argument = "Data";
        for (at, phys) in [(Va(0x8000), None), (Va(0x9000), Some(Pa(0x7000)))] {
            let refusal = Refusal::Unreachable { argument, at, phys };
            assert_eq!(caller.read(argument, at.wrapping_sub(1), &mut []), Ok(()));
            assert_eq!(caller.read(argument, at, &mut [0; 2]), Err(refusal.clone()));
            assert_eq!(caller.write(argument, at, &[0; 2]), Err(refusal));
        }
        assert!(caller.read(argument, Va(0x2FFF), &mut [0; 2]).is_err());
        assert!(caller.read(argument, Va(u64::MAX), &mut [0; 2]).is_err());
    }

    #[test]
    fn the_tables_lead_where_they_will() {
        let mut memory = memory();
        memory.put(0x7000, &[1, 2]);
        memory.map(0xffff_8000_0000_0000, Some(0x7000));
        let mut caller = Caller::new(&StubCall::default(), &mut memory);
        assert_eq!(caller.array("Data", Va(0xffff_8000_0000_0000)).unwrap(), [1, 2]);
    }

    #[test]
    fn a_string_ends_at_its_null_or_is_too_long() {
        let mut memory = memory();
        memory.put(0x1FFF, &[b'a', 0, b'b', 0, 0, 0]);
        let mut caller = Caller::new(&StubCall::default(), &mut memory);
        assert_eq!(caller.string("Name", Va(0x1FFF), 3).unwrap(), Some(vec![b'a'.into(), b'b'.into()]));
        assert_eq!(caller.string("Name", Va(0x1FFF), 2).unwrap(), None);
        assert_eq!(caller.string("Name", Va(0x2003), 1).unwrap(), Some(vec![]));
    }
}
