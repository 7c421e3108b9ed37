//! Checks of what is fused, frozen and grouped, with the exact words.

use sdtrain_recipe::{BlockWeights, FusedAdapter, Method, TrainConfig};

use crate::project::{Project, SMALLEST};

/// The messages that these overrides of the smallest configuration lead to.
fn messages(overrides: &[&str]) -> String {
    let messages = Project::new(SMALLEST).messages_with(overrides);
    overrides.iter().fold(messages, |text, setting| text.replace(&format!("`--set {setting}`: "), ""))
}

#[test]
fn mistakes_in_parts_and_rates_are_refused() {
    for (settings, expected) in [
        (&["lora.loraplus_lr_ratio=0"][..], "`lora.loraplus_lr_ratio` must be greater than 0, not 0"),
        (
            &["lora.loraplus_lr_ratio=4", "lora.kind=loha"],
            "`lora.loraplus_lr_ratio` is for upper matrices, which `lora.kind = \"loha\"` does not have\n  hint: remove it",
        ),
        (&["lora.unet_learning_rate=-1"], "`lora.unet_learning_rate` must not be negative, and is -1"),
        (
            &["full.freeze=[\"vae.*\"]"],
            "`full.freeze` has the pattern \"vae.*\", which matches no parameter\n  \
             hint: patterns begin with `unet.`, `text_encoder.` or `*`",
        ),
        (
            &["full.targets=[]"],
            "nothing is trained: `full.targets` is empty\n  \
             hint: leave it out to train everything that is not frozen",
        ),
        (
            &["blocks.down_weights=tangent"],
            "`blocks.down_weights` is no curve: \"tangent\"\n  \
             hint: it is a list of numbers, or one of cosine, sine, linear, reverse_linear, zeros, also with `+0.25`",
        ),
        (&["blocks.mid_weight=-1"], "`blocks.mid_weight` must not be negative, and has -1"),
        (
            &["blocks.learning_rates=[1e-4]", "blocks.mid_weight=1"],
            "`blocks.learning_rates` is set, and so are weights of blocks\n  hint: keep the one that is meant",
        ),
        (
            &["train.max_text_encoder_steps=5"],
            "`train.max_text_encoder_steps` is set, but the text encoder is not trained\n  \
             hint: set `lora.train_text_encoder = true`, or remove it",
        ),
        (
            &["method=vae", "train.max_text_encoder_steps=5"],
            "`train.max_text_encoder_steps` is set, but the text encoder is not trained\n  hint: remove it",
        ),
        (
            &["train.max_text_encoder_epochs=5", "lora.train_text_encoder=true", "lora.train_unet=false"],
            "`train.max_text_encoder_epochs`: nothing is trained once the text encoder stands still\n  \
             hint: shorten the run with `train.max_steps` instead",
        ),
    ] {
        assert_eq!(messages(settings), format!("error: {expected}"), "{settings:?}");
    }
}

#[test]
fn rates_of_blocks_want_a_unet_that_is_trained() {
    let settings = ["method=full", "full.train_unet=false", "full.train_text_encoder=true", "blocks.mid_weight=0.5"];
    assert!(messages(&settings).contains("the UNet is not trained\n  hint: remove the section, or train the UNet"));
}

#[test]
fn a_fused_adapter_must_exist_and_counts_once_unless_told_otherwise() {
    let text = SMALLEST.replace("[[data", "[[model.fuse]]\npath = \"a.safetensors\"\n[[data");
    let project = Project::new(&text);
    assert_eq!(
        project.messages_with(&[]),
        "error: configs/run.toml:4: `model.fuse.0.path`: `configs/a.safetensors` does not exist\n  \
         hint: `configs` has no `a.safetensors`"
    );
    project.write("configs/a.safetensors", "");
    let config = project.load();
    assert_eq!(config.model.fuse, [FusedAdapter { path: project.path("configs/a.safetensors"), weight: 1.0 }]);
    assert!(project.messages_with(&["model.fuse.0.weight=nan"]).contains("must be a number, not"));
}

#[test]
fn a_configuration_with_parts_survives_being_written() {
    let text = format!(
        "{SMALLEST}[blocks]\ndown_weights = \"sine+0.25\"\nup_weights = [1, 0.5]\n[full]\nfreeze = [\"unet.conv_in.*\"]\n"
    );
    let project = Project::new(&text);
    let config = project.load();
    assert_eq!(config.blocks.up_weights, Some(BlockWeights::List(vec![1.0, 0.5])));
    project.write("configs/run.toml", &config.to_toml());
    assert_eq!(project.load(), config);
}

#[test]
fn patterns_choose_among_the_parameters_of_the_trained_networks() {
    let mut full = sdtrain_recipe::FullConfig {
        targets: vec!["unet.*.attn2.*".into(), "text_encoder.*".into()],
        freeze: vec!["*.bias".into()],
        ..Default::default()
    };
    let name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    assert!(full.trains(name) && !full.trains(&name.replace("attn2", "attn1")));
    assert!(!full.trains(&name.replace("weight", "bias")));
    assert!(!full.trains("text_encoder.text_model.final_layer_norm.weight"), "that network is not trained");
    full.train_text_encoder = true;
    assert!(full.trains("text_encoder.text_model.final_layer_norm.weight"));
    let config = TrainConfig { method: Method::Full, full, ..TrainConfig::default() };
    assert_eq!(config.trainable_facts().idle_pattern([name].into_iter()), Some(("full.targets", "text_encoder.*")));
    let all = [name, "text_encoder.text_model.final_layer_norm.bias"];
    assert_eq!(config.trainable_facts().idle_pattern(all.into_iter()), None);
}
