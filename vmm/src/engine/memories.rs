//! Memories that wait for their next use by engine walker.
//!
//! The memory of a small map costs more than all else that is done with the map, if it is new: the system gives and takes back
//! page by page. So it is kept from run to run, and zeroed where the last run is known to have written. That is not believed:
//! of everything else that the next run has for itself the system tells what was ever touched, and one byte of it that is not
//! zero is the end of that memory.
//!
//! This is done when the memory is taken, not when it is given back. So it also finds what somebody wrote in between: a thread
//! that mapping code has left behind, which it must not.

use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::guest::{Case, OwnMemory, PAGE_BYTES, Placement};
use crate::machine::{Backing, BackingError};

/// The memories of one bed.
#[derive(Default)]
pub struct Memories {
    idle: Mutex<Vec<Idle>>,
}

/// Bytes of the smallest and of the largest that is kept: the tables of 32 regions that are scattered take half of that. What
/// needs more is made anew for each run, which takes its time anyway. The system lets every process lock 8 MiB
/// (RLIMIT_MEMLOCK, since Linux 5.16).
const BYTES: RangeInclusive<u64> = 1 << 20..=4 << 20;

/// Pages touched of a memory that is kept, at most: to look at them all takes longer than to touch as many anew.
const MOST_TOUCHED: u64 = 512;

/// Memories kept; more threads than this at once make their own.
const MAX_IDLE: usize = 16;

impl Memories {
    /// Memory for a guest without a kernel: zeros behind where that would be.
    pub fn take(&self, placement: &Placement) -> Result<OwnMemory, BackingError> {
        let bytes = placement.sizes.total();
        if bytes > *BYTES.end() {
            return OwnMemory::new(placement.base, bytes);
        }
        // Of few sizes, so that the next map's fits.
        let size = bytes.next_power_of_two().max(*BYTES.start());
        // The system looks at every page that it is asked about.
        let used = placement.sizes.image..bytes;
        let backing = match self.waiting(size).and_then(|idle| idle.cleaned(used)) {
            Some(backing) => backing,
            None => self.fresh(size)?,
        };
        Ok(OwnMemory::on(backing, placement.base, bytes))
    }

    /// A new one. If the system locks no more, those of other sizes go.
    fn fresh(&self, size: u64) -> Result<Arc<Backing>, BackingError> {
        let fresh = Backing::that_tells_touched(size)?;
        if fresh.tells_touched() || std::mem::take(&mut *self.idle()).is_empty() {
            return Ok(fresh);
        }
        Backing::that_tells_touched(size)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a size that was used last.
    fn waiting(&self, size: u64) -> Option<Idle> {
        let mut idle = self.idle();
        let last = idle.iter().rposition(|idle| idle.backing.bytes() == size)?;
        Some(idle.remove(last))
    }

    /// Takes the memory of a run back.
    pub fn give_back(&self, case: Case) {
        let offset = |range: Range<u64>| range.start - case.memory.base()..range.end - case.memory.base();
        let written = case.written().map(offset);
        let backing = case.memory.into_backing();
        if backing.tells_touched() {
            let mut idle = self.idle();
            // Those that have waited longest go.
            let surplus = (idle.len() + 1).saturating_sub(MAX_IDLE);
            idle.drain(..surplus);
            idle.push(Idle { backing, written });
        }
    }
}

/// A memory that nobody uses.
struct Idle {
    backing: Arc<Backing>,
    /// Where its last run is known to have written, by offset.
    written: [Range<u64>; Case::PARTS],
}

impl Idle {
    /// The memory, with zeros where it will be used; None: something there is not.
    fn cleaned(self, used: Range<u64>) -> Option<Arc<Backing>> {
        let Self { backing, written } = self;
        let touched = backing.touched(used);
        let pages: u64 = touched.iter().map(|part| (part.end - part.start) / PAGE_BYTES).sum();
        written.iter().for_each(|range| backing.zero(range.clone()));
        let mut rest = touched.iter().flat_map(|part| outside(part, &written));
        (pages <= MOST_TOUCHED && rest.all(|range| backing.is_zero(range))).then_some(backing)
    }
}

/// What of a range is in none of some others, which are in order and apart.
fn outside<'a>(range: &Range<u64>, others: &'a [Range<u64>]) -> impl Iterator<Item = Range<u64>> + use<'a> {
    let (start, end) = (range.start, range.end);
    let starts = [start].into_iter().chain(others.iter().map(|other| other.end));
    let ends = others.iter().map(|other| other.start).chain([end]);
    let between = starts.zip(ends).map(move |(from, to)| from.max(start)..to.min(end));
    between.filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use efibed_guest::mapper::CpuAbilities;

    use super::*;
    use crate::guest::{Image, Kernel, Sizes, Strides};
    use crate::memory_map::MemoryMap;
    use crate::mmu::Paging;

    /// A guest on one of the memories, with all that the host puts there, and so many pages for tables.
    fn case(memories: &Memories, pool: u64) -> Case {
        let text = "[[descriptor]]\ntype = 6\nphys = 0x7e729000\npages = 2\nattribute = \"RUNTIME|WB\"";
        let map = MemoryMap::parse(text).unwrap();
        let image = Image::built_in().unwrap();
        let sizes = Case::sizes(image, &map, Strides::default(), 0, pool, 0);
        let placement = Placement::find(&map, sizes, 1 << 36, &[]).unwrap();
        let memory = memories.take(&placement).unwrap();
        let paging = Paging::default();
        let kernel = Kernel::left_out(image, memory, placement);
        let case = Case::beside(&kernel, &map, Strides::default(), &[], &paging).unwrap();
        assert!(case.ask(CpuAbilities::default(), 0));
        case
    }

    fn tells(run: &Case) -> bool {
        run.memory.backing().tells_touched()
    }

    /// What becomes of a memory to which `write` was done, beside what the host did: None where it is not used again.
    fn after(write: impl Fn(&Case)) -> Option<Arc<Backing>> {
        after_with(16, write)
    }

    fn after_with(pool: u64, write: impl Fn(&Case)) -> Option<Arc<Backing>> {
        let to_its_end = |run: &Case| run.memory.backing().bytes();
        after_for(pool, write, to_its_end)
    }

    /// The same for a run that will use the memory up to an end.
    fn after_for(pool: u64, write: impl Fn(&Case), end: impl Fn(&Case) -> u64) -> Option<Arc<Backing>> {
        let memories = Memories::default();
        let run = patiently(|| Some(case(&memories, pool)).filter(tells));
        write(&run);
        let used = run.placement.sizes.image..end(&run);
        memories.give_back(run);
        let idle = memories.idle.lock().unwrap().pop().expect("it was given back");
        idle.cleaned(used)
    }

    /// Whether this process may lock one memory at all.
    fn may_lock() -> bool {
        let most = *BYTES.end();
        let may = Backing::that_tells_touched(most).unwrap().tells_touched() || limit_of_locks() >= most;
        if !may {
            eprintln!("skipped: this process may not lock {most} bytes (RLIMIT_MEMLOCK)");
        }
        may
    }

    fn limit_of_locks() -> u64 {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the structure outlives the call.
        unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
        limit.rlim_cur
    }

    /// Has that limit hold for this thread even if it is root's (capabilities(7), CAP_IPC_LOCK).
    fn obey_the_limit() {
        const VERSION_3: u32 = 0x2008_0522;
        const CAP_IPC_LOCK: u32 = 14;
        let header = [VERSION_3, 0];
        // Effective, permitted and inheritable ones, of 32 each.
        let mut sets = [[0_u32; 3]; 2];
        // SAFETY: both are as large as the calls have them in this version, and outlive them.
        let done = unsafe {
            let read = libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr());
            sets[0][0] &= !(1 << CAP_IPC_LOCK);
            [read, libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr())]
        };
        assert_eq!(done, [0, 0]);
    }

    /// Other tests lock memory too, for as long as a run takes.
    fn patiently<T>(mut what: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(done) = what() {
                break done;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "not so much memory could be locked");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn what_a_run_is_known_to_have_written_is_zero_again() {
        if !may_lock() {
            return;
        }
        let result = |run: &Case, pages: u64| {
            let result = efibed_guest::mapper::MapResult { table_pages: pages, mapped: 1, log_used: 5, ..run.result() };
            assert!(run.memory.write_object(run.result_at(), &result));
        };
        let cleaned = after(|run| {
            result(run, 9);
            let at = [run.placement.pool().start + 9 * PAGE_BYTES - 8, run.placement.virtual_map().start + 40];
            at.into_iter()
                .chain([run.placement.desk().start + PAGE_BYTES])
                .for_each(|at| assert!(run.memory.write(at, &[1])));
        });
        let is_zero = |backing: Arc<Backing>| backing.is_zero(0..backing.bytes());
        assert!(is_zero(cleaned.expect("it is used again")));
        // More than there is room for.
        assert!(is_zero(after(|run| result(run, u64::MAX)).expect("it is used again")));
    }

    #[test]
    fn a_memory_that_somebody_else_has_written_to_is_not_used_again() {
        if !may_lock() {
            return;
        }
        let at = |place: fn(&Case) -> u64| after(move |run| assert!(run.memory.write(place(run), &[1]))).is_some();
        assert!(!at(|run| run.placement.memory_map().end - 1));
        assert!(!at(|run| run.placement.virtual_map().start));
        assert!(!at(|run| run.placement.desk().end - 1));
        assert!(!at(|run| run.placement.boot_tables().end - 1));
        assert!(!at(|run| run.placement.pool().end - 1));
        assert!(at(|run| run.placement.image().end - 1), "nobody looks where the kernel would be");
        // Past the memory of this guest, for one that is larger and for another like it; and nowhere.
        let past = |run: &Case| assert!(run.memory.backing().write(run.placement.sizes.total(), &[1]));
        assert!(after(past).is_none());
        assert!(after_for(16, past, |run| run.placement.sizes.total()).is_some());
        assert!(after(|_| {}).is_some());
    }

    #[test]
    fn a_memory_of_which_too_much_was_touched_is_not_used_again() {
        if !may_lock() {
            return;
        }
        let touch = |pages: u64| {
            after_with(MOST_TOUCHED + 100, move |run| {
                let end = run.memory.backing().bytes();
                assert_eq!(end, *BYTES.end());
                (0..pages).for_each(|page| assert!(run.memory.backing().write(end - (page + 1) * PAGE_BYTES, &[0])));
            })
        };
        assert!(touch(MOST_TOUCHED - 64).is_some());
        assert!(touch(MOST_TOUCHED).is_none());
    }

    #[test]
    fn a_memory_is_for_maps_that_need_as_much() {
        let memories = Memories::default();
        let nothing = Sizes { read_only: 0, image: 0, memory_map: 0, attributes: 0, desk: 0, boot_tables: 0, pool: 0 };
        let bytes = |needed: u64| {
            let sizes = Sizes { pool: needed, ..nothing };
            memories.take(&Placement { base: 0x10_0000, sizes }).unwrap().backing().bytes()
        };
        let [small, large] = [*BYTES.start(), *BYTES.end()];
        assert_eq!(
            [1, small, small + 1, large, large + 1].map(bytes),
            [small, small, 2 * small, large, large + PAGE_BYTES]
        );
        if !may_lock() {
            return;
        }
        // The one that was used last of its size.
        let address = |case: &Case| case.memory.backing().host_address().addr();
        let runs = [16, 16, 600].map(|pool| case(&memories, pool));
        let [_, second, large] = [&runs[0], &runs[1], &runs[2]].map(address);
        let is_kept = runs.iter().all(tells);
        runs.into_iter().for_each(|run| memories.give_back(run));
        if is_kept {
            assert_eq!([16, 600].map(|pool| address(&case(&memories, pool))), [second, large]);
        }
    }

    #[test]
    fn memories_that_wait_do_not_keep_the_system_from_locking_one_of_another_size() {
        let large = *BYTES.end();
        let most = limit_of_locks() / large;
        if !(1..8).contains(&most) {
            return eprintln!("skipped: this process may lock none of {large} bytes, or as many as it likes");
        }
        let with_all_locked = move || {
            obey_the_limit();
            let memories = Memories::default();
            let all = || (0..most).map(|_| Some(case(&memories, 600)).filter(tells)).collect::<Option<Vec<_>>>();
            patiently(all).into_iter().for_each(|run| memories.give_back(run));
            assert_eq!(memories.idle().len() as u64, most);
            patiently(|| Some(case(&memories, 16)).filter(tells));
        };
        std::thread::spawn(with_all_locked).join().unwrap();
    }

    #[test]
    fn what_lies_outside_of_ranges_is_found() {
        let outside = |others: &[Range<u64>]| -> Vec<[u64; 2]> {
            outside(&(2..8), others).map(|range| [range.start, range.end]).collect()
        };
        let all = [[2, 8]];
        assert_eq!(outside(&[]), all);
        assert_eq!(outside(&[0..3, 4..4, 5..6, 8..9]), [[3, 4], [4, 5], [6, 8]]);
        assert_eq!(outside(&[0..1, 9..9]), all);
        for inside in [0..9, 2..8] {
            assert_eq!(outside(&[inside, 9..10]), [[0; 2]; 0]);
        }
    }
}
