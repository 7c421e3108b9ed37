//! What a random number is for: streams of different purposes never share values.

/// The use of a stream; part of its key, so that one more draw in one place changes nothing in another.
///
/// The codes are written into every result of a run: a code is never changed or used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Order of examples and of batches in an epoch.
    Order = 1,
    /// Caption steps: shuffling and dropping of tags.
    Caption = 2,
    /// Position of a random crop.
    Crop = 3,
    /// Whether an image is mirrored.
    Flip = 4,
    /// The draw from the VAE's posterior that turns its moments into latents.
    Latent = 5,
    /// The Gaussian noise added to latents.
    Noise = 6,
    /// The per-channel offset added to that noise.
    NoiseOffset = 7,
    /// The timestep of an example.
    Timestep = 8,
    /// Dropout inside adapters and networks.
    Dropout = 9,
    /// Initial values of trained parameters.
    Init = 10,
    /// Procedurally drawn images.
    Drawing = 11,
    /// Noise and timesteps of a validation pass.
    Validation = 12,
    /// Images generated during a run.
    Sample = 13,
    /// Random changes of an image's colours.
    Color = 14,
    /// Whether an image that has a mask is trained whole.
    Unmasked = 20,
    /// The coarser levels of multi-resolution noise, and their sizes.
    MultiresNoise = 21,
    /// The second noise that noise and target both hold.
    Perturbation = 22,
    /// The second noise that only the input holds.
    InputPerturbation = 23,
    /// The strength of an example's noise offset.
    NoiseOffsetStrength = 24,
    /// The strength of an example's input perturbation.
    InputPerturbationStrength = 25,
    /// Which part of the distribution of timesteps each example of a batch gets.
    TimestepStratum = 26,
    /// What is covered of an image for inpainting.
    InpaintingMask = 27,
    /// The draw from the VAE's posterior of an image that a mask covers in part.
    MaskedLatent = 28,
    /// Whether a number that is put into fewer bits becomes the one below it or the one above.
    Rounding = 30,
}

impl Purpose {
    /// The number that stands for this purpose in a stream's key.
    pub fn code(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_ones_of_the_first_release() {
        let codes = [
            (Purpose::Order, 1),
            (Purpose::Caption, 2),
            (Purpose::Crop, 3),
            (Purpose::Flip, 4),
            (Purpose::Latent, 5),
            (Purpose::Noise, 6),
            (Purpose::NoiseOffset, 7),
            (Purpose::Timestep, 8),
            (Purpose::Dropout, 9),
            (Purpose::Init, 10),
            (Purpose::Drawing, 11),
            (Purpose::Validation, 12),
            (Purpose::Sample, 13),
            (Purpose::Color, 14),
            (Purpose::Unmasked, 20),
            (Purpose::MultiresNoise, 21),
            (Purpose::Perturbation, 22),
            (Purpose::InputPerturbation, 23),
            (Purpose::NoiseOffsetStrength, 24),
            (Purpose::InputPerturbationStrength, 25),
            (Purpose::TimestepStratum, 26),
            (Purpose::InpaintingMask, 27),
            (Purpose::MaskedLatent, 28),
            (Purpose::Rounding, 30),
        ];
        for (purpose, code) in codes {
            assert_eq!(purpose.code(), code, "{purpose:?}");
        }
    }
}
