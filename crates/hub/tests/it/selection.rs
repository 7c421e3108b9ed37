//! Which files come.

use sdtrain_hub::{Prepared, Wanted, is_complete, prepare};

use crate::{bytes_of, files_below, get, hub, model, name};

fn missing(prepared: &Prepared) -> Vec<&str> {
    prepared.missing.iter().map(|file| file.name.as_str()).collect()
}

#[test]
fn of_a_model_only_what_is_read_comes() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let (path, prepared) = get("hf:org/repo", &model(), &settings).unwrap();
    let described = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "vae/config.json",
    ];
    let weights = [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ];
    assert_eq!(missing(&prepared), weights);
    assert_eq!(prepared.missing_bytes(), 300_000 + 2000 + 1200);
    let mut all = [&described[..], &weights].concat();
    all.sort();
    assert_eq!(files_below(&path), all);
    let unet = std::fs::read(path.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(unet, bytes_of("@300000"));
}

#[test]
fn a_variant_comes_where_it_is_asked_for_or_there_is_nothing_else() {
    let (server, folder) = hub();
    server.set().files.retain(|name, _| !name.starts_with("vae/d") && !name.starts_with("text_encoder/m"));
    server.set().files.insert("vae/diffusion_pytorch_model.fp16.safetensors".to_owned(), vec![1; 10]);
    let settings = server.settings(folder.path());
    let fp16 = Wanted::Model { variant: Some("fp16".to_owned()), weights: true };
    let error = prepare(&name("hf:org/repo"), &fp16, &settings).unwrap_err();
    let said = "`hf:org/repo`: the repository has no weights of the variant `fp16` in `text_encoder`";
    assert_eq!(error.to_string(), said);
    assert!(error.hint().unwrap().starts_with("there it has plain ones: set `model.variant`"));
    server.set().files.insert("text_encoder/model.fp16.safetensors".to_owned(), vec![1; 10]);
    let prepared = prepare(&name("hf:org/repo"), &fp16, &settings).unwrap();
    let [unet, vae] = ["unet", "vae"].map(|part| format!("{part}/diffusion_pytorch_model.fp16.safetensors"));
    let text = "text_encoder/model.fp16.safetensors";
    assert_eq!(missing(&prepared), [unet.as_str(), vae.as_str(), text]);
    server.set().files.remove(text);
    let prepared = prepare(&name("hf:org/repo"), &model(), &settings).unwrap();
    let plain = "unet/diffusion_pytorch_model.safetensors";
    // Of a pickle in the place of safetensors as well.
    assert_eq!(missing(&prepared), [plain, vae.as_str(), "text_encoder/pytorch_model.bin"]);
}

#[test]
fn a_variant_that_is_here_does_not_stand_for_weights_that_are_wanted_without_one() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let variants = ["vae/diffusion_pytorch_model", "text_encoder/model"].map(|stem| format!("{stem}.fp16.safetensors"));
    for name in variants {
        server.set().files.insert(name, vec![1; 10]);
    }
    let fp16 = Wanted::Model { variant: Some("fp16".to_owned()), weights: true };
    get("hf:org/repo", &fp16, &settings).unwrap();
    let repository = name("hf:org/repo");
    let prepared = prepare(&repository, &model(), &settings).unwrap();
    assert_eq!(missing(&prepared)[0], "unet/diffusion_pytorch_model.safetensors");
    // Where nobody can be asked it is better than nothing.
    let offline = sdtrain_hub::Settings { offline: true, ..settings.clone() };
    let prepared = prepare(&repository, &model(), &offline).unwrap();
    assert!(prepared.missing.is_empty() && prepared.note.unwrap().contains("the cache has a variant alone"));
    let is_plain = |name: &str| name.contains("model.") && !name.contains("fp16");
    server.set().files.retain(|name, _| !is_plain(name));
    let prepared = prepare(&repository, &model(), &settings).unwrap();
    assert_eq!((missing(&prepared).len(), &prepared.note), (0, &None), "the hub has no others");
}

#[test]
fn half_a_tokenizer_is_none() {
    let (server, folder) = hub();
    let (path, _) = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap();
    assert!(is_complete(&name("hf:org/repo"), &model(), folder.path()));
    std::fs::remove_file(path.join("tokenizer/merges.txt")).unwrap();
    assert!(!is_complete(&name("hf:org/repo"), &model(), folder.path()));
}

#[test]
fn names_that_cannot_be_written_are_left_out() {
    let (server, folder) = hub();
    // As JSON has it.
    server.set().files.insert("a\\u001b[31m.safetensors".to_owned(), vec![0]);
    server.set().files.remove("model_index.json");
    let error = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap_err();
    let hint = "it holds v1-5-pruned.ckpt, v1-5-pruned.safetensors: name one as `hf:org/repo/FILE`";
    assert_eq!(error.hint().unwrap(), hint);
}

#[test]
fn shards_come_with_their_list_and_a_second_text_encoder_with_its_tokenizer() {
    let (server, folder) = hub();
    let stem = "unet/diffusion_pytorch_model";
    {
        let mut set = server.set();
        set.files.remove(&format!("{stem}.safetensors"));
        let list = r#"{"weight_map": {"a": "s-1.safetensors", "b": "s-2.safetensors", "c": "s-1.safetensors"}}"#;
        set.files.insert(format!("{stem}.safetensors.index.json"), list.into());
        set.files.insert("unet/s-1.safetensors".to_owned(), vec![1; 10]);
        set.files.insert("unet/s-2.safetensors".to_owned(), vec![2; 20]);
        let index = r#"{"_class_name": "StableDiffusionXLPipeline", "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}"#;
        set.files.insert("model_index.json".to_owned(), index.into());
        for name in ["text_encoder_2/config.json", "tokenizer_2/vocab.json", "tokenizer_2/merges.txt"] {
            set.files.insert(name.to_owned(), b"{}".to_vec());
        }
        set.files.insert("text_encoder_2/model.safetensors".to_owned(), vec![3; 30]);
    }
    let settings = server.settings(folder.path());
    let (path, prepared) = get("hf:org/repo", &model(), &settings).unwrap();
    let shards = ["unet/s-1.safetensors", "unet/s-2.safetensors"];
    assert_eq!(missing(&prepared)[..2], shards);
    assert_eq!(missing(&prepared)[4..], ["text_encoder_2/model.safetensors"]);
    let there = files_below(&path);
    for name in [&format!("{stem}.safetensors.index.json"), "tokenizer_2/vocab.json", "text_encoder_2/config.json"] {
        assert!(there.iter().any(|there| there == name), "{name}");
    }
    assert!(is_complete(&name("hf:org/repo"), &model(), folder.path()));
    std::fs::remove_file(path.join(shards[1])).unwrap();
    assert!(!is_complete(&name("hf:org/repo"), &model(), folder.path()));
}

#[test]
fn shards_that_lie_elsewhere_are_refused() {
    let (server, folder) = hub();
    let list = r#"{"weight_map": {"a": "../../../../x.safetensors"}}"#;
    server.set().files.remove("unet/diffusion_pytorch_model.safetensors");
    server.set().files.insert("unet/diffusion_pytorch_model.safetensors.index.json".to_owned(), list.into());
    let error = prepare(&name("hf:org/repo"), &model(), &server.settings(folder.path())).unwrap_err();
    assert!(error.to_string().contains("is not a plain file name"), "{error}");
}

#[test]
fn what_is_drawn_at_random_needs_no_weights() {
    let (server, folder) = hub();
    let described = Wanted::Model { variant: None, weights: false };
    let settings = server.settings(folder.path());
    let (_, prepared) = get("hf:org/repo", &described, &settings).unwrap();
    assert_eq!(prepared.missing, []);
    assert!(is_complete(&name("hf:org/repo"), &described, folder.path()));
    assert!(!is_complete(&name("hf:org/repo"), &model(), folder.path()));
    assert!(server.requests().iter().all(|line| !line.contains("safetensors")));
}

#[test]
fn one_file_comes_alone() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    for (path, wanted) in [("v1-5-pruned.safetensors", model()), ("vae/config.json", Wanted::File)] {
        let (file, _) = get(&format!("hf:org/repo/{path}"), &wanted, &settings).unwrap();
        assert!(file.ends_with(path) && file.is_file());
    }
    assert_eq!(files_below(&folder.path().join("models--org--repo/snapshots")).len(), 2);
}

#[test]
fn a_vae_comes_from_the_top_or_from_a_folder() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let error = get("hf:org/repo", &Wanted::Vae, &settings).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo`: the repository has no VAE at its top");
    assert_eq!(error.hint().unwrap(), "the one of the model in it is `hf:org/repo/vae`");
    let (path, _) = get("hf:org/repo/vae", &Wanted::Vae, &settings).unwrap();
    assert_eq!(files_below(&path), ["config.json", "diffusion_pytorch_model.safetensors"]);
    server.set().files = [("config.json", 3), ("diffusion_pytorch_model.safetensors", 4)]
        .map(|(name, length)| (name.to_owned(), vec![0; length]))
        .into();
    let other = tempfile::tempdir().unwrap();
    let (path, _) = get("hf:org/repo", &Wanted::Vae, &server.settings(other.path())).unwrap();
    assert_eq!(files_below(&path).len(), 2);
}

#[test]
fn a_text_encoder_comes_with_its_tokenizer_and_nothing_else() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let wanted = |weights, tokenizer| Wanted::TextEncoder { weights, tokenizer };
    let (path, prepared) = get("hf:org/repo", &wanted(true, true), &settings).unwrap();
    assert_eq!(missing(&prepared), ["text_encoder/model.safetensors"]);
    let all = [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/vocab.json",
    ];
    assert_eq!(files_below(&path), all);
    assert!(is_complete(&name("hf:org/repo"), &wanted(true, true), folder.path()));
    // What is drawn at random, with another's tokenizer.
    let other = tempfile::tempdir().unwrap();
    let settings = server.settings(other.path());
    let alone = "hf:org/repo/text_encoder";
    let (path, prepared) = get(alone, &wanted(false, false), &settings).unwrap();
    assert_eq!((missing(&prepared).len(), files_below(&path)), (0, vec!["config.json".to_owned()]));
    assert!(is_complete(&name(alone), &wanted(false, false), other.path()));
    assert!(!is_complete(&name(alone), &wanted(true, false), other.path()));
    let error = get("hf:org/repo/text_encoder/config.json", &wanted(true, true), &settings).unwrap_err();
    assert!(error.to_string().ends_with("the repository has no folder `text_encoder/config.json`"), "{error}");
    assert_eq!(error.hint().unwrap(), "it is a file there: name the folder it lies in");
}

#[test]
fn a_tokenizer_comes_alone() {
    let (server, folder) = hub();
    let settings = server.settings(folder.path());
    let (path, prepared) = get("hf:org/repo/tokenizer", &Wanted::Tokenizer, &settings).unwrap();
    assert_eq!(prepared.missing, []);
    assert_eq!(files_below(&path), ["merges.txt", "special_tokens_map.json", "vocab.json"]);
    let asked = server.requests().len();
    get("hf:org/repo/tokenizer", &Wanted::Tokenizer, &settings).unwrap();
    assert_eq!(server.requests().len(), asked, "it is in the cache");
    let error = get("hf:org/repo", &Wanted::Tokenizer, &settings).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo`: the repository has no tokenizer at its top");
    assert_eq!(error.hint().unwrap(), "the one of the model in it is `hf:org/repo/tokenizer`");
    let error = get("hf:org/repo/unet", &Wanted::Tokenizer, &settings).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo/unet`: the repository has no tokenizer in `unet`");
}

#[test]
fn what_a_repository_has_instead_is_named() {
    let (server, folder) = hub();
    server.set().files.remove("model_index.json");
    let error = get("hf:org/repo", &model(), &server.settings(folder.path())).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo`: the repository has no `model_index.json`");
    let hint = "it holds v1-5-pruned.ckpt, v1-5-pruned.safetensors: name one as `hf:org/repo/FILE`";
    assert_eq!(error.hint().unwrap(), hint);
    let error = get("hf:org/repo/x.safetensors", &Wanted::File, &server.settings(folder.path())).unwrap_err();
    assert_eq!(error.to_string(), "`hf:org/repo/x.safetensors`: the repository has no file `x.safetensors`");
}
