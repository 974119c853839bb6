"""CvT in Paddle as the older repositories have it (arXiv 2103.15808): what their users train. Random weights.

A layer a line of the paper's figure: convolution, BatchNorm, a reshape and a transposition before each of q, k and v;
QuickGELU as x sigmoid(1.702 x); every product with its bias on its own; stochastic depth of CvT-13 in the last stage.
"""

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

STAGES = ((64, 1, 7, 4, 2), (192, 3, 3, 2, 1), (384, 6, 3, 2, 1))  # embed_dim, num_heads, patch, stride, padding
DROP_PATH_RATE = 0.1  # of the last block; it rises linearly over the last stage


def _to_map(x: Tensor, height: int, width: int) -> Tensor:
    batch, _, dim = x.shape
    return x.transpose([0, 2, 1]).reshape([batch, dim, height, width])  # (B, H W, C) -> (B, C, H, W)


def _to_tokens(x: Tensor) -> Tensor:
    batch, dim, height, width = x.shape
    return x.reshape([batch, dim, height * width]).transpose([0, 2, 1])  # (B, C, H, W) -> (B, H W, C)


class Attention(nn.Layer):
    """(B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, has_token: bool) -> None:
        super().__init__()
        self.num_heads, self.has_token, self.scale = num_heads, has_token, dim**-0.5
        self.convs = nn.LayerList(
            nn.Sequential(nn.Conv2D(dim, dim, 3, stride, 1, groups=dim, bias_attr=False), nn.BatchNorm2D(dim))
            for stride in (1, 2, 2)
        )
        self.linears = nn.LayerList(nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        token, tokens = paddle.split(x, [1, height * width], axis=1) if self.has_token else (None, x)
        parts = []
        for i in range(3):  # to_static does not know zip(strict=True)
            y = _to_tokens(self.convs[i](_to_map(tokens, height, width)))
            y = self.linears[i](y if token is None else paddle.concat([token, y], axis=1))
            batch, length, dim = y.shape
            parts.append(y.reshape([batch, length, self.num_heads, dim // self.num_heads]).transpose([0, 2, 1, 3]))
        q, k, v = parts  # (B, h, N, d)
        attn = F.softmax(paddle.matmul(q, k, transpose_y=True) * self.scale, axis=-1)
        return self.proj(paddle.matmul(attn, v).transpose([0, 2, 1, 3]).flatten(2))


class Block(nn.Layer):
    """(B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int, has_token: bool, drop_path_rate: float) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, num_heads, has_token)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def _drop_path(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path_rate == 0.0:
            return x
        keep_prob = 1.0 - self.drop_path_rate
        keep = paddle.floor(keep_prob + paddle.rand([x.shape[0], 1, 1]))
        return x / keep_prob * keep

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self._drop_path(self.attn(self.norm1(x), height, width))
        hidden = self.fc1(self.norm2(x))
        return x + self._drop_path(self.fc2(hidden * F.sigmoid(1.702 * hidden)))


class CvT(nn.Layer):
    """Images (B, 3, H, W) -> logits (B, 1000)."""

    def __init__(self, depths: tuple[int, int, int]) -> None:
        super().__init__()
        self.embeds, self.norms, self.stages = nn.LayerList(), nn.LayerList(), nn.LayerList()
        channels = 3
        for i, (dim, num_heads, patch, stride, padding) in enumerate(STAGES):
            self.embeds.append(nn.Conv2D(channels, dim, patch, stride, padding))
            self.norms.append(nn.LayerNorm(dim))
            rates = [DROP_PATH_RATE * j / (depths[i] - 1) if i == 2 else 0.0 for j in range(depths[i])]
            self.stages.append(nn.LayerList(Block(dim, num_heads, i == 2, rate) for rate in rates))
            channels = dim
        self.cls_token = self.create_parameter([1, 1, channels])
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(STAGES)):
            x = self.embeds[i](x)
            height, width = x.shape[2], x.shape[3]
            x = self.norms[i](_to_tokens(x))
            if i == len(STAGES) - 1:
                x = paddle.concat([self.cls_token.expand([x.shape[0], -1, -1]), x], axis=1)
            for block in self.stages[i]:
                x = block(x, height, width)
            if i < len(STAGES) - 1:
                x = _to_map(x, height, width)
        return self.head(self.norm(x)[:, 0])
