#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("torch_file"),
    |data: &[u8]| sdtrain_fuzz::fuzz("torch_file", data)
);
