//! ControlNets of every family at their full size, in every form that their files have.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sdtrain_state_dict::maps::control_net::{ControlNetLayout, control_net_to_ldm, ldm_to_control_net};
use sdtrain_state_dict::{
    ControlNet, Dtype, Family, FileKind, Reader, Result, TensorInfo, is_control_net_folder, recognise,
    recognise_with_reason,
};

use crate::fixtures::{Row, keys};

/// Names and shapes without numbers.
#[derive(Clone, Default)]
struct Listed {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Listed {
    fn of<'n>(tensors: impl IntoIterator<Item = (&'n str, &'n [usize])>) -> Listed {
        let tensor = |(name, shape): (&str, &[usize])| {
            (name.to_string(), TensorInfo { dtype: Dtype::F16, shape: shape.to_vec() })
        };
        Listed { tensors: tensors.into_iter().map(tensor).collect(), metadata: BTreeMap::new() }
    }

    fn parameters(&self) -> usize {
        self.tensors.values().map(TensorInfo::elements).sum()
    }
}

impl Reader for Listed {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    fn bytes(&self, _: &str) -> Result<Cow<'_, [u8]>> {
        panic!("nothing is read")
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn path(&self) -> &Path {
        Path::new("listed")
    }
}

/// A ControlNet's own layers, and those of its UNet's first half under its prefix.
fn rows(own: &str, unet: &str) -> Vec<Row> {
    let first_half =
        |row: &Row| !["up_blocks.", "conv_norm_out.", "conv_out."].iter().any(|it| row.name.starts_with(it));
    let of_unet = keys(unet)
        .into_iter()
        .filter(first_half)
        .map(|row| Row { original: row.original.replace("model.diffusion_model.", "control_model."), ..row });
    keys(&format!("../control_net/{own}")).into_iter().chain(of_unet).collect()
}

fn by_name(rows: &[Row]) -> Listed {
    Listed::of(rows.iter().map(|row| (row.name.as_str(), row.shape.as_slice())))
}

fn by_original(rows: &[Row]) -> Listed {
    Listed::of(rows.iter().map(|row| (row.original.as_str(), row.original_shape.as_slice())))
}

#[test]
fn the_released_ones_have_the_names_shapes_and_counts_of_diffusers_in_every_form() {
    // diffusers: sum(p.numel() for p in ControlNetModel(...).parameters())
    for (family, own, unet, tensors, parameters) in [
        (Family::Sd1, "sd1.tsv", "unet_sd15.tsv", 340, 361_279_120),
        (Family::Sd2, "sd1.tsv", "unet_sd21.tsv", 340, 364_228_240),
        (Family::Sdxl, "sdxl.tsv", "unet_sdxl.tsv", 844, 1_251_014_160),
    ] {
        let rows = rows(own, unet);
        let (named, original) = (by_name(&rows), by_original(&rows));
        assert_eq!((named.tensors.len(), named.parameters()), (tensors, parameters), "{own}");
        let bare = original.tensors.iter().map(|(name, info)| {
            let bare = name.strip_prefix("control_model.").expect("every one has it");
            (bare, info.shape.as_slice())
        });
        let bare = Listed::of(bare);
        for (file, diffusers) in [(&named, true), (&original, false), (&bare, false)] {
            let kind = recognise(file);
            assert_eq!(kind, FileKind::ControlNet { family: Some(family), diffusers, with_model: false });
            assert!(!kind.is_model() && kind.family().is_none(), "it is no whole model");
            let found = ControlNet::of_file(file).expect("its family is seen");
            let report = found.report().expect("a released one");
            assert!(report.is_clean(), "{report}");
            assert_eq!(found.network.names(), named.names());
            assert!(found.unknown.is_empty() && found.others.is_empty());
            let back = found.to_ldm().expect("every tensor has its place");
            assert_eq!(back.names(), original.names());
            for name in back.names() {
                assert_eq!(back.info(name), original.info(name), "{name}");
            }
        }
    }
}

#[test]
fn every_name_maps_both_ways() {
    let rows = rows("sd1.tsv", "unet_sd15.tsv");
    let original = |row: &Row| row.original.strip_prefix("control_model.").expect("every one has it").to_string();
    let originals: Vec<String> = rows.iter().map(original).collect();
    let layout = ControlNetLayout::from_diffusers_names(rows.iter().map(|row| row.name.as_str())).unwrap();
    assert_eq!((&layout.unet.layers[..], layout.inner_convolutions), (&[2, 2, 2, 2][..], 6));
    assert_eq!(ControlNetLayout::from_ldm_names(originals.iter().map(String::as_str)).unwrap(), layout);
    for (row, original) in rows.iter().zip(&originals) {
        assert_eq!(control_net_to_ldm(&row.name, &layout).as_ref(), Some(original));
        assert_eq!(ldm_to_control_net(original, &layout).as_ref(), Some(&row.name));
    }
    assert_eq!(originals.iter().collect::<BTreeSet<_>>().len(), 340);
    for foreign in [
        "up_blocks.0.resnets.0.conv1.weight",
        "conv_out.weight",
        "controlnet_cond_embedding.blocks.6.weight",
        "controlnet_cond_embedding.blocks.18446744073709551615.weight",
        "controlnet_cond_embedding.conv.weight",
        "controlnet_down_blocks.x.weight",
    ] {
        assert_eq!(control_net_to_ldm(foreign, &layout), None, "{foreign}");
    }
    for foreign in [
        "output_blocks.0.0.in_layers.0.weight",
        "out.2.weight",
        "input_hint_block.1.weight",
        "input_hint_block.16.weight",
        "zero_convs.0.1.weight",
        "zero_convs.0.weight",
    ] {
        assert_eq!(ldm_to_control_net(foreign, &layout), None, "{foreign}");
    }
}

#[test]
fn the_reason_names_what_shows_that_it_is_one_and_of_which_family() {
    let rows = rows("sd1.tsv", "unet_sd21.tsv");
    let (kind, reason) = recognise_with_reason(&by_original(&rows));
    assert_eq!(kind.to_string(), "ControlNet of the SD2 family");
    let context = "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    assert_eq!(reason, format!("it has `control_model.time_embed.0.weight` [1280, 320], and `{context}` [320, 1024]"));
    let (kind, reason) = recognise_with_reason(&by_name(&rows));
    assert_eq!(kind.to_string(), "diffusers ControlNet of the SD2 family");
    assert!(
        reason.starts_with("it has `controlnet_cond_embedding.conv_in.weight` [16, 3, 3, 3], and `down_"),
        "{reason}"
    );
    // One for SDXL without attention.
    let small: [(&str, &[usize]); 2] =
        [("controlnet_cond_embedding.conv_in.weight", &[16, 3, 3, 3]), ("add_embedding.linear_1.weight", &[8, 2816])];
    let kind = recognise(&Listed::of(small));
    assert_eq!(kind, FileKind::ControlNet { family: Some(Family::Sdxl), diffusers: true, with_model: false });
}

#[test]
fn a_whole_model_beside_it_is_told_from_it() {
    let mut file = by_original(&rows("sd1.tsv", "unet_sd15.tsv"));
    let beside = by_original(&keys("unet_sd15.tsv"));
    file.tensors.extend(beside.tensors.clone());
    let kind = recognise(&file);
    assert_eq!(kind.to_string(), "ControlNet of the SD1 family in one file with a whole model");
    let found = ControlNet::of_file(&file).expect("its family is seen");
    assert!(found.report().expect("a released one").is_clean());
    assert_eq!(found.others, beside.names());
}

#[test]
fn what_does_not_fit_is_reported_with_what_has_no_place() {
    let mut file = by_original(&rows("sd1.tsv", "unet_sd15.tsv"));
    let info = file.tensors.remove("control_model.middle_block_out.0.bias").expect("listed");
    file.tensors.insert("control_model.zero_convs.0.1.bias".to_string(), info);
    let report = ControlNet::of_file(&file).expect("its family is seen").report().expect("a released one");
    assert_eq!(report.missing, [("controlnet_mid_block.bias".to_string(), vec![1280])]);
    assert_eq!(report.unexpected, ["control_model.zero_convs.0.1.bias"]);
    // As many channels of latents and of the image as it takes, not as the release has.
    let mut wider = by_original(&rows("sd1.tsv", "unet_sd15.tsv"));
    wider.tensors.get_mut("control_model.input_hint_block.0.weight").expect("listed").shape[1] = 6;
    let found = ControlNet::of_file(&wider).expect("its family is seen");
    assert_eq!(found.config["conditioning_channels"], 6);
    assert!(found.report().expect("sizes").is_clean());
}

#[test]
fn what_is_none_is_refused() {
    let refused = |tensors: &[(&str, &[usize])]| {
        let file = Listed::of(tensors.iter().copied());
        ControlNet::of_file(&file).err().expect("it is refused").to_string()
    };
    let first: (&str, &[usize]) = ("input_hint_block.0.weight", &[16, 3, 3, 3]);
    assert!(refused(&[first]).contains("holds no ControlNet"));
    let hostile: (&str, &[usize]) = ("input_hint_block.18446744073709551615.weight", &[1]);
    let block: (&str, &[usize]) = ("input_blocks.1.0.in_layers.0.bias", &[8]);
    assert!(refused(&[first, hostile, block]).contains("holds no ControlNet"));
    let last: (&str, &[usize]) = ("input_hint_block.2.weight", &[8, 16, 3, 3]);
    let said = refused(&[first, last, block]);
    assert!(said.contains("carries no configuration, and none of its tensors shows its family"), "{said}");
    for (mark, what) in
        [("difference", "holds differences from a model's weights"), ("lora_controlnet", "Control-LoRA")]
    {
        let mut file = by_original(&rows("sd1.tsv", "unet_sd15.tsv"));
        file.tensors.insert(mark.to_string(), TensorInfo { dtype: Dtype::F16, shape: Vec::new() });
        let said = ControlNet::of_file(&file).err().expect("it is refused").to_string();
        assert!(said.contains(what) && said.contains("not supported"), "{said}");
    }
    let mut file = by_name(&rows("sd1.tsv", "unet_sd15.tsv"));
    file.metadata.insert("sdtrain.control_net".to_string(), "{".to_string());
    let said = ControlNet::of_file(&file).err().expect("it is refused").to_string();
    assert!(said.contains("broken metadata `sdtrain.control_net`"), "{said}");
}

#[test]
fn a_folder_is_told_by_its_class_and_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!is_control_net_folder(folder.path()));
    std::fs::write(folder.path().join("config.json"), r#"{"_class_name": "ControlNetModel"}"#).unwrap();
    assert!(is_control_net_folder(folder.path()));
    let said = Family::of_folder(folder.path()).unwrap_err().to_string();
    assert!(said.contains("is a ControlNet and no whole model"), "{said}");
}
