"""Where the zygote begins: `python -I -S __main__.py DESCRIPTOR [DIRECTORY ...]`, by the service.

Run as a file, so that neither the service's packages nor its environment are within reach.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def make_importable() -> None:
    """Makes `atlatl_worker` importable, but nothing that happens to be installed beside it."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    spec = importlib.util.spec_from_file_location(
        "atlatl_worker",
        os.path.join(here, "__init__.py"),  # noqa: PTH118
        submodule_search_locations=[here],
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["atlatl_worker"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    make_importable()
    from atlatl_worker.zygote import main

    main(int(sys.argv[1]), sys.argv[2:])
