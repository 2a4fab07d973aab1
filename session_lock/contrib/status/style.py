"""The style sheet. It stands within each page, or a browser would paint nothing before it had asked for it; so the policy names its hash."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

STYLE = (
    resources.files("session_lock.contrib.status")
    .joinpath("static", "status.css")
    .read_text(encoding="utf-8")
)

POLICY = f"'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
"""As a source of styles: these and no others."""
