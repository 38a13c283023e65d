"""The files that rules consist of, as they were read, and whether they have changed since. Reads them."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from consumer.core.documents import Document, DocumentError
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.slices import Breathe, at_once, check_utf8, let_go

REMEDY = "name a YAML file with coupon rules, or a folder of such files"
_COARSE_SECONDS = 2.0
"""File systems tell times no finer than this: who writes twice within it may leave no trace but the content."""

Stamp = tuple[int, ...]
"""What the file system says of a file; another one, or another content, has another stamp."""


@dataclass(slots=True)
class _Seen:
    stamp: Stamp | None
    digest: bytes
    sure: bool


class Files:
    """A rules file, or the `*.yaml` files of a folder, with what they refer to.

    A mounted ConfigMap's files are links, whose targets Kubernetes swaps all at once.
    """

    def __init__(self, path: Path, remedy: str = REMEDY) -> None:
        """`remedy` says what to do where there is nothing to read."""
        self.path = path
        self.remedy = remedy
        self._listed: list[Path] = []
        self._seen: dict[Path, _Seen] = {}

    def documents(self, breathe: Breathe = at_once) -> list[Document]:
        """The YAML files, parsed. Raises ConfigurationError with all that is wrong."""
        problems: list[Problem] = []
        documents: list[Document] = []
        self._listed = _listed(self.path)
        if not self._listed:
            raise ConfigurationError([Problem(str(self.path), "a folder without a *.yaml file", self.remedy)])
        for file in self._listed:
            try:
                content = self.read(file)
                check_utf8(content, breathe)
                documents.append(Document(content, str(file), breathe=breathe))
            except DocumentError as error:
                problems += error.problems
            except UnicodeDecodeError as error:
                problems.append(Problem(str(file), f"not UTF-8 at byte {error.start}", "save it as UTF-8"))
            except OSError as error:
                problems.append(Problem(str(file), f"cannot be read: {error.strerror}", self.remedy))
        if problems:
            let_go([part for document in documents for part in document.parts()], breathe)
            raise ConfigurationError(problems)
        return documents

    def read(self, file: Path) -> bytes:
        """One of the files; that it was read is remembered, also where it cannot be. Raises OSError."""
        stamp = _stamp(file)
        self._seen[file] = _Seen(stamp, b"", sure=False)
        content = file.read_bytes()
        self._seen[file] = _Seen(stamp, _digest(content), _is_sure(stamp))
        return content

    def changed(self) -> bool:
        """Whether reading them now would give anything else."""
        return _listed(self.path) != self._listed or any(map(self._differs, self._seen))

    def _differs(self, file: Path) -> bool:
        seen, stamp = self._seen[file], _stamp(file)
        if stamp == seen.stamp and seen.sure:
            return False
        try:
            digest = _digest(file.read_bytes())
        except OSError:
            digest = b""
        if digest != seen.digest:
            return True
        self._seen[file] = _Seen(stamp, digest, _is_sure(stamp))
        return False


def _listed(path: Path) -> list[Path]:
    """Kubernetes keeps a mounted ConfigMap's versions in hidden folders beside the links to them."""
    try:
        files = sorted(path.iterdir())
    except OSError:
        return [path]
    return [file for file in files if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")]


def _stamp(file: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _is_sure(stamp: Stamp | None) -> bool:
    """Nothing that is written later can have the same stamp."""
    return stamp is None or time.time() - max(stamp[3:]) / 1e9 > _COARSE_SECONDS


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
