//! A ControlNet: what it is made of, and what of it does not fit its configuration.

use sdtrain_state_dict::{ControlNet, Error, Reader};
use serde_json::{Map, json};

use super::Description;
use crate::commands::check::millions;

/// Its parts, by what their names begin with under diffusers' naming; the first that fits counts.
const PARTS: [(&str, &str); 4] = [
    ("control_image", "controlnet_cond_embedding."),
    ("zero_convolutions", "controlnet_"),
    ("mid_block", "mid_block."),
    ("unet_half", ""),
];

pub(super) fn describe<R: Reader>(found: Result<ControlNet<R>, Error>, description: &mut Description) {
    let found = match found {
        Ok(found) => found,
        Err(error) => return description.fact("does_not_fit", "does not fit", error.to_string()),
    };
    let names = found.network.names();
    let part_of = |name: &str| PARTS.iter().position(|(_, prefix)| name.starts_with(prefix));
    let mut parts = Map::new();
    for (index, (part, _)) in PARTS.iter().enumerate() {
        let own: Vec<&str> = names.iter().copied().filter(|name| part_of(name) == Some(index)).collect();
        let parameters: usize =
            own.iter().filter_map(|name| found.network.info(name)).map(|info| info.elements()).sum();
        description
            .line(&part.replace('_', " "), format!("{} tensors, {} parameters", own.len(), millions(parameters)));
        parts.insert((*part).to_owned(), json!({"tensor_count": own.len(), "parameters": parameters}));
    }
    description.data("parts", parts);
    if !found.others.is_empty() {
        description.line("beside it", format!("{} tensors", found.others.len()));
    }
    description.data("tensors_beside", found.others.len());
    match found.report() {
        Ok(report) if report.is_clean() => {
            description.line("fits", format!("all {} names and shapes are those of its configuration", names.len()));
        }
        Ok(report) => description.fact("does_not_fit", "does not fit", report.to_string()),
        Err(error) => description.fact("does_not_fit", "does not fit", error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use sdtrain_state_dict::architecture::control_net;
    use sdtrain_state_dict::{ControlNet, Dtype, SafetensorsFile, TensorEntry, write_to};
    use serde_json::json;

    use super::{Description, describe};

    #[test]
    fn the_parts_are_counted_and_what_does_not_fit_is_named() {
        let config = json!({
            "block_out_channels": [8], "cross_attention_dim": 8, "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"], "conditioning_embedding_out_channels": [4, 8],
        });
        let tensors: Vec<TensorEntry> = control_net(&config)
            .expect("complete")
            .into_iter()
            .map(|(name, shape)| {
                let bytes = vec![0; shape.iter().product::<usize>() * 4];
                TensorEntry { name, dtype: Dtype::F32, shape, bytes }
            })
            .collect();
        let described = |tensors: &[TensorEntry]| {
            let mut content = Vec::new();
            write_to(&mut content, tensors, &Default::default()).expect("memory");
            let file = SafetensorsFile::from_bytes(content, "memory").expect("it was just written");
            let mut description = Description::default();
            describe(ControlNet::new(file, config.clone()), &mut description);
            description
        };
        let whole = described(&tensors);
        // conv_in, two of `blocks`, conv_out; zero convolutions behind the first convolution, the layer and the middle.
        assert_eq!(whole.json["parts"]["control_image"]["tensor_count"], 8);
        assert_eq!(whole.json["parts"]["zero_convolutions"]["tensor_count"], 6);
        assert!(whole.json.get("does_not_fit").is_none());
        assert!(whole.as_lines().contains("names and shapes are those of its configuration"), "{}", whole.as_lines());
        let lacking = described(&tensors[1..]).as_lines();
        assert!(lacking.contains("does not fit") && lacking.contains(&tensors[0].name), "{lacking}");
    }
}
