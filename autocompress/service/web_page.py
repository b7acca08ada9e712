"""The small page to start from: studies, the live curve, the layer map, the verdicts.

It reaches the browser as one text without outside references. All that it shows is set as text,
never as markup: names of studies and what models wrote are untrusted.
"""

import base64
import hashlib
from importlib import resources
from string import Template
from typing import Final


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return how a Content-Security-Policy names a script or style: by its SHA-256."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


_STYLE: Final = _read("page.css")
_SCRIPT: Final = _read("page.js")
POLICY: Final = (
    f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the browser lets the page do."""
PAGE: Final = Template(_read("page.html")).substitute(style=_STYLE, script=_SCRIPT)
