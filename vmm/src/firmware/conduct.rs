//! How a service was called: what the specification asks of callers, and firmware cannot see in the arguments.

use efibed_stub::{Service, rflags};

use super::Firmware;
use super::breach::Breach;
use super::call::Call;
use super::guest::StubCall;
use crate::mmu::{Pa, Va};

/// CR3's bits that are an address (Intel SDM vol. 3A, table 4-12).
const CR3_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What is wrong with a call, before it is answered.
pub(super) fn breaches(firmware: &Firmware, call: &Call, regs: &StubCall) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let (called, physical) = (call.called_at(), firmware.entry(call.service).one_to_one());
    let table = firmware.virtual_entry(call.service).unwrap_or(physical);
    if called != table {
        breaches.push(Breach::Address { called, table, is_physical: called == physical });
    }
    let found = Pa(regs.cr3 & CR3_ADDRESS);
    if let Some(expected) = firmware.expected_root.filter(|expected| *expected != found) {
        breaches.push(Breach::Tables { found, expected });
    }
    // At the trap nothing but the return address has been pushed.
    let rsp = regs.rsp.wrapping_add(8);
    if !rsp.is_multiple_of(16) {
        breaches.push(Breach::Stack { rsp: Va(rsp) });
    }
    if regs.rflags & rflags::DIRECTION != 0 {
        breaches.push(Breach::Direction);
    }
    if call.service == Service::SetVirtualAddressMap {
        breaches.extend(of_the_switch(firmware, regs));
    }
    breaches
}

fn of_the_switch(firmware: &Firmware, regs: &StubCall) -> impl Iterator<Item = Breach> {
    let (found, at) = (regs.rdx, regs.r9);
    let expected = firmware.stride as u64;
    let interrupts = (regs.rflags & rflags::INTERRUPTS != 0).then_some(Breach::Interrupts);
    let alignment = (!at.is_multiple_of(8)).then_some(Breach::MapAlignment { at: Va(at) });
    let stride = (found != expected).then_some(Breach::Stride { found, expected });
    [interrupts, alignment, stride].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::super::test_memory::{code_and_data, switched, trap};
    use super::*;

    /// A call with nothing wrong about it.
    fn proper(at: u64) -> StubCall {
        StubCall { rsp: 0x8008, rflags: 2, cr3: 0x5000, ..trap(at) }
    }

    fn found(firmware: &Firmware, regs: &StubCall) -> Vec<Breach> {
        breaches(firmware, &Call::of(regs).unwrap(), regs)
    }

    fn firmware() -> Firmware {
        let mut firmware = Firmware::lay_out(&code_and_data(), &[], |_| true).unwrap();
        firmware.expect_root(Pa(0x5000));
        firmware
    }

    #[test]
    fn a_proper_call_breaches_nothing() {
        let firmware = firmware();
        for service in Service::ALL {
            let regs = StubCall { rdx: 48, r9: 0x6000, ..proper(firmware.entry(service).0) };
            assert_eq!(found(&firmware, &regs), [], "{service}");
        }
    }

    #[test]
    fn each_breach_is_found_for_what_it_is() {
        let firmware = firmware();
        let good = proper(firmware.entry(Service::GetTime).0);
        for (regs, expected) in [
            (StubCall { rsp: 0x8000, ..good }, Breach::Stack { rsp: Va(0x8008) }),
            (StubCall { rflags: 0x402, ..good }, Breach::Direction),
            (StubCall { cr3: 0x6018, ..good }, Breach::Tables { found: Pa(0x6000), expected: Pa(0x5000) }),
        ] {
            assert_eq!(found(&firmware, &regs), [expected]);
        }
        let good = StubCall { rdx: 48, r9: 0x6000, ..proper(firmware.entry(Service::SetVirtualAddressMap).0) };
        for (regs, expected) in [
            (StubCall { rflags: 0x202, ..good }, Breach::Interrupts),
            (StubCall { r9: 0x6004, ..good }, Breach::MapAlignment { at: Va(0x6004) }),
            (StubCall { rdx: 40, ..good }, Breach::Stride { found: 40, expected: 48 }),
        ] {
            assert_eq!(found(&firmware, &regs), [expected]);
        }
        // Interrupts are the caller's business elsewhere.
        let regs = StubCall { rflags: 0x202, ..proper(firmware.entry(Service::GetTime).0) };
        assert_eq!(found(&firmware, &regs), []);
    }

    #[test]
    fn after_the_switch_physical_addresses_are_wrong_but_for_two_services() {
        let (firmware, _) = switched();
        for service in Service::ALL {
            let called = firmware.entry(service).one_to_one();
            let regs = StubCall { rdx: 48, r9: 0x6000, ..proper(called.0) };
            let expected: Vec<_> = firmware
                .virtual_entry(service)
                .map(|table| Breach::Address { called, table, is_physical: true })
                .into_iter()
                .collect();
            assert_eq!(found(&firmware, &regs), expected, "{service}");
            let is_kept = matches!(service, Service::SetVirtualAddressMap | Service::ConvertPointer);
            assert_eq!(expected.is_empty(), is_kept);
        }
    }

    #[test]
    fn any_other_address_is_wrong_too() {
        let firmware = firmware();
        let table = firmware.entry(Service::GetTime).one_to_one();
        let called = table.wrapping_add(0x1000);
        let expected = Breach::Address { called, table, is_physical: false };
        assert_eq!(found(&firmware, &proper(called.0)), [expected]);
    }
}
