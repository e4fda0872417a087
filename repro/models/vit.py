"""The Vision Transformer (Dosovitskiy et al. 2021), as torchvision defines it. D = features of a token."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.errors import ReproError
from repro.models import draws
from repro.models.base import register

HEAD = 64  # features of an attention head, in every published size
EPSILON = 1e-6
LIMIT = 2.0  # beyond which torchvision's truncated normal weights are drawn again, not in deviations


class EncoderBlock(nn.Module):
    """Self-attention and a perceptron of 4 D features, each behind LayerNorm and beside a shortcut: (B, T, D) -> same.

    Args:
        features: D.
        heads: attention heads, which divide D among them.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(features, eps=EPSILON), nn.LayerNorm(features, eps=EPSILON)
        self.project_in, self.project_out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.expand, self.contract = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def attention(self, x: Tensor) -> Tensor:
        """x (B, T, D): every token becomes a mean of all tokens' values, weighted by how its query meets their keys."""
        queries, keys, values = self.project_in(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values)  # (B, heads, T, D / heads)
        return self.project_out(mixed.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


@register("vit", version=2, norms=("layer",), options=("patch", "depth"))
class VisionTransformer(nn.Module):
    """Square patches become tokens of D = 16 widths; the class is read off one more token. There is no dropout.

    The defaults are ViT-L/16. The paper does not state its variant; its author's earlier code uses this one.

    Args:
        classes: outputs.
        width: a 16th of D; heads have 64 features as in all published sizes, or D where that is less. 64 gives the
            304 326 632 parameters of ViT-L/16 at 1000 classes and 224 pixels.
        image_size: height and width of the images in pixels.
        patch: height and width of a patch in pixels.
        depth: encoder blocks.

    Raises:
        ReproError: patches that do not tile the image, or a width whose heads do not divide D.
    """

    def __init__(self, classes: int, width: int = 64, image_size: int = 224, patch: int = 16, depth: int = 24) -> None:
        super().__init__()
        features = 16 * width
        if image_size % patch:
            raise ReproError(f"vit on images of {image_size} px in patches of {patch} px; a divisor was expected")
        if features > HEAD and features % HEAD:
            raise ReproError(f"vit of width {width}; at most 4, or a multiple of 4, was expected")
        self.patches = nn.Conv2d(3, features, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, features))
        self.positions = nn.Parameter(torch.zeros(1, (image_size // patch) ** 2 + 1, features))
        heads = max(1, features // HEAD)
        self.blocks = nn.Sequential(*(EncoderBlock(features, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(features, eps=EPSILON)
        self.classifier = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images x (B, 3, H, H) -> logits (B, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)  # (B, patches, D)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1) + self.positions
        return self.classifier(self.norm(self.blocks(tokens)[:, 0]))

    @torch.no_grad()
    def initialise(self, random: np.random.Generator) -> None:
        """As torchvision: the classifier and the class token start at zero, positions normal with deviation 0.02."""
        inputs = self.patches.weight[0].numel()
        draws.truncated_normal(self.patches.weight, math.sqrt(1 / inputs), LIMIT, random)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        nn.init.zeros_(self.class_token)
        draws.normal(self.positions, 0.02, random)
        for block in self.blocks.modules():
            if isinstance(block, EncoderBlock):
                for layer in (block.project_in, block.expand, block.contract):
                    bound = math.sqrt(6 / (layer.in_features + layer.out_features))  # Glorot & Bengio 2010
                    draws.uniform(layer.weight, bound, random)
                for layer in (block.expand, block.contract):
                    draws.normal(layer.bias, 1e-6, random)
                draws.default_uniform(block.project_out.weight, None, random)
                nn.init.zeros_(block.project_in.bias)
                nn.init.zeros_(block.project_out.bias)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
