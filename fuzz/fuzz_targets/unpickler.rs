#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("unpickler"),
    |data: &[u8]| sdtrain_fuzz::fuzz("unpickler", data)
);
