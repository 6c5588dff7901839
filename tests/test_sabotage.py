"""The rows of `sabotage.py` still fit the code, so that the list can be run."""

import shutil

import pytest
import sabotage

import flowcore  # noqa: F401
from commands.notebooks import read


@pytest.mark.parametrize("row", sabotage.SABOTAGES, ids=str)
def test_a_sabotage_changes_one_place_of_the_code(row, tmp_path):
    source = sabotage.ROOT / "flowcore" / row.file
    (tmp_path / "flowcore" / row.file).parent.mkdir(parents=True)
    shutil.copy(source, tmp_path / "flowcore" / row.file)
    sabotage.put_into(row, tmp_path)
    changed = (tmp_path / "flowcore" / row.file).read_text()
    compile(changed, row.file, "exec")
    assert changed != source.read_text()
    for notebook in row.notebooks:
        read(sabotage.ROOT / "replications" / f"{notebook}.ipynb")


def test_a_line_that_is_no_longer_there_is_named(tmp_path):
    (tmp_path / "flowcore").mkdir()
    (tmp_path / "flowcore" / "path.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="path.py has 0 places 'y = 2', not one"):
        sabotage.put_into(sabotage.Sabotage("path.py", "y = 2", "y = 3"), tmp_path)
