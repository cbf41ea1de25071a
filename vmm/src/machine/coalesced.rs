//! Zones whose writes KVM collects in a ring instead of ending the run.
//!
//! A write into a zone, where there is no memory or [read-only](super::Slot::readonly) memory, becomes
//! an entry (address, data) of the ring; one that crosses a page becomes two. When the ring (169
//! entries) is full, the next write ends the run as [`Exit::MmioWrite`](super::Exit::MmioWrite):
//! it comes after those in the ring. The machine empties the ring at every exit into a queue, from
//! which [`Machine::drain`] hands them out.

use std::ops::Range;

use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use vmm_sys_util::errno;

use super::Machine;
use crate::mmu::Pa;

/// Zones KVM allows to a VM: `NR_IOBUS_DEVS` (1000), less what it has there itself.
pub const MAX_ZONES: usize = 997;

/// KVM takes zones below 2 GiB only; powers of two never cut a page.
const ZONE_BYTES: u64 = 1 << 30;

/// Writes that may wait for [`Machine::drain`].
pub(super) const MAX_QUEUED: usize = 1 << 16;

impl Machine {
    /// Replaces the zones. Ranges may touch or overlap.
    ///
    /// A zone is 1 GiB at most and KVM allows [`MAX_ZONES`]: what exceeds that is left out, from the
    /// highest addresses down, and its writes end the run. Returns the addresses that are covered.
    ///
    /// To add zones is cheap (2 us each). To remove even one takes KVM 8 ms of waiting, and so does
    /// dropping a machine that has any (15 ms): keep the machine, [`reset`](Machine::reset) it, and ask
    /// for the same zones as before, or for more. One set that suits every use is best.
    pub fn coalesce(&mut self, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, CoalesceError> {
        let wanted = zones(ranges);
        self.coalesced.remove(&self.vm, |zone| !is_among(zone, &wanted))?;
        for zone in wanted {
            self.coalesced.add(&self.vm, zone)?;
        }
        self.coalesced.stale = false;
        Ok(merged(&self.coalesced.zones))
    }

    /// The addresses that are covered now, or were before a reset.
    pub fn coalesced(&self) -> Vec<Range<u64>> {
        merged(&self.coalesced.zones)
    }

    /// Hands out the writes collected so far, oldest first: physical address and data. Drain at
    /// every exit before the exit itself is handled, and the order is that of the guest.
    pub fn drain(&mut self, mut each: impl FnMut(Pa, &[u8])) {
        for write in self.coalesced.queue.drain(..) {
            each(write.phys, &write.data[..usize::from(write.bytes)]);
        }
    }
}

/// KVM refused a zone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step} for {:#x}..{:#x} failed: {cause}", zone.start, zone.end)]
pub struct CoalesceError {
    /// The ioctl.
    pub step: &'static str,
    /// The zone.
    pub zone: Range<u64>,
    /// What KVM said.
    pub cause: errno::Error,
}

/// The zones of a machine and what was written to them.
#[derive(Default)]
pub(super) struct Coalesced {
    /// By address.
    zones: Vec<Range<u64>>,
    /// The zones are those of before the last reset: gone, unless they are asked for again.
    stale: bool,
    queue: Vec<Write>,
}

struct Write {
    phys: Pa,
    data: [u8; 8],
    bytes: u8,
}

impl Coalesced {
    /// Empties the ring into the queue.
    #[inline]
    pub(super) fn collect(&mut self, vcpu: &mut VcpuFd) {
        if self.zones.is_empty() {
            return;
        }
        while let Ok(Some(entry)) = vcpu.coalesced_mmio_read() {
            self.queue.push(Write { phys: Pa(entry.phys_addr), data: entry.data, bytes: entry.len.min(8) as u8 });
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Forgets what was written, in the ring too. The zones go before the next run, if by then they have
    /// not been asked for again.
    pub(super) fn reset(&mut self, vcpu: &mut VcpuFd) {
        self.collect(vcpu);
        self.queue.clear();
        self.stale = true;
    }

    /// To be called before each run.
    #[inline]
    pub(super) fn remove_stale(&mut self, vm: &VmFd) -> Result<(), CoalesceError> {
        match self.stale {
            true => self.remove(vm, |_| true),
            false => Ok(()),
        }
    }

    fn add(&mut self, vm: &VmFd, zone: Range<u64>) -> Result<(), CoalesceError> {
        if is_among(&zone, &self.zones) {
            return Ok(());
        }
        match vm.register_coalesced_mmio(IoEventAddress::Mmio(zone.start), bytes_of(&zone)) {
            Ok(()) => {
                let index = self.zones.partition_point(|other| other.start < zone.start);
                self.zones.insert(index, zone);
                Ok(())
            }
            Err(cause) => Err(CoalesceError { step: "KVM_REGISTER_COALESCED_MMIO", zone, cause }),
        }
    }

    fn remove(&mut self, vm: &VmFd, unwanted: impl Fn(&Range<u64>) -> bool) -> Result<(), CoalesceError> {
        while let Some(index) = self.zones.iter().rposition(&unwanted) {
            let zone = self.zones[index].clone();
            vm.unregister_coalesced_mmio(IoEventAddress::Mmio(zone.start), bytes_of(&zone))
                .map_err(|cause| CoalesceError { step: "KVM_UNREGISTER_COALESCED_MMIO", zone, cause })?;
            self.zones.remove(index);
        }
        self.stale = false;
        Ok(())
    }
}

/// Whether it is one of these, which are sorted. A machine of a campaign comes to have hundreds.
fn is_among(zone: &Range<u64>, sorted: &[Range<u64>]) -> bool {
    sorted.binary_search_by_key(&zone.start, |other| other.start).is_ok_and(|index| sorted[index] == *zone)
}

fn bytes_of(zone: &Range<u64>) -> u32 {
    (zone.end - zone.start) as u32
}

/// Cuts ranges at multiples of [`ZONE_BYTES`], lowest first, [`MAX_ZONES`] at most.
fn zones(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut zones = Vec::new();
    for range in merged(ranges) {
        let mut start = range.start;
        while start < range.end && zones.len() < MAX_ZONES {
            let border = (start / ZONE_BYTES + 1).saturating_mul(ZONE_BYTES);
            let end = border.min(range.end);
            zones.push(start..end);
            start = end;
        }
    }
    zones
}

/// Sorted, with neighbours joined and empty ones left out.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one zone is a list of ranges, too")]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn zones_are_cut_at_gibibytes() {
        let one = 0x1000..2 * GIB + 0x1000;
        let cut = [0x1000..GIB, GIB..2 * GIB, 2 * GIB..2 * GIB + 0x1000];
        assert_eq!(zones(&[one]), cut);
    }

    #[test]
    fn overlapping_ranges_become_one_zone() {
        assert_eq!(zones(&[0x3000..0x5000, 0x1000..0x4000, 7..7]), [0x1000..0x5000]);
    }

    #[test]
    fn a_zone_is_among_others_if_it_is_the_same() {
        let zones = [0..GIB, GIB..2 * GIB, 5 * GIB..6 * GIB];
        assert!(zones.iter().all(|zone| is_among(zone, &zones)));
        for other in [0..GIB / 2, GIB..3 * GIB, 2 * GIB..3 * GIB, GIB - 1..GIB, 6 * GIB..7 * GIB] {
            assert!(!is_among(&other, &zones), "{other:x?}");
        }
    }

    #[test]
    fn zones_stop_at_the_limit_and_at_the_end_of_the_address_space() {
        let all = zones(&[0..u64::MAX]);
        assert_eq!(all.len(), MAX_ZONES);
        assert_eq!(merged(&all), [0..MAX_ZONES as u64 * GIB]);
        let top = zones(&[u64::MAX - 0x1000..u64::MAX]);
        assert_eq!(top, [u64::MAX - 0x1000..u64::MAX]);
    }
}
