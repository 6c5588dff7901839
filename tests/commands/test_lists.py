"""`new`, `table`, `list` and `site`."""

import json
import re

import nbformat
from trees import CHECK, notebook, one_line, put

from commands.__main__ import main
from commands.tree import Tree
from flowcore import METHODS, record


def test_a_replication_without_its_record_is_refused_and_the_reading_path_needs_none(tree, capsys):
    (tree / "replications" / "paper.json").unlink()
    assert main(["run", "paper"], tree) == 1
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
    assert made == {"title": 'A "title"', "url": url, "presets": {"garments": {"parameters": parameters}}}
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


def listed(landscape, capsys):
    assert main(["list"], landscape) == 0
    return capsys.readouterr().out.splitlines()


def test_the_list_shows_every_method(landscape, capsys):
    lines = listed(landscape, capsys)
    names = [row.name for row in METHODS]
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in names] == names
    (line,) = (line for line in lines if line.startswith("MF "))
    assert "0.181 ± 0.012" in line and line.endswith("mean_flow")
    assert lines[lines.index("Lagrangian rule") + 1].endswith("not yet")
    assert "other: mean_flow, paper" in lines  # it has that preset too, and no numbers of it


def test_the_list_shows_a_replication_that_is_not_in_the_table(landscape, capsys):
    lines = listed(landscape, capsys)
    assert lines[lines.index("flow map, beyond the survey's table") + 1].split() == ["-", "paper"]
    assert "mixture: paper" in lines


def test_the_list_groups_by_family_below_the_survey(landscape, capsys):
    for name, family in (("tilting", "steering"), ("rectified", "velocity"), ("drifting", "distribution")):
        put(landscape, name)
        kept = record.read(landscape / "replications" / f"{name}.json")
        record.write(landscape / "replications" / f"{name}.json", kept | {"family": family})
    lines = listed(landscape, capsys)
    heads = [lines.index(name) for name in ("compositional rule", "velocity", "distribution", "steering")]
    assert heads == sorted(heads)
    assert [lines[head + 1].split()[-1] for head in heads[1:]] == ["rectified", "drifting", "tilting"]
    (landscape / "replications" / "tilting.json").write_text(json.dumps(kept | {"family": "sterring"}))
    assert main(["list"], landscape) == 1
    one_line(capsys, "tilting.json", "family must be one of flow map, velocity")


def test_the_list_fits_80_columns(landscape, capsys):
    """With names and numbers longer than any that is here, too: what is too long is cut, and says so."""
    for count in range(12):
        put(landscape, f"a_replication_with_a_long_name_and_number_{count}")
    put(landscape, "a" * 90)
    kept = record.read(landscape / "replications" / "mean_flow.json")
    long = {"mean": -1234567.89, "spread": 0.000012345, "band": [-1e9, 1e9], "seeds": [1]}
    kept["presets"]["mixture"]["metrics"]["endpoint_error_1"] = long
    record.write(landscape / "replications" / "mean_flow.json", kept)
    lines = listed(landscape, capsys)
    assert max(map(len, lines)) == 80
    assert any(line.startswith("MF ") and "-1.23e+06" in line for line in lines)


def test_the_list_of_this_repository_fits_80_columns(capsys):
    assert main(["list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


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
