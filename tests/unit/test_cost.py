"""What a run costs: the step that is compiled, what is read of it, what the command says."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import linear, v3_vit
from moco_jax import config, mesh, protocols
from moco_jax.commands import plan
from moco_jax.cost import absent, chips, hlo, program
from moco_jax.cost.estimate import Estimate, describe
from moco_jax.errors import InputError
from moco_jax.training import experiment
from tests.tiny import IMAGES, SIZE, tiny_config, write_config_file, write_npz

TINY = absent.Size(IMAGES, 3, (SIZE, SIZE, 1))


@pytest.mark.parametrize("method", ["v2", "v3"])
def test_the_step_is_the_one_that_trains(method, tmp_path):
    """The same program, letter by letter, without the images."""
    c = tiny_config(method, write_npz(tmp_path / "images.npz"))
    c.data.mean, c.data.std = (0.5,), (0.2,)
    real = experiment.build(c)
    c.data.source = "npz:nowhere.npz"
    planned = absent.build(c, jax.devices(), TINY)
    with experiment.train_batches(real, 0) as batches:
        entries = batches.get()
    texts = [
        experiment.make_step(x).lower(experiment.abstract_state(x), batch).as_text()
        for x, batch in ((real, entries), (planned, absent.batch_shapes(planned)))
    ]
    assert texts[0] == texts[1]
    assert real.steps == planned.steps


def test_encoded_images_come_as_the_views_crops():
    c = v3_vit.get_config("s16")
    c.data.view2.size = 96
    x = absent.build(c, jax.devices(), None)
    crops = absent.batch_shapes(x)["crops"]
    assert [crop.shape for crop in crops] == [(1024, 224, 224, 3), (1024, 96, 96, 3)]
    assert x.steps == round(300 * 1_281_167 / 1024)


def refused(c, message, size=TINY):
    with pytest.raises(InputError, match=message):
        absent.build(c, jax.devices(), size)


def test_what_cannot_be_planned_is_refused():
    c = tiny_config("v3", "folder:somewhere")
    refused(c, r"data.source='folder:somewhere': its size is not known .* --images", None)
    refused(c, r"has 8 images, fewer than data.batch_size=16", absent.Size(8))
    c.data.batch_size = 12
    refused(c, r"data.batch_size=12 must be a positive multiple of the 8 devices")
    c = linear.get_config("demo")
    c.supervised.augment = False
    refused(c, r"supervised.augment=False: expected True")
    for protocol in set(config.PROTOCOLS) - set(protocols.MAKERS):
        c.protocol = protocol  # of an upper floor, which has a maker of its own
        refused(c, f"protocol='{protocol}' is not one of pretraining, supervised", None)


def test_collectives_and_loops_of_a_program():
    """Seven turns, each of which gathers w; and one sum over the devices after them."""
    m = mesh.make_mesh()
    rows, whole = (NamedSharding(m, spec) for spec in (mesh.batched(m).spec, PartitionSpec()))

    def f(x, w):
        def turn(x, part):
            return x @ jax.lax.with_sharding_constraint(part, whole), None

        return jax.lax.scan(turn, x, w)[0].sum(0)

    split = NamedSharding(m, PartitionSpec(None, *rows.spec))
    f = jax.jit(f, in_shardings=(rows, split), out_shardings=whole)
    found = program.read(f.lower(jnp.ones((16, 32)), jnp.ones((7, 32, 32))).compile())
    assert found.loops
    assert found.collectives["all-gather"] in (7 * 4 * 32 * 32, 7 * 4 * 32 * 32 + 4 * 32 * 16)
    assert found.sent >= 7 / 8 * found.collectives["all-gather"]
    assert found.memory["arguments"] == 4 * (2 * 32 + 7 * 32 * 4)


TPU = """%body (p: s32[]) -> s32[] {
  %gathered = bf16[8,4]{1,0} all-gather(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}
  ROOT %d = bf16[8]{0} fusion(%p), calls=%f, backend_config={"estimated_cycles":"50","n":"1"}
}
%bound (p: s32[]) -> pred[] {
  %twelve = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[] compare(%p, %twelve), direction=LT
}
%f (p: s32[]) -> s32[] {
  ROOT %c = bf16[8]{0} convolution(%p, %p), dim_labels=bf_io->bf
}
ENTRY %main (p: s32[]) -> s32[] {
  %while.1 = (s32[]) while(%p), condition=%bound, body=%body
  ROOT %sum = f32[16]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}
}
"""


def test_a_loop_of_the_tpu_compiler_is_counted_by_its_bound():
    text = hlo.parse(TPU)
    assert text.turns == {"main": 1, "body": 12, "f": 12}
    assert text.looped == {"body", "f"}


@pytest.mark.parametrize(
    ("line", "kind", "size", "group", "sent"),
    [
        ("%a = f32[16]{0} all-reduce(%p), replica_groups={{0,1},{2,3}}", "all-reduce", 64, 2, 64),
        ("%a = f32[16]{0} all-reduce-start(%p)", "all-reduce", 64, 0, 128),
        ("%a = (f32[2]{0}, f32[16]{0}) all-gather-start(%p), replica_groups=[4,8]<=[32]",
         "all-gather", 64, 8, 56),
        ("%a = bf16[8]{0} reduce-scatter(%p), replica_groups=mesh['a'=2,'b'=3] {'a','b'}",
         "reduce-scatter", 16, 6, 80),
        ("%a = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%p)",
         "collective-permute", 16, 0, 16),
    ],
)  # fmt: skip
def test_what_a_line_sends(line, kind, size, group, sent):
    ((found, array),) = hlo.given(line)
    assert (found, array.bytes, hlo.group(line)) == (kind, size, group)
    assert hlo.sent(kind, array.bytes, group) == sent


def made_up(chip, **changed):
    """A step of which one TPU needs 1 TFLOP, 10 GB of traffic, 3 GB of links, 2.1e8 cycles."""
    p = program.Program({"temporary": 2**34}, 1e12, 10e9, {"all-reduce": 2e9}, 3e9, 0, False)
    return Estimate("TPU", chip, 4, 256, 1000, p._replace(**changed), 0.9e12, 1.0)


def test_bounds_by_the_data_sheet():
    v4 = chips.CHIPS[0]
    e = made_up(v4, cycles=210_000_000)
    assert e.limits == {"operations": 1e12 / 275e12, "memory": 10 / 1200, "links": 3 / 300}
    assert e.expected == pytest.approx(0.2)
    assert e.utilization(0.01) == pytest.approx(0.9e12 / 275e12 / 0.01)
    lines = "\n".join(describe(e, price=3.0))
    assert "(50%): temporary 17.18" in lines
    assert "900 G useful (90.0%)" in lines
    assert "roofline: 10 ms a step, 25,600 images/s, MFU 33%, 0.00278 hours" in lines
    assert "price 0.6667" in lines.splitlines()[-1]
    assert made_up(v4, loops=True).limits == {"operations": 0.9e12 / 275e12, "links": 3 / 300}
    assert "a loop's body once" in "\n".join(describe(made_up(v4, loops=True)))
    assert "no data sheet of 'TPU'" in describe(made_up(None))[-1]


def test_every_chip_has_its_figures():
    names = [chip.name for chip in chips.CHIPS]
    assert len(set(names)) == len(names)
    for chip in chips.CHIPS:
        assert 100e12 < chip.operations < 1e16
        assert 100 < chip.operations / chip.bandwidth < 1000
        assert chip.link < chip.bandwidth
        first = next(c for c in chips.CHIPS if chip.kind.startswith(c.kind))
        assert first is chip, "a kind that begins another's hides it"


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("v44:2x2", "the generation in --topology='v44' .* did you mean 'v4'"),
        ("v4", "--topology=v4: expected v4:4x4x8"),
        ("v4:2x2", "--topology=v4:2x2: expected v4:4x4x8 .* each of 3 axes"),
        ("v5e:2x0", "--topology=v5e:2x0: expected v5e:4x8"),
    ],
)
def test_no_such_slice(topology, message):
    with pytest.raises(InputError, match=message):
        chips.absent_devices(topology)


def test_the_command_for_the_devices_here(tmp_path, capsys):
    write_config_file(tmp_path)
    flags = [f"--config={tmp_path}/config.py:v3", "--config.data.source=npz:nowhere.npz"]
    assert plan.main(flags) == 2
    assert "give --images" in capsys.readouterr().err
    assert plan.main([*flags, "--shape=12,12,1"]) == 2
    assert plan.main([*flags, "--images=80", "--shape=12,12"]) == 2
    assert "--shape=12,12: expected H,W,C" in capsys.readouterr().err
    assert plan.main([*flags, "--images=80", "--shape=12,12,1", "--price=2"]) == 0
    out = capsys.readouterr().out
    for part in ("8 x cpu, batch 16: 2 images a chip", "memory: ", "useful", "all-gather"):
        assert part in out
