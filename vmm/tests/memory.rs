//! What reading takes of memory, at most: inputs of nearly 64 MiB, and those that its own limits let through.

mod said;

use std::iter::{self, repeat_n};
use std::sync::Mutex;
use std::{fs, thread};

use said::{Directory, efibed, largest_child_bytes};

const CLEAN: i32 = 0;
const BAD_INPUT: i32 = 2;

const MIB: usize = 1 << 20;
/// As README states it.
const BOUND: u64 = 800 << 20;

/// Descriptors of a map, at most.
const MANY: usize = 65_536;

#[test]
fn no_input_takes_more_memory_than_is_stated() {
    let directory = Directory::new();
    let table = |array: &str, index: usize| {
        let phys = 0x1000_0000 + 0x2000 * index;
        format!(
            "[[{array}]]\ntype = \"RuntimeServicesData\"\nphys = {phys:#x}\npages = 1\nattribute = \"RUNTIME|WB\"\n"
        )
    };
    let tables = |array: &'static str| (0..MANY).map(move |index| table(array, index));
    let object = r#"{"type":"RuntimeServicesData","phys":"0x10000000","pages":1,"attribute":"RUNTIME|WB"}"#;
    let row = "efi: mem00: [Runtime Data|RUN|  |  |  |  |  |  |  |   |WB|WT|WC|UC] range=[0x0000000000001000-0x0000000000001fff] (0MB)\n";
    let inputs: [(&str, i32, Vec<u8>); 9] = [
        (
            "as many tables as a map has",
            CLEAN,
            tables("descriptor").chain(tables("attributes")).collect::<String>().into(),
        ),
        ("an array of numbers", BAD_INPUT, format!("mapper = [{}]", "1,".repeat(4_100_000)).into()),
        ("dotted keys", BAD_INPUT, (0..260_000).map(|index| format!("a{index}.b = 1\n")).collect::<String>().into()),
        ("one string", BAD_INPUT, format!("about = \"{}\"", "k".repeat(60 * MIB)).into()),
        ("brackets of TOML", BAD_INPUT, format!("a = {}", "[".repeat(60 * MIB)).into()),
        ("JSON", BAD_INPUT, format!("{{\"descriptors\":[{}]}}", vec![object; 700_000].join(",")).into()),
        ("one line", BAD_INPUT, vec![b'x'; 60 * MIB]),
        ("rows", BAD_INPUT, row.repeat(60 * MIB / row.len()).into()),
        (
            "descriptors in binary",
            BAD_INPUT,
            [5].into_iter().chain(repeat_n(0, 47)).collect::<Vec<u8>>().repeat(1_300_000),
        ),
    ];
    two_at_a_time(inputs, |(name, status, bytes)| {
        assert!(bytes.len() < 64 * MIB, "{name} is refused for its size");
        let path = directory.file(name);
        fs::write(&path, &bytes).unwrap();
        efibed(["show", &path]).ends(status);
        let peak = largest_child_bytes();
        // The largest command so far held its input: less would mean that something else was measured.
        assert!((bytes.len() as u64..BOUND).contains(&peak), "{name}: {} MiB", peak >> 20);
    });
    let fault = "Oops: 0011 [#1]\nRIP: 0010:efi_call+0x1/0x2\n";
    let record = "{\"MESSAGE\":\"Oops: 0011 \\n PGD 1\"}\n";
    let logs: [(&str, Vec<u8>); 3] = [
        ("a log of faults", fault.repeat(60 * MIB / fault.len()).into()),
        ("a log of records", record.repeat(60 * MIB / record.len()).into()),
        ("a log of stray bytes", [vec![0x80; 60 * MIB], format!("\n{fault}").into()].concat()),
    ];
    two_at_a_time(logs, |(name, bytes)| {
        let path = directory.file(name);
        fs::write(&path, &bytes).unwrap();
        efibed(["oops", "--no-replay", &path]).ends(CLEAN);
        let peak = largest_child_bytes();
        assert!(peak < BOUND, "{name}: {} MiB", peak >> 20);
    });
}

/// Each takes seconds, and more at once would take too much memory.
fn two_at_a_time<T: Send>(all: impl IntoIterator<Item = T, IntoIter: Send>, each: impl Fn(T) + Sync) {
    let all = Mutex::new(all.into_iter());
    let next = || all.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| iter::from_fn(next).for_each(&each));
        }
    });
}
