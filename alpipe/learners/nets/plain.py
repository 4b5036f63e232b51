"""A plain convolutional classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from alpipe.learners.nets.blocks import ConvNormAct, Residual


class PlainCNN(nn.Module):
    """(B, 3, H, W) → (B, classes) logits: a stride-2 convolution and a residual block a stage, mean over the image, one
    hidden layer, dropout, one linear layer.
    """

    def __init__(self, classes: int, features: Sequence[int], hidden: int, dropout: float) -> None:
        super().__init__()
        before = [3, *features[:-1]]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(ConvNormAct(inputs, outputs, stride=2), Residual(outputs))
                for inputs, outputs in zip(before, features, strict=True)
            )
        )
        self.hidden = nn.Sequential(nn.Linear(features[-1], hidden), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)
        self.features = features[-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.dropout(self.hidden(self.embed(images))))
        return logits.float()

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32: mean over the image of the deepest map."""
        pooled: torch.Tensor = self.stages(images).float().mean(dim=(2, 3))
        return pooled
