#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("kohya_toml"),
    |data: &[u8]| sdtrain_fuzz::fuzz("kohya_toml", data)
);
