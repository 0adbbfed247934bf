"""HPSv2 against `hpsv2.score`, the package's public function, on the same random weights."""

import pickle
import socket
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch

from tests.support.hpsv2_reference import (
    PROMPTS,
    SMALL,
    package_ready,
    package_scores,
    pictures,
    random_checkpoint,
)
from workloads.scorers.catalogue import make_scorer
from workloads.scorers.hpsv2_package import ARCHITECTURE, CHECKPOINTS
from workloads.scorers.hpsv2_score import HPSv2
from workloads.scorers.scorer import Request
from workloads.settings.scorers import ScorerSettings

REQUESTS = [Request(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for version in CHECKPOINTS:
        random_checkpoint(SMALL, version, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def scorer(cache: Path) -> HPSv2:
    made = HPSv2("v2.1", str(next(cache.rglob(CHECKPOINTS["v2.1"]))), SMALL)
    made.load()
    return made


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unexpected network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def compare(architecture: str, version: str, cache: Path, pixels: int) -> None:
    images = pictures(len(PROMPTS), pixels)
    with package_ready(architecture, cache):
        theirs = package_scores(images, PROMPTS, version)
        ours = HPSv2(version, None, architecture)
        ours.load()
    found = ours.measure(images, REQUESTS)
    assert set(found) == {f"hps_{version}"}
    assert np.std(theirs) > 1e-3, "equal scores would make the comparison meaningless"
    np.testing.assert_allclose(found[f"hps_{version}"], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pixels", [64, 48, 100])
@pytest.mark.parametrize("version", CHECKPOINTS)
def test_equals_the_package(version: str, pixels: int, cache: Path) -> None:
    compare(SMALL, version, cache, pixels)


@pytest.mark.slow
def test_equals_the_package_on_the_real_architecture(tmp_path: Path) -> None:
    random_checkpoint(ARCHITECTURE, "v2.1", tmp_path, torch.float16)
    compare(ARCHITECTURE, "v2.1", tmp_path, 512)


def test_checkpoint_names_match_the_package() -> None:
    from hpsv2.utils import hps_version_map

    assert hps_version_map == CHECKPOINTS


def test_catalogue_passes_version_and_weights() -> None:
    made = make_scorer(ScorerSettings("hpsv2", version="v2.0", weights="a.pt"))
    assert isinstance(made, HPSv2)
    assert (made.name, made.metric, made.weights) == ("hpsv2", "hps_v2.0", "a.pt")


def test_order_and_batches_change_nothing(scorer: HPSv2) -> None:
    images = pictures(4, 64)
    together = scorer.measure(images, REQUESTS)["hps_v2.1"]
    backwards = scorer.measure(images.flip(0), REQUESTS[::-1])["hps_v2.1"]
    alone = [scorer.measure(images[i : i + 1], REQUESTS[i : i + 1])["hps_v2.1"][0] for i in range(4)]
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-6)
    np.testing.assert_allclose(alone, together, atol=1e-6)
    repeated = scorer.measure(images[:1].repeat(3, 1, 1, 1), REQUESTS[:1] * 3)["hps_v2.1"]
    np.testing.assert_allclose(repeated, together[0], atol=1e-6)


def test_styles_and_their_mean() -> None:
    styles = ("anime", "photo", "photo", "photo")
    requests = [Request(f"{i}", style=style) for i, style in enumerate(styles)]
    measured = {"hps_v2.0": np.array([0.3, 0.1, 0.2, 0.3], np.float32)}
    scores = HPSv2("v2.0", "some/where.pt").summarise(measured, requests)
    assert [score.metric for score in scores] == ["hps_v2.0", "hps_v2.0_anime", "hps_v2.0_photo"]
    assert [score.samples for score in scores] == [4, 1, 3]
    np.testing.assert_allclose([score.value for score in scores], [0.25, 0.3, 0.2], atol=1e-6)
    # Three photos with deviation 0.1: 1.96 * 0.1 / sqrt(3), and half of it in the mean of two styles.
    assert scores[2].high - 0.2 == pytest.approx(0.11316, abs=1e-5)
    assert scores[0].high - 0.25 == pytest.approx(0.11316 / 2, abs=1e-5)
    for words in ("HPSv2 v2.0", "4 prompts", "where.pt", "2 styles"):
        assert words in scores[0].protocol


def test_one_score_without_styles() -> None:
    measured = {"hps_v2.1": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}
    (score,) = HPSv2().summarise(measured, REQUESTS)
    assert (score.metric, score.samples) == ("hps_v2.1", 4)
    assert score.value == pytest.approx(0.25)
    assert "3 prompts" in score.protocol and "HPS_v2.1_compressed.pt" in score.protocol
    with pytest.raises(ValueError, match="nothing to score"):
        HPSv2().summarise({"hps_v2.1": np.array([], np.float32)}, [])


@pytest.mark.usefixtures("no_network")
def test_missing_weights_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"hf download xswu/HPSv2 HPS_v2\.1_compressed\.pt") as caught:
        HPSv2().load()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no weights file .*gone\.pt"):
        HPSv2(weights=str(tmp_path / "gone.pt")).load()


@pytest.mark.usefixtures("no_network")
def test_no_network_access(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    scorer = pickle.loads(pickle.dumps(HPSv2("v2.0", architecture=SMALL)))
    scorer.load()
    assert scorer.measure(pictures(4, 64), REQUESTS)["hps_v2.0"].shape == (4,)


def test_misuse_errors(scorer: HPSv2) -> None:
    with pytest.raises(ValueError, match=r"'hpsv2': no version 'v3'; set it to one of v2\.0, v2\.1"):
        HPSv2("v3")
    with pytest.raises(RuntimeError, match="call load before measure"):
        HPSv2().measure(pictures(4, 64), REQUESTS)
    with pytest.raises(ValueError, match=r"not \(3, 3, 64, 64\) and 4"):
        scorer.measure(pictures(3, 64), REQUESTS)


@pytest.mark.parametrize("content", [{"state_dict": {"other": torch.zeros(1)}}, {}, None])
def test_wrong_weights_file_error(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path) if content is not None else path.write_text("an error page of a web server")
    with pytest.raises(ValueError, match=r"other\.pt does not hold weights of xswu/HPSv2") as caught:
        HPSv2("v2.1", str(path), SMALL).load()
    assert "\n" not in str(caught.value)
