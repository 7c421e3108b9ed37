//! Products of two small matrices: reading them, adding them up, and the nearest one of a smaller rank.

use crate::error::{Error, Result};
use crate::file::check_alpha;
use crate::lora::LoraModule;
use sdtrain_model::{read_tensor, read_weight};
use sdtrain_recipe::AdapterKind;
use sdtrain_state_dict::Reader;
use sdtrain_state_dict::maps::adapter_family::adapter_key;
use sdtrain_state_dict::maps::lora_peft::{LoraTensor, Part, alpha_that_counts};
use sdtrain_state_dict::maps::peft_metadata;
use sdtrain_state_dict::maps::textual_inversion::BUNDLE_PREFIX;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// `scale · up · down`.
#[derive(Debug)]
pub(crate) struct LowRank {
    /// `[outputs, rank]`, f32 on the host.
    up: Tensor,
    /// `[rank, fan_in]`, f32 on the host.
    down: Tensor,
    scale: f64,
}

/// The tensors of one layer of a file, and its alpha.
#[derive(Default)]
struct Found {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

/// Network and path of a layer, the size of its weight, and the matrices beside it.
pub type LayerOfFile = (Part, String, Vec<i64>, LowRank);

impl LowRank {
    /// All adapters of a plain LoRA of either form: network, path, size of the weight beside it, and its matrices.
    pub fn read_all(file: &dyn Reader) -> Result<Vec<LayerOfFile>> {
        let does_not_fit =
            |reason: String| Error::DoesNotFit { file: file.path().display().to_string(), reason, family: None };
        let mut layers: BTreeMap<(Part, String), Found> = BTreeMap::new();
        // Words that come along are no adapters; see `read_bundled_words`.
        for name in file.names().into_iter().filter(|name| !name.starts_with(BUNDLE_PREFIX)) {
            let key = adapter_key(name);
            let tensor = || read_weight(file, name, Kind::Float, Device::Cpu);
            match key.map(|key| ((key.part, key.module), key.tensor)) {
                Some((layer, LoraTensor::Down)) => layers.entry(layer).or_default().down = Some(tensor()?),
                Some((layer, LoraTensor::Up)) => layers.entry(layer).or_default().up = Some(tensor()?),
                Some((layer, LoraTensor::Alpha)) => {
                    let alpha = read_tensor(file, name, Some(Kind::Float), Device::Cpu)?;
                    check_alpha(&alpha, &file.path().display().to_string(), &format!("{}.{}", layer.0, layer.1))?;
                    layers.entry(layer).or_default().alpha = Some(alpha.f_reshape([-1])?.f_double_value(&[0])?);
                }
                _ => {
                    return Err(Error::NeedsModel {
                        file: file.path().display().to_string(),
                        tensor: name.to_string(),
                    });
                }
            }
        }
        if layers.is_empty() {
            return Err(does_not_fit("it holds no low-rank adapter".into()));
        }
        let described = file.metadata().get(peft_metadata::KEY).and_then(|text| peft_metadata::from_json(text));
        let described = described.unwrap_or_default();
        let mut all = Vec::new();
        for ((part, path), Found { down, up, alpha }) in layers {
            let (Some(down), Some(up)) = (down, up) else {
                return Err(does_not_fit(format!("`{part}.{path}`: one of its two matrices is missing")));
            };
            let (down_size, up_size) = (down.size(), up.size());
            let rank = down_size.first().copied().unwrap_or_default();
            let ones = up_size.iter().skip(2).all(|&side| side == 1);
            if down_size.len() < 2 || down_size.len() != up_size.len() || up_size[1] != rank || rank == 0 || !ones {
                let message =
                    format!("`{part}.{path}`: matrices {down_size:?} and {up_size:?} are no low-rank adapter");
                return Err(does_not_fit(message));
            }
            let described = described.get(&part).map(|config| config.effective_alpha(&path, rank as usize));
            let alpha = alpha.and_then(|alpha| alpha_that_counts(alpha, rank as f64));
            let scale = alpha.or(described).unwrap_or(rank as f64) / rank as f64;
            let shape = std::iter::once(up_size[0]).chain(down_size[1..].iter().copied()).collect();
            let (up, down) = (up.f_flatten(1, -1)?, down.f_flatten(1, -1)?);
            all.push((part, path, shape, LowRank { up, down, scale }));
        }
        Ok(all)
    }

    /// The matrices of `module`, if its change is their product.
    pub fn of(module: &LoraModule) -> Option<LowRank> {
        let adapter = module.layer.adapter();
        let parameters = adapter.parameters();
        let (AdapterKind::Lora, [(LoraTensor::Down, down), (LoraTensor::Up, up)]) =
            (module.kind, parameters.as_slice())
        else {
            return None;
        };
        let flat = |tensor: &Tensor| tensor.detach().flatten(1, -1).to_kind(Kind::Float).to_device(Device::Cpu);
        Some(LowRank { up: flat(up), down: flat(down), scale: adapter.alpha()? / adapter.rank()? as f64 })
    }

    /// `weight` times as much.
    pub fn times(self, weight: f64) -> LowRank {
        LowRank { scale: self.scale * weight, ..self }
    }

    /// `up` and `down` whose product is the sum of all `terms`, in `kind`; the scales lie in `up`.
    pub fn side_by_side(terms: &[LowRank], kind: Kind) -> Result<(Tensor, Tensor)> {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        for term in terms {
            ups.push(term.up.f_to_kind(kind)?.f_mul_scalar(term.scale)?);
            downs.push(term.down.f_to_kind(kind)?);
        }
        Ok((Tensor::f_cat(&ups, 1)?, Tensor::f_cat(&downs, 0)?))
    }
}

/// The nearest product of a smaller rank.
pub(crate) struct Truncated {
    /// `[outputs, rank]`, f64.
    pub up: Tensor,
    /// `[rank, fan_in]`, f64.
    pub down: Tensor,
    /// Square of the Frobenius norm of what is gone.
    pub lost: f64,
    /// Square of the Frobenius norm of the whole.
    pub all: f64,
}

/// The nearest product of at most `rank` to the sum of `terms` and `dense`, in the Frobenius norm (Eckart and Young 1936).
/// Both matrices get the roots of the singular values, which keeps them in the range of fp16.
pub(crate) fn truncate(terms: &[LowRank], dense: Option<&Tensor>, rank: i64) -> Result<Truncated> {
    let product = match terms.is_empty() {
        true => None,
        false => Some(LowRank::side_by_side(terms, Kind::Double)?),
    };
    Ok(sdtrain_torch::catch(|| {
        let (left, core, right) = match (product, dense) {
            (Some((up, down)), None) if up.size()[1] < up.size()[0].min(down.size()[1]) => {
                // up·down = Q₁·(R₁·R₂ᵀ)·Q₂ᵀ: the singular values are those of the small matrix between.
                let (up_q, up_r) = Tensor::linalg_qr(&up, "reduced");
                let (down_q, down_r) = Tensor::linalg_qr(&down.tr(), "reduced");
                (Some(up_q), up_r.matmul(&down_r.tr()), Some(down_q.tr()))
            }
            (Some((up, down)), dense) => {
                let product = up.matmul(&down);
                (None, dense.map_or_else(|| product.shallow_clone(), |dense| &product + dense), None)
            }
            (None, Some(dense)) => (None, dense.shallow_clone(), None),
            (None, None) => unreachable!("a layer is made for something to add to it"),
        };
        let (u, s, v) = core.svd(true, true);
        let rank = rank.clamp(1, s.size()[0]);
        let squares = s.square();
        let all = squares.sum(Kind::Double).double_value(&[]);
        let lost = squares.narrow(0, rank, s.size()[0] - rank).sum(Kind::Double).double_value(&[]);
        let roots = s.narrow(0, 0, rank).sqrt();
        let up = u.narrow(1, 0, rank) * &roots;
        let down = roots.unsqueeze(1) * v.narrow(1, 0, rank).tr();
        let up = left.map_or_else(|| up.shallow_clone(), |left| left.matmul(&up));
        let down = right.map_or_else(|| down.shallow_clone(), |right| down.matmul(&right));
        Truncated { up, down, lost, all }
    })?)
}
