//! Names and shapes of the layers that the networks are made of.

use super::Shapes;

/// The shapes so far, and what all blocks of a network share.
pub(super) struct List {
    pub(super) shapes: Shapes,
    /// Width of the timestep embedding; a VAE has none.
    pub(super) time: Option<usize>,
    pub(super) context: usize,
    pub(super) linear_projection: bool,
}

impl List {
    pub(super) fn add(&mut self, name: &str, shape: Vec<usize>) {
        self.shapes.insert(name.to_owned(), shape);
    }

    pub(super) fn linear(&mut self, name: &str, inputs: usize, outputs: usize, bias: bool) {
        self.add(&format!("{name}.weight"), vec![outputs, inputs]);
        if bias {
            self.add(&format!("{name}.bias"), vec![outputs]);
        }
    }

    pub(super) fn convolution(&mut self, name: &str, inputs: usize, outputs: usize, kernel: usize) {
        self.add(&format!("{name}.weight"), vec![outputs, inputs, kernel, kernel]);
        self.add(&format!("{name}.bias"), vec![outputs]);
    }

    pub(super) fn norm(&mut self, name: &str, channels: usize) {
        self.add(&format!("{name}.weight"), vec![channels]);
        self.add(&format!("{name}.bias"), vec![channels]);
    }

    pub(super) fn resnet(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.norm(&format!("{name}.norm1"), inputs);
        self.convolution(&format!("{name}.conv1"), inputs, outputs, 3);
        if let Some(time) = self.time {
            self.linear(&format!("{name}.time_emb_proj"), time, outputs, true);
        }
        self.norm(&format!("{name}.norm2"), outputs);
        self.convolution(&format!("{name}.conv2"), outputs, outputs, 3);
        if inputs != outputs {
            self.convolution(&format!("{name}.conv_shortcut"), inputs, outputs, 1);
        }
    }

    pub(super) fn transformer(&mut self, name: &str, channels: usize, layers: usize) {
        self.norm(&format!("{name}.norm"), channels);
        for projection in ["proj_in", "proj_out"] {
            match self.linear_projection {
                true => self.linear(&format!("{name}.{projection}"), channels, channels, true),
                false => self.convolution(&format!("{name}.{projection}"), channels, channels, 1),
            }
        }
        for layer in 0..layers {
            let block = format!("{name}.transformer_blocks.{layer}");
            for (attention, context) in [("attn1", channels), ("attn2", self.context)] {
                self.linear(&format!("{block}.{attention}.to_q"), channels, channels, false);
                self.linear(&format!("{block}.{attention}.to_k"), context, channels, false);
                self.linear(&format!("{block}.{attention}.to_v"), context, channels, false);
                self.linear(&format!("{block}.{attention}.to_out.0"), channels, channels, true);
            }
            for norm in ["norm1", "norm2", "norm3"] {
                self.norm(&format!("{block}.{norm}"), channels);
            }
            self.linear(&format!("{block}.ff.net.0.proj"), channels, channels * 8, true);
            self.linear(&format!("{block}.ff.net.2"), channels * 4, channels, true);
        }
    }

    pub(super) fn vae_middle(&mut self, half: &str, channels: usize, attends: bool) {
        self.resnet(&format!("{half}.mid_block.resnets.0"), channels, channels);
        if attends {
            let attention = format!("{half}.mid_block.attentions.0");
            self.norm(&format!("{attention}.group_norm"), channels);
            for matrix in ["to_q", "to_k", "to_v", "to_out.0"] {
                self.linear(&format!("{attention}.{matrix}"), channels, channels, true);
            }
        }
        self.resnet(&format!("{half}.mid_block.resnets.1"), channels, channels);
    }
}
