//! Which layers a LoRA is put beside, told from names and shapes alone: the engine's rule, for `check`.

use sdtrain_recipe::{AdapterKind, LoraConfig, matches_pattern};

use crate::initial_adapter::{Present, PresentAdapters};
use sdtrain_state_dict::architecture::Shapes;

/// Adapters of one network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Adapters {
    pub count: usize,
    /// How many of them come from `lora.initial`.
    pub of_file: usize,
    pub parameters: usize,
    /// How many of them lie in matrices, and not in kernels or vectors.
    pub in_matrices: usize,
    /// How many of them lie in tensors that begin as zeros.
    pub zeros: usize,
}

/// The adapters that `config` puts into the network called `part` (`unet` or `text_encoder`), beside those that are `present`.
pub(crate) fn adapters(
    config: &LoraConfig,
    part: &'static str,
    shapes: &Shapes,
    present: &PresentAdapters,
) -> Adapters {
    let mut adapters = Adapters::default();
    for (name, shape) in shapes {
        let Some(path) = name.strip_suffix(".weight").filter(|_| is_layer(name, shape)) else { continue };
        if let Some(Present { adapter, parameters }) = present.get(&(part, path.to_owned())) {
            adapters.count += 1;
            adapters.of_file += 1;
            adapters.parameters += parameters;
            // Of other kinds beside linear layers DoRA's lengths alone are none, and few.
            let are_matrices = shape.len() == 2 && adapter.kind != AdapterKind::Ia3;
            adapters.in_matrices += if are_matrices { *parameters } else { 0 };
            continue;
        }
        let kernel = shape.get(2).copied().unwrap_or(1);
        let Some((rank, _)) = config.adapter_beside(part, path, kernel) else { continue };
        let (full_path, has_bias) = (format!("{part}.{path}"), shapes.contains_key(&format!("{path}.bias")));
        adapters.count += 1;
        let numbers = config.kind.numbers(config, &full_path, rank as usize, shape, has_bias);
        adapters.parameters += numbers.all;
        adapters.in_matrices += numbers.in_matrices;
        adapters.zeros += numbers.zeros;
    }
    adapters
}

/// The patterns of `lora.targets` that match no layer of `networks`, each with the nearest path there is.
pub(crate) fn idle_targets<'a>(config: &'a LoraConfig, networks: &[(&str, &Shapes)]) -> Vec<&'a str> {
    let paths: Vec<String> = networks
        .iter()
        .flat_map(|(part, shapes)| {
            let layers = shapes.iter().filter(|(name, shape)| is_layer(name, shape));
            layers.filter_map(move |(name, _)| Some(format!("{part}.{}", name.strip_suffix(".weight")?)))
        })
        .collect();
    let is_idle = |pattern: &&str| !paths.iter().any(|path| matches_pattern(pattern, path));
    config.targets.iter().flatten().map(String::as_str).filter(is_idle).collect()
}

/// Linear layers and convolutions; embeddings are tables.
fn is_layer(name: &str, shape: &[usize]) -> bool {
    matches!(shape.len(), 2 | 4) && !name.contains("embeddings.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use sdtrain_state_dict::architecture;

    fn unet() -> Shapes {
        architecture::unet(&json!({
            "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768,
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        }))
        .expect("complete")
    }

    #[test]
    fn attention_and_feed_forward_of_sd15_have_160_linear_layers() {
        // 16 transformers with 8 matrices of attention and 2 of feed-forward each.
        assert_eq!(adapters(&LoraConfig::default(), "unet", &unet(), &PresentAdapters::new()).count, 160);
    }

    #[test]
    fn convolutions_have_their_own_rank() {
        let mut config =
            LoraConfig { targets: Some(vec!["unet.conv_in".to_owned()]), rank: 2, ..LoraConfig::default() };
        assert_eq!(
            adapters(&config, "unet", &unet(), &PresentAdapters::new()),
            Adapters { count: 1, of_file: 0, parameters: 2 * (4 * 9 + 320), in_matrices: 0, zeros: 2 * 320 }
        );
        config.targets = Some(Vec::new());
        config.convolutions = true;
        config.conv_rank = Some(1);
        // 22 residual blocks with two each, 3 that halve and 3 that double.
        assert_eq!(adapters(&config, "unet", &unet(), &PresentAdapters::new()).count, 50);
    }

    #[test]
    fn the_text_encoder_counts_only_when_it_is_trained() {
        let shapes = architecture::text_encoder(&json!({
            "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        }))
        .expect("complete");
        let mut config = LoraConfig::default();
        assert_eq!(adapters(&config, "text_encoder", &shapes, &PresentAdapters::new()).count, 0);
        config.train_text_encoder = true;
        assert_eq!(adapters(&config, "text_encoder", &shapes, &PresentAdapters::new()).count, 72);
    }
}
