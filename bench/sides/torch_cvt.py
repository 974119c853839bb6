"""CvT in PyTorch as the official code computes it (arXiv 2103.15808): what its users export. Random weights.

Convolution and BatchNorm before q, k and v, scale embed_dim ** -0.5 on the scores, QuickGELU as x sigmoid(1.702 x), the
class token in the last stage past the convolutions, stochastic depth there.
"""

import torch
from torch import Tensor, nn

STAGES = ((64, 1, 7, 4, 2), (192, 3, 3, 2, 1), (384, 6, 3, 2, 1))  # embed_dim, num_heads, patch, stride, padding
DROP_PATH_RATE = 0.1  # of the last block; it rises linearly over the last stage


class Attention(nn.Module):
    """(B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, has_token: bool) -> None:
        super().__init__()
        self.num_heads, self.has_token, self.scale = num_heads, has_token, dim**-0.5
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False), nn.BatchNorm2d(dim))
            for stride in (1, 2, 2)
        )
        self.linears = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        token, tokens = (x[:, :1], x[:, 1:]) if self.has_token else (None, x)
        image = tokens.transpose(1, 2).unflatten(2, (height, width))  # (B, H W, C) -> (B, C, H, W)
        parts = []
        for conv, linear in zip(self.convs, self.linears, strict=True):
            y = conv(image).flatten(2).transpose(1, 2)
            y = y if token is None else torch.cat([token, y], 1)
            parts.append(linear(y).unflatten(2, (self.num_heads, -1)).transpose(1, 2))  # (B, h, N, d)
        q, k, v = parts
        attn = torch.softmax(q @ k.transpose(2, 3) * self.scale, -1)
        return self.proj((attn @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """(B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, has_token: bool, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, has_token)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def _drop_path(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path_rate == 0.0:
            return x
        keep_prob = 1.0 - self.drop_path_rate
        return x * x.new_empty((x.shape[0], 1, 1)).bernoulli_(keep_prob).div_(keep_prob)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self._drop_path(self.attn(self.norm1(x), height, width))
        y = self.fc1(self.norm2(x))
        return x + self._drop_path(self.fc2(y * torch.sigmoid(1.702 * y)))


class CvT(nn.Module):
    """Images (B, 3, H, W) -> logits (B, 1000). depths: blocks of the three stages."""

    def __init__(self, depths: tuple[int, int, int]) -> None:
        super().__init__()
        chans = 3
        self.embeds, self.norms, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for (dim, num_heads, patch, stride, padding), depth in zip(STAGES, depths, strict=True):
            self.embeds.append(nn.Conv2d(chans, dim, patch, stride, padding))
            self.norms.append(nn.LayerNorm(dim))
            is_last = dim == STAGES[-1][0]
            rates = [DROP_PATH_RATE * i / (depth - 1) if is_last else 0.0 for i in range(depth)]
            self.blocks.append(nn.ModuleList(Block(dim, num_heads, is_last, rate) for rate in rates))
            chans = dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, chans))
        self.norm, self.head = nn.LayerNorm(chans), nn.Linear(chans, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for i, (embed, norm, blocks) in enumerate(zip(self.embeds, self.norms, self.blocks, strict=True)):
            x = embed(x)
            height, width = x.shape[2:]
            x = norm(x.flatten(2).transpose(1, 2))  # (B, C, H, W) -> (B, H W, C)
            is_last = i == len(STAGES) - 1
            if is_last:
                x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
            for block in blocks:
                x = block(x, height, width)
            if not is_last:
                x = x.transpose(1, 2).unflatten(2, (height, width))
        return self.head(self.norm(x)[:, 0])


def create(name: str) -> nn.Module:
    """Returns `cvt_13`, `cvt_21`, or a model of timm by its name there, in evaluation, with random weights."""
    torch.manual_seed(0)
    depths = {"cvt_13": (1, 2, 10), "cvt_21": (1, 4, 16)}
    if name in depths:
        return CvT(depths[name]).eval()
    import timm

    return timm.create_model(name).eval()
