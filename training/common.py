"""What the training stages share: device, time budget, schedule, moving average, files.

A stage is trained in steps of a few minutes. Its state is a folder of safetensors, each file under 16 MiB: the averaged
weights (`ema`, what is shipped), the raw weights and the square root of Adam's second moment, all 16-bit. The first
moment is not kept: it forgets within ten steps anyway. So a resumed run continues the same schedule with a fresh first
moment, and the files of a 5-million-parameter model take 28 MB instead of 75.
"""

import functools
import json
import math
import os
import random
import time

import torch
from safetensors.torch import load_file, save_file

BUDGET = 16 << 20  # bytes per file


def setup(seed: int) -> str:
    """Seeds everything, picks the device, sets the fast modes. Returns "cuda" or "cpu"."""
    random.seed(seed)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    return device


class Team:
    """The processes that train together, each on a batch of its own (`torchrun --nproc-per-node 2`): on two cores two processes of
    one thread do more than one process of two. Alone where there is no torchrun."""

    def __init__(self):
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1:
            torch.distributed.init_process_group("gloo")

    def agree(self, *values: float) -> list[float]:
        """What the first of them says."""
        said = torch.tensor(values, dtype=torch.float64)
        if self.size > 1:
            torch.distributed.broadcast(said, 0)
        return said.tolist()

    def average_gradients(self, module):
        if self.size > 1:
            trained = [p for p in module.parameters() if p.requires_grad]
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
            whole = torch.cat([g.flatten() for g in gradients])
            torch.distributed.all_reduce(whole)
            whole /= self.size
            for parameter, part in zip(trained, whole.split([g.numel() for g in gradients])):
                parameter.grad = part.view_as(parameter)


@functools.cache
def fast_bf16(device: str) -> bool:
    """Whether products of matrices are faster in bf16 than in f32: on a CPU that is tried, because some have the instructions and are
    slower with them (a Xeon without AMX: 0.6 times; Zen 5: twice as fast)."""
    if os.environ.get("TOYLAND_F32") == "1":
        return False
    if device == "cuda":
        return True
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False

    def best(dtype) -> float:
        x, spent = torch.ones(512, 512, dtype=dtype), []  # no random numbers: those of a run stay as they were
        for _ in range(8):
            start = time.perf_counter()
            x @ x
            spent.append(time.perf_counter() - start)
        return min(spent)

    return best(torch.bfloat16) < best(torch.float32)


def autocast(device: str):
    """bf16 where the device is fast in it."""
    return torch.autocast(device, torch.bfloat16, enabled=fast_bf16(device))


class Clock:
    """How far a stage has come: `minutes` of this run, of `total` minutes altogether, `before` of them already spent.

    `steps` (for tests) replaces the time by a number of steps."""

    def __init__(self, minutes: float, total: float, before: float, steps: int = 0):
        self.minutes, self.total, self.before, self.steps = minutes, max(total, before + minutes), before, steps
        self.start, self.count = time.time(), 0
        self.mark = (self.start, 0)

    def spent(self) -> float:
        return (time.time() - self.start) / 60

    def tick(self) -> bool:
        """Whether another step is due."""
        self.count += 1
        return self.count <= self.steps if self.steps else self.spent() < self.minutes

    def progress(self) -> float:
        if self.steps:
            return min(1.0, self.count / self.steps)
        return min(1.0, (self.before + self.spent()) / self.total)

    def rate(self) -> float:
        """Steps per second since the last call."""
        (then, count), self.mark = self.mark, (time.time(), self.count)
        return (self.count - count) / max(1e-9, self.mark[0] - then)


def learning_rate(peak: float, clock: Clock, warmup: int = 200, floor: float = 0.01) -> float:
    """Linear warm-up in steps of this run, flat for the first half of the schedule, cosine to `floor` in the second."""
    decay = max(0.0, 2 * clock.progress() - 1)
    scale = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * decay))
    return peak * min(1.0, clock.count / warmup) * scale


class Average:
    """An exponential moving average of a module's parameters, kept in f32."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.module, self.decay, self.steps = module, decay, 0
        self.values = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.module.parameters()], 1 - decay)

    @torch.no_grad()
    def swap(self):
        """Exchanges the average and the raw weights; call it again to go back."""
        for value, parameter in zip(self.values, self.module.parameters()):
            held = value.clone()
            value.copy_(parameter)
            parameter.copy_(held)


class Muon(torch.optim.AdamW):
    """AdamW, but for `matrices`, whose momentum is made orthogonal before it is applied (Jordan et al. 2024), scaled to
    the size of Adam's updates (Liu et al., arXiv 2502.16982). A step teaches a small transformer more than Adam's, at a
    cost that does not grow with the batch. A convolution counts as the matrix of its output channels and all that they
    see."""

    def __init__(self, matrices, others, lr: float, momentum: float = 0.95, **adam):
        super().__init__(others, lr=lr, **adam)
        self.matrices, self.momentum = [(p, torch.zeros_like(p)) for p in matrices], momentum

    @torch.no_grad()
    def step(self):
        super().step()
        group = self.param_groups[0]
        for parameter, mean in self.matrices:
            if parameter.grad is None:  # not part of this step
                continue
            mean.lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(mean, self.momentum).flatten(1)
            # three digits are enough for a direction
            update = orthogonal(update.bfloat16()).float() if fast_bf16(update.device.type) else orthogonal(update)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])

    def zero_grad(self, set_to_none: bool = True):
        super().zero_grad(set_to_none)
        for parameter, _ in self.matrices:
            parameter.grad = None


def optimizer_of(net: torch.nn.Module, lr: float, inner=None, **adam) -> torch.optim.AdamW:
    """AdamW for all that is trained in `net`; with `inner`, Muon for the parameters of which `inner(name, parameter)` is true."""
    trained = [(inner is not None and inner(name, p), p) for name, p in net.named_parameters() if p.requires_grad]
    matrices, others = ([p for inside, p in trained if inside == wanted] for wanted in (True, False))
    return Muon(matrices, others, lr=lr, **adam) if inner else torch.optim.AdamW(others, lr=lr, **adam)


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest orthogonal matrix to `x`, roughly: singular values between 0.7 and 1.2 (five steps of Newton-Schulz)."""
    turned = x.shape[0] > x.shape[1]
    y = x.T if turned else x
    y = y / (y.norm() + 1e-7)
    for _ in range(steps):
        square = y @ y.T
        y = 3.4445 * y + torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315) @ y
    return y.T if turned else y


def save_tensors(tensors: dict[str, torch.Tensor], path: str, dtype=torch.float16):
    """Writes safetensors through a temporary file; refuses what would not come back from a lent machine."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    cast = {k: v.detach().to("cpu", dtype).contiguous() for k, v in tensors.items()}
    save_file(cast, path + ".partial", metadata={"format": "pt"})
    os.replace(path + ".partial", path)
    if os.path.getsize(path) > BUDGET:
        print(f"warning: {path} is larger than {BUDGET} bytes")


def export(module, folder: str, weights: str = "diffusion_pytorch_model.safetensors"):
    """A diffusers or transformers module as its folder: config.json and one f16 weight file."""
    os.makedirs(folder, exist_ok=True)
    tensors = {k: v for k, v in module.state_dict().items() if torch.is_tensor(v)}
    if hasattr(module, "save_config"):
        module.register_to_config(_name_or_path="")  # where it was read from is nobody's business
        module.save_config(folder)
        # the sincos table of CogVideoX-2B's kind is computed, and not part of diffusers' files
        persistent = set(k for k, _ in module.named_parameters()) | set(k for k, _ in module.named_buffers())
        tensors = {k: v for k, v in tensors.items() if k in persistent}
    else:
        module.config.save_pretrained(folder)
        tensors = {k: v for k, v in tensors.items() if k != "encoder.embed_tokens.weight"}
        if module.config.model_type == "clip_text_model":
            # transformers 5 saves other names, of which 4 and others read none
            tensors = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in tensors.items()}
    save_tensors(tensors, os.path.join(folder, weights))


class State:
    """The files that a stage resumes from."""

    def __init__(self, folder: str):
        self.folder = folder

    def exists(self) -> bool:
        return os.path.exists(os.path.join(self.folder, "state.json"))

    def save(self, module, average: Average, optimizer, clock: Clock, extra: dict):
        names = [n for n, _ in module.named_parameters()]
        parameters = list(module.parameters())
        second = {n: optimizer.state[p]["exp_avg_sq"].sqrt() for n, p in zip(names, parameters) if p in optimizer.state}
        save_tensors(dict(zip(names, parameters)), self.path("raw.safetensors"))
        save_tensors(dict(zip(names, average.values)), self.path("ema.safetensors"))
        save_tensors(second, self.path("adam.safetensors"), torch.bfloat16)
        step = max((int(s["step"]) for s in optimizer.state.values() if "step" in s), default=0)
        record = {"minutes": clock.before + clock.spent(), "adam_step": step, "average_steps": average.steps, **extra}
        with open(self.path("state.json"), "w") as file:
            json.dump(record, file, indent=1)

    def load(self, module, average: Average, optimizer) -> dict:
        with open(self.path("state.json")) as file:
            record = json.load(file)
        raw, ema, adam = (load_file(self.path(f"{n}.safetensors")) for n in ("raw", "ema", "adam"))
        with torch.no_grad():
            for (name, parameter), value in zip(module.named_parameters(), average.values):
                parameter.copy_(raw[name])
                value.copy_(ema[name])
                if name in adam:
                    # a zero first moment with a late step number: the first ten updates are small, as a warm-up wants
                    device = parameter.device if optimizer.param_groups[0].get("fused") else "cpu"
                    optimizer.state[parameter] = {
                        "step": torch.tensor(float(record["adam_step"]), device=device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": adam[name].to(parameter).square(),
                    }
        average.steps = record["average_steps"]
        return record

    def path(self, name: str) -> str:
        os.makedirs(self.folder, exist_ok=True)
        return os.path.join(self.folder, name)


def psnr(mse: float) -> float:
    """Of videos in [-1, 1]: the peak is 2."""
    return 10 * math.log10(4 / max(mse, 1e-12))
