"""Every table that a registered student can be handed, through MLflow's own loading and checks."""

from collections.abc import Iterator
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from orchestrator.tracking.pyfunc_model import Student
from orchestrator.tracking.registry import SIGNATURE
from workloads.students.scale_range import ScaleRange

Asked = list[tuple[Any, ...]]
NAN, A = float("nan"), ("a", 0, "", None)
SCALES = ScaleRange(1.0, 7.5, default=3.0, neutral=3.0)


class Drawn:
    """Takes the place of the network: keeps what it is asked to draw."""

    def __init__(self) -> None:
        self.asked: Asked = []
        self.scales: ScaleRange | None = SCALES

    def png(self, *request: Any) -> bytes:
        *most, scale = request
        self.asked.append(tuple(most) if scale is None else request)
        return b"\x89PNG"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PyFuncModel, Drawn]]:
    """A model with the signature and the code of registered students."""
    folder, drawn = tmp_path_factory.mktemp("model") / "student", Drawn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "load_context", lambda self, context: None)
        mlflow.pyfunc.save_model(folder, python_model=Student(), signature=SIGNATURE, pip_requirements=[])
        loaded = mlflow.pyfunc.load_model(str(folder))
        loaded.unwrap_python_model()._generator = drawn
        yield loaded, drawn


def asked(model: tuple[PyFuncModel, Drawn], table: Any) -> Asked:
    """What is drawn of a table."""
    loaded, drawn = model
    drawn.asked.clear()
    result = loaded.predict(table)
    assert list(result.columns) == ["png"] and len(result) == len(drawn.asked)
    return list(drawn.asked)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"prompt": ["a", "a"], "seed": [3, None]}, [("a", 3, "", None), A]),
        ({"prompt": ["a"], "seed": [2**62 + 1]}, [("a", 2**62 + 1, "", None)]),
        ({"prompt": ["a", "a"], "seed": pd.array([3, None], dtype="Int64")}, [("a", 3, "", None), A]),
        ({"prompt": ["a"], "seed": [3.0], "strength": [2]}, [("a", 3, "", 2.0)]),
        ({"prompt": ["a"], "negative_prompt": [NAN], "strength": [NAN]}, [A]),
        ({"prompt": ["a", "a"], "negative_prompt": ["red", None]}, [("a", 0, "red", None), A]),
        ({"prompt": ["a", "a"], "negative_prompt": pd.array(["x", pd.NA])}, [("a", 0, "x", None), A]),
        ({"prompt": [np.str_("a")], "author": [7]}, [A]),
        ({"prompt": ["a", "a"], "guidance_scale": [4, None]}, [("a", 0, "", None, 4.0), A]),
        ({"prompt": pd.Series([], dtype=str)}, []),
    ],
)  # fmt: skip
def test_missing_values_stand_for_the_defaults(
    table: dict[str, Any], expected: Asked, model: tuple[PyFuncModel, Drawn]
) -> None:
    assert asked(model, pd.DataFrame(table)) == expected


def test_lists_and_dictionaries_are_tables_too(model: tuple[PyFuncModel, Drawn]) -> None:
    both = [("a", 0, "", None), ("b", 5, "", None)]
    assert asked(model, [{"prompt": "a"}, {"prompt": "b", "seed": 5}]) == both
    assert asked(model, {"prompt": ["a", "b"], "seed": [0, 5]}) == both
    assert asked(model, {"prompt": "a"}) == both[:1]
    assert asked(model, pd.Series(["a"], name="prompt")) == both[:1]
    served = infer_and_parse_data({"dataframe_records": [{"prompt": "a"}, {"prompt": "b", "seed": 5}]}, None)
    assert asked(model, served) == both


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None}, r"row 1 \(the first is 0\): prompt is missing"),
        ({"prompt": b"a"}, "row 1 .*: prompt is b'a': give a text"),
        ({"prompt": "caf\udce9"}, "row 1 .*holds bytes that are not UTF-8"),
        ({"prompt": "a", "negative_prompt": 7}, "row 1 .*negative_prompt is 7.*: give a text"),
        ({"prompt": "a", "seed": -1}, "row 1 .*seed is -1: give a whole number from 0"),
        ({"prompt": "a", "seed": 2**64}, "row 1 .*seed is 18446744073709551616"),
        ({"prompt": "a", "seed": 3.5}, "row 1 .*seed is 3.5"),
        ({"prompt": "a", "seed": "3"}, "row 1 .*seed is '3': give a number"),
        ({"prompt": "a", "strength": -1}, "row 1 .*strength must be at least 0"),
        ({"prompt": "a", "strength": float("inf")}, "row 1 .*strength must be at least 0"),
        ({"prompt": "a", "strength": "strong"}, "row 1 .*strength is 'strong': give a number"),
        (
            {"prompt": "a", "guidance_scale": 8},
            "row 1 .*guidance scale 8 is outside of the interval 1 to 7.5",
        ),
        ({"prompt": "a", "guidance_scale": "high"}, "row 1 .*guidance_scale is 'high': give a number"),
    ],
)
def test_a_bad_row_is_named_before_anything_is_drawn(
    row: dict[str, Any], reason: str, model: tuple[PyFuncModel, Drawn]
) -> None:
    table = pd.DataFrame([{"prompt": "good", "seed": 0}, row], dtype=object)
    with pytest.raises(ValueError, match=reason):
        asked(model, table)
    assert not model[1].asked


def test_a_scale_for_a_student_that_reads_none_is_refused(
    model: tuple[PyFuncModel, Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model[1], "scales", None)
    with pytest.raises(ValueError, match=r"row 0 .*does not read guidance scales: leave guidance_scale out"):
        asked(model, {"prompt": ["a"], "guidance_scale": [2.0]})


def test_pictures_keep_the_index_of_their_rows(model: tuple[PyFuncModel, Drawn]) -> None:
    """Else a table from which rows were taken gets other rows' pictures, or none, as a new column."""
    table = pd.DataFrame({"prompt": ["a", "b"]}, index=[7, 9])
    table["png"] = model[0].predict(table)["png"]
    assert list(table["png"]) == [b"\x89PNG"] * 2


@pytest.mark.parametrize("table", ["a circle", [], pd.DataFrame({"text": ["a"]}), pd.DataFrame()], ids=type)
def test_mlflow_names_the_column_that_is_missing(table: Any, model: tuple[PyFuncModel, Drawn]) -> None:
    with pytest.raises(MlflowException, match=r"missing inputs .'prompt'"):
        asked(model, table)
