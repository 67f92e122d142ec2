"""Everything that reads bytes which others made, each as a target of fuzzing."""

from __future__ import annotations

from tests.fuzz.fuzzing import Target
from tests.fuzz.targets import artifacts, frames, http, messages, settings

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (artifacts, frames, http, messages, settings)
    for target in module.TARGETS
}
