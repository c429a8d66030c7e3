"""The drawing of the README is what its script draws."""

import pathlib
import xml.etree.ElementTree as ElementTree

import pytest

from scripts import draw_idea

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "figures"


@pytest.mark.parametrize("theme", draw_idea.THEMES)
def test_the_drawing_is_the_one_of_the_script(theme):
  text = (FOLDER / f"idea-{theme}.svg").read_text()
  assert text == draw_idea.draw(theme), "run python scripts/draw_idea.py"
  ElementTree.fromstring(text)


def test_both_themes_say_the_same():
  colours = [of.values() for of in draw_idea.THEMES.values()]
  assert all(len(set(map(str, pair))) == 2 for pair in zip(*colours, strict=True))
