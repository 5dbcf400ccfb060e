"""Backward, gradient exchange and the optimizer step: a plain local engine, and DeepSpeed behind the same four calls.

The only file that imports deepspeed. Both engines give and take the optimizer state as full tensors by parameter
name, so that a checkpoint does not depend on the engine, the ZeRO stage or the number of ranks.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pineco.pretrain.distributed import RankInfo
from pineco.pretrain.objectives.base import Objective, StepOutput
from pineco.pretrain.optim import parameter_groups, set_rates
from pineco.pretrain.recipe.settings import EngineSettings, OptimizerSettings, Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


class Engine(Protocol):
    objective: Objective
    accumulation: int
    device: torch.device

    def forward_backward(self, batch: Any) -> StepOutput:
        """One micro-batch on this rank's device; gradients accumulate."""

    def step(self, lr: float, weight_decay: float | None = None) -> None:
        """Exchanges and clips gradients, updates the parameters, zeroes the gradients.

        weight_decay: of the parameters that decay; None: as before.
        """

    def optimizer_state(self) -> dict[str, Tensor]:
        """Adam's moments as full CPU tensors, keys `exp_avg/NAME`, `exp_avg_sq/NAME`. Every rank must call it."""

    def load_state(self, moments: dict[str, Tensor], step: int) -> None:
        """Takes over moments and step count, and the parameters as they now stand in the objective."""


def build_engine(objective: Objective, recipe: Recipe, ranks: RankInfo, device: torch.device) -> Engine:
    kind = LocalEngine if recipe.engine.kind == "local" else DeepSpeedEngine
    return kind(objective.to(device), recipe, ranks, device)


class _Autocast(nn.Module):
    """The objective under the recipe's precision: fp32 weights, bf16 matrix products where asked for."""

    def __init__(self, objective: Objective, settings: EngineSettings, device: torch.device) -> None:
        super().__init__()
        self.objective = objective
        self.enabled, self.device_type = settings.precision == "bf16", device.type

    def forward(self, batch: Any) -> StepOutput:
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=self.enabled):
            return self.objective(batch)


def _attention(settings: EngineSettings, device: torch.device) -> AbstractContextManager[None]:
    """Around forward and backward: activation checkpointing computes forward again in the backward pass.

    On a CPU, attention in bf16 is left to plain matrix products: a whole step of the 64 px models was 1.40 times as
    fast as with the fused kernel, whose backward pass is slow there (2 cores, 65 tokens; fp32 gained nothing).
    """
    if settings.precision == "bf16" and device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def _adamw(objective: Objective, settings: OptimizerSettings, device: torch.device) -> torch.optim.AdamW:
    """Fused on both devices: one kernel a group instead of a loop over tensors."""
    groups = parameter_groups(objective, settings)
    return torch.optim.AdamW(groups, settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def _trainable(objective: Objective) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in objective.named_parameters() if p.requires_grad]


class LocalEngine:
    """Plain PyTorch on one process, or on several with one all-reduce of the flat gradient a step."""

    def __init__(self, objective: Objective, recipe: Recipe, ranks: RankInfo, device: torch.device) -> None:
        self.objective, self.device, self.ranks = objective, device, ranks
        self.settings, self.accumulation = recipe.engine, recipe.data.accumulation
        self.clip = recipe.optimizer.clip_grad
        self.module = _Autocast(objective, recipe.engine, device)
        self.optimizer = _adamw(objective, recipe.optimizer, device)

    def forward_backward(self, batch: Any) -> StepOutput:
        with _attention(self.settings, self.device):
            output: StepOutput = self.module(batch)
            (output.loss / self.accumulation).backward()
        return output

    def step(self, lr: float, weight_decay: float | None = None) -> None:
        parameters = [p for _, p in _trainable(self.objective)]
        if self.ranks.world > 1:
            _average_gradients(parameters, self.ranks.world)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        set_rates(self.optimizer, lr, weight_decay)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for bound in self.objective.bounds():
            bound.parameter.data.clamp_(bound.low, bound.high)

    def optimizer_state(self) -> dict[str, Tensor]:
        return _read_moments(self.objective, self.optimizer)

    def load_state(self, moments: dict[str, Tensor], step: int) -> None:
        _write_moments(self.objective, self.optimizer, moments, step)


class DeepSpeedEngine:
    """DeepSpeed with ZeRO stage 0, 1 or 2, gloo on CPU and NCCL on CUDA."""

    def __init__(self, objective: Objective, recipe: Recipe, ranks: RankInfo, device: torch.device) -> None:
        deepspeed = _import_deepspeed(ranks, device)
        self.objective, self.device = objective, device
        self.settings, self.accumulation = recipe.engine, recipe.data.accumulation
        self.stage = recipe.engine.zero_stage
        self.optimizer = _adamw(objective, recipe.optimizer, device)
        deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False)
        self.engine, *_ = deepspeed.initialize(
            model=_Autocast(objective, recipe.engine, device),
            optimizer=self.optimizer,
            config=deepspeed_config(recipe, ranks.world),
            dist_init_required=False,
        )
        self._micro_batch_open = False
        if self.stage:
            self._create_flat_state(0)

    def forward_backward(self, batch: Any) -> StepOutput:
        if self._micro_batch_open:
            self.engine.step()  # DeepSpeed counts the previous micro-batch; the update waits for `step`
        with _attention(self.settings, self.device):
            output: StepOutput = self.engine(batch)
            self.engine.backward(output.loss)
        self._micro_batch_open = True
        return output

    def step(self, lr: float, weight_decay: float | None = None) -> None:
        set_rates(self.optimizer, lr, weight_decay)
        self.engine.step()
        self._micro_batch_open = False
        for bound in self.objective.bounds():
            bound.parameter.data.clamp_(bound.low, bound.high)
            mapping = getattr(bound.parameter, "_hp_mapping", None)
            if mapping is not None:  # the fp32 copy that this rank owns a piece of
                mapping.get_hp_fragment().data.clamp_(bound.low, bound.high)

    def optimizer_state(self) -> dict[str, Tensor]:
        if self.stage == 0:
            return _read_moments(self.objective, self.optimizer)
        from deepspeed.utils import safe_get_full_optimizer_state

        return {
            f"{key}/{name}": safe_get_full_optimizer_state(parameter, key).cpu()
            for name, parameter in _trainable(self.objective)
            for key in MOMENTS
        }

    def load_state(self, moments: dict[str, Tensor], step: int) -> None:
        if self.stage == 0:
            _write_moments(self.objective, self.optimizer, moments, step)
            return
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._create_flat_state(step)
        for name, parameter in _trainable(self.objective):
            safe_set_full_fp32_param(parameter, parameter.data.float())
            for key in MOMENTS if moments else ():
                safe_set_full_optimizer_state(parameter, moments[f"{key}/{name}"].to(self.device), key)

    def _create_flat_state(self, step: int) -> None:
        """ZeRO keeps Adam's state on flat partitions, one a parameter group.

        DeepSpeed 0.19.8 would link them to the parameters after the step of the first group, when the others have no
        state yet, and then never again; so the state is made and linked here, before any step.
        """
        zero = self.engine.optimizer
        for partition in zero.single_partition_of_fp32_groups:
            self.optimizer.state[partition] = {
                "step": torch.tensor(float(step), device=self.device),
                **{key: torch.zeros_like(partition) for key in MOMENTS},
            }
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def deepspeed_config(recipe: Recipe, world: int) -> dict[str, Any]:
    """DeepSpeed's JSON, generated from the recipe; nobody edits one by hand. Precision is autocast, see _Autocast."""
    micro = recipe.data.batch_size // recipe.data.accumulation // world
    return {
        "train_batch_size": micro * world * recipe.data.accumulation,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": recipe.data.accumulation,
        "zero_optimization": {"stage": recipe.engine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": recipe.optimizer.clip_grad or 0.0,  # absent, DeepSpeed would clip at 1.0
        "steps_per_print": 1 << 31,
    }


def _import_deepspeed(ranks: RankInfo, device: torch.device) -> Any:
    """Quietly, and without the 30 s build of a shared-memory all-reduce that a CPU run does not need."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if device.type == "cuda" else "cpu")
    os.environ.setdefault("LOCAL_RANK", str(ranks.local_rank))  # DeepSpeed insists on it
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for parameter, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


def _read_moments(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state
    return {f"{k}/{n}": state[p][k].cpu() for n, p in _trainable(objective) if p in state for k in MOMENTS}


def _write_moments(
    objective: Objective, optimizer: torch.optim.Optimizer, moments: dict[str, Tensor], step: int
) -> None:
    for name, parameter in _trainable(objective) if moments else ():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            **{key: moments[f"{key}/{name}"].to(parameter.device) for key in MOMENTS},
        }
