"""Finds the server's program, or installs it into a virtual environment of its own.

It cannot share the project's environment: its pinned dependencies and Prefect's contradict each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from alpipe.errors import AnnotatorError
from alpipe.protocols import ProgressCallback, no_progress
from alpipe.types import Progress

LABEL_STUDIO_VERSION = "1.23.2"
INSTALL_TIMEOUT = 1200.0
USUAL_SECONDS = 90


def find() -> Path | None:
    """ALPIPE_LABELSTUDIO, else ``.venv-labelstudio`` beside the project's environment or here, else the PATH.

    Raises AnnotatorError where ALPIPE_LABELSTUDIO names no executable file.
    """
    stated = os.environ.get("ALPIPE_LABELSTUDIO")
    if stated:
        if not os.access(stated, os.X_OK):
            raise AnnotatorError(f"ALPIPE_LABELSTUDIO={stated} is no executable file; set it to label-studio's path")
        return Path(stated).resolve()
    for folder in (default_environment(), Path.cwd() / ".venv-labelstudio"):
        candidate = folder / "bin" / "label-studio"
        if os.access(candidate, os.X_OK):
            return candidate
    on_path = shutil.which("label-studio")
    return Path(on_path) if on_path else None


def default_environment() -> Path:
    """``.venv-labelstudio`` beside the virtual environment that runs, else in the working folder."""
    beside = Path(sys.prefix).parent if sys.prefix != sys.base_prefix else Path.cwd()
    return beside / ".venv-labelstudio"


def install(target: Path | None = None, *, progress: ProgressCallback = no_progress) -> Path:
    """Makes the environment (about a minute) and returns the program. Raises AnnotatorError where pip fails."""
    target = target or default_environment()
    wanted = f"label-studio=={LABEL_STUDIO_VERSION}"
    python = target / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(target)], f"making {target}", progress)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", wanted]
    _run(pip, f"installing {wanted}", progress)
    return target / "bin" / "label-studio"


def _run(command: list[str], what: str, progress: ProgressCallback) -> None:
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:  # noqa: S603
        while True:
            elapsed = time.monotonic() - begun
            progress(Progress(what, min(int(elapsed), USUAL_SECONDS), USUAL_SECONDS, f"{elapsed:.0f} s"))
            try:
                output, _ = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if elapsed > INSTALL_TIMEOUT:
                    process.kill()
                    raise AnnotatorError(f"{what}: not done after {elapsed:.0f} s; try again") from None
    if process.returncode:
        lines = [line for line in output.splitlines() if line.strip()]
        raise AnnotatorError(f"{what} failed: {lines[-1] if lines else 'no message'}")
