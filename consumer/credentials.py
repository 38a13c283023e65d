"""The secrets in use, and certificates, kept up to date with their files. Reads these, off the event loop."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import structlog

from consumer import logs
from consumer.core.errors import ConfigurationError, Problem
from consumer.metrics import Metrics

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often it is looked whether a file has changed."""

SETTLE_SECONDS = 0.2
"""Whoever is writing when a change is noticed has done so by then."""

_Found = dict[str, str | Problem]
"""A secret's text, or why there is none; by name."""


class Credentials:
    """What signs and what opens connections, as the files were last.

    A secret that is missing or empty, as while its file is exchanged, stays as it was.

    Attributes:
        secrets: by name. Whoever needs one looks here each time.

    """

    def __init__(
        self,
        read: Callable[[str], str],
        metrics: Metrics,
        *,
        needed: Callable[[], Collection[str]],
        certificates: Collection[Path] = (),
        on_change: Callable[[Collection[str]], None] = lambda _what: None,
    ) -> None:
        """`read` gives a secret's text, or raises ConfigurationError; `needed` names those that are watched.

        `on_change` is told the names of secrets that are other ones now, and the paths of certificates.
        """
        self.secrets: dict[str, str] = {}
        self._read = read
        self._metrics = metrics
        self._needed = needed
        self._certificates = {file: _content(file) for file in certificates}
        self._on_change = on_change
        self._kept: dict[str, Problem] = {}
        for result in ("loaded", "kept"):
            metrics.secrets_reloads.labels(result)

    def use(self, secrets: Mapping[str, str]) -> set[str]:
        """In force from the next call on. The names of those that are new, or other ones than before."""
        changed = {name for name, text in secrets.items() if self.secrets.get(name) != text}
        corrected = sorted(changed & self.secrets.keys())
        logs.hide_also(secrets.values())
        self.secrets.update(secrets)  # those of others stay: some calls under way may still need them
        if corrected:
            self._metrics.secrets_reloads.labels("loaded").inc(len(corrected))
            log.info("secrets.reloaded", names=corrected)
        return changed

    async def read_again(self, name: str) -> None:
        """At once: the platform refuses what this secret signed."""
        self._take(await asyncio.to_thread(self._found, [name]))

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            secrets, certificates = await asyncio.to_thread(self._look)
            if secrets == {name: self.secrets[name] for name in secrets}:
                self._kept.clear()
                if certificates == self._certificates:
                    continue
            await asyncio.sleep(SETTLE_SECONDS)
            if (secrets, certificates) != await asyncio.to_thread(self._look):
                continue
            self._take(secrets)
            changed = [str(file) for file in certificates if certificates[file] != self._certificates[file]]
            if changed:
                self._certificates = certificates
                log.info("certificates.changed", files=changed)
                self._on_change(changed)

    def _look(self) -> tuple[_Found, dict[Path, bytes]]:
        return self._found(self._needed()), {file: _content(file) for file in self._certificates}

    def _found(self, names: Collection[str]) -> _Found:
        found: _Found = {}
        for name in names:
            try:
                found[name] = self._read(name)
            except ConfigurationError as error:
                found[name] = error.problems[0]
        return found

    def _take(self, found: _Found) -> None:
        """What can be used; where that is nothing, the one before is kept, and it is told once."""
        texts: dict[str, str] = {}
        for name, text in found.items():
            if isinstance(text, str):
                texts[name] = text
                self._kept.pop(name, None)
            elif self._kept.get(name) != text:
                self._kept[name] = text
                self._metrics.secrets_reloads.labels("kept").inc()
                log.warning("secrets.kept", name=name, problem=str(text))
        if changed := self.use(texts):
            self._on_change(changed)


def _content(file: Path) -> bytes:
    """Nothing where it cannot be read: whoever uses it tells."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
