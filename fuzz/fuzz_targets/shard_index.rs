#![no_main]

libfuzzer_sys::fuzz_target!(
    init: sdtrain_fuzz::write_seeds("shard_index"),
    |data: &[u8]| sdtrain_fuzz::fuzz("shard_index", data)
);
