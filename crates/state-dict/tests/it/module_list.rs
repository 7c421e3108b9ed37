//! LoRA files without names of layers, as `scripts/fixtures/module_list.py` writes them by walking a model with torch.

use std::path::PathBuf;

use sdtrain_state_dict::maps::lora_tensor::LoraKind;
use sdtrain_state_dict::{Dtype, FileKind, Reader, TensorEntry, open_file, recognise, write};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/module_list").join(name)
}

fn open(name: &str) -> Box<dyn Reader> {
    open_file(fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn lists_have_the_names_that_torch_gives_their_layers() {
    let peft = open("peft.safetensors");
    let numbered = open("lora.safetensors");
    for (file, prefix) in [(open("lora.pt"), "unet."), (open("lora.text_encoder.pt"), "text_encoder.")] {
        let expected: Vec<&str> = peft.names().into_iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(file.names(), expected, "{prefix}");
        for name in expected {
            for found in [&file, &numbered] {
                assert_eq!(found.info(name), peft.info(name), "{name}");
                assert_eq!(found.bytes(name).expect("listed"), peft.bytes(name).expect("listed"), "{name}");
            }
        }
        let kind = recognise(&file);
        assert!(matches!(kind, FileKind::PeftLora { kind: LoraKind::Lora, rank: Some(1), .. }), "{kind:?}");
    }
    // The word that comes along is one of a bundle.
    let more: Vec<&str> = numbered.names().into_iter().filter(|name| peft.info(name).is_none()).collect();
    assert_eq!(more, ["bundle_emb.<s1>.string_to_param.*"]);
}

fn zeros(name: &str, shape: &[usize]) -> TensorEntry {
    let bytes = vec![0; shape.iter().product::<usize>() * 4];
    TensorEntry { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

#[test]
fn a_list_of_other_layers_is_refused_as_what_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("list.safetensors");
    for (tensors, reason) in [
        (vec![zeros("unet:0:up", &[8, 2])], "in which one of a pair is missing"),
        (vec![zeros("unet:0:up", &[8, 2]), zeros("unet:0:down", &[3, 8])], "that are no pairs of LoRA matrices"),
        (vec![zeros("unet:0:up", &[8, 2]), zeros("unet:0:down", &[2, 8])], "of other layers than the attention"),
    ] {
        write(&file, &tensors, &Default::default()).expect("a writable folder");
        let Err(error) = open_file(&file) else { panic!("{reason}") };
        assert!(error.to_string().contains(reason), "{error}");
    }
    // Numbers that are words, or somebody else's, stay what they are.
    write(&file, &[zeros("0", &[768])], &Default::default()).expect("a writable folder");
    assert_eq!(open_file(&file).expect("a file").names(), ["0"]);
}
