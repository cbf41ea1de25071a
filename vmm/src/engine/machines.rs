//! Machines that wait for their next use.
//!
//! To make one costs more than most checks, and KVM takes milliseconds to let go of coalesced zones: so machines live as
//! long as the engine, and zones as long as their machine.

use std::ops::Range;
use std::sync::Mutex;

use super::EngineError;
use crate::guest::{Kernel, OwnMemory, Placement};
use crate::machine::{CpuidRequest, CpuidSeen, Hypervisor, Internals, Machine};
use crate::memory_map::MemoryMap;

/// Every machine has zones for these physical addresses, which are those of most maps.
const USUAL_ZONES: Range<u64> = 0..64 << 30;
/// For each region past them as much, at most; a write elsewhere is an exit, and no worse.
const MAX_ZONE: u64 = 64 << 30;
const GIB: u64 = 1 << 30;
/// Machines kept, of whatever kinds.
const MAX_IDLE: usize = 16;

/// The machines of one engine.
pub struct Machines {
    hypervisor: Hypervisor,
    idle: Mutex<Vec<Idle>>,
}

/// A machine that waits.
struct Idle {
    kind: CpuidRequest,
    machine: Machine,
    lodging: Lodging,
}

/// What a machine's last guest leaves to its next one: the kernel with its memory, and that of its mapping code. KVM has both
/// still: where the next guest has them at the same place, KVM need not be told of them anew.
#[derive(Default)]
pub struct Lodging {
    pub kernel: Option<Kernel>,
    pub process: Option<OwnMemory>,
}

impl Machines {
    pub fn new(hypervisor: Hypervisor) -> Self {
        Self { hypervisor, idle: Mutex::default() }
    }

    /// What KVM says it supports.
    pub fn supported(&self) -> CpuidSeen {
        self.hypervisor.supported()
    }

    /// A waiting machine of this kind whose own pages do not disturb the map. After a fork, those of the parent are dropped:
    /// they run only there.
    pub fn reuse(&self, cpu: &CpuidRequest, map: &MemoryMap) -> Option<(Machine, Lodging)> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.retain(|idle| idle.machine.is_of_this_process());
        let suits = |idle: &Idle| idle.kind == *cpu && Placement::tolerates(map, &idle.machine.internals());
        let index = idle.iter().position(suits)?;
        let Idle { machine, lodging, .. } = idle.remove(index);
        Some((machine, lodging))
    }

    /// A waiting machine or a new one, its own pages where they usually are.
    pub fn any(&self, cpu: &CpuidRequest, map: &MemoryMap) -> Result<Machine, EngineError> {
        match self.reuse(cpu, map) {
            Some((machine, _)) => Ok(machine),
            None => self.create(cpu, Placement::usual_internals()),
        }
    }

    /// A new machine.
    pub fn create(&self, cpu: &CpuidRequest, internals: Internals) -> Result<Machine, EngineError> {
        Ok(Machine::new(&self.hypervisor, cpu, internals)?)
    }

    /// Adds the zones that a map needs to those the machine has.
    pub fn prepare(machine: &mut Machine, map: &MemoryMap) -> Result<(), EngineError> {
        let mut zones = machine.coalesced();
        zones.push(USUAL_ZONES);
        for region in map.regions().filter(|region| region.is_mapped() && !region.wraps()) {
            let start = region.phys & !(GIB - 1);
            let end = region.phys.saturating_add(region.bytes().unwrap_or(0)).checked_next_multiple_of(GIB);
            zones.push(start..end.unwrap_or(start).min(start.saturating_add(MAX_ZONE)));
        }
        machine.coalesce(&zones).map(drop).map_err(|error| EngineError::Kvm(error.to_string()))
    }

    /// Takes a machine back; one that cannot be reset is dropped.
    pub fn give_back(&self, cpu: &CpuidRequest, mut machine: Machine, lodging: Lodging) {
        if machine.reset().is_err() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.len() == MAX_IDLE {
            // The one that has waited longest: its kind may never be asked for again.
            idle.remove(0);
        }
        idle.push(Idle { kind: *cpu, machine, lodging });
    }
}
