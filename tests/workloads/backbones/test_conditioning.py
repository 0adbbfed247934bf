"""Operations on a batch of conditioning apply to every part of it."""

import pytest
import torch

from workloads.backbones.prompts.conditioning import Conditioning, concatenate


def batch(*numbers: int) -> Conditioning:
    """Return conditioning whose rows hold the given numbers in every part."""
    rows = torch.tensor(numbers)
    embeddings = rows.float().view(-1, 1, 1).expand(-1, 3, 2)
    return Conditioning(embeddings, rows.view(-1, 1).expand(-1, 3), rows.float().view(-1, 1).expand(-1, 4))


def numbers(conditioning: Conditioning) -> list[int]:
    """Return the number of each row, after a check that all parts agree."""
    assert list(conditioning.parts) == ["embeddings", "mask", "pooled"]
    rows = [part.flatten(1).long() for part in conditioning.parts.values()]
    assert all((part == rows[0][:, :1]).all() for part in rows)
    return rows[0][:, 0].tolist()


def test_rows_keep_their_parts() -> None:
    assert numbers(batch(1, 2, 3)[1:]) == [2, 3]
    assert numbers(batch(1, 2, 3).select(torch.tensor([2, 0, 2]))) == [3, 1, 3]
    assert numbers(batch(7).expand(3)) == [7, 7, 7]
    assert numbers(concatenate([batch(1), batch(2, 3)])) == [1, 2, 3]
    assert len(batch(1, 2, 3)) == 3


def test_replace_covers_every_part() -> None:
    where = torch.tensor([False, True, True])
    assert numbers(batch(1, 2, 3).replace(where, batch(7))) == [1, 7, 7]
    assert numbers(batch(1, 2, 3).replace(where, batch(7, 8, 9))) == [1, 8, 9]


def test_mask_keeps_its_dtype() -> None:
    moved = batch(1, 2).to(torch.device("cpu"), torch.bfloat16)
    assert {name: part.dtype for name, part in moved.parts.items()} == {
        "embeddings": torch.bfloat16,
        "mask": torch.long,
        "pooled": torch.bfloat16,
    }


def test_guidance_scales_follow_their_rows() -> None:
    scale = torch.tensor([1.0, 2.5, 7.123456])
    text = batch(1, 2, 3).at_scale(scale)

    def of(conditioning: Conditioning) -> torch.Tensor:
        assert conditioning.guidance_scale is not None
        return conditioning.guidance_scale

    assert torch.equal(of(text.select(torch.tensor([2, 0]))), scale[[2, 0]])
    assert torch.equal(of(text[1:]), scale[1:])
    # bfloat16 would round it.
    assert torch.equal(of(text.to(torch.device("cpu"), torch.bfloat16)), scale)
    # An empty prompt that replaces one keeps its scale.
    replaced = text.replace(torch.tensor([False, True, False]), batch(7))
    assert torch.equal(of(replaced), scale) and numbers(replaced.unscaled()) == [1, 7, 3]


def test_missing_parts_stay_absent() -> None:
    plain = Conditioning(torch.zeros(2, 3, 4))
    assert list(concatenate([plain, plain])[:1].parts) == ["embeddings"]


def test_states_beyond_half_precision_are_refused() -> None:
    text = Conditioning(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.long))
    assert text.half().embeddings.dtype == torch.float16
    text.embeddings[0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="half precision cannot hold"):
        text.half()
