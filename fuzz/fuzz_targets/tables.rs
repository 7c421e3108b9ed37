#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("tables"),
    |data: &[u8]| sdtrain_fuzz::fuzz("tables", data)
);
