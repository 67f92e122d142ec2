"""The work on FastAPI: a parsed body and a dict back; and an echo of raw bytes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from bench.work import answer

app = FastAPI()


@app.post("/run")
async def work(body: dict[str, Any]) -> dict[str, Any]:
    return answer(**body)


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")
