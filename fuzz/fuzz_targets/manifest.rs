//! MANIFEST.

#![no_main]

#[path = "../../tests/decoders/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::manifest(data);
});
