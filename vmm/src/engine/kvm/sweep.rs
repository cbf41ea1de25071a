//! Sweeps: every page of the regions is written, and where each write arrives says where the page is.

use efibed_guest::protocol::{Fault, MAX_SWEEPS, SWEEP_SINGLY, Sweep};

use crate::check::{Frames, Judge, PlannedSweep};
use crate::guest::{GuestEvents, PAGE_BYTES, PortAnswer};
use crate::machine::Machine;

/// Pages swept in one batch: well within a batch's time limit even where a write takes a millisecond.
const MAX_BATCH_PAGES: u64 = 16_384;

/// Sweeps that the guest makes in one go. Its pages are numbered.
#[derive(Debug, Default)]
pub(super) struct SweepBatch {
    sweeps: Vec<Sweep>,
    /// The number of each sweep's first page.
    firsts: Vec<u64>,
    pages: u64,
}

impl SweepBatch {
    /// The sweeps, cut into batches.
    pub fn all(planned: &[PlannedSweep]) -> Vec<Self> {
        let mut batches = Vec::new();
        let mut batch = Self::default();
        for sweep in planned {
            let (mut virt, mut left) = (sweep.virt, sweep.pages);
            while left > 0 {
                if batch.pages == MAX_BATCH_PAGES || batch.sweeps.len() == MAX_SWEEPS {
                    batches.push(std::mem::take(&mut batch));
                }
                let pages = left.min(MAX_BATCH_PAGES - batch.pages);
                batch.push(virt, pages, matches!(sweep.predicted, Frames::Fault(_)));
                virt = virt.wrapping_add(pages * PAGE_BYTES);
                left -= pages;
            }
        }
        if batch.pages > 0 {
            batches.push(batch);
        }
        batches
    }

    fn push(&mut self, virt: u64, pages: u64, singly: bool) {
        self.firsts.push(self.pages);
        self.sweeps.push(Sweep { virt: virt | if singly { SWEEP_SINGLY } else { 0 }, pages });
        self.pages += pages;
    }

    pub fn sweeps(&self) -> &[Sweep] {
        &self.sweeps
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The address that a value was written to, as [`Sweep`] says; None: no page has that number.
    fn written_at(&self, value: u64) -> Option<u64> {
        let number = u64::from(value as u32);
        let index = self.firsts.partition_point(|first| *first <= number).checked_sub(1)?;
        let (sweep, page) = (self.sweeps[index], number - self.firsts[index]);
        let start = (sweep.virt & !SWEEP_SINGLY).wrapping_add(page * PAGE_BYTES);
        let is_first_of_two = value >> 32 == 0 && page.is_multiple_of(2);
        (page < sweep.pages).then_some(if is_first_of_two { start + (PAGE_BYTES - 4) } else { start })
    }
}

/// Hears where the writes of a batch arrive.
pub(super) struct Sweeping<'b, 'j, 'e> {
    pub batch: &'b SweepBatch,
    pub judge: &'j mut Judge<'e>,
}

impl GuestEvents for Sweeping<'_, '_, '_> {
    fn wrote(&mut self, pa: u64, value: u64) {
        // What is no page's number is nobody's write, and judged as such.
        self.judge.wrote(self.batch.written_at(value).unwrap_or(value), pa);
    }

    fn swept_fault(&mut self, fault: Fault) {
        self.judge.swept_fault(fault);
    }

    fn port(&mut self, _port: u16, _data: u32, _machine: &mut Machine) -> PortAnswer {
        PortAnswer::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Fault;

    fn planned(virt: u64, pages: u64) -> PlannedSweep {
        PlannedSweep { virt, pages, alias: 0, predicted: Frames::From(virt) }
    }

    #[test]
    fn every_number_has_its_address() {
        let [batch] = &SweepBatch::all(&[planned(0x10_0000, 3), planned(0x80_0000, 2)])[..] else { panic!() };
        let halves: Vec<_> = (0..6).map(|number| batch.written_at(number)).collect();
        // Numbers count on, and pairs begin anew with each sweep.
        let ends = [0x10_0ffc, 0x10_1000, 0x10_2ffc, 0x80_0ffc, 0x80_1000].map(Some);
        assert_eq!((&halves[..5], halves[5]), (&ends[..], None));
        let alone: Vec<_> = (0..5).map(|number| batch.written_at(number | (number + 1) << 32)).collect();
        assert_eq!(alone, [0x10_0000, 0x10_1000, 0x10_2000, 0x80_0000, 0x80_1000].map(Some));
    }

    #[test]
    fn pages_that_fault_are_swept_singly() {
        let predicted = Frames::Fault(Fault { vector: 14, error_code: crate::mmu::ErrorCode(2) });
        let batches = SweepBatch::all(&[PlannedSweep { predicted, ..planned(0x10_0000, 3) }]);
        assert_eq!((batches[0].sweeps[0].virt, batches[0].sweeps[0].pages), (0x10_0000 | SWEEP_SINGLY, 3));
        assert_eq!(batches[0].written_at(2 | 3 << 32), Some(0x10_2000));
    }

    #[test]
    fn batches_hold_every_page_once() {
        let planned = [planned(0, 5), planned(1 << 40, 3 * MAX_BATCH_PAGES), planned(1 << 41, 1)];
        let batches = SweepBatch::all(&planned);
        assert!(batches.iter().all(|batch| batch.pages() <= MAX_BATCH_PAGES && batch.pages() > 0));
        assert_eq!(batches.iter().map(SweepBatch::pages).sum::<u64>(), 3 * MAX_BATCH_PAGES + 6);
        let addresses = batches.iter().flat_map(|batch| {
            (0..batch.pages()).map(|number| batch.written_at(number | (number + 1) << 32).expect("an address"))
        });
        let expected = planned.iter().flat_map(|sweep| (0..sweep.pages).map(|page| sweep.virt + page * PAGE_BYTES));
        assert!(addresses.eq(expected));
        assert!(SweepBatch::all(&[]).is_empty());
        // As many ranges as the guest has room for, and one more.
        let short: Vec<_> = (0..=MAX_SWEEPS as u64).map(|index| super::tests::planned(index << 20, 1)).collect();
        assert_eq!(SweepBatch::all(&short).len(), 2);
    }
}
