"""Files as Kubernetes mounts a ConfigMap or a Secret. Writes them."""

from collections.abc import Mapping
from pathlib import Path


def mount(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """All of them at once, by one link; a second time they are swapped."""
    folder.mkdir(exist_ok=True)
    version = folder / f"..version_{sum(1 for _ in folder.glob('..version_*'))}"
    version.mkdir()
    for name, content in files.items():
        (version / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
