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
//!
//! For SDXL its scripts count otherwise (`sdxl_train.py --block_lr`, and the same function): what lies outside of the three lists
//! has places of its own, and so has each layer in the middle. That makes 23:
//!
//! | number in SDXL | original name | diffusers' name |
//! |---|---|---|
//! | 0 | `time_embed`, `label_emb` | `time_embedding`, `add_embedding` |
//! | 1 + n | `input_blocks.n`, 0 to 8 | `conv_in`, `down_blocks` |
//! | 10, 11, 12 | `middle_block.0`, `.1`, `.2` | `mid_block.resnets.0`, `mid_block.attentions.0`, `mid_block.resnets.1` |
//! | 13 + n | `output_blocks.n`, 0 to 8 | `up_blocks` |
//! | 22 | `out` | `conv_norm_out`, `conv_out` |

/// How many layers each level of a UNet has, from which every number follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnetBlocks {
    /// Residual layers of each down block (`layers_per_block`). Up blocks mirror them and have one more.
    layers: Vec<usize>,
    /// Whether the UNet has an embedding of sizes beside that of the timestep, as SDXL's.
    embeds_sizes: bool,
    /// What has a number of its own.
    counting: Counting,
}

/// What has a number of its own beside the layers of both halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// The middle; the embeddings are counted with `conv_in`, and `conv_out` with the last layer.
    Sd1,
    /// The embeddings, each layer in the middle, and `conv_out`.
    Sdxl,
}

impl UnetBlocks {
    /// SD1's: four levels of two layers, 25 blocks.
    pub fn sd1() -> UnetBlocks {
        UnetBlocks { layers: vec![2; 4], embeds_sizes: false, counting: Counting::Sd1 }
    }

    /// SDXL's, as kohya's scripts count them: three levels of two layers, 23 blocks.
    pub fn sdxl() -> UnetBlocks {
        UnetBlocks { layers: vec![2; 3], embeds_sizes: true, counting: Counting::Sdxl }
    }

    /// Reads the layers off diffusers' names of parameters or of layers.
    pub fn of_names<'n>(names: impl IntoIterator<Item = &'n str>) -> UnetBlocks {
        let mut layers: Vec<usize> = Vec::new();
        let mut embeds_sizes = false;
        for name in names {
            embeds_sizes |= name.starts_with("add_embedding.");
            let Some((block, "resnets", layer)) = name.strip_prefix("down_blocks.").and_then(place) else { continue };
            // No UNet comes near; a hostile name must not decide how much is allocated.
            if block.max(layer) < 1000 {
                layers.resize(layers.len().max(block + 1), 0);
                layers[block] = layers[block].max(layer + 1);
            }
        }
        UnetBlocks { layers, embeds_sizes, counting: Counting::Sd1 }
    }

    /// Whether every level and layer has a place in the numbering of `other`; SDXL's is for UNets of its family alone.
    pub fn fits_into(&self, other: &UnetBlocks) -> bool {
        (self.embeds_sizes || other.counting == Counting::Sd1)
            && self.layers.len() <= other.layers.len()
            && self.layers.iter().zip(&other.layers).all(|(own, other)| own <= other)
    }

    /// Blocks of one half; of the down half this counts `conv_in`.
    pub fn half(&self) -> usize {
        self.layers.iter().map(|layers| layers + 1).sum()
    }

    /// How many blocks there are: 25 in SD1.
    pub fn count(&self) -> usize {
        2 * self.half()
            + match self.counting {
                Counting::Sd1 => 1,
                Counting::Sdxl => 5,
            }
    }

    /// The number of the block that the parameter or layer `name` is part of; `name` is diffusers', without `unet.`.
    pub fn number_of(&self, name: &str) -> usize {
        // Of `conv_in`, of the first in the middle, and of the first in the up half.
        let (conv_in, middle, up) = match self.counting {
            Counting::Sd1 => (0, self.half(), self.half() + 1),
            Counting::Sdxl => (1, self.half() + 1, self.half() + 4),
        };
        if let Some((block, kind, layer)) = name.strip_prefix("down_blocks.").and_then(place) {
            let layers = self.layers.get(block).copied().unwrap_or_default();
            let start = conv_in + 1 + self.layers.iter().take(block).map(|layers| layers + 1).sum::<usize>();
            return start + if kind == "downsamplers" { layers } else { layer };
        }
        if let Some((block, kind, layer)) = name.strip_prefix("up_blocks.").and_then(place) {
            let lengths = || self.layers.iter().rev().map(|layers| layers + 1);
            let start = up + lengths().take(block).sum::<usize>();
            let last = lengths().nth(block).unwrap_or(1) - 1;
            return start + if kind == "upsamplers" { last } else { layer };
        }
        match (self.counting, name) {
            (Counting::Sdxl, name) if name.starts_with("mid_block.attentions.") => middle + 1,
            (Counting::Sdxl, name) if name.starts_with("mid_block.resnets.1.") => middle + 2,
            (_, name) if name.starts_with("mid_block.") => middle,
            (_, name) if name.starts_with("conv_norm_out") || name.starts_with("conv_out") => self.count() - 1,
            (_, name) if name.starts_with("conv_in") => conv_in,
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

    #[test]
    fn sdxl_has_kohyas_twenty_three_for_every_parameter_by_its_original_name() {
        let text = sdtrain_test_support::key_list("unet_sdxl.tsv");
        let rows = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let rows: Vec<(&str, &str)> =
            rows.map(|row| (row[0], row[2].trim_start_matches("model.diffusion_model."))).collect();
        let own = UnetBlocks::of_names(rows.iter().map(|(name, _)| *name));
        let blocks = UnetBlocks::sdxl();
        assert!(own.fits_into(&blocks));
        assert_eq!((own.count(), blocks.half(), blocks.count()), (19, 9, 23));
        let mut found = std::collections::BTreeSet::new();
        for (name, original) in rows {
            let mut words = original.split('.');
            let (first, number) =
                (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse::<usize>().ok()));
            let expected = match (first, number) {
                ("time_embed" | "label_emb", _) => 0,
                ("input_blocks", Some(number)) => 1 + number,
                ("middle_block", Some(number)) => 10 + number,
                ("output_blocks", Some(number)) => 13 + number,
                ("out", _) => 22,
                _ => panic!("{original}"),
            };
            assert_eq!(blocks.number_of(name), expected, "{name}");
            found.insert(expected);
        }
        assert_eq!(found.len(), 23, "none is empty");
    }

    #[test]
    fn sdxls_numbers_are_for_its_family_alone() {
        assert!(!sd1().fits_into(&UnetBlocks::sdxl()));
        let small = UnetBlocks::of_names(["down_blocks.0.resnets.1.x"]);
        assert!(!small.fits_into(&UnetBlocks::sdxl()) && small.fits_into(&UnetBlocks::sd1()));
        let of_refiner = UnetBlocks::of_names(["down_blocks.3.resnets.1.x", "add_embedding.linear_1.weight"]);
        assert!(!of_refiner.fits_into(&UnetBlocks::sdxl()), "it has four levels");
        let smaller = UnetBlocks::of_names(["down_blocks.1.resnets.0.x", "add_embedding.linear_1.weight"]);
        assert!(smaller.fits_into(&UnetBlocks::sdxl()));
    }
}
