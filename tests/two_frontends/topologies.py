"""Networks that exporters spell differently: windows that are shifted, recurrent heads, attention.

Each is small, takes an image of 3 x 32 x 32, and is there for one thing torch and ONNX write apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WINDOW = 4
HEADS = 2


class Fire(nn.Module):
    """SqueezeNet: a squeeze, two expansions beside each other, a concat."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.narrow = nn.Conv2d(squeezed, expanded, 1)
        self.wide = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.narrow(x)), F.relu(self.wide(x))], 1)


def squeeze_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(32, 16, 16),
        Fire(32, 16, 32),
        nn.Dropout(0.5),
        nn.Conv2d(64, 16, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class WindowAttention(nn.Module):
    """Swin: attention within windows, which may be rolled, with a bias for relative positions.

    The mask of a shifted window is made in `forward`, as torchvision makes it.
    """

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.table = nn.Parameter(0.1 * torch.randn((2 * WINDOW - 1) ** 2, HEADS))
        steps = torch.arange(WINDOW)
        places = torch.stack(torch.meshgrid(steps, steps, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + WINDOW - 1
        self.register_buffer("index", (apart[0] * (2 * WINDOW - 1) + apart[1]).flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, height, width, channels = x.shape
        rows, columns, area = height // WINDOW, width // WINDOW, WINDOW * WINDOW
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(n, rows, WINDOW, columns, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n * rows * columns, area, channels)
        qkv = self.qkv(x).reshape(x.size(0), area, 3, HEADS, channels // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (channels // HEADS) ** -0.5).matmul(k.transpose(-2, -1))
        bias = self.table[self.index].view(area, area, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if self.shift:
            mask = self.mask(x, height, width)
            scores = scores.view(n, rows * columns, HEADS, area, area)
            scores = scores + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, HEADS, area, area)
        x = F.softmax(scores, dim=-1).matmul(v).transpose(1, 2).reshape(-1, area, channels)
        x = self.project(x)
        x = x.view(n, rows, columns, WINDOW, WINDOW, channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, height, width, channels)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def mask(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        mask = x.new_zeros((height, width))
        cuts = ((0, -WINDOW), (-WINDOW, -self.shift), (-self.shift, None))
        for i, rows in enumerate(cuts):
            for j, columns in enumerate(cuts):
                mask[rows[0] : rows[1], columns[0] : columns[1]] = 3 * i + j
        mask = mask.view(height // WINDOW, WINDOW, width // WINDOW, WINDOW)
        mask = mask.permute(0, 2, 1, 3).reshape(-1, WINDOW * WINDOW)
        apart = mask.unsqueeze(1) - mask.unsqueeze(2)
        return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)


class Swin(nn.Module):
    """Patches, a plain and a shifted block, patches merged, a head."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attentions = nn.ModuleList(WindowAttention(width, s) for s in (0, WINDOW // 2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width)) for _ in range(2)
        )
        self.merged = nn.Linear(4 * width, 32, bias=False)
        self.head = nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mlp(self.norms[2 * i + 1](x))
        corners = [x[..., i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.merged(torch.cat(corners, -1))
        return self.head(x.permute(0, 3, 1, 2).mean((2, 3)))


class Recurrent(nn.Module):
    """A convolutional stem whose columns an LSTM or GRU reads, as in text recognition."""

    def __init__(self, kind: Callable[..., nn.Module], *, layers: int = 1, twice: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.recurrent = kind(32 * 8, 32, num_layers=layers, batch_first=True, bidirectional=twice)
        self.head = nn.Linear(64 if twice else 32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = F.relu(self.stem(x)).flatten(1, 2).transpose(1, 2)
        return self.head(self.recurrent(columns)[0])


class LastState(nn.Module):
    """An LSTM whose last state alone is read, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(96, 32)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (state, _) = self.recurrent(x.flatten(1, 2).transpose(1, 2).transpose(0, 1))
        return self.head(state[-1])


class CalledTwice(nn.Module):
    """One head over two levels, as in RetinaNet: a shared conv, batch norm and Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1)
        )
        self.score = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.stem(x)
        levels = [self.head(fine), self.head(self.down(fine))]
        return sum(self.score(level.mean((2, 3))) for level in levels)  # pyright: ignore


class Fused(nn.Module):
    """`scaled_dot_product_attention` four times, each told something else about mask and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        self.parts = nn.ModuleList(
            nn.ModuleList(nn.Linear(64, 64) for _ in range(4)) for _ in range(4)
        )
        self.register_buffer("kept", (torch.rand(16, 16) < 0.7) | torch.eye(16).bool())
        self.register_buffer("bias", torch.randn(1, HEADS, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        told: list[dict[str, Any]] = [
            {"dropout_p": 0.0},
            {"attn_mask": self.kept},
            {"attn_mask": self.bias},
            {"is_causal": True, "scale": 0.3},
        ]
        for (query, key, value, out), options in zip(self.parts, told, strict=True):
            q, k, v = (
                part(x).unflatten(-1, (-1, 32)).transpose(1, 2) for part in (query, key, value)
            )
            y = F.scaled_dot_product_attention(q, k, v, **options)
            x = x + out(y.transpose(1, 2).flatten(2))
        return x


class Encoder(nn.Module):
    """torch's own transformer layer around MultiheadAttention, and its fast path."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        self.body = nn.TransformerEncoderLayer(
            64, HEADS, 96, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.body(x).mean(1))


TOPOLOGIES: dict[str, Callable[[], nn.Module]] = {
    "fire": squeeze_net,
    "swin": Swin,
    "lstm": lambda: Recurrent(nn.LSTM, layers=2, twice=True),
    "lstm state": LastState,
    "gru": lambda: Recurrent(nn.GRU, twice=False),
    "called twice": CalledTwice,
    "fused attention": Fused,
    "encoder layer": Encoder,
}
