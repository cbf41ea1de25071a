//! Any text as a scenario file: read or refused with an error that can be shown.
//!
//! From the repository's root, with cargo-fuzz and a nightly compiler:
//!
//! ```sh
//! mkdir -p tests/fuzz/corpus/scenario
//! cp tests/maps/*.toml vmm/src/museum/exhibits/*.toml tests/fuzz/corpus/scenario
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz scenario
//! ```
#![no_main]

use efibed::Scenario;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Debug is the text that the command prints, with file, line and column.
    drop(Scenario::parse("fuzz.toml", text).map_err(|error| format!("{error:?}")));
});
