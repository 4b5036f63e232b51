"""TensorBoard event files: `tensorboard --logdir .alpipe/runs` shows how trainings went, live."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Curves:
    """Writes scalars into event files in a folder; without a folder, nothing. Values after ``step`` that a killed
    training left there are hidden by TensorBoard.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._writer = SummaryWriter(str(folder), purge_step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, name: str, value: float | None, step: int) -> None:
        """One point of a curve; None is none."""
        if self._writer is not None and value is not None:
            self._writer.add_scalar(name, value, step)
