"""`new`, `table`, `list`, `site` and `lab`."""

import os
import re

import nbformat
from trees import CHECK, notebook, one_line

from commands.__main__ import main
from commands.tree import Tree
from flowcore import METHODS, record


def test_a_replication_without_its_record_is_refused_and_the_reading_path_needs_none(tree, capsys):
    (tree / "replications" / "paper.json").unlink()
    assert main(["run", "paper"], tree) == 2
    there = Tree(tree)
    assert there.keeps_record("paper") and not there.keeps_record("000_first")


def test_new_makes_a_replication_that_runs(tree, capsys):
    (tree / "notebooks").mkdir()
    template = notebook(check=CHECK.replace("paper", "900_template", 1))
    nbformat.write(template, tree / "notebooks" / "900_template.ipynb")
    url = "https://example.org/42"
    assert main(["new", "new_paper", "--title", 'A "title"', "--url", url], tree) == 0
    made = record.read(tree / "replications" / "new_paper.json")
    parameters = {"steps": 10, "rate": 0.5, "name": "a", "sizes": [1, 2]}
    assert made == {"title": 'A "title"', "url": url, "presets": {"mixture": {"parameters": parameters}}}
    first = nbformat.read(tree / "replications" / "new_paper.ipynb", as_version=4).cells[0].source
    assert first == f'# new_paper: A "title"\n\n{url}'
    assert main(["run", "new_paper"], tree) == 0


def test_the_table_is_rewritten_and_verified(landscape, capsys):
    assert main(["table", "--check"], landscape) == 1
    one_line(capsys, "ci/replicate table")
    assert main(["table"], landscape) == 0
    text = (landscape / "README.md").read_text()
    assert text.startswith("before\n<!-- landscape -->\n| method ") and text.endswith("|\n<!-- /landscape -->\nafter\n")
    (row,) = (line for line in text.splitlines() if line.startswith("| [MF](replications/mean_flow.ipynb) |"))
    assert row.endswith("| 4 | 4 | 0.181 ± 0.012 |  |  |  |")
    assert main(["table", "--check"], landscape) == 0
    change = text.replace("0.181", "0.180")
    (landscape / "README.md").write_text(change)
    assert main(["table", "--check"], landscape) == 1
    assert (landscape / "README.md").read_text() == change


def test_the_list_shows_every_method(landscape, capsys):
    assert main(["list"], landscape) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(METHODS) + 1]] == [row.name for row in METHODS]
    (line,) = (line for line in lines if line.startswith("MF "))
    assert "0.181 ± 0.012" in line
    assert line.split()[-2:] == ["mean_flow", "other"]  # it has that preset too, and no numbers of it
    assert lines[1].endswith("not yet")


def test_the_list_shows_a_replication_that_is_not_in_the_table(landscape, capsys):
    assert main(["list"], landscape) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["-", "paper", "mixture,", "other"]


def test_the_site_has_a_page_per_notebook_and_its_links_lead_to_pages(landscape, capsys):
    (landscape / "notebooks").mkdir()
    assert main(["site"], landscape) == 2
    one_line(capsys, "100_landscape")
    for name in ("000_first", "100_landscape", "900_template"):
        page = notebook()
        page.cells[
            0
        ].source = "[a](../replications/mean_flow.ipynb#cell-id=train) [b](000_first.ipynb) [c](100_landscape.ipynb)"
        nbformat.write(page, landscape / "notebooks" / f"{name}.ipynb")
    assert main(["site"], landscape) == 0
    top = landscape / "build" / "site"
    pages = {str(path.relative_to(top)) for path in top.rglob("*.html")}
    assert pages == {
        "index.html",
        "notebooks/000_first.html",
        "replications/mean_flow.html",
        "replications/paper.html",
    }
    for page in pages:
        text = (top / page).read_text()
        assert ".ipynb" not in text
        links = [link.partition("#")[0] for link in re.findall(r'<a href="([^"#]+)', text) if "://" not in link]
        assert links and all(((top / page).parent / link).exists() for link in links)
    assert 'id="cell-id=train"' in (top / "replications/mean_flow.html").read_text()


def test_lab_opens_at_the_root(tree, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments) or 0)
    main(["lab"], tree)
    assert started[0][1:] == ["-m", "jupyterlab", f"--ServerApp.root_dir={tree}"]
