//! Each network is found under this program's names in every kind of file.

use sdtrain_state_dict::{Dtype, Reader, canonical_text_encoder, canonical_unet, canonical_vae};

use crate::fixtures::{Row, entry, in_memory, keys, shrunk};

fn forms(rows: &[Row], prefix: &str) -> [Vec<(String, Vec<usize>)>; 3] {
    let form = |name: &dyn Fn(&Row) -> (String, Vec<usize>)| rows.iter().map(name).collect::<Vec<_>>();
    [
        form(&|row| (row.name.clone(), row.shape.clone())),
        form(&|row| (row.original.clone(), row.original_shape.clone())),
        form(&|row| (row.original.strip_prefix(prefix).unwrap().to_string(), row.original_shape.clone())),
    ]
}

fn file(form: &[(String, Vec<usize>)]) -> std::sync::Arc<dyn Reader> {
    shrunk(form.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())))
}

fn check(reader: &dyn Reader, rows: &[Row], prefix: &str) {
    assert_eq!(reader.names().len(), rows.len());
    for row in rows {
        let info = reader.info(&format!("{prefix}{}", row.name)).expect(&row.name);
        assert_eq!(info.shape.len(), row.shape.len(), "{}", row.name);
    }
}

#[test]
fn networks_are_found_in_files_of_every_naming() {
    let unet = keys("unet_sd15.tsv");
    for form in forms(&unet, "model.diffusion_model.") {
        check(&canonical_unet(file(&form)).unwrap(), &unet, "");
    }
    let vae = keys("vae.tsv");
    for form in forms(&vae, "first_stage_model.") {
        check(&canonical_vae(file(&form)).unwrap(), &vae, "");
    }
    let text_encoder = keys("te_clip_l.tsv");
    for form in forms(&text_encoder, "cond_stage_model.transformer.") {
        check(&canonical_text_encoder(file(&form)).unwrap(), &text_encoder, "text_model.");
    }
}

#[test]
fn old_attention_names_and_shapes_are_brought_up_to_date() {
    let old = in_memory(&[
        entry("encoder.down_blocks.0.resnets.0.norm1.weight", Dtype::F32, &[4]),
        entry("encoder.mid_block.attentions.0.query.weight", Dtype::F32, &[4, 4]),
        entry("decoder.mid_block.attentions.0.proj_attn.weight", Dtype::F32, &[4, 4, 1, 1]),
    ]);
    let vae = canonical_vae(old).unwrap();
    assert_eq!(vae.info("encoder.mid_block.attentions.0.to_q.weight").unwrap().shape, [4, 4]);
    assert_eq!(vae.info("decoder.mid_block.attentions.0.to_out.0.weight").unwrap().shape, [4, 4]);
}

#[test]
fn a_file_without_the_network_is_refused() {
    let other = || in_memory(&[entry("layer.weight", Dtype::F32, &[4])]);
    let messages = [
        canonical_unet(other()).err().expect("refused").to_string(),
        canonical_vae(other()).err().expect("refused").to_string(),
        canonical_text_encoder(other()).err().expect("refused").to_string(),
    ];
    for (message, network) in messages.iter().zip(["UNet", "VAE", "text encoder"]) {
        assert!(message.starts_with(&format!("`memory.safetensors` holds no {network}")), "{message}");
    }
}
