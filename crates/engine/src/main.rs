#![doc = include_str!("../README.md")]

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let loaded = match sdtrain_recipe::TrainConfig::load(std::path::Path::new(&args[1]), &args[2..].to_vec()) {
        Ok(loaded) => loaded,
        Err(problems) => { eprintln!("{problems}"); std::process::exit(2) }
    };
    let output = std::path::Path::new("outputs").join(&loaded.config.name);
    let result = sdtrain_trainer::train(loaded.config, &sdtrain_trainer::RunOptions { output, device: "cpu".into() });
    match result { Ok(outcome) => eprintln!("{outcome:?}"), Err(error) => { eprintln!("error: {error}"); std::process::exit(1) } }
}
