//! Memory as it was at some moment, to see whether it still is: what mapping code may not write to, and tables that have
//! been judged.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter;
use std::ops::Range;
use std::rc::Rc;

use efibed_guest::protocol::IST_BYTES;

use crate::check::Phase;
use crate::guest::{Case, MappedTables, OwnMemory, PAGE_BYTES};
use crate::machine::pages;
use crate::mmu::{Pa, TableMemory as _, bits, each_line};

/// Stretches of a guest's memory, and what was in them.
#[derive(Debug, Default)]
pub struct Snapshot {
    stretches: Vec<Rc<Stretch>>,
}

/// Something that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its physical address: of a word, or of a page where no more is known.
    pub at: u64,
    /// What the word was, and what it is.
    pub words: Option<[u64; 2]>,
}

impl Snapshot {
    /// The kernel's tables. Of their room only what is in use was ever written to.
    pub fn kernels_tables(case: &Case) -> Self {
        let (range, end) = (case.placement.boot_tables(), case.boot_tables_end());
        let is_kept = end - range.start <= MOST_KEPT;
        Self { stretches: vec![Rc::new(Stretch::new(&case.memory, range, end, Free::AccessedAndDirty, is_kept))] }
    }

    /// What mapping code finds and must leave alone: the kernel's tables, all of the memory map except for VirtualStart, and
    /// the Memory Attributes Table. In phase `finish` also the map for SetVirtualAddressMap: firmware has been told it.
    pub fn untouchable(case: &Case, phase: Phase, kernels_tables: &Self) -> Self {
        let placement = &case.placement;
        let stride = case.strides.firmware as u64;
        let map = placement.memory_map();
        let but_virtual_start = Free::VirtualStart { map: map.start, stride };
        let always = [(map, but_virtual_start), (placement.attributes(), Free::Nothing)];
        let told = (phase == Phase::Finish).then(|| (placement.virtual_map(), Free::Nothing));
        kernels_tables.and(Self::take(&case.memory, always.into_iter().chain(told)))
    }

    /// Where a mapper has written that had to leave this as it is: here, or behind what it says to have used of what it was
    /// given. None for `tables`: it did not say.
    pub fn stray_write(&self, case: &Case, tables: Option<&MappedTables>) -> Option<u64> {
        let beyond = tables.map_or([0..0, 0..0], |tables| unused(case, tables));
        let touched = Touched::in_all(&case.memory, self.rooms().chain(beyond.clone()));
        let changed = self.first_change_by(&case.memory, &touched).map(|change| change.at);
        changed.or_else(|| beyond.iter().find_map(|range| first_nonzero_by(&case.memory, range, &touched)))
    }

    /// What is the kernel's alone while mapping code runs: all of its image that can be written to, except for the stacks of
    /// its exception handlers.
    pub fn kernels_own(case: &Case) -> Self {
        let header = case.image.header();
        let stacks = header.ist_top - IST_BYTES..header.ist_top + 6 * IST_BYTES;
        let parts = [header.read_only_end..stacks.start, stacks.end..header.end];
        let parts = parts.map(|part| case.physical(part.start)..case.physical(part.end));
        Self::take(&case.memory, parts.map(|part| (part, Free::Nothing)))
    }

    /// The kernel's tables, and so many pages of the mapper's, as the walk has seen them.
    pub fn tables(case: &Case, pages: u64, kernels_tables: &Self) -> Self {
        let range = case.placement.pool().start..case.placement.tables(pages).end;
        /// So many pages are looked at whole: what a mapper says to have used it has written to, as a rule.
        const FEW: u64 = 64;
        let stretches = match range.end - range.start <= FEW * PAGE_BYTES {
            true => vec![Stretch::new(&case.memory, range.clone(), range.end, Free::AccessedAndDirty, true)],
            false => Stretch::all_of(&case.memory, range, Free::AccessedAndDirty),
        };
        kernels_tables.and(Self { stretches: stretches.into_iter().map(Rc::new).collect() })
    }

    /// The same stretches as they are now.
    pub fn renew(&mut self, memory: &OwnMemory) {
        let renewed = |old: &Rc<Stretch>| Stretch::all_of(memory, old.range.clone(), old.free);
        self.stretches = self.stretches.iter().flat_map(renewed).map(Rc::new).collect();
    }

    /// Whether it is compared in no time.
    pub fn is_small(&self) -> bool {
        self.stretches.iter().all(|stretch| matches!(stretch.before, Before::Pages(_)))
    }

    /// The first word that has changed.
    pub fn first_change(&self, memory: &OwnMemory) -> Option<Change> {
        self.first_change_by(memory, &Touched::in_all(memory, self.rooms()))
    }

    /// The same of what is in this one alone.
    pub fn first_change_beside(&self, other: &Self, memory: &OwnMemory) -> Option<Change> {
        let is_others = |stretch: &Rc<Stretch>| other.stretches.iter().any(|others| Rc::ptr_eq(stretch, others));
        let own = self.stretches.iter().filter(|stretch| !is_others(stretch)).cloned();
        Self { stretches: own.collect() }.first_change(memory)
    }

    fn first_change_by(&self, memory: &OwnMemory, touched: &Touched) -> Option<Change> {
        self.stretches.iter().find_map(|stretch| stretch.first_change(memory, touched))
    }

    /// Where zeros were.
    fn rooms(&self) -> impl Iterator<Item = Range<u64>> {
        self.stretches.iter().map(|stretch| stretch.zeros..stretch.range.end)
    }

    fn take(memory: &OwnMemory, ranges: impl IntoIterator<Item = (Range<u64>, Free)>) -> Self {
        let stretches = ranges.into_iter().flat_map(|(range, free)| Stretch::all_of(memory, range, free));
        Self { stretches: stretches.map(Rc::new).collect() }
    }

    /// Both, this one's stretches first.
    fn and(&self, other: Self) -> Self {
        Self { stretches: self.stretches.iter().cloned().chain(other.stretches).collect() }
    }
}

/// What a mapper says not to have used of the room for the virtual map, and of its pages.
fn unused(case: &Case, tables: &MappedTables) -> [Range<u64>; 2] {
    let map = case.placement.virtual_map();
    let used = tables.mapped.saturating_mul(case.strides.kernel as u64).min(map.end - map.start);
    [map.start + used..map.end, case.placement.tables(tables.table_pages).end..case.placement.pool().end]
}

/// The first word of a range that is not 0.
pub fn first_nonzero(memory: &OwnMemory, range: Range<u64>) -> Option<u64> {
    first_nonzero_by(memory, &range, &Touched::in_all(memory, [range.clone()]))
}

fn first_nonzero_by(memory: &OwnMemory, range: &Range<u64>, touched: &Touched) -> Option<u64> {
    // As a whole first: word by word the pool of a large map takes milliseconds.
    let page = touched.pages(range).find(|page| !memory.is_zero(page.clone()))?;
    page.step_by(8).find(|at| memory.read_u64(*at) != Some(0))
}

/// What of some ranges may be other than zeros. The system is asked once, for all that lies between the first and the last.
struct Touched(Vec<Range<u64>>);

impl Touched {
    fn in_all(memory: &OwnMemory, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let ranges = ranges.into_iter().filter(|range| !range.is_empty());
        let hull = ranges.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end));
        Self(hull.map_or_else(Vec::new, |hull| memory.touched(hull).collect()))
    }

    /// The pages of one of the ranges.
    fn pages(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let Range { start, end } = *range;
        self.0.iter().flat_map(move |part| pages(&(part.start.max(start)..part.end.min(end))))
    }
}

/// Of more bytes in a range only a digest of each page is kept. That there is a change is known as surely; what was there is
/// not.
const MOST_KEPT: u64 = 8 << 20;

/// Whole pages.
#[derive(Debug)]
struct Stretch {
    range: Range<u64>,
    /// From here on it held zeros.
    zeros: u64,
    /// What came before.
    before: Before,
    free: Free,
}

/// What was there.
#[derive(Debug)]
enum Before {
    /// All of it.
    Pages(Pages),
    /// A digest of each page.
    Digests(Vec<u64>),
}

impl Stretch {
    /// A range: what was touched of it, each part with the zeros behind it, and the zeros before the first.
    fn all_of(memory: &OwnMemory, range: Range<u64>, free: Free) -> Vec<Self> {
        let touched = memory.touched(range.clone()).map(|part| part.start.max(range.start)..part.end.min(range.end));
        let mut parts: Vec<_> = touched.collect();
        if parts.first().is_none_or(|part| part.start > range.start) {
            parts.insert(0, range.start..range.start);
        }
        let is_kept = parts.iter().map(|part| part.end - part.start).sum::<u64>() <= MOST_KEPT;
        let ends = parts.iter().skip(1).map(|next| next.start).chain([range.end]);
        parts.iter().zip(ends).map(|(part, end)| Self::new(memory, part.start..end, part.end, free, is_kept)).collect()
    }

    /// Of a range that holds zeros from an address on. What comes before is kept, or a digest of each of its pages.
    fn new(memory: &OwnMemory, range: Range<u64>, zeros: u64, free: Free, is_kept: bool) -> Self {
        let used = range.start..zeros;
        let before = match is_kept {
            true => Before::Pages(Pages::of(memory, &used)),
            false => Before::Digests(pages(&used).map(|page| digest(memory, page, free)).collect()),
        };
        Self { range, zeros, before, free }
    }

    fn first_change(&self, memory: &OwnMemory, touched: &Touched) -> Option<Change> {
        let used = self.range.start..self.zeros;
        let change = match &self.before {
            Before::Pages(before) => before.first_change(&used, memory, self.free),
            Before::Digests(before) => pages(&used)
                .zip(before)
                .find(|(page, before)| digest(memory, page.clone(), self.free) != **before)
                .map(|(page, _)| Change { at: page.start, words: None }),
        };
        let mut behind = touched.pages(&(self.zeros..self.range.end));
        change.or_else(|| behind.find_map(|page| first_of_page(page.start, 0, &[], memory, self.free)))
    }
}

/// What was in some pages, one after another. Most of most tables is zeros, and is not kept.
#[derive(Debug)]
struct Pages {
    /// Of each page, which lines were not all zeros: bit n for line n.
    in_use: Vec<u64>,
    /// What was in those.
    lines: Vec<Line>,
}

/// A line of the cache, of which a page has 64.
type Line = [u64; 8];

impl Pages {
    fn of(memory: &OwnMemory, used: &Range<u64>) -> Self {
        let in_use: Vec<_> = pages(used).map(|page| memory.lines_in_use(Pa(page.start))).collect();
        let mut lines = Vec::with_capacity(in_use.iter().map(|in_use| in_use.count_ones() as usize).sum());
        for (page, in_use) in pages(used).zip(&in_use) {
            let at = each_line(*in_use).map(|nth| line_at(page.start, nth));
            lines.extend(at.map(|at| memory.read_line(at).unwrap_or_default()));
        }
        Self { in_use, lines }
    }

    fn first_change(&self, used: &Range<u64>, memory: &OwnMemory, free: Free) -> Option<Change> {
        let mut rest = &self.lines[..];
        pages(used).zip(&self.in_use).find_map(|(page, in_use)| {
            let (lines, others) = rest.split_at_checked(in_use.count_ones() as usize).unwrap_or((rest, &[]));
            rest = others;
            first_of_page(page.start, *in_use, lines, memory, free)
        })
    }
}

/// The first word of a page that is not what it was: zeros except for the lines `in_use`, which were `before`.
fn first_of_page(page: u64, in_use: u64, before: &[Line], memory: &OwnMemory, free: Free) -> Option<Change> {
    // A full page has no zeros to be looked for.
    let now_in_use = if in_use == u64::MAX { in_use } else { memory.lines_in_use(Pa(page)) };
    if now_in_use == in_use && holds_lines(page, in_use, before, memory) {
        return None;
    }
    let mut before = before.iter();
    each_line(in_use | now_in_use).find_map(|nth| {
        let was = if in_use >> nth & 1 != 0 { before.next() } else { None }.unwrap_or(&[0; 8]);
        let at = line_at(page, nth);
        let now = memory.read_line(at).unwrap_or_default();
        // Not by comparing arrays, which is a call.
        let changed = was.iter().zip(now).fold(0, |bits, (was, now)| bits | was ^ now);
        if changed == 0 { None } else { first_of_line(at, was, &now, free) }
    })
}

/// Whether the lines `in_use` of a page are these. Many are compared at once.
fn holds_lines(page: u64, in_use: u64, lines: &[Line], memory: &OwnMemory) -> bool {
    let mut rest = lines;
    each_run(in_use).all(|(first, count)| {
        let Some((these, others)) = rest.split_at_checked(count as usize) else { return false };
        rest = others;
        memory.holds(line_at(page, first), these.as_flattened())
    })
}

fn first_of_line(line: u64, before: &Line, now: &Line, free: Free) -> Option<Change> {
    let mut words = before.iter().zip(now).zip((line..).step_by(8));
    words.find_map(|((before, now), at)| {
        let is_change = (before ^ now) & !free.bits(at) != 0;
        is_change.then_some(Change { at, words: Some([*before, *now]) })
    })
}

/// The lines in use that follow one another: the number of the first, and how many there are.
fn each_run(mut in_use: u64) -> impl Iterator<Item = (u64, u32)> {
    iter::from_fn(move || {
        let first = in_use.trailing_zeros();
        let count = in_use.checked_shr(first)?.trailing_ones();
        in_use &= u64::MAX.checked_shl(first + count).unwrap_or(0);
        Some((first.into(), count))
    })
}

fn line_at(page: u64, nth: u64) -> u64 {
    page.saturating_add(nth * size_of::<Line>() as u64)
}

/// Of a page, without what may change.
fn digest(memory: &OwnMemory, page: Range<u64>, free: Free) -> u64 {
    let mut bytes = [0; PAGE_BYTES as usize];
    let bytes = &mut bytes[..(page.end - page.start) as usize];
    let mut hasher = DefaultHasher::new();
    memory.read(page.start, bytes).hash(&mut hasher);
    bytes
        .chunks_exact(8)
        .zip((page.start..).step_by(8))
        .for_each(|(bytes, at)| hasher.write_u64(word(bytes) & !free.bits(at)));
    hasher.finish()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// What may change in a stretch that must otherwise stay.
#[derive(Clone, Copy, Debug)]
enum Free {
    Nothing,
    /// Of entries in tables: the CPU itself sets them.
    AccessedAndDirty,
    /// Of a memory map at this address, with this stride.
    VirtualStart {
        map: u64,
        stride: u64,
    },
}

impl Free {
    /// The bits of the word at an address.
    fn bits(self, at: u64) -> u64 {
        match self {
            Self::AccessedAndDirty => bits::A | bits::D,
            Self::VirtualStart { map, stride } if at.wrapping_sub(map) % stride == VIRTUAL_START => u64::MAX,
            Self::VirtualStart { .. } | Self::Nothing => 0,
        }
    }
}

/// Offset of VirtualStart in a descriptor (UEFI 2.10, 7.2.3).
const VIRTUAL_START: u64 = 16;

#[cfg(test)]
mod tests {
    use efibed_guest::protocol::Mailbox;

    use super::*;
    use crate::guest::{Image, Placement, Strides};
    use crate::machine::Backing;
    use crate::memory_map::MemoryMap;
    use crate::mmu::Paging;

    fn case() -> Case {
        let text = "[[descriptor]]\ntype = 6\nphys = 0x7e729000\npages = 2\nattribute = \"RUNTIME|WB\"";
        let map = MemoryMap::parse(text).unwrap();
        let image = Image::built_in().unwrap();
        let sizes = Case::sizes(image, &map, Strides::default(), 0, 16, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        Case::new(image, &map, Strides::default(), placement, &[], &Paging::default()).unwrap()
    }

    /// Where a snapshot sees a change of these bits.
    fn change(case: &Case, snapshot: impl Fn(&Case) -> Snapshot, at: u64, flip: u64) -> Option<u64> {
        let before = snapshot(case);
        let word = case.memory.read_u64(at).unwrap();
        assert!(case.memory.write_u64(at, word ^ flip));
        let change = before.first_change(&case.memory);
        assert!(change.is_none_or(|change| change.words == Some([word, word ^ flip])));
        change.map(|change| change.at)
    }

    #[test]
    fn lines_that_follow_one_another_are_a_run() {
        let runs = |in_use: u64| each_run(in_use).collect::<Vec<_>>();
        assert_eq!(runs(0), []);
        assert_eq!(runs(u64::MAX), [(0, 64)]);
        assert_eq!(runs(1 << 63 | 0b1_1011), [(0, 2), (3, 2), (63, 1)]);
        assert_eq!(runs(u64::MAX << 60 | 1), [(0, 1), (60, 4)]);
    }

    #[test]
    fn only_what_the_mapper_was_given_may_change() {
        let case = case();
        let placement = case.placement;
        let in_phase = |phase, at, flip| {
            change(&case, |case| Snapshot::untouchable(case, phase, &Snapshot::kernels_tables(case)), at, flip)
        };
        let change = |at, flip| in_phase(Phase::Map, at, flip);
        let (table, descriptor) = (case.kernel_root + 8 * 511, placement.memory_map().start);
        let unused = placement.boot_tables().end - 8;
        assert!(case.boot_tables_end() <= unused);
        assert_eq!(change(unused, 1), Some(unused));
        assert!(case.memory.write_u64(unused, 0));
        assert_eq!(change(table, bits::A), None);
        assert_eq!(change(table, bits::W), Some(table));
        assert_eq!(change(case.kernel_root, 1), Some(case.kernel_root));
        assert_eq!(change(descriptor + VIRTUAL_START, 0x1000), None);
        assert_eq!(change(descriptor + 8, 0x1000), Some(descriptor + 8));
        let attributes = placement.attributes().start;
        assert_eq!(change(attributes, 1), Some(attributes));
        assert_eq!(change(placement.pool().start, 1), None);
        let virtual_map = placement.virtual_map().start;
        assert_eq!(change(virtual_map, 1), None);
        assert_eq!(in_phase(Phase::Finish, virtual_map, 1), Some(virtual_map));
    }

    #[test]
    fn of_the_kernels_own_only_the_handlers_stacks_may_change() {
        let case = case();
        let header = case.image.header();
        let change = |virt| change(&case, Snapshot::kernels_own, case.physical(virt), 1).is_some();
        let stacks = [header.ist_top - 8, header.ist_top - IST_BYTES, header.ist_top + 6 * IST_BYTES - 8];
        assert_eq!(stacks.map(change), [false; 3]);
        let others = [
            header.stack_top - 8,
            header.user_stack,
            header.mailbox,
            header.mailbox + size_of::<Mailbox>() as u64 - 8,
            header.call_rsp,
            header.end - 8,
        ];
        assert_eq!(others.map(change), [true; 6]);
    }

    #[test]
    fn tables_may_be_accessed_and_dirty() {
        let case = case();
        let pool = case.placement.pool().start;
        let change =
            |at, flip| change(&case, |case| Snapshot::tables(case, 2, &Snapshot::kernels_tables(case)), at, flip);
        assert_eq!(change(pool, bits::A | bits::D), None);
        assert_eq!(change(pool + 0x1ff8, 1), Some(pool + 0x1ff8));
        // A page that has not been used is none of the tables.
        assert_eq!(change(pool + 0x2000, 1), None);
        assert_eq!(change(case.kernel_root, 1), Some(case.kernel_root));
        // More pages than there are.
        assert!(
            Snapshot::tables(&case, u64::MAX, &Snapshot::kernels_tables(&case)).first_change(&case.memory).is_none()
        );
    }

    #[test]
    fn of_large_tables_a_digest_is_kept() {
        let memory = OwnMemory::new(0x10_0000, MOST_KEPT + PAGE_BYTES).unwrap();
        let snapshot = Snapshot::take(&memory, [(memory.base()..memory.end(), Free::AccessedAndDirty)]);
        assert!(!snapshot.is_small());
        let change = |at: u64, value: u64| {
            assert!(memory.write_u64(at, value));
            snapshot.first_change(&memory).map(|change| (change.at, change.words))
        };
        assert_eq!(change(0x30_0018, bits::A | bits::D), None);
        assert_eq!(change(0x30_0018, 1 << 63), Some((0x30_0000, None)));
        assert_eq!(change(0x30_0018, 0), None);
        assert_eq!(change(memory.end() - 8, 1), Some((memory.end() - PAGE_BYTES, None)));
    }

    /// A page may begin anywhere in a descriptor.
    #[test]
    fn virtual_start_is_free_in_a_large_map_too() {
        const STRIDE: u64 = 48;
        let memory = OwnMemory::new(0x10_0000, MOST_KEPT + PAGE_BYTES).unwrap();
        let map = memory.base();
        let free = Free::VirtualStart { map, stride: STRIDE };
        let snapshot = Snapshot::take(&memory, [(map..memory.end(), free)]);
        assert!(!snapshot.is_small());
        let descriptor = map + 200 * STRIDE;
        assert!(memory.write_u64(descriptor + VIRTUAL_START, 1));
        assert!(snapshot.first_change(&memory).is_none());
        assert!(memory.write_u64(descriptor + VIRTUAL_START + 8, 1));
        assert_eq!(snapshot.first_change(&memory).map(|change| change.at), Some(descriptor & !(PAGE_BYTES - 1)));
    }

    /// Of pages that lie apart, what is between them is not kept, and is looked at.
    #[test]
    fn a_change_is_seen_in_what_was_touched_and_between_it() {
        const PAGES: u64 = 64;
        let at = |page: u64| 0x10_0000 + page * PAGE_BYTES + 8;
        for backing in [Backing::that_tells_touched(PAGES * PAGE_BYTES), Backing::new(PAGES * PAGE_BYTES)] {
            let memory = OwnMemory::on(backing.unwrap(), 0x10_0000, PAGES * PAGE_BYTES);
            assert!([3, 40].into_iter().all(|page| memory.write_u64(at(page), 5)));
            let all = memory.base()..memory.end();
            let mut snapshot = Snapshot::take(&memory, [(all, Free::Nothing)]);
            let kept = |stretch: &Rc<Stretch>| (stretch.zeros - stretch.range.start) / PAGE_BYTES;
            let kept: u64 = snapshot.stretches.iter().map(kept).sum();
            assert_eq!(kept, if memory.backing().tells_touched() { 2 } else { PAGES });
            for page in [0, 3, 20, 40, 63] {
                assert_eq!(snapshot.first_change(&memory).map(|change| change.at), None);
                let was = memory.read_u64(at(page)).unwrap();
                assert!(memory.write_u64(at(page), 7));
                let seen = snapshot.first_change(&memory).unwrap();
                assert_eq!((seen.at, seen.words), (at(page), Some([was, 7])));
                snapshot.renew(&memory);
            }
        }
    }

    #[test]
    fn a_change_of_what_two_have_in_common_is_neithers_own() {
        let memory = OwnMemory::new(0x10_0000, 2 * PAGE_BYTES).unwrap();
        let page = |nth: u64| 0x10_0000 + nth * PAGE_BYTES;
        let of_page = |nth: u64| Snapshot::take(&memory, [(page(nth)..page(nth + 1), Free::Nothing)]);
        let mut common = of_page(0);
        let both = common.and(of_page(1));
        let own_change = |common: &Snapshot| both.first_change_beside(common, &memory).map(|change| change.at);
        assert!(memory.write_u64(page(0) + 8, 1));
        assert_eq!(
            (own_change(&common), both.first_change(&memory).map(|change| change.at)),
            (None, Some(page(0) + 8))
        );
        assert!(memory.write_u64(page(1) + 16, 1));
        assert_eq!(own_change(&common), Some(page(1) + 16));
        // What was renewed is another.
        common.renew(&memory);
        assert_eq!(own_change(&common), Some(page(0) + 8));
    }

    /// What was zeros, and what was not, in a page that is full and in one that is not.
    #[test]
    fn every_word_is_compared() {
        let memory = OwnMemory::new(0x10_0000, 2 * PAGE_BYTES).unwrap();
        let words = || (memory.base()..memory.end()).step_by(8);
        for at in words().filter(|at| *at < 0x10_1000 || at % 192 == 0) {
            assert!(memory.write_u64(at, at));
        }
        let snapshot = Snapshot::take(&memory, [(memory.base()..memory.end(), Free::Nothing)]);
        for at in words() {
            let was = memory.read_u64(at).unwrap();
            for now in [was ^ 1 << 63, 0].into_iter().filter(|now| *now != was) {
                assert!(memory.write_u64(at, now));
                assert_eq!(snapshot.first_change(&memory), Some(Change { at, words: Some([was, now]) }));
            }
            assert!(memory.write_u64(at, was));
        }
        assert_eq!(snapshot.first_change(&memory), None);
    }

    #[test]
    fn nothing_lies_beyond_what_was_used() {
        let case = case();
        assert!(case.ask(Default::default(), 0));
        let given = case.result().table_pages;
        let tables = |mapped, pages| MappedTables { root: 0, mapped, table_pages: given + pages };
        let (map, pool) = (case.placement.virtual_map().start, case.placement.pool().start + given * PAGE_BYTES);
        let stride = case.strides.kernel as u64;
        assert!(case.memory.write_u64(map, 1) && case.memory.write_u64(pool + 0x1010, 1 << 56));
        let beyond = |tables: MappedTables| Snapshot::default().stray_write(&case, Some(&tables));
        assert_eq!(beyond(tables(1, 2)), None);
        assert_eq!(beyond(tables(1, 1)), Some(pool + 0x1010));
        assert_eq!(beyond(tables(0, 2)), Some(map));
        assert_eq!(beyond(MappedTables { root: 0, mapped: u64::MAX, table_pages: u64::MAX }), None);
        assert!(case.memory.write_u64(map + stride, 1));
        assert_eq!(beyond(tables(1, 2)), Some(map + stride));
    }
}
