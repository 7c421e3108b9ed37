//! What the types cannot say about the masks of inpainting.

use crate::check::Checker;
use crate::{InpaintingConfig, MaskSource, ObjectiveKind, TrainConfig};

/// More shapes than these cover every image whole, and each takes its time.
const MOST_SHAPES: u32 = 100;

impl Checker<'_> {
    /// `[inpainting]`, and what it asks of `[data]`.
    pub(crate) fn check_inpainting(&mut self, config: &TrainConfig) {
        let inpainting = &config.inpainting;
        self.at_least_one("inpainting.max_shapes", Some(u64::from(inpainting.max_shapes)));
        if inpainting.max_shapes > MOST_SHAPES {
            let key = "inpainting.max_shapes";
            let message = format!("`{key}` is at most {MOST_SHAPES}, not {}", inpainting.max_shapes);
            self.report(key, message).hint = Some("1 to 10 is usual".to_owned());
        }
        self.between_zero_and_one("inpainting.whole_probability", inpainting.whole_probability);
        for (key, size) in [("min_size", inpainting.min_size), ("max_size", inpainting.max_size)] {
            if !(size > 0.0 && size <= 1.0) {
                let key = format!("inpainting.{key}");
                self.report(&key, format!("`{key}` must be greater than 0 and at most 1, not {size}"));
            }
        }
        if inpainting.min_size > inpainting.max_size {
            self.report("inpainting.min_size", "`inpainting.min_size` is greater than `inpainting.max_size`");
        }
        if config.objective_kind() != ObjectiveKind::Inpainting {
            return;
        }
        match inpainting.masks {
            MaskSource::Random if inpainting.shapes.is_empty() && inpainting.whole_probability < 1.0 => {
                self.report("inpainting.shapes", "`inpainting.shapes` is empty, so that nothing is covered").hint =
                    Some("name a shape, or set `inpainting.whole_probability = 1.0`".to_owned());
            }
            MaskSource::Random => {}
            MaskSource::Files => {
                if !config.data.subsets.iter().any(|subset| subset.has_masks()) {
                    let message = "`inpainting.masks = \"files\"`: no subset has masks";
                    self.report("inpainting.masks", message).hint = Some(
                        "give a subset `extra_images` with `column = \"mask\"`, or set `alpha_mask` in it".to_owned(),
                    );
                }
                let plain = InpaintingConfig { masks: MaskSource::Files, ..InpaintingConfig::default() };
                if *inpainting != plain {
                    let message = "`[inpainting]` says how masks are drawn, but `masks = \"files\"` draws none";
                    self.report("inpainting", message).hint =
                        Some("leave the other keys out, or set `masks = \"random\"`".to_owned());
                }
            }
        }
    }
}
