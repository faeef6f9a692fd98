"""The compiled extension. Without a compiler the package installs all the same, and
factorises through QDLDL, unless the environment has DIFFQCP_EXTENSION=required, as
releases do. Everything else is in pyproject.toml.
"""

import importlib.util
import os
import pathlib

from setuptools import Extension, setup


jaxlib = importlib.util.find_spec("jaxlib")
assert jaxlib is not None and jaxlib.origin is not None
if os.name == "nt":
    OPTIONS = ["/std:c++17", "/O2", "/EHsc"]
else:
    OPTIONS = ["-std=c++17", "-O3", "-fvisibility=hidden"]
setup(
    ext_modules=[
        Extension(
            "diffqcp._ldl",
            sources=["native/module.cc"],
            depends=[
                str(header) for header in sorted(pathlib.Path("native").rglob("*.hpp"))
            ],
            include_dirs=[str(pathlib.Path(jaxlib.origin).parent / "include")],
            extra_compile_args=OPTIONS,
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=os.environ.get("DIFFQCP_EXTENSION") != "required",
            language="c++",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
