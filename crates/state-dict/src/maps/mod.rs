//! Key names of every format, translated both ways. Each map is a pure function on names (and on shapes where a
//! format stores the same numbers with other dimensions).

pub mod adapter_family;
pub mod bert;
pub mod clip;
pub mod control_net;
pub mod ldm_sd;
pub mod lora_kohya;
pub mod lora_peft;
pub mod lora_tensor;
pub mod open_clip;
pub mod peft_metadata;
pub mod text_places;
pub mod textual_inversion;
pub mod vae;

/// The number at the beginning of a dotted name and what follows its dot: `12.norm.weight` gives `(12, "norm.weight")`.
pub(crate) fn leading_number(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    // `+1` and `01` parse as numbers too but are not how any format writes one.
    let written = number.parse::<usize>().ok()?;
    (written.to_string() == number).then_some((written, rest))
}

/// Replaces the first prefix that fits, by a table of pairs, in either direction.
pub(crate) fn replace_prefix(name: &str, table: &[(&str, &str)], forward: bool) -> Option<String> {
    table.iter().find_map(|&(left, right)| {
        let (from, to) = if forward { (left, right) } else { (right, left) };
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}
