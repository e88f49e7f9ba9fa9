"""Pages of the gallery: their code runs, and each has a script, a small picture and a place in the list."""

import re
from pathlib import Path

import pytest

from tests.readme_test import blocks, run_blocks

GALLERY = Path(__file__).parent.parent / "docs" / "gallery"
PAGES = sorted(GALLERY.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_code_of_a_page_runs(page):
    (code,) = blocks(page.read_text(), "python")
    run_blocks([code])


def test_pages_scripts_and_pictures_belong_together():
    names = [page.stem for page in PAGES]
    listed = re.findall(r"^gallery/(\w+)$", (GALLERY.parent / "gallery.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == names == sorted(p.stem for p in GALLERY.glob("[!_]*.py"))
    pictures = {p.stem: p.stat().st_size for p in GALLERY.glob("*.png")}
    assert sorted(pictures) == names
    assert max(pictures.values()) <= 60_000
    assert all(f"]({page.stem}.png)" in page.read_text() for page in PAGES)
