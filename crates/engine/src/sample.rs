//! `sdtrain sample`.

use crate::{failure, init_image};
use sdtrain::args::SampleArgs;
use sdtrain::{ExitCode, Failure, local_file, model_location, print_answer};
use sdtrain_adapter::{LoraFile, Networks, on_device, read_bundled_words, read_learned_words};
use sdtrain_files::say;
use sdtrain_model::{LearnedWord, LoadOptions, PromptReading, StableDiffusion, load};
use sdtrain_pipeline::{Request, parameters_text, pictures_at_once, save_png, text_to_image};
use sdtrain_recipe::published_name;
use sdtrain_state_dict::{open_file, recognise};
use sdtrain_tokenizer::Tokenizer;
use std::fs;
use std::path::Path;

/// Draws pictures and prints their paths.
pub fn run(args: &SampleArgs) -> Result<(), Failure> {
    let originals = init_image::decode(args)?;
    let device = sdtrain_torch::device(&args.device.to_string()).map_err(failure::of_torch)?;
    let mut options = LoadOptions::new(device, sdtrain_trainer::kind_of(args.dtype));
    (options.vae, options.extract_ema) = (args.vae.as_deref().map(local_file).transpose()?, args.extract_ema);
    let model = load(&location(&args.model)?, &options).map_err(failure::of_model)?;
    if let Some(unknown) = &model.unknown_tensors {
        say!("warning: `{}` holds {unknown}; nothing reads them", model.path.display());
    }
    let networks = Networks::of(&model);
    let layers = model.text_layers();
    if args.clip_skip.is_some_and(|skip| skip as usize > layers) {
        return Err(Failure::new(
            ExitCode::Configuration,
            format!("`--clip-skip`: the text encoder has only {layers} layers"),
        )
        .hint("2 is the usual value"));
    }
    for lora in &args.lora {
        let file = open_file(local_file(&lora.path)?)?;
        let kind = recognise(&file);
        if kind.is_model() {
            let message = format!("`--lora {}` is a {kind}, not a LoRA", lora.path.display());
            return Err(Failure::new(ExitCode::Model, message).hint("a whole model goes with `--model`"));
        }
        let adapter = LoraFile::read(&file, &networks).and_then(|file| file.into_lora(&networks));
        let adapter = adapter.map_err(failure::of_adapter)?;
        adapter.set_strength(lora.weight);
        adapter.attach(&networks);
        let words = read_bundled_words(&file).map_err(failure::of_adapter)?;
        add_words(&model, words, &lora.path)?;
    }
    for embedding in &args.embedding {
        let file = open_file(local_file(&embedding.path)?)?;
        let words = read_learned_words(&file, embedding.name.as_deref()).map_err(failure::of_adapter)?;
        add_words(&model, words, &embedding.path)?;
    }
    let ((width, height), init_image) = init_image::fit(args, originals, &model)?;
    fs::create_dir_all(&args.output).map_err(|error| {
        Failure::new(ExitCode::Storage, format!("cannot create `{}`: {error}", args.output.display()))
    })?;
    let loras: Vec<String> =
        args.lora.iter().map(|lora| format!("{}:{}", published(&lora.path), lora.weight)).collect();
    let prompt_reading = PromptReading {
        clip_skip: args.clip_skip.map(|layers| layers as usize),
        max_token_length: args.max_token_length.map(|length| length as usize),
        weights: args.prompt_weights,
    };
    warn_of_cut_prompts(args, &model, &prompt_reading)?;
    let mut settings = Vec::new();
    if !loras.is_empty() {
        settings.push(("LoRA", loras.join(" ")));
    }
    let words: Vec<String> =
        model.learned_words().into_iter().map(|(word, vectors)| format!("{word} ({vectors})")).collect();
    if !words.is_empty() {
        settings.push(("Embeddings", words.join(" ")));
    }
    if !args.embedding.is_empty() {
        let files: Vec<String> = args.embedding.iter().map(|file| published(&file.path)).collect();
        settings.push(("Embedding files", files.join(" ")));
    }
    if let Some(vae) = &args.vae {
        settings.push(("VAE", published(vae)));
    }
    for (name, path) in [("Init image", &args.init_image), ("Mask", &args.mask)] {
        if let Some(path) = path {
            settings.push((name, published(path)));
        }
    }
    let batch = pictures_at_once(width, height) as u32;
    for first in (0..args.num_images).step_by(batch as usize) {
        let count = batch.min(args.num_images - first);
        let request = Request {
            prompts: vec![args.prompt.clone(); count as usize],
            negative: args.negative.clone(),
            steps: args.steps as usize,
            guidance: args.guidance,
            seed: args.seed + u64::from(first),
            width,
            height,
            sampler: args.sampler,
            prompt_reading,
            init_image: init_image.clone(),
        };
        let pictures = text_to_image(&model, &request).map_err(failure::of_drawing)?;
        for (index, picture) in pictures.iter().enumerate() {
            let text = parameters_text(&model, &args.model, &request, index, &settings);
            let name = format!("{:05}-{}.png", first as usize + index, request.seed + index as u64);
            let path = args.output.join(name);
            save_png(&path, picture, &[("parameters", text)]).map_err(failure::of_pipeline)?;
            print_answer(&format!("{}\n", path.display()));
        }
    }
    Ok(())
}

/// What a picture says of a file that it was made with.
fn published(path: &Path) -> String {
    published_name(&path.display().to_string())
}

/// Adds the words of a file, if it has any.
fn add_words(model: &StableDiffusion, words: Vec<LearnedWord>, file: &Path) -> Result<(), Failure> {
    if words.is_empty() {
        return Ok(());
    }
    let spoken: Vec<String> = words.iter().map(|word| format!("`{}`", word.word)).collect();
    model.add_words(on_device(words, model.device)).map_err(|error| {
        let hint = match &error {
            sdtrain_model::Error::Tokenizer(_) => "another word is given as `--embedding WORD=FILE`",
            _ => "it was probably made for another base model",
        };
        Failure::new(ExitCode::Model, format!("`{}`: {error}", file.display())).hint(hint)
    })?;
    say!("learned words in prompts: {} (`{}`)", spoken.join(", "), file.display());
    Ok(())
}

/// The path or name that the model crate loads: `hf:` names are looked up in the local cache.
pub fn location(model: &str) -> Result<String, Failure> {
    Ok(model_location(model)?.to_string())
}

/// Says how much of a prompt the text encoder does not get to see.
fn warn_of_cut_prompts(args: &SampleArgs, model: &StableDiffusion, reading: &PromptReading) -> Result<(), Failure> {
    let tokenizer = &model.prompt_tokenizers()[0];
    let windows = tokenizer.windows_of(reading.max_token_length)?;
    let limit = windows * (tokenizer.window() - tokenizer.marks());
    for (option, prompt) in [("--prompt", &args.prompt), ("--negative", &args.negative)] {
        let tokens = match reading.weights {
            true => tokenizer.weighted_token_count(prompt),
            false => tokenizer.token_count(prompt),
        };
        if tokens > limit {
            say!("warning: `{option}` has {tokens} tokens, of which {limit} are read");
            say!("  hint: `--max-token-length {}` reads all of it", tokens.next_multiple_of(limit / windows));
        }
    }
    Ok(())
}
