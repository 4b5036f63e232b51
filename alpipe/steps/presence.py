"""Whether the files of the pool are still where they were added."""

from __future__ import annotations

from alpipe.errors import DataError
from alpipe.project import Project
from alpipe.types import ItemState, Refusal

MANY = 0.2
"""Share of missing files from which a disk that is not there is likelier than files that were deleted."""


def set_aside_missing(project: Project) -> int:
    """Takes images whose file is gone out of the loop until they are added again; returns how many.

    Labels stay, and count again once the same file is back. Raises DataError where many are gone at once.
    """
    items = [item for item in project.store.items.iterate() if item.state is not ItemState.QUARANTINED]
    gone = [item for item in items if not item.path.is_file()]
    if len(gone) > max(1, MANY * len(items)):
        raise DataError(
            f"{len(gone)} of {len(items)} images are not where they were added (the first: {gone[0].uri}):"
            " is the disk there? Moved images are found again by `alpipe add NEW_FOLDER`"
        )
    project.store.items.quarantine(Refusal(item.key, "the file is gone; add it again to have it back") for item in gone)
    return len(gone)
