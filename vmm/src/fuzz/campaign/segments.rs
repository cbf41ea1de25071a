//! Shared memory that no process can leave behind.

use libafl_bolts::shmem::{ShMem as _, ShMemId, ShMemProvider, StdShMem, StdShMemProvider};

type Error = libafl_bolts::Error;

/// System V segments that are marked to be destroyed as soon as they are made: Linux lets others attach by number as long as
/// one process has them attached, and frees them with the last (shmctl(2), IPC_RMID).
#[derive(Clone, Debug, Default)]
pub struct Segments(StdShMemProvider);

impl ShMemProvider for Segments {
    type ShMem = StdShMem;

    fn new() -> Result<Self, Error> {
        StdShMemProvider::new().map(Self)
    }

    fn new_shmem(&mut self, size: usize) -> Result<StdShMem, Error> {
        let segment = self.0.new_shmem(size)?;
        // SAFETY: a command that reads and writes no memory of this process. The number is that of a segment made just now.
        let marked = unsafe { libc::shmctl(segment.id().into(), libc::IPC_RMID, std::ptr::null_mut()) };
        if marked == 0 { Ok(segment) } else { Err(Error::last_os_error("shmctl(IPC_RMID)")) }
    }

    fn shmem_from_id_and_size(&mut self, id: ShMemId, size: usize) -> Result<StdShMem, Error> {
        self.0.shmem_from_id_and_size(id, size)
    }
}
