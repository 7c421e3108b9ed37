//! Bugs on purpose, one at a time: the tests of this crate show with them that they would notice a trainer that is wrong.
//!
//! Without the feature `seeded-bugs` nothing of them is compiled. With it, the environment variable
//! `SDTRAIN_SEEDED_TRAINER_BUG` names the one that this process has. Those of the checkpoint crate have a variable of their own.

sdtrain_checkpoint::seeded_bugs! {
    "SDTRAIN_SEEDED_TRAINER_BUG":
    LearningRate "learning-rate" "a continued run begins the schedule anew"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    Optimizer "optimizer" "what the optimizer keeps is not restored"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    Scaler "scaler" "the loss scale is not restored"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    Average "average" "the average of the weights is not restored"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    DataPosition "data-position" "a continued run begins its epoch anew"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    Epoch "epoch" "a continued run begins with the first epoch"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    Dropout "dropout" "the chance of dropout begins anew in a continued run"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    SkippedCount "skipped-count" "a continued run forgets how many steps in a row were skipped"
        "resuming::a_continued_run_has_the_bits_of_one_that_was_not_stopped",
    MissingScaler "missing-scaler" "a checkpoint without a loss scale begins with a new one, silently"
        "resuming::a_loss_scale_that_is_not_there_is_refused",
    FirstBlamed "first-blamed" "the first batch is blamed for another's number"
        "faults::of_two_accumulated_batches_the_faulty_one_is_named",
    ApplyNotFinite "apply-not-finite" "a gradient that is not finite reaches the weights"
        "faults::what_was_learned_before_the_step_that_ends_a_run_is_saved",
    SaveNotFinite "save-not-finite" "weights that are not finite are saved"
        "not_finite::weights_out_of_all_bounds_are_no_product",
    UnsavedInARow "unsaved-in-a-row" "a checkpoint that is due in a row of skipped steps is not saved"
        "faults::a_checkpoint_is_saved_in_a_row_of_skipped_steps_and_none_is_deleted_for_it",
    PruneInARow "prune-in-a-row" "older checkpoints are deleted in a row of skipped steps"
        "faults::a_checkpoint_is_saved_in_a_row_of_skipped_steps_and_none_is_deleted_for_it",
    EndInARow "end-in-a-row" "a run may end in skipped steps, whatever its weights are"
        "not_finite::a_run_does_not_end_where_no_step_shows_that_its_weights_are_good",
    NoRescue "no-rescue" "what was learned since the last checkpoint is lost with an error"
        "failures::data_that_vanish_in_the_middle_cost_no_step",
    ScaleOfFailed "scale-of-failed" "the step that ends a run leaves its loss scale behind"
        "faults::what_was_learned_before_the_step_that_ends_a_run_is_saved",
    PicturesEndRun "pictures-end-run" "pictures that cannot be drawn end the run"
        "failures::pictures_that_cannot_be_drawn_cost_neither_the_run_nor_a_checkpoint",
    SampleFirst "sample-first" "pictures are drawn before the checkpoint of their step is saved"
        "failures::a_checkpoint_is_there_before_its_pictures_are_drawn",
    AnyBase "any-base" "another base model is continued on"
        "resuming::a_base_that_was_replaced_under_its_path_is_refused_and_one_that_moved_is_not",
    AnyData "any-data" "other images are continued on"
        "resuming::an_edited_image_of_equal_length_is_noticed_and_a_copied_folder_is_not",
    AnyConfiguration "any-configuration" "keys that decide steps change unasked"
        "resuming::a_checkpoint_that_is_continued_elsewhere_is_held_against_its_own_configuration",
    SameEpoch "same-epoch" "other images go on in the middle of an epoch"
        "resuming::other_images_are_gone_on_with_where_that_is_allowed_from_the_beginning_of_an_epoch",
    KeepLater "keep-later" "of the products on the way the newest go"
        "resuming::of_the_products_on_the_way_the_oldest_go_whatever_their_times_say",
    Overflow "overflow" "weights that are infinite in fp16 are a product"
        "resuming::a_weight_that_fp16_cannot_hold_is_no_product_and_another_format_takes_it",
}

/// Keeps as many bytes as `SDTRAIN_SEEDED_LEAK` says, at each call: the leak that a soak must see.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn leak() {
    static BYTES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let bytes =
        *BYTES.get_or_init(|| std::env::var("SDTRAIN_SEEDED_LEAK").ok().and_then(|it| it.parse().ok()).unwrap_or(0));
    // Written to, or the system would not give it.
    std::hint::black_box(Box::leak(vec![1u8; bytes].into_boxed_slice()));
}

/// Nothing is kept.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub(crate) const fn leak() {}

/// Panics where `SDTRAIN_SEEDED_PANIC` is this phase of a run, as in `save:2`, for the second time, and hangs where `SDTRAIN_SEEDED_HANG`
/// is: the defects that the other ranks must notice and name. Says where it is `SDTRAIN_SEEDED_TELL`, to be killed there.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn fail_in(phase: &str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let comes_by = |wanted: &str| {
        let (name, time) = wanted.split_once(':').unwrap_or((wanted, "1"));
        name == phase && time.parse() == Ok(TIMES.fetch_add(1, Ordering::SeqCst) + 1)
    };
    if let Ok(wanted) = std::env::var("SDTRAIN_SEEDED_PANIC") {
        assert!(!comes_by(&wanted), "as SDTRAIN_SEEDED_PANIC wants it");
    }
    if std::env::var("SDTRAIN_SEEDED_TELL").is_ok_and(|wanted| comes_by(&wanted)) {
        sdtrain_files::say!("as wanted, it comes to the phase `{phase}`");
    }
    if std::env::var("SDTRAIN_SEEDED_HANG").is_ok_and(|wanted| comes_by(&wanted)) {
        sdtrain_files::say!("as wanted, it hangs in the phase `{phase}`");
        std::thread::sleep(std::time::Duration::MAX);
    }
}

/// Nothing happens.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub(crate) const fn fail_in(_phase: &str) {}
