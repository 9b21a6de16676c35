import pytest

from moco_jax import files, results

KNN = {
    "protocol": "kNN", "settings": {"k": 20}, "seed": 0, "split": "test", "examples": 10,
    "metrics": {"top1": 0.5},
}  # fmt: skip


def test_no_file_is_no_result(tmp_path):
    assert results.read(tmp_path) == []


def test_the_same_evaluation_replaces_and_another_is_added(tmp_path):
    results.add(tmp_path, "knn", **KNN)
    results.add(tmp_path, "knn", **(KNN | {"settings": {"k": 200}}))
    results.add(tmp_path, "knn", **(KNN | {"metrics": {"top1": 0.6}}))
    found = [(r["settings"]["k"], r["metrics"]["top1"]) for r in results.read(tmp_path)]
    assert found == [(200, 0.5), (20, 0.6)]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_several_are_written_at_once_each_in_place_of_its_own(tmp_path, monkeypatch):
    results.add(tmp_path, "knn", **KNN)
    results.add(tmp_path, "linear", **KNN)
    written, write = [], files.write
    monkeypatch.setattr(files, "write", lambda *args: (written.append(args), write(*args)))
    common = {name: KNN[name] for name in ("protocol", "seed", "split", "examples")}
    each = [({"k": k}, {"top1": k / 100}) for k in (5, 20)]
    records = results.add_each(tmp_path, "knn", each, **common)
    assert len(written) == 1
    found = results.read(tmp_path)
    assert found[1:] == records
    assert [(r["evaluation"], r["settings"]["k"]) for r in found] == [
        ("linear", 20), ("knn", 5), ("knn", 20),
    ]  # fmt: skip


def test_what_json_cannot_hold_changes_nothing(tmp_path):
    results.add(tmp_path, "knn", **KNN)
    before = results.read(tmp_path)
    with pytest.raises(TypeError):
        results.add(tmp_path, "knn", **(KNN | {"settings": {"k": object()}}))
    assert results.read(tmp_path) == before
