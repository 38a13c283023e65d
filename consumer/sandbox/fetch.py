"""Fetches Kafka's jars from a Maven repository into a folder. A script of its own, so that it can be killed; does I/O.

    python -P fetch.py <version> <folder> <repository>

Writes its progress to stdout, a line each. Exits 0 when the folder is complete; else
1, and the last line of stderr says why. The folder appears at once and whole:
everything is fetched beside it, under a lock, and renamed.
"""

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

PARALLEL = 6
_SAID_EVERY = 1.0  # seconds


def main(version: str, folder: Path, repository: str) -> int:
    """Exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            return 0
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)  # a fetch that was killed
        try:
            fetch(version, partial, repository)
            partial.rename(folder)
        except _TerminatedError:
            return 1
        except Exception as error:  # noqa: BLE001  # jgo raises whatever it meets; the starter explains it
            sys.stderr.write(f"\n{_one_line(error)}\n")
            return 1
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return 0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file; waits for whoever holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another process fetches Kafka, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(version: str, folder: Path, repository: str) -> None:
    """Resolves what `kafka.Kafka` needs and downloads it into `folder/jars`."""
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  # of the extra [demo]

    _say(f"Fetching Kafka {version} from {repository} (45 MB, once)")
    count = _Count()
    maven = MavenContext(
        resolver=PythonResolver(progress_callback=count.file),
        repo_cache=folder / "repository",
        remote_repos={"central": repository},
    )
    roots = [f"org.apache.kafka:kafka_2.13:{version}", "org.slf4j:slf4j-simple:1.7.36"]
    first, further = maven.resolver.resolve([maven.create_dependency(root) for root in roots])
    artifacts = [dependency.artifact for dependency in (*first, *further)]
    count.expect(len(artifacts))
    pool = ThreadPoolExecutor(PARALLEL)
    try:
        jars = list(pool.map(lambda artifact: artifact.resolve(), artifacts))
    finally:
        count.stopped = True
        pool.shutdown(wait=False, cancel_futures=True)
    (folder / "jars").mkdir()
    for jar in jars:
        jar.rename(folder / "jars" / jar.name)
    shutil.rmtree(folder / "repository")


class _Count:
    """Says now and then how far the download is."""

    def __init__(self) -> None:
        self.files = self.bytes = self.expected = 0
        self.stopped = False
        self._said = time.monotonic()

    def expect(self, files: int) -> None:
        self.files, self.expected = 0, files

    @contextmanager
    def file(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield self._read
        self.files += 1

    def _read(self, count: int) -> None:
        if self.stopped:
            raise InterruptedError("stopped")
        self.bytes += count
        if time.monotonic() - self._said < _SAID_EVERY:
            return
        self._said = time.monotonic()
        what = f"{self.files} of {self.expected} jars" if self.expected else f"{self.files} descriptions"
        _say(f"Fetching Kafka: {what}, {self.bytes / 1e6:.1f} MB")


class _TerminatedError(BaseException):
    """SIGTERM came; what is partial has to go."""


def _terminate(_signal: int, _frame: object) -> None:
    raise _TerminatedError


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


if __name__ == "__main__":
    status = main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without waiting for downloads that are under way in threads
