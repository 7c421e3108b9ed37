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

/// The hint where a file with the tensors `found` meets the parameters `wanted`.
fn hint(wanted: &[(&str, &[usize])], found: &[(&str, &[usize])]) -> Option<String> {
    let parameters = wanted.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
    let found: Vec<_> = found.iter().map(|(name, shape)| entry(name, Dtype::U8, shape)).collect();
    LoadReport::of_network(&parameters, &in_memory(&found)).into_result().unwrap_err().hint()
}

const UNET: [(&str, &[usize]); 3] =
    [("conv_in.weight", &[2, 4, 3, 3]), ("down_blocks.0.x", &[1]), ("up_blocks.0.x", &[1])];

#[test]
fn a_unet_of_another_family_is_recognised_by_the_text_states_that_it_reads() {
    const ATTENTION: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    const ELSEWHERE: &str = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let unet = |attention: &'static str, width: &'static [usize]| [&UNET[..], &[(attention, width)]].concat();
    let sd1 = unet(ATTENTION, &[2, 768]);
    let better = "the file fits the SD2 family better: it reads text states of 1024 numbers";
    assert_eq!(hint(&sd1, &unet(ATTENTION, &[2, 1024])).as_deref(), Some(better));
    // Its attention lies where the other's has none.
    assert_eq!(hint(&sd1, &unet(ELSEWHERE, &[2, 1024])).as_deref(), Some(better));
    assert_eq!(hint(&sd1, &unet(ELSEWHERE, &[2, 768])), None, "of the same family");
    assert_eq!(hint(&sd1, &unet(ELSEWHERE, &[2, 48])), None, "of none that is known");
}

#[test]
fn a_text_encoder_of_another_kind_or_family_is_named() {
    const CLIP: &str = "text_model.embeddings.token_embedding.weight";
    const BERT: &str = "embeddings.word_embeddings.weight";
    let clip = hint(&[(BERT, &[3, 768])], &[(CLIP, &[3, 768])]).unwrap();
    assert_eq!(
        clip,
        "the file is a CLIP text encoder whose states have 768 numbers, as a model of the SD1 family has it"
    );
    let wider = hint(&[(CLIP, &[3, 768])], &[(CLIP, &[3, 1024])]).unwrap();
    assert!(wider.ends_with("1024 numbers, as a model of the SD2 family has it"), "{wider}");
    let bert = hint(&[(CLIP, &[3, 768])], &[(BERT, &[3, 768])]).unwrap();
    assert!(bert.starts_with("the file is a BERT text encoder whose states have 768 numbers"), "{bert}");
}

#[test]
fn only_a_folder_has_a_configuration_of_another_model() {
    const CLIP: &str = "text_model.embeddings.token_embedding.weight";
    let alone = hint(&[(CLIP, &[3, 768])], &[(CLIP, &[4, 768])]).unwrap();
    assert!(alone.contains("not the sizes") && !alone.contains("config.json"), "{alone}");
    let folder = tempfile::tempdir().unwrap();
    let parameters = BTreeMap::from([("a".to_string(), vec![2])]);
    let report = LoadReport::compare(&parameters, &in_memory(&[entry("a", Dtype::U8, &[3])]), |_| false);
    let error = LoadReport::of_model(folder.path(), [("unet", report)]).into_result().unwrap_err();
    assert_eq!(error.hint().unwrap(), "the names fit but not the sizes: the `config.json` belongs to another model");
}
