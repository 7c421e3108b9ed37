//! A bug on purpose: a test of this crate shows with it that it would notice an innocent image that is named.
//!
//! Without the feature `seeded-bugs` nothing of it is compiled. With it, the environment variable `SDTRAIN_SEEDED_FEATURE_BUG` chooses it
//! by its name, `first-image`.

/// The number of the image that is named where the latents of `image` are not finite.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub(crate) const fn blamed(image: usize) -> usize {
    image
}

/// The same; with the bug, the first image of the data set (kohya_ss#2244). A name that there is not ends the process: it would pass for a
/// build without bugs.
#[cfg(feature = "seeded-bugs")]
pub(crate) fn blamed(image: usize) -> usize {
    match std::env::var("SDTRAIN_SEEDED_FEATURE_BUG").as_deref() {
        Ok("first-image") => 0,
        Ok(name) => panic!("SDTRAIN_SEEDED_FEATURE_BUG names `{name}`, which is no seeded bug"),
        Err(_) => image,
    }
}
