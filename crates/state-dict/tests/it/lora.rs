//! Adapter names of every format.

use sdtrain_state_dict::Family;
use sdtrain_state_dict::maps::lora_kohya::{KohyaModules, KohyaNaming, kohya_name, parse_by_words};
use sdtrain_state_dict::maps::lora_peft::{LoraKey, LoraTensor, Part, parse, peft_name};

use crate::fixtures::keys;

/// Every layer of SD1.5 that could be adapted.
fn modules() -> Vec<(Part, String)> {
    let layers = |list: &str, part: Part, prefix: &str| {
        let layer = |name: &str| Some((part, format!("{prefix}{}", name.strip_suffix(".weight")?)));
        keys(list).iter().filter_map(|row| layer(&row.name)).collect::<Vec<_>>()
    };
    let unet = layers("unet_sd15.tsv", Part::Unet, "");
    [unet, layers("te_clip_l.tsv", Part::TextEncoder, "text_model.")].concat()
}

fn keys_of_all_modules() -> Vec<LoraKey> {
    let tensors = [LoraTensor::Down, LoraTensor::Up, LoraTensor::Alpha, LoraTensor::Magnitude, LoraTensor::HadaW2B];
    let key = |(part, module): (Part, String)| tensors.map(|tensor| LoraKey { part, module: module.clone(), tensor });
    modules().into_iter().flat_map(key).collect()
}

#[test]
fn peft_and_kohya_names_of_every_layer_read_back() {
    let modules = modules();
    let lookup = KohyaModules::new(modules.iter().map(|(part, module)| (*part, module.as_str())));
    for key in keys_of_all_modules() {
        assert_eq!(parse(&peft_name(&key)), Some(key.clone()));
        for naming in [KohyaNaming::OneTextEncoder, KohyaNaming::of_family(Family::Sdxl)] {
            if key.part == Part::Unet && naming != KohyaNaming::OneTextEncoder {
                continue;
            }
            let name = kohya_name(&key, &naming);
            assert_eq!(lookup.parse(&name), Some(key.clone()), "{name}");
        }
    }
}

#[test]
fn kohya_names_read_without_a_model_for_every_layer_of_linears_and_convolutions() {
    for key in keys_of_all_modules() {
        // Norms and embeddings are never adapted, so their words need not be known.
        let adaptable = !key.module.contains("norm") && !key.module.contains("embedding.");
        if adaptable && !key.module.ends_with("_embedding") {
            assert_eq!(parse_by_words(&kohya_name(&key, &KohyaNaming::OneTextEncoder)), Some(key));
        }
    }
}

#[test]
fn names_are_written_as_their_programs_write_them() {
    let key = LoraKey {
        part: Part::Unet,
        module: "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0".to_string(),
        tensor: LoraTensor::Down,
    };
    assert_eq!(
        kohya_name(&key, &KohyaNaming::OneTextEncoder),
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight"
    );
    assert_eq!(peft_name(&key), "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight");
    let key = LoraKey {
        part: Part::TextEncoder,
        module: "text_model.encoder.layers.11.mlp.fc1".to_string(),
        tensor: LoraTensor::Alpha,
    };
    assert_eq!(kohya_name(&key, &KohyaNaming::OneTextEncoder), "lora_te_text_model_encoder_layers_11_mlp_fc1.alpha");
    let two = KohyaNaming::of_family(Family::Sdxl);
    assert_eq!(kohya_name(&key, &two), "lora_te1_text_model_encoder_layers_11_mlp_fc1.alpha");
}

#[test]
fn older_diffusers_names_are_read() {
    let attention = "mid_block.attentions.0.transformer_blocks.0.attn2";
    let cases = [
        (format!("unet.{attention}.to_q.lora.down.weight"), format!("{attention}.to_q"), LoraTensor::Down),
        (format!("unet.{attention}.processor.to_out_lora.up.weight"), format!("{attention}.to_out.0"), LoraTensor::Up),
        (format!("{attention}.processor.to_v_lora.down.weight"), format!("{attention}.to_v"), LoraTensor::Down),
    ];
    for (name, module, tensor) in cases {
        assert_eq!(parse(&name), Some(LoraKey { part: Part::Unet, module, tensor }), "{name}");
    }
    let name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight";
    let module = "text_model.encoder.layers.0.self_attn.q_proj".to_string();
    assert_eq!(parse(name), Some(LoraKey { part: Part::TextEncoder, module: module.clone(), tensor: LoraTensor::Up }));
    // Adapters made on transformers 5, whose text encoder has no `text_model.` in memory.
    let name = "text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight";
    assert_eq!(parse(name), Some(LoraKey { part: Part::TextEncoder, module, tensor: LoraTensor::Down }));
}

#[test]
fn other_names_are_no_adapters() {
    for name in
        ["", "unet", "unet.lora_A.weight", "conv_in.weight", "down_blocks.0.lora_A.weight", "alpha", "unet.x.weight"]
    {
        assert_eq!(parse(name), None, "{name}");
    }
    let lookup = KohyaModules::new([(Part::Unet, "conv_in")]);
    for name in ["lora_unet_conv_out.alpha", "lora_unet_conv_in.oft_blocks", "lora_unet_conv_in", ""] {
        assert_eq!(lookup.parse(name), None, "{name}");
    }
    assert_eq!(parse_by_words("lora_unet__x.alpha"), None);
    assert_eq!(parse_by_words("lora_unet_conv_in.other.weight"), None);
    assert_eq!(parse_by_words("unet_x.alpha"), None);
}

#[test]
fn adapters_of_sdxl_are_named_by_the_original_paths_and_read_by_either() {
    let of_unet = keys("unet_sdxl.tsv");
    let original = |row: &crate::fixtures::Row| {
        row.original.strip_prefix("model.diffusion_model.")?.strip_suffix(".weight").map(|path| path.replace('.', "_"))
    };
    let layer = |name: &str| name.strip_suffix(".weight").map(str::to_string);
    let layers: Vec<(Part, String, Option<String>)> = of_unet
        .iter()
        .filter_map(|row| Some((Part::Unet, layer(&row.name)?, original(row))))
        .chain(
            keys("te_openclip_bigg_sdxl.tsv")
                .iter()
                .filter_map(|row| Some((Part::TextEncoder2, layer(&row.name)?, None))),
        )
        .collect();
    let named: Vec<(Part, &str)> = layers.iter().map(|(part, module, _)| (*part, module.as_str())).collect();
    let (naming, lookup) = (KohyaNaming::of_layers(&named), KohyaModules::new(named));
    assert_eq!(naming, KohyaNaming::of_family(Family::Sdxl), "SDXL's own layout");
    for (part, module, original) in &layers {
        let key = LoraKey { part: *part, module: module.clone(), tensor: LoraTensor::Down };
        let name = kohya_name(&key, &naming);
        if let Some(original) = original {
            assert_eq!(name, format!("lora_unet_{original}.lora_down.weight"));
        }
        assert_eq!(lookup.parse(&name), Some(key.clone()), "{name}");
        assert_eq!(lookup.parse(&kohya_name(&key, &KohyaNaming::OneTextEncoder)), Some(key.clone()), "{module}");
        // Norms and embeddings are never adapted, so their words need not be known.
        if !module.contains("norm") && !module.contains("embedding") {
            assert_eq!(parse_by_words(&name), Some(key), "{name}");
        }
    }
}

#[test]
fn adapters_of_sdxls_refiner_are_named_by_the_same_rule_and_read_without_a_model() {
    let naming = KohyaNaming::of_family(Family::SdxlRefiner);
    let of_unet = keys("unet_sdxl_refiner.tsv");
    let layers: Vec<(Part, &str)> =
        of_unet.iter().filter_map(|row| Some((Part::Unet, row.name.strip_suffix(".weight")?))).collect();
    let with_encoder = [&layers[..], &[(Part::TextEncoder2, "text_model.encoder.layers.0.mlp.fc1")]].concat();
    assert_eq!(naming, KohyaNaming::of_layers(&with_encoder), "its own layout");
    for row in of_unet.iter().filter(|row| row.name.ends_with(".weight")) {
        let module = row.name.trim_end_matches(".weight").to_string();
        let original = row.original.trim_start_matches("model.diffusion_model.").trim_end_matches(".weight");
        let key = LoraKey { part: Part::Unet, module, tensor: LoraTensor::Down };
        let name = kohya_name(&key, &naming);
        assert_eq!(name, format!("lora_unet_{}.lora_down.weight", original.replace('.', "_")));
        // Norms and embeddings are never adapted, so their words need not be known.
        if !key.module.contains("norm") && !key.module.contains("embedding") {
            assert_eq!(parse_by_words(&name), Some(key), "{name}");
        }
    }
}

#[test]
fn layers_of_a_bert_text_encoder_keep_their_names_in_both_forms() {
    for name in [
        "text_encoder.encoder.layer.0.attention.self.query.lora_A.weight",
        "text_encoder.encoder.layer.11.output.dense.lora_B.weight",
    ] {
        let key = parse(name).expect("a name of PEFT's");
        assert!(key.module.starts_with("encoder.layer."), "{}", key.module);
        assert_eq!(peft_name(&key), name);
    }
    let key = parse_by_words("lora_te_encoder_layer_0_attention_self_query.lora_down.weight").unwrap();
    assert_eq!(key.module, "encoder.layer.0.attention.self.query");
}
