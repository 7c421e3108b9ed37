"""The loss of denoising in torch, from `[loss]` of a run's configuration: distances, masks, and the weights of timesteps."""

import math

import torch
import torch.nn.functional as F


def at_least_fp32(tensor):
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class DenoisingLoss:
    """What a run minimises, worked out from its configuration and diffusers' noise schedule alone."""

    def __init__(self, config, schedule):
        """`config`: the whole resolved configuration; `schedule`: a DDPMScheduler, rescaled where the run's is."""
        self.loss = config.get("loss", {})
        self.subsets = config.get("data", {}).get("subsets", [])
        self.is_dreambooth = config.get("method") == "dreambooth"
        self.schedule = schedule
        self.velocity = schedule.config.prediction_type == "v_prediction"

    def example_losses(self, prediction, target, timesteps, mask=None):
        """Means over channels and places, before any weight: `[batch]`, fp32 or, of such, fp64."""
        found = self._distances(at_least_fp32(prediction), at_least_fp32(target), timesteps)
        if mask is not None:
            factor = mask.clamp(min=self.loss.get("unmasked_weight", 0.0))
            found = found * factor
            if self.loss.get("normalize_masked_area"):
                found = found / factor.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        return found.flatten(1).mean(1)

    def _distances(self, prediction, target, timesteps):
        kind = self.loss.get("type", "mse")
        if kind == "mse":
            return F.mse_loss(prediction, target, reduction="none")
        if kind == "l1":
            return F.l1_loss(prediction, target, reduction="none")
        c = self._huber_c(timesteps).view(-1, 1, 1, 1)
        root = ((prediction - target) ** 2 + c**2).sqrt() - c
        return 2 * c * root if kind == "huber" else 2 * root

    def _huber_c(self, timesteps):
        c, scale = self.loss.get("huber_c", 0.1), self.loss.get("huber_scale", 1.0)
        kind = self.loss.get("huber_schedule", "snr")
        if kind == "constant":
            return torch.full((len(timesteps),), c * scale, device=timesteps.device)
        if kind == "exponential":
            return torch.exp(math.log(c) * timesteps / self.schedule.config.num_train_timesteps) * scale
        levels = self.schedule.alphas_cumprod.to(timesteps.device)[timesteps]
        return (1 - c) / (1 + ((1 - levels) / levels).sqrt()) ** 2 + c

    def weights(self, timesteps):
        """What each timestep counts: `[batch]`, in double precision."""
        snr = self._snr()[timesteps.cpu()]
        limited = snr.clamp(max=1000.0)
        kind = self.schedule.config.prediction_type
        weight = torch.ones_like(snr)
        if "min_snr_gamma" in self.loss:
            capped = snr.clamp(max=self.loss["min_snr_gamma"])
            weight *= {"epsilon": capped / snr, "v_prediction": capped / (snr + 1), "sample": capped}[kind]
        if self.loss.get("scale_v_pred_loss_like_noise_pred"):
            weight *= limited / (limited + 1)
        if "v_pred_like_loss" in self.loss:
            weight += self.loss["v_pred_like_loss"] * weight * (limited + 1) / limited
        if self.loss.get("debiased_estimation"):
            weight *= 1 / (limited + 1) if self.velocity else limited.rsqrt()
        if "p2_gamma" in self.loss:
            weight *= (1 + snr + self.velocity) ** -self.loss["p2_gamma"]
        return weight

    def _snr(self):
        levels = self.schedule.alphas_cumprod
        if self.loss.get("snr_before_rescaling"):
            before = dict(self.schedule.config) | {"rescale_betas_zero_snr": False}
            levels = type(self.schedule).from_config(before).alphas_cumprod
        levels = levels.double()
        return levels / (1 - levels)

    def own_weights(self, recorded, timesteps):
        """Our weights in the place of the recorded ones: each is the timestep's times one that a subset gives its images.

        Refuses recorded weights that are no such product. Tables may give each image a weight of its own; then the recorded
        ones are taken as they are.
        """
        if any("loss_weight_column" in subset for subset in self.subsets):
            return recorded
        prior = self.loss.get("prior_loss_weight", 1.0)
        of_data = {
            subset.get("loss_weight", 1.0) * (prior if subset.get("is_regularization") else 1.0) for subset in self.subsets
        } or {1.0}
        if self.is_dreambooth:
            # Class images come beside the subsets.
            of_data.add(prior)
        found = []
        for weight, timestep_weight in zip(recorded.tolist(), self.weights(timesteps).tolist()):
            own = min((data * timestep_weight for data in of_data), key=lambda own: abs(own - weight))
            # fp32 knows the SNR of the first timesteps, where almost nothing is noise, to four digits.
            if abs(own - weight) > 2e-4 * abs(own):
                raise SystemExit(f"error: a loss weight in the trace is {weight}, by the configuration it is {own}")
            found.append(own)
        return torch.tensor(found, dtype=torch.float64, device=recorded.device).float()
