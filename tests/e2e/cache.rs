//! Latents on disk: the same run to the bit, and never a stale or damaged one.

use crate::bad_images;
use crate::corpus::Verdict;
use crate::project::{Project, fixture};
use image::{Rgb, RgbImage};
use std::fs;
use std::path::{Path, PathBuf};

const CACHE: [&str; 2] = ["--set", "data.cache_dir=\"cache\""];

fn entries(project: &Project) -> Vec<PathBuf> {
    files_below(&project.path("cache/latents"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// `sdtrain dataset cache` with these further arguments: what it answered and what it said.
fn fill(project: &Project, further: &[&str]) -> (String, String) {
    project.expect(0, &[&["dataset", "cache", "--config", "run.toml"], &CACHE[..], further].concat())
}

#[test]
fn latents_in_memory_fresh_on_disk_and_from_an_earlier_run_give_the_same_bits() {
    let project = Project::new();
    let train = |output: &str, further: &[&str]| {
        let args = ["--config", "run.toml", "--output", output, "--set", "data.subsets.0.flip=true"];
        let (_, said) = project.expect(0, &[&args[..], further].concat());
        let metrics = fs::read_to_string(project.path(output).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
        let losses = metrics.lines().map(loss).collect::<Vec<_>>();
        (losses, fs::read(project.path(output).join("run.safetensors")).unwrap(), said)
    };
    let (losses, product, _) = train("memory", &[]);
    assert!(!project.path("cache").exists());
    let (fresh_losses, fresh_product, said) = train("fresh", &CACHE);
    assert!(said.contains("latents: 0 of 6 images are in `") && said.contains(", 6 to encode take "), "{said}");
    let written = |entry: &PathBuf| (entry.clone(), fs::metadata(entry).unwrap().modified().unwrap());
    let kept: Vec<_> = entries(&project).iter().map(written).collect();
    assert_eq!(kept.len(), 6);
    let (full_losses, full_product, said) = train("full", &CACHE);
    assert!(said.contains("latents: 6 of 6 images are in `") && !said.contains("to encode"), "{said}");
    assert_eq!(kept, entries(&project).iter().map(written).collect::<Vec<_>>());
    assert_eq!((&losses, &losses), (&fresh_losses, &full_losses));
    // Their metadata name the configuration's digest and times, so tensors are compared through the losses above and here.
    assert!(tensors(&product) == tensors(&fresh_product) && tensors(&product) == tensors(&full_product));
}

/// What follows the header.
fn tensors(file: &[u8]) -> &[u8] {
    let header = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    &file[8 + header..]
}

/// sd-scripts#2362, sd-scripts#2380: the first run fills the cache, and the next ones end at it: of images that a table names the kept file
/// is taken for the image.
#[test]
fn sd_scripts_2362_the_second_run_reads_what_the_first_kept_of_images_that_a_table_names() {
    let project = Project::new();
    let mut table = String::new();
    for index in 0..6 {
        fs::remove_file(project.path(&format!("images/{index}.txt"))).unwrap();
        table.push_str(&format!("{{\"file_name\": \"{index}.png\", \"text\": \"picture {index}, small\"}}\n"));
    }
    project.write("images/metadata.jsonl", &table);
    // As there, in the folder of the images itself.
    let beside = ["--set", "data.cache_dir=\"images/kept\"", "--set", "samples.prompts=[]"];
    let train = |output: &str| {
        let (_, said) = project.expect(0, &[&["--config", "run.toml", "--output", output], &beside[..]].concat());
        let metrics = fs::read_to_string(project.path(output).join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
        (metrics.lines().map(loss).collect::<Vec<_>>(), said)
    };
    let (first, said) = train("first");
    assert!(said.contains("6 images found") && said.contains("latents: 0 of 6 held-out images are in `"), "{said}");
    let (second, said) = train("second");
    assert!(said.contains("6 images found") && said.contains("latents: 6 of 6 images are in `"), "{said}");
    assert_eq!(first, second);
}

/// kohya_ss#1629, sd-scripts#931: an edited image goes unnoticed, and what was kept of the one before is trained on.
#[test]
fn kohya_ss_1629_only_what_an_image_or_the_encoder_changed_is_encoded_again() {
    let project = Project::new();
    let counts = |further: &[&str]| {
        let (answer, _) = fill(&project, further);
        let number = |end: &str| answer.split(end).next().and_then(|text| text.rsplit([' ', '`']).next()?.parse().ok());
        let hits: Option<usize> = number(" were in `");
        let made: Option<usize> = number(" were encoded");
        (hits.unwrap_or_else(|| panic!("{answer}")), made.unwrap_or_else(|| panic!("{answer}")))
    };
    assert_eq!(counts(&[]), (0, 6));
    assert_eq!(counts(&[]), (6, 0));
    // The same bytes under another name are the same image.
    fs::rename(project.path("images/4.png"), project.path("images/7.png")).unwrap();
    fs::rename(project.path("images/4.txt"), project.path("images/7.txt")).unwrap();
    assert_eq!(counts(&[]), (6, 0));
    // Another image of the same length: pixels differ, the header does not.
    let edited = project.path("images/1.png");
    RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8 * 3, y as u8 * 2, 41])).save(&edited).unwrap();
    assert_eq!(counts(&[]), (5, 1));
    assert_eq!(counts(&["--set", "data.subsets.0.flip=true"]), (0, 6));
    assert_eq!(counts(&[]), (6, 0), "what is mirrored too serves those who need it plain");
    assert_eq!(counts(&["--set", "data.subsets.0.flip=true"]), (6, 0));
    assert_eq!(counts(&["--set", "data.resolution=128"]), (0, 6));
    // Its VAE asks for fp32 also where the rest computes in bf16: the latents are the same ones.
    let in_bf16 = ["--set", "precision.compute=\"bf16\""];
    assert_eq!(counts(&in_bf16), (6, 0));
    // One with the same weights that does not ask computes in bf16, and in fp32 it is the same encoder.
    let mended = project.path("mended");
    fs::create_dir(&mended).unwrap();
    let config = fs::read_to_string(fixture("tiny_sd1/vae/config.json")).unwrap();
    fs::write(mended.join("config.json"), config.replace("\"force_upcast\": true", "\"force_upcast\": false")).unwrap();
    let weights = "diffusion_pytorch_model.safetensors";
    fs::copy(fixture("tiny_sd1/vae").join(weights), mended.join(weights)).unwrap();
    let with_mended = ["--set", "model.vae=\"mended\""];
    assert_eq!(counts(&with_mended), (6, 0));
    assert_eq!(counts(&[with_mended, in_bf16].concat()), (0, 6));

    let vae = fs::read(fixture("tiny_sd1/vae/diffusion_pytorch_model.safetensors")).unwrap();
    let other = |place: usize| {
        let mut other = vae.clone();
        other[place] ^= 1;
        fs::write(project.path("other.safetensors"), other).unwrap();
        counts(&["--set", "model.vae=\"other.safetensors\""])
    };
    // Tensors are in the order of their names: the decoder's come first, `quant_conv.weight` last.
    let first = 8 + u64::from_le_bytes(*vae.first_chunk().unwrap()) as usize;
    assert_eq!(other(first), (6, 0), "another decoder encodes alike");
    assert_eq!(other(vae.len() - 2), (0, 6));
}

#[test]
fn a_damaged_entry_is_named_and_made_again() {
    let project = Project::new();
    fill(&project, &[]);
    let entry = &entries(&project)[0];
    let whole = fs::read(entry).unwrap();
    let damage = || fs::write(entry, &whole[..whole.len() - 1]).unwrap();
    damage();
    let (answer, said) = fill(&project, &[]);
    assert!(answer.contains("1 were encoded, 1 of these in the place of damaged entries"), "{answer}");
    let name = entry.file_name().unwrap().to_str().unwrap();
    assert_eq!(said.matches(name).count(), 1, "{said}");
    assert_eq!(fs::read(entry).unwrap(), whole);
    damage();
    let (_, said) = project.expect(0, &[&["--config", "run.toml"], &CACHE[..]].concat());
    assert_eq!(said.matches(name).count(), 1, "{said}");
    assert_eq!(fs::read(entry).unwrap(), whole);
}

#[test]
fn a_filling_that_was_killed_goes_on_to_the_same_bytes() {
    let project = Project::new();
    fill(&project, &[]);
    let whole: Vec<_> = entries(&project).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    fs::remove_dir_all(project.path("cache")).unwrap();
    let args = [&["dataset", "cache", "--config", "run.toml"], &CACHE[..]].concat();
    let running = project.start(&args);
    running.wait_for(|| !entries(&project).is_empty());
    running.kill();
    let (answer, _) = fill(&project, &[]);
    assert!(!answer.starts_with("images: 0 were in"), "{answer}");
    assert_eq!(whole, entries(&project).into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>());
}

#[test]
fn latents_of_kohyas_scripts_are_taken_where_they_fit() {
    let project = Project::new();
    let npz = fixture("../../crates/feature-cache/tests/it/files/factor_4.npz");
    // Its image had 96 × 64 pixels and was cut to 64 × 64.
    RgbImage::from_fn(96, 64, |x, y| Rgb([x as u8, y as u8, 9])).save(project.path("images/wide.png")).unwrap();
    project.write("images/wide.txt", "a wide picture");
    // Those scripts train it lying on its side.
    fs::copy(fixture("../../crates/data-loader/tests/it/files/turned.jpg"), project.path("images/turned.jpg")).unwrap();
    project.write("images/turned.txt", "a turned picture");
    for name in ["images/wide_0096x0064_sd.npz", "images/1.npz", "images/turned.npz"] {
        fs::write(project.path(name), fs::read(&npz).unwrap()).unwrap();
    }
    let set = ["--set", "data.bucketing.enabled=false"];
    let (answer, said) = fill(&project, &[&set[..], &["--import-npz"]].concat());
    assert!(answer.contains("1 were taken from kohya's files, without randomness, 7 were encoded"), "{answer}");
    assert!(said.contains("images/1.npz`: is of an image of 96 × 64 pixels, this one has 64 × 64"), "{said}");
    assert!(said.contains("images/turned.npz`: its image is turned when it is read"), "{said}");
    let (_, said) = project.expect(0, &[&["--config", "run.toml"], &CACHE[..], &set[..]].concat());
    assert!(said.contains("8 of 8 images are in `") && said.contains("(1 from kohya's files"), "{said}");
}

#[test]
fn bad_files_leave_no_partial_entry() {
    let project = Project::new();
    let set = ["--set", "data.caption.missing=\"empty\""];
    let mut shown_by_header = Vec::new();
    let mut shown_by_decoding = Vec::new();
    for (number, case) in bad_images::cases().into_iter().enumerate() {
        let Some((name, bytes)) = case.file else { continue };
        let path = project.path(&format!("images/bad-{number:03}-{}", name.replace(['/', '"', ' '], "_")));
        match case.verdict {
            Verdict::Accepted(_) => continue,
            Verdict::LeftOut(_) => shown_by_header.push((path.clone(), case.verdict.words())),
            Verdict::LeftOutWhenRead(_) => shown_by_decoding.push(path.clone()),
        }
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    assert!(shown_by_header.len() > 50 && shown_by_decoding.len() > 2);
    let fill_in_vain = || {
        let args = [&["dataset", "cache", "--config", "run.toml"], &CACHE[..], &set[..]].concat();
        let (_, said) = project.expect(3, &args);
        (files_below(&project.path("cache")), said)
    };
    let (kept, said) = fill_in_vain();
    assert_eq!(kept, Vec::<PathBuf>::new(), "nothing is begun where headers show it");
    assert!(said.contains(shown_by_header[0].1), "{said}");
    shown_by_header.iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    let (kept, _) = fill_in_vain();
    shown_by_decoding.iter().for_each(|path| fs::remove_file(path).unwrap());
    let (answer, _) = fill(&project, &set);
    assert!(answer.starts_with(&format!("images: {} were in ", kept.len())), "{kept:?}: {answer}");
    assert!(!answer.contains("damaged"), "{answer}");
    // No file but the entries: an image has one.
    assert_eq!(files_below(&project.path("cache")).len(), 6);
}

#[test]
fn an_image_that_cannot_be_decoded_is_left_out_as_without_a_cache() {
    let project = Project::new();
    // Enough others that one is no reason to stop.
    for index in 10..120 {
        fs::copy(project.path("images/1.png"), project.path(&format!("images/{index}.png"))).unwrap();
        project.write(&format!("images/{index}.txt"), "a copy");
    }
    // Broken behind its header, which is all that is looked at before the first step.
    let mut broken = fs::read(project.path("images/2.png")).unwrap();
    let middle = broken.len() / 2;
    broken[middle..middle + 8].fill(0);
    fs::write(project.path("images/2.png"), broken).unwrap();
    let (answer, said) = fill(&project, &[]);
    assert!(answer.contains("1 images cannot be read") && said.contains("images/2.png"), "{answer}{said}");
    fs::create_dir(project.path("held_out")).unwrap();
    for name in ["1.png", "1.txt"] {
        fs::copy(project.path("images").join(name), project.path("held_out").join(name)).unwrap();
    }
    let product = |output: &str, further: &[&str]| {
        let args = ["--config", "run.toml", "--output", output, "--set", "validation.path=\"held_out\""];
        project.expect(0, &[&args[..], further].concat());
        fs::read(project.path(output).join("run.safetensors")).unwrap()
    };
    assert!(tensors(&product("memory", &[])) == tensors(&product("disk", &CACHE)));
}
