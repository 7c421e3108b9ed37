//! `lora.initial`: how the adapters of a file and what `[lora]` says of them go together.
//!
//! The file decides kind, rank and alpha of the layers that it has; layers that it lacks get new adapters, as in kohya's scripts with
//! `network_weights`. Where the configuration says something else of a layer that the file has, somebody is mistaken.

use crate::{AdapterKind, LoraConfig};

/// One adapter of a file, as far as a configuration could say otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct FileAdapter {
    /// `unet`, `text_encoder` or `text_encoder_2`.
    pub part: String,
    /// The layer's path in it.
    pub path: String,
    /// Side of the layer's kernel, 1 for a linear layer.
    pub kernel: usize,
    /// Its kind.
    pub kind: AdapterKind,
    /// Size of the bottleneck, where its tensors show one.
    pub rank: Option<u32>,
    /// The alpha whose alpha/rank is the scale.
    pub alpha: Option<f64>,
}

/// A number that a layer of the file has, and the one that the configuration asks for.
struct Difference {
    found: f64,
    wanted: f64,
    is_kernel: bool,
}

impl LoraConfig {
    /// What is to be said of a run that goes on from `adapters` of the file called `file` and adds `added` new ones; or why it
    /// cannot, and the way out.
    pub fn read_initial(
        &self,
        file: &str,
        adapters: &[FileAdapter],
        added: usize,
    ) -> Result<Vec<String>, (String, String)> {
        for (part, trained) in [("unet", self.train_unet), ("text_encoder", self.train_text_encoder)] {
            if !trained && adapters.iter().any(|adapter| adapter.part.starts_with(part)) {
                let message = format!("`lora.initial`: `{file}` also adapts the {part}, which is not trained");
                return Err((message, format!("set `lora.train_{part} = true`")));
            }
        }
        if let Some(other) = adapters.iter().find(|adapter| adapter.kind != self.kind) {
            let (found, wanted) = (other.kind.name(), self.kind.name());
            let message = format!("`lora.initial`: `{file}` is of kind `{found}`, but `lora.kind` is `{wanted}`");
            return Err((message, format!("set `lora.kind = \"{found}\"`")));
        }
        let mut notes = Vec::new();
        let asked = |adapter: &FileAdapter| self.adapter_beside(&adapter.part, &adapter.path, adapter.kernel);
        let unasked = adapters.iter().filter(|adapter| asked(adapter).is_none()).count();
        if unasked > 0 {
            notes.push(format!(
                "`{file}` adapts {unasked} layers that `[lora]` does not name; they are trained as well"
            ));
        }
        let (mut ranks, mut alphas) = (Vec::new(), Vec::new());
        for adapter in adapters {
            let (Some((rank, alpha)), Some(found)) = (asked(adapter), adapter.rank) else { continue };
            let is_kernel = adapter.kernel > 1;
            ranks.push(Difference { found: f64::from(found), wanted: f64::from(rank), is_kernel });
            if let Some(found) = adapter.alpha.filter(|_| self.says_alpha(is_kernel)) {
                alphas.push(Difference { found, wanted: alpha, is_kernel });
            }
        }
        for is_kernel in [false, true] {
            let rank_key = if is_kernel && self.conv_rank.is_some() { "lora.conv_rank" } else { "lora.rank" };
            self.hold(file, "rank", rank_key, &ranks, is_kernel, &mut notes)?;
            let alpha_key = if is_kernel && self.conv_alpha.is_some() { "lora.conv_alpha" } else { "lora.alpha" };
            self.hold(file, "alpha", alpha_key, &alphas, is_kernel, &mut notes)?;
        }
        if added > 0 {
            notes.push(format!("{added} layers that `{file}` lacks get new adapters{}", self.of_other_scale(adapters)));
        }
        Ok(notes)
    }

    /// Whether an alpha is written in the configuration, rather than following from a rank.
    fn says_alpha(&self, is_kernel: bool) -> bool {
        let by_kernel = is_kernel && (self.conv_alpha.is_some() || self.conv_block_alphas.is_some());
        let always = self.alpha.is_some() || self.block_alphas.is_some() || !self.alpha_pattern.is_empty();
        by_kernel || always || self.rank_stabilized
    }

    /// One number for all layers of the file that is not the one asked for is refused; of several the file's count.
    fn hold(
        &self,
        file: &str,
        what: &str,
        key: &str,
        differences: &[Difference],
        is_kernel: bool,
        notes: &mut Vec<String>,
    ) -> Result<(), (String, String)> {
        // Files may hold alpha in 16 bits.
        const ROUNDING: f64 = 5e-3;
        let of_kind: Vec<&Difference> = differences.iter().filter(|pair| pair.is_kernel == is_kernel).collect();
        let differs = |pair: &&&Difference| (pair.found - pair.wanted).abs() > ROUNDING * pair.wanted.abs();
        let count = of_kind.iter().filter(differs).count();
        let Some(first) = of_kind.iter().find(differs) else { return Ok(()) };
        let layers = if is_kernel { "convolutions" } else { "layers" };
        let (found, wanted) = (first.found, first.wanted);
        if of_kind.iter().any(|pair| pair.found != found) {
            notes
                .push(format!("{count} {layers} of `{file}` have another {what} than `[lora]` says; the file's count"));
            return Ok(());
        }
        let among = if is_kernel { " for convolutions" } else { "" };
        let message = format!("`lora.initial`: `{file}` has {what} {found}{among}, but `{key}` is {wanted}");
        let hint = match (what, self.rank_stabilized) {
            ("alpha", true) => format!("set `lora.rank_stabilized = false` and `{key} = {found}`"),
            ("alpha", false) => format!("set `{key} = {found}`, or leave it out to keep the file's"),
            _ => format!("set `{key} = {found}`"),
        };
        Err((message, hint))
    }

    /// A remark where new adapters would count more or less than those of the file, and nobody has said so.
    fn of_other_scale(&self, adapters: &[FileAdapter]) -> String {
        let scale = |adapter: &FileAdapter| Some(adapter.alpha? / f64::from(adapter.rank?));
        let Some(found) = adapters.iter().find_map(scale).filter(|_| !self.says_alpha(false)) else {
            return String::new();
        };
        match (found - 1.0).abs() > 5e-3 {
            true => format!(", which count once where those of the file count {found:.3} times: `lora.alpha` sets it"),
            false => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO_Q: &str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";

    fn adapter(rank: u32, alpha: f64) -> FileAdapter {
        let (part, path) = ("unet".to_owned(), TO_Q.to_owned());
        FileAdapter { part, path, kernel: 1, kind: AdapterKind::Lora, rank: Some(rank), alpha: Some(alpha) }
    }

    fn read(config: &LoraConfig, adapters: &[FileAdapter], added: usize) -> Result<Vec<String>, (String, String)> {
        config.read_initial("a.safetensors", adapters, added)
    }

    #[test]
    fn a_number_that_the_file_decides_otherwise_is_refused_by_its_name() {
        let config = LoraConfig { rank: 4, ..LoraConfig::default() };
        assert_eq!(read(&config, &[adapter(4, 1.0)], 0), Ok(vec![]), "an alpha that nobody wrote is the file's");
        let (message, hint) = read(&config, &[adapter(8, 1.0)], 0).expect_err("another rank");
        assert!(message.ends_with("has rank 8, but `lora.rank` is 4") && hint == "set `lora.rank = 8`", "{message}");
        let with_alpha = LoraConfig { alpha: Some(8.0), ..config.clone() };
        let (message, hint) = read(&with_alpha, &[adapter(4, 1.0)], 0).expect_err("another alpha");
        assert!(message.ends_with("has alpha 1, but `lora.alpha` is 8"), "{message}");
        assert_eq!(hint, "set `lora.alpha = 1`, or leave it out to keep the file's");
        let stabilized = LoraConfig { rank_stabilized: true, ..config };
        let (_, hint) = read(&stabilized, &[adapter(4, 4.0)], 0).expect_err("twice the scale");
        assert_eq!(hint, "set `lora.rank_stabilized = false` and `lora.alpha = 4`");
    }

    #[test]
    fn what_a_file_has_more_or_less_is_said() {
        let config = LoraConfig { rank: 4, targets: Some(vec!["unet.*.to_k".to_owned()]), ..LoraConfig::default() };
        let notes = read(&config, &[adapter(4, 1.0)], 3).expect("it goes on");
        assert!(notes[0].contains("adapts 1 layers that `[lora]` does not name"), "{notes:?}");
        assert!(notes[1].starts_with("3 layers that `a.safetensors` lacks get new adapters, which count once"));
        assert!(notes[1].contains("count 0.250 times"), "{notes:?}");
        let mixed = LoraConfig { rank: 4, ..LoraConfig::default() };
        let notes = read(&mixed, &[adapter(4, 4.0), adapter(8, 8.0)], 0).expect("the file's count");
        assert!(notes[0].starts_with("1 layers of `a.safetensors` have another rank"), "{notes:?}");
    }

    #[test]
    fn a_network_that_is_not_trained_and_another_kind_are_refused() {
        let config = LoraConfig { rank: 4, train_unet: false, train_text_encoder: true, ..LoraConfig::default() };
        assert!(read(&config, &[adapter(4, 4.0)], 0).expect_err("not trained").1.contains("train_unet = true"));
        let config = LoraConfig { rank: 4, kind: AdapterKind::Loha, ..LoraConfig::default() };
        assert!(read(&config, &[adapter(4, 4.0)], 0).expect_err("another kind").0.contains("is of kind `lora`"));
    }
}
