"""metrics.jsonl and TensorBoard's files: damaged lines, rewinding, and sinks that fail."""

import json
import time

import pytest
from tensorboardX.proto.event_pb2 import Event

from moco_jax import files, metrics
from moco_jax.errors import StorageError


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(files, "DELAYS", (0.0,))


def write(path, *lines):
    (path / metrics.FILE).write_bytes(b"".join(line + b"\n" for line in lines))


ROWS = [json.dumps({"step": step, "loss": 1.0}).encode() for step in range(4)]
DAMAGE = [b"\xff\xfe\0", b"{", b"[1, 2]", b"7", b'{"loss": 1}', b'{"step": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_lines_are_left_out_said_and_kept_aside(damage, tmp_path, caplog):
    write(tmp_path, ROWS[0], damage, *ROWS[2:])
    assert [row["step"] for row in metrics.read(tmp_path)] == [0, 2, 3]
    assert "1 damaged lines are left out" in caplog.text
    metrics.Writer(tmp_path, 2, False).close()
    assert [row["step"] for row in metrics.read(tmp_path)] == [0, 2]
    assert damage in (tmp_path / "metrics.damaged-1.jsonl").read_bytes()
    superseded = (tmp_path / "metrics.superseded.jsonl").read_text()
    assert [json.loads(line)["step"] for line in superseded.splitlines()] == [3]


def test_a_last_line_cut_short_is_nothing_special(tmp_path, caplog):
    write(tmp_path, *ROWS)
    with (tmp_path / metrics.FILE).open("ab") as f:
        f.write(b'{"step": 4, "lo')
    metrics.Writer(tmp_path, 3, False).close()
    assert (tmp_path / metrics.FILE).read_bytes() == b"".join(row + b"\n" for row in ROWS)
    assert not caplog.text
    assert not list(tmp_path.glob("*damaged*"))


def test_metrics_that_cannot_be_written_are_an_error_that_names_the_file(tmp_path):
    writer = metrics.Writer(tmp_path, 0, False)
    (tmp_path / metrics.FILE).mkdir()
    with pytest.raises(StorageError, match=r"Writing .*metrics\.jsonl failed 2 times"):
        writer.write({"step": 1})


def test_a_row_has_its_time(tmp_path):
    begin = time.time()
    metrics.Writer(tmp_path, 0, False).write({"step": 1, "loss": 0.5})
    (row,) = metrics.read(tmp_path)
    assert begin - 1 <= row["time"] <= time.time() + 1


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "0:30 left  step 5/20  loss 1.000"),
        (32, "0:30 left  step 5/20  loss 1.000"),
        (31, "0:30 left  step 5/20"),
        (12, "0:30 left"),
        (4, "0:30"),
    ],
)
def test_a_line_for_a_width_has_the_first_parts_whole(columns, line):
    assert metrics.fitting(["0:30 left", "step 5/20", "loss 1.000"], columns) == line


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_the_live_line_begins_with_the_time_left(columns, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = metrics.Progress(100)
    for step in (1, 2):
        progress.show({"step": step, "epoch": step / 10, "loss": 1.0, "learning_rate": 0.1})
    last = capsys.readouterr().err.split("\x1b[K")[-1]
    assert last.startswith("0:00 left")
    assert len(last) < columns


def events(path):
    """What TensorBoard's files hold, read by their format: length, sum, data, sum."""
    out = []
    for file in sorted((path / "tensorboard").iterdir()):
        content = file.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            out.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return out


def test_tensorboard(tmp_path):
    writer = metrics.Writer(tmp_path, 5, True)
    writer.write({"step": 6, "loss": 0.5, "none": None, "nan": float("nan"), "name": "x"})
    writer.close()
    version, start, scalar = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (6, 1)
    assert (scalar.step, scalar.summary.value[0].tag) == (6, "loss")
    assert scalar.summary.value[0].simple_value == 0.5


def test_tensorboard_reads_it(tmp_path):
    """tensorboardX's own reader checks both sums of every record."""
    from tensorboardX.crc32c import crc32c

    writer = metrics.Writer(tmp_path, 0, True)
    writer.write({"step": 1, "loss": 0.5})
    writer.close()
    content = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        for data, place in ((content[:8], 8), (content[12 : 12 + size], 12 + size)):
            value = crc32c(data)
            masked = (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert int.from_bytes(content[place : place + 4], "little") == masked
        content = content[16 + size :]


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_tensorboard_that_fails_is_said_once_and_left_out(when, tmp_path, caplog):
    if when == "at the start":
        (tmp_path / "tensorboard").touch()
    writer = metrics.Writer(tmp_path, 0, True)
    if when == "later":
        writer._board._file.close()
        writer._board._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for step in (1, 2, 3):
        writer.write({"step": step, "loss": 1.0})
    writer.close()
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3]
    assert caplog.text.count("Nothing more for TensorBoard") == 1
