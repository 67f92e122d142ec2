"""Whether everything is ready for production: `atlatl check`.

Reads the configuration, the installation and, where one runs, the service, and tries out what the
kernel keeps; changes nothing.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from atlatl.assembly import wall_clock
from atlatl.checks.configured import access, breaker_settings, data_directory, pool_settings
from atlatl.checks.installed import alert_rules, benchmark, documentation
from atlatl.checks.item import Item, failed
from atlatl.checks.live import Seen, confinement, look, metrics_endpoint, try_out
from atlatl.core.confinement import Kept
from atlatl.errors import SettingInvalid
from atlatl.settings import Settings

__all__ = ["Item", "Seen", "check", "look", "try_out"]

_ITEM_OF_GROUP = {
    "breaker": "circuit breaker settings",
    "pool": "pool settings",
    "scaling": "pool settings",
    "auth": "access",
    "tls": "access",
    "data_dir": "data directory",
}


def check(
    settings: Settings | SettingInvalid,
    seen: Seen | None = None,
    prometheus_url: str = "",
    kept: Kept | None = None,
) -> list[Item]:
    """One item for each thing that production needs.

    Args:
        settings: of the service; or why they are refused, and then only what needs none is
            looked at.
        seen: what the running service says of itself; None when none was looked for.
        prometheus_url: of the server that should have loaded the alert rules; empty asks none.
        kept: what `try_out` found; None when nothing was tried.
    """
    seen = seen or Seen()
    of_installation = [
        metrics_endpoint(seen),
        alert_rules(seen.exposition, prometheus_url),
        benchmark(),
        documentation(),
    ]
    if isinstance(settings, SettingInvalid):
        return [_refused(settings), *of_installation]
    return [
        breaker_settings(settings, seen),
        pool_settings(settings, seen),
        *of_installation,
        data_directory(settings),
        access(settings, seen, datetime.fromtimestamp(wall_clock(), UTC)),
        confinement(settings, seen, kept),
    ]


def _refused(error: SettingInvalid) -> Item:
    """Under the item whose group the message names."""
    named = re.search(r"`\$\.(\w+)|ATLATL__([A-Z_]+?)(?:__|:)", error.message)
    group = (named[1] or named[2]).lower() if named else ""
    return failed(_ITEM_OF_GROUP.get(group, "configuration"), error.message)
