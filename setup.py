"""The compiled extension. Without a compiler the package installs all the same, and
factorises through QDLDL; everything else is in pyproject.toml.
"""

import importlib.util
import pathlib

from setuptools import Extension, setup


jaxlib = importlib.util.find_spec("jaxlib")
assert jaxlib is not None and jaxlib.origin is not None
setup(
    ext_modules=[
        Extension(
            "diffqcp._ldl",
            sources=["native/module.cc"],
            depends=[
                str(header) for header in sorted(pathlib.Path("native").rglob("*.hpp"))
            ],
            include_dirs=[str(pathlib.Path(jaxlib.origin).parent / "include")],
            extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
            language="c++",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
