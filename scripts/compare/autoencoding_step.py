"""The training step of an autoencoder in diffusers: what `replay.py` compares runs of `method = "vae"` with."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from reference_step import DTYPES, Trainee

# As `[vae_objective]` has it where it says nothing.
WEIGHTS = {"l1_weight": 1.0, "l2_weight": 0.0, "kl_weight": 1e-6, "gradient_weight": 0.0}


class AutoencodingTrainee(Trainee):
    """The autoencoder with its trained weights in fp32, its optimizer, and the step of every trainee."""

    def __init__(self, model, initial, settings, config_folder=None):
        """`initial`: the trained tensors by their names in a trace, without `initial.`."""
        if settings.compute not in ("fp32", "fp64"):
            raise SystemExit("error: this script replays an autoencoder in fp32 only")
        self.settings = settings
        self.compute = DTYPES[settings.compute]
        self.weights_of_terms = WEIGHTS | settings.config.get("vae_objective", {})
        folder = {"subfolder": "vae"} if Path(model).is_dir() else {}
        load = AutoencoderKL.from_pretrained if folder else AutoencoderKL.from_single_file
        if not folder and config_folder:
            folder = {"config": str(config_folder), "subfolder": "vae"}
        self.vae = load(str(model), torch_dtype=torch.float32, **folder).requires_grad_(False)
        self.initial, self.words, self.loss_scale, self.adapters = initial, [], 1.0, {}
        values = {name.removeprefix("vae."): value for name, value in initial.items()}
        self.trained = {f"vae.{name}": parameter for name, parameter in self._prepare(self.vae, values).items()}
        self.vae.to(self.compute)
        self.optimizer = torch.optim.AdamW(
            list(self.trained.values()),
            lr=1.0,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def objective(self):
        return "autoencoding"

    def example_losses(self, inputs):
        """Sum of the weighted terms of each example."""
        pixels = inputs["pixels"]
        distribution = self.vae.encode(pixels).latent_dist
        decoded = self.vae.decode(distribution.mean + distribution.std * inputs["noise"]).sample
        difference = decoded - pixels
        of_each = lambda values: values.flatten(1).mean(1)
        weights = self.weights_of_terms
        losses = weights["l1_weight"] * of_each(difference.abs()) + weights["l2_weight"] * of_each(difference**2)
        losses += weights["gradient_weight"] * sum(of_each(difference.diff(dim=dim).abs()) for dim in (2, 3))
        return losses + weights["kl_weight"] * distribution.kl()
