"""Processor, GPU, TensorRT, compilers and memory, on machines that do not exist."""

import pytest
from hosts import fake_host

from mpq_export.evaluation.doctor import host as host_module
from mpq_export.evaluation.doctor import native_library as native_library_findings
from mpq_export.evaluation.doctor.compilers import compiler_findings
from mpq_export.evaluation.doctor.gpu import gpu_findings, has_card
from mpq_export.evaluation.doctor.host import Host
from mpq_export.evaluation.doctor.memory import free_disk, free_memory
from mpq_export.evaluation.doctor.native_library import native_library_finding
from mpq_export.evaluation.doctor.processor import processor_finding
from mpq_export.evaluation.doctor.tensorrt import tensorrt_findings
from mpq_export.runtimes.tensorrt.plugin_library import PLUGIN_VARIABLE

XEON = "processor\t: 0\nmodel name\t: Xeon Test\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
OLD_PC = "model name\t: Core Test\nflags\t\t: fpu sse2 avx2\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm\n"
OLD_BOARD = "processor\t: 0\nFeatures\t: fp asimd crc32\n"


@pytest.mark.parametrize(
    ("text", "machine", "seen", "advice"),
    [
        (XEON, "x86_64", "Xeon Test, x86_64", ""),
        (OLD_PC, "x86_64", "avx2", "exact kernel"),
        (ORIN, "aarch64", "i8mm (int8 matrix products)", ""),
        (OLD_BOARD, "aarch64", "asimd (128-bit vectors)", "dot products"),
        ("", "riscv64", "no known vector extensions", ""),
    ],
)
def test_features_say_how_integers_run(tmp_path, text, machine, seen, advice):
    finding = processor_finding(fake_host(tmp_path, {"proc/cpuinfo": text}), machine)
    assert finding.ok
    assert seen in finding.detail
    assert advice in finding.advice
    assert bool(finding.advice) == bool(advice)


def test_cards_are_described_by_their_tool(tmp_path):
    script = (
        '[ "$1" = "--query-gpu=name,memory.total,driver_version,compute_cap" ] || exit 3\n'
        'echo "NVIDIA Test, 8192 MiB, 570.1, 8.9"\necho "NVIDIA Other, 4096 MiB, 570.1, 7.5"'
    )
    first, second = gpu_findings(fake_host(tmp_path, programs={"nvidia-smi": script}))
    assert first.detail == "NVIDIA Test, 8192 MiB, driver 570.1, compute capability 8.9"
    assert "7.5" in second.detail
    assert "--runtime torch uses it" in first.advice
    assert "need compute capability 8.0" in second.advice


@pytest.mark.parametrize(("capability", "usable"), [("7.5", False), ("8.7", True), ("12.0", True)])
def test_whether_a_card_is_there_for_the_kernels(tmp_path, capability, usable):
    script = f"echo 'NVIDIA Test, 8192 MiB, 570.1, {capability}'"
    assert has_card(fake_host(tmp_path, programs={"nvidia-smi": script})) == usable
    assert not has_card(fake_host(tmp_path / "none"))


def test_a_tool_without_a_card_is_a_finding(tmp_path):
    (finding,) = gpu_findings(fake_host(tmp_path, programs={"nvidia-smi": "exit 9"}))
    assert not finding.ok
    assert "driver" in finding.advice


def test_jetson_boards_are_known_by_the_device_tree(tmp_path):
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
    }
    (finding,) = gpu_findings(fake_host(tmp_path, files))
    assert finding.subject == "board"
    assert finding.detail == "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3"
    assert has_card(fake_host(tmp_path, files))


def test_no_gpu_is_said_and_no_fault(tmp_path):
    raspberry = {"proc/device-tree/model": "Raspberry Pi 5\0"}
    (finding,) = gpu_findings(fake_host(tmp_path, raspberry))
    assert finding.ok
    assert "none found" in finding.detail


def test_tensorrt_libraries_are_those_the_linker_knows(tmp_path):
    listing = (
        "cat <<'EOF'\n3 libs found in cache\n"
        "\tlibnvinfer.so.10 (libc6,x86-64) => /usr/lib/libnvinfer.so.10\n"
        "\tlibnvinfer_plugin.so.10 (libc6,x86-64) => /usr/lib/libnvinfer_plugin.so.10\n"
        "\tlibtensorrt_rtx.so.1 (libc6,x86-64) => /usr/lib/libtensorrt_rtx.so.1\nEOF"
    )
    host = fake_host(tmp_path, programs={"ldconfig": listing, "trtexec": "exit 0"})
    findings = {finding.subject: finding for finding in tensorrt_findings(host)}
    assert findings["libnvinfer"].detail == (
        "libnvinfer 10 (/usr/lib/libnvinfer.so.10); "
        "libtensorrt_rtx 1 (/usr/lib/libtensorrt_rtx.so.1)"
    )
    assert findings["trtexec"].detail.endswith("bin/trtexec")


def test_tensorrt_packages_are_found_by_any_of_their_names(tmp_path, monkeypatch):
    from mpq_export.evaluation.doctor import tensorrt

    versions = {"tensorrt-cu12": "10.13.0", "tensorrt_rtx": "1.1"}
    monkeypatch.setattr(tensorrt, "installed_version", versions.get)
    findings = {f.subject: f.detail for f in tensorrt_findings(fake_host(tmp_path))}
    assert findings["TensorRT for Python"] == "tensorrt-cu12 10.13.0"
    assert findings["TensorRT for RTX for Python"] == "tensorrt_rtx 1.1"
    assert findings["trtexec"] == "not found"
    assert "unknown" in findings["libnvinfer"]


def test_the_plugin_that_is_named_must_be_there(tmp_path, monkeypatch):
    def finding():
        (found,) = (f for f in tensorrt_findings(fake_host(tmp_path)) if "plugin" in f.subject)
        return found

    library = tmp_path / "libmpq_tensorrt.so"
    monkeypatch.setenv(PLUGIN_VARIABLE, str(library))
    assert not finding().ok
    assert str(library) in finding().detail
    library.touch()
    assert finding().ok
    monkeypatch.delenv(PLUGIN_VARIABLE)
    from mpq_export.evaluation.doctor import tensorrt

    monkeypatch.setattr(tensorrt, "installed_version", {"tensorrt": "11.4"}.get)
    assert "in Python" in finding().detail
    monkeypatch.setattr(tensorrt, "installed_version", lambda _: None)
    assert finding().ok
    assert "no TensorRT" in finding().detail


def test_where_jetpack_has_trtexec_alone_the_plugin_must_be_a_library(tmp_path, monkeypatch):
    """It is on nobody's path; TensorRT's bindings are for another Python."""
    from mpq_export.evaluation.doctor import tensorrt

    monkeypatch.delenv(PLUGIN_VARIABLE, raising=False)
    monkeypatch.setattr(tensorrt, "installed_version", lambda _: None)
    program = "usr/src/tensorrt/bin/trtexec"
    host = fake_host(tmp_path, {program: "#!/bin/sh\n"})
    findings = {f.subject: f for f in tensorrt_findings(host)}
    assert findings["trtexec"].detail == "not found", "it cannot be run"
    (host.root / program).chmod(0o755)
    findings = {f.subject: f for f in tensorrt_findings(host)}
    assert findings["trtexec"].detail == str(host.root / program)
    assert findings["TensorRT plugin"].detail.startswith("none: ")
    assert "build plugins/tensorrt" in findings["TensorRT plugin"].advice


def test_compilers_say_their_version_and_what_they_are_for(tmp_path):
    programs = {
        "g++": '[ "$*" = --version ] && echo "g++ (Debian 12.2.0-14) 12.2.0"',
        "nvcc": 'echo "nvcc: NVIDIA (R)"; echo "Cuda compilation tools, release 12.6, V12.6.85"',
        "clang++": "exit 1",
    }
    findings = {f.subject: f for f in compiler_findings(fake_host(tmp_path, programs=programs))}
    assert findings["g++"].detail == "12.2.0"
    assert findings["nvcc"].detail == "12.6"
    assert findings["clang++"].detail == "version unknown"
    assert findings["cmake"].detail == "not found"
    assert all(finding.ok for finding in findings.values())
    assert "native libraries" in findings["g++"].advice
    assert "GPU kernels" in findings["nvcc"].advice


def test_the_native_library_says_its_kernels_or_why_there_are_none(monkeypatch):
    from mpq_export.runtimes import native_library

    monkeypatch.setattr(native_library, "_FILE", "not/built.so")
    finding = native_library_finding()
    assert not finding.ok
    assert "MatMulInteger" in finding.detail
    assert "no C++17 compiler" in finding.detail
    assert "pip install" in finding.advice

    names = ("fast", "portable")
    for module in (native_library, native_library_findings):
        monkeypatch.setattr(module, "kernel_names", lambda: names)
    monkeypatch.setenv(native_library.KERNELS_VARIABLE, "portable")
    finding = native_library_finding()
    assert finding.ok
    assert "on the kernels portable" in finding.detail
    assert "fast, portable" in finding.detail


def test_programs_that_hang_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(host_module, "_SECONDS", 0.2)
    host = fake_host(tmp_path, programs={"slow": "exec sleep 60"})
    assert host.ask(host.program("slow"), ()) is None


def test_a_program_that_cannot_start_has_no_answer(tmp_path):
    host = fake_host(tmp_path, programs={"odd": ""})
    (tmp_path / "bin" / "odd").write_bytes(b"\x7fELF not really")
    assert host.ask(host.program("odd"), ()) is None


def test_memory_is_what_a_container_leaves(tmp_path):
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}
    assert free_memory(fake_host(tmp_path / "a", files)) == 8000 * 1024
    files |= {"sys/fs/cgroup/memory.max": "5000000\n", "sys/fs/cgroup/memory.current": "1000000\n"}
    assert free_memory(fake_host(tmp_path / "b", files)) == 4_000_000
    files["sys/fs/cgroup/memory.max"] = "max\n"
    assert free_memory(fake_host(tmp_path / "c", files)) == 8000 * 1024


def test_the_disk_of_a_folder_to_come_is_that_above_it(tmp_path):
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(free_disk(tmp_path), rel=0.01)


def test_this_machine_answers():
    assert free_memory(Host()) > 0
    assert processor_finding(Host()).ok
