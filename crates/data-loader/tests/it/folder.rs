//! A temporary folder of images for a test, and configurations of it.

use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use sdtrain_recipe::{BucketingConfig, DataConfig, Resolution, Subset};

/// A folder that goes away with the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    /// `count` pictures of 64 × 48 pixels, `00.png` and so on, each with a caption of its own.
    pub fn with_images(count: usize) -> Self {
        let folder = Folder::new();
        for index in 0..count {
            folder.image(&format!("{index:02}.png"), &picture(64, 48, index as u8));
            folder.file(&format!("{index:02}.txt"), format!("t, a{index}, b{index}, c{index}").as_bytes());
        }
        folder
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn file(&self, name: &str, content: &[u8]) {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub fn image(&self, name: &str, image: &RgbImage) {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }

    pub fn subset(&self) -> Subset {
        Subset { path: self.path().to_owned(), ..Subset::default() }
    }

    /// This folder at 64 pixels, buckets in steps of 16.
    pub fn config(&self) -> DataConfig {
        DataConfig {
            resolution: Resolution::Square(64),
            batch_size: 2,
            subsets: vec![self.subset()],
            bucketing: BucketingConfig { step: Some(16), ..BucketingConfig::default() },
            ..DataConfig::default()
        }
    }

    /// This folder at one size, whatever the shape.
    pub fn config_of_size(&self, width: u32, height: u32) -> DataConfig {
        DataConfig {
            resolution: Resolution::Size([width, height]),
            bucketing: BucketingConfig { enabled: false, ..BucketingConfig::default() },
            batch_size: 1,
            ..self.config()
        }
    }
}

/// Red rises to the right, green downwards, blue is the picture's own.
pub fn picture(width: u32, height: u32, blue: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, blue]))
}
