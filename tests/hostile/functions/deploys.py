"""Speaks to the service's own port as if it were its owner."""

import json
import urllib.error
import urllib.request

from trying import Refused, attempts

CODE = b"def main(): return 1\n"


def main(port: int, victim: str) -> object:
    at = f"http://127.0.0.1:{port}"
    guess = {"authorization": "Bearer guess"}
    return attempts(
        {
            "deploy": lambda: ask("PUT", f"{at}/api/v1/tasks/planted?filename=a.py", CODE),
            "deploy with a guess": lambda: ask(
                "PUT", f"{at}/api/v1/tasks/planted?filename=a.py", CODE, guess
            ),
            "create by a call": lambda: ask("POST", f"{at}/api/v1/invocations", creation()),
            "delete": lambda: ask("DELETE", f"{at}/api/v1/tasks/{victim}?force=true"),
            "list": lambda: ask("GET", f"{at}/api/v1/tasks"),
            "executions of others": lambda: ask("GET", f"{at}/api/v1/executions"),
            "breaker": lambda: ask("POST", f"{at}/api/v1/breakers/{victim}/open"),
        }
    )


def creation() -> bytes:
    artifact = {"artifact_id": "a", "location": "file:///tmp/a.py", "version": "1"}
    call = {"artifact_spec": artifact, "task_name": "planted", "create_if_not_exists": True}
    call |= {"execution_mode": "EXECUTION_MODE_SYNC", "invocation_type": "INVOCATION_TYPE_NEW_TASK"}
    return json.dumps(call).encode()


def ask(method: str, url: str, body: bytes = b"", headers: dict | None = None) -> str:
    request = urllib.request.Request(url, body or None, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return f"{answer.status} {answer.read(100)!r}"
    except urllib.error.HTTPError as error:
        raise Refused(str(error.code)) from None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
