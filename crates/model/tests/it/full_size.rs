//! Names and shapes of SD1.5, SD2.1 and SDXL at their full size, in both namings, without their gigabytes.

use sdtrain_model::text_encoder::TextEncoder;
use sdtrain_model::unet::UNet2DConditionModel;
use sdtrain_model::vae::AutoencoderKL;
use sdtrain_model::{Builder, ModelConfigs, Parameters, Source, TensorReader};
use sdtrain_state_dict::{Family, PipelineConfigs, Reader, to_ldm};
use sdtrain_torch_test_support::key_list;
use std::collections::BTreeMap;
use tch::{Device, Kind};

type Shapes = BTreeMap<String, Vec<usize>>;

struct Networks {
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoders: Vec<Box<dyn TextEncoder>>,
}

impl Networks {
    /// All of them as one file of `family`.
    fn single_file(&self, family: Family) -> Shapes {
        let [unet, vae] = [self.unet.parameters(), self.vae.parameters()].map(|own| TensorReader::of(own, None));
        let texts: Vec<_> = self.text_encoders.iter().map(|own| TensorReader::of(own.parameters(), None)).collect();
        let texts: Vec<&dyn Reader> = texts.iter().map(|reader| reader as &dyn Reader).collect();
        shapes(&to_ldm(family, &unet, &vae, &texts).expect("every tensor has its place"))
    }
}

fn networks(configs: &PipelineConfigs) -> Networks {
    let configs = ModelConfigs::from_json(configs).expect("configurations of released models");
    let b = || Builder::new(Source::Shapes, Kind::Float, Device::Cpu);
    Networks {
        unet: UNet2DConditionModel::new(b(), &configs.unet).expect("no weights are needed"),
        vae: AutoencoderKL::new(b(), &configs.vae).expect("no weights are needed"),
        text_encoders: configs
            .text_encoders
            .iter()
            .map(|config| config.build(b()).expect("no weights are needed"))
            .collect(),
    }
}

fn shapes(reader: &dyn Reader) -> Shapes {
    let shape = |name: &str| reader.info(name).expect("a listed tensor has its info").shape.clone();
    reader.names().into_iter().map(|name| (name.to_string(), shape(name))).collect()
}

/// The list `keys/NAME.tsv` under diffusers' names and under those of single files.
fn listed(name: &str) -> (Shapes, Shapes) {
    let text = key_list(name);
    let shape = |text: &str| text.split(',').map(|length| length.parse().expect("a length")).collect::<Vec<usize>>();
    let rows = text.lines().flat_map(repeated).map(|line| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, diffusers_shape, ldm_name] = columns[..3] else { panic!("three columns: {line}") };
        let ldm_shape = columns.get(3).copied().unwrap_or(diffusers_shape);
        ((name.to_string(), shape(diffusers_shape)), (ldm_name.to_string(), shape(ldm_shape)))
    });
    rows.unzip()
}

/// `….{10}.…` stands for a line each with the numbers from 0 to 9.
fn repeated(line: &str) -> Vec<String> {
    let Some((count, _)) = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')) else {
        return vec![line.to_string()];
    };
    let numbers = 0..count.parse::<usize>().expect("a number of lines");
    numbers.map(|number| line.replace(&format!("{{{count}}}"), &number.to_string())).collect()
}

/// The name of a tensor of OpenCLIP's, of which the list names a third of the rows (`….attn.in_proj_weight [1]`), or another order of the
/// dimensions.
fn in_one(name: String, shape: &mut [usize]) -> String {
    match name.split_once(' ') {
        Some((whole, "(transposed)")) => {
            shape.reverse();
            whole.to_string()
        }
        Some((whole, _)) => {
            shape[0] *= 3;
            whole.to_string()
        }
        None => name,
    }
}

#[test]
fn sd15_has_diffusers_names_and_shapes() {
    let networks = networks(&PipelineConfigs::sd1());
    let of = |parameters: &Parameters| shapes(&TensorReader::of(parameters, None));
    assert_eq!(of(networks.unet.parameters()), listed("unet_sd15.tsv").0);
    assert_eq!(of(networks.vae.parameters()), listed("vae.tsv").0);
    // The list leaves out the prefix that files write.
    let with_prefix = |(name, shape): (String, Vec<usize>)| (format!("text_model.{name}"), shape);
    let text_encoder: Shapes = listed("te_clip_l.tsv").0.into_iter().map(with_prefix).collect();
    assert_eq!(of(networks.text_encoders[0].parameters()), text_encoder);
}

#[test]
fn sd15_has_the_names_and_shapes_of_single_files() {
    let networks = networks(&PipelineConfigs::sd1());
    let found = networks.single_file(Family::Sd1);
    let lists = ["unet_sd15.tsv", "vae.tsv", "te_clip_l.tsv"].map(|name| listed(name).1);
    let expected: Shapes = lists.into_iter().flatten().collect();
    assert_eq!(found, expected);
}

#[test]
fn sd15_has_as_many_parameters_as_is_known() {
    // diffusers: sum(p.numel() for p in module.parameters())
    let networks = networks(&PipelineConfigs::sd1());
    assert_eq!(networks.unet.parameters().count(), 859_520_964);
    assert_eq!(networks.vae.parameters().count(), 83_653_863);
    assert_eq!(networks.text_encoders[0].parameters().count(), 123_060_480);
}

#[test]
fn sd21_has_diffusers_names_and_shapes() {
    let networks = networks(&PipelineConfigs::sd2(true));
    let of = |parameters: &Parameters| shapes(&TensorReader::of(parameters, None));
    assert_eq!(of(networks.unet.parameters()), listed("unet_sd21.tsv").0);
    let with_prefix = |(name, shape): (String, Vec<usize>)| (format!("text_model.{name}"), shape);
    let text_encoder: Shapes = listed("te_openclip_h_sd2.tsv").0.into_iter().map(with_prefix).collect();
    assert_eq!(of(networks.text_encoders[0].parameters()), text_encoder);
    assert_eq!(networks.unet.parameters().count(), 865_910_724);
    assert_eq!(networks.text_encoders[0].parameters().count(), 340_387_840);
}

#[test]
fn sd21_has_the_names_and_shapes_of_single_files() {
    let networks = networks(&PipelineConfigs::sd2(true));
    let found = networks.single_file(Family::Sd2);
    let mut expected: Shapes = ["unet_sd21.tsv", "vae.tsv"].into_iter().flat_map(|name| listed(name).1).collect();
    for (name, mut shape) in listed("te_openclip_h_sd2.tsv").1 {
        let name = in_one(name, &mut shape);
        // The last layer of OpenCLIP's, which files hold and SD2 does not use.
        if name.contains(".resblocks.22.") {
            expected.insert(name.replace(".22.", ".23."), shape.clone());
        }
        expected.insert(name, shape);
    }
    expected.insert("cond_stage_model.model.text_projection".into(), vec![1024, 1024]);
    expected.insert("cond_stage_model.model.logit_scale".into(), Vec::new());
    assert_eq!(found, expected);
}

#[test]
fn sd20_has_the_names_and_shapes_of_sd21() {
    // https://huggingface.co/stabilityai/stable-diffusion-2-base; 2.0 and 2.1 differ in what the first layers compute with.
    let networks = networks(&PipelineConfigs::sd2(false));
    assert_eq!(shapes(&TensorReader::of(networks.unet.parameters(), None)), listed("unet_sd21.tsv").0);
    assert_eq!(networks.unet.parameters().count(), 865_910_724);
}

#[test]
fn unets_for_inpainting_and_for_editing_differ_from_the_listed_ones_by_their_input_channels() {
    // https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-inpainting,
    // https://huggingface.co/stabilityai/stable-diffusion-2-inpainting,
    // https://huggingface.co/diffusers/stable-diffusion-xl-1.0-inpainting-0.1,
    // https://huggingface.co/timbrooks/instruct-pix2pix, https://huggingface.co/diffusers/sdxl-instructpix2pix-768
    for (family, list, channels, parameters) in [
        (Family::Sd1, "unet_sd15.tsv", 9, 859_535_364),
        (Family::Sd2, "unet_sd21.tsv", 9, 865_925_124),
        (Family::Sdxl, "unet_sdxl.tsv", 9, 2_567_478_084),
        (Family::Sd1, "unet_sd15.tsv", 8, 859_532_484),
        (Family::Sdxl, "unet_sdxl.tsv", 8, 2_567_475_204),
    ] {
        let mut configs = PipelineConfigs::released(family, false);
        configs.unet["in_channels"] = channels.into();
        let networks = networks(&configs);
        let unet = networks.unet.parameters();
        let wider = |mut shapes: Shapes, name: &str| {
            shapes.get_mut(name).expect("it is listed")[1] = channels;
            shapes
        };
        let (diffusers, original) = listed(list);
        assert_eq!(shapes(&TensorReader::of(unet, None)), wider(diffusers, "conv_in.weight"), "{list}");
        assert_eq!(unet.count(), parameters, "{list}");
        let mut single_file = networks.single_file(family);
        single_file.retain(|name, _| name.starts_with("model.diffusion_model."));
        assert_eq!(single_file, wider(original, "model.diffusion_model.input_blocks.0.0.weight"), "{list}");
    }
}

/// SD1's configurations with another text encoder.
fn sd1_with(text_encoder: serde_json::Value) -> Networks {
    networks(&PipelineConfigs { text_encoders: vec![text_encoder], ..PipelineConfigs::sd1() })
}

#[test]
fn taiyi_has_the_names_and_shapes_of_bert_in_both_forms() {
    // https://huggingface.co/IDEA-CCNL/Taiyi-Stable-Diffusion-1B-Chinese-v0.1
    let networks = sd1_with(serde_json::json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": 21128, "position_embedding_type": "absolute",
    }));
    let bert = networks.text_encoders[0].parameters();
    assert_eq!(shapes(&TensorReader::of(bert, None)), listed("te_taiyi_bert.tsv").0);
    assert_eq!(bert.count(), 102_267_648);
    let lists = ["unet_sd15.tsv", "vae.tsv", "te_taiyi_bert.tsv"].map(|name| listed(name).1);
    assert_eq!(networks.single_file(Family::Sd1), lists.into_iter().flatten().collect());
}

#[test]
fn clip_on_other_vocabularies_differs_by_the_rows_of_its_table_and_has_as_many_parameters_as_is_known() {
    // PAI-Diffusion on BERT's vocabulary, rinna's Japanese Stable Diffusion on a SentencePiece model.
    for (vocab_size, parameters) in [(21128, 101_341_440), (32000, 109_691_136)] {
        let mut text_encoder = PipelineConfigs::sd1().text_encoders.remove(0);
        text_encoder["vocab_size"] = vocab_size.into();
        let networks = sd1_with(text_encoder);
        let own = networks.text_encoders[0].parameters();
        assert_eq!(own.count(), parameters);
        let rows = |mut shapes: Shapes, table: &str| {
            shapes.get_mut(table).expect("it is listed")[0] = vocab_size;
            shapes
        };
        let (diffusers, original) = listed("te_clip_l.tsv");
        // The list leaves out the prefix that files write.
        let with_prefix = |(name, shape): (String, Vec<usize>)| (format!("text_model.{name}"), shape);
        let diffusers: Shapes =
            rows(diffusers, "embeddings.token_embedding.weight").into_iter().map(with_prefix).collect();
        assert_eq!(shapes(&TensorReader::of(own, None)), diffusers);
        let table = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight";
        let mut single_file = networks.single_file(Family::Sd1);
        single_file.retain(|name, _| name.starts_with("cond_stage_model."));
        assert_eq!(single_file, rows(original, table));
    }
}

#[test]
fn sdxl_has_diffusers_names_and_shapes() {
    let networks = networks(&PipelineConfigs::sdxl(false));
    let of = |parameters: &Parameters| shapes(&TensorReader::of(parameters, None));
    assert_eq!(of(networks.unet.parameters()), listed("unet_sdxl.tsv").0);
    let with_prefix = |(name, shape): (String, Vec<usize>)| (format!("text_model.{name}"), shape);
    let text_encoder: Shapes = listed("te_clip_l.tsv").0.into_iter().map(with_prefix).collect();
    assert_eq!(of(networks.text_encoders[0].parameters()), text_encoder);
    assert_eq!(of(networks.text_encoders[1].parameters()), listed("te_openclip_bigg_sdxl.tsv").0);
    // diffusers: sum(p.numel() for p in module.parameters())
    assert_eq!(networks.unet.parameters().count(), 2_567_463_684);
    assert_eq!(networks.text_encoders[1].parameters().count(), 694_659_840);
}

#[test]
fn sdxls_refiner_has_the_names_and_shapes_of_both_forms() {
    let networks = networks(&PipelineConfigs::sdxl_refiner(false));
    let of = |parameters: &Parameters| shapes(&TensorReader::of(parameters, None));
    assert_eq!(of(networks.unet.parameters()), listed("unet_sdxl_refiner.tsv").0);
    assert_eq!(of(networks.text_encoders[0].parameters()), listed("te_openclip_bigg_sdxl.tsv").0);
    assert_eq!(networks.unet.parameters().count(), 2_259_526_660);
    let mut expected: Shapes =
        ["unet_sdxl_refiner.tsv", "vae.tsv"].into_iter().flat_map(|name| listed(name).1).collect();
    for (name, mut shape) in listed("te_openclip_bigg_sdxl.tsv").1 {
        expected.insert(in_one(name, &mut shape).replace("embedders.1.", "embedders.0."), shape);
    }
    expected.insert("conditioner.embedders.0.model.logit_scale".into(), Vec::new());
    assert_eq!(networks.single_file(Family::SdxlRefiner), expected);
}

#[test]
fn sdxl_has_the_names_and_shapes_of_single_files() {
    let found = networks(&PipelineConfigs::sdxl(false)).single_file(Family::Sdxl);
    let mut expected: Shapes = ["unet_sdxl.tsv", "vae.tsv"].into_iter().flat_map(|name| listed(name).1).collect();
    for (name, shape) in listed("te_clip_l.tsv").1 {
        let inside = name.strip_prefix("cond_stage_model.").expect("the list is SD1's");
        expected.insert(format!("conditioner.embedders.0.{inside}"), shape);
    }
    for (name, mut shape) in listed("te_openclip_bigg_sdxl.tsv").1 {
        expected.insert(in_one(name, &mut shape), shape);
    }
    expected.insert("conditioner.embedders.1.model.logit_scale".into(), Vec::new());
    assert_eq!(found, expected);
}
