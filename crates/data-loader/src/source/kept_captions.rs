//! The captions of an image folder as an earlier scan read them, as long as their files are unchanged.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ImageFolder, SourceCaption, SourceExample};
use crate::ImageProblem;
use crate::caption::sidecar;
use crate::manifest::{self, Digest, Known, LEAST, Manifest, Stamp, key_of};

/// The captions of a folder as they are read, or as they were when their files were the same.
pub(super) struct KeptCaptions {
    /// Absent for a folder of few images.
    manifest: Option<Manifest>,
    known: Option<Known>,
    /// Of each image so far: what its captions were read from, where that can be told.
    keys: Vec<Option<Digest>>,
    has_changed: bool,
    started: SystemTime,
}

impl KeptCaptions {
    /// `count`: images of the folder.
    pub fn of(folder: &ImageFolder, count: usize) -> KeptCaptions {
        let settings = format!("{:?}", (&folder.path, folder.recursive, &folder.caption_extensions));
        let scans = folder.scans.as_ref().filter(|_| count >= LEAST);
        let manifest = scans.map(|scans| Manifest::of(scans, "captions", settings.as_bytes()));
        let known = manifest.as_ref().map(Manifest::read);
        KeptCaptions { manifest, known, keys: Vec::new(), has_changed: false, started: SystemTime::now() }
    }

    /// Those of an image, from these files by the number of their source.
    pub fn read(
        &mut self,
        image: &Path,
        files: Vec<(usize, PathBuf)>,
        broken: &mut Vec<ImageProblem>,
    ) -> Vec<SourceCaption> {
        let key = match &self.known {
            Some(_) if !files.is_empty() => key_of_captions(&files, self.started),
            _ => None,
        };
        if let (Some(known), Some((key, _))) = (&mut self.known, &key) {
            let found = known.find(image.as_os_str().as_encoded_bytes(), key).and_then(captions_in);
            if let Some(captions) = found {
                self.keys.push(Some(*key));
                return captions;
            }
        }
        let mut captions = Vec::with_capacity(files.len());
        let mut is_whole = true;
        for (source, path) in files {
            match sidecar::read(&path) {
                Ok(text) => captions.push(SourceCaption { source, text }),
                Err(reason) => {
                    is_whole = false;
                    broken.push(ImageProblem { path, reason });
                }
            }
        }
        if self.manifest.is_some() {
            let key = key.filter(|(_, is_settled)| is_whole && *is_settled).map(|(key, _)| key);
            self.has_changed |= key.is_some();
            self.keys.push(key);
        }
        captions
    }

    /// Writes down what is new; a warning where that failed.
    pub fn keep(self, examples: &[SourceExample]) -> Option<String> {
        let manifest = self.manifest?;
        if !self.has_changed && self.known.is_some_and(|known| known.is_all_found()) {
            return None;
        }
        let write = || -> io::Result<()> {
            let mut writer = manifest.write()?;
            for (example, key) in examples.iter().zip(&self.keys) {
                if let Some(key) = key {
                    let name = example.image.path().as_os_str().as_encoded_bytes();
                    writer.add(name, key, &value_of(&example.captions))?;
                }
            }
            writer.finish()
        };
        write().err().map(|error| manifest::not_kept(&manifest, &error))
    }
}

/// What shows that these files are unchanged, and whether a further change would show too.
fn key_of_captions(files: &[(usize, PathBuf)], started: SystemTime) -> Option<(Digest, bool)> {
    let mut stamps = Vec::with_capacity(files.len());
    for (source, path) in files {
        stamps.push((source.to_le_bytes(), Stamp::of(path).ok()?));
    }
    let is_settled = stamps.iter().all(|(_, stamp)| stamp.is_settled(started));
    Some((key_of(stamps.iter().map(|(source, stamp)| (source.as_slice(), *stamp))), is_settled))
}

/// Number of the source and length of the text, then the text, for each.
fn value_of(captions: &[SourceCaption]) -> Vec<u8> {
    let mut value = Vec::new();
    for SourceCaption { source, text } in captions {
        value.extend_from_slice(&(*source as u32).to_le_bytes());
        value.extend_from_slice(&(text.len() as u32).to_le_bytes());
        value.extend_from_slice(text.as_bytes());
    }
    value
}

fn captions_in(mut value: &[u8]) -> Option<Vec<SourceCaption>> {
    let number = |value: &mut &[u8]| -> Option<usize> {
        let (number, rest) = value.split_first_chunk::<4>()?;
        *value = rest;
        Some(u32::from_le_bytes(*number) as usize)
    };
    // Nearly always one: room for a million images with four each would be wasted.
    let mut captions = Vec::with_capacity(1);
    while !value.is_empty() {
        let source = number(&mut value)?;
        let length = number(&mut value)?;
        let (text, rest) = value.split_at_checked(length)?;
        captions.push(SourceCaption { source, text: std::str::from_utf8(text).ok()?.to_owned() });
        value = rest;
    }
    Some(captions)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::source::{ExampleSource, Listing};

    fn many() -> (tempfile::TempDir, ImageFolder) {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        for i in 0..LEAST {
            fs::write(images.join(format!("{i:05}.png")), b"").unwrap();
            fs::write(images.join(format!("{i:05}.txt")), format!("image {i}\n")).unwrap();
        }
        fs::write(images.join("00001.long"), "long").unwrap();
        thread::sleep(Duration::from_millis(60));
        let source = ImageFolder {
            path: images,
            caption_extensions: vec![".txt".to_owned(), ".long".to_owned()],
            recursive: true,
            extra_images: Vec::new(),
            scans: Some(folder.path().join("scans")),
        };
        (folder, source)
    }

    fn only_file(folder: &ImageFolder) -> PathBuf {
        let scans = folder.scans.as_ref().unwrap();
        let files: Vec<PathBuf> = fs::read_dir(scans).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    /// Writes another text into the manifest, so that it shows where a caption was taken from.
    fn mark(folder: &ImageFolder, listing: &Listing) {
        let settings = format!("{:?}", (&folder.path, folder.recursive, &folder.caption_extensions));
        let manifest = Manifest::of(folder.scans.as_ref().unwrap(), "captions", settings.as_bytes());
        assert_eq!(manifest.path(), only_file(folder));
        let mut writer = manifest.write().unwrap();
        for example in &listing.examples {
            let files = example.captions.iter().map(|caption| {
                let ending = folder.caption_extensions[caption.source].trim_start_matches('.');
                (caption.source, example.image.path().with_extension(ending))
            });
            let (key, _) = key_of_captions(&files.collect::<Vec<_>>(), SystemTime::now()).unwrap();
            let kept: Vec<SourceCaption> = (example.captions.iter())
                .map(|caption| SourceCaption { text: format!("kept {}", caption.text), ..caption.clone() })
                .collect();
            writer.add(example.image.path().as_os_str().as_encoded_bytes(), &key, &value_of(&kept)).unwrap();
        }
        writer.finish().unwrap();
    }

    fn texts(listing: &Listing, image: usize) -> Vec<&str> {
        listing.examples[image].captions.iter().map(|caption| caption.text.as_str()).collect()
    }

    #[test]
    fn only_captions_whose_files_changed_are_read_again() {
        let (_folder, source) = many();
        let first = source.list().unwrap();
        assert_eq!(texts(&first, 1), ["image 1", "long"]);
        mark(&source, &first);
        let path = |name: &str| source.path.join(name);
        fs::write(path("00002.txt"), "other 2").unwrap();
        fs::write(path("00003.txt"), b"caf\xe9").unwrap();
        fs::remove_file(path("00004.txt")).unwrap();
        fs::write(path("00005.long"), "new").unwrap();
        let second = source.list().unwrap();
        assert_eq!(texts(&second, 0), ["kept image 0"]);
        assert_eq!(texts(&second, 1), ["kept image 1", "kept long"]);
        assert_eq!(texts(&second, 2), ["other 2"]);
        assert_eq!(second.broken_captions[0].path, path("00003.txt"));
        assert!(texts(&second, 3).is_empty() && texts(&second, 4).is_empty());
        assert_eq!(texts(&second, 5), ["image 5", "new"]);
        assert_eq!(texts(&second, LEAST - 1), [format!("kept image {}", LEAST - 1)]);
    }

    #[test]
    fn a_small_folder_is_not_kept() {
        let (_folder, source) = many();
        fs::remove_file(source.path.join("00000.png")).unwrap();
        source.list().unwrap();
        assert!(!source.scans.as_ref().unwrap().exists());
        fs::write(source.path.join("00000.png"), b"").unwrap();
        source.list().unwrap();
        only_file(&source);
    }

    #[test]
    fn a_damaged_record_is_read_again() {
        assert_eq!(captions_in(&value_of(&[])), Some(Vec::new()));
        let captions = [(0, "a"), (3, "")].map(|(source, text)| SourceCaption { source, text: text.to_owned() });
        let value = value_of(&captions);
        assert_eq!(captions_in(&value).unwrap(), captions);
        assert!((1..value.len()).filter(|&length| length != 9).all(|length| captions_in(&value[..length]).is_none()));
    }
}
