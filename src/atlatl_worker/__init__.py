"""What runs beside a function, and what a function may import from it.

`from atlatl_worker import Context, Request, Response, after_fork` works inside every
function without an installation. Standard library only, and nothing of `atlatl`.
"""

from atlatl_worker.api import Context, Request, Response, after_fork

__all__ = ["Context", "Request", "Response", "after_fork"]
