#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("config_json"),
    |data: &[u8]| sdtrain_fuzz::fuzz("config_json", data)
);
