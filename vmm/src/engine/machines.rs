//! Machines that wait for their next use.
//!
//! To make one costs more than most checks, and KVM takes milliseconds to let go of coalesced zones: so all have the
//! same zones, and live as long as the engine.

use std::sync::Mutex;

use super::EngineError;
use crate::guest::Placement;
use crate::machine::{CpuidRequest, CpuidSeen, Hypervisor, Internals, Machine};
use crate::memory_map::MemoryMap;

/// Zones cover the physical addresses of most maps; a write past them is an exit, and no worse.
const ZONES: std::ops::Range<u64> = 0..64 << 30;
/// Machines kept; more threads than this at once make their own.
const MAX_IDLE: usize = 16;

/// The machines of one engine.
pub struct Machines {
    hypervisor: Hypervisor,
    idle: Mutex<Vec<(CpuidRequest, Machine)>>,
}

impl Machines {
    pub fn new(hypervisor: Hypervisor) -> Self {
        Self { hypervisor, idle: Mutex::default() }
    }

    /// What KVM says it supports.
    pub fn supported(&self) -> CpuidSeen {
        self.hypervisor.supported()
    }

    /// A waiting machine of this kind whose own pages do not disturb the map.
    pub fn reuse(&self, cpu: &CpuidRequest, map: &MemoryMap) -> Option<Machine> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let suits =
            |(kind, machine): &(CpuidRequest, Machine)| kind == cpu && Placement::tolerates(map, &machine.internals());
        let index = idle.iter().position(suits)?;
        Some(idle.swap_remove(index).1)
    }

    /// A new machine.
    pub fn create(&self, cpu: &CpuidRequest, internals: Internals) -> Result<Machine, EngineError> {
        Ok(Machine::new(&self.hypervisor, cpu, internals)?)
    }

    /// Makes a machine ready to be given memory: all have the same zones.
    pub fn prepare(machine: &mut Machine) -> Result<(), EngineError> {
        machine.coalesce(&[ZONES]).map(drop).map_err(|error| EngineError::Kvm(error.to_string()))
    }

    /// Takes a machine back; one that cannot be reset is dropped.
    pub fn give_back(&self, cpu: &CpuidRequest, mut machine: Machine) {
        if machine.reset().is_err() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.len() < MAX_IDLE {
            idle.push((*cpu, machine));
        }
    }
}
