"""What a timing depends on, read from a machine that is only files."""

from types import SimpleNamespace

from mpq_export import __version__
from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation import environment, machine
from mpq_export.evaluation.doctor.host import Host
from mpq_export.evaluation.environment import describe_environment, over_time, settings_of


def written(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def program(folder, name, answer):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{answer}'\n")
    (folder / name).chmod(0o755)


def test_a_board_says_its_power_mode_clocks_and_temperatures(tmp_path):
    written(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano\0")
    written(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "624750000\n")
    written(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    written(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1510400\n")
    written(tmp_path, "sys/class/thermal/thermal_zone1/type", "gpu-thermal\n")
    written(tmp_path, "sys/class/thermal/thermal_zone1/temp", "48500\n")
    program(tmp_path / "bin", "nvpmodel", "NV Power Mode: MAXN_SUPER")
    found = describe_environment(4, Host(tmp_path, str(tmp_path / "bin")))
    expected = {
        "threads": "4",
        "board": "NVIDIA Jetson Orin Nano",
        "power mode": "MAXN_SUPER",
        "GPU clock now": "625 MHz",
        "governor": "schedutil",
        "clock now": "1510 MHz",
        "temperature gpu-thermal": "48.5 C",
    }
    assert expected.items() <= found.items()


def test_a_card_says_its_driver_and_clocks(tmp_path):
    answer = "NVIDIA H100, 570.1, 1980 MHz, 2619 MHz, 33, 700.00 W, [N/A]"
    program(tmp_path / "bin", "nvidia-smi", answer)
    found = describe_environment(1, Host(tmp_path, str(tmp_path / "bin")))
    assert found["GPU driver_version"] == "570.1"
    assert found["GPU clocks.sm"] == "1980 MHz"
    assert "GPU persistence_mode" not in found


def test_what_cannot_be_read_is_left_out(tmp_path):
    found = describe_environment(1, Host(tmp_path, str(tmp_path)))
    assert not [name for name in found if name.startswith(("GPU", "board", "clock", "temp"))]


def test_what_ran_is_named_with_its_version(tmp_path, monkeypatch):
    versions = {"tensorrt": "10.3.0", "onnx": "1.20"}
    monkeypatch.setattr(machine, "installed_version", versions.get)
    monkeypatch.setattr(environment, "chosen_kernels", lambda: "avx2")
    driver = SimpleNamespace(version=(12, 6))
    monkeypatch.setattr(environment.Driver, "load", classmethod(lambda cls: driver))
    found = describe_environment(1, Host(tmp_path, str(tmp_path)))
    expected = {
        "mpq-export": __version__,
        "tensorrt": "10.3.0",
        "torch": "not installed",
        "native library": "avx2 kernels",
        "CUDA of the driver": "12.6",
    }
    assert expected.items() <= found.items()
    assert "tensorrt-rtx" not in found


def test_a_library_that_is_not_there_is_said_and_no_cuda_is_nothing(tmp_path, monkeypatch):
    def refuse(*words):
        raise RuntimeUnavailable("The native library was not compiled")

    monkeypatch.setattr(environment, "chosen_kernels", refuse)
    monkeypatch.setattr(environment.Driver, "load", classmethod(refuse))
    found = describe_environment(1, Host(tmp_path, str(tmp_path)))
    assert found["native library"] == "The native library was not compiled"
    assert "CUDA of the driver" not in found


def test_what_changed_says_both():
    before = {"processor": "P", "clock now": "600 MHz", "temperature x": "40.0 C"}
    after = {"processor": "P", "clock now": "1510 MHz"}
    assert over_time(before, after) == {
        "processor": "P",
        "clock now": "600 MHz, then 1510 MHz",
        "temperature x": "40.0 C, then unknown",
    }


def test_only_what_is_set_decides_what_is_kept():
    described = {"processor": "P", "governor": "g", "power mode": "15W", "load average": "3"}
    assert settings_of(described) == {"processor": "P", "governor": "g", "power mode": "15W"}
