//! The tensors that adapters of the LoRA family are made of, and what each form of file calls them.

/// What a tensor of an adapter is. Sizes are those beside a weight of `outputs × inputs`; for a convolution `inputs`
/// stands for inputs × kernel × kernel, unless there is a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LoraTensor {
    /// LoRA: the matrix that is applied first: rank × inputs (PEFT's A).
    Down,
    /// LoRA: the matrix that is applied second: outputs × rank (PEFT's B).
    Up,
    /// LoRA: the core of a convolution between them: rank × rank × kernel × kernel.
    Mid,
    /// The scalar that sets the scale, alpha/rank.
    Alpha,
    /// DoRA: the length of each row (or column) of the weight.
    Magnitude,
    /// LoHa: outputs × rank; rank × outputs with a core.
    HadaW1A,
    /// LoHa: rank × inputs.
    HadaW1B,
    /// LoHa: outputs × rank; rank × outputs with a core.
    HadaW2A,
    /// LoHa: rank × inputs.
    HadaW2B,
    /// LoHa: core of the first half of a convolution: rank × rank × kernel × kernel.
    HadaT1,
    /// LoHa: core of the second half.
    HadaT2,
    /// LoKr: the small factor.
    LokrW1,
    /// LoKr: left half of the small factor.
    LokrW1A,
    /// LoKr: right half of the small factor.
    LokrW1B,
    /// LoKr: the large factor.
    LokrW2,
    /// LoKr: left half of the large factor.
    LokrW2A,
    /// LoKr: right half of the large factor.
    LokrW2B,
    /// LoKr: core of the large factor of a convolution.
    LokrT2,
    /// The change of the whole weight.
    Diff,
    /// The change of the bias.
    DiffBias,
    /// (IA)³ as LyCORIS has it: by what share each channel grows; 0 changes nothing.
    Ia3Growth,
    /// (IA)³ as LyCORIS has it: 1 when the channels are those of the input.
    Ia3OnInput,
    /// (IA)³ as PEFT has it: by what each channel is multiplied; 1 changes nothing.
    Ia3Factor,
}

/// The names of one tensor, behind the name of its layer.
struct Names {
    tensor: LoraTensor,
    /// Behind kohya's names of layers, as kohya's scripts and LyCORIS have it.
    kohya: Option<&'static str>,
    /// Behind dotted paths: the one that is written, and older ones. The first of a tensor that PEFT does not know is
    /// ours, for traces.
    dotted: &'static [&'static str],
}

const fn names(tensor: LoraTensor, kohya: &'static str, dotted: &'static [&'static str]) -> Names {
    Names { tensor, kohya: Some(kohya), dotted }
}

const NAMES: [Names; 23] = [
    names(
        LoraTensor::Down,
        ".lora_down.weight",
        &[".lora_A.weight", ".lora.down.weight", ".lora_linear_layer.down.weight"],
    ),
    names(LoraTensor::Up, ".lora_up.weight", &[".lora_B.weight", ".lora.up.weight", ".lora_linear_layer.up.weight"]),
    names(LoraTensor::Mid, ".lora_mid.weight", &[".lora_mid.weight"]),
    names(LoraTensor::Alpha, ".alpha", &[".alpha"]),
    names(
        LoraTensor::Magnitude,
        ".dora_scale",
        &[".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".dora_scale"],
    ),
    names(LoraTensor::HadaW1A, ".hada_w1_a", &[".hada_w1_a"]),
    names(LoraTensor::HadaW1B, ".hada_w1_b", &[".hada_w1_b"]),
    names(LoraTensor::HadaW2A, ".hada_w2_a", &[".hada_w2_a"]),
    names(LoraTensor::HadaW2B, ".hada_w2_b", &[".hada_w2_b"]),
    names(LoraTensor::HadaT1, ".hada_t1", &[".hada_t1"]),
    names(LoraTensor::HadaT2, ".hada_t2", &[".hada_t2"]),
    names(LoraTensor::LokrW1, ".lokr_w1", &[".lokr_w1"]),
    names(LoraTensor::LokrW1A, ".lokr_w1_a", &[".lokr_w1_a"]),
    names(LoraTensor::LokrW1B, ".lokr_w1_b", &[".lokr_w1_b"]),
    names(LoraTensor::LokrW2, ".lokr_w2", &[".lokr_w2"]),
    names(LoraTensor::LokrW2A, ".lokr_w2_a", &[".lokr_w2_a"]),
    names(LoraTensor::LokrW2B, ".lokr_w2_b", &[".lokr_w2_b"]),
    names(LoraTensor::LokrT2, ".lokr_t2", &[".lokr_t2"]),
    names(LoraTensor::Diff, ".diff", &[".diff"]),
    names(LoraTensor::DiffBias, ".diff_b", &[".diff_b"]),
    // Behind a dotted path `.weight` would be the layer's own.
    names(LoraTensor::Ia3Growth, ".weight", &[".ia3_growth"]),
    names(LoraTensor::Ia3OnInput, ".on_input", &[".on_input"]),
    Names { tensor: LoraTensor::Ia3Factor, kohya: None, dotted: &[".ia3_l"] },
];

impl LoraTensor {
    /// What stands behind kohya's name of the layer; none for a tensor that this form has no place for.
    pub fn kohya_suffix(self) -> Option<&'static str> {
        self.names().kohya
    }

    /// What stands behind the dotted path of the layer: PEFT's, or ours where PEFT has no such tensor.
    pub fn dotted_suffix(self) -> &'static str {
        self.names().dotted[0]
    }

    fn names(self) -> &'static Names {
        NAMES.iter().find(|row| row.tensor == self).expect("every tensor has a row")
    }

    /// The layer's name and the tensor behind it, of a name of kohya's form.
    pub fn split_kohya(name: &str) -> Option<(&str, LoraTensor)> {
        NAMES.iter().find_map(|row| Some((name.strip_suffix(row.kohya?)?, row.tensor)))
    }

    /// The layer's path and the tensor behind it, of a dotted name of any age.
    pub fn split_dotted(name: &str) -> Option<(&str, LoraTensor)> {
        NAMES.iter().find_map(|row| {
            let layer = row.dotted.iter().find_map(|suffix| name.strip_suffix(suffix))?;
            (!layer.is_empty()).then_some((layer, row.tensor))
        })
    }

    /// The rank of the adapter, if this tensor's `shape` tells it.
    pub fn rank(self, shape: &[usize]) -> Option<usize> {
        use LoraTensor::{Down, HadaW1B, LokrW1B, LokrW2B};
        matches!(self, Down | HadaW1B | LokrW1B | LokrW2B).then(|| shape.first().copied()).flatten()
    }

    /// The inputs of the linear layer beside the adapter, if this tensor's `shape` tells them.
    pub fn inputs(self, shape: &[usize]) -> Option<usize> {
        use LoraTensor::{Diff, Down, HadaW1B, HadaW2B};
        matches!(self, Down | HadaW1B | HadaW2B | Diff).then(|| shape.get(1).copied()).flatten()
    }

    /// The kind of adapter that this tensor shows, if only one has it.
    fn kind(self) -> Option<LoraKind> {
        Some(match self {
            LoraTensor::Down | LoraTensor::Up | LoraTensor::Mid => LoraKind::Lora,
            LoraTensor::HadaW1A | LoraTensor::HadaW1B | LoraTensor::HadaW2A | LoraTensor::HadaW2B => LoraKind::Loha,
            LoraTensor::HadaT1 | LoraTensor::HadaT2 => LoraKind::Loha,
            LoraTensor::LokrW1 | LoraTensor::LokrW1A | LoraTensor::LokrW1B => LoraKind::Lokr,
            LoraTensor::LokrW2 | LoraTensor::LokrW2A | LoraTensor::LokrW2B | LoraTensor::LokrT2 => LoraKind::Lokr,
            LoraTensor::Diff | LoraTensor::DiffBias => LoraKind::Full,
            LoraTensor::Ia3Growth | LoraTensor::Ia3OnInput | LoraTensor::Ia3Factor => LoraKind::Ia3,
            LoraTensor::Magnitude => LoraKind::Dora,
            LoraTensor::Alpha => return None,
        })
    }
}

/// The alpha that counts where a file has `stored` for an adapter of `rank`; nothing where that is no number. 0 stands for the rank, which
/// scales by 1 (kohya-ss/sd-scripts, networks/lora.py: "if alpha == 0 or None, alpha is rank").
pub fn alpha_that_counts(stored: f64, rank: f64) -> Option<f64> {
    match stored {
        0.0 => Some(rank),
        _ => Some(stored).filter(|alpha| alpha.is_finite()),
    }
}

/// The kinds of adapters that files are told apart by. The order is that of precedence: what a layer has of the last
/// one names it, so that a LoRA with magnitudes is a DoRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoraKind {
    /// Low rank: `B·A` (arXiv:2106.09685).
    Lora,
    /// The whole difference of each weight.
    Full,
    /// (IA)³: channels scaled by learned vectors (arXiv:2205.05638).
    Ia3,
    /// Hadamard product of two low-rank matrices (arXiv:2108.06098).
    Loha,
    /// Kronecker product (arXiv:2212.10650).
    Lokr,
    /// Magnitude and direction apart (arXiv:2402.09353).
    Dora,
}

impl LoraKind {
    /// The kind of an adapter that has `tensors`; a plain LoRA when they say nothing.
    pub fn of(tensors: impl IntoIterator<Item = LoraTensor>) -> LoraKind {
        tensors.into_iter().filter_map(LoraTensor::kind).max().unwrap_or(LoraKind::Lora)
    }

    /// As it is usually written.
    pub fn name(self) -> &'static str {
        match self {
            LoraKind::Lora => "LoRA",
            LoraKind::Full => "full difference",
            LoraKind::Ia3 => "(IA)³",
            LoraKind::Loha => "LoHa",
            LoraKind::Lokr => "LoKr",
            LoraKind::Dora => "DoRA",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alpha_of_zero_is_the_rank_and_one_that_is_no_number_is_none() {
        for (stored, counts) in [
            (0.5, Some(0.5)),
            (-1.0, Some(-1.0)),
            (0.0, Some(4.0)),
            (-0.0, Some(4.0)),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::NEG_INFINITY, None),
        ] {
            assert_eq!(alpha_that_counts(stored, 4.0), counts, "{stored}");
        }
    }
}
