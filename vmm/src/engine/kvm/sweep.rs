//! Sweeps: every page of the regions is written, and where each write arrives says where the page is.

use efibed_guest::protocol::{MAX_SWEEPS, SWEEP_BLOCK, SWEEP_GROUP, SweepKind};

use crate::check::{Frames, PlannedSweep};
use crate::guest::{PAGE_BYTES, SweepPart};
use crate::mmu::{Pa, Va};

/// Pages swept in one batch: well within a batch's time limit even where a write takes a millisecond.
const MAX_BATCH_PAGES: u64 = 16_384;

/// Pages that share a number.
const GROUP_PAGES: u64 = 2 * SWEEP_GROUP;

/// The kinds, the largest first; pages of one, and numbers. Each of them is where its number says.
const KINDS: [(SweepKind, u64, u64); 4] = [
    (SweepKind::Block, SWEEP_BLOCK * GROUP_PAGES, SWEEP_BLOCK),
    (SweepKind::Group, GROUP_PAGES, 1),
    (SweepKind::Pair, 2, 1),
    (SweepKind::Single, 1, 0),
];

/// With as many there is still room for those of one more sweep, and for the end.
const MOST_PARTS: usize = MAX_SWEEPS - 1 - KINDS.len();

const _: () = assert!(MAX_BATCH_PAGES / 2 + MAX_SWEEPS as u64 <= 1 << 16, "numbers have 16 bits");

/// Sweeps that the guest makes in one go, its writes numbered as [`SweepKind`] says.
#[derive(Debug, Default)]
pub(super) struct SweepBatch {
    parts: Vec<SweepPart>,
    /// The first number of each part.
    firsts: Vec<u64>,
    numbers: u64,
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
                if batch.pages == MAX_BATCH_PAGES || batch.parts.len() > MOST_PARTS {
                    batches.push(std::mem::take(&mut batch));
                }
                let pages = left.min(MAX_BATCH_PAGES - batch.pages);
                batch.push(virt.0, pages, sweep.predicted);
                virt = virt.wrapping_add(pages * PAGE_BYTES);
                left -= pages;
            }
        }
        if batch.pages > 0 {
            batches.push(batch);
        }
        batches
    }

    /// Of pages that fault nothing is gained by two at a time.
    fn push(&mut self, mut virt: u64, pages: u64, predicted: Frames) {
        let is_of_use = |kind| kind == SweepKind::Single || matches!(predicted, Frames::From(_));
        let mut left = pages;
        for (kind, pages_each, numbers_each) in KINDS.into_iter().filter(|(kind, ..)| is_of_use(*kind)) {
            let count = left / pages_each;
            if count > 0 {
                self.firsts.push(self.numbers);
                self.parts.push(SweepPart { kind, virt, count });
                self.numbers += count * numbers_each;
                virt = virt.wrapping_add(count * pages_each * PAGE_BYTES);
                left -= count * pages_each;
            }
        }
        self.pages += pages;
    }

    pub fn parts(&self) -> &[SweepPart] {
        &self.parts
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The address that so many bytes were written to, by what they are and where in a page they arrived; None: the guest
    /// writes no such thing.
    pub fn written_at(&self, pa: Pa, value: u64, bytes: u8) -> Option<Va> {
        if bytes == 8 {
            return Some(Va(value));
        }
        let (bytes, offset) = (u64::from(bytes), pa.page_offset());
        let is_first = offset == PAGE_BYTES - bytes;
        let pair = if is_first { bytes.checked_sub(2)? } else { 6u64.checked_sub(bytes)? };
        let shift = if is_first { 0 } else { 32u64.checked_sub(8 * pair)? };
        let number = value >> shift;
        if pair >= SWEEP_GROUP || number << shift != value || !(is_first || offset == 0) {
            return None;
        }
        let page = self.first_page(number, pair)?;
        Some(if is_first { page.wrapping_add(offset) } else { page.wrapping_add(PAGE_BYTES) })
    }

    /// The first page of a pair.
    fn first_page(&self, number: u64, pair: u64) -> Option<Va> {
        let index = self.firsts.partition_point(|first| *first <= number).checked_sub(1)?;
        let (part, number) = (self.parts[index], number - self.firsts[index]);
        let (_, pages, numbers) = KINDS[part.kind as usize];
        let pages_of_number = pages.checked_div(numbers)?;
        let is_inside = number < part.count * numbers && 2 * pair < pages_of_number;
        is_inside.then(|| Va(part.virt).wrapping_add((number * pages_of_number + 2 * pair) * PAGE_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Fault;

    fn planned(virt: u64, pages: u64) -> PlannedSweep {
        PlannedSweep { virt: Va(virt), pages, alias: 0, predicted: Frames::From(Pa(virt)) }
    }

    /// What the guest writes, as the text of [`SweepKind`] has it: address, value and bytes, on tables that map 1:1.
    fn written(batch: &SweepBatch) -> Vec<(u64, u64, u8)> {
        let mut writes = Vec::new();
        let mut number = 0u64;
        let mut pair = |virt: &mut u64, number: u64, nth: u64| {
            let value = (number | number << 48).to_le_bytes();
            let (first, second) = value.split_at(2 + nth as usize);
            for (at, half) in [(*virt + 4096 - first.len() as u64, first), (*virt + 4096, second)] {
                let value = half.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                writes.push((at, value, half.len() as u8));
            }
            *virt += 2 * 4096;
        };
        let mut singles = Vec::new();
        for part in batch.parts() {
            let mut virt = part.virt;
            let pairs_of_numbers = match part.kind {
                SweepKind::Block => vec![5; 8 * part.count as usize],
                SweepKind::Group => vec![5; part.count as usize],
                SweepKind::Pair => vec![1; part.count as usize],
                SweepKind::Single | SweepKind::End => Vec::new(),
            };
            for pairs in pairs_of_numbers {
                (0..pairs).for_each(|nth| pair(&mut virt, number, nth));
                number += 1;
            }
            if part.kind == SweepKind::Single {
                singles.extend((0..part.count).map(|page| virt + page * 4096).map(|virt| (virt, virt, 8)));
            }
        }
        writes.extend(singles);
        writes
    }

    #[test]
    fn every_write_has_its_address() {
        for pages in [1, 2, 3, 9, 10, 11, 19, 20, 79, 80, 81, 16_383] {
            let sweeps = [planned(0x10_0000, pages), planned(1 << 40, 1), planned(1 << 41, 27)];
            for batch in SweepBatch::all(&sweeps) {
                let writes = written(&batch);
                assert_eq!(writes.len() as u64, batch.pages());
                for (at, value, bytes) in writes {
                    assert_eq!(batch.written_at(Pa(at), value, bytes), Some(Va(at)), "{at:#x} {value:#x} {bytes}");
                }
            }
        }
    }

    #[test]
    fn what_the_guest_does_not_write_has_none() {
        let [batch] = &SweepBatch::all(&[planned(0x10_0000, 15)])[..] else { panic!() };
        // Number 0 is a group, 1 and 2 are pairs.
        let pair = |number| batch.written_at(Pa(0xffe), number, 2).map(|virt| virt.0);
        assert_eq!([0, 1, 2, 3].map(pair), [Some(0x10_0ffe), Some(0x10_affe), Some(0x10_cffe), None]);
        // Another offset, another length, bits between the two numbers; pair 1 of no group.
        for (pa, value, bytes) in
            [(0xffd, 0, 2), (0xfff, 0, 1), (0, 0, 7), (1, 0, 4), (0xffc, 1 << 16, 4), (0, 1, 4), (0xffd, 1, 3)]
        {
            assert_eq!(batch.written_at(Pa(pa), value, bytes), None, "{pa:#x} {value:#x} {bytes}");
        }
    }

    #[test]
    fn pages_that_fault_are_swept_singly() {
        let predicted = Frames::Fault(Fault { vector: 14, error_code: crate::mmu::ErrorCode(2) });
        let batches = SweepBatch::all(&[PlannedSweep { predicted, ..planned(0x10_0000, 30) }]);
        assert_eq!(batches[0].parts(), [SweepPart { kind: SweepKind::Single, virt: 0x10_0000, count: 30 }]);
    }

    #[test]
    fn batches_hold_every_page_once() {
        let planned = [planned(0, 5), planned(1 << 40, 3 * MAX_BATCH_PAGES), planned(1 << 41, 1)];
        let batches = SweepBatch::all(&planned);
        assert!(batches.iter().all(|batch| batch.pages() <= MAX_BATCH_PAGES && batch.pages() > 0));
        assert_eq!(batches.iter().map(SweepBatch::pages).sum::<u64>(), 3 * MAX_BATCH_PAGES + 6);
        let pages = batches.iter().flat_map(written).map(|(at, _, _)| at / PAGE_BYTES);
        let mut pages: Vec<_> = pages.collect();
        pages.sort_unstable();
        let expected = planned.iter().flat_map(|sweep| (0..sweep.pages).map(|page| sweep.virt.0 / PAGE_BYTES + page));
        assert!(pages.into_iter().eq(expected));
        assert!(SweepBatch::all(&[]).is_empty());
    }

    /// The end needs its place, too.
    #[test]
    fn batches_have_no_more_parts_than_there_is_room_for() {
        for pages in [1, 3, 13, 93] {
            let sweeps: Vec<_> = (0..=MAX_SWEEPS as u64).map(|index| planned(index << 20, pages)).collect();
            let batches = SweepBatch::all(&sweeps);
            assert!(batches.len() > 1 && batches.iter().all(|batch| batch.parts().len() < MAX_SWEEPS), "{pages}");
        }
    }
}
