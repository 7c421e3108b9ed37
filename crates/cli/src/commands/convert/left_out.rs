//! What a converted model cannot hold of the one that it was made of, in words: nothing is lost without a line about it.

use sdtrain_state_dict::{Family, TokenizerFiles, averaged_prefix, in_words, unknown_tensors};
use serde_json::Value as Json;

/// Parts of a pipeline that every folder has; those of its text encoders come from the family.
const PARTS: [&str; 3] = ["unet", "vae", "scheduler"];
/// What text encoders that share a tokenizer share: what pads a window may differ.
const VOCABULARY: [&str; 2] = ["vocab.json", "merges.txt"];

/// Of a single file with tensors of these `names`, of which those in `leftover` belong to no network.
pub(super) fn of_single_file(names: &[&str], leftover: &[String]) -> Vec<String> {
    let with_way_out = |mean: String| format!("{mean}; `--extract-ema` takes it in place of the weights");
    let mut left_out: Vec<String> = running_mean(names).map(with_way_out).into_iter().collect();
    left_out.extend(unknown_tensors(leftover));
    left_out
}

/// The running mean that is among a file's `names`, if it is.
pub(super) fn running_mean(names: &[&str]) -> Option<String> {
    let prefix = averaged_prefix();
    let averaged = names.iter().filter(|name| name.starts_with(&prefix)).count();
    (averaged > 0).then(|| format!("the running mean of the UNet's weights, {averaged} tensors `{prefix}…`"))
}

/// Of a file with a ControlNet in it, beside which these tensors stand.
pub(super) fn beside_control_net(others: &[String]) -> Vec<String> {
    in_words(others, "beside the ControlNet").into_iter().collect()
}

/// Of a LoRA in PEFT's form, which had these `words` with it.
pub(super) fn bundled(words: &[String]) -> Vec<String> {
    if words.is_empty() {
        return Vec::new();
    }
    let spoken: Vec<String> = words.iter().map(|word| format!("`{}`", word.escape_debug())).collect();
    vec![format!(
        "the words that come along, {}: diffusers refuses a LoRA with words in its file; `--to diffusers-embedding`, or of SDXL \
         `--to sdxl-embedding`, writes them by themselves",
        spoken.join(", ")
    )]
}

/// Of a file with learned words in it, beside which these tensors stand.
pub(super) fn beside_words(others: &[String]) -> Vec<String> {
    in_words(others, "beside the words").into_iter().collect()
}

/// Of a folder of `family` with this `model_index.json`: parts of its pipeline that are none of a model's.
pub(super) fn other_parts(index: &Json, family: Family) -> Vec<String> {
    let is_kept = |name: &str| {
        let mut of_text = family.text_folders().iter().flat_map(|place| [place.network, place.tokenizer]);
        PARTS.contains(&name) || of_text.any(|part| part == name)
    };
    // A part is said by its library and class; one that is not there has null for both.
    let is_part = |value: &Json| value.as_array().is_some_and(|names| names.first().is_some_and(Json::is_string));
    let parts = index.as_object().into_iter().flatten();
    let others = parts.filter(|(name, value)| is_part(value) && !is_kept(name));
    others.map(|(name, _)| format!("`{name}` of the folder: nothing here reads it")).collect()
}

/// Of a folder with these `tokenizers` that becomes a single file, which has one vocabulary for all text encoders.
pub(super) fn other_tokenizer(tokenizers: &[TokenizerFiles]) -> Option<String> {
    let vocabulary = |files: &TokenizerFiles| -> TokenizerFiles {
        files.iter().filter(|(name, _)| VOCABULARY.contains(&name.as_str())).cloned().collect()
    };
    let [first, second] = tokenizers else { return None };
    (vocabulary(first) != vocabulary(second)).then(|| {
        "`tokenizer_2` of the folder, which has other words than `tokenizer`: a single file has one vocabulary"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_loses_its_running_mean_and_what_is_of_no_network() {
        let names = ["model_ema.decay", "model_ema.diffusion_modeloutbias", "model.diffusion_model.out.bias"];
        let leftover = ["a", "b", "c", "d"].map(str::to_owned);
        let said = of_single_file(&names, &leftover);
        assert!(
            said[0].contains("1 tensors `model_ema.diffusion_model…`") && said[0].contains("--extract-ema"),
            "{said:?}"
        );
        assert_eq!(said[1..], ["4 tensors of no network that is known: `a`, `b`, `c`, …"]);
        assert_eq!(of_single_file(&names[2..], &leftover[..1]), ["one tensor of no network that is known: `a`"]);
        // With the mean in place of the weights, only numbers of the averaging are left of it.
        assert_eq!(of_single_file(&["model_ema.decay", "model_ema.num_updates"], &[]), [""; 0]);
    }

    #[test]
    fn a_folder_loses_what_no_network_of_its_family_is() {
        let index = json!({
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": [null, null],
            "requires_safety_checker": true,
        });
        let said = ["`safety_checker` of the folder: nothing here reads it"];
        assert_eq!(other_parts(&index, Family::Sd1), said);
    }

    #[test]
    fn a_second_tokenizer_is_lost_where_its_words_are_others() {
        let tokenizer = |vocabulary: &str, pad: &str| -> TokenizerFiles {
            let files = [("vocab.json", vocabulary), ("merges.txt", "m"), ("tokenizer_config.json", pad)];
            files.map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec())).to_vec()
        };
        assert_eq!(other_tokenizer(&[tokenizer("a", "end"), tokenizer("a", "!")]), None);
        assert_eq!(other_tokenizer(&[tokenizer("a", "end")]), None);
        let said = other_tokenizer(&[tokenizer("a", "end"), tokenizer("b", "end")]).expect("other words");
        assert!(said.contains("`tokenizer_2`"), "{said}");
    }
}
