//! Latents of kohya's scripts: taken where they fit, refused with the reason where not. The files are those of
//! `scripts/fixtures/kohya_npz.py`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sdtrain_data_loader::StillView;
use sdtrain_feature_cache::kohya_npz::{NO_RANDOMNESS, find, read};
use sdtrain_feature_cache::{LatentEntry, Origin};
use tempfile::TempDir;

use crate::sample::{SHAPE, view};

/// An image with one of the files beside it.
struct Pair {
    folder: TempDir,
    image: PathBuf,
    npz: PathBuf,
}

impl Pair {
    fn new(fixture: &str) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.b.png");
        fs::write(&image, "an image").unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/files").join(fixture);
        let npz = folder.path().join("a.b_0096x0064_sd.npz");
        // Written, not copied: a copy may keep the time of the original.
        fs::write(&npz, fs::read(from).unwrap()).unwrap();
        Pair { folder, image, npz }
    }

    fn read(&self, view: &StillView, shape: [usize; 3], mirrored: bool) -> Result<LatentEntry, String> {
        read(&self.npz, &self.image, view, shape, mirrored)
    }

    fn refusal(&self) -> String {
        self.read(&view(), SHAPE, false).unwrap_err()
    }
}

fn expected() -> Vec<f32> {
    (0..256).map(|index| index as f32 / 16.0 - 8.0).collect()
}

#[test]
fn latents_of_every_form_are_taken_without_randomness() {
    for fixture in ["plain.npz", "sizes.npz", "compressed.npz", "flipped.npz"] {
        let entry = Pair::new(fixture).read(&view(), SHAPE, fixture == "flipped.npz").unwrap();
        assert_eq!((entry.shape, entry.origin), (SHAPE, Origin::KohyaNpz), "{fixture}");
        assert_eq!(entry.plain.mean, expected(), "{fixture}");
        assert!(entry.plain.logvar.iter().all(|&logvar| logvar == NO_RANDOMNESS));
        assert_eq!(entry.mirrored.is_some(), fixture == "flipped.npz");
        if let Some(mirrored) = entry.mirrored {
            assert_eq!(mirrored.mean, expected().iter().map(|value| -value).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_file_is_found_under_its_names() {
    let pair = Pair::new("plain.npz");
    assert_eq!(find(&pair.image, (96, 64)).as_ref(), Some(&pair.npz));
    assert_eq!(find(&pair.image, (64, 96)), None);
    let old = pair.folder.path().join("a.b.npz");
    fs::rename(&pair.npz, &old).unwrap();
    assert_eq!(find(&pair.image, (96, 64)), Some(old));
}

#[test]
fn latents_of_another_place_are_refused_with_the_reason() {
    let pair = Pair::new("plain.npz");
    for (view, shape, reason) in [
        (
            StillView { bucket: (64, 32), ..view() },
            [4, 4, 8],
            "has the shape [4, 8, 8], the image's latents have [4, 4, 8]",
        ),
        (
            StillView { original_size: (96, 72), ..view() },
            SHAPE,
            "is of an image of 96 × 64 pixels, this one has 96 × 72",
        ),
        // The same image in the same bucket, squeezed.
        (
            StillView { resized: view().bucket, corner: (0, 0), ..view() },
            SHAPE,
            "is of an image that kept its shape, and here it is squeezed (`data.resize`)",
        ),
        // The same latents' size from another step of buckets.
        (StillView { bucket: (71, 71), ..view() }, SHAPE, "was cut at [0.0, 10.0, 64.0"),
    ] {
        let said = pair.read(&view, shape, false).unwrap_err();
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(pair.read(&view(), SHAPE, true), Err("holds no `latents_flipped`, and `flip` is on".to_owned()));
    let of_others = Pair::new("sizes.npz").read(&view(), [4, 16, 8], false).unwrap_err();
    assert_eq!(of_others, "holds no `latents` of 8 × 16");
    assert_eq!(Pair::new("nameless.npz").refusal(), "holds no `latents` of 8 × 8");
}

#[test]
fn a_file_older_than_its_image_is_refused() {
    let pair = Pair::new("plain.npz");
    let later = SystemTime::now() + Duration::from_secs(60);
    File::options().write(true).open(&pair.image).unwrap().set_modified(later).unwrap();
    assert_eq!(pair.refusal(), "is older than its image, which may have been edited since");
}

#[test]
fn broken_files_are_refused_and_none_panics() {
    let pair = Pair::new("compressed.npz");
    let whole = fs::read(&pair.npz).unwrap();
    for end in (0..whole.len()).step_by(13) {
        fs::write(&pair.npz, &whole[..end]).unwrap();
        assert!(pair.refusal().starts_with("is no `.npz` file"), "cut at {end}");
    }
    let mut refused = 0;
    for place in 0..whole.len() {
        let mut broken = whole.clone();
        broken[place] ^= 0x55;
        fs::write(&pair.npz, broken).unwrap();
        match pair.read(&view(), SHAPE, false) {
            // Bytes that nobody looks at, such as times.
            Ok(entry) => assert_eq!(entry.plain.mean, expected(), "changed at {place}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
}
