"""Pairs of a patient's images whose likeness is known by construction, and tables that are refused."""

import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.features.core.whitening import Whitening, cosine
from ssl_med.features.multiview import Multiview, MultiviewConfig
from ssl_med.ledger import salted
from ssl_med.spec import SslMedError


def table(folder, *rows, head="a,b"):
    path = folder / "pairs.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


def random_images(n, dims=2, seed=0):
    return torch.rand(n, 1, *(8,) * dims, generator=torch.Generator().manual_seed(seed))


def test_the_cosine_is_the_mean_over_patients(tmp_path):
    x = random_images(40)
    x[1], x[21] = x[0], x[20]  # two patients whose views are the same image
    subjects = [0, 0, 1, 1, 1, *range(2, 17), 17, 17, *range(18, 36)]
    images = images_of(small_encoder(), x, subjects=subjects)
    file = table(tmp_path, "case0,case1", "case2,case3", "case2,case4", "case20,case21")
    found = Multiview(MultiviewConfig(pairs=file, pictures=2)).measure(images)
    features = images.pooled(x)
    z = Whitening.of(features, robust=False)(features)
    second = [float(cosine(z[2], z[k])) for k in (3, 4)]
    assert [row["cosine"] for row in found.rows] == pytest.approx([1, *second, 1], abs=1e-6)
    assert found.numbers["cosine"] == pytest.approx((1 + sum(second) / 2 + 1) / 3, abs=1e-6)
    pairs = [(0, 1, 0), (2, 3, 1), (2, 4, 1), (20, 21, 2)]
    wanted = [float(cosine(z[a], z[b])) for a, _, p in pairs for _, b, q in pairs if p != q]
    assert found.numbers["other_patients"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-6)
    assert found.numbers["pairs"] == 4
    assert found.numbers["patients"] == 3
    assert found.numbers["recognised"] >= 0.5
    lines, pictures = Multiview(MultiviewConfig(pairs=file)).draw({"one": found, "two": found})
    assert len(lines.figure.axes) == 2
    assert len(pictures.figure.axes) == 4


def test_crops_of_a_volume_are_one_view_and_hidden_names_are_found(tmp_path):
    x = random_images(4, dims=3)
    images = images_of(small_encoder(3), x, subjects=[0, 0, 0, 0])
    load, hidden = images.load, f"case-{salted('scan of A')[:12]}"

    def named():
        for batch in load():
            yield batch | {"id": [hidden, hidden, "b", "b"]}

    images.load = named
    found = Multiview(MultiviewConfig(pairs=table(tmp_path, "x, scan of A ,b", head="n,a,b"))).measure(images)
    features = images.pooled(x).double().view(2, 2, -1).mean(1)
    z = Whitening.of(features, robust=True)(features)
    assert found.numbers["cosine"] == pytest.approx(float(cosine(z[0], z[1])), abs=1e-5)
    assert found.rows[0]["case"] == hidden


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (["case0,case1"], "a,c", "column 'b' is missing; it needs the columns a and b"),
        ([], "a,b", "holds no pair"),
        (["case0,case1", "case0,"], "a,b", "line 3 has nothing in column b"),
        (["case0,casex"], "a,b", "line 2: 'casex' is none of the 6 images, which are called like 'case0'"),
        (["case0,case0"], "a,b", "line 2 names 'case0' twice"),
        (["case0,case2"], "a,b", "line 2: 'case0' and 'case2' are of different patients"),
    ],
)
def test_bad_tables_are_refused(tmp_path, rows, head, message):
    images = images_of(small_encoder(), random_images(6), subjects=[0, 0, 1, 1, 2, 2])
    with pytest.raises(SslMedError, match=message):
        Multiview(MultiviewConfig(pairs=table(tmp_path, *rows, head=head))).measure(images)


def test_a_missing_table_is_refused(tmp_path):
    images = images_of(small_encoder(), random_images(6))
    with pytest.raises(SslMedError, match=r"kind=multiview needs features\.pairs=FILE"):
        Multiview(MultiviewConfig()).measure(images)
    with pytest.raises(SslMedError, match="give a CSV table with the columns a and b"):
        Multiview(MultiviewConfig(pairs=str(tmp_path / "none.csv"))).measure(images)
