//! Any text as a scenario file: read or refused with an error that can be shown.
#![no_main]

use efibed::Scenario;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Debug is the text that the command prints, with file, line and column.
    drop(Scenario::parse("fuzz.toml", text).map_err(|error| format!("{error:?}")));
});
