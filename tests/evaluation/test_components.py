"""The largest piece of a region, and the verdict of validation on it, against loops."""

import numpy as np
import pytest
import torch

from ssl_med.evaluation.components import drop_small_pieces, judged


def flood(mask):
    """Pieces of a mask as sets of voxels, connected by faces, edges and corners, in the order of their first voxel."""
    left, pieces = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    while left:
        piece, front = set(), [min(left)]
        while front:
            p = front.pop()
            if p in left:
                left.remove(p)
                piece.add(p)
                front += [tuple(np.add(p, np.subtract(o, 1))) for o in np.ndindex(*(3,) * len(p))]
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize("elements", [2**24, 20], ids=["whole", "slabs"])
@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 2, 6, 5, 5)])
def test_the_largest_piece_stays_and_the_rest_turns_its_sign_in_place(shape, elements, monkeypatch):
    monkeypatch.setattr("ssl_med.slabs.LARGEST", elements)
    answers = torch.randn(shape, generator=torch.Generator().manual_seed(0)) - 0.9
    answers[1, 1] = -1  # a region that is not found
    before, asked = answers.clone(), [True, *[False] * (shape[1] - 2), True]
    found = drop_small_pieces(answers, asked)
    assert found is answers
    for b, k in np.ndindex(*shape[:2]):
        pieces = flood((before[b, k] > 0).numpy()) if asked[k] else []
        expected = before[b, k].clone()
        largest = max(pieces, key=len, default=set())
        for voxel in set().union(*pieces) - largest:
            expected[voxel] = -expected[voxel]
        assert torch.equal(found[b, k], expected)


def test_validation_decides_region_by_region():
    truth = torch.zeros(2, 2, 8, 8)
    truth[:, 0, :3, :3] = 1  # one piece
    truth[:, 1, :3, :3] = truth[:, 1, 6:, 6:] = 1  # two pieces
    answers = torch.where(truth > 0, 1.0, -1.0)
    answers[:, 0, 6, 6] = 1.0  # a false voxel far away
    cases = [(["a"], answers[:1], truth[:1]), (["b"], answers[1:], truth[1:])]
    verdict = judged(cases, ("one", "two"))
    assert verdict["one"] == {"largest_only": True, "dice": pytest.approx(18 / 19), "dice_largest": 1.0}
    assert verdict["two"] == {"largest_only": False, "dice": 1.0, "dice_largest": pytest.approx(18 / 22)}
    assert not judged([(["a"], torch.where(truth > 0, 1.0, -1.0)[:1, :1], truth[:1, :1])], ("one",))["one"][
        "largest_only"
    ]
