"""Builds train_threads.pyx against the installed gradcore: python setup.py build_ext --inplace."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import gradcore

extension = Extension(
    "train_threads",
    ["train_threads.pyx"],
    include_dirs=[gradcore.get_include()],
    library_dirs=[gradcore.get_library_dir()],
    runtime_library_dirs=[gradcore.get_library_dir()],
    libraries=["gradcore"],
)
setup(name="train_threads", ext_modules=cythonize([extension]), script_args=["build_ext", "--inplace"])
