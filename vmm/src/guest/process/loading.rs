//! A program in ring 3.

use std::ops::Range;

use efibed_guest::mapper::Step;

use super::super::OutOfPages;
use super::super::layout::PROGRAM_DIRECT_MAP;
use super::super::stretch::{bytes_of, stretch};
use super::program::{Program, Segment};
use super::space::{Rights, Space};
use super::{OwnMemory, PAGE_BYTES};

/// UD2: it ends a call on every KVM.
const UD2: [u8; 2] = [0x0f, 0x0b];

/// Where a program is called, and returns to.
pub struct Loading {
    map: u64,
    finish: Option<u64>,
    leave: u64,
    counters: Range<u64>,
    segments: Vec<(Range<u64>, Rights)>,
}

impl Loading {
    /// Puts the segments into free memory, and a page to return to behind them, at the memory's own address.
    pub fn new(program: &Program, memory: &OwnMemory, space: &mut Space, free: Range<u64>) -> Result<Self, OutOfPages> {
        let mut phys = free.start;
        for segment in &program.segments {
            let pages = segment.bytes.len() as u64 / PAGE_BYTES;
            let is_there =
                memory.write(phys, &segment.bytes) && space.map(memory, segment.virt, phys, pages, rights(segment));
            if !is_there {
                return Err(OutOfPages);
            }
            phys = stretch(phys, bytes_of(pages)).end;
        }
        let leave = phys.wrapping_add(PROGRAM_DIRECT_MAP);
        let execute = Rights { write: false, execute: true };
        if !(memory.write(phys, &UD2) && space.map(memory, leave, phys, 1, execute)) {
            return Err(OutOfPages);
        }
        let segments = program.segments.iter().map(|segment| (segment.virt..segment.end(), rights(segment)));
        let (Program { map, finish, .. }, counters) = (program, program.counters.clone());
        Ok(Self { map: *map, finish: *finish, leave, counters, segments: segments.collect() })
    }

    /// The function for a step, if there is one.
    pub fn entry(&self, step: Step) -> Option<u64> {
        match step {
            Step::Map => Some(self.map),
            Step::Finish => self.finish,
        }
    }

    /// Where it returns to.
    pub fn leave(&self) -> u64 {
        self.leave
    }

    /// Where its counters of coverage are.
    pub fn counters(&self) -> Range<u64> {
        self.counters.clone()
    }

    /// What lies at an address, for a message.
    pub fn what_lies_at(&self, virt: u64) -> Option<String> {
        let (_, rights) = self.segments.iter().find(|(range, _)| range.contains(&virt))?;
        Some(if rights.write { "the program's data" } else { "a part of the program that may only be read" }.into())
    }
}

fn rights(segment: &Segment) -> Rights {
    Rights { write: segment.writable, execute: segment.executable }
}
