//! Memory allocation for code of this process in ring 3.
//!
//! The C library's allocator keeps its state in memory that other threads change while its pages are copied, one by one:
//! what the guest would see of it is torn, and its locks may be held by a thread that does not exist there. So in the copies
//! of its code `malloc` and its like begin with a jump to the functions here, which take memory from a heap of the
//! process's own, one piece after another. What they are given back, they let lie: the heap lasts for one run.

use std::arch::asm;
use std::ffi::{CStr, c_void};
use std::mem::offset_of;
use std::ops::Range;
use std::ptr;

use super::super::OwnMemory;

/// At the start of the heap, and at GS:0 while mapping code runs.
#[repr(C)]
struct Heap {
    /// Its own address.
    this: u64,
    next: u64,
    end: u64,
    /// Not 0: a piece was asked for that there was no room for.
    refused: u64,
}

/// What every piece is aligned to, and so the room for its length in front of it.
const ALIGNMENT: usize = 16;

/// Makes an empty heap of a stretch of the process's memory.
pub fn prepare(memory: &OwnMemory, phys: Range<u64>) {
    let virt = |phys: u64| phys.wrapping_add(memory.host_offset());
    let first = phys.start.wrapping_add(size_of::<Heap>().next_multiple_of(ALIGNMENT) as u64);
    for (at, value) in (phys.start..).step_by(8).zip([virt(phys.start), virt(first), virt(phys.end)]) {
        // The heap is a part of this memory.
        let _ = memory.write_u64(at, value);
    }
}

/// Whether the heap at a physical address had no room for a piece.
pub fn has_refused(memory: &OwnMemory, phys: u64) -> bool {
    memory.read_u64(phys.wrapping_add(offset_of!(Heap, refused) as u64)).is_some_and(|refused| refused != 0)
}

/// Changes of this process's code: at each address, bytes to be put into the guest's copy of it.
pub fn redirections() -> Vec<(u64, [u8; JUMP_BYTES])> {
    let pairs: [(&CStr, *const (), *const ()); 7] = [
        (c"malloc", libc::malloc as *const (), malloc as *const ()),
        (c"calloc", libc::calloc as *const (), calloc as *const ()),
        (c"realloc", libc::realloc as *const (), realloc as *const ()),
        (c"free", libc::free as *const (), free as *const ()),
        (c"posix_memalign", libc::posix_memalign as *const (), posix_memalign as *const ()),
        (c"aligned_alloc", libc::aligned_alloc as *const (), aligned_alloc as *const ()),
        (c"memalign", libc::memalign as *const (), aligned_alloc as *const ()),
    ];
    let mut redirections = Vec::new();
    for (name, linked, ours) in pairs {
        // What this program was linked to may be a stub that jumps to the function; code of libraries has no such.
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        for address in [linked.addr(), found.addr()] {
            if address != 0 && !redirections.iter().any(|(known, _)| *known == address as u64) {
                redirections.push((address as u64, jump_to(ours.addr() as u64)));
            }
        }
    }
    redirections
}

/// `jmp [rip]`, and the address behind it.
pub const JUMP_BYTES: usize = 14;

fn jump_to(address: u64) -> [u8; JUMP_BYTES] {
    let mut bytes = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[6..].copy_from_slice(&address.to_le_bytes());
    bytes
}

/// The heap that ring 3 was given.
fn heap() -> *mut Heap {
    let heap: *mut Heap;
    // SAFETY: these functions run in ring 3 only, where GS is the heap's and its first word its address.
    unsafe { asm!("mov {}, gs:[0]", out(reg) heap, options(nostack, preserves_flags, readonly)) };
    heap
}

fn take(bytes: usize, alignment: usize) -> *mut c_void {
    // SAFETY: as above; ring 3 has one thread.
    let heap = unsafe { &mut *heap() };
    let alignment = alignment.max(ALIGNMENT) as u64;
    let piece = heap.next.checked_add(ALIGNMENT as u64).and_then(|at| at.checked_next_multiple_of(alignment));
    let end = piece.and_then(|piece| piece.checked_add(bytes as u64)).filter(|end| *end <= heap.end);
    let (Some(piece), Some(end)) = (piece, end) else {
        heap.refused = 1;
        return ptr::null_mut();
    };
    heap.next = end;
    let piece = ptr::with_exposed_provenance_mut::<u64>(piece as usize);
    // SAFETY: the word in front of a piece is in the heap, and no other piece's.
    unsafe { piece.sub(1).write_unaligned(bytes as u64) };
    piece.cast()
}

/// How many bytes a piece has, of this heap or of the process's own.
fn length(piece: *mut c_void) -> usize {
    // SAFETY: as in `heap`.
    let heap = unsafe { &*heap() };
    match (heap.this..heap.end).contains(&(piece.addr() as u64)) {
        // SAFETY: `take` has put it there.
        true => unsafe { piece.cast::<u64>().sub(1).read_unaligned() as usize },
        // SAFETY: a piece that was allocated before this process was copied, and which the C library knows.
        false => unsafe { libc::malloc_usable_size(piece) },
    }
}

extern "C" fn malloc(bytes: usize) -> *mut c_void {
    take(bytes, ALIGNMENT)
}

extern "C" fn calloc(count: usize, bytes: usize) -> *mut c_void {
    // What has not been taken is zero, and nothing is taken twice.
    count.checked_mul(bytes).map_or(ptr::null_mut(), |bytes| take(bytes, ALIGNMENT))
}

extern "C" fn realloc(old: *mut c_void, bytes: usize) -> *mut c_void {
    let new = take(bytes, ALIGNMENT);
    if !new.is_null() && !old.is_null() {
        // SAFETY: both pieces have as many bytes, and they are apart.
        unsafe { ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast(), bytes.min(length(old))) };
    }
    new
}

extern "C" fn free(_piece: *mut c_void) {}

extern "C" fn posix_memalign(piece: *mut *mut c_void, alignment: usize, bytes: usize) -> i32 {
    let new = take(bytes, alignment);
    if new.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as the function's caller vouches.
    unsafe { piece.write(new) };
    0
}

extern "C" fn aligned_alloc(alignment: usize, bytes: usize) -> *mut c_void {
    take(bytes, alignment)
}
