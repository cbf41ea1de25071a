//! Code of this process in ring 3: its pages, at their own addresses, and the way into a mapper and out of it.
//!
//! A page is copied when it is first touched, with its neighbours, or before mapping code is entered, if the CPU said of another
//! guest of this thread lately that it was used there. So the guest works on what was there then, and what it changes stays its
//! own; it holds no lock of this process, and what other threads unmap meanwhile is a page that cannot be read, and no more.

use std::any::Any;
use std::arch::{asm, global_asm};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::ptr;
use std::sync::{Once, OnceLock};

use efibed_guest::mapper::{Log, MapRequest, MapResult, MapStatus, Mapper, Step, carry_out};

use super::super::layout::AT_HAND_BYTES;
use super::super::stretch::length;
use super::heap::{self, JUMP_BYTES};
use super::maps::{self, Mapping};
use super::space::{Rights, Space};
use super::start::Start;
use super::{Case, OwnMemory, PAGE_BYTES};
use crate::memory_map::page_of;

/// A call of a mapper of this process.
///
/// It goes to ring 3 in registers: of memory, ring 3 sees what was there when it was first touched, in an earlier call
/// perhaps. So the mapper's box must lie where it lay then.
pub struct Called<'a> {
    mapper: &'a mut Box<dyn Mapper>,
    step: Step,
    /// Of the guest's memory, as it is mapped here.
    request: *const MapRequest,
    result: *mut MapResult,
}

impl<'a> Called<'a> {
    /// A call on what [`Case::ask`] has put there, for this process's own addresses.
    pub fn new(mapper: &'a mut Box<dyn Mapper>, step: Step, case: &Case) -> Self {
        let at = |phys: u64| phys.wrapping_add(case.memory.host_offset()) as usize;
        Self {
            mapper,
            step,
            request: ptr::with_exposed_provenance(at(case.request_at())),
            result: ptr::with_exposed_provenance_mut(at(case.result_at())),
        }
    }

    /// The pages that the mapper itself lies in. Each run has another.
    pub fn pages(&self) -> Vec<u64> {
        let mapper: &dyn Mapper = &**self.mapper;
        let [holder, value] = [ptr::from_ref(&*self.mapper).addr(), ptr::from_ref(mapper).addr()];
        let parts = [(holder, size_of::<Box<dyn Mapper>>()), (value, size_of_val(mapper))];
        let pages = parts.into_iter().filter(|(_, bytes)| *bytes > 0).flat_map(|(at, bytes)| {
            let [first, last] = [at, at.saturating_add(bytes).saturating_sub(1)].map(|at| page_of(at as u64));
            (first..=last).step_by(PAGE_BYTES as usize).take(MOST_AT_HAND)
        });
        pages.collect::<BTreeSet<u64>>().into_iter().collect()
    }
}

/// Of a mapper's own pages, those that are copied before they are touched: of either part.
const MOST_AT_HAND: usize = (AT_HAND_BYTES / PAGE_BYTES / 2) as usize;

/// Carries out a call in this process. A panic of the mapper ends it, and is in its log.
pub fn call_natively(called: Called<'_>) {
    watch_panics();
    let Called { mapper, step, request, result } = called;
    // SAFETY: both are parts of the guest's memory, which lives for the call. No guest runs on it meanwhile.
    unsafe { carry_out_watched(mapper, step, request, result) };
}

/// What ring 3 runs. `finish`: 0 for phase `map`.
extern "C" fn enter(mapper: *mut Box<dyn Mapper>, finish: u64, request: *const MapRequest, result: *mut MapResult) {
    let step = if finish == 0 { Step::Map } else { Step::Finish };
    // SAFETY: `start` has passed them. They live as long as the call, in which the host keeps away from them.
    unsafe { carry_out_watched(&mut *mapper, step, request, result) };
}

/// # Safety
/// As [`carry_out`].
unsafe fn carry_out_watched(
    mapper: &mut Box<dyn Mapper>,
    step: Step,
    request: *const MapRequest,
    result: *mut MapResult,
) {
    let before = CURRENT.replace(Some((request, result)));
    // SAFETY: as the caller vouches.
    let call = AssertUnwindSafe(|| unsafe { carry_out(&mut **mapper, step, &*request, &mut *result) });
    let outcome = panic::catch_unwind(call);
    CURRENT.set(before);
    if outcome.is_err() {
        // SAFETY: as the caller vouches.
        unsafe { (&raw mut (*result).status).write(MapStatus::Panicked as u64) };
    }
}

thread_local! {
    /// The request and the result of the mapper that this thread runs.
    static CURRENT: Cell<Option<(*const MapRequest, *mut MapResult)>> = const { Cell::new(None) };
}

/// From now on the panics of mappers go to their log. All others go where they went before.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match CURRENT.get() {
            // SAFETY: they are set while both live; the mapper, which holds the log otherwise, has come to its end.
            Some((request, result)) => unsafe { log_panic(info, request, result) },
            None => usual(info),
        }));
    });
}

unsafe fn log_panic(info: &PanicHookInfo<'_>, request: *const MapRequest, result: *mut MapResult) {
    // SAFETY: as the caller vouches.
    let mut log = unsafe {
        (&raw mut (*result).detail).write((*result).log_used);
        Log::of(&*request, &mut (*result).log_used)
    };
    let message = message_of(info.payload()).unwrap_or("with a value that is no text");
    // The log takes what it can.
    let _ = match info.location() {
        Some(location) => writeln!(log, "panicked at {location}: {message}"),
        None => writeln!(log, "panicked: {message}"),
    };
}

fn message_of(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// The registers for a call; the stack is the caller's to give.
pub fn start(called: &Called<'_>, heap: &Range<u64>) -> Start {
    watch_panics();
    prepare_thread();
    Start {
        rip: enter as *const () as u64,
        rsp: 0,
        arguments: [
            ptr::from_ref(&*called.mapper).expose_provenance() as u64,
            u64::from(called.step == Step::Finish),
            called.request.expose_provenance() as u64,
            called.result.expose_provenance() as u64,
        ],
        bases: [thread_pointer(), heap.start],
    }
}

/// What a thread asks the system for once must be there already.
fn prepare_thread() {
    // The keys of its hash maps.
    let _ = std::collections::hash_map::RandomState::new();
}

/// FS' base: at it lies its own address (System V ABI for x86-64, 3.4.6: ELF thread-local storage).
fn thread_pointer() -> u64 {
    let base;
    // SAFETY: reads this thread's control block.
    unsafe { asm!("mov {}, fs:[0]", out(reg) base, options(nostack, preserves_flags, readonly)) };
    base
}

// Where a call in ring 3 returns to: UD2 ends it on every KVM.
global_asm!(".text", ".globl efibed_ring_3_leave", "efibed_ring_3_leave: ud2");

unsafe extern "C" {
    fn efibed_ring_3_leave();
}

pub fn leave() -> u64 {
    efibed_ring_3_leave as *const () as u64
}

/// Pages copied at once, from an address that is a multiple of as much.
const CHUNK: u64 = 16 * PAGE_BYTES;

/// Copies of this process's pages.
pub struct Pages {
    /// Physical addresses that are free.
    free: Range<u64>,
    /// The same, for the pages of this call alone.
    free_at_hand: Range<u64>,
    mappings: Vec<Mapping>,
    copied: BTreeSet<u64>,
    /// Those of this call alone, which other calls need not foresee.
    at_hand: Vec<u64>,
    /// Something was touched that nobody had foreseen.
    was_surprised: bool,
    /// Guests' memory, as this process has it mapped: what is given of it is given, and nothing else.
    guests: [Range<u64>; 2],
}

impl Pages {
    /// `rooms`: for pages, and for those that are at hand.
    pub fn new(rooms: [Range<u64>; 2], guests: [&OwnMemory; 2]) -> Self {
        let [free, free_at_hand] = rooms;
        let guests = guests.map(|memory| {
            let [start, end] = [memory.base(), memory.end()].map(|at| at.wrapping_add(memory.host_offset()));
            start..end
        });
        Self {
            free,
            free_at_hand,
            mappings: Vec::new(),
            copied: BTreeSet::new(),
            at_hand: Vec::new(),
            was_surprised: false,
            guests,
        }
    }

    /// Copies the page at an address, and those around it; false: this process has none, or it is there already.
    pub fn provide(&mut self, virt: u64, memory: &OwnMemory, space: &mut Space) -> bool {
        let page = virt & !(PAGE_BYTES - 1);
        let was_there = self.copied.contains(&page);
        self.copy_chunk(page, memory, space);
        let is_new = !was_there && self.copied.contains(&page);
        self.was_surprised |= is_new;
        is_new
    }

    /// Copies what guests of this thread used lately, before it is asked for, and the pages that are at hand. Those have a room of
    /// their own: the others lie where they lay before.
    pub fn foresee(&mut self, mut at_hand: Vec<u64>, memory: &OwnMemory, space: &mut Space) {
        let lately = needed::lately(|page| self.memory_at(page).is_some());
        at_hand.retain(|page| !lately.contains(page));
        let [lately, own] = [&lately, &at_hand].map(|pages| {
            let with_rights = |page: &u64| Some((*page, self.memory_at(*page)?.rights));
            pages.iter().filter_map(with_rights).collect::<Vec<_>>()
        });
        self.free = self.copy(&lately, self.free.clone(), memory, space);
        self.free_at_hand = self.copy(&own, self.free_at_hand.clone(), memory, space);
        self.at_hand = at_hand;
    }

    /// Has other guests of this thread foresee what this one used, by the A bits of its tables (SDM vol. 3A, 4.8).
    pub fn remember(&self, used: impl Fn(u64) -> bool) {
        if self.was_surprised {
            let used = self.copied.iter().filter(|page| !self.at_hand.contains(page) && used(**page));
            used.copied().for_each(needed::note);
        }
    }

    /// Copies what this process has around an address, in one mapping and one chunk, and is not there yet.
    fn copy_chunk(&mut self, virt: u64, memory: &OwnMemory, space: &mut Space) {
        let Some(&Mapping { range: Range { start, end }, rights, .. }) = self.memory_at(virt) else { return };
        let chunk = virt & !(CHUNK - 1);
        let (first, end) = (chunk.max(start), chunk.saturating_add(CHUNK).min(end));
        let missing = (first..end).step_by(PAGE_BYTES as usize).filter(|page| !self.copied.contains(page));
        let missing: Vec<_> = missing.map(|page| (page, rights)).collect();
        self.free = self.copy(&missing, self.free.clone(), memory, space);
    }

    /// Copies pages that are not there yet, as far as there is room; the result is the room that is left.
    fn copy(
        &mut self,
        pages: &[(u64, Rights)],
        mut free: Range<u64>,
        memory: &OwnMemory,
        space: &mut Space,
    ) -> Range<u64> {
        let room = (length(&free) / PAGE_BYTES) as usize;
        read_own(&pages[..pages.len().min(room)], |(page, rights), bytes| {
            redirect(page, bytes);
            if memory.write(free.start, bytes) && space.map_unused(memory, page, free.start, rights) {
                free.start = free.start.saturating_add(PAGE_BYTES);
                self.copied.insert(page);
            }
        });
        free
    }

    /// What this process has mapped at an address, if it can be copied.
    fn memory_at(&mut self, virt: u64) -> Option<&Mapping> {
        if self.guests.iter().any(|guest| guest.contains(&virt)) {
            return None;
        }
        self.mapping(virt).filter(|mapping| mapping.is_memory())
    }

    /// What this process has mapped at an address. The system is asked where nothing is known.
    fn mapping(&mut self, virt: u64) -> Option<&Mapping> {
        let known = self.mappings.iter().position(|mapping| mapping.range.contains(&virt));
        if known.is_none() {
            self.mappings.push(maps::at(virt).ok()??);
        }
        known.map_or(self.mappings.last(), |known| self.mappings.get(known))
    }

    /// Whether there is a page at an address that was not copied for want of room.
    pub fn is_full_at(&self, virt: u64) -> bool {
        let is_there = |mapping: &Mapping| mapping.range.contains(&virt) && mapping.is_memory();
        self.free.is_empty() && self.mappings.iter().any(is_there)
    }

    /// What lies at an address, for a message.
    pub fn what_lies_at(&self, virt: u64) -> Option<String> {
        let mapping = self.mappings.iter().find(|mapping| mapping.range.contains(&virt))?;
        let name = if mapping.name.is_empty() { "memory of this process" } else { &mapping.name };
        let remark = match (mapping.is_memory(), mapping.rights.write) {
            // Such as [vvar], by which the C library reads clocks.
            (false, _) => ", which no guest can be shown",
            (true, false) => ", which may only be read",
            (true, true) => "",
        };
        Some(format!("{name}{remark}"))
    }
}

type Page = [u8; PAGE_BYTES as usize];

/// Reads pages of this process, some at a time; those that another thread has unmapped meanwhile are left out.
fn read_own(mut pages: &[(u64, Rights)], mut each: impl FnMut((u64, Rights), &mut Page)) {
    let mut contents = [[0; PAGE_BYTES as usize]; (CHUNK / PAGE_BYTES) as usize];
    while !pages.is_empty() {
        let asked = pages.len().min(contents.len());
        let read = read_pages(&pages[..asked], &mut contents);
        pages.iter().zip(&mut contents).take(read).for_each(|(page, bytes)| each(*page, bytes));
        // If there are fewer than asked for, the one after them cannot be read.
        pages = &pages[asked.min(read.saturating_add(1))..];
    }
}

/// How many of these pages, from the first on, could be read.
fn read_pages(pages: &[(u64, Rights)], into: &mut [Page]) -> usize {
    let vector = |at: *mut libc::c_void, bytes| libc::iovec { iov_base: at, iov_len: bytes };
    let bytes = into.as_flattened_mut();
    let local = vector(bytes.as_mut_ptr().cast(), bytes.len());
    let page =
        |(page, _): &(u64, Rights)| vector(ptr::with_exposed_provenance_mut(*page as usize), PAGE_BYTES as usize);
    let remote: Vec<_> = pages.iter().map(page).collect();
    let process = std::process::id() as i32;
    // SAFETY: the local bytes are the caller's to write to; those of the pages are only read, and the system checks that they
    // can be.
    let read = unsafe { libc::process_vm_readv(process, &local, 1, remote.as_ptr(), remote.len() as u64, 0) };
    u64::try_from(read).map_or(0, |bytes| (bytes / PAGE_BYTES) as usize)
}

/// Which pages guests of this thread used: mapping code mostly uses the same from run to run.
mod needed {
    use std::cell::RefCell;

    /// More than any mapper of ours uses, and few enough that those of others before it do no harm.
    const MOST: usize = 64;

    thread_local! {
        static PAGES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    /// A thread that comes to its end foresees nothing.
    pub fn note(page: u64) {
        let _ = PAGES.try_with(|pages| {
            let mut pages = pages.borrow_mut();
            pages.retain(|known| *known != page);
            if pages.len() == MOST {
                pages.remove(0);
            }
            pages.push(page);
        });
    }

    /// Those that are still there; the others are forgotten.
    pub fn lately(mut is_there: impl FnMut(u64) -> bool) -> Vec<u64> {
        let still_there = |pages: &RefCell<Vec<u64>>| {
            let mut pages = pages.borrow_mut();
            pages.retain(|page| is_there(*page));
            pages.clone()
        };
        PAGES.try_with(still_there).unwrap_or_default()
    }

    #[test]
    fn the_last_ones_are_known_once_each() {
        let told = std::thread::spawn(|| {
            (0..=MOST as u64).chain([7, 7]).for_each(note);
            let all = lately(|_| true);
            (all, lately(|page| page % 2 == 0), lately(|_| true))
        });
        let others = (1..=MOST as u64).filter(|page| *page != 7);
        let all: Vec<u64> = others.chain([7]).collect();
        let even: Vec<u64> = all.iter().copied().filter(|page| page % 2 == 0).collect();
        assert_eq!(told.join().unwrap(), (all, even.clone(), even));
    }
}

#[test]
fn what_was_used_is_foreseen_once_something_was_missing() {
    let pages = |was_surprised| Pages {
        free: 0..0,
        free_at_hand: 0..0,
        mappings: Vec::new(),
        at_hand: vec![PAGE_BYTES],
        copied: (1..=4).map(|page| page * PAGE_BYTES).collect(),
        was_surprised,
        guests: [0..0, 0..0],
    };
    let remembered = std::thread::spawn(move || {
        let known = [true, false, true].map(|was_surprised| {
            let used = if was_surprised { 2 * PAGE_BYTES } else { 4 * PAGE_BYTES };
            pages(was_surprised).remember(|page| [PAGE_BYTES, used].contains(&page));
            needed::lately(|_| true)
        });
        pages(true).remember(|page| page > 2 * PAGE_BYTES);
        (known, needed::lately(|_| true))
    });
    let [two, three, four] = [2, 3, 4].map(|page| page * PAGE_BYTES);
    assert_eq!(remembered.join().unwrap(), ([vec![two], vec![two], vec![two]], vec![two, three, four]));
}

/// Puts the jumps to our own `malloc` into the copy of a page.
fn redirect(page: u64, bytes: &mut Page) {
    static REDIRECTIONS: OnceLock<Vec<(u64, [u8; JUMP_BYTES])>> = OnceLock::new();
    for (address, jump) in REDIRECTIONS.get_or_init(heap::redirections) {
        for (at, byte) in (*address..).zip(jump) {
            if let Some(slot) = at.checked_sub(page).and_then(|offset| bytes.get_mut(offset as usize)) {
                *slot = *byte;
            }
        }
    }
}
