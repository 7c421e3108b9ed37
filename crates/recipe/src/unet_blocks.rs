//! The UNet's blocks in one row, numbered as kohya's scripts number them.
//!
//! The original code counts all layers of a half in one list, with the resampling layers among them:
//! `input_blocks.0` … `middle_block` … `output_blocks.0` …. The number of a block is its place in that row:
//!
//! | number in SD1 | original name | diffusers' name |
//! |---|---|---|
//! | 0 | `input_blocks.0`, `time_embed` | `conv_in`, `time_embedding` |
//! | 1 + 3i + j | `input_blocks.(1 + 3i + j)` | `down_blocks.i.resnets.j`, `down_blocks.i.attentions.j` |
//! | 3 + 3i | `input_blocks.(3 + 3i)` | `down_blocks.i.downsamplers.0` |
//! | 12 | `middle_block` | `mid_block` |
//! | 13 + 3i + j | `output_blocks.(3i + j)` | `up_blocks.i.resnets.j`, `up_blocks.i.attentions.j` |
//! | 15 + 3i | `output_blocks.(3i + 2)` | `up_blocks.i.upsamplers.0` |
//! | 24 | `output_blocks.11`, `out` | `up_blocks.3.….2`, `conv_norm_out`, `conv_out` |
//!
//! (kohya-ss/sd-scripts, networks/lora.py, `get_block_index`; its LoRAs have nothing in block 0 and beside `out`.)

/// How many layers each level of a UNet has, from which every number follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnetBlocks {
    /// Residual layers of each down block (`layers_per_block`). Up blocks mirror them and have one more.
    layers: Vec<usize>,
}

impl UnetBlocks {
    /// SD1's: four levels of two layers, 25 blocks.
    pub fn sd1() -> UnetBlocks {
        UnetBlocks { layers: vec![2; 4] }
    }

    /// Reads the layers off diffusers' names of parameters or of layers.
    pub fn of_names<'n>(names: impl IntoIterator<Item = &'n str>) -> UnetBlocks {
        let mut layers: Vec<usize> = Vec::new();
        for name in names {
            let Some((block, "resnets", layer)) = name.strip_prefix("down_blocks.").and_then(place) else { continue };
            // No UNet comes near; a hostile name must not decide how much is allocated.
            if block.max(layer) < 1000 {
                layers.resize(layers.len().max(block + 1), 0);
                layers[block] = layers[block].max(layer + 1);
            }
        }
        UnetBlocks { layers }
    }

    /// Whether every level and layer has a place in the numbering of `other`.
    pub fn fits_into(&self, other: &UnetBlocks) -> bool {
        self.layers.len() <= other.layers.len()
            && self.layers.iter().zip(&other.layers).all(|(own, other)| own <= other)
    }

    /// Blocks of one half; of the down half this counts `conv_in`.
    pub fn half(&self) -> usize {
        self.layers.iter().map(|layers| layers + 1).sum()
    }

    /// How many blocks there are: 25 in SD1.
    pub fn count(&self) -> usize {
        2 * self.half() + 1
    }

    /// The number of the block that the parameter or layer `name` is part of; `name` is diffusers', without `unet.`.
    pub fn number_of(&self, name: &str) -> usize {
        if let Some((block, kind, layer)) = name.strip_prefix("down_blocks.").and_then(place) {
            let layers = self.layers.get(block).copied().unwrap_or_default();
            let start = 1 + self.layers.iter().take(block).map(|layers| layers + 1).sum::<usize>();
            return start + if kind == "downsamplers" { layers } else { layer };
        }
        if let Some((block, kind, layer)) = name.strip_prefix("up_blocks.").and_then(place) {
            let lengths = || self.layers.iter().rev().map(|layers| layers + 1);
            let start = self.half() + 1 + lengths().take(block).sum::<usize>();
            let last = lengths().nth(block).unwrap_or(1) - 1;
            return start + if kind == "upsamplers" { last } else { layer };
        }
        match name {
            name if name.starts_with("mid_block.") => self.half(),
            name if name.starts_with("conv_norm_out") || name.starts_with("conv_out") => self.count() - 1,
            _ => 0,
        }
    }
}

/// `1.attentions.0.proj_in` → `(1, "attentions", 0)`.
fn place(rest: &str) -> Option<(usize, &str, usize)> {
    let mut words = rest.split('.');
    Some((words.next()?.parse().ok()?, words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sd1() -> UnetBlocks {
        let names: Vec<String> =
            (0..4).flat_map(|i| (0..2).map(move |j| format!("down_blocks.{i}.resnets.{j}.conv1.weight"))).collect();
        UnetBlocks::of_names(names.iter().map(String::as_str))
    }

    #[test]
    fn sd1_has_kohyas_twelve_one_and_twelve() {
        let blocks = sd1();
        assert_eq!((blocks.half(), blocks.count()), (12, 25));
        for i in 0..4 {
            for j in 0..2 {
                for kind in ["resnets", "attentions"] {
                    assert_eq!(blocks.number_of(&format!("down_blocks.{i}.{kind}.{j}.x")), 1 + 3 * i + j);
                }
            }
            for j in 0..3 {
                for kind in ["resnets", "attentions"] {
                    assert_eq!(blocks.number_of(&format!("up_blocks.{i}.{kind}.{j}.x")), 13 + 3 * i + j);
                }
            }
        }
        for i in 0..3 {
            assert_eq!(blocks.number_of(&format!("down_blocks.{i}.downsamplers.0.conv.weight")), 3 + 3 * i);
            assert_eq!(blocks.number_of(&format!("up_blocks.{i}.upsamplers.0.conv.weight")), 15 + 3 * i);
        }
        for (name, number) in [
            ("conv_in.weight", 0),
            ("time_embedding.linear_1.bias", 0),
            ("mid_block.attentions.0.proj_in", 12),
            ("mid_block.resnets.1.conv2.weight", 12),
            ("conv_norm_out.bias", 24),
            ("conv_out.weight", 24),
        ] {
            assert_eq!(blocks.number_of(name), number, "{name}");
        }
    }

    #[test]
    fn other_depths_count_on_in_the_same_way() {
        let names = ["down_blocks.0.resnets.0.norm1.weight", "down_blocks.1.resnets.0.norm1.weight"];
        let blocks = UnetBlocks::of_names(names);
        assert_eq!((blocks.half(), blocks.count()), (4, 9));
        assert_eq!(blocks.number_of("down_blocks.0.downsamplers.0.conv.weight"), 2);
        assert_eq!(blocks.number_of("down_blocks.1.resnets.0.norm1.weight"), 3);
        assert_eq!(blocks.number_of("up_blocks.0.resnets.1.norm1.weight"), 6);
        assert_eq!(blocks.number_of("up_blocks.0.upsamplers.0.conv.weight"), 6);
        assert_eq!(blocks.number_of("up_blocks.1.resnets.0.norm1.weight"), 7);
        assert_eq!(blocks.number_of("conv_out.weight"), 8);
    }
}
