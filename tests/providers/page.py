"""The results of the oracle as plain data, and the page `docs/providers.md` that is made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass
class Results:
    """The results of each class, by its name."""

    classes: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the results in *file*; none if it does not exist."""
        return cls(json.loads(file.read_text())) if file.exists() else cls()

    def write(self, file: Path) -> None:
        """Write the results to *file*."""
        file.write_text(json.dumps(self.classes, indent=1, sort_keys=True) + "\n")
