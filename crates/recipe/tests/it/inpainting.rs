//! What a configuration of inpainting must and must not say.

use sdtrain_recipe::{MaskSource, TrainableKind};

use crate::project::{Project, SMALLEST};

fn project() -> Project {
    Project::new(&format!("method = \"inpainting\"\n{SMALLEST}"))
}

fn message(changes: &[&str]) -> String {
    project().load_with(changes).expect_err("it is refused").to_string()
}

#[test]
fn inpainting_trains_the_model_itself_with_random_masks_unless_told_otherwise() {
    let config = project().load();
    assert_eq!((config.trainable_kind(), config.inpainting.masks), (TrainableKind::Full, MaskSource::Random));
    let lora = project().load_with(&["trainable=lora"]).unwrap().config;
    assert_eq!(lora.trainable_kind(), TrainableKind::Lora);
}

#[test]
fn masks_that_cannot_be_drawn_are_refused() {
    for (change, expected) in [
        ("inpainting.max_shapes=0", "`inpainting.max_shapes` must be at least 1"),
        ("inpainting.max_shapes=101", "`inpainting.max_shapes` is at most 100, not 101"),
        ("inpainting.min_size=0", "`inpainting.min_size` must be greater than 0 and at most 1, not 0"),
        ("inpainting.max_size=1.5", "`inpainting.max_size` must be greater than 0 and at most 1, not 1.5"),
        ("inpainting.min_size=0.7", "`inpainting.min_size` is greater than `inpainting.max_size`"),
        ("inpainting.whole_probability=2", "inpainting.whole_probability"),
        ("inpainting.shapes=[]", "`inpainting.shapes` is empty, so that nothing is covered"),
    ] {
        let found = message(&[change]);
        assert!(found.contains(expected), "{change}: {found}");
    }
    assert!(project().load_with(&["inpainting.shapes=[]", "inpainting.whole_probability=1"]).is_ok());
}

#[test]
fn masks_of_files_must_be_there_and_nothing_is_said_of_drawn_ones() {
    let found = message(&["inpainting.masks=files"]);
    assert!(found.contains("`inpainting.masks = \"files\"`: no subset has masks"), "{found}");
    let with_masks = ["inpainting.masks=files", "data.subsets.0.alpha_mask=true"];
    assert!(project().load_with(&with_masks).is_ok());
    let found = message(&[with_masks[0], with_masks[1], "inpainting.max_shapes=5"]);
    assert!(found.contains("but `masks = \"files\"` draws none"), "{found}");
    // They are no loss masks then.
    let found = message(&[with_masks[0], with_masks[1], "loss.unmasked_weight=0.1"]);
    assert!(
        found.contains("`loss.unmasked_weight` is about loss masks: with `inpainting.masks = \"files\"`"),
        "{found}"
    );
    assert!(project().load_with(&[with_masks[1], "loss.unmasked_weight=0.1"]).is_ok());
}

#[test]
fn the_number_of_input_channels_fits_the_method_or_is_refused() {
    let inpainting = project().load();
    assert!(inpainting.unet_input_refused(9).is_none());
    assert!(inpainting.unet_input_refused(4).is_some());
    let (message, hint) = inpainting.unet_input_refused(8).expect("nothing trains it");
    assert!(message.contains("editing by instruction (InstructPix2Pix, 8 input channels)"), "{message}");
    assert!(hint.contains("`sdtrain convert`"), "{hint}");
    for (method, refused_with_nine) in [("lora", true), ("full", true), ("vae", false)] {
        let config = project().load_with(&[&format!("method={method}")]).unwrap().config;
        assert!(config.unet_input_refused(4).is_none(), "{method}");
        assert_eq!(config.unet_input_refused(9).is_some(), refused_with_nine, "{method}");
        assert_eq!(config.unet_input_refused(8).is_some(), method != "vae", "{method}");
    }
}
