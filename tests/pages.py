"""The pages for people, as the tests read them: their sections, and where their links lead."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath

ROOT = Path(__file__).parents[1]
CHART = "helm/charging-coupon-consumer"
PAIRS = {
    "README.md": "README.zh-CN.md",
    "schemas/README.md": "schemas/README.zh-CN.md",
    "schemas/RULES.md": "schemas/RULES.zh-CN.md",
    f"{CHART}/OPERATIONS.md": f"{CHART}/OPERATIONS.zh-CN.md",
    f"{CHART}/RUNBOOK.md": f"{CHART}/RUNBOOK.zh-CN.md",
}
"""Each with its Chinese edition."""
PAGES = (*PAIRS, *PAIRS.values(), f"{CHART}/README.md")

_FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Link:
    """From a page to a file of the repository, or to an address elsewhere."""

    to: str
    anchor: str = ""

    @property
    def elsewhere(self) -> bool:
        return "://" in self.to

    @property
    def section(self) -> int | None:
        """Of the page that it leads to, by number; -1 where there is none of that name."""
        if not self.anchor:
            return None
        names = [anchor(each.heading) for each in sections(self.to)] if self.to in PAGES else []
        return names.index(self.anchor) if self.anchor in names else -1

    @property
    def leads_somewhere(self) -> bool:
        return self.elsewhere or ((ROOT / self.to).exists() and self.section != -1)

    def __str__(self) -> str:
        return f"{self.to}#{self.anchor}" if self.anchor else self.to


@dataclass(frozen=True)
class Section:
    """One heading of a page, and what stands below it up to the next."""

    page: str
    level: int
    heading: str
    text: str

    @property
    def code(self) -> list[str]:
        return _FENCED.findall(self.text)

    @property
    def prose(self) -> str:
        return _FENCED.sub("\n", self.text)

    @property
    def links(self) -> list[Link]:
        """To pages, files and pictures, as they come."""
        found = re.findall(r'\]\(([^)#]*)(?:#([^)]+))?\)|src="([^"]+)"', self.prose)
        return [Link(self._file(to or picture), name) for to, name, picture in found]

    def _file(self, link: str) -> str:
        if not link:
            return self.page
        return link if "://" in link else normpath(join(dirname(self.page), link))


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@cache
def sections(page: str) -> list[Section]:
    """In the order of the page."""
    hidden = _FENCED.sub(lambda found: re.sub(r"^#", "\0", found[0], flags=re.MULTILINE), text(page))
    parts = re.split(r"^(#+) (.+)\n", hidden, flags=re.MULTILINE)[1:]
    return [
        Section(page, len(marks), heading, body.replace("\0", "#"))
        for marks, heading, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def anchor(heading: str) -> str:
    """As GitHub makes it, of a heading that its page has once."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
