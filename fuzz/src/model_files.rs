//! Damaged model files: safetensors, PyTorch's in both forms, `config.json`, the index of shards.

use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use sdtrain_state_dict::architecture;
use sdtrain_state_dict::maps::lora_kohya::{KohyaModules, KohyaNaming, kohya_name, parse_by_words};
use sdtrain_state_dict::maps::{lora_peft, peft_metadata, textual_inversion};
use sdtrain_state_dict::{
    Converted, Dtype, Family, ForInpainting, PipelineConfigs, Reader, SafetensorsFile, TorchFile,
    canonical_text_encoder, canonical_unet, canonical_vae, is_bert, ldm_single_file, open_component, open_file,
    predicts_velocity, read_floats, recognise, text_positions, with_averaged_unet,
};

use super::target::{Target, with_choice, write};

/// The first byte of each input chooses how it is wrapped, but for the files that are read as they are.
pub const TARGETS: &[Target] = &[
    Target { name: "safetensors", run: safetensors, seeds: safetensors_seeds },
    Target { name: "unpickler", run: unpickler, seeds: pickle_seeds },
    Target { name: "torch_file", run: torch_file, seeds: torch_file_seeds },
    Target { name: "config_json", run: config_json, seeds: config_seeds },
    Target { name: "shard_index", run: shard_index, seeds: index_seeds },
];

/// Most tensors that a configuration may ask for.
const MOST_TENSORS: usize = 80_000;

/// A file, held against the reference implementation: what that refuses is refused, and what is accepted is the same to both. Where the
/// first byte is odd the rest is a header's JSON, and its length and data are made to fit.
fn safetensors(folder: &Path, data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    let file = match choice & 1 {
        0 => file.to_vec(),
        _ => with_header(file, usize::from(choice >> 1)),
    };
    let reference = SafeTensors::deserialize(&file);
    let ours = match SafetensorsFile::from_bytes(file.clone(), "a.safetensors") {
        Ok(ours) => ours,
        Err(error) => return assert!(error.to_string().contains("`a.safetensors`"), "{error}"),
    };
    let reference = reference.unwrap_or_else(|error| panic!("accepted, but the reference says {error:?}"));
    let mut names: Vec<&str> = reference.names();
    names.sort_unstable();
    assert_eq!(ours.names(), names);
    for name in names {
        let (info, theirs) = (ours.info(name).expect("listed"), reference.tensor(name).expect("listed"));
        assert_eq!((info.shape.as_slice(), info.dtype.name()), (theirs.shape(), theirs.dtype().to_string().as_str()));
        assert_eq!(*ours.bytes(name).expect("listed"), *theirs.data());
    }
    let (_, metadata) = SafeTensors::read_metadata(&file).expect("it was just read");
    let metadata = metadata.metadata().clone().unwrap_or_default();
    assert!(
        metadata.len() == ours.metadata().len() && metadata.iter().all(|(key, value)| ours.metadata()[key] == *value)
    );
    look_at(Arc::new(ours));
    read_from_disk(folder, "a.safetensors", &file);
}

fn with_header(json: &[u8], data: usize) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json, &vec![7; data]].concat()
}

/// A pickle inside a file that is otherwise right.
fn unpickler(folder: &Path, data: &[u8]) {
    let Some((&choice, pickle)) = data.split_first() else { return };
    let file = match choice & 1 {
        0 => zip(&[("archive/data.pkl", pickle), ("archive/data/0", &[1; 16]), ("archive/data/1", &[2; 8])]),
        _ => [LEGACY_START, pickle, LEGACY_END].concat(),
    };
    read_torch(folder, file);
}

/// A whole file of PyTorch as it is.
fn torch_file(folder: &Path, data: &[u8]) {
    read_torch(folder, data.to_vec());
}

fn read_torch(folder: &Path, file: Vec<u8>) {
    let length = file.len();
    match TorchFile::from_bytes(file.clone(), "a.pt") {
        Ok(opened) => {
            let text: usize = opened.metadata().iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(text <= 16 << 20, "{text} bytes of text of {length}");
            look_at(Arc::new(opened));
            read_from_disk(folder, "a.pt", &file);
        }
        Err(error) => assert!(error.to_string().contains("`a.pt`"), "{error}"),
    }
}

/// As commands open a file, by which lists of LoRA matrices get the names of their layers.
fn read_from_disk(folder: &Path, name: &str, content: &[u8]) {
    let path = write(folder, name, content);
    match open_file(&path) {
        Ok(file) => read_all(&*file),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    std::fs::remove_file(path).expect("it was just written");
}

/// All that is done with an open file before its numbers are wanted, and the numbers.
fn look_at(file: Arc<dyn Reader>) {
    for name in file.names() {
        let info = file.info(name).expect("a listed tensor has its info");
        assert_eq!(file.bytes(name).expect("a listed tensor can be read").len(), info.byte_length());
        let floats = read_floats(&file, name);
        assert!(floats.is_ok() == info.dtype.is_float());
    }
    let kind = recognise(&file);
    assert!(!kind.to_string().is_empty());
    let _ = textual_inversion::entries(&file);
    let readers = [canonical_unet(file.clone()), canonical_vae(file.clone()), canonical_text_encoder(file.clone())];
    readers.iter().flatten().for_each(|reader| read_all(reader));
    if let Ok(parts) = ldm_single_file(file.clone()) {
        let networks = [Some(&parts.unet), parts.vae.as_ref()];
        networks.into_iter().flatten().for_each(|reader| read_all(reader));
        parts.text_encoders.iter().for_each(|reader| read_all(reader));
    }
    if let Some(family) = kind.family() {
        let _ = predicts_velocity(&file, family);
    }
    if let Ok(averaged) = with_averaged_unet(file.clone()) {
        read_all(&averaged);
    }
    if let Ok(inpainting) = ForInpainting::new(file.clone()) {
        read_all(&inpainting);
    }
    let halves = Converted::new(file.clone(), Dtype::F16).expect("F16 can be written");
    for name in halves.names() {
        let info = halves.info(name).expect("a listed tensor has its info");
        // A number may be too large for it.
        assert!(halves.bytes(name).map_or(true, |bytes| bytes.len() == info.byte_length()));
    }
    read_adapter_names(&file);
}

/// What is made of a file's names and metadata where they are an adapter's.
fn read_adapter_names(file: &dyn Reader) {
    let names = file.names();
    let keys: Vec<_> = names.iter().flat_map(|name| [lora_peft::parse(name), parse_by_words(name)]).flatten().collect();
    let modules = KohyaModules::new(keys.iter().map(|key| (key.part, key.module.as_str())));
    for key in &keys {
        let name = kohya_name(key, &KohyaNaming::OneTextEncoder);
        assert!(!name.is_empty() && !lora_peft::peft_name(key).is_empty());
        let _ = modules.parse(&name);
    }
    for text in file.metadata().values() {
        let _ = peft_metadata::from_json(text);
    }
    let _ = textual_inversion::bundled_words(file);
}

fn read_all(reader: &dyn Reader) {
    for name in reader.names() {
        let info = reader.info(name).expect("a listed tensor has its info");
        assert_eq!(reader.bytes(name).expect("a listed tensor can be read").len(), info.byte_length());
    }
}

/// The configuration of a network, or that of all networks inside a single file.
fn config_json(_: &Path, data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let Ok(config) = serde_json::from_slice(data) else { return };
    let networks = [architecture::unet, architecture::vae, architecture::text_encoder];
    if let Some(shapes) = networks.get(usize::from(choice % 4)) {
        return match shapes(&config) {
            Ok(shapes) => {
                assert!(shapes.len() <= MOST_TENSORS, "{} tensors", shapes.len());
                // What is asked for can be counted.
                let numbers: u128 =
                    shapes.values().map(|shape| shape.iter().map(|&length| length as u128).product::<u128>()).sum();
                assert!(numbers < u128::from(u64::MAX) && !shapes.is_empty());
            }
            Err(reason) => assert!(reason.contains('`') && reason.len() < 1000, "{reason}"),
        };
    }
    let _ = (is_bert(&config), text_positions(&config));
    let text = String::from_utf8_lossy(data).into_owned();
    let keys = ["sdtrain.unet", "sdtrain.vae", "sdtrain.text_encoder", "sdtrain.scheduler", "sdtrain.tokenizer.files"];
    let metadata = keys.into_iter().map(|key| (key.to_owned(), text.clone())).collect();
    let _ = PipelineConfigs::from_metadata(Path::new("a.safetensors"), &metadata);
}

/// The index of two shards, and the index of a whole model.
fn shard_index(folder: &Path, data: &[u8]) {
    let Some((&choice, file)) = data.split_first() else { return };
    if choice & 1 == 1 {
        write(folder, "model_index.json", file);
        std::fs::create_dir_all(folder.join("unet")).expect("a folder can be made");
        write(&folder.join("unet"), "config.json", file);
        let _ = Family::of_folder(folder);
        return;
    }
    for (name, tensor) in [("a.safetensors", "a"), ("b.safetensors", "b")] {
        let json = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#);
        write(folder, name, &with_header(json.as_bytes(), 2));
    }
    let index = write(folder, "model.safetensors.index.json", file);
    match open_component(folder, "model", None) {
        Ok(reader) => read_all(&*reader),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    std::fs::remove_file(index).expect("it was just written");
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    let two = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"F8_E4M3","shape":[],"data_offsets":[16,17]}}"#;
    let empty = r#"{"a":{"dtype":"BF16","shape":[0,3],"data_offsets":[0,0]}}"#;
    let unet = r#"{"model.diffusion_model.input_blocks.0.0.weight":{"dtype":"F16","shape":[1,4,1,1],"data_offsets":[0,8]},"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight":{"dtype":"F16","shape":[1,1],"data_offsets":[8,10]},"first_stage_model.encoder.down.0.block.0.conv1.weight":{"dtype":"U8","shape":[1],"data_offsets":[10,11]}}"#;
    let open_clip = r#"{"model.diffusion_model.out.2.bias":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight":{"dtype":"U8","shape":[3,2],"data_offsets":[1,7]},"cond_stage_model.model.text_projection":{"dtype":"U8","shape":[2,1],"data_offsets":[7,9]}}"#;
    let lora = r#"{"lora_unet_mid_block_resnets_0_conv1.lora_down.weight":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},"lora_te_text_model_encoder_layers_0_mlp_fc1.alpha":{"dtype":"F32","shape":[],"data_offsets":[4,8]},"unet.conv_in.lora_A.weight":{"dtype":"F64","shape":[1],"data_offsets":[8,16]}}"#;
    let words = r#"{"bundle_emb.cat.string_to_param.*":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},"clip_l":{"dtype":"F16","shape":[1,2],"data_offsets":[4,8]}}"#;
    let vae = r#"{"encoder.down_blocks.0.resnets.0.conv1.weight":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"decoder.mid_block.attentions.0.query.weight":{"dtype":"I16","shape":[1,1,1,1],"data_offsets":[1,3]},"text_model.embeddings.token_embedding.weight":{"dtype":"BOOL","shape":[1],"data_offsets":[3,4]},"bert.embeddings.word_embeddings.weight":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}"#;
    let headers = [(two, 17), (empty, 0), (unet, 11), (open_clip, 9), (lora, 16), (words, 8), (vae, 5)];
    let mut seeds: Vec<Vec<u8>> =
        headers.map(|(json, length)| with_choice((length as u8) << 1 | 1, json.as_bytes())).into();
    seeds.push(with_choice(0, &with_header(two.as_bytes(), 17)));
    seeds
}

/// Magic number, version and machine of the older form.
const LEGACY_START: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
/// The keys of its storages, and two of these.
const LEGACY_END: &[u8] = b"\x80\x02](X\x01\x00\x00\x000X\x01\x00\x00\x001e.\
    \x04\0\0\0\0\0\0\0\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\0\0\0\0\0\0\0\x02\x02\x02\x02\x02\x02\x02\x02";

/// The instructions for a text.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Those for a tensor of a storage with four floats.
fn tensor(shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let lengths = |lengths: &[u8]| {
        let all: Vec<u8> = lengths.iter().flat_map(|&length| [b'K', length]).collect();
        [b"(", &all[..], b"t"].concat()
    };
    let storage =
        [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x04tQ"].concat();
    let arguments = [&storage[..], b"K\0", &lengths(shape), &lengths(stride), b"\x89Nt"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &arguments[..], b"R"].concat()
}

fn pickle_seeds() -> Vec<Vec<u8>> {
    let named = |name: &str, value: &[u8]| [&text(name)[..], value, b"s"].concat();
    let plain =
        [b"\x80\x02}q\0", &named("a", &tensor(&[2, 2], &[1, 2]))[..], &named("name", &text("b")), b"."].concat();
    let words = [
        b"\x80\x02}",
        &named("string_to_param", &[b"}", &named("*", &tensor(&[2, 2], &[2, 1]))[..]].concat())[..],
        b".",
    ];
    let parameters = named("_parameters", &[b"}", &named("*", &tensor(&[4], &[1]))[..]].concat());
    let object = [b"ctorch.nn.modules.container\nParameterDict\n)\x81}", &parameters[..], b"b"].concat();
    let old = [b"\x80\x02}", &named("string_to_param", &object)[..], b"."].concat();
    let parameter = [
        b"\x80\x02}\x94",
        &text("state_dict")[..],
        b"ccollections\nOrderedDict\n)R",
        &text("p"),
        b"ctorch._utils\n_rebuild_parameter\n(",
        &tensor(&[1], &[1]),
        b"\x88ccollections\nOrderedDict\n)RtRs}bs.",
    ];
    let others = b"\x80\x04\x95\x08\0\0\0\0\0\0\0}(\x8c\x01aI01\nL5L\nF1.5\nG\0\0\0\0\0\0\0\0J\xff\xff\xff\xff\x8a\x01\x05M\x01\0K\x01S'x'\nU\x01yC\x01zNN)\x85\x86\x87\x8f(\x90u.";
    let class = [&text("pytorch_lightning")[..], b"\x94", &text("callbacks"), b"\x94\x93"].concat();
    let classes = [b"\x80\x04}(", &class[..], b"Nh\0h\x01\x93N", &text("a"), &tensor(&[4], &[1]), b"u."].concat();
    let list = [b"\x80\x02](", &tensor(&[2, 1], &[1, 1])[..], &tensor(&[1, 2], &[2, 1]), b"e."].concat();
    let pickles = [plain, words.concat(), old, parameter.concat(), others.to_vec(), classes, list];
    pickles.iter().flat_map(|pickle| [with_choice(0, pickle), with_choice(1, pickle)]).collect()
}

fn torch_file_seeds() -> Vec<Vec<u8>> {
    let pickles = pickle_seeds();
    let (zipped, legacy) = (&pickles[0][1..], &pickles[1][1..]);
    vec![
        zip(&[("archive/data.pkl", zipped), ("archive/data/0", &[1; 16]), ("archive/byteorder", b"little")]),
        [LEGACY_START, legacy, LEGACY_END].concat(),
    ]
}

/// A zip of stored entries (APPNOTE.TXT, 4.3); sums are left out, since nobody reads them.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let start = (file.len() as u32).to_le_bytes();
        let length = (content.len() as u32).to_le_bytes();
        // Version, flags, method, time, date and sum, then both lengths, those of the name and of nothing more.
        let common =
            [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &length, &length, &[name.len() as u8, 0, 0, 0]].concat();
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let count = [entries.len() as u8, 0];
    let (length, start) = ((directory.len() as u32).to_le_bytes(), (file.len() as u32).to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &length, &start, b"\0\0"].concat()
}

fn config_seeds() -> Vec<Vec<u8>> {
    let unet = r#"{"block_out_channels":[32,64],"cross_attention_dim":8,"in_channels":4,"layers_per_block":[1,2],"transformer_layers_per_block":2,"down_block_types":["CrossAttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","CrossAttnUpBlock2D"],"use_linear_projection":true,"addition_embed_type":"text_time","addition_time_embed_dim":8,"projection_class_embeddings_input_dim":64,"norm_num_groups":32,"attention_head_dim":[4,8]}"#;
    let vae = r#"{"block_out_channels":[32,32],"latent_channels":4,"layers_per_block":1,"use_quant_conv":false,"mid_block_add_attention":false,"scaling_factor":0.18215}"#;
    let clip = r#"{"architectures":["CLIPTextModelWithProjection"],"hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,"max_position_embeddings":77,"vocab_size":300,"projection_dim":8}"#;
    let bert = r#"{"model_type":"bert","hidden_size":8,"intermediate_size":16,"num_hidden_layers":1,"type_vocab_size":2,"vocab_size":300}"#;
    let all = [(0, unet), (1, vae), (2, clip), (2, bert), (3, "{}"), (1, "{}")];
    all.map(|(choice, text)| with_choice(choice, text.as_bytes())).into()
}

fn index_seeds() -> Vec<Vec<u8>> {
    let shards = r#"{"metadata":{"total_size":4},"weight_map":{"a":"a.safetensors","b":"b.safetensors"}}"#;
    let model = r#"{"_class_name":"StableDiffusionXLPipeline","text_encoder":["transformers","CLIPTextModel"],"in_channels":9,"use_linear_projection":true}"#;
    vec![with_choice(0, shards.as_bytes()), with_choice(1, model.as_bytes())]
}
