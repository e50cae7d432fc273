#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| floodway_fuzz::uplink_use(data));
