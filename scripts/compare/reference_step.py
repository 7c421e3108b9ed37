"""The training step in diffusers and PEFT: what `replay.py` compares with and what the trace fixtures are made of."""

import copy
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from denoising_loss import DenoisingLoss, at_least_fp32
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging
from reference_adapters import KINDS, Adapters, are_adapters

logging.set_verbosity_error()
logging.disable_progress_bar()

# fp64 is for the truth that two runs in fp32 are held against, no run of the program has it.
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# SD1's own, where a single file brings no scheduler_config.json.
SD1_SCHEDULE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@dataclass
class Settings:
    """The parts of a run's resolved configuration that change its numbers."""

    betas: tuple = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    alpha: float | None = None
    conv_alpha: float | None = None
    compute: str = "fp32"
    autocast: bool = True
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None
    clip_skip: int = 1
    gradient_checkpointing: bool = False
    base_prediction: bool = False
    device: str = "cpu"
    words: tuple = ()
    config: dict = field(default_factory=dict)

    def trained_dtype(self):
        return torch.float64 if self.compute == "fp64" else torch.float32

    @staticmethod
    def from_config(config, **overrides):
        """From the resolved TOML as a dictionary; absent keys have the program's defaults."""
        lora, train, model = (config.get(part, {}) for part in ("lora", "train", "model"))
        optimizer = config.get("optimizer", {})
        if optimizer.get("type", "adamw") != "adamw":
            raise SystemExit(f"error: this script replays adamw only, the trace was made with `{optimizer['type']}`")
        for key in ["dropout", "rank_dropout", "module_dropout"]:
            if lora.get(key):
                raise SystemExit(f"error: a run with `lora.{key}` cannot be replayed, its masks are not in the trace")
        # What decides an adapter's scale and is not in the trace.
        other = ["rank_stabilized", "block_alphas", "conv_block_alphas", "alpha_pattern"]
        for key in [key for key in other if lora.get(key)]:
            raise SystemExit(f"error: this script does not replay `lora.{key}`")
        if lora.get("kind", "lora") not in KINDS:
            raise SystemExit(f"error: this script replays {', '.join(KINDS)} adapters, not `{lora['kind']}`")
        if lora.get("max_weight_norm") and lora.get("kind", "lora") != "lora":
            raise SystemExit("error: this script replays `lora.max_weight_norm` of kind `lora` only")
        rank = lora.get("rank", 16)
        alpha = lora.get("alpha", rank)
        conv_alpha = lora.get("conv_alpha", lora["conv_rank"] if "conv_rank" in lora else alpha)
        return Settings(
            **{
                **dict(
                    betas=tuple(optimizer.get("betas", (0.9, 0.999))),
                    eps=optimizer.get("eps", 1e-8),
                    weight_decay=optimizer.get("weight_decay", 1e-2),
                    max_grad_norm=train.get("max_grad_norm", 1.0),
                    alpha=alpha,
                    conv_alpha=conv_alpha,
                    compute=config.get("precision", {}).get("compute", "fp32"),
                    prediction_type=model.get("prediction_type"),
                    zero_terminal_snr=model.get("zero_terminal_snr"),
                    clip_skip=model.get("clip_skip") or 1,
                    gradient_checkpointing=train.get("gradient_checkpointing", False),
                    words=tuple(token["word"] for token in config.get("textual_inversion", {}).get("tokens", [])),
                    config=config,
                    base_prediction=config.get("method") == "dreambooth"
                    and config.get("dreambooth", {}).get("prior") == "base_prediction",
                ),
                **overrides,
            }
        )


def noise_schedule(model, settings):
    """diffusers' training schedule of the model's folder, with what the run's configuration changes."""
    file = Path(model) / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) if file.is_file() else dict(SD1_SCHEDULE)
    if settings.prediction_type:
        config["prediction_type"] = settings.prediction_type
    if settings.zero_terminal_snr is not None:
        config["rescale_betas_zero_snr"] = settings.zero_terminal_snr
    return DDPMScheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})


def load_unet(model, config_folder=None):
    if Path(model).is_dir():
        return UNet2DConditionModel.from_pretrained(model, subfolder="unet", torch_dtype=torch.float32)
    config = {"config": str(config_folder), "subfolder": "unet"} if config_folder else {}
    return UNet2DConditionModel.from_single_file(str(model), torch_dtype=torch.float32, **config)


def load_text_encoder(model, part="text_encoder"):
    from transformers import AutoConfig, BertModel, CLIPTextModel, CLIPTextModelWithProjection

    if part == "text_encoder":
        is_bert = AutoConfig.from_pretrained(Path(model) / part).model_type == "bert"
        # BERT's dropout would draw numbers that no trace has.
        off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0) if is_bert else {}
        return (BertModel if is_bert else CLIPTextModel).from_pretrained(Path(model) / part, torch_dtype=torch.float32, **off)
    encoder = CLIPTextModelWithProjection.from_pretrained(Path(model) / part, torch_dtype=torch.float32)
    # The released file says 2, for which transformers takes the largest id: a learned word's, where there is one.
    encoder.text_model.eos_token_id = encoder.config.vocab_size - 1
    return encoder


def text_encoder_names(model):
    return [part for part in ("text_encoder", "text_encoder_2") if (Path(model) / part).is_dir()]


def inner_name(module, name):
    """A name of the trace as the installed transformers spells it: version 5 has no `text_model` module."""
    return name if hasattr(module, "text_model") else name.removeprefix("text_model.")


def block_numbers(unet, blocks):
    """The number of the block that a parameter of `unet` is part of, as kohya's scripts count them: by the network's own levels,
    by SD1's where a list of `[blocks]` has SD1's length, or by SDXL's where its UNet has 23 rates."""
    layers = [len(block.resnets) for block in unet.down_blocks]
    lengths = {len(value) for value in blocks.values() if isinstance(value, list)}
    is_sdxl = getattr(unet, "add_embedding", None) is not None and len(layers) <= 3 and max(layers) <= 2
    counts_sdxl = is_sdxl and len(blocks.get("learning_rates") or []) == 23
    if counts_sdxl:
        layers = [2] * 3
    elif lengths & {12, 25} and len(layers) <= 4 and max(layers) <= 2:
        layers = [2] * 4
    half = sum(count + 1 for count in layers)
    # Of `conv_in`, the first in the middle, the first in the up half, and `conv_out`.
    conv_in, middle, up, out = (1, half + 1, half + 4, 2 * half + 4) if counts_sdxl else (0, half, half + 1, 2 * half)

    def number(name):
        words = name.split(".")
        if words[0] == "down_blocks":
            level = int(words[1])
            start = conv_in + 1 + sum(count + 1 for count in layers[:level])
            return start + (layers[level] if words[2] == "downsamplers" else int(words[3]))
        if words[0] == "up_blocks":
            level, mirrored = int(words[1]), layers[::-1]
            start = up + sum(count + 1 for count in mirrored[:level])
            return start + (mirrored[level] if words[2] == "upsamplers" else int(words[3]))
        if words[0] == "mid_block" and counts_sdxl:
            return middle + (1 if words[1] == "attentions" else 2 * int(words[2]))
        outside = {"mid_block": middle, "conv_in": conv_in, "conv_norm_out": out, "conv_out": out}
        return outside.get(words[0], 0)

    return number


LEARNED = ".learned_tokens."


class LearnedWords:
    """Words added to one text encoder as diffusers' textual inversion does it: the whole embedding is trained, and after each step every
    row but the words' is put back."""

    def __init__(self, model, part, text_encoder, initial, words, dtype):
        """`initial`: the vectors by their names in a trace; `words`: in the order in which they were added."""
        from transformers import AutoTokenizer

        prefix = part + LEARNED
        tokenizer = AutoTokenizer.from_pretrained(Path(model) / part.replace("text_encoder", "tokenizer"))
        vectors = {name.removeprefix(prefix): value for name, value in initial.items() if name.startswith(prefix)}
        assert sorted(vectors) == sorted(words), f"the trace has {sorted(vectors)}, its configuration {sorted(words)}"
        self.rows = {}
        for word in words:
            names = [word] + [f"{word}_{index}" for index in range(1, len(vectors[word]))]
            assert tokenizer.add_tokens(names) == len(names), f"the tokenizer has `{word}` already"
            self.rows[prefix + word] = tokenizer.convert_tokens_to_ids(names)
        table = text_encoder.get_input_embeddings()
        rows = max(len(tokenizer), table.num_embeddings)
        text_encoder.resize_token_embeddings(rows, mean_resizing=False)
        self.parameter = text_encoder.get_input_embeddings().weight.requires_grad_(True)
        self.parameter.data = self.parameter.data.to(dtype)
        self.put(initial)
        self.original = self.parameter.data.clone()
        # Rows that were there before; resizing may add more than the words.
        self.others_before = torch.arange(min(list(self.rows.values()))[0])
        self.others = torch.ones(rows, dtype=torch.bool)
        for ids in self.rows.values():
            self.others[ids] = False

    def put(self, initial):
        for name, ids in self.rows.items():
            self.parameter.data[ids] = initial[name].to(self.parameter)

    def own_gradient_only(self):
        """diffusers' script does not clip; where a run does, only the words' gradient is a part of the norm."""
        if self.parameter.grad is not None:
            self.parameter.grad[self.others] = 0

    def put_others_back(self):
        self.parameter.data[self.others] = self.original[self.others].to(self.parameter.device)

    @torch.no_grad()
    def keep_norms(self):
        """Gives each word's vectors the median length of the table's other rows."""
        length = self.original[self.others_before].norm(dim=1).median()
        for ids in self.rows.values():
            vectors = self.parameter.data[ids]
            self.parameter.data[ids] = vectors * length.to(vectors) / vectors.norm(dim=1, keepdim=True)

    def weights(self):
        return {name: self.parameter.detach()[ids].cpu() for name, ids in self.rows.items()}


class Trainee:
    """The model with its trained weights in fp32, its optimizer, and the step."""

    def __init__(self, model, initial, settings, config_folder=None):
        """`initial`: the trained tensors by their names in a trace, without `initial.`."""
        self.settings = settings
        self.compute = DTYPES[settings.compute]
        self.schedule = noise_schedule(model, settings)
        self.loss = DenoisingLoss(settings.config, self.schedule)
        self.unet = load_unet(model, config_folder)
        of_text = any(name.startswith("text_encoder") for name in initial)
        # Which layer, and whether through the final norm: SDXL's penultimate one as it is.
        names = text_encoder_names(model)
        self.of_sdxl = "text_encoder_2" in names
        self.text_encoders = {part: load_text_encoder(model, part) for part in names} if of_text else {}
        self.initial = initial
        self.groups = {}
        self.trained = {}
        self.adapters = {}
        for part, module in [("unet", self.unet), *self.text_encoders.items()]:
            module.requires_grad_(False)
            tensors = {
                inner_name(module, name.removeprefix(f"{part}.")): (name, value)
                for name, value in initial.items()
                if name.startswith(f"{part}.") and LEARNED not in name
            }
            values = {inner: value for inner, (_, value) in tensors.items()}
            self.groups[part] = self._prepare(module, values, part)
            self.trained |= {tensors[inner][0]: parameter for inner, parameter in self.groups[part].items()}
        # Behind the others, as the program has its groups.
        of_words = any(LEARNED in name for name in initial)
        self.words = [
            LearnedWords(model, part, encoder, initial, settings.words, settings.trained_dtype())
            for part, encoder in (self.text_encoders.items() if of_words else [])
        ]
        if self.words:
            self.groups["learned_tokens"] = {str(index): words.parameter for index, words in enumerate(self.words)}
        left = set(initial) - set(self.trained) - {name for words in self.words for name in words.rows}
        assert not left, f"the trace trains tensors that this script does not know: {sorted(left)[:3]}"
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in self._groups_of_rates() if group],
            lr=1.0,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        of_unet = [name for name in initial if name.startswith("unet.")]
        frozen = settings.base_prediction and of_unet and not are_adapters(of_unet)
        self.frozen = copy.deepcopy(self.unet).requires_grad_(False) if frozen else None
        # A power of two far below overflow; what the program used does not change the numbers after unscaling.
        self.loss_scale = 1024.0 if self.compute == torch.float16 else 1.0

    def _groups_of_rates(self):
        """What shares a learning rate, in the order of a trace's rates: networks, the UNet's blocks, LoRA+'s upper matrices."""
        config = self.settings.config
        blocks, lora = config.get("blocks", {}), config.get("lora", {})
        set_blocks = any(key != "zero_threshold" for key in blocks)
        number = block_numbers(self.unet, blocks) if set_blocks else lambda name: 0
        found = {}
        for name, parameter in self.trained.items():
            part, inner = name.split(".", 1)
            plus = lora.get(f"loraplus_{part.removesuffix('_2')}_lr_ratio", lora.get("loraplus_lr_ratio"))
            key = (["unet", "text_encoder", "text_encoder_2"].index(part), number(inner) if part == "unet" else 0, plus is not None and ".lora_B." in name)
            found.setdefault(key, []).append(parameter)
        groups = [found[key] for key in sorted(found)]
        return groups + [list(group.values()) for part, group in self.groups.items() if part == "learned_tokens"]

    def _prepare(self, module, values, part="vae"):
        if are_adapters(values):
            module.to(self.compute)
            self.adapters[part] = Adapters(module, values, self.settings)
            trained = self.adapters[part].trained
        else:
            parameters = dict(module.named_parameters())
            if not values or self.compute == torch.float64:
                module.to(self.compute)
            trained = {}
            for name, value in values.items():
                parameters[name].data = value.to(self.settings.trained_dtype(), copy=True)
                trained[name] = parameters[name].requires_grad_(True)
        module.to(self.settings.device)
        for parameter in trained.values():
            parameter.data = parameter.data.to(self.settings.trained_dtype())
        if self.settings.gradient_checkpointing and trained:
            module.train()
            enable = getattr(module, "enable_gradient_checkpointing", None) or module.gradient_checkpointing_enable
            enable()
        return trained

    def reset(self):
        """Back to the weights before the first step, with an empty optimizer."""
        for name, parameter in self.trained.items():
            parameter.data.copy_(self.initial[name])
            parameter.requires_grad_(True)
        for words in self.words:
            words.put(self.initial)
        self.optimizer.state.clear()

    def objective(self):
        return self.schedule.config.prediction_type

    def autocast(self):
        of_16_bits = self.compute in (torch.bfloat16, torch.float16)
        dtype = self.compute if of_16_bits else torch.bfloat16
        device = self.settings.device.split(":")[0]
        return torch.autocast(device, dtype=dtype, enabled=self.settings.autocast and of_16_bits)

    def states(self, inputs, prefix=""):
        """What the UNet attends to, and the prompt as one vector (SDXL's); `prior_` is the prefix of the class prompt's inputs."""
        inputs = {name.removeprefix(prefix): value for name, value in inputs.items() if name.startswith(prefix)}
        if "input_ids" not in inputs or not self.text_encoders:
            return inputs["encoder_hidden_states"], inputs.get("text_embeds")
        found = [
            self.states_of(encoder, inputs[f"input_ids{suffix}"], inputs.get(f"prompt_weights{suffix}"))
            for suffix, encoder in zip(["", "_2"], self.text_encoders.values())
        ]
        return torch.cat([states for states, _ in found], dim=-1), found[-1][1]

    def states_of(self, encoder, ids, weights):
        ids = ids if ids.dim() == 3 else ids[:, None]
        output = encoder(ids.flatten(0, 1), output_hidden_states=True)
        if self.of_sdxl:
            states = output.hidden_states[-2]
        else:
            states = output.hidden_states[-self.settings.clip_skip]
            # BERT has no norm behind its layers.
            final_norm = getattr(getattr(encoder, "text_model", encoder), "final_layer_norm", None)
            states = final_norm(states) if final_norm else states
        # A prompt of several windows: the first mark, what each window holds, the last mark.
        states = states.unflatten(0, ids.shape[:2])
        states = torch.cat([states[:, 0, :1], states[:, :, 1:-1].flatten(1, 2), states[:, -1, -1:]], dim=1)
        pooled = getattr(output, "text_embeds", None)
        pooled = None if pooled is None else pooled.unflatten(0, ids.shape[:2])[:, 0]
        return states if weights is None else states * weights[..., None], pooled

    def predict(self, unet, noisy_latents, timesteps, states, pooled, time_ids):
        added = None if time_ids is None else {"text_embeds": pooled, "time_ids": time_ids}
        return unet(noisy_latents, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample

    def example_losses(self, inputs):
        """Weighted loss of each example, in fp32 (fp64 where all is)."""
        latents, noise, timesteps = inputs["latents"], inputs["noise"], inputs["timesteps"]
        noisy_latents = self.schedule.add_noise(latents, inputs.get("input_noise", noise), timesteps)
        with self.autocast():
            states, pooled = self.states(inputs)
            # A UNet for inpainting sees the mask and what it leaves of the image.
            seen = torch.cat([noisy_latents, inputs["mask_channels"]], 1) if "mask_channels" in inputs else noisy_latents
            if not self.settings.autocast:
                seen, states = seen.to(self.compute), states.to(self.compute)
            prediction = self.predict(self.unet, seen, timesteps, states, pooled, inputs.get("time_ids"))
        kind = self.schedule.config.prediction_type
        if kind == "epsilon":
            target = noise
        elif kind == "v_prediction":
            target = self.schedule.get_velocity(latents, noise, timesteps)
        else:
            target = latents
        losses = self.loss.example_losses(prediction, target, timesteps, inputs.get("mask"))
        losses = losses * self.loss.own_weights(inputs["loss_weights"], timesteps)
        if "prior_loss_weights" in inputs:
            losses = losses + self.prior_losses(inputs, noisy_latents)
        return losses

    def prior_losses(self, inputs, noisy_latents):
        """Distance of the answer to the class prompt from the untrained model's, weighted, of each example."""
        timesteps, time_ids = inputs["timesteps"], inputs.get("time_ids")
        with self.autocast():
            with torch.no_grad(), self.base() as unet:
                states, pooled = inputs["prior_base_hidden_states"], inputs.get("prior_base_text_embeds")
                target = self.predict(unet, noisy_latents, timesteps, states, pooled, time_ids)
            states, pooled = self.states(inputs, "prior_")
            prediction = self.predict(self.unet, noisy_latents, timesteps, states, pooled, time_ids)
        squares = F.mse_loss(at_least_fp32(prediction), at_least_fp32(target), reduction="none")
        return squares.flatten(1).mean(1) * inputs["prior_loss_weights"]

    @contextmanager
    def base(self):
        """The untrained UNet: the trained one with its adapters off, or the copy that was made before the first step."""
        if self.frozen is not None:
            yield self.frozen
            return
        adapters = self.adapters["unet"]
        adapters.switch(False)
        try:
            yield self.unet
        finally:
            adapters.switch(True)

    def step(self, micro_batches, learning_rates):
        """One optimizer step; returns its loss and the norm of the gradient before clipping."""
        self._stop_text_encoder(learning_rates)
        examples = sum(len(inputs["noise"]) for inputs in micro_batches)
        loss = 0.0
        for inputs in micro_batches:
            inputs = {name: self._as_input(value) for name, value in inputs.items()}
            part = self.example_losses(inputs).sum() / examples
            (part * self.loss_scale).backward()
            loss += part.detach()
        parameters = list(self.trained.values())
        for words in self.words:
            parameters.append(words.parameter)
            words.own_gradient_only()
        if self.loss_scale != 1.0:
            for parameter in parameters:
                parameter.grad /= self.loss_scale
        limit = self.settings.max_grad_norm or float("inf")
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        for group, rate in zip(self.optimizer.param_groups, learning_rates):
            group["lr"] = rate
        self.optimizer.step()
        largest = self.settings.config.get("lora", {}).get("max_weight_norm")
        for adapters in self.adapters.values() if largest else []:
            adapters.cap_norms(largest)
        for words in self.words:
            words.put_others_back()
            if self.settings.config.get("textual_inversion", {}).get("preserve_norm"):
                words.keep_norms()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss), float(grad_norm)

    def _stop_text_encoder(self, learning_rates):
        """Takes the text encoder out of the step, and its gradient out of the norm, once a limit has made its rate 0."""
        train = self.settings.config.get("train", {})
        if not {"max_text_encoder_steps", "max_text_encoder_epochs"} & set(train):
            return
        for group, rate in zip(self.optimizer.param_groups, learning_rates):
            for parameter in group["params"] if rate == 0.0 else []:
                parameter.requires_grad_(False)

    def _as_input(self, value):
        dtype = torch.float64 if self.compute == torch.float64 and value.is_floating_point() else value.dtype
        return value.to(self.settings.device, dtype)

    def weights(self):
        trained = {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}
        return trained | {name: value for words in self.words for name, value in words.weights().items()}
