"""`python -m util.report` as a user calls it: where it writes, what it refuses, how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.run import ROOT
from tests.util.report.folders import epoch_row, event, parse_page, write_run
from util.errors import DataError, MissingInputError, OutputError, SaveError, UsageError
from util.report.__main__ import main, run_names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, `a` and `b`, below the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_run(Path(name), rows=[epoch_row(0)], events=[event("start", "01T00:00:00")])
    return tmp_path


def call(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-m", "util.report", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_it_writes_into_the_run_says_where_and_leaves_standard_output_empty(folder: Path) -> None:
    done = call("a", cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[-1].endswith("report: a/report.html")
    assert parse_page((folder / "a" / "report.html").read_text(encoding="utf-8")).all("title")[0].text == "Training: a"
    assert not list(folder.rglob(".tmp*"))


def test_names_in_any_language_work_without_a_locale(folder: Path) -> None:
    name = "猫 🐱 'x' \"y\" <b>"
    write_run(folder / name, rows=[epoch_row(0)])
    done = call(name, cwd=folder, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    page = parse_page((folder / name / "report.html").read_text(encoding="utf-8"))
    assert page.all("h1")[0].text == f"Training: {name}"


def test_an_error_is_one_line_and_its_exit_code(folder: Path) -> None:
    for arguments, code in ((("nothing",), 66), ((".",), 65), (("a", "b"), 2), ((), 2), (("a", "--outputs", "x"), 2)):
        done = call(*arguments, cwd=folder)
        assert (done.returncode, done.stdout) == (code, ""), arguments
        assert [line[:7] for line in done.stderr.splitlines()] == ["error: "]


def test_an_earlier_report_is_written_over_and_nothing_else_is(folder: Path) -> None:
    main(["a"])
    (folder / "a" / "events.jsonl").unlink()
    main(["a"])
    assert "there is no events.jsonl" in (folder / "a" / "report.html").read_text(encoding="utf-8")
    other = folder / "mine.html"
    other.write_text("<!DOCTYPE html><title>my page</title>")
    with pytest.raises(OutputError, match=r"mine\.html: exists and is no report; choose another --output"):
        main(["a", "--output", "mine.html"])
    assert other.read_text() == "<!DOCTYPE html><title>my page</title>"
    (folder / "folder.html").mkdir()
    with pytest.raises(OutputError, match="exists and is no report"):
        main(["a", "--output", "folder.html"])


def test_a_link_to_a_report_stays_one(folder: Path) -> None:
    main(["a"])
    (folder / "link.html").symlink_to("a/report.html")
    (folder / "a" / "log.txt").unlink()
    main(["a", "--output", "link.html"])
    assert (folder / "link.html").is_symlink()
    assert "Nothing to draw yet" in (folder / "a" / "report.html").read_text(encoding="utf-8")


def test_several_runs_need_an_output_and_the_same_one_twice_is_one(folder: Path) -> None:
    with pytest.raises(UsageError, match="2 runs: say with --output"):
        main(["a", "b"])
    main(["a", "b", "--output", "new/both.html"])
    page = parse_page((folder / "new" / "both.html").read_text(encoding="utf-8"))
    assert [p.text.split(":")[0] for p in page.all("p", "state")] == ["1 a", "2 b"]
    main(["a", "b/../a", str(folder / "a")])
    assert parse_page((folder / "a" / "report.html").read_text(encoding="utf-8")).all("h1")[0].text == "Training: a"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/x/a", "/x/b"], ["a", "b"]),
        (["/x/a", "/y/a", "/y/b"], ["x/a", "y/a", "b"]),
        (["/x/a", "/y/x/a"], ["//x/a", "y/x/a"]),
    ],
)
def test_runs_of_one_name_are_told_apart_by_their_folders(folders: list[str], names: list[str]) -> None:
    assert run_names([Path(folder) for folder in folders]) == names


def test_what_cannot_be_written_is_refused_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--output must end in \.html; got x\.pdf"):
        main(["a", "--output", "x.pdf"])
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another --output"):
        main(["a", "--output", "a/log.txt/x.html"])
    main(["a"])
    before = (folder / "a" / "report.html").read_bytes()

    def full(path: Path, text: str, **_: str) -> None:
        path.open("w").close()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SaveError, match=r"a/report\.html: not written: No space left on device"):
        main(["a"])
    assert (folder / "a" / "report.html").read_bytes() == before
    assert not list(folder.rglob(".tmp*"))


def test_the_first_wrong_folder_is_named_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(MissingInputError, match=r"^c: no such folder"):
        main(["a", "c", "--output", "x.html"])
    with pytest.raises(DataError, match=r"^\.: is no run.*such as a$"):
        main(["."])
    assert not list(folder.rglob("*.html"))


def test_one_of_several_folders_that_is_no_run_is_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    main(["a", "empty", "b", "--output", "x.html"])
    assert "left out: empty: is no run" in capsys.readouterr().err
    assert "empty" not in (folder / "x.html").read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"^empty: is no run"):
        main(["empty", "--output", "y.html"])
    (folder / "none").mkdir()
    with pytest.raises(DataError, match="none of the 2 folders is a run"):
        main(["empty", "none", "--output", "y.html"])


def test_no_paddle_is_loaded() -> None:
    code = "import sys, util.report.__main__; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
