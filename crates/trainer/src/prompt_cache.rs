//! Text states of prompts seen before: a frozen text encoder runs once for each different prompt.

use crate::error::Result;
use sdtrain_model::{PromptReading, StableDiffusion};
use std::collections::HashMap;
use tch::Tensor;

/// Different prompts kept; with shuffled captions there is no end to them.
const CAPACITY: usize = 4096;

/// States by prompt, on the device.
pub struct PromptCache {
    states: HashMap<String, Tensor>,
    reading: PromptReading,
}

impl PromptCache {
    /// An empty cache of prompts read like this.
    pub fn new(reading: PromptReading) -> PromptCache {
        PromptCache { states: HashMap::new(), reading }
    }

    /// `[prompts, tokens, hidden_size]` in the compute dtype.
    pub fn encode(&mut self, model: &StableDiffusion, prompts: &[String]) -> Result<Tensor> {
        if self.states.len() + prompts.len() > CAPACITY {
            self.states.clear();
        }
        // One by one: a prompt's states must not depend on which others shared its batch.
        for prompt in prompts {
            if !self.states.contains_key(prompt) {
                let states = model.encode_prompts(std::slice::from_ref(prompt), &self.reading)?;
                self.states.insert(prompt.clone(), states.squeeze_dim(0));
            }
        }
        let states: Vec<&Tensor> = prompts.iter().map(|prompt| &self.states[prompt]).collect();
        Ok(Tensor::f_stack(&states, 0)?)
    }
}
