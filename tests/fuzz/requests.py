"""Hypothesis strategies over HTTP requests: any route, method, header, query and body."""

from __future__ import annotations

import io
import json
import zipfile
from typing import NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.field import CODE, HANDLERS, MAX_BODY_BYTES
from tests.fuzz.messages import DATA, odd_texts

DEEP = 100_000


class Asked(NamedTuple):
    """A request, as bytes that no client library has tidied."""

    method: str
    path: str
    """Percent-encoded, with the query."""
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def __repr__(self) -> str:
        body = self.body if len(self.body) < 500 else self.body[:100] + b"..."
        return f"{self.method} {self.path[:300]} {self.headers!r:.500} {body!r}"


def packed(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


ZIP = packed(**{"main.py": CODE})

bodies = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"{}",
            b'{"a": 1}',
            b'{"a": 1, "a": 2}',
            b'{"a": NaN}',
            b'{"a": Infinity}',
            b'{"a": 1e400}',
            b'{"a": ' + b"9" * 5000 + b"}",
            b'{"a": -0.0}',
            b'{"a": "\\ud800"}',
            b'{"\\ud800": 1}',
            b'{"a": "\\u0000"}',
            b'{"a": 1}trailing',
            b'{"a"',
            b"null",
            b'"text"',
            b"\xff\xfe{\x00}\x00",
            b"\xef\xbb\xbf{}",
            b"[" * DEEP + b"]" * DEEP,
            b'{"a":' * DEEP + b"1" + b"}" * DEEP,
            b"a=1&b=2&a=3",
            b"a=%zz&%=&&;=",
            b"x" * (MAX_BODY_BYTES + 1),
            CODE,
            b"def main(:",
            b"import nothing_of_that_name",
            b"raise SystemExit(3)",
            b"\0asm\1\0\0\0",
            ZIP,
            ZIP[:-10],
            b"PK\x03\x04" + b"\0" * 40,
            packed(**{"../../evil.py": b"x", "main.py": CODE}),
            packed(**{"/etc/evil.py": b"x", "main.py": CODE}),
            packed(**{"main.py": b"x = 1\n" * 2_000_000}),
            packed(),
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | odd_texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
        max_leaves=10,
    ).map(lambda tree: json.dumps(tree).encode()),
)

_digits = st.sampled_from(["9" * 5000, "9" * 400, "9" * 19, "-1", "0", "1", "1.5", "٣", "²", "1e3"])
_values = st.one_of(
    odd_texts.map(lambda text: text.encode("utf-8")),
    _digits.map(lambda text: text.encode("utf-8")),
    st.binary(max_size=20),
)
_TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_HEADERS: dict[bytes, st.SearchStrategy[bytes]] = {
    b"idempotency-key": st.sampled_from([b"k-1", b'"k-2"', b'""', b'"', b"k 3", b"x" * 129]),
    b"priority": st.sampled_from([b"u=0", b"u=7, i", b"u=8", b"u=-1", b"u", b"u=1;a", b"i", b"="]),
    b"atlatl-timeout-ms": st.sampled_from([b"1", b"500", b"0", b"-1", b"9" * 400, b" 7 "]),
    b"atlatl-max-retries": st.sampled_from([b"0", b"2", b"-1", b"9" * 5000]),
    b"atlatl-not-before": st.sampled_from(
        [
            b"2026-01-01T00:00:00Z",
            b"2026-01-01T00:00:00",
            b"0001-01-01T00:00:00+23:59",
            b"9999-12-31T23:59:59-23:59",
            b"9999-12-31T23:59:59.999999999Z",
            b"yesterday",
            b"9" * 5000,
        ]
    ),
    b"atlatl-callback-url": st.sampled_from(
        [
            b"http://hooks.invalid/ended",
            b"http://user:secret@hooks.invalid/",
            b"http://127.0.0.1/",
            b"http://169.254.169.254/",
            b"http://[::ffff:127.0.0.1]/",
            b"http://[",
            b"http://hooks.invalid:99999/",
            b"http://hooks.invalid\\@127.0.0.1/",
            b"http://" + b"a" * 64 + b".invalid/",
            b"http://xn--a.invalid/",
            b"http://0x7f000001/",
            b"file:///etc/passwd",
            b"http://hooks.invalid/" + b"a" * 2048,
        ]
    ),
    b"traceparent": st.sampled_from([_TRACE, _TRACE[:-1], b"ff" + _TRACE[2:], b"00-" + b"0" * 50]),
    b"tracestate": st.sampled_from([b"a=1", b"," * 5000]),
    b"prefer": st.sampled_from([b"respond-async", b"respond-async, wait=1", b"wait", b","]),
    b"accept": st.sampled_from([b"text/event-stream", b"*/*", b"application/openmetrics-text;q=x"]),
    b"content-type": st.sampled_from(
        [
            b"application/json",
            b"application/vnd.x+json; charset=utf-16",
            b"text/plain; charset=bogus",
            b"application/x-www-form-urlencoded",
            b"application/octet-stream",
            b"multipart/form-data",
            b"multipart/form-data; boundary=",
            b"multipart/form-data; boundary=b; charset=bogus",
            b"multipart/form-data; boundary=" + b"b" * 5000,
            b"/",
            b";",
        ]
    ),
    b"host": st.sampled_from([b"", b"[", b"[::1", b"a b", b"127.0.0.1:99999999", b"evil.example"]),
    b"origin": st.sampled_from([b"http://[", b"null", b"", b"http://evil.example", b"://"]),
    b"authorization": st.sampled_from([b"Bearer", b"Bearer x", b"Basic \xff", b"bearer " * 100]),
    b"x-forwarded-for": st.just(b"10.0.0.1"),
    b"cookie": st.just(b"a=1; b"),
    b"content-length": st.sampled_from([b"-1", b"\xb2", b"1e3", b"9" * 5000]),
}
headers = st.lists(
    st.sampled_from(sorted(_HEADERS)).flatmap(
        lambda name: st.tuples(st.just(name), _HEADERS[name] | _values)
    ),
    max_size=4,
)

_queries = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "limit", "start_after", "prefix", "task", "status", "force", "filename", "handler",
                "timeout_ms", "count", "window", "time_range_hours", "a", "n", "event", "c",
                "wait",
            ]
        ),
        st.one_of(_digits, odd_texts, st.sampled_from(["true", "FAILED", "30s", "300s", "0.01"])),
    ),
    max_size=3,
)  # fmt: skip
_wild_queries = st.sampled_from(["%", "%zz=%", "=&=&;", "a=%ff%fe", "a[]=1&a[]=2", "&" * 5000])
queries = st.one_of(
    _queries.map(lambda pairs: "&".join(f"{n}={quote(v.encode(), safe='')}" for n, v in pairs)),
    _wild_queries,
)

segments = st.one_of(
    st.sampled_from(HANDLERS),
    st.sampled_from(["k-1", "k-2", "e-1"]),  # ids of executions
    odd_texts.map(lambda text: quote(text.encode()[:3000], safe="")),
    st.sampled_from(
        ["..", ".", "%2e%2e", "%2E", "%00", "%0d%0aX: y", "%ff%fe", "%ed%a0%80", "", "%"]
    ),
)
ROUTES = [
    ("*", "/functions/{}"),
    ("*", "/functions/{}/{}"),
    ("PUT", "/api/v1/tasks/{}"),
    ("GET", "/api/v1/tasks"),
    ("GET", "/api/v1/tasks/{}"),
    ("DELETE", "/api/v1/tasks/{}"),
    ("GET", "/api/v1/executions"),
    ("GET", "/api/v1/executions/{}"),
    ("GET", "/api/v1/executions/{}/status"),
    ("GET", "/api/v1/executions/{}/result"),
    ("GET", "/api/v1/executions/{}/logs"),
    ("GET", "/api/v1/executions/{}/explain"),
    ("POST", "/api/v1/executions/{}/cancel"),
    ("POST", "/api/v1/invocations"),
    ("GET", "/api/v1/instances"),
    ("GET", "/api/v1/pools"),
    ("POST", "/api/v1/pools/{}/prewarm"),
    ("GET", "/api/v1/breakers"),
    ("POST", "/api/v1/breakers/{}/reset"),
    ("POST", "/api/v1/breakers/{}/open"),
    ("POST", "/api/v1/breakers/{}/disable"),
    ("GET", "/api/v1/dead-letters"),
    ("POST", "/api/v1/dead-letters/{}/redrive"),
    ("DELETE", "/api/v1/dead-letters/{}"),
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/stats"),
    ("GET", "/api/serverless/metrics"),
    ("GET", "/api/serverless/health"),
    ("GET", "/api/serverless/functions"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
    ("GET", "/"),
    ("*", "/{}"),
    ("*", "/{}/{}"),
]
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])


def _asked(route: tuple[str, str]) -> st.SearchStrategy[Asked]:
    method, template = route
    own = methods if method == "*" else st.one_of(st.just(method), st.just(method), methods)
    gaps = template.count("{}")
    paths = st.tuples(*[segments] * gaps).map(lambda chosen: template.format(*chosen))
    whole = st.tuples(paths, queries).map(lambda both: f"{both[0]}?{both[1]}")
    return st.builds(Asked, own, whole, headers, bodies)


asked = st.sampled_from(ROUTES).flatmap(_asked)


# --- async calls ---

_OF_ASYNC = [
    b"atlatl-callback-url",
    b"atlatl-max-retries",
    b"atlatl-not-before",
    b"atlatl-timeout-ms",
    b"idempotency-key",
    b"priority",
    b"traceparent",
]
_how = st.lists(st.sampled_from(_OF_ASYNC), unique=True, max_size=4).flatmap(
    lambda names: st.tuples(
        *(st.tuples(st.just(name), _HEADERS[name] | _values) for name in names),
        st.just((b"content-type", b"application/json")),
        st.just((b"prefer", b"respond-async")),
    )
)
submissions = st.builds(
    Asked,
    st.just("POST"),
    st.sampled_from(HANDLERS).map(lambda name: f"/functions/{name}"),
    _how.map(list),
    st.sampled_from([b"", b"{}", b'{"a": 1}', b'{"n": 3}', b'{"s": 0.01}', b"[1]"]) | bodies,
)


# --- forms ---

_part_heads = st.sampled_from(
    [
        b'Content-Disposition: form-data; name="artifact"; filename="a.py"',
        b'Content-Disposition: form-data; name="artifact"; filename="../../a.py"',
        b'Content-Disposition: form-data; name="artifact"; filename="a\0.py"',
        b'Content-Disposition: form-data; name="artifact"; filename=""',
        b'Content-Disposition: form-data; name="artifact"; filename="\xff.py"',
        b'Content-Disposition: form-data; name="artifact"',
        b'Content-Disposition: form-data; name="settings"',
        b'Content-Disposition: form-data; name="settings"; filename="s.json"',
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; name="' + b"a" * 100 + b'"',
        b"Content-Disposition:",
        b"X" * 20_000,
        b"",
        b": : :",
    ]
)
_settings = st.sampled_from(
    [
        b"{}",
        b'{"timeout_ms": 1e400}',
        b'{"timeout_ms": 99999999999999999999999}',
        b'{"timeout_ms": -1}',
        b'{"handler": "app.py:main"}',
        b'{"handler": "../../x.py:main"}',
        b'{"handler": "\\u0000"}',
        b'{"handler": "a:b:c"}',
        b'{"pool": {"max_size": 10000000000000000000000}}',
        b'{"pool": {"idle_timeout_s": 1e308}}',
        b'{"pool": null}',
        b'{"env": {"A=B": "\\u0000"}}',
        b'{"env": {"\\ud800": "x"}}',
        b'{"labels": {"\\ud800": "\\udfff"}}',
        b'{"description": "\\ud800"}',
        b'{"unknown": 1}',
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"labels":' * DEEP + b"1" + b"}" * DEEP,
        b"\xff",
        b"nul",
    ]
)
_parts = st.tuples(_part_heads, st.one_of(st.just(CODE), st.just(ZIP), _settings, bodies))
_artifact = (b'Content-Disposition: form-data; name="artifact"; filename="app.py"', CODE)
_with_settings = _settings.map(
    lambda content: [
        _artifact,
        (b'Content-Disposition: form-data; name="settings"', content),
    ]
)


def form(parts: list[tuple[bytes, bytes]], ending: bytes = b"--b--\r\n") -> bytes:
    pieces = [b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts]
    return b"".join(pieces) + ending


forms = st.builds(
    form,
    st.lists(_parts, max_size=4) | _with_settings,
    st.sampled_from([b"--b--\r\n", b"--b--\r\n", b"--b--\r\n", b"", b"--b", b"--b--trailing"]),
)
deploys = st.builds(
    Asked,
    st.just("PUT"),
    st.sampled_from(["made-1", "made-2"]).map(lambda name: f"/api/v1/tasks/{name}"),
    st.sampled_from(["", "; charset=utf-16", "; charset=idna", "; charset=hex", "; charset=\0"])
    .map(lambda charset: f"multipart/form-data; boundary=b{charset}".encode())
    .map(lambda media_type: [(b"content-type", media_type)]),
    forms,
)


# --- InvokeFunctionRequest in proto3 JSON ---

_wild_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)
_type_urls = st.sampled_from(
    [
        "type.googleapis.com/google.protobuf.StringValue",
        "type.googleapis.com/google.protobuf.Int64Value",
        "type.googleapis.com/google.protobuf.Struct",
        "type.googleapis.com/google.protobuf.Duration",
        "type.googleapis.com/google.protobuf.FieldMask",
        "type.googleapis.com/spearlet.ExecutionData",
        "type.googleapis.com/spearlet.InvokeFunctionRequest",
        "type.googleapis.com/no.such.Message",
        "no-slash",
        "",
    ]
)
_any = st.fixed_dictionaries(
    {}, optional={"@type": _type_urls | _wild_json, "value": _wild_json, "x": _wild_json}
)
_parameters = st.fixed_dictionaries(
    {}, optional={"name": odd_texts, "type": odd_texts, "value": _any | _wild_json}
)
_members = {
    "invocation_type": st.sampled_from(["INVOCATION_TYPE_NEW_TASK", 2, 99, "NOTHING", 1e40, None]),
    "task_id": st.sampled_from([*HANDLERS, ""]) | _wild_json,
    "taskName": _wild_json,
    "artifact_spec": st.fixed_dictionaries(
        {}, optional={"artifact_id": odd_texts, "location": st.just(DATA), "metadata": _wild_json}
    ),
    "parameters": st.lists(_parameters | _wild_json, max_size=3) | _wild_json,
    "execution_mode": st.sampled_from([1, 2, 3, "EXECUTION_MODE_SYNC", "1", True]) | _wild_json,
    "context": st.fixed_dictionaries(
        {},
        optional={"timeout_ms": st.sampled_from(["100", 1e3, "1e400", -1]), "headers": _wild_json},
    ),
    "wait": _wild_json,
    "execution_id": _wild_json,
    "unknown": _wild_json,
}
invocations = (
    st.fixed_dictionaries({}, optional=_members)
    .map(lambda tree: json.dumps(tree).encode())
    .map(lambda body: Asked("POST", "/api/v1/invocations", [], body))
)
