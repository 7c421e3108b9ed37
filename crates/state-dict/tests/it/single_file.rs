//! Single-file checkpoints as three networks, and back.

use std::sync::Arc;

use sdtrain_state_dict::{
    Dtype, Error, Family, Reader, SafetensorsFile, ldm_single_file, open_component, recognise, to_ldm, unknown_tensors,
};

use crate::fixtures::{bytes_of, entry, fixture_folder, in_memory, keys, shrunk};

#[test]
fn a_full_size_checkpoint_splits_into_the_three_networks_and_joins_again() {
    let lists = ["unet_sd15.tsv", "vae.tsv", "te_clip_l.tsv"].map(keys);
    let checkpoint = shrunk(lists.iter().flatten().map(|row| (row.original.as_str(), row.original_shape.as_slice())));
    let parts = ldm_single_file(checkpoint.clone()).unwrap();
    assert_eq!(parts.leftover, [""; 0]);
    let (vae, text_encoder) = (parts.vae.unwrap(), &parts.text_encoders[0]);
    let readers: [&dyn Reader; 3] = [&parts.unet, &vae, text_encoder];
    for (reader, list) in readers.into_iter().zip(&lists) {
        let prefix = if list.len() == 196 { "text_model." } else { "" };
        let small = |shape: &[usize]| shape.iter().map(|&length| length.min(3)).collect::<Vec<_>>();
        assert_eq!(reader.names().len(), list.len());
        for row in list {
            let name = format!("{prefix}{}", row.name);
            assert_eq!(reader.info(&name).expect(&name).shape, small(&row.shape), "{name}");
            assert_eq!(reader.bytes(&name).unwrap(), checkpoint.bytes(&row.original).unwrap());
        }
    }
    let joined = to_ldm(Family::Sd1, &parts.unet, &vae, &[text_encoder]).unwrap();
    assert_eq!(bytes_of(&joined), bytes_of(&checkpoint));
}

#[test]
fn a_diffusers_folder_becomes_the_checkpoint_that_its_golden_file_holds() {
    for (family, tiny) in [(Family::Sd1, "tiny_sd1"), (Family::Sdxl, "tiny_sdxl")] {
        let folder = fixture_folder();
        let part = |name: &str, stem: &str| open_component(&folder.join(tiny).join(name), stem, None).unwrap();
        let (unet, vae) = (part("unet", "diffusion_pytorch_model"), part("vae", "diffusion_pytorch_model"));
        let texts: Vec<_> = family.text_folders().iter().map(|place| part(place.network, "model")).collect();
        let texts: Vec<&dyn Reader> = texts.iter().map(|text| text as &dyn Reader).collect();
        let checkpoint = to_ldm(family, &unet, &vae, &texts).unwrap();
        let expected = SafetensorsFile::open(folder.join(format!("{tiny}.safetensors"))).unwrap();
        assert_eq!(checkpoint.names(), expected.names());
        // What text and picture of CLIP were compared with: needless here, and ones in files of ours.
        for name in expected.names().into_iter().filter(|name| !name.ends_with("logit_scale")) {
            assert_eq!(checkpoint.info(name), expected.info(name), "{name}");
            assert_eq!(checkpoint.bytes(name).unwrap(), expected.bytes(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_checkpoint_of_two_text_encoders_splits_into_them() {
    let folder = fixture_folder();
    let single = Arc::new(SafetensorsFile::open(folder.join("tiny_sdxl.safetensors")).unwrap());
    assert_eq!(recognise(&single).family(), Some(Family::Sdxl));
    let parts = ldm_single_file(single.clone()).unwrap();
    assert_eq!(parts.leftover, [""; 0]);
    assert_eq!(parts.text_encoders.len(), 2);
    // Each tensor knows what the file calls it, also as a third of another.
    for network in &parts.text_encoders {
        assert!(network.names().into_iter().all(|name| single.info(network.name_in_file(name)).is_some()));
    }
    let of_second = parts.text_encoders[1].name_in_file("text_model.encoder.layers.0.self_attn.k_proj.weight");
    assert_eq!(of_second, "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight");
    assert_eq!(parts.unet.name_in_file("conv_in.weight"), "model.diffusion_model.input_blocks.0.0.weight");
    assert_eq!(parts.unet.name_in_file("absent"), "absent");
    for (found, place) in parts.text_encoders.iter().zip(Family::Sdxl.text_folders()) {
        let expected = open_component(&folder.join("tiny_sdxl").join(place.network), "model", None).unwrap();
        assert_eq!(found.names(), expected.names());
        for name in expected.names() {
            assert_eq!(found.info(name), expected.info(name), "{name}");
            assert_eq!(found.bytes(name).unwrap(), expected.bytes(name).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_family_with_two_text_encoders_is_not_written_with_one() {
    let unet = in_memory(&[entry("down_blocks.0.resnets.0.norm1.weight", Dtype::F16, &[1])]);
    let empty = in_memory(&[]);
    let error = to_ldm(Family::Sdxl, &unet, &empty, &[&empty]).err().expect("refused").to_string();
    assert!(error.contains("has 1 text encoders") && error.contains("SDXL family holds 2"), "{error}");
}

#[test]
fn parts_may_be_absent_and_needless_tensors_are_dropped() {
    let file = in_memory(&[
        entry("model.diffusion_model.input_blocks.0.0.weight", Dtype::F16, &[1, 4, 3, 3]),
        entry("model.diffusion_model.input_blocks.1.0.in_layers.0.weight", Dtype::F16, &[1]),
        entry("model_ema.diffusion_modelinput_blocks00weight", Dtype::F16, &[1]),
        entry("betas", Dtype::F32, &[1000]),
        entry("cond_stage_model.transformer.text_model.embeddings.position_ids", Dtype::I64, &[1, 77]),
        entry("something.else", Dtype::F16, &[1]),
    ]);
    let parts = ldm_single_file(Arc::new(file)).unwrap();
    assert_eq!(parts.unet.names(), ["conv_in.weight", "down_blocks.0.resnets.0.norm1.weight"]);
    assert!(parts.vae.is_none() && parts.text_encoders.is_empty());
    assert_eq!(parts.leftover, ["something.else"]);
}

#[test]
fn a_file_without_a_unet_is_no_checkpoint() {
    let file = in_memory(&[entry("lora_unet_x.lora_down.weight", Dtype::F16, &[1, 4])]);
    let error = ldm_single_file(Arc::new(file)).err().expect("no checkpoint");
    assert!(error.to_string().contains("is no single-file checkpoint"), "{error}");
}

#[test]
fn a_tensor_with_no_place_in_a_checkpoint_is_not_lost_silently() {
    let unet = in_memory(&[
        entry("down_blocks.0.resnets.0.norm1.weight", Dtype::F16, &[1]),
        entry("class_embedding.weight", Dtype::F16, &[1]),
    ]);
    let empty = in_memory(&[]);
    let error = to_ldm(Family::Sd1, &unet, &empty, &[&empty]).err().expect("refused");
    assert!(matches!(&error, Error::BrokenTensor { tensor, .. } if tensor == "class_embedding.weight"), "{error}");
}

#[test]
fn what_is_left_over_of_a_file_is_counted_and_the_first_are_named() {
    let words = |names: &[&str]| unknown_tensors(&names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    assert_eq!(words(&[]), None);
    assert_eq!(words(&["a"]).unwrap(), "one tensor of no network that is known: `a`");
    assert_eq!(words(&["a", "b", "c", "d\u{1b}"]).unwrap(), "4 tensors of no network that is known: `a`, `b`, `c`, …");
    // Schedules, averaged copies and position numbers are none.
    let lists = ["unet_sd15.tsv", "vae.tsv", "te_clip_l.tsv"].map(keys);
    let small = [3];
    let others = [
        "betas",
        "alphas_cumprod",
        "sqrt_alphas_cumprod",
        "model_ema.decay",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "model.diffusion_model.extra.scale",
        "extra.weight",
    ];
    let rows = lists.iter().flatten().map(|row| (row.original.as_str(), row.original_shape.as_slice()));
    let file = shrunk(rows.chain(others.iter().map(|name| (*name, &small[..]))));
    let parts = ldm_single_file(file).unwrap();
    assert_eq!(parts.leftover, ["extra.weight", "model.diffusion_model.extra.scale"]);
}
