"""Settings: where they come from, what is refused, and in which words."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from gleam.config import (
    Config,
    ConfigError,
    dump_config,
    load_config,
    parse_bytes,
    parse_overrides,
)
from gleam.data_config import Kind


def refusal(source, **overrides) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, **overrides)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        "seed: 3\nstrategy: greedy\nnetwork: {steps: 6, features: 5}\n"
        "training:\n  learning_rate: 1e-3\n  weight_decay: 5e-2\n"
    )
    return path


def test_an_empty_mapping_gives_the_defaults():
    config = load_config({})
    assert config == Config()
    assert (config.network.step, config.network.steps, config.strategy.name) == ("pgd", 8, "greedy")
    assert config.modules == 8
    assert config.data.mask.calibration == 24


def test_an_empty_file_gives_the_defaults(tmp_path: Path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_a_yaml_file_is_read_from_a_path_or_its_name(file: Path):
    for source in (file, str(file)):
        config = load_config(source)
        assert (config.seed, config.network.steps, config.network.features) == (3, 6, 5)
        assert config.network.step == "pgd"


def test_numbers_that_yaml_takes_for_words_are_numbers(file: Path):
    assert isinstance(yaml.safe_load("1e-3"), str)  # the trap
    training = load_config(file).training
    assert training.learning_rate == 0.001
    assert training.weight_decay == 0.05
    assert load_config({"data": {"mask": {"acceleration": "4e0"}}}).data.mask.acceleration == 4.0
    overridden = load_config({}, **parse_overrides(["training.clip=1e-2"]))
    assert overridden.training.clip == 0.01


def test_overrides_win_and_leave_their_neighbours_alone(file: Path):
    config = load_config(
        file, seed=9, network={"steps": 4}, **{"training.batch_size": 2, "data.mask.calibration": 8}
    )
    assert (config.seed, config.network.steps, config.network.features) == (9, 4, 5)
    assert (config.training.batch_size, config.training.learning_rate) == (2, 0.001)
    assert (config.data.mask.calibration, config.data.mask.acceleration) == (8, 4.0)


def test_overrides_do_not_change_their_source():
    source = {"network": {"steps": 4}}
    load_config(source, network={"steps": 2, "features": 3})
    assert source == {"network": {"steps": 4}}


def test_a_config_can_be_the_source():
    first = load_config({"network": {"steps": 4}})
    assert load_config(first) == first
    second = load_config(first, **{"network.features": 7})
    assert (second.network.steps, second.network.features) == (4, 7)
    assert first.network.features == 32


@pytest.mark.parametrize("strategy", ["backprop", {"name": "backprop"}])
def test_the_strategy_may_be_a_word_or_a_mapping(strategy):
    assert load_config({"strategy": strategy}).strategy.name == "backprop"
    assert load_config({}, strategy=strategy).strategy.name == "backprop"


def test_a_strategy_given_as_a_word_can_be_refined():
    config = load_config({"strategy": "greedy"}, **{"strategy.modules": 4})
    assert (config.strategy.name, config.modules) == ("greedy", 4)


def test_another_strategy_as_a_word_forgets_the_modules_of_the_one_before():
    config = load_config({"strategy": {"name": "greedy", "modules": 4}}, strategy="backprop")
    assert (config.strategy.name, config.modules) == ("backprop", 1)


def test_one_or_several_accelerations_are_taken():
    assert load_config({"data": {"mask": {"acceleration": 3}}}).data.mask.acceleration == 3
    assert load_config({"data": {"mask": {"acceleration": [3, 4]}}}).data.mask.acceleration == [
        3,
        4,
    ]


@pytest.mark.parametrize(
    ("source", "key", "nearest"),
    [
        ({"netwrk": {}}, "netwrk", "network"),
        ({"sede": 1}, "sede", "seed"),
        ({"network": {"step_sise": 1}}, "network.step_sise", "step_size"),
        ({"strategy": {"module": 2}}, "strategy.module", "modules"),
        ({"training": {"learning-rate": 1}}, "training.learning-rate", "learning_rate"),
        ({"data": {"mask": {"accelaration": 3}}}, "data.mask.accelaration", "acceleration"),
    ],
)
def test_an_unknown_key_at_any_level_names_the_nearest_known_one(source, key, nearest):
    message = refusal(source)
    assert message == f"{key}: unknown key; did you mean {nearest!r}?"


def test_an_unknown_key_that_resembles_none_lists_the_known_ones():
    message = refusal({"strategy": {"zzz": 1}})
    known = "name, modules, lookahead, frozen, checkpoint_every, budget"
    known += ", workers, replicas, queue, timeout, timeline"
    assert message == f"strategy.zzz: unknown key; known keys: {known}"


def test_an_unknown_key_among_overrides_is_refused_too():
    assert "did you mean 'features'" in refusal({}, **{"network.feature": 3})
    assert "did you mean 'training'" in refusal({}, trainign={"iterations": 3})


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("network.steps", 0, "greater than or equal to 1"),
        ("network.steps", 2.5, "integer"),
        ("network.features", -1, "greater than or equal to 1"),
        ("network.weight", 0, "greater than 0"),
        ("network.step", "admm", "'pgd' or 'modl'"),
        ("network.padding", "mirror", "'zeros' or 'reflect'"),
        ("training.learning_rate", 0, "greater than 0"),
        ("training.learning_rate", float("nan"), "finite"),
        ("training.learning_rate", float("inf"), "finite"),
        ("training.learning_rate", "fast", "valid number"),
        ("training.iterations", 0, "greater than or equal to 1"),
        ("training.loss", "l3", "'l1', 'l2' or 'ssim'"),
        ("training.clip", -1.0, "greater than 0"),
        ("training.patience", 0, "greater than or equal to 1"),
        ("data.mask.acceleration", 0.5, "greater than or equal to 1"),
        ("data.mask.acceleration", [], "at least 1 item"),
        ("data.mask.calibration", -1, "greater than or equal to 0"),
        ("data.mask.kind", "spiral", "'random_columns'"),
        ("data.snr", 0, "greater than 0"),
        ("data.format", "dicom", "'auto', 'prepared', 'fastmri'"),
        ("data.items", "images", "'slices', 'volumes', 'frames' or 'cines'"),
        ("data.anatomy", "liver", "'brain', 'knee' or 'heart'"),
        ("data.map_method", "sake", "'espirit', 'jsense' or 'low_resolution'"),
        ("data.map_crop", 1.0, "less than 1"),
        ("data.cache", 0, "greater than 0"),
        ("data.workers", -1, "greater than or equal to 0"),
        ("data.mask.partial_fourier", 0.5, "greater than 0.5"),
        ("data.contrast", "T3w", "'T1w', 'T2w'"),
        ("data.map_sets", 3, "less than or equal to 2"),
        ("strategy.modules", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
    ],
)
def test_a_value_out_of_range_names_the_key_and_what_must_hold(key, value, must):
    lines = refusal({}, **{key: value}).splitlines()
    assert all(line.startswith(key + ": ") for line in lines)
    assert any(must in line and line.endswith(f", got {value!r}") for line in lines)


def test_a_bad_value_in_a_list_is_located():
    assert "data.mask.acceleration.1: " in refusal({"data": {"mask": {"acceleration": [3, 0]}}})
    assert "data.size.1: " in refusal({"data": {"size": [128, 0]}})


def test_an_unknown_strategy_lists_the_known_ones():
    message = refusal({"strategy": "gredy"})
    assert message.startswith("strategy.name: ")
    assert (
        "'backprop', 'checkpoint', 'invertible', 'offload', 'greedy' or 'greedy-parallel'"
        in message
    )


def test_every_mistake_is_reported_at_once():
    message = refusal({"seed": -1, "network": {"steps": 0}, "netwrk": 1})
    assert [line.partition(":")[0] for line in message.splitlines()] == [
        "seed",
        "network.steps",
        "netwrk",
    ]


@pytest.mark.parametrize(("steps", "modules"), [(8, 3), (8, 16), (7, 2)])
def test_modules_that_do_not_divide_the_steps_are_refused_with_those_that_do(steps, modules):
    strategy = {"name": "greedy", "modules": modules}
    message = refusal({"network": {"steps": steps}, "strategy": strategy})
    assert f"strategy.modules = {modules} must divide network.steps = {steps}" in message
    assert f"choose from {[n for n in range(1, steps + 1) if steps % n == 0]}" in message


@pytest.mark.parametrize("name", ["backprop", "checkpoint"])
def test_end_to_end_strategies_have_one_module(name):
    assert refusal({"strategy": {"name": name, "modules": 2}}) == f"{name} trains one module, got 2"
    assert load_config({"strategy": {"name": name, "modules": 1}}).modules == 1


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ({"name": "backprop", "lookahead": 1}, "strategy.lookahead is for greedy"),
        ({"name": "greedy", "checkpoint_every": 2}, "strategy.checkpoint_every is for invertible"),
        ({"name": "greedy", "budget": "1GiB"}, "strategy.budget is for auto"),
        ({"name": "auto"}, "needs strategy.budget, such as 24GiB"),
        ({"name": "auto", "budget": "24"}, "memory must be a positive number with a unit"),
        ({"name": "invertible"}, "set network.regularizer to residual or coupling"),
    ],
)
def test_options_of_another_strategy_and_missing_ones_are_refused(strategy, reason):
    assert reason in refusal({"strategy": strategy})


def test_options_of_the_strategy_itself_are_taken():
    greedy = load_config({"strategy": {"name": "greedy", "lookahead": 2, "modules": 4}})
    assert (greedy.strategy.lookahead, greedy.modules) == (2, 4)
    assert load_config({"strategy": {"name": "auto", "budget": "24GiB"}}).modules == 1
    invertible = {"name": "invertible", "checkpoint_every": 3}
    for regularizer in ("residual", "coupling"):
        load_config({"strategy": invertible, "network": {"regularizer": regularizer}})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("24GiB", 24 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("512MiB", 2**29),
        ("2GB", 2 * 10**9),
        (" 7 MB", 7_000_000),
    ],
)
def test_units_of_memory_are_understood(text, wanted):
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize(
    "text", ["24", "24G", "24gib", "GiB", "-1GiB", "0GiB", "1e3MB", "1e-9GB", ""]
)
def test_other_words_for_memory_are_refused(text):
    with pytest.raises(ConfigError, match=r"positive number with a unit of GiB, MiB, GB, MB"):
        parse_bytes(text)


def test_hidden_channels_that_nothing_teaches_are_refused():
    hidden = {"hidden": 2, "steps": 4}
    message = refusal({"network": hidden})
    assert "set strategy.lookahead to 1 or more, or fewer modules" in message
    for strategy in ({"lookahead": 1}, {"modules": 2}, {"name": "backprop"}):
        load_config({"network": hidden, "strategy": strategy})


def test_a_step_size_that_cannot_be_undone_is_refused():
    network = {"regularizer": "coupling", "step_size": 0.5}
    assert "network: step_size must be below 0.5" in refusal({"network": network})
    load_config({"network": {**network, "step_size": 0.49}})
    load_config({"network": {"step_size": 2.0}})


def test_separable_convolutions_are_for_plain_cnns_in_three_dimensions():
    separable = {"convolution": "separable"}
    assert "set data.items to volumes or cines, got slices" in refusal({"network": separable})
    volumes = {"items": "volumes", "size": [8, 32, 32]}
    message = refusal({"data": volumes, "network": {**separable, "regularizer": "coupling"}})
    assert "the regularizer coupling has full convolutions only" in message
    load_config({"data": volumes, "network": separable})


def test_bfloat16_is_refused_where_steps_are_inverted():
    mixed = {"mixed_precision": True}
    assert load_config({"network": mixed}).network.mixed_precision
    message = refusal({"network": {**mixed, "regularizer": "coupling"}})
    assert "mixed_precision is not for the regularizer coupling" in message


def test_shared_weights_need_a_single_module():
    message = refusal({"network": {"shared": True}})
    assert "network.shared to false" in message
    assert "strategy.modules to 1" in message
    assert load_config({"network": {"shared": True}}, **{"strategy.modules": 1}).modules == 1
    assert load_config({"network": {"shared": True}}, strategy="backprop").modules == 1


def test_a_missing_file_is_named(tmp_path: Path):
    assert refusal(tmp_path / "no.yaml") == f"no such configuration file: {tmp_path / 'no.yaml'}"


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path):
    assert refusal(tmp_path).startswith(f"{tmp_path} cannot be read: ")


def test_bad_yaml_names_file_and_line(tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_text("seed: 1\nnetwork: [steps\n")
    message = refusal(path)
    assert message.startswith(f"{path} is not valid YAML: ")
    assert "line " in message


def test_a_binary_file_is_refused(tmp_path: Path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert refusal(path).startswith(f"{path} ")


def test_a_file_without_keys_is_refused(tmp_path: Path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    assert refusal(path) == f"{path} must hold keys and values, got list"


def test_what_is_dumped_loads_as_the_same_configuration():
    config = load_config(
        {
            "out": "somewhere/else",
            "data": {"path": "scans", "mask": {"acceleration": [3, 4.5]}, "snr": float("inf")},
            "network": {"step": "modl", "steps": 6},
            "strategy": {"modules": 3},
            "training": {"learning_rate": 1e-05, "clip": 0.5, "patience": 4},
        }
    )
    plain = dump_config(config)
    assert load_config(plain) == config
    assert load_config(yaml.safe_load(yaml.safe_dump(plain))) == config


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3


def test_words_of_the_command_line_are_read_as_yaml():
    words = ["strategy=backprop", "network.steps=4", "data.mask.acceleration=[3, 4]", "data.path="]
    assert parse_overrides(words) == {
        "strategy": "backprop",
        "network.steps": 4,
        "data.mask.acceleration": [3, 4],
        "data.path": None,
    }
    assert parse_overrides(["out=a=b"]) == {"out": "a=b"}


def test_a_word_without_an_equals_sign_is_refused_with_an_example():
    with pytest.raises(ConfigError, match=r"expected key=value such as .*, got 'steps'"):
        parse_overrides(["steps"])


def test_a_word_whose_value_is_not_yaml_names_the_key():
    with pytest.raises(ConfigError, match=r"data\.size: '\[1' is not valid YAML"):
        parse_overrides(["data.size=[1"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"anatomy": ["brain", "heart"], "items": "volumes"},
            "anatomy = heart needs items = frames or cines or slices, got volumes",
        ),
        (
            {"anatomy": ["heart", "knee"], "items": "cines", "size": [2, 64, 64]},
            "anatomy = knee needs items = slices or volumes, got cines",
        ),
        (
            {"anatomy": ["brain", "knee"], "contrast": "T2w"},
            "contrast must be PD or PDFS for anatomy = knee, got T2w",
        ),
        (
            {"slab": 32, "mask": {"kind": ["random_columns", "poisson_disc"]}},
            "slab needs a fully sampled readout, which poisson_disc has not",
        ),
        ({"items": "cines"}, "anatomy = brain needs items = slices or volumes, got cines"),
        ({"items": "volumes"}, r"size must be (z, y, x) for items = volumes, got (128, 128)"),
        ({"size": [8, 64, 64]}, r"size must be (y, x) for items = slices, got (8, 64, 64)"),
        (
            {"anatomy": "heart", "items": "frames"},
            "size must be (t, y, x) for items = frames, got (128, 128)",
        ),
        ({"contrast": "PD"}, "contrast must be T1w or T2w or PDw or FLAIR for anatomy = brain"),
        ({"anatomy": "knee", "contrast": "T1w"}, "contrast must be PD or PDFS for anatomy = knee"),
        ({"mask": {"kind": "kt_variable_density"}}, "needs items = cines, got slices"),
        ({"slab": 16, "mask": {"kind": "poisson_disc"}}, "which poisson_disc has not"),
        ({"slab": 200}, "slab = 200 must not exceed the 128 rows"),
        ({"mask": {"calibration": 7}}, "calibration = 7 must give at least 8 lines"),
        ({"mask": {"calibration": 0.05}}, "calibration = 0.05 must give at least 8 lines"),
    ],
)
def test_data_settings_that_do_not_fit_each_other_are_refused(data, said):
    assert said in refusal({"data": data})


@pytest.mark.parametrize(
    ("data", "ndim"),
    [
        ({}, 2),
        ({"items": "volumes", "size": [16, 64, 64]}, 3),
        ({"anatomy": "heart", "items": "cines", "size": [8, 64, 64]}, 3),
        ({"anatomy": "heart", "items": "frames", "size": [8, 64, 64]}, 2),
        ({"path": "scans", "items": "cines", "mask": {"kind": "kt_variable_density"}}, 3),
        (
            {"items": "volumes", "size": [16, 64, 64], "slab": 8, "mask": {"kind": "poisson_disc"}},
            3,
        ),
    ],
)
def test_the_items_decide_how_many_axes_an_image_has(data, ndim: int):
    assert load_config({"data": data}).data.ndim == ndim


def test_the_calibration_is_a_number_of_lines_or_a_share():
    for value, kind in ((16, int), (0.08, float), ("0.125", float)):
        mask = load_config({"data": {"size": [256, 256], "mask": {"calibration": value}}}).data.mask
        assert isinstance(mask.calibration, kind)
        assert mask.calibration == float(value)
    assert "data.mask.calibration" in refusal({"data": {"mask": {"calibration": 24.5}}})


def test_the_formats_of_the_configuration_are_those_of_the_readers():
    from gleam.data.readers import READERS

    kinds = Config.model_fields["data"].annotation.model_fields["format"].annotation
    assert set(get_args(kinds)) == {"auto", *READERS}


def test_the_masks_of_the_configuration_are_those_of_physics():
    from physics.masks import MASKS

    assert set(get_args(Kind)) == set(MASKS)


def test_replicas_need_equal_shares_of_an_iteration():
    parallel = {"strategy": {"name": "greedy-parallel", "replicas": 2}}
    message = refusal(parallel)
    assert "strategy.replicas = 2 must divide training.accumulate = 1 or" in message
    for key in ("accumulate", "batch_size"):
        assert load_config(parallel, **{f"training.{key}": 4}).strategy.replicas == 2


@pytest.mark.parametrize(
    ("key", "value"), [("workers", 2), ("replicas", 2), ("queue", 3), ("timeout", 5.0)]
)
def test_settings_of_workers_are_for_parallel_training(key, value):
    settings = {"strategy": {key: value}, "training": {"accumulate": 2}}
    assert f"strategy.{key} is for greedy-parallel" in refusal(settings)
    assert getattr(load_config(settings, **{"strategy.name": "greedy-parallel"}).strategy, key)


def test_parallel_modules_are_as_many_as_steps_unless_told_otherwise():
    assert load_config({"strategy": "greedy-parallel"}).modules == 8
    assert load_config({"strategy": "greedy-parallel"}, **{"strategy.modules": 4}).modules == 4


def test_maps_of_ky_t_sampling_come_from_more_lines_than_a_frame_has_in_the_centre():
    mask = {"kind": "kt_variable_density", "acceleration": 12, "calibration": 2}
    cines = {"anatomy": "heart", "items": "cines", "size": (4, 96, 128)}
    assert load_config({"data": {**cines, "mask": mask}}).data.map_calibration == 24
    others = {"kind": ["kt_variable_density", "random_columns"], "calibration": 8}
    assert load_config({"data": {**cines, "mask": others}}).data.map_calibration == 8
