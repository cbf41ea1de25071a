//! What the CPU is told to be, and what this machine enforces: what may be asked of it, and what mappers are offered.

use efibed_guest::mapper::CpuAbilities;

use super::EngineError;
use crate::machine::{CpuVendor, CpuidRequest, CpuidSeen};
use crate::mmu::{Cpu, Paging, PagingRules, Vendor};

/// What CPUID says, and what of it is switched on: everything that protects, five levels and keys only if asked for.
pub fn told(seen: &CpuidSeen, asked: &CpuidRequest) -> Paging {
    let on = |seen: bool, asked: Option<bool>| seen && asked != Some(false);
    Paging {
        la57: seen.la57 && asked.la57 == Some(true),
        maxphyaddr: seen.maxphyaddr,
        gbpages: on(seen.gbpages, asked.gbpages),
        nxe: on(seen.nx, asked.nx),
        wp: true,
        smep: on(seen.smep, asked.smep),
        smap: on(seen.smap, asked.smap),
        // Whether or not CPUID has it: some KVMs accept CR4.PKE anyway.
        pke: asked.pku == Some(true),
        pkru: 0,
        vendor: match seen.vendor {
            CpuVendor::Amd => Vendor::Amd,
            _ => Vendor::Intel,
        },
        reserved_fault_sets_p: true,
        rules: PagingRules::all(),
    }
}

/// What was asked for by name must be there.
pub fn refuse_what_is_missing(asked: &CpuidRequest, cpu: &Cpu) -> Result<(), EngineError> {
    let (told, checks) = (&cpu.told, &cpu.checks);
    let switches = [
        ("1 GiB pages", asked.gbpages, told.gbpages && checks.gbpages),
        ("execute-disable", asked.nx, told.nxe && checks.nxe),
        ("five-level paging", asked.la57, told.la57 && checks.la57),
        ("SMEP", asked.smep, told.smep && checks.smep),
        ("SMAP", asked.smap, told.smap && checks.smap),
        ("protection keys", asked.pku, told.pke && checks.pke),
    ];
    let unable =
        |what: String| EngineError::Unable { what, why: "tried, and it does not work (see `efibed doctor`)".into() };
    for (what, asked, has) in switches {
        if asked == Some(true) && !has {
            return Err(unable(what.into()));
        }
    }
    match asked.maxphyaddr {
        Some(bits) if bits.get() > checks.maxphyaddr => Err(unable(format!("{bits} bits of physical address"))),
        _ => Ok(()),
    }
}

/// What the mapper is offered: what it was told *and* what was found to work.
pub fn offer(cpu: &Cpu) -> CpuAbilities {
    let both = |ability: fn(&Paging) -> bool| u32::from(ability(&cpu.told) && ability(&cpu.checks));
    CpuAbilities {
        gbpages: both(|p| p.gbpages),
        nx: both(|p| p.nxe),
        la57: both(|p| p.la57),
        maxphyaddr: cpu.told.maxphyaddr.into(),
    }
}
