//! The named colours of objects and backgrounds, and how far apart two colours look.

/// An sRGB colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// This colour moved towards `other`; `amount` 0 keeps it, 1 gives `other`.
    pub fn mix(self, other: Rgb, amount: f32) -> Rgb {
        let channel = |a: u8, b: u8| (a as f32 + (b as f32 - a as f32) * amount).round() as u8;
        Rgb(channel(self.0, other.0), channel(self.1, other.1), channel(self.2, other.2))
    }

    /// This colour with `offset` added to each channel.
    pub fn shifted(self, offset: [i16; 3]) -> Rgb {
        let channel = |value: u8, by: i16| (value as i16 + by).clamp(0, 255) as u8;
        Rgb(channel(self.0, offset[0]), channel(self.1, offset[1]), channel(self.2, offset[2]))
    }

    /// CIE L*a*b* (D65), in which distance is close to how different two colours look.
    pub fn lab(self) -> [f32; 3] {
        let linear = |value: u8| {
            let value = value as f32 / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        let (r, g, b) = (linear(self.0), linear(self.1), linear(self.2));
        let curve = |t: f32| {
            if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 }
        };
        let x = curve((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047);
        let y = curve(0.2126 * r + 0.7152 * g + 0.0722 * b);
        let z = curve((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883);
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    /// Distance in L*a*b* (CIE 1976); about 2 is just visible.
    pub fn distance(self, other: Rgb) -> f32 {
        lab_distance(self.lab(), other.lab())
    }

    /// Whether text on this colour should be light.
    pub fn is_dark(self) -> bool {
        self.lab()[0] < 45.0
    }
}

/// Euclidean distance of two L*a*b* colours.
pub(crate) fn lab_distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2) + (a[2] - b[2]).powi(2)).sqrt()
}

/// Ink: the dark of title bars, frames and outlines.
pub(crate) const INK: Rgb = Rgb(34, 30, 44);
/// Paper: the light of title bars on dark backgrounds.
pub(crate) const PAPER: Rgb = Rgb(250, 243, 226);
/// Tables are made of this.
pub(crate) const WOOD: Rgb = Rgb(124, 76, 48);

macro_rules! named_colours {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $word:literal ($r:literal, $g:literal, $b:literal),)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // the variants are their names
        pub enum $name { $($variant,)* }

        impl $name {
            /// All of them, in a fixed order.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The word used in captions.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The colour itself.
            pub fn rgb(self) -> Rgb {
                match self { $($name::$variant => Rgb($r, $g, $b),)* }
            }
        }
    };
}

named_colours! {
    /// Colour of the object: strong, and far from the others even after some blur.
    Colour {
        Red "red" (212, 32, 44),
        Orange "orange" (246, 130, 22),
        Yellow "yellow" (252, 212, 32),
        Green "green" (34, 152, 66),
        Blue "blue" (24, 96, 208),
        Purple "purple" (160, 48, 176),
        Black "black" (24, 24, 28),
        White "white" (252, 252, 252),
    }
}

named_colours! {
    /// Colour of the background. No word is shared with [`Colour`], so a caption says which is which by its words alone.
    Background {
        Cream "cream" (244, 224, 178),
        Pink "pink" (246, 170, 188),
        Mint "mint" (152, 214, 184),
        Sky "sky" (126, 190, 234),
        Grey "grey" (138, 142, 152),
        Teal "teal" (18, 110, 122),
        Navy "navy" (30, 44, 88),
    }
}

impl Background {
    /// Whether an object of this colour stands out clearly.
    pub fn shows(self, colour: Colour) -> bool {
        // 36: clearly visible after the blur of a small VAE; excludes white on cream, black on navy and the like.
        self.rgb().distance(colour.rgb()) >= 36.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_colours_are_far_apart() {
        for &a in Colour::ALL {
            for &b in Colour::ALL {
                let distance = a.rgb().distance(b.rgb());
                assert!(a == b || distance > 40.0, "{a:?} and {b:?} are {distance} apart");
            }
        }
    }

    #[test]
    fn every_colour_is_shown_by_at_least_four_backgrounds() {
        for &colour in Colour::ALL {
            let shown = Background::ALL.iter().filter(|background| background.shows(colour)).count();
            assert!(shown >= 4, "{colour:?} is shown by {shown}");
        }
        assert!(!Background::Cream.shows(Colour::White));
        assert!(!Background::Navy.shows(Colour::Black));
    }
}
