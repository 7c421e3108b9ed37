//! Seeded damage to configurations: each is read or refused with a reason, whatever it holds.

#[path = "../../../../fuzz/src/target.rs"]
#[expect(dead_code, reason = "other targets are named in messages and write files")]
mod target;

use std::path::Path;

use sdtrain_diffusion::SchedulerConfig;
use sdtrain_model::text_encoder::TextEncoderConfig;
use sdtrain_model::unet::UNetConfig;
use sdtrain_model::vae::VaeConfig;
use sdtrain_state_dict::architecture;
use target::{Target, with_choice};

/// What damage is made of besides the input itself.
const TOKENS: [&[u8]; 16] = [
    b"null",
    b"true",
    b"-1",
    b"0",
    b"0.5",
    b"1e308",
    b"1000000000000",
    b"18446744073709551616",
    b"\"\"",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\"CrossAttnDownBlock2D\"",
    b"\"num_attention_heads\":",
];

const FILES: Target = Target { name: "configurations", run: read, seeds };

/// The first byte chooses the network. What the engine accepts has names and shapes without it too.
fn read(_: &Path, data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    let Ok(json) = serde_json::from_slice(text) else { return };
    let said = match choice % 4 {
        0 => UNetConfig::from_json(&json).map(|config| {
            let levels = 0..config.block_out_channels.len();
            // Blocks of unknown kinds are refused one by one.
            let mut blocks = levels.clone();
            if blocks.all(|level| config.down_block(level).is_ok() && config.up_block(level).is_ok())
                && config.time_ids(1280).is_none_or(|ids| config.adds_text_and_sizes() && ids >= 5)
            {
                levels.for_each(|level| assert!(config.heads(level) > 0));
            }
        }),
        1 => VaeConfig::from_json(&json).map(|config| assert!(config.downscale_factor() > 0)),
        2 => TextEncoderConfig::from_json(&json).map(|config| assert!(config.vocab_size() > 0)),
        _ => SchedulerConfig::from_json(&json.to_string()).map(drop).map_err(Into::into),
    };
    match said {
        Ok(()) => architecture::check_sizes(&json).unwrap_or_else(|reason| assert!(choice % 4 == 3, "{reason}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = sdtrain_torch_test_support::fixture_folder().join("tiny_sd1");
    let files = ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"];
    let seed = |(choice, name): (usize, &str)| with_choice(choice as u8, &std::fs::read(folder.join(name)).unwrap());
    files.into_iter().enumerate().map(seed).collect()
}

#[test]
fn damaged_configurations_are_read_or_refused() {
    FILES.feed(Path::new(""), 40_000, &TOKENS);
}
