"""Settings of the autoencoder."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from alpipe.learners.autoencoder.nets import MULTIPLE
from alpipe.learners.training.augment import Augmentation, Flip
from alpipe.learners.training.data import round_up
from alpipe.learners.training.options import Auto, RecipeOptions, steps_for


class AutoencoderOptions(RecipeOptions):
    """Settings of the autoencoder."""

    batch_size: int = Field(32, ge=2, description="Images a step.")
    image_size: Annotated[int, Field(ge=16, le=512)] | Auto = Field(
        "auto",
        description="Side, in pixels, of the square that the autoencoder sees at once, rounded up to a multiple of 16."
        " For novelty and embeddings whole images are scaled down to it, and smaller ones stay as they are; for"
        " pretraining, parts of that size are cut out of images at the learner's own scale. auto: that of the largest"
        " image, at most 32 for novelty and embeddings, 64 for pretraining.",
    )
    latent: int = Field(32, ge=1, le=4096, description="Numbers that stand for an image: size of the embedding.")
    width: int = Field(24, ge=4, le=512, description="Channels of the first stage of encoder and decoder.")
    beta: float = Field(
        1.0, ge=0, le=100, description="Weight of the KL divergence in training; 1 is the evidence lower bound."
    )
    held_back: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the images that is not trained on, but chooses the best weights and the scale of the"
        " likelihood. 0: none, everything is trained on.",
    )
    flip: Flip = Field(
        Flip.NONE, description="Mirror images that are as good as the original: none, horizontal, or both."
    )
    scale: float = Field(1.0, ge=1, le=4, description="Images are resized by up to this factor, both ways.")

    def augmentation(self) -> Augmentation:
        """How training images are changed: by default not at all, since the density is that of the images as they
        are.
        """
        return Augmentation(self.flip, self.scale)

    def side(self, longest: int, most: int) -> int:
        """Side of the square for images whose longer side is at most ``longest`` pixels; ``most`` is that of auto."""
        wanted = self.image_size if self.image_size != "auto" else min(max(longest, 16), most)
        return round_up(wanted, MULTIPLE)

    def steps_with(self, images: int) -> int:
        """Steps of a training on so many images."""
        if self.steps != "auto":
            return self.steps
        return steps_for(images, self.batch_size, passes=8_000, passes_an_image=20, most=64_000)
