//! Files of `torch.save` in both forms: the same tensors as beside them, and refusals by name of whatever is no tensor.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use sdtrain_state_dict::maps::textual_inversion::entries;
use sdtrain_state_dict::{
    Dtype, FileKind, Reader, Renamed, SafetensorsFile, TorchFile, open_component, open_file, recognise,
    sd2_predicts_noise,
};

use zip::write::SimpleFileOptions;

use crate::fixtures::{entry, fixture_folder, in_memory};

fn file(name: &str) -> PathBuf {
    fixture_folder().join("pickles").join(name)
}

fn refused(path: &Path) -> String {
    open_file(path).err().unwrap_or_else(|| panic!("{} was read", path.display())).to_string()
}

/// A zip as torch writes it, with this pickle.
fn zipped(folder: &Path, pickle: &[u8]) -> PathBuf {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(pickle).unwrap();
    let path = folder.join("made.pt");
    fs::write(&path, archive.finish().unwrap().into_inner()).unwrap();
    path
}

#[test]
fn both_forms_hold_the_tensors_that_torch_saved() {
    let expected = SafetensorsFile::open(fixture_folder().join("pickles.safetensors")).unwrap();
    for name in ["zip.pt", "legacy.pt"] {
        let found = open_file(file(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.names(), expected.names(), "{name}");
        for tensor in expected.names() {
            assert_eq!(found.info(tensor), expected.info(tensor), "{name}: {tensor}");
            assert_eq!(found.bytes(tensor).unwrap(), expected.bytes(tensor).unwrap(), "{name}: {tensor}");
        }
    }
    assert_eq!(expected.info("half").unwrap().dtype, Dtype::F16);
}

#[test]
fn of_a_checkpoint_of_lightning_only_the_model_is_read() {
    let found = TorchFile::open(file("lightning.ckpt")).unwrap();
    assert_eq!(found.names(), ["cond_stage_model.ids", "first_stage_model.scale"]);
    let scale: Vec<u8> = [0f32, 1.0, 2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(*found.bytes("first_stage_model.scale").unwrap(), scale);
}

#[test]
fn a_learned_word_of_a_pickle_has_the_name_beside_it() {
    let found = open_file(file("embedding.pt")).unwrap();
    assert_eq!(recognise(&found), FileKind::TextualInversion { vectors: 2, width: 768, second_width: None });
    let [word] = &entries(&found).unwrap()[..] else { panic!("one word") };
    assert_eq!((word.word.as_deref(), word.vectors, &word.widths[..]), (Some("snorp"), 2, &[768][..]));
}

#[test]
fn a_learned_word_of_the_papers_code_is_called_by_its_key() {
    let tensors = ["string_to_param.sks", "string_to_token.sks"].map(|name| entry(name, Dtype::F32, &[2, 768]));
    let [word] = &entries(&in_memory(&tensors)).unwrap()[..] else { panic!("one word") };
    assert_eq!((word.word.as_deref(), &word.tensors[..]), (Some("sks"), &["string_to_param.sks".to_string()][..]));
}

#[test]
fn whatever_is_no_tensor_is_refused_by_its_name() {
    for (name, said) in [
        ("calls_system.pt", "`posix.system`"),
        ("calls_eval.pt", "`builtins.eval`"),
        ("calls_getattr.pt", "`builtins.getattr`"),
        ("names_only.pt", "`os.system`"),
        ("stack_global.pt", "`os.system`"),
        ("makes_objects.pt", "it makes objects"),
        ("calls_lightning.pt", "`pytorch_lightning.callbacks.A`"),
        ("old_instance.pt", "it makes objects"),
        ("holds_itself.pt", "it holds no tensors"),
        ("truncated.pt", "it ends in the middle"),
        ("empty_stack.pt", "more values than it has made"),
        ("unknown_code.pt", "0xff"),
        ("no_tensors.pt", "it holds no tensors"),
        ("too_large.pt", "`a` has more numbers"),
        ("past_its_storage.pt", "`a` reaches past its storage"),
        ("negative.pt", "a negative length"),
        ("expands.pt", "`a` has more numbers"),
        ("no_numbers.pt", "`a` has no numbers"),
        ("complex.pt", "`torch.ComplexFloatStorage`"),
        ("big_endian.pt", "highest byte first"),
        ("compressed.pt", "compressed"),
        ("no_pickle.pt", "it ends in the middle"),
        ("another_zip.pt", "without exactly one `data.pkl`"),
        ("plain_pickle.pt", "neither a zip nor a pickle of PyTorch"),
        ("legacy_truncated.pt", "in the middle of a storage"),
    ] {
        let error = refused(&file(name));
        assert!(error.contains(name) && error.contains(said), "{name}: {error}");
    }
}

#[test]
fn a_million_lists_in_each_other_are_let_go_without_an_end_of_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let many = 1_000_000;
    let pickle = [&b"\x80\x02"[..], &vec![b']'; many], &vec![b'a'; many - 1], b"."].concat();
    assert!(refused(&zipped(folder.path(), &pickle)).contains("it holds no tensors"));
    // Dictionaries in each other by so many keys that nobody can walk all paths.
    let keys =
        (0..2000u32).flat_map(|key| [&b"X\x04\x00\x00\x00"[..], format!("{key:04}").as_bytes(), b"h\x00"].concat());
    let cyclic = [&b"\x80\x02}q\x00("[..], &keys.collect::<Vec<u8>>(), b"u."].concat();
    assert!(refused(&zipped(folder.path(), &cyclic)).contains("more than 1000000 entries"));
    // A list again and again as the pairs of a new dictionary.
    let again = b"ccollections\nOrderedDict\nh\x01\x85R".repeat(30);
    let pairs = [&b"\x80\x02]q\x01("[..], &b"K\x01K\x02\x86".repeat(1_000_000), b"e", &again, b"."].concat();
    assert!(refused(&zipped(folder.path(), &pairs)).contains("more than 4000000 values"));
    // A tensor of many dimensions, again and again.
    let ones = |text: &str| [&b"("[..], &b"K\x01".repeat(64), b"tq", text.as_bytes()].concat();
    let storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ";
    let arguments = [&b"("[..], storage, b"K\0", &ones("\x02"), b"h\x02tq\x03"].concat();
    let head = [&b"\x80\x02}q\0ctorch._utils\n_rebuild_tensor_v2\nq\x01"[..], &arguments].concat();
    let views = [&head[..], &b"h\x01h\x03R0".repeat(100_000), b"h\0."].concat();
    assert!(refused(&zipped(folder.path(), &views)).contains("more than 4000000 values"));
    // A few bytes that would grow without end.
    let doubling = [&b"\x80\x02]q\x00"[..], &b"(h\x00h\x00e".repeat(50), b"."].concat();
    assert!(refused(&zipped(folder.path(), &doubling)).contains("it holds no tensors"));
}

#[test]
fn a_long_text_that_is_named_again_and_again_grows_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let long = [text(&"k".repeat(1 << 20)), b"q\x01".to_vec()].concat();
    let keys: Vec<u8> = (0..1000u32).flat_map(|key| [&text(&format!("{key:04}"))[..], b"h\x01"].concat()).collect();
    // As a key around a thousand tensors, and as a value under a thousand keys.
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQK\0(K\x04t(K\x01ttR";
    let around = [b"\x80\x02}(", &long[..], b"}X\x01\0\0\0a", tensor, b"su."].concat();
    assert!(refused(&zipped(folder.path(), &around)).contains("a name in it is longer than 512 bytes"));
    let under = [b"\x80\x02}X\x01\0\0\0a", &tensor[..], b"s", &long, b"0(", &keys, b"u."].concat();
    let error = refused(&zipped(folder.path(), &under));
    assert!(error.contains("`a` has no numbers") || error.contains("its texts have more than 16 MB"), "{error}");
}

#[test]
fn words_in_a_parameter_dict_are_read_and_objects_of_other_classes_are_not() {
    let found = open_file(file("parameter_dict.pt")).unwrap();
    assert_eq!(found.names(), ["string_to_param.*", "string_to_token.*"]);
    assert_eq!(recognise(&found), FileKind::TextualInversion { vectors: 1, width: 768, second_width: None });
    assert_eq!(entries(&found).unwrap()[0].tensors, ["string_to_param.*"]);
    let folder = tempfile::tempdir().unwrap();
    let made = |class: &str| zipped(folder.path(), &[b"c", class.as_bytes(), b"\n)\x81."].concat());
    assert!(refused(&made("torch.nn.modules.container\nModuleDict")).contains("ModuleDict"));
    assert!(refused(&made("collections\nOrderedDict")).contains("objects of the class `collections.OrderedDict`"));
}

/// A zip without sums, as `torch.serialization.set_crc32_options(False)` has it written.
fn without_sums(zip: &[u8]) -> Vec<u8> {
    let mut zip = zip.to_vec();
    for (magic, place) in [(b"PK\x03\x04", 14), (b"PK\x01\x02", 16)] {
        let found: Vec<usize> = (0..zip.len() - 4).filter(|&at| zip[at..].starts_with(magic)).collect();
        found.into_iter().for_each(|at| zip[at + place..at + place + 4].fill(0));
    }
    zip
}

#[test]
fn a_zip_without_sums_is_read_and_one_with_other_numbers_than_saved_is_refused_where_they_are_read() {
    let whole = fs::read(file("zip.pt")).unwrap();
    let expected = TorchFile::from_bytes(whole.clone(), "whole.pt").unwrap();
    let open = |bytes: Vec<u8>| TorchFile::from_bytes(bytes, "changed.pt");
    let found = open(without_sums(&whole)).unwrap();
    for name in expected.names() {
        assert_eq!(found.bytes(name).unwrap(), expected.bytes(name).unwrap(), "{name}");
    }
    let numbers = expected.bytes("matrix").unwrap().into_owned();
    let at = whole.windows(numbers.len()).position(|window| window == numbers).unwrap();
    let mut changed = whole.clone();
    changed[at] ^= 1;
    let damaged = open(changed.clone()).unwrap();
    assert!(damaged.info("matrix").is_some(), "the header is whole");
    let error = damaged.bytes("matrix").unwrap_err();
    assert!(error.to_string().contains("the bytes of `matrix` are not those that were saved"), "{error}");
    assert!(error.hint().unwrap().contains("fetch or copy it again"));
    // Nobody can tell without a sum.
    assert_ne!(open(without_sums(&changed)).unwrap().bytes("matrix").unwrap(), numbers);
    let pickle = whole.windows(4).position(|window| window == b"cpuq").unwrap();
    let mut changed = whole.clone();
    changed[pickle] ^= 1;
    let error = open(changed).err().unwrap().to_string();
    assert!(error.contains("the bytes of `data.pkl` are not those that were saved"), "{error}");
}

#[test]
fn a_storage_that_is_longer_or_shorter_than_it_says_is_refused() {
    let whole = without_sums(&fs::read(file("zip.pt")).unwrap());
    // The first storage says its length behind its device.
    let place = whole
        .windows(5)
        .position(|window| window == b"cpuq\x06")
        .or_else(|| whole.windows(3).position(|w| w == b"cpu"))
        .unwrap();
    let at = place + whole[place..].iter().position(|&byte| byte == b'K').unwrap() + 1;
    let folder = tempfile::tempdir().unwrap();
    for change in [-1i8, 1] {
        let mut bytes = whole.clone();
        bytes[at] = bytes[at].wrapping_add_signed(change);
        let path = folder.path().join("lies.pt");
        fs::write(&path, bytes).unwrap();
        assert!(refused(&path).contains("numbers of type F32, but the file has"), "{}", refused(&path));
    }
}

#[test]
fn what_is_beside_the_tensors_of_a_checkpoint_is_its_metadata() {
    let found = TorchFile::open(file("lightning.ckpt")).unwrap();
    assert_eq!(found.metadata()["global_step"], "470000");
    let steps = |steps: &str| {
        let file = in_memory(&[entry("a", Dtype::F32, &[1])]);
        let metadata = [("global_step".to_string(), steps.to_string())].into();
        Renamed::new(file, |name, info| Some((name.to_string(), info.shape.clone()))).unwrap().with_metadata(metadata)
    };
    // SD2's base was trained for so many, and predicts the noise.
    assert!(sd2_predicts_noise(&steps("875000")).unwrap() && !sd2_predicts_noise(&steps("140000")).unwrap());
}

#[test]
fn a_safetensors_file_whose_length_begins_like_a_pickle_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for length in [640u64, 896, 1152, 1408] {
        let json = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
        let header = format!("{json:<width$}", width = length as usize);
        fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes(), &[7]].concat()).unwrap();
        assert_eq!(*open_file(&path).unwrap().bytes("a").unwrap(), [7], "{length}");
    }
}

#[test]
fn every_byte_that_changes_is_refused_or_changes_no_more_than_numbers() {
    // No outcome but an error or tensors whose bytes can be read, of a zip with sums those that were saved.
    for name in ["zip.pt", "legacy.pt", "lightning.ckpt"] {
        let whole = fs::read(file(name)).unwrap();
        let saved = TorchFile::from_bytes(whole.clone(), "whole.pt").unwrap();
        let has_sums = whole.starts_with(b"PK");
        for at in 0..whole.len() {
            for changed in [whole[at] ^ 1, whole[at] ^ 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = changed;
                if let Ok(file) = TorchFile::from_bytes(bytes, "changed.pt") {
                    for tensor in file.names() {
                        let length = file.info(tensor).unwrap().byte_length();
                        match file.bytes(tensor) {
                            Ok(bytes) if has_sums => {
                                assert!(bytes == saved.bytes(tensor).unwrap(), "{name}, byte {at}")
                            }
                            Ok(bytes) => assert_eq!(bytes.len(), length, "{name}, byte {at}"),
                            Err(error) => assert!(has_sums && error.to_string().contains("CRC-32"), "{name}: {error}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_component_is_found_under_the_names_of_pickles_when_there_is_no_better_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(file("zip.pt"), folder.path().join("pytorch_model.bin")).unwrap();
    assert!(open_component(folder.path(), "model", None).unwrap().info("matrix").is_some());
    fs::copy(file("legacy.pt"), folder.path().join("diffusion_pytorch_model.bin")).unwrap();
    assert!(open_component(folder.path(), "diffusion_pytorch_model", None).unwrap().info("matrix").is_some());
    fs::copy(fixture_folder().join("lpips.safetensors"), folder.path().join("model.safetensors")).unwrap();
    assert!(open_component(folder.path(), "model", None).unwrap().info("matrix").is_none());
}
