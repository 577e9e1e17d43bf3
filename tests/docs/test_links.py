"""Links lead somewhere, and pages name no place that only one machine knows."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, name_of, prose_of

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|anaconda\.org|conda-forge|npmjs|crates\.io|download\.pytorch|"
    r"--(extra-)?index-url",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.~/$}])/(?:work|root|tmp|home|Users|mnt)/")


def anchors(page):
    """The anchors of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in LINK.findall(prose_of(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        assert target.is_relative_to(ROOT), f"{name_of(page)} links out of the project: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: no heading for {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_names_a_registry_or_a_path_of_one_machine(page):
    text = page.read_text(encoding="utf-8")
    for pattern in (REGISTRIES, MACHINE_PATH):
        found = pattern.search(text)
        assert found is None, f"{name_of(page)} says {found[0] if found else ''}"


def test_the_patterns_find_what_they_look_for():
    assert REGISTRIES.search("see https://pypi.org/simple")
    assert MACHINE_PATH.search("cd /work/main")
    assert not MACHINE_PATH.search("the /proc/cpuinfo of ~/work/ and docs/tmp/")


def test_the_index_links_every_page_of_docs():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index
