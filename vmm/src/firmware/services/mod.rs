//! The services as the host plays them: one file for each section of UEFI 2.10, chapter 8.
//!
//! | section | file |
//! | --- | --- |
//! | 8.2 Variable Services | `variables.rs`, over the store in `variable_store.rs` |
//! | 8.3 Time Services | `time.rs` |
//! | 8.4 Virtual Memory Services | `virtual_memory.rs` |
//! | 8.5 Miscellaneous Runtime Services | `miscellaneous.rs` |
//!
//! A service looks at its caller through [`Caller`]: arguments, and memory through the caller's tables. What it reads and
//! writes there its stub does again in the guest. A service that refuses says why with a [`Refusal`]; what it had noted
//! to be written by then (a size that was too small, for one) is still written.

mod miscellaneous;
mod time;
pub(super) mod variable_store;
mod variables;
pub(super) mod virtual_memory;

use efibed_stub::Service;
use uefi_raw::table::runtime::ResetType;

use super::Firmware;
use super::caller::Caller;
use super::refusal::Refusal;
use crate::mmu::Va;

pub(super) use miscellaneous::Counters;
pub(super) use time::Clock;

/// Plays a service. A reset is what ends the guest's run.
pub(super) fn play(
    firmware: &mut Firmware,
    service: Service,
    caller: &mut Caller<'_>,
) -> Result<Option<ResetType>, Refusal> {
    match service {
        Service::GetTime => time::get_time(&firmware.clock, caller),
        Service::SetTime => time::set_time(&mut firmware.clock, caller),
        Service::GetWakeupTime => time::get_wakeup_time(&firmware.clock, caller),
        Service::SetWakeupTime => time::set_wakeup_time(&mut firmware.clock, caller),
        Service::SetVirtualAddressMap => virtual_memory::set_virtual_address_map(firmware, caller),
        Service::ConvertPointer => virtual_memory::convert_pointer(),
        Service::GetVariable => variables::get_variable(&firmware.variables, caller),
        Service::GetNextVariableName => variables::get_next_variable_name(&firmware.variables, caller),
        Service::SetVariable => variables::set_variable(&mut firmware.variables, caller),
        Service::GetNextHighMonotonicCount => miscellaneous::next_high_monotonic_count(&mut firmware.counters, caller),
        Service::ResetSystem => return miscellaneous::reset_system(caller).map(Some),
        Service::UpdateCapsule => miscellaneous::update_capsule(caller),
        Service::QueryCapsuleCapabilities => miscellaneous::query_capsule_capabilities(caller),
        Service::QueryVariableInfo => variables::query_variable_info(&firmware.variables, caller),
    }
    .map(|()| None)
}

/// The pointer, unless it is null.
fn not_null(argument: &'static str, pointer: u64) -> Result<Va, Refusal> {
    if pointer == 0 { Err(Refusal::Null { argument }) } else { Ok(Va(pointer)) }
}
