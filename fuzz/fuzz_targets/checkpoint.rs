#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vidgen_fuzz::checkpoint(data));
