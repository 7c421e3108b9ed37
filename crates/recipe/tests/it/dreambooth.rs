//! What a DreamBooth configuration must and must not say.

use sdtrain_recipe::{ClassPrompt, Prior, Resolution, SourceFormat, TrainableKind};

use crate::project::{Project, SMALLEST};

fn project(more: &str) -> Project {
    Project::new(&format!("method = \"dreambooth\"\n{SMALLEST}{more}"))
}

#[test]
fn dreambooth_trains_the_model_itself_unless_told_otherwise() {
    let project = project("[dreambooth]\nclass_prompt = \"a dog\"\n");
    let config = project.load();
    assert_eq!((config.trainable_kind(), config.dreambooth.prior), (TrainableKind::Full, Prior::ClassImages));
    assert_eq!(config.dreambooth.num_class_images, 100);
    let lora = project.load_with(&["trainable=lora"]).unwrap().config;
    assert_eq!(lora.trainable_kind(), TrainableKind::Lora);
}

#[test]
fn class_images_take_turns_with_several_prompts_and_seeds() {
    let overrides = ["dreambooth.num_class_images=3", "dreambooth.seed=7", "data.subsets.0.resolution=[64, 96]"];
    let project = project("[dreambooth]\nclass_prompt = [\"a dog\", \"a dog on a beach\"]\n");
    let config = project.load_with(&overrides).unwrap().config;
    let pictures = config.class_pictures();
    let seen: Vec<_> = pictures.iter().map(|p| (p.prompt.as_str(), p.seed, p.width, p.height)).collect();
    assert_eq!(seen, [("a dog", 7, 64, 96), ("a dog on a beach", 8, 64, 96), ("a dog", 9, 64, 96)]);
    assert_eq!((pictures[0].steps, pictures[0].guidance), (50, 7.5));
    assert!(matches!(config.dreambooth.class_prompt, ClassPrompt::Several(_)));
}

#[test]
fn class_images_are_sized_and_batched_as_the_subject_but_not_captioned_as_it() {
    let project = project("[dreambooth]\nclass_prompt = \"a dog\"\n");
    let overrides = [
        "data.subsets.0.resolution=256",
        "data.subsets.0.caption_prefix=sks",
        "data.subsets.0.flip=true",
        "data.subsets.0.repeats=5",
    ];
    let config = project.load_with(&overrides).unwrap().config;
    let class = config.class_subset("class".into(), "table.jsonl".into());
    assert_eq!((class.resolution, class.flip, class.repeats), (Some(Resolution::Square(256)), true, 1.0));
    assert_eq!((class.caption_prefix, class.class_tokens, class.format), (None, None, SourceFormat::Metadata));
    assert!(class.is_regularization);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let class = "[dreambooth]\nclass_prompt = \"a dog\"\n";
    let no_prompt = "`dreambooth.class_prompt` is empty\n  hint: say what the subject is one of, as \"a photo of a dog\", \
                     or set `prior = \"none\"`";
    for (more, overrides, expected) in [
        ("", &[][..], no_prompt),
        (class, &["dreambooth.class_prompt=[\"a dog\", \" \"]"], "`dreambooth.class_prompt` is empty"),
        (class, &["dreambooth.num_class_images=0"], "`dreambooth.num_class_images` must be at least 1, not 0"),
        (class, &["dreambooth.steps=0"], "`dreambooth.steps` must be at least 1, not 0"),
        (
            "[dreambooth]\nclass_prompt = \"a dog\"\nclass_data_dir = \"run.toml\"\n",
            &[],
            "`dreambooth.class_data_dir`: `configs/run.toml` is a file, not a folder",
        ),
        (class, &["trainable=vae"], "cannot train `\"vae\"`"),
        (
            class,
            &["trainable=textual_inversion", "textual_inversion.tokens=[{word=\"snorp\"}]"],
            "cannot train `\"textual_inversion\"`: a word alone leaves its class as it is\n  \
             hint: set `method = \"textual_inversion\"` and leave `trainable` out",
        ),
        (class, &["dreambooth.with_prior_preservation=true"], "it is called `dreambooth.prior` here"),
        (
            "[[data.subsets]]\npath = \"../images\"\nis_regularization = true\n[dreambooth]\nclass_prompt = \"a dog\"\n",
            &["dreambooth.prior=base_prediction"],
            "regularization images have no place beside `dreambooth.prior = \"base_prediction\"`, which needs none\n  \
             hint: leave the subset out, or set `dreambooth.prior = \"none\"`",
        ),
    ] {
        let messages = project(more).messages_with(overrides);
        assert!(messages.contains(expected), "{overrides:?}: {messages}");
    }
    assert!(project("[dreambooth]\nprior = \"none\"\n").load_with(&[]).is_ok());
}

#[test]
fn the_prior_loss_weight_needs_a_prior() {
    let weight = ["loss.prior_loss_weight=0.5"];
    assert!(project("[dreambooth]\nclass_prompt = \"a dog\"\n").load_with(&weight).is_ok());
    assert!(project("[dreambooth]\nprior = \"none\"\n").messages_with(&weight).contains("there are none"));
}
