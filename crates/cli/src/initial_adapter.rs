//! The adapters of `lora.initial`, told from the header of its file: the engine's rule, for `check`.

use std::collections::BTreeMap;
use std::path::Path;

use sdtrain_recipe::{AdapterKind, FileAdapter};
use sdtrain_state_dict::maps::adapter_family::family_of_adapter_file;
use sdtrain_state_dict::maps::lora_kohya::{KohyaModules, is_kohya_name};
use sdtrain_state_dict::maps::lora_peft::{self, LoraKey, LoraTensor, Part, alpha_that_counts};
use sdtrain_state_dict::maps::lora_tensor::LoraKind;
use sdtrain_state_dict::maps::peft_metadata;
use sdtrain_state_dict::maps::textual_inversion::BUNDLE_PREFIX;
use sdtrain_state_dict::{Family, Reader, open_file, read_floats};

use crate::hub_files::local_file;
use crate::{ExitCode, Failure};
use sdtrain_state_dict::architecture::Shapes;

/// What a file has beside one layer.
pub(crate) struct Present {
    pub adapter: FileAdapter,
    pub parameters: usize,
}

/// The adapters of a file by part and path.
pub(crate) type PresentAdapters = BTreeMap<(&'static str, String), Present>;

/// Reads the header of the file at `path`, whose layers must be among those of `networks`.
pub(crate) fn read(path: &Path, networks: &[(&'static str, &Shapes)]) -> Result<PresentAdapters, Failure> {
    let file = open_file(local_file(path)?)?;
    let part_of = |name: &str| Part::ALL.into_iter().find(|part| part.folder() == name).unwrap_or(Part::Unet);
    let layers: BTreeMap<(Part, &str), (&'static str, &[usize])> = networks
        .iter()
        .flat_map(|&(part, shapes)| {
            let weights = shapes.iter().filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?, shape)));
            weights.map(move |(path, shape)| ((part_of(part), path), (part, shape.as_slice())))
        })
        .collect();
    let kohya = KohyaModules::new(layers.keys().copied());
    let mut tensors: BTreeMap<(Part, String), Vec<(LoraTensor, String)>> = BTreeMap::new();
    for name in file.names().into_iter().filter(|name| !name.starts_with(BUNDLE_PREFIX)) {
        let key = if is_kohya_name(name) { kohya.parse(name) } else { lora_peft::parse(name) };
        let known = key.filter(|key| layers.contains_key(&(key.part, key.module.as_str())));
        let Some(LoraKey { part, module, tensor }) = known else {
            let message = format!("`lora.initial`: the model has no layer for `{name}` of `{}`", path.display());
            return Err(Failure::new(ExitCode::Model, message).hint(made_for(family_of_adapter_file(&file))));
        };
        tensors.entry((part, module)).or_default().push((tensor, name.to_owned()));
    }
    check_sizes(&file, path, &tensors, &layers)?;
    let described = file.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
    let described = described.unwrap_or_default();
    let mut present = BTreeMap::new();
    for ((part, module), tensors) in tensors {
        let (part_name, weight) = layers[&(part, module.as_str())];
        let shape = |name: &str| file.info(name).map_or(&[][..], |info| info.shape.as_slice());
        let rank = tensors.iter().find_map(|(tensor, name)| tensor.rank(shape(name)));
        let stored = tensors.iter().find(|(tensor, _)| *tensor == LoraTensor::Alpha);
        let alpha = match stored {
            Some((_, name)) => match read_floats(&file, name)?.first().map(|&alpha| f64::from(alpha)) {
                Some(alpha) if !alpha.is_finite() => {
                    let message = format!(
                        "`lora.initial`: `{name}` of `{}` is {alpha}, no number to scale an adapter by",
                        path.display()
                    );
                    return Err(Failure::new(ExitCode::Model, message)
                        .hint("the file is damaged, or its training went wrong; take an earlier one"));
                }
                alpha => alpha.and_then(|alpha| alpha_that_counts(alpha, rank.map_or(alpha, |rank| rank as f64))),
            },
            None => rank
                .map(|rank| described.get(&part).map_or(rank as f64, |config| config.effective_alpha(&module, rank))),
        };
        let is_trained = |tensor: LoraTensor| !matches!(tensor, LoraTensor::Alpha | LoraTensor::Ia3OnInput);
        let trained = tensors.iter().filter(|(tensor, _)| is_trained(*tensor));
        let adapter = FileAdapter {
            part: part_name.to_owned(),
            path: module.clone(),
            kernel: weight.get(2).copied().unwrap_or(1),
            kind: adapter_kind(LoraKind::of(tensors.iter().map(|(tensor, _)| *tensor))),
            rank: rank.and_then(|rank| u32::try_from(rank).ok()),
            alpha,
        };
        let parameters = trained.map(|(_, name)| shape(name).iter().product::<usize>()).sum();
        present.insert((part_name, module), Present { adapter, parameters });
    }
    Ok(present)
}

/// That the two matrices of each layer go together, and with the layer: the engine would find out with the model in memory.
fn check_sizes(
    file: &dyn Reader,
    path: &Path,
    tensors: &BTreeMap<(Part, String), Vec<(LoraTensor, String)>>,
    layers: &BTreeMap<(Part, &str), (&'static str, &[usize])>,
) -> Result<(), Failure> {
    let shape = |name: &str| file.info(name).map_or(&[][..], |info| info.shape.as_slice());
    let mut faults = Vec::new();
    for ((part, module), tensors) in tensors {
        let weight = layers[&(*part, module.as_str())].1;
        let of =
            |wanted: LoraTensor| tensors.iter().find(|(tensor, _)| *tensor == wanted).map(|(_, name)| name.as_str());
        let (Some(down), Some(up)) = (of(LoraTensor::Down), of(LoraTensor::Up)) else { continue };
        let has_core = of(LoraTensor::Mid).is_some();
        let size = |name: &str, dimension: usize| shape(name).get(dimension).copied();
        let is_linear = |name: &str| matches!(shape(name).len(), 2 | 4);
        let fits = size(down, 0) != Some(0)
            && is_linear(down)
            && is_linear(up)
            && size(down, 1) == weight.get(1).copied()
            && size(up, 0) == weight.first().copied()
            && (has_core || size(down, 0) == size(up, 1));
        if !fits {
            faults.push((down, up, weight));
        }
    }
    let Some((down, up, weight)) = faults.first() else { return Ok(()) };
    let message = format!(
        "`lora.initial`: {} layers of `{}` have other sizes than the model's, the first is `{down}`: {:?} and {:?} for a weight of {weight:?}",
        faults.len(),
        path.display(),
        shape(down),
        shape(up)
    );
    let width = faults.iter().find(|(down, ..)| down.contains("attn2_to_k") || down.contains("attn2.to_k"));
    let family = width.and_then(|(down, ..)| Family::of_text_width(*shape(down).get(1)?));
    Err(Failure::new(ExitCode::Model, message).hint(made_for(family)))
}

/// The way out where layers do not fit, which may show a family.
fn made_for(family: Option<Family>) -> String {
    match family {
        Some(family) => format!("it was made for a model of the {} family", family.title()),
        None => "it was probably made for another base model".to_owned(),
    }
}

/// What a configuration calls the kind that a file shows.
fn adapter_kind(kind: LoraKind) -> AdapterKind {
    match kind {
        LoraKind::Lora => AdapterKind::Lora,
        LoraKind::Full => AdapterKind::Full,
        LoraKind::Ia3 => AdapterKind::Ia3,
        LoraKind::Loha => AdapterKind::Loha,
        LoraKind::Lokr => AdapterKind::Lokr,
        LoraKind::Dora => AdapterKind::Dora,
    }
}
