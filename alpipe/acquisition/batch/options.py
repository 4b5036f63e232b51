"""What a project may ask of a batch, beside the strategy: the setting ``batch_with``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from alpipe.protocols import PluginOptions


class Noise(PluginOptions):
    """Noise on the scores that shrinks over the rounds; see ``batch/noise.py``."""

    kind: Literal["power", "softmax", "softrank"] = Field("power", description="What the noise is added to.")
    first: float = Field(1.0, ge=0.1, description="β of the first round with a model; small is noisy.")
    last: float = Field(100.0, ge=0.1, description="β from round `rounds` on.")
    rounds: int = Field(10, ge=1, description="Rounds over which β goes from first to last, by equal factors.")


class Spread(PluginOptions):
    """How a batch is spread over groups and over the frames of a video."""

    share: float = Field(2.0, ge=1, description="A group gets at most so many times the even share of a batch.")
    neighbours: int = Field(1, ge=0, description="Numbers of file names in a group up to which two frames are as one.")


class BatchOptions(PluginOptions):
    """How a batch is made of scores."""

    near_duplicates: int | Literal[False] = Field(
        False,
        description="Bits of 64 up to which the hashes of near-duplicates differ (4 is usual); false: not looked for.",
    )
    noise: Noise | Literal[False] = Field(False, description="Noise on the scores: {kind, first, last, rounds}.")
    partner: dict[str, Any] = Field({"name": "top"}, description="Who chooses by the scores; see `alpipe plugins`.")
    spread: Spread | Literal[False] = Field(Spread(), description="Over groups and frames: {share, neighbours}.")

    @field_validator("partner", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        named = {"name": value} if isinstance(value, str) else value
        if isinstance(named, dict) and not isinstance(named.get("name"), str):
            raise ValueError("the partner's name is missing")
        return named

    @field_validator("near_duplicates", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        if value is True or (isinstance(value, int) and not 0 <= value <= 16):
            raise ValueError("expected false or 0 to 16 bits")
        return value
