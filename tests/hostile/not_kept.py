"""What the kernel does not let an ordinary user's service keep.

Each row: attempts of an attack that go through, by how their names begin, and the subject under
which the service reports it: in the view of pools, in `atlatl check`, at start, and in the answer
to who asks for the level `strict`. `docs/security.md` has the same rows.
"""

from __future__ import annotations

from typing import Final

NOT_KEPT: Final[dict[str, str]] = {
    "cmdline ": "other processes",
    "descriptors ": "other processes",
    "memory files": "memory",
}
"""As root nothing of it is missing, on the kernels that docs/security.md asks for."""
