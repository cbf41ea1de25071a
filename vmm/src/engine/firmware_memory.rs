//! Guest memory as firmware sees it.

use crate::firmware::GuestMemory;
use crate::guest::OwnMemory;
use crate::machine::Machine;
use crate::mmu::{Access, Pa, Paging, Va, walk};

/// A stopped machine's memory, and the guest's own, where tables are.
pub struct FirmwareMemory<'m> {
    pub machine: &'m mut Machine,
    pub tables: &'m OwnMemory,
    pub paging: &'m Paging,
}

impl GuestMemory for FirmwareMemory<'_> {
    fn translate(&self, cr3: Pa, virt: Va, access: Access) -> Option<Pa> {
        let walk = walk(self.tables, Pa(cr3.0 & CR3_ADDRESS), virt, access, self.paging);
        walk.translation().map(|translation| translation.pa)
    }

    fn read(&self, pa: Pa, buf: &mut [u8]) -> bool {
        self.machine.read(pa, buf).is_ok()
    }

    fn write(&mut self, pa: Pa, data: &[u8]) -> bool {
        self.machine.write(pa, data).is_ok()
    }
}

/// CR3's bits that are an address (SDM vol. 3A, table 4-12).
const CR3_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
