import pytest
import torch

from workloads.miniature.world import caption, dataset
from workloads.pictures import contact_sheet
from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.score import share


def test_wilson_interval() -> None:
    score = share("m", 90, 100, "p")
    assert (score.value, score.samples) == (0.9, 100)
    # Wilson (1927), computed by hand for 90 of 100.
    assert score.low == pytest.approx(0.8256, abs=1e-4)
    assert score.high == pytest.approx(0.9448, abs=1e-4)
    with pytest.raises(ValueError, match="nothing to score"):
        share("m", 0, 0, "p")


def test_accuracy_of_true_and_of_wrong_pictures() -> None:
    import random

    pictures, scenes, _ = dataset(60, seed=5)
    prompts = [caption(scene, ["shape", "colour"], random.Random(0)) for scene in scenes]
    scorer = AttributeAccuracy()
    right = scorer.score(torch.from_numpy(pictures), prompts)
    assert right[0].metric == "attribute_accuracy"
    assert right[0].value == 1.0 and right[0].samples == 120
    wrong = scorer.score(torch.from_numpy(pictures).flip(0), prompts)
    assert wrong[0].value < 0.5


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"leave it out of evaluate\.scorers"):
        AttributeAccuracy().score(torch.zeros(1, 3, 32, 32), ["a circle"])


def test_contact_sheet_holds_every_picture_beside_its_caption() -> None:
    red, blue = torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), -1.0)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    sheet = contact_sheet(["first", "second"], {"teacher": red, "student": blue}, "title")
    colours = {pixel for _, pixel in sheet.getcolors(1 << 20) or []}
    assert {(255, 0, 0), (0, 0, 255)} <= colours
    assert sheet.getpixel((300, 100)) == (255, 0, 0) and sheet.getpixel((430, 240)) == (0, 0, 255)
