//! Guest memory as firmware sees it.

use crate::firmware::GuestMemory;
use crate::machine::Machine;

/// A stopped machine's memory.
pub struct FirmwareMemory<'m>(pub &'m mut Machine);

impl GuestMemory for FirmwareMemory<'_> {
    fn read(&self, pa: u64, buf: &mut [u8]) -> bool {
        self.0.read(pa, buf).is_ok()
    }

    fn write(&mut self, pa: u64, data: &[u8]) -> bool {
        self.0.write(pa, data).is_ok()
    }
}
