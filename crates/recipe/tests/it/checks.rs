//! Every check across keys, with the exact words.

use std::path::Path;

use crate::project::{Project, SMALLEST};

/// The one message that these overrides of the smallest configuration lead to, without the word `error`.
fn message(overrides: &[&str]) -> String {
    let messages = Project::new(SMALLEST).messages_with(overrides);
    messages.strip_prefix("error: ").expect("a message").to_owned()
}

#[test]
fn single_values_out_of_range_are_refused() {
    for (setting, expected) in [
        ("data.batch_size=0", "`data.batch_size` must be at least 1, not 0"),
        ("data.resolution=0", "`data.resolution` must be positive"),
        ("data.bucketing.step=0", "`data.bucketing.step` must be at least 1, not 0"),
        (
            "data.subsets.0.repeats=0",
            "`data.subsets.0.repeats` must be greater than 0, not 0\n  \
             hint: to train without these images, leave the subset out",
        ),
        ("data.subsets.0.repeats=-0.5", "`data.subsets.0.repeats` must be greater than 0, not -0.5"),
        ("data.subsets.0.repeats=nan", "`data.subsets.0.repeats` must be a number, not nan"),
        ("data.subsets.0.repeats=1e-9", "`data.subsets.0.repeats` must be at least 0.000001, not 0.000000001"),
        ("data.subsets.0.repeats=100000.5", "100000 repeats are the most; train for more epochs instead"),
        ("data.subsets.0.weight=0", "`data.subsets.0.weight` must be greater than 0, not 0"),
        ("data.subsets.0.batch_size=0", "`data.subsets.0.batch_size` must be at least 1, not 0"),
        ("data.subsets.0.resolution=0", "`data.subsets.0.resolution` must be positive"),
        ("data.subsets.0.bucketing.step=0", "`data.subsets.0.bucketing.step` must be at least 1, not 0"),
        (
            "data.subsets.0.bucketing.min=2000",
            "the shortest bucket side, 2000, is longer than the longest, 1024\n  \
             hint: set `data.subsets.0.bucketing.min` and `data.subsets.0.bucketing.max`",
        ),
        (
            "data.subsets.0.is_regularization=true",
            "all images are regularization images: there is nothing to learn\n  \
             hint: remove `is_regularization` from the images that are to be learned",
        ),
        ("loss.prior_loss_weight=-1", "`loss.prior_loss_weight` must not be negative, and is -1"),
        (
            "loss.prior_loss_weight=0.5",
            "`loss.prior_loss_weight` weighs regularization images, and there are none\n  \
             hint: set `is_regularization = true` in the subset that holds them",
        ),
        (
            "data.subsets.0.caption_dropout_rate=1.5",
            "`data.subsets.0.caption_dropout_rate` must be between 0 and 1, not 1.5",
        ),
        (
            "data.subsets.0.caption_extension=txt",
            "`data.subsets.0.caption_extension` must begin with a dot, not \"txt\"\n  hint: write \".txt\"",
        ),
        (
            "data.subsets.0.caption_tag_dropout_rate=-0.1",
            "`data.subsets.0.caption_tag_dropout_rate` must be between 0 and 1, not -0.1",
        ),
        ("data.subsets.0.token_warmup_step=-1", "`data.subsets.0.token_warmup_step` must not be negative, and is -1"),
        ("data.subsets.0.keep_tokens_separator=\"\"", "`data.subsets.0.keep_tokens_separator` must not be empty"),
        (
            "data.clean.min_dpi=-1",
            "`data.clean.min_dpi` must be a number of at least 0, not -1\n  hint: 0 switches it off",
        ),
        (
            "data.clean.min_side=2000",
            "`data.clean.min_side` is 2000, which is more than `max_side`, 1024\n  hint: 0 switches one of them off",
        ),
        (
            "data.clean.max_aspect=0.5",
            "`data.clean.max_aspect` must be 0 or at least 1, not 0.5\n  \
             hint: it says how many times the shorter side the longer one may be",
        ),
        ("data.clean.kilobyte=1023", "`data.clean.kilobyte` must be 1024 or 1000, not 1023"),
        (
            "data.clean.duplicate_distance=17",
            "`data.clean.duplicate_distance` must be at most 16, not 17\n  \
             hint: images that differ in more bits are not alike",
        ),
        ("lora.rank=0", "`lora.rank` must be at least 1, not 0"),
        ("lora.alpha=0", "`lora.alpha` must be greater than 0, not 0"),
        ("lora.dropout=1", "`lora.dropout` must be at least 0 and less than 1, not 1"),
        ("optimizer.learning_rate=0", "`optimizer.learning_rate` must be greater than 0, not 0"),
        ("optimizer.weight_decay=-1", "`optimizer.weight_decay` must not be negative, and is -1"),
        (
            "optimizer.learning_rate=1e40",
            "`optimizer.learning_rate` must be a number that fp32 has, which ends at 3.4e38, not 1e40",
        ),
        (
            "optimizer.weight_decay=1e39",
            "`optimizer.weight_decay` must be a number that fp32 has, which ends at 3.4e38, not 1e39",
        ),
        (
            "lora.unet_learning_rate=1e39",
            "`lora.unet_learning_rate` must be a number that fp32 has, which ends at 3.4e38, not 1e39",
        ),
        ("optimizer.eps=1e-300", "`optimizer.eps` must be a number that fp32 has, which begins at 1.4e-45, not 1e-300"),
        (
            "lora.unet_learning_rate=1e-60",
            "`lora.unet_learning_rate` must be a number that fp32 has, which begins at 1.4e-45, not 1e-60",
        ),
        ("optimizer.betas=[0.9, 1.0]", "`optimizer.betas` must be at least 0 and less than 1, not 1"),
        ("noise.offset=-0.1", "`noise.offset` must not be negative, and is -0.1"),
        ("loss.min_snr_gamma=0", "`loss.min_snr_gamma` must be greater than 0, not 0"),
        ("train.max_steps=0", "`train.max_steps` must be at least 1, not 0"),
        ("train.gradient_accumulation_steps=0", "`train.gradient_accumulation_steps` must be at least 1, not 0"),
        (
            "train.gradient_accumulation_steps=9223372036854775807",
            "`train.gradient_accumulation_steps` is at most 1000000, not 9223372036854775807\n  \
             hint: a step ends with its epoch, however many batches are accumulated",
        ),
        (
            "train.world_size=1000001",
            "`train.world_size` is at most 1000000, not 1000001\n  \
             hint: leave it out for as many ranks as there are",
        ),
        ("train.max_grad_norm=-1", "`train.max_grad_norm` must not be negative, and is -1"),
        (
            "debug.faults=[{step=1, pass=0, parameter=\"unet.conv_in.weight\"}]",
            "`debug.faults.0.pass` must be at least 1, not 0",
        ),
        (
            "debug.faults=[{step=0, parameter=\"unet.conv_in.weight\"}]",
            "`debug.faults.0.step` must be at least 1, not 0",
        ),
        (
            "debug.faults=[{step=11, parameter=\"unet.conv_in.weight\"}]",
            "`debug.faults.0.step` is 11, but the run has 10: nothing would happen\n  hint: it is counted from 1 to 10",
        ),
        ("checkpoint.keep_last=0", "`checkpoint.keep_last` must be at least 1, not 0"),
        ("samples.width=100", "`samples.width` must be a multiple of 8, not 100\n  hint: the nearest is 104"),
        ("validation.split=1", "`validation.split` must be between 0 and 1, not 1"),
        (
            "name=a/b",
            "`name` must be a plain file name, not \"a/b\"\n  hint: the output folder is chosen with `--output`",
        ),
    ] {
        assert_eq!(message(&[setting]), format!("`--set {setting}`: {expected}"));
    }
}

#[test]
fn a_name_under_which_nothing_can_be_saved_is_refused() {
    let of_length = |length: usize| format!("name={}", "a".repeat(length));
    let (longest, longer) = (of_length(201), of_length(202));
    assert!(Project::new(SMALLEST).load_with(&[&longest]).is_ok());
    assert_eq!(
        message(&[&longer]),
        format!(
            "`--set {longer}`: `name` has 202 bytes, and at most 201 can be saved under\n  \
             hint: files are called by it, with the step, the part and an ending behind, and a file name has at most 255 bytes"
        )
    );
    // Files of words have them behind it.
    let word = format!("textual_inversion.tokens=[{{word=\"{}\"}}]", "w".repeat(100));
    assert!(Project::new(SMALLEST).load_with(&[&word, &of_length(105)]).is_ok());
    let said = message(&[&word, &of_length(106)]);
    assert!(said.contains("`name` has 106 bytes, and at most 105 can be saved under"), "{said}");

    let setting = r#"name="a\u001b[2Jb\nc""#;
    assert_eq!(
        message(&[setting]),
        format!(
            "`--set {setting}`: `name` must be without control characters, and is \"a\\u{{1b}}[2Jb\\nc\"\n  \
             hint: files and messages have it in them: letters, digits, `-` and `_` do"
        )
    );
    let said = message(&["name=a\u{1b}b"]);
    assert!(!said.contains('\u{1b}'), "what is repeated of the command line is escaped as well: {said:?}");

    for name in ["checkpoints", "samples", "run.json", "tensorboard"] {
        let name = format!("name={name}");
        assert!(Project::new(SMALLEST).load_with(&["method=full", &name]).is_ok(), "{name}: a file has an ending");
        let said = message(&["method=full", "full.format=diffusers", &name]);
        assert!(said.contains("a run has something else of this name in its folder\n  hint: choose another"), "{said}");
    }
}

#[test]
fn a_permission_that_can_have_no_effect_is_refused() {
    let setting = |name: &str| format!("checkpoint.allow_changes=[\"{name}\"]");
    for name in ["train", "train.max_steps", "lr_schedule", "data", "data.subsets", "model.path", "optimizer", "method"]
    {
        let loaded = Project::new(SMALLEST).load_with(&[&setting(name)]);
        assert!(loaded.is_ok(), "{name}: {}", loaded.expect_err("it is refused"));
    }
    for (name, expected) in [
        ("trian", "there is no key or section `trian`\n  hint: did you mean `train`?"),
        ("train.max_step", "there is no key or section `train.max_step`\n  hint: did you mean `max_steps`?"),
        ("train.", "there is no key or section `train.`\n  hint: known here: "),
        ("data.subsets.0.path", "hint: there is nothing below `data.subsets`, which is named as a whole"),
        ("extends", "hint: keys are written as in messages"),
        (
            "optimizer.type",
            "`optimizer.type` cannot be changed: it says what the numbers of a saved state are\n  hint: ",
        ),
        ("precision.weights", "`precision.weights` cannot be changed"),
    ] {
        let said = message(&[&setting(name)]);
        assert!(said.contains("`checkpoint.allow_changes`: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_fault_is_in_a_pass_that_a_step_has() {
    let of_pass = |pass: u64| format!("debug.faults=[{{step=10, pass={pass}, parameter=\"unet.conv_in.weight\"}}]");
    let load = |pass: u64, world: &str| {
        let (faults, project) = (of_pass(pass), Project::new(SMALLEST));
        let loaded = project.load_with(&["train.gradient_accumulation_steps=2", world, &faults]);
        loaded.map(|_| ()).map_err(|problems| problems.to_string())
    };
    assert_eq!(load(6, "train.world_size=3"), Ok(()));
    assert_eq!(
        load(7, "train.world_size=3"),
        Err(format!(
            "error: `--set {}`: `debug.faults.0.pass` is 7, but a step has 6: nothing would happen\n  \
             hint: it is counted from 1 to 6",
            of_pass(7)
        ))
    );
    // Of so many ranks as there are.
    assert_eq!(load(7, "seed=1"), Ok(()));
}

#[test]
fn a_number_format_is_one_of_three() {
    assert_eq!(
        message(&["precision.compute=bfloat16"]),
        "`--set precision.compute=bfloat16`: `precision.compute` must be `fp32`, `bf16` or `fp16`, not \"bfloat16\""
    );
    assert_eq!(
        message(&["precision.compute=bf32"]),
        "`--set precision.compute=bf32`: `precision.compute` must be `fp32`, `bf16` or `fp16`, not \"bf32\"\n  \
         hint: did you mean `fp32`?"
    );
}

#[test]
fn a_run_has_exactly_one_length() {
    let no_length = SMALLEST.replace("max_steps = 10\n", "");
    assert_eq!(
        Project::new(&no_length).messages_with(&[]),
        "error: configs/run.toml:5: the length of the run is not set\n  hint: set `train.max_steps` or `train.max_epochs`"
    );
    let both = SMALLEST.replace("max_steps = 10\n", "max_steps = 10\nmax_epochs = 1\n");
    assert_eq!(
        Project::new(&both).messages_with(&[]),
        "error: configs/run.toml:7: `train.max_steps` and `train.max_epochs` are both set\n  \
         hint: keep the one that is meant"
    );
}

#[test]
fn paths_that_do_not_exist_are_shown_with_the_part_that_does() {
    let text =
        SMALLEST.replace("../images", "../imags/cats").replace("builtin:poster-tiny", "../models/sd.safetensors");
    let text = format!("{text}[validation]\npath = \"run.toml\"\n");
    assert_eq!(
        Project::new(&text).messages_with(&[]),
        "error: configs/run.toml:2: `model.path`: `models/sd.safetensors` does not exist\n  hint: `.` has no `models`\n\
         error: configs/run.toml:4: `data.subsets.0.path`: `imags/cats` does not exist\n  hint: `.` has no `imags`\n\
         error: configs/run.toml:8: `validation.path`: `configs/run.toml` is a file, not a folder\n  \
         hint: files that hold or name images end in `.tar`, `.parquet`, `.jsonl`, `.csv`, `.json`"
    );
}

#[test]
fn a_builtin_model_must_be_known() {
    assert_eq!(
        message(&["model.path=builtin:poster"]),
        "`--set model.path=builtin:poster`: `model.path`: there is no built-in model `poster`\n  \
         hint: there is `builtin:poster-tiny`"
    );
}

#[test]
fn weights_from_the_seed_need_a_folder_of_configurations() {
    assert_eq!(
        Project::new(SMALLEST).messages_with(&["model.init=random", "model.path=Cargo.toml"]),
        "error: `--set model.path=Cargo.toml`: `model.path` must be a folder with `config.json` files when \
         `model.init = \"random\"`"
    );
}

#[test]
fn something_must_be_trained() {
    assert_eq!(
        Project::new(&format!("{SMALLEST}[lora]\ntrain_unet = false\n")).messages_with(&[]),
        "error: configs/run.toml:7: nothing is trained: `lora.train_unet` and `lora.train_text_encoder` are both false"
    );
    assert_eq!(message(&["lora.targets=[]"]), "`--set lora.targets=[]`: nothing is trained: `lora.targets` is empty");
    assert_eq!(
        Project::new(&format!("method = \"full\"\n{SMALLEST}[full]\ntrain_unet = false\n")).messages_with(&[]),
        "error: configs/run.toml:8: nothing is trained: `full.train_unet` and `full.train_text_encoder` are both false"
    );
}

fn is_fine(overrides: &[&str]) -> bool {
    Project::new(SMALLEST).load_with(overrides).is_ok()
}

#[test]
fn text_encoder_outputs_are_kept_only_where_they_stay_the_same() {
    let cached = "data.cache_text_encoder_outputs=true";
    assert!(is_fine(&[cached]));
    // Then a folder makes sense without latents in it.
    assert!(is_fine(&[cached, "data.cache_dir=\"cache\"", "data.cache_latents=false"]));
    assert_eq!(
        message(&[cached, "lora.train_text_encoder=true"]),
        "`--set data.cache_text_encoder_outputs=true`: outputs of a text encoder that is trained cannot be kept: they change \
         with it\n  hint: leave `data.cache_text_encoder_outputs` out, or set `lora.train_text_encoder = false`"
    );
    assert_eq!(
        message(&[cached, "method=\"vae\""]),
        "`--set data.cache_text_encoder_outputs=true`: `method = \"vae\"` reads no captions\n  \
         hint: leave `data.cache_text_encoder_outputs` out"
    );
    assert!(is_fine(&["data.subsets.0.caption_variants=10"]));
    for (variants, what) in [("0", "must be at least 1, not 0"), ("1000001", "is at most 1000000, not 1000001")] {
        let setting = format!("data.subsets.0.caption_variants={variants}");
        assert_eq!(
            message(&[&setting]),
            format!(
                "`--set {setting}`: `data.subsets.0.caption_variants` {what}\n  hint: leave it out for a new form at each visit"
            )
        );
    }
}

#[test]
fn what_an_adapter_cannot_be_is_refused() {
    for (settings, expected) in [
        (&["lora.rank_dropout=1"][..], "`lora.rank_dropout` must be at least 0 and less than 1, not 1"),
        (&["lora.module_dropout=-0.1"], "`lora.module_dropout` must be at least 0 and less than 1, not -0.1"),
        (&["lora.max_weight_norm=0"], "`lora.max_weight_norm` must be greater than 0, not 0"),
        (&["lora.lokr.factor=0"], "`lora.lokr.factor` must be at least 1, not 0"),
        (
            &["lora.block_ranks=[1, 2]"],
            "`lora.block_ranks` has 2 entries, one for each of 25 blocks are needed, of SDXL's 23\n  hint: twelve down, one in \
             the middle, twelve up; `lora.rank_pattern` names modules instead",
        ),
        (
            &["lora.rank_pattern={\"mid_block.*\" = 4}"],
            "`lora.rank_pattern` has the pattern \"mid_block.*\", which matches no module\n  hint: patterns begin with \
             `unet.`, `text_encoder.` or `*`",
        ),
        (
            &["lora.alpha_pattern={\"unet.mid_block.*\" = 0}"],
            "an alpha in `lora.alpha_pattern` must be greater than 0, not 0",
        ),
        (
            &["lora.format=peft", "lora.kind=full"],
            "PEFT's form has no place for the whole differences of `lora.kind = \"full\"`\n  hint: set \
             `lora.format = \"kohya\"`",
        ),
        (
            &["lora.dropout=0.1", "lora.kind=ia3"],
            "`lora.dropout` drops numbers that go through an adapter, which `lora.kind = \"ia3\"` does not have\n  hint: \
             `lora.rank_dropout` leaves channels out, `lora.module_dropout` whole adapters",
        ),
        (
            &["lora.dropout_at=rank_activations", "lora.dropout=0.1", "lora.kind=loha"],
            "`lora.dropout_at` names activations that `lora.kind = \"loha\"` does not have\n  hint: set it to `\"input\"`",
        ),
        (
            &["lora.dropout_at=rank_activations"],
            "`lora.dropout_at` is set, but `lora.dropout` is 0\n  hint: set both, or remove it",
        ),
    ] {
        assert_eq!(message(settings), format!("`--set {}`: {expected}", settings[0]));
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert_eq!(
        message(&["data.subsets.0.random_crop=true"]),
        "`--set data.subsets.0.random_crop=true`: random crops cannot be taken from cached latents\n  \
         hint: set `data.cache_latents = false`"
    );
    assert_eq!(
        message(&["data.cache_dir=\"cache\"", "data.cache_latents=false"]),
        "`--set data.cache_dir=\"cache\"`: `data.cache_dir` is set, but `data.cache_latents` is false\n  \
         hint: remove one of them"
    );
    assert_eq!(
        message(&["data.subsets.0.color_augmentation={}"]),
        "`--set data.subsets.0.color_augmentation={}`: cached latents cannot change their colours\n  \
         hint: set `data.cache_latents = false`"
    );
    assert_eq!(
        message(&["data.subsets.0.extra_images=[{ column = \"mask\" }]"]),
        "`--set data.subsets.0.extra_images=[{ column = \"mask\" }]`: `data.subsets.0.extra_images.0.suffix` is not set, and \
         neither is `path`\n  hint: without a folder of their own, extra images need a suffix to be told apart; \
         those of a table, of Parquet files or of shards have a `source_column`"
    );
    assert_eq!(
        message(&[
            "data.subsets.0.alpha_mask=true",
            "data.subsets.0.extra_images=[{ column = \"mask\", suffix = \"-m\" }]"
        ]),
        "`--set data.subsets.0.extra_images=[{ column = \"mask\", suffix = \"-m\" }]`: the loss mask is set twice: by \
         `alpha_mask` and by this column\n  hint: keep the one that is meant"
    );
    assert_eq!(
        message(&["data.bucketing.min=2048"]),
        "`--set data.bucketing.min=2048`: the shortest bucket side, 2048, is longer than the longest, 1024\n  \
         hint: set `data.bucketing.min` and `data.bucketing.max`"
    );
    assert_eq!(
        message(&["timesteps.min=500", "timesteps.max=500"]),
        "`--set timesteps.max=500`: no timestep is trained: `timesteps.max` must be greater than \
         `timesteps.min`"
    );
    assert_eq!(
        message(&["model.zero_terminal_snr=true", "model.prediction_type=epsilon"]),
        "`--set model.zero_terminal_snr=true`: `model.zero_terminal_snr` cannot be used with \
         `prediction_type = \"epsilon\"`: there is no image left at the last timestep to tell from the noise\n  \
         hint: set `prediction_type = \"v_prediction\"`"
    );
}

#[test]
fn validation_needs_images() {
    assert_eq!(
        Project::new(&format!("{SMALLEST}[validation]\nevery_steps = 5\n")).messages_with(&[]),
        "error: configs/run.toml:7: there are no images to validate on\n  \
         hint: set `validation.path` or `validation.split`"
    );
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    assert_eq!(
        Project::new("").messages_with(&[]),
        "error: configs/run.toml: missing section `[model]`\n  hint: it needs `path`\n\
         error: configs/run.toml: missing section `[data]`\n\
         error: configs/run.toml: the length of the run is not set\n  hint: set `train.max_steps` or `train.max_epochs`"
    );
}

#[test]
fn mistakes_of_all_kinds_appear_together_and_none_twice() {
    let text = "\
method = \"lorra\"
[model]
path = \"builtin:poster-tinny\"
[data]
batch_sise = 0
resolution = \"big\"
[[data.subsets]]
path = \"../nowhere\"
repeats = 0
[optimizer]
type = \"adamw\"
learnin_rate = 1e-4
weight_decay = -1
[train]
max_stps = 10
";
    assert_eq!(
        Project::new(text).messages_with(&[]),
        "error: configs/run.toml:1: `method` must be `lora`, `full`, `dreambooth`, `inpainting`, `vae` or `textual_inversion`, not \"lorra\"\n  \
         hint: did you mean `lora`?\n\
         error: configs/run.toml:3: `model.path`: there is no built-in model `poster-tinny`\n  \
         hint: there is `builtin:poster-tiny`\n\
         error: configs/run.toml:5: unknown key `data.batch_sise`\n  hint: did you mean `batch_size`?\n\
         error: configs/run.toml:6: `data.resolution` must be a whole number or a list, not \"big\"\n\
         error: configs/run.toml:8: `data.subsets.0.path`: `nowhere` does not exist\n  hint: `.` has no `nowhere`\n\
         error: configs/run.toml:9: `data.subsets.0.repeats` must be greater than 0, not 0\n  \
         hint: to train without these images, leave the subset out\n\
         error: configs/run.toml:12: unknown key `optimizer.learnin_rate` with `type = \"adamw\"`\n  \
         hint: did you mean `learning_rate`?\n\
         error: configs/run.toml:13: `optimizer.weight_decay` must not be negative, and is -1\n\
         error: configs/run.toml:15: unknown key `train.max_stps`\n  hint: did you mean `max_steps`?"
    );
}

#[test]
fn keys_of_kohyas_scripts_and_diffusers_are_translated() {
    for (theirs, ours) in [
        ("network_dim", "lora.rank"),
        ("lora.network_alpha", "lora.alpha"),
        ("pretrained_model_name_or_path", "model.path"),
        ("train_batch_size", "data.batch_size"),
        ("data.enable_bucket", "data.bucketing.enabled"),
        ("data.subsets.0.num_repeats", "data.subsets.repeats"),
        ("data.subsets.0.is_reg", "data.subsets.is_regularization"),
        ("data.subsets.0.color_aug", "data.subsets.color_augmentation"),
        ("data.subsets.0.conditioning_data_dir", "data.subsets.extra_images"),
        ("resize_interpolation", "data.resize_kernel"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("noise_offset", "noise.offset"),
        ("noise.min_timestep", "timesteps.min"),
        ("ip_noise_gamma", "noise.input_perturbation"),
        ("loss.debiased_estimation_loss", "loss.debiased_estimation"),
        ("data.subsets.0.loss_multiplier", "data.subsets.loss_weight"),
        ("mixed_precision", "precision.compute"),
        ("max_train_steps", "train.max_steps"),
        ("save_every_n_epochs", "save.every_epochs"),
    ] {
        let answer = message(&[&format!("{theirs}=1")]);
        assert!(answer.contains(&format!("\n  hint: it is called `{ours}` here")), "{answer}");
    }
}

#[test]
fn a_subset_is_a_folder_a_file_of_images_or_a_pattern() {
    let project = Project::new(SMALLEST);
    for name in ["shard.tar", "rows.PARQUET", "metadata.jsonl", "notes.md"] {
        project.write(name, "");
    }
    for path in ["shard.tar", "rows.PARQUET", "metadata.jsonl", "shard-{000..003}.tar", "*.tar"] {
        let path = project.path(path);
        let subsets = format!("data.subsets=[{{path = \"{}\"}}]", path.display());
        assert_eq!(project.load_with(&[&subsets]).expect(&subsets).config.data.subsets[0].path, path);
    }
    let refused = |path: &str| project.messages_with(&[&format!("data.subsets=[{{path = \"{path}\"}}]")]);
    let messages = refused(&project.path("notes.md").display().to_string());
    assert!(messages.contains("`notes.md` is a file, not a folder"), "{messages}");
    assert!(messages.contains("hint: files that hold or name images end in `.tar`, `.parquet`"), "{messages}");
    for address in ["https://example.org/shard-{0..9}.tar", "s3://bucket/images/0.parquet"] {
        let subsets = format!("data.subsets=[{{path = \"{address}\"}}]");
        let data = project.load_with(&[&subsets, "data.download_dir=\"shards\""]).expect(&subsets).config.data;
        assert_eq!(data.subsets[0].path, Path::new(address));
        assert!(data.download_dir.unwrap().is_absolute());
    }
    let messages = refused("s3://bucket/images");
    assert!(messages.contains("`data.subsets.0.path`: `s3://bucket/images` is no tar or Parquet file"), "{messages}");
    assert!(messages.contains("hint: images are fetched in shards"), "{messages}");
}

#[test]
fn cropping_unscaled_images_needs_random_crops_and_no_buckets() {
    let messages = |settings: &str| {
        let text = SMALLEST.replace("[train]", &format!("crop_unscaled = true\n{settings}\n[train]"));
        Project::new(&text).load_with(&["data.cache_latents=false"]).map_err(|problems| problems.to_string())
    };
    assert!(messages("random_crop = true\nbucketing = { enabled = false }").is_ok());
    for wrong in ["random_crop = true", "bucketing = { enabled = false }"] {
        let message = messages(wrong).unwrap_err();
        assert!(message.contains("`data.subsets.0.crop_unscaled` needs `random_crop = true`"), "{message}");
    }
}

#[test]
fn squeezed_images_are_not_cut_at_random() {
    let messages = |settings: &str| {
        let text = SMALLEST.replace("[train]", &format!("{settings}\n[train]"));
        let changes = ["data.cache_latents=false", "data.resize=\"squeeze\""];
        Project::new(&text).load_with(&changes).map_err(|problems| problems.to_string())
    };
    assert_eq!(messages("flip = true").unwrap().config.data.resize, sdtrain_recipe::ResizeMode::Squeeze);
    let message = messages("random_crop = true").unwrap_err();
    assert!(message.contains("`data.subsets.0.random_crop`: squeezed images (`data.resize`) are not cut"), "{message}");
}

#[test]
fn an_extra_image_lies_in_one_place() {
    for (extra, expected) in [
        ("{ column = \"mask\", suffix = \"-m\", source_column = \"m\" }", "is set beside `path` or `suffix`"),
        (
            "{ column = \"mask\", source_column = \"\" }",
            "`data.subsets.0.extra_images.0.source_column` must not be empty",
        ),
        ("{ column = \"conditioning_image\", source_column = \"m\" }", "there are two columns `conditioning_image`"),
    ] {
        let settings = format!("conditioning_image_column = \"edge\"\nextra_images = [{extra}]\n[train]");
        let messages = Project::new(&SMALLEST.replace("[train]", &settings)).messages_with(&[]);
        assert!(messages.contains(expected), "{messages}");
    }
    let settings = "extra_images = [{ column = \"mask\", source_column = \"m\" }]\n[train]";
    assert_eq!(Project::new(&SMALLEST.replace("[train]", settings)).load().data.subsets[0].extra_images.len(), 1);
}

#[test]
fn several_caption_files_are_told_apart_and_one_can_be_chosen() {
    let listed = |captions: &str, expected: &str| {
        let text = SMALLEST.replace("[train]", &format!("captions = [{captions}]\n[train]"));
        let messages = Project::new(&text).messages_with(&[]);
        assert_eq!(messages, format!("error: configs/run.toml:5: {expected}"));
    };
    listed(
        "{ extension = \".txt\" }, { extension = \".txt\" }",
        "`data.subsets.0.captions.1.extension`: \".txt\" is listed already",
    );
    listed(
        "{ extension = \".txt\", weight = -1 }",
        "`data.subsets.0.captions.0.weight` must not be negative, and is -1",
    );
    listed(
        "{ extension = \".txt\", weight = 0 }",
        "every weight of `data.subsets.0.captions` is 0, so none could be chosen",
    );
    listed(
        "{ extension = \"long\" }",
        "`data.subsets.0.captions.0.extension` must begin with a dot, not \"long\"\n  hint: write \".long\"",
    );
    listed(
        "{ column = \"long\", extension = \".long\" }",
        "`data.subsets.0.captions.0.extension` and `data.subsets.0.captions.0.column` are both set\n  \
         hint: captions lie in files of their own or in a column: keep the one that is meant",
    );
    listed(
        "{ column = \"long\" }, { column = \"long\" }",
        "`data.subsets.0.captions.1.column`: \"long\" is listed already",
    );
    let text = SMALLEST
        .replace("[train]", "caption_extension = \".caption\"\ncaptions = [{ extension = \".long\" }]\n[train]");
    assert_eq!(
        Project::new(&text).messages_with(&[]),
        "error: configs/run.toml:5: `data.subsets.0.caption_extension` and `data.subsets.0.captions` are both set\n  \
         hint: give `.caption` to one of `captions`"
    );
}

#[test]
fn parts_that_are_dropped_need_a_separator_as_those_that_are_shuffled_do() {
    for option in ["shuffle_caption=true", "caption_tag_dropout_rate=0.5", "token_warmup_step=10"] {
        let setting = format!("data.subsets.0.{option}");
        assert_eq!(
            message(&[&setting, "data.subsets.0.caption_separator=\"\""]),
            "`--set data.subsets.0.caption_separator=\"\"`: `data.subsets.0.caption_separator` must not be empty"
        );
    }
}

#[test]
fn what_is_left_out_on_purpose_is_refused_with_the_reason() {
    assert_eq!(
        message(&["data.subsets.0.face_crop_aug_range=[1.0, 2.0]"]),
        "`--set data.subsets.0.face_crop_aug_range=[1.0, 2.0]`: unknown key `data.subsets.0.face_crop_aug_range`\n  \
         hint: crops around faces are not made: cut the images before, or use `random_crop = true`"
    );
}

#[test]
fn strengths_of_colour_changes_have_ranges() {
    for (name, largest) in
        [("hue", "180"), ("gamma", "0.9"), ("saturation", "1"), ("brightness", "1"), ("contrast", "1")]
    {
        let key = format!("data.subsets.0.color_augmentation.{name}");
        let setting = format!("{key}=-1");
        assert_eq!(
            message(&["data.cache_latents=false", &setting]),
            format!("`--set {setting}`: `{key}` must be between 0 and {largest}, not -1")
        );
    }
}

/// Two subsets, of which the second has these settings.
fn with_second(settings: &str) -> Project {
    Project::new(&SMALLEST.replace("[train]", &format!("[[data.subsets]]\npath = \"../images\"\n{settings}\n[train]")))
}

#[test]
fn regularization_images_are_counted_out() {
    let config = with_second("is_regularization = true\nrepeats = 3").load();
    assert!(config.data.subsets[1].is_regularization);
    let weighed = with_second("is_regularization = true").load_with(&["loss.prior_loss_weight=0.5"]);
    assert_eq!(weighed.expect("a weight").config.loss.prior_loss_weight, 0.5);
    assert_eq!(
        with_second("is_regularization = true\nrepeats = 1.5").messages_with(&[]),
        "error: configs/run.toml:8: `data.subsets.1.repeats` must be a whole number for regularization images, not 1.5\n  \
         hint: they are counted out: as many of them are seen as there are training images"
    );
    assert_eq!(
        with_second("is_regularization = true\nweight = 1").messages_with(&["data.subsets.0.weight=1"]),
        "error: configs/run.toml:8: regularization images have no weight: as many of them are seen as there are others\n  \
         hint: remove it; `loss.prior_loss_weight` says how much they count"
    );
    let vae = with_second("is_regularization = true").messages_with(&["method=vae", "loss.prior_loss_weight=0.5"]);
    assert!(vae.contains("`loss.prior_loss_weight` is not made for `method = \"vae\"`"), "{vae}");
}

#[test]
fn every_subset_has_a_weight_or_none() {
    assert_eq!(with_second("weight = 3").load_with(&["data.subsets.0.weight=1"]).map(|_| ()).ok(), Some(()));
    assert_eq!(
        with_second("weight = 3").messages_with(&[]),
        "error: configs/run.toml:3: `data.subsets.0.weight` is not set, but `data.subsets.1.weight` is\n  \
         hint: give every subset a weight, or none; only regularization images have none"
    );
}

#[test]
fn a_subset_has_sizes_of_its_own_or_those_of_the_data() {
    let config = with_second("resolution = 1024\nbatch_size = 2\nbucketing = { enabled = false }").load();
    let [first, second] = [0, 1].map(|index| config.data.batching(&config.data.subsets[index]));
    assert_eq!(first, config.data.own_batching());
    assert_eq!((second.resolution.width(), second.batch_size, second.bucketing.enabled), (1024, 2, false));
    assert_eq!(config.data.batchings(), [first, second]);
}

#[test]
fn a_dropout_of_kohyas_scripts_is_told_where_it_acts() {
    assert!(message(&["lora.network_dropout=0.1"]).contains("with `lora.dropout_at = \"rank_activations\"`"));
}

#[test]
fn lpips_needs_its_network() {
    let found = message(&["vae_objective.lpips_weight=0.5", "method=vae"]);
    assert!(found.contains("`vae_objective.lpips_weight` needs a network"), "{found}");
    let found = message(&["vae_objective.lpips=nowhere.safetensors", "method=vae"]);
    assert!(found.contains("`vae_objective.lpips`") && found.contains("does not exist"), "{found}");
}

#[test]
fn a_file_of_a_vae_alone_has_no_place_for_another_scale() {
    let found = message(&["vae_objective.product=vae", "method=vae"]);
    assert!(found.contains("`vae_objective.product`: a file of a VAE alone has no place for the scale"), "{found}");
    assert!(found.contains("set `full.format = \"diffusers\"`, or `vae_objective.train_encoder = false`"), "{found}");
}
