"""Bars as SVG, for `pipeline --plot`: pure, no library, light and dark as the reader has it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

WIDTH, LEFT, RIGHT = 720, 220, 110
BAR, GAP, HEAD = 18, 10, 34
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 }
  .bar { fill: #4c78a8 }
  .span { stroke: #24292f; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .bar { fill: #6ea3d8 } .span { stroke: #e6edf3 } }
"""


@dataclass(frozen=True)
class Bars:
    """One figure of several things, each measured several times.

    Attributes:
        form: of a value, as for `format`.

    """

    title: str
    form: str
    values: Mapping[str, Sequence[float]]


def bars(groups: Sequence[Bars]) -> str:
    """An SVG document: of each the median, its number beside it, and a line from the least to the most."""
    body: list[str] = []
    top = 0
    for group in groups:
        body += _group(group, top)
        top += HEAD + len(group.values) * (BAR + GAP) + GAP
    words = "; ".join(group.title for group in groups)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">',
            f"<title>{escape(words)}</title>",
            f"<style>{STYLE}</style>",
            *body,
            "</svg>\n",
        ]
    )


def _group(group: Bars, top: int) -> Iterator[str]:
    most = max((value for values in group.values.values() for value in values), default=0.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    yield f'<text class="title" x="0" y="{top + 20}">{escape(group.title)}</text>'
    for number, (name, values) in enumerate(group.values.items()):
        y = top + HEAD + number * (BAR + GAP)
        middle = median(values)
        yield f'<text x="{LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="bar" x="{LEFT}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" rx="2"/>'
        ends = LEFT + min(values) * scale, LEFT + max(values) * scale
        if len(values) > 1:
            at = y + BAR / 2
            yield f'<line class="span" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{max(ends[1], LEFT) + 8:.1f}" y="{y + 14}">{format(middle, group.form)}</text>'
