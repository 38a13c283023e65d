"""Pictures of what was measured."""

from xml.etree import ElementTree as ET

from tests.bench.plot import Bars, bars

SVG = "{http://www.w3.org/2000/svg}"


def test_a_picture_has_a_bar_for_each_and_the_most_is_the_longest() -> None:
    root = ET.fromstring(bars([Bars("µs & more", ",.0f", {"one": [100.0, 300.0, 200.0], "<two>": [50.0]})]))

    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert widths[0] == 4 * widths[1]
    assert words == ["µs & more", "one", "200", "<two>", "50"]
    assert len(list(root.iter(f"{SVG}line"))) == 1, "what was measured once has no spread"
