//! Numbers that are kept in bf16 between steps and are fp32 during one, and how they get back into bf16.

use crate::update::Commit;
use sdtrain_random::{Purpose, Stream, key_of};
use sdtrain_recipe::{PrecisionConfig, Rounding, StoredType};
use sdtrain_torch::{Result, catch, round_stochastically};
use tch::{Device, Kind, Tensor};

/// In which formats weights and state are kept, and how they are rounded.
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// Of trained weights.
    pub weights: StoredType,
    /// How weights are rounded, where they are.
    pub rounding: Rounding,
    /// Of an optimizer's running means.
    pub state: StoredType,
    /// Of the run.
    pub seed: u64,
}

impl Storage {
    /// That of a run of `seed`.
    pub fn of(precision: &PrecisionConfig, seed: u64) -> Storage {
        Storage { weights: precision.weights, rounding: precision.rounding, state: precision.optimizer_state, seed }
    }

    /// Whether all is kept in fp32.
    pub fn is_plain(&self) -> bool {
        (self.weights, self.state) == (StoredType::Fp32, StoredType::Fp32)
    }

    /// The key of the roundings of the tensor `name` in step `step`.
    pub(crate) fn key(&self, step: u64, name: &str) -> u64 {
        Stream::new(self.seed, Purpose::Rounding, step, key_of(name)).next_u64()
    }
}

/// A tensor in fp32 that an update rule works on, whose numbers are somewhere else between steps.
pub(crate) struct Stored {
    name: String,
    /// fp32 during a step, empty between steps.
    pub working: Tensor,
    /// bf16: the numbers between steps.
    pub kept: Tensor,
    /// What `kept` lacks, in bf16; with Kahan's summation.
    pub compensation: Option<Tensor>,
    rounding: Rounding,
}

impl Stored {
    /// `working`, which is emptied, in `kept`, which holds it already.
    pub fn new(name: &str, working: Tensor, kept: Tensor, rounding: Rounding) -> Result<Stored> {
        let compensation = (rounding == Rounding::Kahan).then(|| kept.detach().zeros_like());
        let mut stored = Stored { name: name.to_string(), working, kept, compensation, rounding };
        stored.empty()?;
        Ok(stored)
    }

    /// Fills `working` for a step, in memory of `scratch`.
    pub fn unpack(&mut self, scratch: &mut Scratch) -> Result<()> {
        let Stored { working, kept, compensation, .. } = self;
        catch(|| {
            tch::no_grad(|| {
                let mut values = scratch.in_fp32(&kept.detach());
                if let Some(compensation) = compensation {
                    values += compensation.to_kind(Kind::Float);
                }
                working.set_data(&values);
            });
        })
    }

    /// Puts what `working` has become into `kept`, as far as `commit` has it, and frees it. Numbers that did not change are not
    /// changed by being rounded.
    pub fn pack(&mut self, storage: &Storage, step: u64, commit: &Commit) -> Result<()> {
        match (self.rounding, &self.compensation) {
            (Rounding::Stochastic, _) => {
                let key = storage.key(step, &self.name);
                round_stochastically(&self.kept.detach(), &self.working.detach(), key)?;
            }
            (_, compensation) => catch(|| {
                tch::no_grad(|| {
                    let rounded = self.working.to_kind(Kind::BFloat16);
                    if let Some(compensation) = compensation {
                        let lost = self.working.detach() - rounded.to_kind(Kind::Float);
                        commit.write(compensation, &lost.to_kind(Kind::BFloat16));
                    }
                    commit.write(&self.kept, &rounded);
                });
            })?,
        }
        self.empty()
    }

    fn empty(&mut self) -> Result<()> {
        let device = self.working.device();
        let working = &mut self.working;
        catch(|| working.set_data(&Tensor::empty([0], (Kind::Float, device))))
    }

    /// What checkpoints call it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Memory for tensors in fp32 that one update after the other uses. Asked for anew each time, the system would clear all of it first,
/// which took longer than the updates.
#[derive(Default)]
pub(crate) struct Scratch {
    buffers: Vec<Tensor>,
    lent: usize,
}

impl Scratch {
    /// From here on everything that was lent is used again.
    pub fn take_back(&mut self) {
        self.lent = 0;
    }

    /// `values` in fp32, contiguous, until they are taken back.
    pub fn in_fp32(&mut self, values: &Tensor) -> Tensor {
        let size = values.numel() as i64;
        if self.lent == self.buffers.len() {
            self.buffers.push(Tensor::empty([0], (Kind::Float, values.device())));
        }
        let buffer = &mut self.buffers[self.lent];
        self.lent += 1;
        if (buffer.numel() as i64) < size || buffer.device() != values.device() {
            // The old one first, so that both are never there at once.
            *buffer = Tensor::empty([0], (Kind::Float, values.device()));
            *buffer = Tensor::empty([size], (Kind::Float, values.device()));
        }
        let mut lent = buffer.narrow(0, 0, size).view(values.size().as_slice());
        lent.copy_(values);
        lent
    }
}

/// A leaf in fp32 with the values of `kept`, for an update rule to work on.
pub(crate) fn working_copy(kept: &Tensor) -> Tensor {
    kept.detach().to_kind(Kind::Float).set_requires_grad(true)
}

/// A one-element tensor on `device` that says that nothing was found.
pub(crate) fn no_infinity(device: Device) -> Tensor {
    Tensor::zeros([1], (Kind::Float, device))
}

/// Makes every trained parameter of `groups` one that is kept as `storage` says.
pub fn convert_parameters(groups: &[crate::ParamGroup], storage: &Storage) -> Result<()> {
    if storage.weights == StoredType::Fp32 {
        return Ok(());
    }
    catch(|| {
        tch::no_grad(|| {
            for (_, parameter) in groups.iter().flat_map(|group| &group.parameters) {
                if parameter.kind() == Kind::Float {
                    parameter.shallow_clone().set_data(&parameter.to_kind(Kind::BFloat16));
                }
            }
        });
    })
}
