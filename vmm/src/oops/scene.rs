//! What was going on: whether firmware is in it at all, in which service, and before or after SetVirtualAddressMap.

use efibed_stub::Service;

use super::fault::{Fault, Printer};
use super::place::{Area, Place};
use crate::mmu::bits;

/// When it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before ExitBootServices, on firmware's own tables.
    BootServices,
    /// On a kernel's tables, in SetVirtualAddressMap or in what prepares it.
    InSwitch,
    /// On a kernel's tables, after SetVirtualAddressMap.
    AfterSwitch,
    /// In a service at physical addresses: this kernel does not call SetVirtualAddressMap, as far as the log tells.
    Physical,
    /// In the kernel's own code about EFI, with no service running.
    Kernel,
    /// The log does not tell.
    Unknown,
}

impl Moment {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::BootServices => "before ExitBootServices, on firmware's own tables",
            Self::InSwitch => "in SetVirtualAddressMap, or in what prepares it",
            Self::AfterSwitch => "after SetVirtualAddressMap",
            Self::Physical => "in a runtime service at physical addresses; the log shows no SetVirtualAddressMap",
            Self::Kernel => "in the kernel's own code about EFI; no service was running",
            Self::Unknown => "the log does not tell whether SetVirtualAddressMap had been called",
        }
    }

    /// A name that stays the same.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BootServices => "boot-services",
            Self::InSwitch => "in-switch",
            Self::AfterSwitch => "after-switch",
            Self::Physical => "physical",
            Self::Kernel => "kernel",
            Self::Unknown => "unknown",
        }
    }
}

/// What was going on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Why the fault is taken to be about EFI. None: nothing in the log says so.
    pub evidence: Option<&'static str>,
    /// Whether the instruction is firmware's, as far as can be told.
    pub is_in_firmware: bool,
    /// When it was.
    pub moment: Moment,
    /// The service that was running, if the trace names one.
    pub service: Option<Service>,
}

impl Scene {
    /// Of a fault, whose access and instruction are at these places.
    pub fn of(fault: &Fault, at: Option<&Place>, by: Option<&Place>) -> Self {
        let service = names(fault).find_map(service);
        let any = |list: &[&str]| names(fault).any(|name| list.contains(&name));
        let is_in_switch = any(&SWITCH) || service == Some(Service::SetVirtualAddressMap);
        let is_call = service.is_some() || any(&CALLS);
        // The window is Linux's; others may have anything there.
        let has_window = fault.printer == Printer::Linux;
        let is_in_window = |place: Option<&Place>| has_window && place.is_some_and(|place| place.area == Area::Window);
        let is_region = |place: Option<&Place>| {
            is_supervisor(fault)
                && place.and_then(|place| place.region).is_some_and(|region| region.is_runtime() || region.is_code())
        };
        let is_low = by.is_some_and(|by| by.area == Area::Low && by.address < FOUR_GIB)
            && is_supervisor(fault)
            && is_code_of_the_supervisor(fault);
        let evidence = match () {
            () if fault.printer == Printer::Edk2 => Some("firmware's own exception handler printed it"),
            () if fault.is_firmwares_by_kernel => Some("the kernel says that firmware caused it"),
            () if is_in_window(by) => Some("the instruction is in Linux's window for EFI"),
            () if is_in_window(at) => Some("the address is in Linux's window for EFI"),
            () if is_call => Some("a runtime service was being called"),
            () if is_in_switch || any(&MAPPING) => Some("the kernel was at work on EFI's memory map"),
            () if is_region(by) => Some("the instruction is in a region of firmware's code, or of runtime services"),
            () if is_low => {
                Some("the instruction is below 4 GiB in supervisor mode, where firmware has code, and no kernel")
            }
            () => None,
        };
        let is_firmwares = is_in_window(by) || is_region(by) || is_low || fault.is_firmwares_by_kernel;
        let is_in_firmware = evidence.is_some() && fault.symbol.is_none() && is_firmwares;
        let moment = match () {
            () if evidence.is_none() => Moment::Unknown,
            () if fault.printer == Printer::Edk2 => Moment::BootServices,
            () if is_in_switch => Moment::InSwitch,
            // Firmware runs at virtual addresses only after the switch, and Linux calls it in a queue only then.
            () if is_in_window(by) || is_call && fault.printer == Printer::Linux => Moment::AfterSwitch,
            () if fault.is_firmwares_by_kernel => Moment::AfterSwitch,
            // Linux calls SetVirtualAddressMap in its first process, before there is any other.
            () if is_in_firmware && fault.printer == Printer::Linux && fault.pid.is_some_and(|pid| pid != 0) => {
                Moment::AfterSwitch
            }
            () if is_low && fault.printer != Printer::Linux => Moment::Physical,
            () if !is_in_firmware && any(&MAPPING) => Moment::Kernel,
            () => Moment::Unknown,
        };
        Self { evidence, is_in_firmware, moment, service }
    }
}

const FOUR_GIB: u64 = 1 << 32;

/// The selector's two low bits, or else the error code's U, say so.
fn is_supervisor(fault: &Fault) -> bool {
    match (fault.cs, fault.is_user()) {
        (Some(cs), _) => cs & 3 == 0,
        (None, is_user) => is_user != Some(true),
    }
}

/// Whether what is executed at RIP is known to be the supervisor's, and to be there at all. Where the fetch itself faulted, it
/// may have been a wild jump, or one to a user's page that SMEP forbids: only a leaf without U shows that it was neither.
fn is_code_of_the_supervisor(fault: &Fault) -> bool {
    let is_fetch = fault.rip == fault.address;
    !is_fetch || fault.leaf().is_some_and(|leaf| leaf.value & bits::U == 0)
}

fn names(fault: &Fault) -> impl Iterator<Item = &str> {
    fault.symbol.iter().chain(&fault.names).map(String::as_str)
}

/// Functions that make the switch, or the call of SetVirtualAddressMap alone (arch/x86/platform/efi of Linux 3.x to 6.x).
const SWITCH: [&str; 10] = [
    "efi_enter_virtual_mode",
    "__efi_enter_virtual_mode",
    "kexec_enter_virtual_mode",
    "efi_set_virtual_address_map",
    "phys_efi_set_virtual_address_map",
    "efi_thunk_set_virtual_address_map",
    "efi_call_phys",
    "efi_call_phys_prelog",
    "efi_call_phys_prolog",
    "efi_call_phys_epilog",
];

/// Functions through which services are called: Linux's, Xen's, FreeBSD's.
const CALLS: [&str; 19] = [
    "efi_call",
    "__efi_call",
    "efi_call0",
    "efi_call1",
    "efi_call2",
    "efi_call3",
    "efi_call4",
    "efi_call5",
    "efi_call6",
    "efi_call7",
    "efi_call_rts",
    "efi_rts_wq",
    "efi64_thunk",
    "__efi64_thunk",
    "efi_crash_gracefully_on_page_fault",
    "efi_runtime_call",
    "efi_rs_enter",
    "efi_rt_arch_call",
    "efi_call_virt_pointer",
];

/// Functions that work on the map, and call no service.
const MAPPING: [&str; 19] = [
    "efi_init",
    "efi_memblock_x86_reserve_range",
    "efi_memmap_insert",
    "efi_memmap_split_count",
    "efi_memmap_install",
    "efi_memmap_alloc",
    "efi_fake_memmap",
    "efi_clean_memmap",
    "efi_map_region",
    "efi_map_region_fixed",
    "__map_region",
    "efi_setup_page_tables",
    "efi_sync_low_kernel_mappings",
    "efi_reserve_boot_services",
    "efi_free_boot_services",
    "efi_arch_mem_reserve",
    "efi_mem_reserve",
    "efi_memattr_init",
    "efi_memattr_apply_permissions",
];

/// The service in a function's name: Linux's `virt_efi_get_time`, Xen's and FreeBSD's `efi_get_time`.
fn service(name: &str) -> Option<Service> {
    let name = name.split('.').next()?;
    let prefixes = ["virt_efi_", "xen_efi_", "efi_thunk_", "efi_"];
    let called = prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let called = called.trim_end_matches("_nonblocking").trim_end_matches("_nb").trim_end_matches("_locked");
    SERVICES.into_iter().find(|(function, _)| *function == called).map(|(_, service)| service)
}

const SERVICES: [(&str, Service); 18] = [
    ("get_time", Service::GetTime),
    ("set_time", Service::SetTime),
    ("get_wakeup_time", Service::GetWakeupTime),
    ("set_wakeup_time", Service::SetWakeupTime),
    ("set_virtual_address_map", Service::SetVirtualAddressMap),
    ("get_variable", Service::GetVariable),
    ("var_get", Service::GetVariable),
    ("get_next_variable", Service::GetNextVariableName),
    ("var_nextname", Service::GetNextVariableName),
    ("set_variable", Service::SetVariable),
    ("var_set", Service::SetVariable),
    ("get_next_high_mono_count", Service::GetNextHighMonotonicCount),
    ("reset_system", Service::ResetSystem),
    ("reboot", Service::ResetSystem),
    ("update_capsule", Service::UpdateCapsule),
    ("query_capsule_caps", Service::QueryCapsuleCapabilities),
    ("query_variable_info", Service::QueryVariableInfo),
    ("query_variable_store", Service::QueryVariableInfo),
];
