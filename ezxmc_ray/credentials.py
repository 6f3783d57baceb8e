"""Credentials in URIs: taken out of whatever is written down or said.

Comes in: text, or JSON with texts in it. Goes out: the same without the passwords, keys and tokens that URIs carry
(``s3://KEY:SECRET@bucket/run``, ``?secret_key=…``). What is left is a URI that works where the environment has the
credentials, so a run that was written down goes on by it (docs/cluster.md).
"""

from __future__ import annotations

import re
from typing import Any

_URI = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s'\"<>`]*)")
#: ``user:password@`` where a URI begins; a secret may hold a slash. ``host:9000/a@b`` is none, but for a bucket, which
#: has no port.
_USER = re.compile(r"[^/@?#\[]*:[^@?#]*@")
_HOST_AND_PORT = re.compile(r"(?:\[[^\]]*\]|[\w.-]+):\d{1,5}/")
_BUCKETS = ("s3", "gs", "gcs", "az", "abfs", "wasb")
_SECRET_NAME = re.compile(
    r"(?:.*[-_])?(?:access[-_]?key(?:[-_]?id)?|account[-_]?key|api[-_]?key|key|secret(?:[-_]?\w*)|password|passwd|pwd|"
    r"(?:\w*[-_])?token|credentials?|sig|signature|sas)|x-(?:amz|goog)-.*",
    re.IGNORECASE,
)


def without_credentials(value: Any) -> Any:
    """``value`` (a text, or lists and dicts with texts) with no credentials in its URIs; all else stays as it is."""
    if isinstance(value, str):
        return _URI.sub(_clean, value) if "://" in value else value
    if isinstance(value, dict):
        return {without_credentials(key): without_credentials(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(without_credentials(one) for one in value)
    return value


def _clean(uri: re.Match[str]) -> str:
    rest = uri["rest"]
    user = _USER.match(rest)
    if user and (uri["scheme"].lower().startswith(_BUCKETS) or not _HOST_AND_PORT.match(rest)):
        rest = rest[user.end() :]
    place, question, query = rest.partition("?")
    if not question:
        return uri["scheme"] + rest
    kept = [part for part in query.split("&") if not _SECRET_NAME.fullmatch(part.partition("=")[0])]
    return uri["scheme"] + place + (f"?{'&'.join(kept)}" if kept else "")
