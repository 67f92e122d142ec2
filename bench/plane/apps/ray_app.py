"""The work on Ray Serve: one replica in a process of its own, behind its proxy.

usage: ray_app.py PORT, with the Python of Ray's own environment

Says `ready`, and runs until its input ends.
"""

import sys

import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Work:
    async def __call__(self, request: Request) -> dict:
        body = await request.json()
        return {"number": body["number"] + 1, "text": body["text"]}


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Work.bind(), logging_config={"enable_access_log": False, "log_level": "ERROR"})
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()
