"""Reports of what is done so far: nothing is said that was not measured, nothing missing unsaid."""

import json
from dataclasses import replace

import pytest
from ablation_records import labelled, write
from mpq_export.pipelines.ablation.grid import Measure, Part
from mpq_export.pipelines.ablation.keys import keys_of
from mpq_export.pipelines.ablation.report import PartReport
from mpq_export.pipelines.ablation.rows import rows_of
from mpq_export.pipelines.ablation.targets import targets_of


def reported(part, store, folder, failures=None):
    PartReport.of(part, "make ablation", store, failures or {}).write(folder, store)
    return (folder / f"ablation_{part.name}.md").read_text("utf-8")


def test_nothing_done_is_a_report_too(cell, store, tmp_path):
    text = reported(Part("digits", "Digits", [labelled(cell, "mpq-dm")]), store, tmp_path)
    assert "0 of 1 cells are done." in text
    assert "digits w3a4 mpq-dm, low-rank, seed 0: not done yet." in text
    assert "not measured yet" in text
    assert not list(tmp_path.glob("*.png"))


def test_part_of_the_cells(cell, store, tmp_path):
    methods = ("efficientdm", "mpq-dm", "mpq-dmv2")
    cells = [labelled(cell, name) for name in methods]
    absent = replace(cells[0], family="photos", checkpoint=tmp_path)
    write(store, cells[1], 0.4)
    failed = {keys_of(cells[2]).result: "Traceback:\nTrainingDiverged: no number"}
    part = Part("digits", "Digits", [*cells, absent])
    text = reported(part, store, tmp_path, failed)
    assert "1 of 4 cells are done." in text
    row = next(line for line in text.splitlines() if "| w3a4 | mpq-dm |" in line)
    assert "0.400 (± 0.125)" in row
    assert "| 10.0% |" in row
    assert "| 12.5% |" in row
    assert "mpq-dmv2, low-rank, seed 0: TrainingDiverged: no number" in text
    assert "efficientdm, low-rank, seed 0: not done yet." in text
    assert "make photos-checkpoint" in text
    assert str(tmp_path) not in text
    verdicts = [line for line in text.splitlines() if "of the unpaired one" in line]
    assert ["met" in line for line in verdicts[:3]] == [False, True, False]
    for name in ("ablation_digits.png", "ablation_digits_samples.png"):
        assert (tmp_path / name).stat().st_size > 1000
        assert f"]({name})" in text
    data = json.loads((tmp_path / "ablation_digits.json").read_text("utf-8"))
    assert [entry["figures"] is not None for entry in data["cells"]] == [False, True, False, False]


@pytest.mark.parametrize(
    ("ours", "theirs", "met"),
    [
        ((6.0, 7.0, 7.0), (10.0, 10.0, 11.0), True),
        ((8.0, 8.0, 8.0), (10.0, 10.0, 10.0), False),  # 20 %
        ((4.0, 4.0, 10.5), (10.0, 10.0, 11.0), False),  # seeds overlap
        ((6.0, 7.0), (10.0, 10.0, 11.0), None),
    ],
)
def test_an_advantage_must_exceed_the_seeds_spread(cell, store, ours, theirs, met):
    photos = replace(cell, bits="w2a4")
    given = {"mpq-dmv2": ours, "mpq-dm": theirs, "efficientdm": theirs}
    cells = [labelled(photos, name, seed) for name in given for seed in range(3)]
    for one in cells:
        if one.seed < len(given[one.label]):
            write(store, one, given[one.label][one.seed])
    entries = PartReport.of(Part("photos", "Photographs", cells), "", store, {}).entries
    targets = targets_of("photos", rows_of(entries))
    assert [target.met for target in targets] == [met, met]


@pytest.mark.parametrize(("psnr", "met"), [(32.4, True), (32.3, False)])
def test_the_digits_unet_is_asked_for_a_psnr_too(cell, store, psnr, met):
    """W3A4: FD at most 12 % of the unpaired 4.0, PSNR 32.4 dB; of rounding nothing is asked."""
    cells = [labelled(cell, name) for name in ("rtn", "mpq-dm")]
    for one in cells:
        write(store, one, 0.4, psnr_full_precision=psnr)
    rows = rows_of(PartReport.of(Part("digits", "Digits", cells), "", store, {}).entries)
    assert [target.met for target in targets_of("digits", rows)] == [True, met]
    assert [target.met for target in targets_of("digits-dit", rows)] == [True]


def test_seeds_are_one_row_with_their_spread(cell, store, tmp_path):
    cells = [labelled(cell, "mpq-dm", seed) for seed in (0, 1)]
    for one, frechet in zip(cells, (1.0, 2.0), strict=True):
        write(store, one, frechet)
    text = reported(Part("mixed", "Photographs", cells), store, tmp_path)
    (row,) = [line for line in text.splitlines() if line.startswith("| w3a4 | mpq-dm |")]
    assert "| 0, 1 | 1.500 ± 0.707 | 37.5% ± 17.7% |" in row


def test_families_of_one_part_are_rows_of_their_own(cell, store, tmp_path):
    """Nothing is averaged over models, and every row says of which it is."""
    cells = [labelled(cell, "rtn"), labelled(cell, "rtn", family="photos")]
    assert len(rows_of(PartReport.of(Part("post", "All", cells), "", store, {}).entries)) == 2
    for one, frechet in zip(cells, (1.0, 2.0), strict=True):
        write(store, one, frechet)
    text = reported(Part("post", "All", cells), store, tmp_path)
    lines = [line for line in text.splitlines() if "| w3a4 | rtn |" in line]
    told = [(line.split(" | ")[0], line.split(" | ")[5]) for line in lines]
    assert told == [("| digits", "1.000 (± 0.125)"), ("| photos", "2.000 (± 0.125)")]


@pytest.mark.parametrize(
    ("frechet", "met"),
    [
        ({"rtn": 3.0, "dmq": 1.0, "tfmq-dm": 2.0}, [True, True, True]),
        ({"rtn": 3.0, "dmq": 2.0, "tfmq-dm": 1.0}, [True, False, True]),
        ({"rtn": 3.0, "tfmq-dm": 4.0}, [None, None, False]),
    ],
)
def test_the_orders_of_the_papers_are_asked_for_where_they_claim_them(cell, store, frechet, met):
    six = [labelled(cell, name, bits="w4a6") for name in ("rtn", "dmq", "tfmq-dm")]
    eight = [replace(one, bits="w4a8") for one in six]
    for one in six:
        if one.label in frechet:
            write(store, one, frechet[one.label])
    rows = rows_of(PartReport.of(Part("post", "All", six + eight), "", store, {}).entries)
    assert [target.met for target in targets_of("post-training", rows)] == [*met, None]


@pytest.mark.parametrize(
    ("nearer", "farther", "verdict"),
    [
        ([1.0], [1.3], "undecided"),  # 0.125 each: two deviations of the difference are 0.35
        ([1.0], [1.4], "met"),
        ([1.4], [1.0], "missed"),
        ([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], "met"),
        ([1.0, 2.0, 9.0], [1.5, 2.5, 8.5], "undecided"),
        ([1.5, 2.5], [1.0, 2.0], "missed"),
        ([9.0, 9.0], [1.0, None], ""),
        ([5.0, None], [6.0, 1.0], ""),
    ],
)
def test_an_order_is_judged_by_seeds_that_both_have(cell, store, nearer, farther, verdict):
    """A seed that one of them lacks is not averaged into the other."""
    rows = {"dmq": nearer, "tfmq-dm": farther, "rtn": [99.0] * len(nearer)}
    cells = []
    for name, distances in rows.items():
        for seed, distance in enumerate(distances):
            cells.append(labelled(cell, name, seed, bits="w4a6"))
            if distance is not None:
                write(store, cells[-1], distance)
    made = rows_of(PartReport.of(Part("post", "All", cells), "", store, {}).entries)
    target = targets_of("post-training", made)[1]
    assert target.verdict == verdict
    if not verdict:
        own, other = (values[0] for values in (nearer, farther))
        assert target.measured == f"{own:.3f}, {other:.3f} so far"


def test_deployment_is_told_by_nodes_and_noise(cell, store, tmp_path):
    deployed = replace(cell, measure=Measure.DEPLOYMENT, label="digits")
    write(
        store, deployed, 0.5, nodes=30, nodes_exact=29, frechet_full_precision_torch=0.45,
        frechet_difference_noise=0.03, within_noise=True, frechet_torch=0.1,
        psnr_full_precision_torch=21.0, psnr_torch=40.0,
    )  # fmt: skip
    text = reported(Part("deployed", "As deployed", [deployed]), store, tmp_path)
    nodes, images = [line for line in text.splitlines() if line.startswith("| digits, w3a4")]
    assert "29 of 30 | missed" in nodes
    assert "+0.050, noise 0.030 | met" in images
