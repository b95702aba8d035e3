"""The command line as a person meets it: files, sentences, exit codes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from matplotlib.image import imread

from unveil.cli.main import run
from unveil.data.read import read


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small model of the digits."""
    folder = tmp_path_factory.mktemp("cli") / "digits"
    assert (
        run(["fit", "digits", "-o", str(folder), "--latent", "3", "--epochs", "2", "--quiet"]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """A small model of a table with a label."""
    folder = tmp_path_factory.mktemp("cli") / "wine"
    assert run(["fit", "wine", "-o", str(folder), "--epochs", "2", "--quiet"]) == 0
    return folder


def said(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_fit_leaves_model_and_figures(folder: Path) -> None:
    assert {p.name for p in (folder / "figures").iterdir()} == {
        "samples.png", "reconstructions.png", "latent_map.png", "training_curves.png",
    }  # fmt: skip
    assert (folder / "checkpoint").is_dir()
    assert "# A variational autoencoder" in (folder / "README.md").read_text()


def test_evaluate_writes_what_it_prints(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "e.json"
    assert (
        run(
            [
                "evaluate",
                str(folder),
                "digits",
                "--draws",
                "5",
                "--budget",
                "0.01",
                "--json",
                str(out),
            ]
        )
        == 0
    )
    document = json.loads(out.read_text())
    assert document["format_version"] == 1
    assert document["lower"]["guarantee"] == "certified"
    assert document["lower"]["settings"] == {"num_samples": 5, "seed": 0}
    printed = capsys.readouterr().out
    assert f"{document['lower']['value']:.3f}" in printed
    assert "held-out rows" in printed


def test_encode_writes_a_mean_and_a_spread_per_latent(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "z.parquet"
    assert run(["encode", str(folder), "digits", "-o", str(out), "--quiet"]) == 0
    written = pyarrow.parquet.read_table(out)
    assert written.column_names == [
        "z0_mean", "z0_sd", "z1_mean", "z1_sd", "z2_mean", "z2_sd", "digit",
    ]  # fmt: skip
    assert written.num_rows == 1797


def test_rows_come_back_in_the_units_of_the_data(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.csv"
    assert run(["sample", str(table), "-n", "20", "-o", str(out), "--quiet"]) == 0
    new, old = read(out), read("wine")
    assert new.names == old.names
    assert len(new) == 20
    assert (np.abs(new.values.mean(0) - old.values.mean(0)) < 3 * old.values.std(0)).all()


def test_labels_ride_along(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    assert run(["reconstruct", str(table), "wine", "-o", str(out), "--quiet"]) == 0
    again = read(out, label=["target"])
    assert np.array_equal(again.labels["target"], read("wine").labels["target"])


def test_sampling_is_a_function_of_the_seed(folder: Path, tmp_path: Path) -> None:
    arrays = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / f"{name}.npy"
        assert (
            run(["sample", str(folder), "-n", "6", "-o", str(out), "--seed", seed, "--quiet"]) == 0
        )
        arrays.append(np.load(out))
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])
    assert arrays[0].shape == (6, 8, 8)


@pytest.mark.parametrize(
    "verb",
    [
        ["sample", "{model}", "-n", "12"],
        ["reconstruct", "{model}", "digits"],
        ["interpolate", "{model}", "digits", "--from", "0", "--to", "1"],
    ],
)
def test_pictures_are_drawn(folder: Path, tmp_path: Path, verb: list[str]) -> None:
    out = tmp_path / "p.png"
    words = [word.format(model=folder) for word in verb]
    assert run([*words, "-o", str(out), "--quiet"]) == 0
    assert imread(out).std() > 0.05


def test_an_interpolation_starts_and_ends_at_its_rows(folder: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "i.npy", tmp_path / "r.npy"
    words = ["--from", "3", "--to", "8", "--steps", "5", "--quiet"]
    assert run(["interpolate", str(folder), "digits", "-o", str(out), *words]) == 0
    assert run(["reconstruct", str(folder), "digits", "-o", str(whole), "--quiet"]) == 0
    path, rows = np.load(out), np.load(whole)
    assert path.shape == (5, 8, 8)
    assert np.array_equal(path[[0, -1]], rows[[3, 8]])


def test_check_is_right_and_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    from unveil.check import run as checking
    from unveil.evidence import tuning

    # What is found of fewer rows by fewer draws has larger errors, and is as right.
    less = {"ROWS": 60, "DRAWS": 200, "BETS": 1000, "NEAR": 5, "FAR": 20, "CLIMB": 60}
    for name, number in less.items():
        monkeypatch.setattr(checking, name, number)
    monkeypatch.setattr(tuning, "MOVES", 2)
    out = tmp_path / "c.json"
    assert run(["check", "--json", str(out)]) == 0
    document = json.loads(out.read_text())
    assert document["right"] is True
    assert len(document["lines"]) == 42
    assert all(line["holds"] and line["model"] for line in document["lines"])
    assert "WRONG" not in capsys.readouterr().out


def test_check_says_what_is_wrong(monkeypatch, capsys) -> None:
    from unveil.check import lines
    from unveil.check import run as checking

    figures = {"model": "a model", "quantity": "its evidence", "exact": 1.0, "error": 0.01}
    wrong = lines.Estimate(**figures, estimate=2.0)
    right = lines.Between(**figures, lower=0.5, upper=None)
    monkeypatch.setattr(checking, "self_test", lambda seed: (wrong, right))
    assert run(["check"]) == 1
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["its", "evidence", "1.00000", "2.00000", "0.01000", "WRONG"] in told
    assert ["its", "evidence", "1.0000", "0.5000", "0.0100", "right"] in told


def test_quiet_prints_nothing(folder: Path, tmp_path: Path, capsys) -> None:
    assert run(["sample", str(folder), "-n", "2", "-o", str(tmp_path / "s.npy"), "--quiet"]) == 0
    assert (
        run(["evaluate", str(folder), "digits", "--draws", "2", "--budget", "0.01", "--quiet"]) == 0
    )
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_model_there_needs_overwrite_or_resume(folder: Path, capsys) -> None:
    before = (folder / "model.json").read_bytes()
    assert run(["fit", "digits", "-o", str(folder), "--latent", "2", "--epochs", "1"]) == 2
    assert "add --overwrite to replace it, --resume to go on" in said(capsys)
    assert (folder / "model.json").read_bytes() == before


def test_resuming_a_finished_run_is_done_at_once(folder: Path, capsys) -> None:
    same = ["fit", "digits", "-o", str(folder), "--latent", "3", "--epochs", "2", "--resume"]
    assert run(same) == 0
    assert "finished already" in capsys.readouterr().out
    same[same.index("2")] = "4"
    assert run(same) == 2
    assert "its epochs was 2 and 4 came" in said(capsys)


def test_resuming_nothing_starts_afresh_and_overwriting_replaces(tmp_path: Path) -> None:
    out = str(tmp_path / "m")
    assert run(["fit", "iris", "-o", out, "--epochs", "1", "--quiet", "--resume"]) == 0
    assert run(["fit", "iris", "-o", out, "--epochs", "2", "--quiet", "--overwrite"]) == 0
    document = json.loads((tmp_path / "m" / "model.json").read_text())
    assert document["settings"]["request"]["epochs"] == 2


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_bad_data_gets_a_sentence_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    rows = "\n".join(f"{i}.5,{i * i}" for i in range(20))
    bad = {
        "no such file": (str(tmp_path / "none.csv"), "none.csv"),
        "no such built-in": ("digitz", "built-in"),
        "empty": (write(tmp_path / "empty.csv", ""), "empty"),
        "ragged": (write(tmp_path / "ragged.csv", f"a,b\n{rows}\n1,2,3\n"), "column"),
        "text": (write(tmp_path / "holds 'x'", f"a,b\n{rows}\nx,2\n"), "holds 'x'"),
        "infinite": (write(tmp_path / "inf.csv", f"a,b\n{rows}\ninf,2\n"), "inf"),
        "few": (write(tmp_path / "few.csv", "a,b\n1,2\n2,3\n"), "at least 10 rows"),
        "constant": (write(tmp_path / "same.csv", "a\n" + "1\n" * 20), "varies"),
        "suffix": (write(tmp_path / "data.txt", "1 2"), ".txt"),
    }
    for what, (source, words) in bad.items():
        assert run(["fit", source, "-o", str(tmp_path / "m")]) == 2, what
        message = said(capsys)
        assert message.startswith("unveil: ") and words in message, message
        assert not (tmp_path / "m").exists(), what


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--latent", "0"], "expected --latent to be above 0"),
        (["--latent", "two"], "latent"),
        (["--max-minutes", "inf"], "expected --max-minutes to be above 0 and finite"),
        (["--likelihood", "gaussian"], "a density there has no limit"),
        (["--wibble"], "wibble"),
        (["--resume", "--overwrite"], "expected --resume or --overwrite"),
    ],
)
def test_bad_usage_exits_2_and_writes_nothing(
    tmp_path: Path, capsys, words: list[str], sentence: str
) -> None:
    assert run(["fit", "digits", "-o", str(tmp_path / "m"), *words]) == 2
    assert sentence in said(capsys)
    assert not (tmp_path / "m").exists()


def test_bad_questions_get_a_sentence(folder: Path, tmp_path: Path, capsys) -> None:
    model, out = str(folder), str(tmp_path / "o.csv")
    questions = {
        "expected a fitted model": ["evaluate", str(tmp_path), "digits"],
        "at least 1 draw": ["evaluate", model, "digits", "--draws", "0"],
        "expected rows of shape (8, 8)": ["encode", model, "iris", "-o", out],
        "at least 1 row to sample": ["sample", model, "-n", "0", "-o", out],
        "a row from 0 to 1796, but 1797 came": [
            "interpolate", model, "digits", "--from", "0", "--to", "1797", "-o", out,
        ],
        "at least 2 steps": [
            "interpolate", model, "digits", "--from", "0", "--to", "1", "--steps", "1", "-o", out,
        ],
        "ends in one of": ["sample", model, "-n", "2", "-o", str(tmp_path / "o.doc")],
        "folder": ["sample", model, "-n", "2", "-o", str(tmp_path / "no" / "o.csv")],
        "--device": ["evaluate", model, "digits", "--device", "tpu"],
        ".json": ["evaluate", model, "digits", "--json", str(tmp_path / "e.txt")],
    }  # fmt: skip
    for sentence, words in questions.items():
        assert run(words) == 2, words
        assert sentence in said(capsys), sentence
    assert not Path(out).exists()


def test_nothing_that_is_read_is_written_over(table: Path, tmp_path: Path, capsys) -> None:
    """Neither the rows, under any name of theirs, nor a file of the model."""
    rows, model = tmp_path / "rows.csv", str(table)
    assert run(["sample", model, "-n", "12", "-o", str(rows), "--quiet"]) == 0
    (tmp_path / "same.csv").symlink_to(rows)
    linked = str(tmp_path / "same.csv")
    before = {path: path.read_bytes() for path in (rows, table / "schema.json")}
    inside, json_too = str(table / "new.csv"), str(table / "schema.json")
    for words in (
        ["score", model, str(rows), "-o", str(rows)],
        ["encode", model, str(rows), "-o", linked],
        ["impute", model, linked, "-o", str(rows)],
        ["reconstruct", model, str(rows), "-o", inside],
        ["interpolate", model, str(rows), "--from", "0", "--to", "1", "-o", str(rows)],
        ["sample", model, "-n", "2", "-o", inside],
        ["sample", model, "-n", "2", "-o", str(tmp_path / "n.csv"), "--data", str(rows),
         "--report", json_too],
        ["evaluate", model, "wine", "--json", json_too],
        ["fit", str(rows), "-o", str(tmp_path / "m"), "--schema", json_too, "--json", json_too],
    ):  # fmt: skip
        assert run(words) == 2, words
        assert "apart from what is read" in said(capsys), words
        assert all(path.read_bytes() == was for path, was in before.items())
    assert not Path(inside).exists()


def test_labels_called_like_what_is_written_are_refused(tmp_path: Path, capsys) -> None:
    values = np.random.default_rng(0).normal(size=(40, 2))
    lines = [f"{a},{b},{i},{i}" for i, (a, b) in enumerate(values)]
    source = write(tmp_path / "again.csv", "\n".join(["a,b,log_evidence,z0_mean", *lines]))
    words = ["--label", "log_evidence", "--label", "z0_mean", "--epochs", "1", "--quiet"]
    assert run(["fit", source, "-o", str(tmp_path / "m"), *words]) == 0
    for verb in ("score", "encode"):
        out = tmp_path / f"{verb}.csv"
        assert run([verb, str(tmp_path / "m"), source, "-o", str(out)]) == 2
        assert "expected labels with names of their own" in said(capsys)
        assert not out.exists()


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (["hue=1", "hue=2"], "expected one --where for each column, but hue came more than once"),
        (["hue=1...2"], "expected the ends of an interval with two dots"),
    ],
)
def test_conditions_that_say_two_things_are_refused(
    table: Path, tmp_path: Path, capsys, where: list[str], sentence: str
) -> None:
    words = [word for one in where for word in ("--where", one)]
    assert run(["sample", str(table), "-n", "2", "-o", str(tmp_path / "o.csv"), *words]) == 2
    assert sentence in said(capsys)


def test_columns_that_differ_from_the_models_are_named(table: Path, tmp_path: Path, capsys) -> None:
    rows = "\n".join(f"{i},{i}" for i in range(3))
    source = write(tmp_path / "other.csv", f"alcohol,hue2\n{rows}\n")
    assert run(["encode", str(table), source, "-o", str(tmp_path / "z.csv")]) == 2
    assert "lacks" in said(capsys)


def test_a_picture_of_a_table_is_refused(table: Path, tmp_path: Path, capsys) -> None:
    assert run(["sample", str(table), "-n", "2", "-o", str(tmp_path / "o.png")]) == 2
    assert "ends in one of" in said(capsys)


def test_a_folder_that_is_no_model_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run(["fit", "digits", "-o", str(tmp_path), "--overwrite"]) == 2
    assert "holds something else" in said(capsys)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_project_with_names_like_ours_is_left_alone(tmp_path: Path, capsys) -> None:
    """A checkpoint folder, or a model.json beside other work, makes no folder ours."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run(["fit", "digits", "-o", str(tmp_path), "--overwrite"]) == 2
    assert "holds something else (thesis.tex)" in said(capsys)
    assert (tmp_path / "thesis.tex").exists()


def test_a_quiet_fit_prints_nothing_even_of_collapse(tmp_path: Path, capsys) -> None:
    rows = np.random.default_rng(0).normal(size=(600, 4))  # nothing hidden: all latents collapse
    np.save(tmp_path / "noise.npy", rows)
    words = [str(tmp_path / "noise.npy"), "-o", str(tmp_path / "m"), "--epochs", "8", "--quiet"]
    assert run(["fit", *words]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_loud_fit_warns_of_collapse_once_while_training(tmp_path: Path, capsys) -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 4))
    np.save(tmp_path / "noise.npy", rows)
    words = [str(tmp_path / "noise.npy"), "-o", str(tmp_path / "m"), "--epochs", "8"]
    assert run(["fit", *words]) == 0
    assert said(capsys).count("posterior is the prior") == 2  # in training, and in the verdict


def test_a_finished_run_whose_prior_was_fitted_afterwards_is_done_at_once(tmp_path, capsys) -> None:
    words = ["fit", "wine", "-o", str(tmp_path / "m"), "--epochs", "1", "--quiet"]
    words += ["--prior", "aggregate:components=3"]
    assert run(words) == 0
    weights = (tmp_path / "m" / "model.safetensors").read_bytes()
    assert run([*words, "--resume"]) == 0
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == weights


def test_what_was_given_rides_along_and_must_be_a_number_that_is_one(tmp_path, capsys) -> None:
    table, model, out = (tmp_path / name for name in ("t.csv", "m", "out.csv"))
    lines = [f"{i % 7 + 0.25 * (i % 3)},{i % 5 - 0.125},{20.5 + i}" for i in range(40)]
    table.write_text("\n".join(["x,y,age", *lines]))
    fit = ["fit", str(table), "-o", str(model), "--epochs", "1", "--given", "age", "--quiet"]
    assert run(fit) == 0
    sample = ["sample", str(model), "-n", "3", "-o", str(out), "--quiet", "--where"]
    assert run([*sample, "age=nan"]) == 2
    assert not out.exists()
    assert "expected a number for covariate 'age'" in said(capsys)
    assert run([*sample, "age=33"]) == 0
    assert set(read(str(out), given=["age"]).given["age"].tolist()) == {33.0}
    assert (
        run(["evaluate", str(model), str(out), "--draws", "2", "--budget", "0.01", "--quiet"]) == 0
    )
