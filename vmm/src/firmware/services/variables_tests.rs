//! Each status of UEFI 2.10, 8.2.1 to 8.2.4, by the specification's own words.

use efibed_stub::Service;
use uefi_raw::Status;

use super::super::super::test_memory::Bed;
use super::super::variable_store::HEADER_BYTES;
use super::*;
use crate::mmu::Pa;

/// Odd addresses, and most of them near a page's end.
const NAME_AT: u64 = 0x1_0FFB;
const VENDOR_AT: u64 = 0x1_1FF9;
const SIZE_AT: u64 = 0x1_2FFD;
const ATTRIBUTES_AT: u64 = 0x1_3FFF;
const DATA_AT: u64 = 0x2_0FF1;
/// Where nothing is.
const NOWHERE: u64 = 0x9000_0000;

const OURS: Vendor = [0x17; 16];
const OTHERS: Vendor = [0x18; 16];
/// NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, APPEND_WRITE (8.2.1, Related Definitions).
const NV: u64 = 1;
const BS: u64 = 2;
const RT: u64 = 4;
const ALL: u64 = NV | BS | RT;
const APPEND: u64 = 0x40;

const OK: Status = Status::SUCCESS;
const INVALID: Status = Status::INVALID_PARAMETER;

impl Bed {
    fn with_name(&mut self, name: &str, vendor: &Vendor) {
        let units = name.encode_utf16().chain([0]);
        let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        self.memory.put(NAME_AT, &bytes);
        self.memory.put(VENDOR_AT, vendor);
    }

    fn set_of(&mut self, name: &str, vendor: &Vendor, attributes: u64, data: &[u8]) -> Status {
        self.with_name(name, vendor);
        self.memory.put(DATA_AT, data);
        let args = [NAME_AT, VENDOR_AT, attributes, data.len() as u64, DATA_AT];
        self.call(Service::SetVariable, &args)
    }

    fn set(&mut self, name: &str, attributes: u64, data: &[u8]) -> Status {
        self.set_of(name, &OURS, attributes, data)
    }

    /// With a buffer of `room` bytes: the status, and what is in Attributes, DataSize and Data then.
    fn get_of(&mut self, name: &str, vendor: &Vendor, room: u64) -> (Status, u32, u64, Vec<u8>) {
        self.with_name(name, vendor);
        self.memory.put(SIZE_AT, &room.to_le_bytes());
        self.memory.put(ATTRIBUTES_AT, &[0xEE; 4]);
        self.memory.put(DATA_AT, &vec![0xEE; room.min(0x2_0000) as usize]);
        let args = [NAME_AT, VENDOR_AT, ATTRIBUTES_AT, SIZE_AT, DATA_AT];
        let status = self.call(Service::GetVariable, &args);
        let attributes = u32::from_le_bytes(self.array(ATTRIBUTES_AT));
        let size = self.memory.u64(SIZE_AT);
        let mut data = vec![0; if status == OK { size as usize } else { 0 }];
        assert!(super::super::super::GuestMemory::read(&self.memory, Pa(DATA_AT), &mut data));
        (status, attributes, size, data)
    }

    fn get(&mut self, name: &str) -> Result<Vec<u8>, Status> {
        let (status, _, _, data) = self.get_of(name, &OURS, 0x2_0000);
        if status == OK { Ok(data) } else { Err(status) }
    }

    fn remaining(&mut self) -> u64 {
        self.memory.put(0x3_0000, &[0; 24]);
        let args = [ALL, 0x3_0000, 0x3_0008, 0x3_0010];
        assert_eq!(self.call(Service::QueryVariableInfo, &args), OK);
        self.memory.u64(0x3_0008)
    }
}

#[test]
fn what_was_set_is_got_with_its_attributes() {
    let mut bed = Bed::new();
    for name in ["a", "of odd length", "of even length"] {
        let data = name.as_bytes();
        assert_eq!(bed.set(name, ALL, data), OK);
        assert_eq!(bed.get_of(name, &OURS, 100), (OK, ALL as u32, data.len() as u64, data.to_vec()));
        assert_eq!(bed.get_of(name, &OTHERS, 100).0, Status::NOT_FOUND);
    }
}

#[test]
fn variables_outlive_the_switch() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("kept", ALL, b"before"), OK);
    bed.switch();
    assert_eq!(bed.get("kept").unwrap(), b"before");
    assert_eq!(bed.last().called_at().0 >> 32, 0xffff_fffe);
}

#[test]
fn a_variable_of_64_kib_works() {
    let mut bed = Bed::new();
    let data: Vec<u8> = (0..0x1_0000u32).map(|index| ((index * 7) >> 3) as u8).collect();
    assert_eq!(bed.set("large", ALL, &data), OK);
    assert_eq!(bed.get("large").unwrap(), data);
    assert_eq!(bed.get_of("large", &OURS, 0xFFFF).0, Status::BUFFER_TOO_SMALL);
    assert_eq!(bed.get_of("large", &OURS, 0x1_0000).3, data);
}

#[test]
fn too_small_a_buffer_is_told_the_size_and_the_attributes() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("x", ALL, &[1, 2, 3]), OK);
    for room in 0..3 {
        assert_eq!(bed.get_of("x", &OURS, room), (Status::BUFFER_TOO_SMALL, ALL as u32, 3, vec![]));
    }
    assert_eq!(bed.array(DATA_AT), [0xEE; 2], "the buffer is left alone");
    // With no buffer, to learn the size; and with room, but no buffer.
    bed.memory.put(SIZE_AT, &0u64.to_le_bytes());
    let args = [NAME_AT, VENDOR_AT, 0, SIZE_AT, 0];
    assert_eq!(bed.call(Service::GetVariable, &args), Status::BUFFER_TOO_SMALL);
    assert_eq!(bed.memory.u64(SIZE_AT), 3);
    assert_eq!(bed.call(Service::GetVariable, &args), INVALID);
}

#[test]
fn null_pointers_are_invalid_parameters() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("x", ALL, b"x"), OK);
    bed.memory.put(SIZE_AT, &9u64.to_le_bytes());
    let get = [NAME_AT, VENDOR_AT, ATTRIBUTES_AT, SIZE_AT, DATA_AT];
    let set = [NAME_AT, VENDOR_AT, ALL, 1, DATA_AT];
    let next = [SIZE_AT, NAME_AT, VENDOR_AT];
    let query = [ALL, 0x3_0000, 0x3_0008, 0x3_0010];
    let cases: [(Service, &[u64], &[usize]); 4] = [
        (Service::GetVariable, &get, &[0, 1, 3, 4]),
        (Service::SetVariable, &set, &[0, 1, 4]),
        (Service::GetNextVariableName, &next, &[0, 1, 2]),
        (Service::QueryVariableInfo, &query, &[1, 2, 3]),
    ];
    for (service, args, pointers) in cases {
        for &pointer in pointers {
            let mut args = args.to_vec();
            args[pointer] = 0;
            assert_eq!(bed.call(service, &args), INVALID, "{service} {pointer}");
            assert!(matches!(bed.refusal(), Some(Refusal::Null { .. })), "{service} {pointer}");
        }
    }
    assert_eq!(bed.get("x").unwrap(), b"x");
}

#[test]
fn pointers_that_lead_nowhere_abort_and_change_nothing() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("x", ALL, b"x"), OK);
    let before = bed.remaining();
    let set = [NAME_AT, VENDOR_AT, ALL, 1, DATA_AT];
    for pointer in [0, 1, 4] {
        let mut args = set;
        args[pointer] = NOWHERE;
        assert_eq!(bed.call(Service::SetVariable, &args), Status::ABORTED);
        assert!(matches!(bed.refusal(), Some(Refusal::Unreachable { at: Va(NOWHERE), .. })), "{pointer}");
    }
    // The second page of the data is missing.
    let args = [NAME_AT, VENDOR_AT, ALL, 0x1_0000, DATA_AT];
    assert_eq!(bed.call(Service::SetVariable, &args), Status::ABORTED);
    assert_eq!(bed.remaining(), before);
    assert_eq!(bed.get("x").unwrap(), b"x");
}

#[test]
fn names_are_checked() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("", ALL, b"x"), INVALID);
    assert_eq!(bed.refusal(), Some(Refusal::EmptyName));
    assert_eq!(bed.get_of("", &OURS, 9).0, Status::NOT_FOUND);
    let endless = "x".repeat(MAX_NAME_UNITS);
    assert_eq!(bed.set(&endless, ALL, b"x"), INVALID);
    assert_eq!(bed.get(&endless), Err(Status::NOT_FOUND));
    let longest = &endless[1..];
    assert_eq!(bed.set(longest, ALL, b"x"), OK);
    assert_eq!(bed.get(longest).unwrap(), b"x");
}

#[test]
fn attributes_must_make_sense() {
    for (attributes, expected) in [
        (ALL, OK),
        (ALL | 0xDEAD_0000_0000_0000, OK), // a UINT32
        (RT | NV, INVALID),                // RUNTIME_ACCESS without BOOTSERVICE_ACCESS
        (BS | RT, INVALID),                // volatile ones are read-only at runtime
        (BS | NV, INVALID),                // nor can those for boot services be made
        (BS, INVALID),
        (ALL | 0x100, INVALID), // no such bit
        (ALL | 0x8000_0000, INVALID),
        (ALL | 0x10, Status::UNSUPPORTED), // AUTHENTICATED_WRITE_ACCESS is deprecated
        (ALL | 0x20, Status::UNSUPPORTED),
        (ALL | 0x80, Status::UNSUPPORTED),
        (ALL | 0x08, Status::UNSUPPORTED), // HARDWARE_ERROR_RECORD
        (BS | RT | 0x08, INVALID),
        (0, Status::NOT_FOUND), // no access: to be deleted
        (NV, Status::NOT_FOUND),
    ] {
        let mut bed = Bed::new();
        assert_eq!(bed.set("x", attributes, b"x"), expected, "{attributes:#x}");
        assert_eq!(bed.get("x").is_ok(), expected == OK, "{attributes:#x}");
    }
}

#[test]
fn a_variable_keeps_its_attributes() {
    let mut bed = Bed::new();
    // BootOrder is NV|BS|RT.
    let global = uefi_raw::table::runtime::VariableVendor::GLOBAL_VARIABLE.0.to_bytes();
    for attributes in [BS | RT, BS | NV, BS] {
        assert_eq!(bed.set_of("BootOrder", &global, attributes, b"xx"), INVALID);
        assert!(matches!(bed.refusal(), Some(Refusal::OtherAttributes { .. })));
        assert_eq!(bed.set_of("BootOrder", &global, attributes, b""), INVALID);
    }
    assert_eq!(bed.get_of("BootOrder", &global, 9), (OK, ALL as u32, 2, vec![0, 0]));
    assert_eq!(bed.set_of("BootOrder", &global, ALL, b"xx"), OK);
    assert_eq!(bed.get_of("BootOrder", &global, 9).3, b"xx");
}

#[test]
fn no_data_or_no_access_deletes() {
    let mut bed = Bed::new();
    for (attributes, data) in [(ALL, &b""[..]), (0, b"data"), (NV, b""), (APPEND, b"data")] {
        let before = bed.remaining();
        assert_eq!(bed.set("x", ALL, b"old"), OK);
        assert_eq!(bed.set("x", attributes, data), OK, "{attributes:#x}");
        assert_eq!(bed.get("x"), Err(Status::NOT_FOUND));
        assert_eq!(bed.set("x", attributes, data), Status::NOT_FOUND, "{attributes:#x}");
        assert_eq!(bed.remaining(), before);
    }
    // Data may be null then.
    assert_eq!(bed.set("x", ALL, b"old"), OK);
    assert_eq!(bed.call(Service::SetVariable, &[NAME_AT, VENDOR_AT, ALL, 0, 0]), OK);
    assert_eq!(bed.get("x"), Err(Status::NOT_FOUND));
}

#[test]
fn what_is_appended_follows_what_was_there() {
    let mut bed = Bed::new();
    assert_eq!(bed.set("x", ALL | APPEND, b"one"), OK, "appending to nothing makes the variable");
    assert_eq!(bed.set("x", ALL | APPEND, b", two"), OK);
    assert_eq!(bed.set("x", ALL | APPEND, b""), OK, "and nothing changes nothing");
    assert_eq!(bed.get_of("x", &OURS, 99), (OK, ALL as u32, 8, b"one, two".to_vec()));
    assert_eq!(bed.set("y", ALL | APPEND, b""), OK);
    assert_eq!(bed.get("y"), Err(Status::NOT_FOUND));
    assert_eq!(bed.set("x", BS | RT | APPEND, b"x"), INVALID);
    assert_eq!(bed.set("x", ALL, b"new"), OK, "without APPEND_WRITE the old data goes");
    assert_eq!(bed.get("x").unwrap(), b"new");
}

#[test]
fn runtime_sees_runtimes_variables_and_writes_non_volatile_ones() {
    let mut bed = Bed::new();
    let global = uefi_raw::table::runtime::VariableVendor::GLOBAL_VARIABLE.0.to_bytes();
    let own = super::super::variable_store::VENDOR.to_bytes();
    assert_eq!(bed.get_of("SecureBoot", &global, 9), (OK, (BS | RT) as u32, 1, vec![0]));
    for (attributes, data) in [(BS | RT, &b"x"[..]), (BS | RT, b""), (0, b"")] {
        assert_eq!(bed.set_of("SecureBoot", &global, attributes, data), Status::WRITE_PROTECTED);
    }
    assert_eq!(bed.get_of("Setup", &own, 9).0, Status::NOT_FOUND);
    assert_eq!(bed.set_of("Setup", &own, BS | NV, b"x"), INVALID);
    assert_eq!(bed.set_of("Setup", &own, ALL, b"x"), INVALID);
}

#[test]
fn sizes_have_limits_and_the_store_is_finite() {
    let mut bed = Bed::new();
    let overhead = HEADER_BYTES + 4;
    let largest = (MAX_VARIABLE_BYTES - overhead) as usize;
    assert_eq!(bed.set("x", ALL, &vec![1; largest + 1]), INVALID);
    assert_eq!(bed.call(Service::SetVariable, &[NAME_AT, VENDOR_AT, ALL, u64::MAX, DATA_AT]), INVALID);
    assert_eq!(bed.get("x"), Err(Status::NOT_FOUND));
    assert_eq!(bed.set("x", ALL, &vec![1; largest]), OK);
    assert_eq!(bed.set("x", ALL | APPEND, &[1]), INVALID, "nor by appending");

    let mut names = ('a'..='z').map(String::from);
    while bed.remaining() >= MAX_VARIABLE_BYTES {
        assert_eq!(bed.set(&names.next().unwrap(), ALL, &vec![2; largest]), OK);
    }
    let left = bed.remaining();
    let data = vec![3; (left - overhead) as usize + 1];
    assert_eq!(bed.set("z", ALL, &data), Status::OUT_OF_RESOURCES);
    assert_eq!(bed.refusal(), Some(Refusal::StoreFull { needed: left + 1, left }));
    assert_eq!(bed.set("x", ALL, &vec![4; largest]), OK, "what replaces something has its room");
    assert_eq!(bed.set("z", ALL, &data[1..]), OK);
    assert_eq!(bed.remaining(), 0);
    assert_eq!(bed.set("z", ALL | APPEND, &[1]), Status::OUT_OF_RESOURCES);
    assert_eq!(bed.get("z").unwrap(), data[1..]);
    assert_eq!(bed.set("y", ALL, &[1]), Status::OUT_OF_RESOURCES);
    assert_eq!(bed.set("z", 0, &[]), OK);
    assert_eq!(bed.set("y", ALL, &[1]), OK);
}

/// All names that GetNextVariableName gives, with a buffer of so many bytes.
fn all_names(bed: &mut Bed, room: u64) -> Vec<(String, Vendor)> {
    bed.with_name("", &[0xEE; 16]);
    let mut names = Vec::new();
    loop {
        bed.memory.put(SIZE_AT, &room.to_le_bytes());
        let status = bed.call(Service::GetNextVariableName, &[SIZE_AT, NAME_AT, VENDOR_AT]);
        if status == Status::NOT_FOUND {
            return names;
        }
        assert_eq!(status, OK);
        let bytes = bed.memory.u64(SIZE_AT) as usize;
        let mut name = vec![0; bytes];
        assert!(super::super::super::GuestMemory::read(&bed.memory, Pa(NAME_AT), &mut name));
        let units: Vec<u16> = name.chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        assert_eq!(units.last(), Some(&0));
        names.push((String::from_utf16(&units[..units.len() - 1]).unwrap(), bed.array(VENDOR_AT)));
    }
}

#[test]
fn every_visible_variable_is_named_once() {
    let mut bed = Bed::new();
    for (name, vendor) in [("twice", OURS), ("once", OURS), ("twice", OTHERS)] {
        assert_eq!(bed.set_of(name, &vendor, ALL, b"x"), OK);
    }
    let global = uefi_raw::table::runtime::VariableVendor::GLOBAL_VARIABLE.0.to_bytes();
    let expected = [("BootOrder", global), ("SecureBoot", global), ("twice", OURS), ("once", OURS), ("twice", OTHERS)];
    let expected = expected.map(|(name, vendor)| (name.to_string(), vendor));
    for room in [22, 23, 1024, u64::MAX] {
        assert_eq!(all_names(&mut bed, room), expected);
    }
}

#[test]
fn the_next_name_needs_room_a_null_and_a_name_that_exists() {
    let mut bed = Bed::new();
    let next = |bed: &mut Bed, room: u64| {
        bed.memory.put(SIZE_AT, &room.to_le_bytes());
        let status = bed.call(Service::GetNextVariableName, &[SIZE_AT, NAME_AT, VENDOR_AT]);
        (status, bed.memory.u64(SIZE_AT))
    };
    // "BootOrder" and its null take 20 bytes.
    bed.with_name("", &OURS);
    for room in [2, 3, 18, 19] {
        assert_eq!(next(&mut bed, room), (Status::BUFFER_TOO_SMALL, 20));
        assert_eq!(bed.array(NAME_AT), [0; 2], "the name is left alone");
        assert_eq!(bed.array(VENDOR_AT), OURS);
    }
    for room in [0, 1] {
        assert_eq!(next(&mut bed, room), (INVALID, room), "not even the null has room");
    }
    bed.with_name("BootOrder", &OURS);
    assert_eq!(next(&mut bed, 100).0, INVALID, "another vendor's");
    let global = uefi_raw::table::runtime::VariableVendor::GLOBAL_VARIABLE.0.to_bytes();
    bed.with_name("BootOrder", &global);
    for room in [18, 19] {
        assert_eq!(next(&mut bed, room).0, INVALID, "the null is behind the buffer's end");
    }
    assert_eq!(next(&mut bed, 20), (Status::BUFFER_TOO_SMALL, 22));
    assert_eq!(next(&mut bed, 22), (OK, 22));
}

#[test]
fn the_store_tells_its_limits() {
    let mut bed = Bed::new();
    bed.memory.put(0x3_0000, &[0; 24]);
    let query = |bed: &mut Bed, attributes| {
        let status = bed.call(Service::QueryVariableInfo, &[attributes, 0x3_0000, 0x3_0008, 0x3_0010]);
        (status, [0x3_0000, 0x3_0008, 0x3_0010].map(|at| bed.memory.u64(at)))
    };
    let (status, [storage, left, largest]) = query(&mut bed, ALL);
    assert_eq!((status, storage), (OK, STORE_BYTES));
    assert!(left < storage && largest >= 0x1_0000, "{left:#x} {largest:#x}");
    assert_eq!(query(&mut bed, ALL | APPEND), (OK, [storage, left, largest]));
    assert_eq!(bed.set("x", ALL, &[0; 100]), OK);
    assert_eq!(query(&mut bed, ALL).1[1], left - 100 - 4 - HEADER_BYTES);
    assert_eq!(query(&mut bed, BS | RT).0, OK);
    for attributes in [0, NV, BS, NV | BS, RT, RT | NV, ALL | 0x100] {
        assert_eq!(query(&mut bed, attributes).0, INVALID, "{attributes:#x}");
    }
    for attributes in [ALL | 0x10, ALL | 0x20, ALL | 0x80, ALL | 0x08] {
        assert_eq!(query(&mut bed, attributes).0, Status::UNSUPPORTED, "{attributes:#x}");
    }
}
