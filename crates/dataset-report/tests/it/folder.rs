//! A temporary folder of images for a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use sdtrain_dataset_report::{Depth, Survey};
use sdtrain_recipe::{BucketingConfig, CleanConfig, DataConfig, MissingDpi, Resolution, Subset};

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        fs::create_dir(folder.data()).unwrap();
        folder
    }

    /// The folder of the data, which has a folder to itself.
    pub fn data(&self) -> PathBuf {
        self.root().join("images")
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn image(&self, name: &str, image: &RgbImage) {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }

    pub fn jpeg(&self, name: &str, image: &RgbImage, quality: u8) {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image).unwrap();
        self.file(name, bytes);
    }

    /// The data at 64 pixels in buckets of 16, with all rules of cleaning off but broken files.
    pub fn config(&self) -> DataConfig {
        DataConfig {
            resolution: Resolution::Square(64),
            bucketing: BucketingConfig { step: Some(16), ..BucketingConfig::default() },
            subsets: vec![Subset { path: self.data(), ..Subset::default() }],
            clean: CleanConfig {
                min_side: 0,
                max_side: 0,
                min_kilobytes_per_pixel: 0.0,
                min_dpi: 0.0,
                missing_dpi: MissingDpi::Keep,
                ..CleanConfig::default()
            },
            ..DataConfig::default()
        }
    }

    /// Content of every file below the folder that holds the data, manifests left out.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.root(), &self.root(), &mut files);
        files.retain(|path, _| !path.to_string_lossy().contains("manifest"));
        files
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.files().into_keys().map(|path| path.to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(root, &path, files),
            false => {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
}

pub fn survey(config: &DataConfig) -> Survey {
    Survey::of(config, Depth::Pixels, &|_, _| ()).unwrap()
}

/// Waves and a bar, different for each `kind`.
pub fn picture(width: u32, height: u32, kind: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let wave = ((u * 7.0 + kind as f32).sin() * (v * 5.0 - kind as f32 * 0.7).cos() * 100.0 + 120.0) as u8;
        let bar = if (u - 0.1 - kind as f32 * 0.13).abs() < 0.06 { 250 } else { wave };
        Rgb([bar, wave, 255 - wave])
    })
}
