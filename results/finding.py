"""What `results.check` says about a store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: where, what, and whether it has been mended."""

    path: str
    text: str
    mended: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"
