"""Builds albert_fast._loader from csrc/ with CMake's Ninja generator; all other settings are in pyproject.toml."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Runs CMake on csrc/ and puts the extension where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "csrc"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "--fresh",  # the cache of an isolated build refers to a ninja that no longer exists
            "-S", str(ROOT / "csrc"),
            "-B", str(build),
            "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]  # fmt: skip
        subprocess.run([*configure, *os.environ.get("CMAKE_ARGS", "").split()], check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_loader"], check=True)
        if not self.editable_mode:  # the extension contains pybind11 code, whose license requires this notice
            notice = next(f for f in metadata.files("pybind11") or () if f.name == "LICENSE")
            (output / "LICENSE.pybind11").write_text(notice.read_text(), encoding="utf-8")


setup(
    license="MIT",
    packages=[*find_packages(include=["albert_fast", "albert_fast.*"]), "albert_fast.kernels"],
    # kernels/ on disk, but never `import kernels`: that name belongs to a package of HuggingFace's.
    package_dir={"albert_fast": "albert_fast", "albert_fast.kernels": "kernels"},
    package_data={"albert_fast": ["py.typed", "*.pyi"]},
    ext_modules=[Extension("albert_fast._loader", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
