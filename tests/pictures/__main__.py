"""The README's pictures of the status page; `python -m tests.pictures` takes them anew, with Chromium. Writes files.

The moments that they show are those of `tests.statuses`, so that they change only where the page does.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta, timezone
from pathlib import Path

from consumer.core.status import Status
from consumer.page import page
from tests.statuses import granting, held_up

FOLDER = Path(__file__).parent
ZONE = timezone(timedelta(hours=8), "CST")
LIGHT, DARK = "1", "0"
"""As Chromium counts colour schemes."""

PICTURES: dict[str, tuple[Callable[[], Status], str, str]] = {
    "status-desktop": (granting, "1180,830", LIGHT),
    "status-phone": (held_up, "390,830", DARK),
}


def take(browser: str, name: str, moment: Callable[[], Status], size: str, scheme: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        html = Path(folder) / "status.html"
        html.write_text(page(moment(), ZONE, refresh=True), "utf-8")
        subprocess.run(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder}/browser",
                f"--blink-settings=preferredColorScheme={scheme}",
                f"--window-size={size}",
                f"--screenshot={FOLDER / name}.png",
                html.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


if __name__ == "__main__":
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("no Chromium is installed")
    for name, (moment, size, scheme) in PICTURES.items():
        take(found, name, moment, size, scheme)
