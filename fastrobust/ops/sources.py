"""The C++ sources of the kernels; ``setup.py`` runs this file, since it cannot import the package.

The digest is compiled into the extension, so that a stale build is noticed.
"""

import hashlib
from pathlib import Path


def sources(csrc: Path) -> list[Path]:
    """Return the files that the extension is built from, sorted; its C++ tests are left out."""
    return sorted(p for p in csrc.rglob("*.*") if "tests" not in p.relative_to(csrc).parts)


def sources_digest(csrc: Path) -> str:
    """Return a digest of the contents of :func:`sources`."""
    contents = b"".join(path.read_bytes() for path in sources(csrc))
    return hashlib.sha256(contents).hexdigest()[:16]
