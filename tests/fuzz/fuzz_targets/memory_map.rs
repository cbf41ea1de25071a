//! Any bytes as a memory map: decoded, read strictly and leniently, judged, written in every format and read back.
#![no_main]

use efibed::MemoryMap;
use efibed::memory_map::{ReadOptions, WriteError, WriteFormat, WriteOptions, oddities, write};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for lenient in [false, true] {
        let options = ReadOptions { lenient, ..ReadOptions::default() };
        match MemoryMap::parse_bytes("fuzz", bytes.to_vec(), &options) {
            Ok(lists) => lists.iter().for_each(write_and_read_back),
            Err(error) => drop(format!("{:?}", miette::Report::new(error))),
        }
    }
});

fn write_and_read_back(map: &MemoryMap) {
    drop(oddities(map));
    for format in WriteFormat::ALL.iter().copied() {
        let written = match write(map, format, &WriteOptions::default()) {
            Ok(written) => written,
            Err(error) => {
                // What a format has no place for it refuses, and what does not read back: only because of copies.
                let is_misread = matches!(error, WriteError::ReadsOtherwise { .. });
                assert!(!is_misread || has_twins(map), "{error}: {map:x?}");
                continue;
            }
        };
        let options = ReadOptions { stride: (format == WriteFormat::Binary).then_some(48), ..ReadOptions::default() };
        let back = MemoryMap::parse_bytes("back", written, &options).expect("what was written is read");
        let fields = |map: &MemoryMap| -> Vec<_> {
            map.descriptors().iter().map(|d| (d.ty, d.phys_start, d.virt_start, d.page_count, d.att)).collect()
        };
        assert_eq!(fields(&back[0]), fields(map), "{format:?}");
    }
}

/// Whether descriptors come again, as far as readers compare them.
fn has_twins(map: &MemoryMap) -> bool {
    let mut starts: Vec<_> = map.descriptors().iter().map(|d| d.phys_start).collect();
    starts.sort_unstable();
    starts.windows(2).any(|pair| pair[0] == pair[1])
}
