//! One message says all that does not fit.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_state_dict::{Dtype, LoadReport};

use crate::fixtures::{entry, in_memory};

#[test]
fn missing_unexpected_and_misshapen_tensors_are_listed_together() {
    let parameters: BTreeMap<String, Vec<usize>> =
        [("a", vec![2]), ("b", vec![3]), ("c", vec![4, 4])].map(|(name, shape)| (name.to_string(), shape)).into();
    let file = in_memory(&[
        entry("a", Dtype::F32, &[2]),
        entry("b", Dtype::F32, &[5]),
        entry("d\u{e9}", Dtype::F32, &[1]),
        entry("position_ids", Dtype::I64, &[1]),
    ]);
    let report = LoadReport::compare(&parameters, &file, |name| name.ends_with("position_ids"));
    let message = report.into_result().unwrap_err().to_string();
    let expected = "`memory.safetensors` does not fit the model: 1 missing, 1 unexpected, 1 of the wrong shape\n  \
                    missing: c [4, 4]\n  unexpected: dé\n  wrong shape: b is [5], not [3]";
    assert_eq!(message, expected);
}

#[test]
fn a_file_that_fits_is_clean_and_long_lists_are_cut() {
    let file = in_memory(&[entry("a", Dtype::F32, &[2])]);
    let parameters = BTreeMap::from([("a".to_string(), vec![2])]);
    LoadReport::compare(&parameters, &file, |_| false).into_result().unwrap();
    let many = (0..100).map(|index| (format!("p{index:03}"), vec![1])).collect();
    let error = LoadReport::compare(&many, &in_memory(&[]), |_| false).into_result().unwrap_err();
    assert_eq!(error.to_string().lines().count(), 12);
    assert!(error.to_string().ends_with("  missing: … and 90 more"));
    assert!(error.hint().is_some());
}

#[test]
fn what_does_not_fit_in_several_networks_is_one_report() {
    let parameters = BTreeMap::from([("a".to_string(), vec![2])]);
    let report = |name: &str, shape: &[usize]| {
        LoadReport::compare(&parameters, &in_memory(&[entry(name, Dtype::F32, shape)]), |_| false)
    };
    let networks = [("unet", report("a", &[3])), ("vae", report("b", &[2])), ("text_encoder", report("a", &[2]))];
    let message = LoadReport::of_model(Path::new("m"), networks).into_result().unwrap_err().to_string();
    let expected = "`m` does not fit the model: 1 missing, 1 unexpected, 1 of the wrong shape\n  \
                    missing: vae/a [2]\n  unexpected: vae/b\n  wrong shape: unet/a is [3], not [2]";
    assert_eq!(message, expected);
}

#[test]
fn a_file_of_another_family_is_recognised_by_the_text_states_that_it_reads() {
    const ATTENTION: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let file = in_memory(&[entry(ATTENTION, Dtype::U8, &[2, 1024])]);
    let parameters = BTreeMap::from([(ATTENTION.to_string(), vec![2, 768])]);
    let error = LoadReport::compare(&parameters, &file, |_| false).into_result().unwrap_err();
    assert_eq!(error.hint().unwrap(), "the file fits the SD2 family better: it reads text states of 1024 numbers");
}
