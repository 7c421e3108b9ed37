//! Files are told apart by their tensors.

use sdtrain_state_dict::maps::lora_tensor::LoraKind;
use std::path::Path;

use sdtrain_state_dict::{
    Dtype, Family, FileKind, LoadReport, PipelineConfigs, TensorEntry, UnetInput, architecture, canonical_text_encoder,
    recognise, recognise_with_reason,
};

use crate::fixtures::{entry, in_memory, keys, shrunk};

fn kind(tensors: &[(&str, &[usize])]) -> FileKind {
    let tensors: Vec<TensorEntry> = tensors.iter().map(|(name, shape)| entry(name, Dtype::F16, shape)).collect();
    recognise(&in_memory(&tensors))
}

const CONV_IN: &str = "model.diffusion_model.input_blocks.0.0.weight";
const CONTEXT: &str = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight";

#[test]
fn whole_checkpoints_by_family() {
    let sd1 = kind(&[(CONV_IN, &[8, 4, 3, 3]), (CONTEXT, &[8, 768])]);
    assert_eq!(sd1, FileKind::Ldm { family: Family::Sd1, input: UnetInput::Plain, vae: false, text_encoder: false });
    assert_eq!(sd1.family(), Some(Family::Sd1));
    let edit = kind(&[(CONV_IN, &[8, 8, 3, 3]), ("first_stage_model.x", &[1])]);
    assert_eq!(edit, FileKind::Ldm { family: Family::Sd1, input: UnetInput::Edit, vae: true, text_encoder: false });
    assert_eq!(edit.to_string(), "single-file SD1 checkpoint for editing by instruction");
    assert_eq!(
        kind(&[(CONV_IN, &[8, 9, 3, 3]), (CONTEXT, &[8, 1024])]),
        FileKind::Ldm { family: Family::Sd2, input: UnetInput::Inpaint, vae: false, text_encoder: false }
    );
    let sdxl = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias";
    assert_eq!(
        kind(&[(CONV_IN, &[8, 4, 3, 3]), (sdxl, &[1])]),
        FileKind::Ldm { family: Family::Sdxl, input: UnetInput::Plain, vae: false, text_encoder: true }
    );
    let refiner = "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias";
    assert_eq!(
        kind(&[(CONV_IN, &[8, 4, 3, 3]), (refiner, &[1])]),
        FileKind::Ldm { family: Family::SdxlRefiner, input: UnetInput::Plain, vae: false, text_encoder: true }
    );
}

const LABELS: &str = "model.diffusion_model.label_emb.0.0.weight";
const DEEPER: &str = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight";

#[test]
fn whole_checkpoints_without_a_text_encoder_by_their_unet() {
    type Tensors<'a> = &'a [(&'a str, &'a [usize])];
    let cases: [(Tensors, Family); 9] = [
        (&[(CONTEXT, &[8, 768]), (DEEPER, &[8, 768])], Family::Sd1),
        (&[(CONTEXT, &[8, 1024]), (DEEPER, &[8, 1024])], Family::Sd2),
        // SD2's variant for pictures in place of texts.
        (&[(CONTEXT, &[8, 1024]), (LABELS, &[8, 2048])], Family::Sd2),
        (&[(LABELS, &[8, 2816]), (DEEPER, &[8, 2048])], Family::Sdxl),
        (&[(LABELS, &[8, 2560]), (DEEPER, &[8, 1280])], Family::SdxlRefiner),
        (&[(DEEPER, &[8, 2048])], Family::Sdxl),
        (&[(DEEPER, &[8, 1280])], Family::SdxlRefiner),
        (&[(LABELS, &[8, 2816])], Family::Sdxl),
        (&[(LABELS, &[8, 2560])], Family::SdxlRefiner),
    ];
    for (tensors, expected) in cases {
        let others: Tensors = &[(CONV_IN, &[8, 4, 3, 3]), ("first_stage_model.x", &[1])];
        let tensors = [others, tensors].concat();
        let expected = FileKind::Ldm { family: expected, input: UnetInput::Plain, vae: true, text_encoder: false };
        assert_eq!(kind(&tensors), expected, "{tensors:?}");
    }
}

#[test]
fn the_tensors_that_decide_are_named_with_their_shapes() {
    let reason = |tensors: &[(&str, &[usize])]| {
        let tensors: Vec<TensorEntry> = tensors.iter().map(|(name, shape)| entry(name, Dtype::F16, shape)).collect();
        recognise_with_reason(&in_memory(&tensors)).1
    };
    let first = format!("it has `{CONV_IN}` [8, 4, 3, 3], and");
    let conv_in: (&str, &[usize]) = (CONV_IN, &[8, 4, 3, 3]);
    assert_eq!(reason(&[conv_in, (CONTEXT, &[8, 1024])]), format!("{first} `{CONTEXT}` [8, 1024]"));
    assert_eq!(reason(&[conv_in, (LABELS, &[8, 2560])]), format!("{first} `{LABELS}` [8, 2560]"));
    assert_eq!(reason(&[conv_in]), format!("{first} nothing of another family"));
    assert_eq!(reason(&[("unet.conv_in.ia3_l", &[4, 1])]), "it has `unet.conv_in.ia3_l` [4, 1]");
    let lora = [("unet.conv_in.lora_A.weight", &[4, 36][..]), ("unet.x.attn2.to_k.lora_A.weight", &[2, 768])];
    assert_eq!(reason(&lora), "it has `unet.x.attn2.to_k.lora_A.weight` [2, 768]");
    assert_eq!(reason(&[("emb_params", &[2, 768])]), "it has `emb_params` [2, 768]");
    assert_eq!(reason(&[("layer.bias", &[768])]), "none of its 1 tensors has a name that is known");
}

#[test]
fn a_file_for_inpainting_is_assumed_to_be_the_released_one() {
    let plain = in_memory(&[entry(CONV_IN, Dtype::F16, &[8, 4, 3, 3]), entry(CONTEXT, Dtype::F16, &[8, 1024])]);
    let inpainting = in_memory(&[entry(CONV_IN, Dtype::F16, &[8, 9, 3, 3]), entry(CONTEXT, Dtype::F16, &[8, 1024])]);
    // SD2's for inpainting predicts the noise, unlike most others of its family.
    for (file, channels, is_v_prediction) in [(&plain, 4, true), (&inpainting, 9, false)] {
        let assumed = PipelineConfigs::assumed_of(file, Family::Sd2).unwrap();
        assert_eq!((&assumed.unet["in_channels"], assumed.is_v_prediction()), (&channels.into(), is_v_prediction));
        assert!(assumed.is_plain(Family::Sd2), "how many channels come in is seen in the file");
    }
    for family in [Family::Sd1, Family::Sd2, Family::Sdxl, Family::SdxlRefiner] {
        let supported = |input| family.check_supported(input, Path::new("model"));
        for input in [UnetInput::Plain, UnetInput::Inpaint, UnetInput::Edit] {
            assert!(supported(input).is_ok(), "{input:?}");
        }
        let message = supported(UnetInput::Other(5)).unwrap_err().to_string();
        assert!(message.contains("with 5 input channels; only those with 4, those for editing"), "{message}");
        assert!(family.pipeline_class(UnetInput::Inpaint).ends_with("InpaintPipeline"));
        assert!(family.pipeline_class(UnetInput::Edit).ends_with("InstructPix2PixPipeline"));
    }
}

#[test]
fn a_file_for_editing_is_assumed_to_have_the_channels_that_it_has_and_is_not_drawn_with() {
    let file = in_memory(&[entry(CONV_IN, Dtype::F16, &[8, 8, 3, 3]), entry(CONTEXT, Dtype::F16, &[8, 768])]);
    let assumed = PipelineConfigs::assumed_of(&file, Family::Sd1).unwrap();
    assert_eq!(assumed.unet["in_channels"], 8);
    assert!(assumed.is_plain(Family::Sd1), "how many channels come in is seen in the file");
    let (kind, reason) = recognise_with_reason(&file);
    assert_eq!(kind.to_string(), "single-file SD1 checkpoint for editing by instruction");
    assert_eq!(reason, format!("it has `{CONV_IN}` [8, 8, 3, 3], and `{CONTEXT}` [8, 768]"));
    let message = UnetInput::Edit.check_drawable(Path::new("edit")).unwrap_err().to_string();
    assert!(message.starts_with("`edit` is a model for editing by instruction (InstructPix2Pix); such"), "{message}");
    assert!(UnetInput::Inpaint.check_drawable(Path::new("paint")).is_ok());
}

/// The name of a tensor of the text encoder in a single file.
fn of_text(name: &str) -> String {
    format!("cond_stage_model.transformer.{name}")
}

#[test]
fn a_text_encoder_of_bert_in_a_file_is_assumed_as_its_tensors_show_it() {
    let (words, width, inner) = (300, 128, 96);
    let mut tensors = vec![entry(CONV_IN, Dtype::F16, &[8, 4, 3, 3]), entry(CONTEXT, Dtype::F16, &[8, 768])];
    let mut add = |name: &str, shape: &[usize]| tensors.push(entry(&of_text(name), Dtype::F16, shape));
    for (table, rows) in [("word", words), ("position", 40), ("token_type", 3)] {
        add(&format!("embeddings.{table}_embeddings.weight"), &[rows, width]);
    }
    add("embeddings.position_ids", &[1, 40]);
    // As old files call a norm's.
    add("embeddings.LayerNorm.gamma", &[width]);
    add("embeddings.LayerNorm.beta", &[width]);
    for layer in 0..2 {
        let layer = format!("encoder.layer.{layer}");
        let mut linear = |name: &str, output: usize, input: usize| {
            add(&format!("{layer}.{name}.weight"), &[output, input]);
            add(&format!("{layer}.{name}.bias"), &[output]);
        };
        for name in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            linear(name, width, width);
        }
        linear("intermediate.dense", inner, width);
        linear("output.dense", width, inner);
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            add(&format!("{layer}.{name}.weight"), &[width]);
            add(&format!("{layer}.{name}.bias"), &[width]);
        }
    }
    add("pooler.dense.weight", &[width, width]);
    add("pooler.dense.bias", &[width]);
    let file = in_memory(&tensors);

    let (kind, reason) = recognise_with_reason(&file);
    assert_eq!(kind.to_string(), "single-file SD1 checkpoint");
    assert!(reason.ends_with("; text encoder: BERT, 300 words"), "{reason}");
    let assumed = PipelineConfigs::assumed_of(&file, Family::Sd1).unwrap();
    assert_eq!(assumed.text_encoders[0]["num_attention_heads"], 2);
    let shapes = architecture::text_encoder(&assumed.text_encoders[0]).unwrap();
    LoadReport::of_network(&shapes, &canonical_text_encoder(&file).unwrap()).into_result().unwrap();
    assert!(!assumed.is_plain(Family::Sd1), "what is written of it says what it is");
    let error = assumed.check_reads_words_of_clip(Path::new("taiyi.ckpt")).unwrap_err();
    assert!(error.to_string().starts_with("`taiyi.ckpt` carries no tokenizer"), "{error}");
    assert!(error.to_string().contains("BERT with 300 words"), "{error}");
    let hint = error.hint().unwrap();
    for way in ["of 300 tokens", "`model.tokenizer`", "--tokenizer FOLDER"] {
        assert!(hint.contains(way), "{hint}");
    }
}

#[test]
fn a_clip_on_another_vocabulary_is_assumed_with_its_words() {
    let assumed = |words: usize, positions: usize| {
        let tensors = [
            entry(CONV_IN, Dtype::F16, &[8, 4, 3, 3]),
            entry(&of_text("text_model.embeddings.token_embedding.weight"), Dtype::U8, &[words, 2]),
            entry(&of_text("text_model.embeddings.position_embedding.weight"), Dtype::U8, &[positions, 2]),
        ];
        let file = in_memory(&tensors);
        (PipelineConfigs::assumed_of(&file, Family::Sd1).unwrap(), recognise_with_reason(&file).1)
    };
    let (released, reason) = assumed(49408, 77);
    assert_eq!(released, PipelineConfigs::sd1());
    assert!(!reason.contains("text encoder"), "{reason}");
    let is_of_clip = |configs: &PipelineConfigs| configs.check_reads_words_of_clip(Path::new("file")).is_ok();
    assert!(is_of_clip(&released));
    // Learned words that another program left in the table.
    assert!(is_of_clip(&assumed(49410, 77).0));
    for words in [21128, 32000, 250_002] {
        let (other, reason) = assumed(words, 40);
        assert!(reason.ends_with(&format!("; text encoder: CLIP, {words} words")), "{reason}");
        let text = &other.text_encoders[0];
        assert_eq!((&text["vocab_size"], &text["max_position_embeddings"]), (&words.into(), &40.into()));
        // A file that lacks a layer does not become one of fewer layers.
        assert_eq!(text["num_hidden_layers"], 12);
        assert!(!is_of_clip(&other), "{words}");
    }
}

#[test]
fn single_networks_by_the_full_lists() {
    let list = |name: &str| keys(name);
    let (unet, vae, text) = (list("unet_sd15.tsv"), list("vae.tsv"), list("te_clip_l.tsv"));
    let as_diffusers = shrunk(unet.iter().map(|row| (row.name.as_str(), row.shape.as_slice())));
    assert!(matches!(recognise(&as_diffusers), FileKind::DiffusersUnet { cross_attention_dim: Some(3), .. }));
    let as_diffusers = shrunk(vae.iter().map(|row| (row.name.as_str(), row.shape.as_slice())));
    assert_eq!(recognise(&as_diffusers), FileKind::Vae { diffusers: true });
    let original = |row: &'static str| row.strip_prefix("first_stage_model.").unwrap();
    let leaked: Vec<_> = vae.into_iter().map(|row| (&*row.original.leak(), row.original_shape)).collect();
    let as_original = shrunk(leaked.iter().map(|(name, shape)| (original(name), shape.as_slice())));
    assert_eq!(recognise(&as_original), FileKind::Vae { diffusers: false });
    let with_prefix = shrunk(leaked.iter().map(|(name, shape)| (&**name, shape.as_slice())));
    assert_eq!(recognise(&with_prefix), FileKind::Vae { diffusers: false });
    let as_text = shrunk(text.iter().map(|row| (row.name.as_str(), row.shape.as_slice())));
    assert_eq!(recognise(&as_text), FileKind::ClipText { hidden_size: Some(3) });
    let bert = list("te_taiyi_bert.tsv");
    let as_bert = shrunk(bert.iter().map(|row| (row.name.as_str(), row.shape.as_slice())));
    assert_eq!(recognise(&as_bert), FileKind::BertText { hidden_size: Some(3) });
    assert_eq!(recognise(&as_bert).to_string(), "BERT text encoder");
}

#[test]
fn adapters_and_embeddings() {
    let kohya = kind(&[
        ("lora_unet_conv_in.lora_down.weight", &[4, 8]),
        ("lora_unet_conv_in.lora_up.weight", &[8, 4]),
        ("lora_unet_conv_in.alpha", &[]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", &[]),
    ]);
    assert_eq!(kohya, FileKind::KohyaLora { kind: LoraKind::Lora, modules: 2, rank: Some(4) });
    type Tensors<'a> = &'a [(&'a str, &'a [usize])];
    let relatives: [(LoraKind, Tensors, Option<usize>); 6] = [
        (
            LoraKind::Loha,
            &[("lora_unet_conv_in.hada_w1_a", &[4, 2]), ("lora_unet_conv_in.hada_w1_b", &[2, 36])],
            Some(2),
        ),
        (LoraKind::Lokr, &[("lora_unet_conv_in.lokr_w1", &[2, 2]), ("lora_unet_conv_in.lokr_w2", &[2, 2])], None),
        (LoraKind::Lokr, &[("lora_unet_conv_in.lokr_w1", &[2, 2]), ("lora_unet_conv_in.lokr_w2_b", &[3, 8])], Some(3)),
        (
            LoraKind::Dora,
            &[("lora_unet_conv_in.dora_scale", &[4, 1]), ("lora_unet_conv_in.lora_down.weight", &[3, 8])],
            Some(3),
        ),
        (LoraKind::Ia3, &[("lora_unet_conv_in.weight", &[4]), ("lora_unet_conv_in.on_input", &[])], None),
        (LoraKind::Full, &[("lora_unet_conv_in.diff", &[4, 4]), ("lora_unet_conv_in.diff_b", &[4])], None),
    ];
    for (relative, tensors, rank) in relatives {
        assert_eq!(kind(tensors), FileKind::KohyaLora { kind: relative, modules: 1, rank });
    }
    let relative = kind(&[("unet.conv_in.ia3_l", &[4, 1])]);
    assert_eq!(relative, FileKind::PeftLora { kind: LoraKind::Ia3, modules: 1, rank: None });
    let peft = kind(&[("unet.conv_in.lora_A.weight", &[16, 8]), ("unet.conv_in.lora_B.weight", &[8, 16])]);
    assert_eq!(peft, FileKind::PeftLora { kind: LoraKind::Lora, modules: 1, rank: Some(16) });
    assert!(kohya.is_adapter() && peft.is_adapter() && !FileKind::Unknown.is_adapter());
    assert_eq!(
        kind(&[("<cat-toy>", &[2, 768])]),
        FileKind::TextualInversion { vectors: 2, width: 768, second_width: None }
    );
    let of_paper = kind(&[("string_to_param.sks", &[2, 768]), ("string_to_token.sks", &[])]);
    assert_eq!(of_paper, FileKind::TextualInversion { vectors: 2, width: 768, second_width: None });
    assert_eq!(
        kind(&[("emb_params", &[768])]),
        FileKind::TextualInversion { vectors: 1, width: 768, second_width: None }
    );
    // The first table of SDXL's pair is as wide as SD1's.
    assert_eq!(
        kind(&[("clip_g", &[3, 1280]), ("clip_l", &[3, 768])]),
        FileKind::TextualInversion { vectors: 3, width: 768, second_width: Some(1280) }
    );
    assert_eq!(
        kind(&[("bundle_emb.a.string_to_param.*", &[3, 768]), ("bundle_emb.b.string_to_param.*", &[1, 768])]),
        FileKind::TextualInversion { vectors: 4, width: 768, second_width: None }
    );
    let trace = kind(&[("step.1.loss", &[]), ("step.2.loss", &[]), ("step.2.lr", &[1]), ("initial.unet.x", &[1])]);
    assert_eq!(trace, FileKind::Trace { steps: 2 });
    let of_no_family = FileKind::ControlNet { family: None, diffusers: false, with_model: false };
    assert_eq!(kind(&[("control_model.time_embed.0.weight", &[2, 2])]), of_no_family);
}

#[test]
fn anything_else_is_unknown() {
    assert_eq!(kind(&[]), FileKind::Unknown);
    assert_eq!(kind(&[("step", &[])]), FileKind::Unknown);
    assert_eq!(kind(&[("layer.weight", &[768, 768]), ("layer.bias", &[768])]), FileKind::Unknown);
    assert_eq!(
        kind(&[(CONV_IN, &[])]),
        FileKind::Ldm { family: Family::Sd1, input: UnetInput::Other(0), vae: false, text_encoder: false }
    );
}
