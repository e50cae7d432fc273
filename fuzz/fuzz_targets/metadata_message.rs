#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floodway_fuzz::metadata_message(data));
