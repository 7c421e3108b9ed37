"""The LoRA family beside diffusers' networks: LoRA, DoRA and LoHa of PEFT, LoKr, (IA)³ and whole differences of LyCORIS."""

import logging

import torch

# Per kind: the tensor that every adapter of it has, and whose first dimension is the rank, where it has one.
PEFT_KINDS = {"lora": ".lora_A.weight", "dora": ".lora_A.weight", "loha": ".hada_w1_b"}
LYCORIS_KINDS = {"lokr": (".lokr_w1", ".lokr_w1_a"), "ia3": (".ia3_growth",), "full": (".diff",)}
KINDS = [*PEFT_KINDS, *LYCORIS_KINDS]
MARKS = tuple(PEFT_KINDS.values()) + tuple(mark for marks in LYCORIS_KINDS.values() for mark in marks)
# Names of a trace that LyCORIS' modules call otherwise.
LYCORIS_NAMES = {"ia3_growth": "weight", "diff": "weight", "diff_b": "bias"}


def are_adapters(names):
    return any(name.endswith(MARKS) for name in names)


class Adapters:
    """Adapters with exactly the targets and weights of `tensors` (names without the part's prefix) beside `module`."""

    def __init__(self, module, tensors, settings):
        self.module, self.settings = module, settings
        self.lycoris = []
        of_lycoris = next((kind for kind, marks in LYCORIS_KINDS.items() if any(name.endswith(marks) for name in tensors)), None)
        self.trained = self._lycoris(of_lycoris, tensors) if of_lycoris else self._peft(tensors)

    def _peft(self, tensors):
        from peft import LoHaConfig, LoraConfig, inject_adapter_in_model

        groups, settings = {}, self.settings
        mark = next(mark for mark in PEFT_KINDS.values() if any(name.endswith(mark) for name in tensors))
        for name, value in tensors.items():
            if name.endswith(mark):
                path = name.removesuffix(mark)
                weight = self.module.get_submodule(path).weight
                alpha = settings.conv_alpha if weight.ndim == 4 and weight.shape[-1] > 1 else settings.alpha
                groups.setdefault((value.shape[0], alpha), []).append(path)
        paths = [path for group in groups.values() for path in group]
        (rank, alpha) = max(groups, key=lambda key: len(groups[key]))
        common = dict(
            r=rank,
            target_modules=paths,
            rank_pattern={f"^{path}$": key[0] for key, group in groups.items() for path in group},
            alpha_pattern={f"^{path}$": key[1] for key, group in groups.items() for path in group},
        )
        use_dora = any("lora_magnitude" in name for name in tensors)
        of_lora = mark == PEFT_KINDS["lora"]
        config = LoraConfig(lora_alpha=alpha, use_dora=use_dora, **common) if of_lora else LoHaConfig(alpha=alpha, **common)
        inject_adapter_in_model(config, self.module)
        self.scales = {path: key[1] / key[0] for key, group in groups.items() for path in group}
        parameters = dict(self.module.named_parameters())
        trained = {}
        for name, value in tensors.items():
            of_dora = name.endswith(".lora_magnitude_vector")
            inside = f"{name}.weight" if of_dora else name
            inside = inside.replace(".weight", ".default.weight") if of_lora else f"{name}.default"
            parameter = parameters[inside]
            parameter.data = value.to(settings.trained_dtype(), copy=True)
            trained[name] = parameter.requires_grad_(True)
        attached = sum(".default" in name for name in parameters)
        assert attached == len(tensors), f"PEFT attached {attached} tensors, the trace has {len(tensors)}"
        return trained

    def _lycoris(self, kind, tensors):
        logging.getLogger("LyCORIS").setLevel(logging.ERROR)
        from lycoris.modules.full import FullModule
        from lycoris.modules.ia3 import IA3Module
        from lycoris.modules.lokr import LokrModule

        make = {"lokr": LokrModule, "ia3": IA3Module, "full": FullModule}[kind]
        lora, dtype = self.settings.config.get("lora", {}), self.settings.trained_dtype()
        of_layer = {}
        for name, value in tensors.items():
            path, tensor = name.rsplit(".", 1)
            of_layer.setdefault(path, {})[tensor] = value
        trained = {}
        for path, values in of_layer.items():
            layer = self.module.get_submodule(path)
            is_kernel = layer.weight.ndim == 4 and layer.weight.shape[-1] > 1
            rank = lora.get("conv_rank", lora.get("rank", 16)) if is_kernel else lora.get("rank", 16)
            alpha = self.settings.conv_alpha if is_kernel else self.settings.alpha
            options = {}
            if kind == "lokr":
                section = lora.get("lokr", {})
                options = dict(
                    factor=section.get("factor", -1),
                    decompose_both=section.get("decompose_both", False),
                    full_matrix=section.get("full_matrix", False),
                )
            if kind == "ia3":
                # Its length says which side it multiplies, unless both are equal.
                sides, length = layer.weight.shape[:2], values["ia3_growth"].numel()
                on_input = path.endswith((".ff.net.2", ".mlp.fc2")) if sides[0] == sides[1] else length == sides[1]
                options = dict(train_on_input=on_input)
            adapter = make(path, layer, 1.0, lora_dim=rank, alpha=alpha, **options).to(dtype)
            parameters = dict(adapter.named_parameters())
            names = {tensor: LYCORIS_NAMES.get(tensor, tensor) for tensor in values}
            assert set(names.values()) == set(parameters), f"`{path}`: LyCORIS has {sorted(parameters)}, the trace {sorted(values)}"
            for tensor, inside in names.items():
                parameter, value = parameters[inside], values[tensor]
                assert parameter.shape == value.shape, f"`{path}.{tensor}`: {parameter.shape} is not {value.shape}"
                parameter.data = value.to(dtype, copy=True)
                trained[f"{path}.{tensor}"] = parameter.requires_grad_(True)
            # Not `apply_to`, by which a whole difference would take the layer's own weight into what is trained.
            adapter.org_forward, layer.forward = layer.forward, adapter.forward
            self.lycoris.append(adapter)
        return trained

    def switch(self, on):
        """Lets the adapters work, or the network be as it was."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for layer in self.module.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.enable_adapters(on)
        for adapter in self.lycoris:
            adapter.multiplier = 1.0 if on else 0.0

    @torch.no_grad()
    def cap_norms(self, largest):
        """kohya's `scale_weight_norms`: a weight change that is longer than `largest` is shrunk to it, both matrices alike."""
        for name, down in self.trained.items():
            if name.endswith(".lora_A.weight"):
                path = name.removesuffix(".lora_A.weight")
                up = self.trained[f"{path}.lora_B.weight"]
                norm = (up.flatten(1) @ down.flatten(1)).norm() * self.scales[path]
                if norm > largest:
                    share = (largest / norm) ** 0.5
                    up *= share
                    down *= share
