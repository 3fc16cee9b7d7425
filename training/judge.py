"""The judge: what is in a Toyland video, frame by frame and as a whole.

A frame goes through six convolutions to 12 x 18 cells of 64 features. Each cell says how much it believes to lie on the
subject, and where the subject's box would then be; the softmax of the beliefs pools the cells. The frame's embedding (64
numbers: 32 of the subject, then 32 of the scene) is linear in the pooled features, and colour, shape, place and time are
linear in the embedding. Motion is read from pairs of half-size neighbouring frames (does the background move?) and the
path of the box, by two temporal convolutions over a window.

Long videos: everything per frame is averaged (the subject's logits weighted by its presence); motion is judged in windows
of 16 frames every 8 (the last window ends with the video, a shorter video is one window), and their logits are averaged.
Frames are taken as 8 per second, 96 x 144; other sizes are averaged down (or repeated up) to that first.

While training, every convolution has a batch norm; `fold` merges it, and the shipped files have none. The Rust module
src/eval/judge.rs computes the same on the same names.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from world import ATTRIBUTES, HEIGHT, WIDTH

CELL = 8  # pixels per cell
EMBEDDING = 64
WINDOW, STRIDE = 16, 8
SUBJECT, SCENE = ("colour", "shape"), ("place", "time")


class Conv(nn.Module):
    """Convolution, batch norm, ReLU; after `fold`, convolution and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, temporal: bool = False):
        super().__init__()
        kind = nn.Conv1d if temporal else nn.Conv2d
        self.conv = kind(inputs, outputs, kernel, stride, kernel // 2)
        self.norm = nn.BatchNorm1d(outputs) if temporal else nn.BatchNorm2d(outputs)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))

    @torch.no_grad()
    def fold(self):
        norm = self.norm
        if isinstance(norm, nn.Identity):
            return
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.conv.weight.mul_(scale.view(-1, *[1] * (self.conv.weight.dim() - 1)))
        self.conv.bias.copy_((self.conv.bias - norm.running_mean) * scale + norm.bias)
        self.norm = nn.Identity()


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.frame = nn.Sequential(Conv(3, 16, 5, 2), Conv(16, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, 2),
                                   Conv(64, 64, 3), Conv(64, 64, 3))
        self.locate = nn.Conv2d(64, 5, 1)  # belief, centre x, y, width, height
        self.subject = nn.Linear(128, EMBEDDING // 2)
        self.scene = nn.Linear(64, EMBEDDING // 2)
        self.heads = nn.ModuleDict({name: nn.Linear(EMBEDDING // 2, len(ATTRIBUTES[name])) for name in SUBJECT + SCENE})
        self.pair = nn.Sequential(Conv(6, 16, 3, 2), Conv(16, 32, 3, 2), Conv(32, 32, 3, 2))
        self.window = nn.Sequential(Conv(36, 48, 3, temporal=True), Conv(48, 48, 3, temporal=True))
        self.motion = nn.Linear(96, len(ATTRIBUTES["motion"]))

    def frames(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """[N, 3, 96, 144] in [-1, 1] to what each frame shows: `belief` [N, 12, 18] and `presence` [N] (logits), `box`
        [N, 4] (centre x, y, width, height; in units of the frame's width and height), `embedding` [N, 64], and the logits
        of colour, shape, place and time."""
        features = self.frame(x)  # [N, 64, 12, 18]
        n, c, h, w = features.shape
        located = self.locate(features).flatten(2)  # [N, 5, cells]
        belief = located[:, 0]
        share = belief.softmax(-1).unsqueeze(-1)  # [N, cells, 1]
        flat = features.flatten(2)
        pooled = (flat @ share).squeeze(-1)  # [N, 64]
        mean = flat.mean(-1)
        box = (located[:, 1:] @ share).squeeze(-1) + self._centres(h, w, share)
        subject, scene = self.subject(torch.cat([pooled, mean], -1)), self.scene(mean)
        out = {"belief": belief.view(n, h, w), "presence": belief.amax(-1), "box": box,
               "embedding": torch.cat([subject, scene], -1)}
        out |= {name: self.heads[name](subject) for name in SUBJECT}
        return out | {name: self.heads[name](scene) for name in SCENE}

    @staticmethod
    def _centres(h: int, w: int, share: torch.Tensor) -> torch.Tensor:
        """The mean cell centre under `share`, with zero for width and height: [N, 4]."""
        y = (torch.arange(h, device=share.device) + 0.5) / h
        x = (torch.arange(w, device=share.device) + 0.5) / w
        grid = torch.stack([x.repeat(h), y.repeat_interleave(w)], -1)  # [cells, 2]
        return F.pad((share * grid).sum(1), (0, 2))

    def pairs(self, small: torch.Tensor) -> torch.Tensor:
        """Half-size clips [B, T, 3, 48, 72] to features of neighbouring frames [B, T - 1, 32]."""
        b, t = small.shape[:2]
        change = small[:, 1:] - small[:, :-1]
        both = torch.cat([small[:, :-1], change], 2).flatten(0, 1)
        return self.pair(both).mean((2, 3)).view(b, t - 1, -1)

    def moves(self, pairs: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Motion logits [B, 5] of windows: pair features [B, T - 1, 32] and box centres [B, T, 2]."""
        path = torch.cat([2 * centres[:, :-1] - 1, 20 * (centres[:, 1:] - centres[:, :-1])], -1)
        x = self.window(torch.cat([pairs, path], -1).transpose(1, 2))
        return self.motion(torch.cat([x.mean(-1), x.amax(-1)], -1))

    @torch.no_grad()
    def judge(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """A video [T, 3, H, W] in [-1, 1], T >= 2: probabilities per attribute, and per frame `box` [T, 4] as x0, y0, x1,
        y1 in units of the frame, `presence` [T] and `embedding` [T, 64]."""
        if video.shape[-2:] != (HEIGHT, WIDTH):
            video = F.adaptive_avg_pool2d(video, (HEIGHT, WIDTH))
        seen = {k: torch.cat([f[k] for f in (self.frames(c) for c in video.split(64))]) for k in
                ("presence", "box", "embedding") + SUBJECT + SCENE}
        presence = seen["presence"].sigmoid()
        weight = (presence + 1e-4) / (presence + 1e-4).sum()
        out = {name: (seen[name] * weight[:, None]).sum(0).softmax(-1) for name in SUBJECT}
        out |= {name: seen[name].mean(0).softmax(-1) for name in SCENE}
        pairs = self.pairs(F.avg_pool2d(video, 2).unsqueeze(0))
        centres = seen["box"][None, :, :2]
        logits = [self.moves(pairs[:, s:s + n - 1], centres[:, s:s + n]) for s, n in windows(len(video))]
        out["motion"] = torch.cat(logits).mean(0).softmax(-1)
        centre, half = seen["box"][:, :2], seen["box"][:, 2:] / 2
        out["box"] = torch.cat([centre - half, centre + half], -1)
        return out | {"presence": presence, "embedding": seen["embedding"]}

    def fold(self) -> "Judge":
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self


def windows(frames: int) -> list[tuple[int, int]]:
    """Start and length of the motion windows of a video."""
    if frames <= WINDOW:
        return [(0, frames)]
    starts = list(range(0, frames - WINDOW + 1, STRIDE))
    if starts[-1] != frames - WINDOW:
        starts.append(frames - WINDOW)
    return [(start, WINDOW) for start in starts]


def load(folder: str) -> Judge:
    """The shipped judge (f16 on disk, f32 in memory), without batch norms."""
    from safetensors.torch import load_file

    judge = Judge().fold().eval()
    judge.load_state_dict({k: v.float() for k, v in load_file(f"{folder}/model.safetensors").items()})
    return judge
