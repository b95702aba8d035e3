"""What the guides say is so: their code runs, their excerpts are the source, their links lead."""

import ast
import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

import unveil

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*GUIDES, *ROOT.glob("README.md")]
SOURCES = sorted((ROOT / "src" / "unveil").rglob("*.py"))
FOLLOWED = ROOT / "docs" / "follow-a-row.md"

# A file that is followed line by line must be short enough to be read in one sitting.
LONGEST_FOLLOWED_FILE = 250
# Training amplifies rounding, so another machine's digits of a trained model differ a little.
RELATIVE, ABSOLUTE = 0.02, 0.02

NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d*(?:e[-+]?\d+)?|(?<![\w.])-?\d+e[-+]?\d+")
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page: its language, its text and the line that the text begins on."""

    language: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page.

    >>> list(blocks("words\\n```py\\nx = 1\\n```\\n"))
    [Block(language='py', text='x = 1\\n', line=3)]
    """
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], page.count("\n", 0, match.start(2)) + 1)


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures that are files, without their anchors.

    >>> links("[a](b.md#c) ![d](e.png) [f](https://g.org) [h](#i) `x[0](y)`")
    ['b.md', 'e.png']
    """
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.MULTILINE | re.DOTALL)
    targets = (target.partition("#")[0] for target in LINK.findall(prose) if "://" not in target)
    return [target for target in targets if target]


class Near(doctest.OutputChecker):
    """Words and whole numbers must be as shown; numbers with decimals only close to it."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if super().check_output(want, got, optionflags):
            return True
        if super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags):
            pairs = zip(NUMBER.findall(want), NUMBER.findall(got), strict=True)
            return all(
                abs(float(a) - float(b)) <= max(ABSOLUTE, RELATIVE * abs(float(a)))
                for a, b in pairs
            )
        return False


def failures(page: str, name: str) -> str:
    """What the runnable blocks of a page do otherwise than it says, run in order; "" if nothing."""
    names: dict[str, object] = {"__name__": "__main__"}
    said: list[str] = []
    runner = doctest.DocTestRunner(Near(), verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    for block in blocks(page):
        if block.language != "python":
            continue
        if ">>>" not in block.text:
            lines = "\n" * (block.line - 1) + block.text
            exec(compile(lines, name, "exec", dont_inherit=True), names)
            continue
        test = doctest.DocTestParser().get_doctest(block.text, names, name, name, block.line - 1)
        runner.run(test, out=said.append, clear_globs=False)
        names = test.globs
    return "".join(said)


def lines_of(text: str) -> str:
    """A text without its indentation and blank ends, to be found in another."""
    return "\n".join(line.strip() for line in dedent(text).strip().splitlines())


@pytest.mark.parametrize("guide", PAGES, ids=[page.name for page in PAGES])
def test_the_code_of_a_guide_does_what_it_says(guide: Path) -> None:
    said = failures(guide.read_text(encoding="utf-8"), guide.name)
    assert said == "", said


@pytest.mark.parametrize("guide", GUIDES, ids=[guide.name for guide in GUIDES])
def test_an_excerpt_is_in_the_source_letter_for_letter(guide: Path) -> None:
    sources = [lines_of(path.read_text(encoding="utf-8")) for path in SOURCES]
    for block in blocks(guide.read_text(encoding="utf-8")):
        if block.language == "py":
            assert any(lines_of(block.text) in source for source in sources), block.text


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    targets = links(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_code_named_in_a_link_is_in_the_file_linked_to(page: Path) -> None:
    """A link such as ``[`objectives.ELBO`](…/objectives.py)`` names something defined there."""
    text = page.read_text(encoding="utf-8")
    for name, target in re.findall(r"\[`([\w.]+)`\]\(([\w./-]+\.py)\)", text):
        last = name.removesuffix(".py").rpartition(".")[2]
        path = page.parent / target
        defined = {
            node.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef | ast.FunctionDef)
        }
        assert last in defined | {path.stem} or name == path.name, f"{name} is not in {target}"


def test_the_files_that_a_row_is_followed_through_are_six_and_short() -> None:
    headings = re.findall(
        r"^## \d\. .*\((\.\./src/[\w/]+\.py)\)", FOLLOWED.read_text(encoding="utf-8"), re.M
    )
    assert len(set(headings)) == 6
    for target in headings:
        length = len((FOLLOWED.parent / target).read_text(encoding="utf-8").splitlines())
        assert length < LONGEST_FOLLOWED_FILE, f"{target} has {length} lines"


@pytest.mark.parametrize(
    "page",
    [
        "```python\n>>> 1 + 1\n3\n\n```\n",
        "```python\n>>> 0.5\n0.53\n\n```\n",
        "```python\n>>> [1.0, 2.0]\n[1.0]\n\n```\n",
        "```python\n>>> print('three', 0.5)\nfour 0.5\n\n```\n",
        "```python\nx = 1\n```\n```python\n>>> x\n2\n\n```\n",
    ],
)
def test_an_answer_that_is_not_so_is_caught(page: str) -> None:
    assert failures(page, "page") != ""


def test_rounding_passes_and_names_last_to_the_end_of_the_page() -> None:
    page = (
        "```python\nx = 100.0\n```\n```python\n>>> y = x + 1.5\n>>> y, 'a'\n(101.4, 'a')\n\n```\n"
    )
    assert failures(page, "page") == ""


def test_the_contract_lists_every_public_name() -> None:
    contract = (ROOT / "docs" / "contract.md").read_text()
    assert [name for name in unveil.__all__ if name[0] != "_" and f"`{name}`" not in contract] == []
