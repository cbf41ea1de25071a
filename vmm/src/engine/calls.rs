//! Which runtime services the guest calls, with what, and what they must answer.
//!
//! A kernel's calls, good ones: all fourteen before the switch, and all again after it. Every argument in memory lies
//! across the border of two pages, at an odd address where its length lets it: a call that works shows both pages
//! mapped. A variable that is written before the switch is read after it.

use std::ops::Range;

use efibed_stub::Service;
use uefi_raw::Status;

use crate::firmware::{CAPSULE_CLASS, VENDOR};
use crate::memory_map::PAGE_BYTES;

/// One call, planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedCall {
    /// The service.
    pub service: Service,
    /// Its arguments.
    pub args: [u64; 5],
    /// What it must return; None: it does not.
    pub status: Option<Status>,
    /// What must then be in memory, by the address the guest knows it at.
    pub results: Vec<(u64, Vec<u8>)>,
}

/// Calls, and the bytes to be put into the guest's memory for them.
#[derive(Debug)]
pub struct Calls {
    pub calls: Vec<PlannedCall>,
    pub memory: Vec<(u64, Vec<u8>)>,
    next_border: u64,
    room: Room,
    /// What the variable holds at first.
    data: Vec<u8>,
}

/// Where arguments may lie, as the guest sees it.
#[derive(Clone, Debug)]
pub struct Room {
    /// Pages enough for all of them.
    pub range: Range<u64>,
    /// The end of a page that nothing is mapped after: GetTime's first argument is to end there.
    pub guarded: Option<u64>,
    /// Bytes of the variable, if it is not to be the usual line of text.
    pub variable_bytes: Option<usize>,
}

/// The variable, its name of an odd number of units, and its data: before the switch, and what is appended after it.
const NAME: &str = "efibed log";
const DATA: &[u8] = b"written before SetVirtualAddressMap, read after it";
const APPENDED: &[u8] = b", and again";

/// NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS; and APPEND_WRITE (UEFI 2.10, 8.2.1).
const ATTRIBUTES: u64 = 7;
const APPEND: u64 = 0x40;

/// A day on which an operating system might set the clock: 2 October 2013, 14:30:45 UTC, as EFI_TIME.
const TIME: [u8; 16] = [0xDD, 0x07, 10, 2, 14, 30, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A ResetType that does not exist, from which firmware returns; and EfiResetCold (8.5.1).
const NO_RESET: u64 = 0xFF;
const RESET_COLD: u64 = 0;

impl Calls {
    /// The calls before the switch, SetVirtualAddressMap with these arguments the last of them.
    pub fn before_the_switch(room: Room, set_virtual_address_map: [u64; 4]) -> Self {
        let mut calls = Self::new(room);
        calls.clock();
        calls.convert_pointer();
        let variable = calls.variable();
        let data = calls.data.clone();
        let at = calls.place(&data);
        calls.add(Service::SetVariable, [variable.0, variable.1, ATTRIBUTES, data.len() as u64, at]);
        calls.get_variable(variable, &data);
        calls.others(2);
        calls.refused(Service::ResetSystem, [NO_RESET, 0, 0, 0, 0], Status::INVALID_PARAMETER);
        let [a, b, c, d] = set_virtual_address_map;
        calls.add(Service::SetVirtualAddressMap, [a, b, c, d, 0]);
        calls
    }

    /// The calls after it, ResetSystem the last of them.
    pub fn after_the_switch(room: Room, set_virtual_address_map: [u64; 4]) -> Self {
        let mut calls = Self::new(room);
        calls.clock();
        let variable = calls.variable();
        let data = calls.data.clone();
        calls.get_variable(variable, &data);
        let data = calls.place(APPENDED);
        calls.add(Service::SetVariable, [variable.0, variable.1, ATTRIBUTES | APPEND, APPENDED.len() as u64, data]);
        calls.others(3);
        calls.convert_pointer();
        let [a, b, c, d] = set_virtual_address_map;
        calls.refused(Service::SetVirtualAddressMap, [a, b, c, d, 0], Status::UNSUPPORTED);
        calls.calls.push(PlannedCall {
            service: Service::ResetSystem,
            args: [RESET_COLD, 0, 0, 0, 0],
            status: None,
            results: Vec::new(),
        });
        calls
    }

    fn new(room: Room) -> Self {
        let next_border = (room.range.start + 1).next_multiple_of(PAGE_BYTES);
        let data = match room.variable_bytes {
            // No page of it is like another.
            Some(bytes) => (0..bytes as u32).map(|index| (index ^ index >> 8) as u8).collect(),
            None => DATA.to_vec(),
        };
        Self { calls: Vec::new(), memory: Vec::new(), next_border, room, data }
    }

    /// What of the room is used.
    pub fn is_within_room(&self) -> bool {
        self.next_border <= self.room.range.end
    }

    /// Has a service's first argument point there: a kernel's mistake.
    pub fn misplace(&mut self, service: Service, at: u64) {
        for call in self.calls.iter_mut().filter(|call| call.service == service) {
            call.args[0] = at;
        }
    }

    /// GetTime, SetTime, GetWakeupTime, SetWakeupTime.
    fn clock(&mut self) {
        let time = match self.room.guarded {
            Some(end) => self.place_at(end - 16, &[0; 16]),
            None => self.place(&[0; 16]),
        };
        let capabilities = self.place(&[0; 12]);
        self.add(Service::GetTime, [time, capabilities, 0, 0, 0]);
        let time = self.place(&TIME);
        self.add(Service::SetTime, [time, 0, 0, 0, 0]);
        let (flags, time) = (self.place(&[0; 2]), self.place(&[0; 16]));
        self.add(Service::GetWakeupTime, [flags, flags + 1, time, 0, 0]);
        let time = self.place(&TIME);
        self.add(Service::SetWakeupTime, [1, time, 0, 0, 0]);
    }

    fn convert_pointer(&mut self) {
        let pointer = self.place(&[0; 8]);
        self.refused(Service::ConvertPointer, [0, pointer, 0, 0, 0], Status::UNSUPPORTED);
    }

    /// The name's address, and the vendor's.
    fn variable(&mut self) -> (u64, u64) {
        let name: Vec<u8> = NAME.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        (self.place(&name), self.place(&VENDOR.to_bytes()))
    }

    fn get_variable(&mut self, (name, vendor): (u64, u64), data: &[u8]) {
        let room = data.len().max(256);
        let (attributes, size, buffer) =
            (self.place(&[0; 4]), self.place(&(room as u64).to_le_bytes()), self.place(&vec![0; room]));
        self.add(Service::GetVariable, [name, vendor, attributes, size, buffer]);
        let size_bytes = (data.len() as u64).to_le_bytes().to_vec();
        let attribute_bytes = (ATTRIBUTES as u32).to_le_bytes().to_vec();
        self.expect([(attributes, attribute_bytes), (size, size_bytes), (buffer, data.to_vec())]);
    }

    /// The rest, except for what switches and resets.
    fn others(&mut self, high_count: u32) {
        let (size, name, vendor) = (self.place(&64u64.to_le_bytes()), self.place(&[0; 64]), self.place(&[0; 16]));
        self.add(Service::GetNextVariableName, [size, name, vendor, 0, 0]);
        let count = self.place(&[0; 4]);
        self.add(Service::GetNextHighMonotonicCount, [count, 0, 0, 0, 0]);
        self.expect([(count, high_count.to_le_bytes().to_vec())]);
        let capsules = self.capsules();
        self.add(Service::UpdateCapsule, [capsules, 1, 0, 0, 0]);
        let (maximum, reset) = (self.place(&[0; 8]), self.place(&[0; 4]));
        self.add(Service::QueryCapsuleCapabilities, [capsules, 1, maximum, reset, 0]);
        let [storage, left, largest] = [(); 3].map(|()| self.place(&[0; 8]));
        self.add(Service::QueryVariableInfo, [ATTRIBUTES, storage, left, largest, 0]);
    }

    /// An array of one capsule: the class firmware takes, and nothing in it.
    fn capsules(&mut self) -> u64 {
        let sizes = [28u32, 0, 28].into_iter().flat_map(u32::to_le_bytes);
        let header: Vec<u8> = CAPSULE_CLASS.to_bytes().into_iter().chain(sizes).collect();
        let header = self.place(&header);
        self.place(&header.to_le_bytes())
    }

    fn add(&mut self, service: Service, args: [u64; 5]) {
        self.calls.push(PlannedCall { service, args, status: Some(Status::SUCCESS), results: Vec::new() });
    }

    fn refused(&mut self, service: Service, args: [u64; 5], status: Status) {
        self.calls.push(PlannedCall { service, args, status: Some(status), results: Vec::new() });
    }

    fn expect<const COUNT: usize>(&mut self, results: [(u64, Vec<u8>); COUNT]) {
        if let Some(call) = self.calls.last_mut() {
            call.results.extend(results);
        }
    }

    /// Puts bytes across the next border of two pages, and as many more as they need; returns their address.
    fn place(&mut self, bytes: &[u8]) -> u64 {
        let count = bytes.len() as u64;
        let at = self.next_border - ((count.min(PAGE_BYTES) / 2) | 1);
        self.next_border = (at + count).next_multiple_of(PAGE_BYTES).max(self.next_border + PAGE_BYTES);
        self.place_at(at, bytes)
    }

    fn place_at(&mut self, at: u64, bytes: &[u8]) -> u64 {
        self.memory.push((at, bytes.to_vec()));
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Range<u64> = 0xffff_ffff_8001_0800..0xffff_ffff_8004_0000;
    const fn room(range: Range<u64>) -> Room {
        Room { range, guarded: None, variable_bytes: None }
    }
    const SWITCH: [u64; 4] = [480, 48, 1, 0x10_0000];

    #[test]
    fn each_service_is_called_once_on_either_side() {
        for calls in [Calls::before_the_switch(room(ROOM), SWITCH), Calls::after_the_switch(room(ROOM), SWITCH)] {
            let mut services: Vec<_> = calls.calls.iter().map(|call| call.service).collect();
            services.sort();
            assert_eq!(services, Service::ALL);
            assert!(calls.is_within_room());
        }
        let last = |calls: Calls| calls.calls.last().map(|call| (call.service, call.status)).unwrap();
        assert_eq!(
            last(Calls::before_the_switch(room(ROOM), SWITCH)),
            (Service::SetVirtualAddressMap, Some(Status::SUCCESS))
        );
        assert_eq!(last(Calls::after_the_switch(room(ROOM), SWITCH)), (Service::ResetSystem, None));
    }

    #[test]
    fn every_argument_lies_on_two_pages_of_its_own() {
        for calls in [Calls::before_the_switch(room(ROOM), SWITCH), Calls::after_the_switch(room(ROOM), SWITCH)] {
            let mut borders = Vec::new();
            for (at, bytes) in &calls.memory {
                let last = at + (bytes.len() as u64 - 1);
                assert_eq!(at / PAGE_BYTES + 1, last / PAGE_BYTES, "{at:#x}");
                assert_eq!(at % 2, 1);
                assert!(ROOM.contains(at) && ROOM.contains(&last));
                borders.push(last / PAGE_BYTES);
            }
            borders.dedup();
            assert_eq!(borders.len(), calls.memory.len());
        }
    }

    #[test]
    fn a_guarded_argument_ends_with_its_page() {
        let end = 0xffff_ffff_8005_0000;
        let calls = Calls::after_the_switch(Room { guarded: Some(end), ..room(ROOM) }, SWITCH);
        assert_eq!((calls.calls[0].service, calls.calls[0].args[0]), (Service::GetTime, end - 16));
        assert!(calls.memory.iter().any(|(at, bytes)| at + bytes.len() as u64 == end));
    }

    #[test]
    fn a_large_variable_takes_as_many_pages_as_it_needs() {
        let large = ROOM.start..ROOM.start + 0x6_0000;
        for calls in [Calls::before_the_switch, Calls::after_the_switch] {
            let calls = calls(Room { variable_bytes: Some(1 << 16), ..room(large.clone()) }, SWITCH);
            assert!(calls.is_within_room());
            let mut memory = calls.memory.clone();
            memory.sort();
            assert!(memory.iter().any(|(at, bytes)| bytes.len() == 1 << 16 && at % 2 == 1));
            assert!(memory.is_sorted_by(|one, next| one.0 + one.1.len() as u64 <= next.0), "one lies in another");
            assert!(memory.iter().all(|(at, bytes)| large.contains(&(at + bytes.len() as u64))));
        }
    }

    #[test]
    fn what_does_not_fit_is_noticed() {
        assert!(!Calls::before_the_switch(room(ROOM.start..ROOM.start + 0x4000), SWITCH).is_within_room());
    }
}
