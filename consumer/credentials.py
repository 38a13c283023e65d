"""The secrets in use, and certificates, kept up to date with their files. Reads these, off the event loop.

Whoever opens connections with them is told when they have changed, and tells in turn where the new ones are of no use.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import structlog

from consumer import logs
from consumer.core.errors import ConfigurationError, Problem
from consumer.following import Follower
from consumer.metrics import Metrics

log = structlog.get_logger(__name__)

_Found = dict[str, str | Problem]
"""A secret's text, or why there is none; by name."""

_Look = tuple[_Found, dict[Path, bytes]]
"""Secrets, and what certificates' files hold."""


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
        self._on_change = on_change
        self._last: _Look = ({}, {file: _content(file) for file in certificates})
        self._kept: dict[str, str] = {}
        self._follower = Follower(lambda: self._look() != self._last, self._look_again)
        metrics.credentials_kept.set(0)
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
            before = self._last[1]
            look = await self._follower.look()
            if look is None:
                continue
            secrets, certificates = look
            for name in [name for name in self._kept if name in self.secrets and name not in secrets]:
                self.keep(name, None)  # nobody needs it any more
            self._take(secrets)
            changed = [str(file) for file in certificates if certificates[file] != before[file]]
            if changed:
                log.info("credentials.files_changed", files=changed)
                self._on_change(changed)

    @property
    def kept(self) -> Sequence[str]:
        """What is wrong with files whose secrets and certificates of before are still in use."""
        return [f"{what}: {problem}" for what, problem in self._kept.items()]

    def keep(self, what: str, problem: str | None) -> None:
        """A secret, or a way that certificates lead to, stays as it was since its files are of no use, which is told once.

        None: it is as the files say.
        """
        if problem is None:
            if self._kept.pop(what, None) is not None:
                log.info("credentials.kept_no_longer", name=what)
        elif self._kept.get(what) != problem:
            self._kept[what] = problem
            self._metrics.secrets_reloads.labels("kept").inc()
            log.warning("credentials.kept", name=what, problem=problem)
        self._metrics.credentials_kept.set(len(self._kept))

    async def _look_again(self) -> _Look:
        self._last = await asyncio.to_thread(self._look)
        return self._last

    def _look(self) -> _Look:
        return self._found(self._needed()), {file: _content(file) for file in self._last[1]}

    def _found(self, names: Collection[str]) -> _Found:
        found: _Found = {}
        for name in names:
            try:
                found[name] = self._read(name)
            except ConfigurationError as error:
                found[name] = error.problems[0]
        return found

    def _take(self, found: _Found) -> None:
        """What can be used; where that is nothing, the one before is kept."""
        for name, text in found.items():
            self.keep(name, None if isinstance(text, str) else str(text))
        if changed := self.use({name: text for name, text in found.items() if isinstance(text, str)}):
            self._on_change(changed)


def _content(file: Path) -> bytes:
    """Nothing where it cannot be read: whoever uses it tells."""
    try:
        return file.read_bytes()
    except OSError:
        return b""
