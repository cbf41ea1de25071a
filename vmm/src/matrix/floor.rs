//! What accesses cost this machine at the least: bare loops, to compare the matrix's speed with.

use std::time::{Duration, Instant};

use efibed_guest::protocol::TrialKind;

use super::arena::{ARENAS, Arena, Slots, new_arenas};
use super::bits::{Bit, Combination};
use super::part::Part;
use super::sets::Set;
use super::station::Site;
use crate::bed::TestBed;
use crate::engine::EngineError;
use crate::machine::CpuidRequest;

/// Time of one turn of each bare loop.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Writing a PTE, a PDE and a PDPTE in ring 0.
    pub entries: Duration,
    /// A read, a write and a fetch in ring 0 that fault, delivered to a handler that does nothing.
    pub ring_0: [Duration; 3],
    /// The same in ring 3.
    pub ring_3: [Duration; 3],
}

impl Floor {
    /// Takes the time of so many turns of each.
    pub fn measure(bed: &TestBed, turns: u64) -> Result<Self, EngineError> {
        let request = CpuidRequest::default();
        let told = bed.abilities(&request)?.taken;
        let part = Part::new(&Set::Access.planes()[0], request, told, &Bit::KEYS);
        let arenas: [Arena; ARENAS] = new_arenas()?;
        let mut site = Site::new(bed, &part, &arenas)?;
        let mut station = site.open(&part, &arenas, true)?;
        let absent = Combination::of(&[Bit::Nxe, Bit::Wp]);
        let case = arenas[0].lay_out(0, &mut Slots::default(), absent, told.la57);
        let case = case.ok_or_else(|| EngineError::Kvm("an arena has no slot".into()))?;
        let mut time = |kind, user| {
            let start = Instant::now();
            station.run_bare(&case, &arenas[0], kind, user, turns)?;
            Ok::<_, EngineError>(start.elapsed() / turns as u32)
        };
        let kinds = [TrialKind::BareRead, TrialKind::BareWrite, TrialKind::BareFetch];
        let mut rings = [[Duration::ZERO; 3]; 2];
        for (user, ring) in [false, true].into_iter().zip(&mut rings) {
            for (slot, kind) in ring.iter_mut().zip(kinds) {
                *slot = time(kind, user)?;
            }
        }
        let entries = time(TrialKind::BareEntries, false)?;
        let [ring_0, ring_3] = rings;
        site.close(bed, &part);
        Ok(Self { entries, ring_0, ring_3 })
    }

    /// A combination of the set `access` on the average: three entries written, each access of either ring as often as
    /// any, half of them with a read before. Here all fault, there nine in ten do.
    pub fn combination(&self) -> Duration {
        let average = |of: &[Duration; 3]| of.iter().sum::<Duration>() / 3;
        self.entries + (average(&self.ring_0) + average(&self.ring_3)) / 2 + self.ring_0[0] / 2
    }
}
