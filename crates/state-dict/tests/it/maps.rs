//! Names of whole networks, both ways.

use std::collections::BTreeSet;

use sdtrain_state_dict::maps::ldm_sd::{UnetLayout, ldm_to_unet, unet_to_ldm};
use sdtrain_state_dict::maps::open_clip::{self, Place};
use sdtrain_state_dict::maps::{clip, vae};

use crate::fixtures::keys;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";

#[test]
fn every_name_of_the_sd15_unet_maps_both_ways() {
    let rows = keys("unet_sd15.tsv");
    assert_eq!(rows.len(), 686);
    let layout = UnetLayout::from_diffusers_names(rows.iter().map(|row| row.name.as_str())).unwrap();
    assert_eq!(layout, UnetLayout::uniform(2, &[false, true, true, true]));
    let originals = rows.iter().map(|row| row.original.strip_prefix(UNET).unwrap());
    assert_eq!(UnetLayout::from_ldm_names(originals).unwrap(), layout);
    for row in &rows {
        let original = row.original.strip_prefix(UNET).unwrap();
        assert_eq!(unet_to_ldm(&row.name, &layout).as_deref(), Some(original));
        assert_eq!(ldm_to_unet(original, &layout).as_deref(), Some(row.name.as_str()));
        assert_eq!(row.shape, row.original_shape);
    }
}

#[test]
fn every_name_of_the_vae_maps_both_ways_with_its_shape() {
    let rows = keys("vae.tsv");
    assert_eq!(rows.len(), 248);
    let levels = vae::levels(rows.iter().map(|row| row.name.as_str()));
    assert_eq!(levels, 4);
    assert_eq!(vae::levels(rows.iter().map(|row| row.original.strip_prefix(VAE).unwrap())), 4);
    for row in &rows {
        let original = row.original.strip_prefix(VAE).unwrap();
        assert_eq!(vae::vae_to_ldm(&row.name, levels).as_deref(), Some(original));
        assert_eq!(vae::ldm_to_vae(original, levels).as_deref(), Some(row.name.as_str()));
        assert_eq!(vae::shape_in_ldm(&row.name, &row.shape), row.original_shape);
        assert_eq!(vae::shape_in_diffusers(&row.name, &row.original_shape), row.shape);
    }
}

#[test]
fn every_name_of_the_text_encoder_is_read_in_each_form() {
    let rows = keys("te_clip_l.tsv");
    assert_eq!(rows.len(), 196);
    for row in &rows {
        let canonical = format!("text_model.{}", row.name);
        let without_text_model = row.original.replace("transformer.text_model.", "transformer.");
        let sgm = row.original.replace(clip::LDM_PREFIX, clip::SGM_PREFIX);
        for form in [&row.name, &canonical, &row.original, &without_text_model, &sgm] {
            assert_eq!(clip::canonical_name(form).as_ref(), Some(&canonical));
        }
        assert_eq!(clip::to_ldm(&canonical).as_ref(), Some(&row.original));
        assert_eq!(clip::short_name(&canonical), row.name);
    }
    assert_eq!(clip::canonical_name("text_model.embeddings.position_ids"), None);
    assert_eq!(clip::canonical_name("vision_model.embeddings.class_embedding"), None);
}

#[test]
fn attention_names_of_old_vae_files_are_brought_up_to_date() {
    let old_and_new = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    for (old, new) in old_and_new {
        let name = |inner: &str| format!("decoder.mid_block.attentions.0.{inner}.bias");
        assert_eq!(vae::current_name(&name(old)), name(new));
        assert_eq!(vae::current_name(&name(new)), name(new));
    }
    assert_eq!(vae::current_name("encoder.conv_in.bias"), "encoder.conv_in.bias");
}

/// The parameters' places in a UNet with these layers per block and attention in these blocks.
fn unet_names(layers: &[usize], attention: &[bool]) -> Vec<String> {
    let mut names: Vec<String> =
        ["conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out"]
            .map(|name| format!("{name}.weight"))
            .to_vec();
    let blocks = layers.len();
    let resnet = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"];
    for block in 0..blocks {
        let mirrored = blocks - 1 - block;
        let halves = [("down", layers[block], attention[block]), ("up", layers[mirrored] + 1, attention[mirrored])];
        for (half, count, attends) in halves {
            for layer in 0..count {
                names.extend(resnet.map(|inner| format!("{half}_blocks.{block}.resnets.{layer}.{inner}.bias")));
                if attends {
                    names.push(format!("{half}_blocks.{block}.attentions.{layer}.proj_in.weight"));
                }
            }
            if block + 1 < blocks {
                names.push(format!("{half}_blocks.{block}.{half}samplers.0.conv.weight"));
            }
        }
    }
    for layer in 0..2 {
        names.extend(resnet.map(|inner| format!("mid_block.resnets.{layer}.{inner}.weight")));
    }
    names.push("mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight".to_string());
    names
}

#[test]
fn unets_of_any_depth_map_both_ways_and_tell_their_own_layout() {
    let cases: [(&[usize], &[bool]); 7] = [
        (&[1], &[true]),
        (&[3], &[false]),
        (&[1, 1], &[false, true]),
        (&[2, 2, 2], &[false, true, true]),
        (&[1, 1, 1, 1, 1], &[true, true, false, true, false]),
        (&[1, 2, 3], &[true, false, true]),
        (&[4, 1], &[true, true]),
    ];
    for (layers, attention) in cases {
        let names = unet_names(layers, attention);
        let layout = UnetLayout::from_diffusers_names(names.iter().map(String::as_str)).unwrap();
        assert_eq!(layout.layers, layers);
        assert_eq!(layout.up_attention, attention.iter().rev().copied().collect::<Vec<_>>());
        let originals: Vec<String> = names.iter().map(|name| unet_to_ldm(name, &layout).expect(name)).collect();
        assert_eq!(originals.iter().collect::<BTreeSet<_>>().len(), names.len(), "{layers:?}");
        assert_eq!(UnetLayout::from_ldm_names(originals.iter().map(String::as_str)).unwrap(), layout);
        for (name, original) in names.iter().zip(&originals) {
            assert_eq!(ldm_to_unet(original, &layout).as_ref(), Some(name), "{original}");
        }
    }
}

#[test]
fn names_that_no_unet_has_are_not_mapped() {
    let layout = UnetLayout::uniform(2, &[false, true]);
    let foreign = [
        "",
        "conv_in2.weight",
        "down_blocks.2.resnets.0.conv1.weight",
        "down_blocks.0.resnets.2.conv1.weight",
        "down_blocks.0.resnets.0.conv9.weight",
        "down_blocks.00.resnets.0.conv1.weight",
        "down_blocks.99999999999999999999.resnets.0.conv1.weight",
        "down_blocks.0.upsamplers.0.conv.weight",
        "mid_block.resnets.2.conv1.weight",
        "controlnet_down_blocks.0.weight",
    ];
    for name in foreign {
        assert_eq!(unet_to_ldm(name, &layout), None, "{name}");
    }
    let foreign = [
        "input_blocks.0.1.weight",
        "input_blocks.99.0.in_layers.0.weight",
        "input_blocks.3.1.op.weight",
        "output_blocks.6.0.in_layers.0.weight",
        "output_blocks.0.1.conv.weight",
        "middle_block.3.in_layers.0.weight",
        "time_embed.1.weight",
    ];
    for name in foreign {
        assert_eq!(ldm_to_unet(name, &layout), None, "{name}");
    }
}

#[test]
fn a_vae_of_two_levels_numbers_its_decoder_from_the_fine_end() {
    assert_eq!(
        vae::vae_to_ldm("decoder.up_blocks.0.resnets.1.conv_shortcut.bias", 2).unwrap(),
        "decoder.up.1.block.1.nin_shortcut.bias"
    );
    assert_eq!(
        vae::ldm_to_vae("decoder.up.1.upsample.conv.weight", 2).unwrap(),
        "decoder.up_blocks.0.upsamplers.0.conv.weight"
    );
    assert_eq!(vae::vae_to_ldm("decoder.up_blocks.2.resnets.1.conv1.bias", 2), None);
    assert_eq!(vae::ldm_to_vae("decoder.up.18446744073709551615.upsample.conv.weight", 2), None);
}

#[test]
fn every_name_of_sd2s_text_encoder_has_its_place_in_open_clips() {
    let rows = keys("te_openclip_h_sd2.tsv");
    assert_eq!(rows.len(), 372);
    for row in &rows {
        let canonical = format!("text_model.{}", row.name);
        let original = row.original.strip_prefix(open_clip::LDM_PREFIX).unwrap();
        let expected = match original.split_once(" [") {
            Some((whole, part)) => Place::Third(whole.to_string(), part.trim_end_matches(']').parse().unwrap()),
            None => Place::Whole(original.to_string()),
        };
        assert_eq!(open_clip::place(&canonical).as_ref(), Some(&expected));
        let (whole, part) = match expected {
            Place::Whole(whole) => (whole, 0),
            Place::Third(whole, part) => (whole, part),
            Place::Transposed(whole) => panic!("SD2 has no projection: {whole}"),
        };
        assert_eq!(open_clip::canonical_names(&whole).unwrap()[part], canonical);
    }
    for other in ["logit_scale", "transformer.resblocks.x.ln_1.weight", "visual.proj"] {
        assert_eq!(open_clip::canonical_names(other), None, "{other}");
    }
}
