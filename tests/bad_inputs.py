"""Bad inputs at every public entry. Each has to end in an error of the package's own that
names the argument; run as a script, without the run-time checks of annotations.
"""

import jax


jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from jax.experimental.sparse import BCOO, BCSR  # noqa: E402

import diffqcp  # noqa: E402


N, M = 2, 3
DIMS = {"l": M}
P, A = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
VECTORS = {"q": N, "b": M, "x": N, "y": M, "s": M}
COO = {
    "P": BCOO.from_scipy_sparse(sp.coo_array(np.triu(P))),
    "A": BCOO.from_scipy_sparse(sp.coo_array(A)),
}
CSR = {
    name: BCSR.from_scipy_sparse(sp.csr_array(part))
    for name, part in (("P", P), ("A", A))
}
DENSE = {"P": jnp.asarray(P), "A": jnp.asarray(A)}
FORMATS = {
    "host": (diffqcp.QCPStructureCPU, COO),
    "device": (diffqcp.QCPStructureGPU, CSR),
    "dense": (diffqcp.QCPStructureDense, DENSE),
}
STRUCTURES = {
    name: make(parts["P"], parts["A"], DIMS) for name, (make, parts) in FORMATS.items()
}
GOOD = {name: np.ones(size) for name, size in VECTORS.items()}

# What is no vector of real numbers of any length that is asked for here.
NO_VECTORS = {
    "None": None,
    "string": "12",
    "object": object(),
    "strings": ["a", "b"],
    "ragged": [[1.0], [1.0, 2.0]],
    "booleans": np.ones(N, bool),
    "complex": np.ones(N) * 1j,
    "objects": np.array([None, 1.0], object),
    "scalar": 1.0,
    "longer": np.ones(7),
    "column": np.ones((N, 1)),
    "dictionary": {"a": 1.0},
    "scipy": sp.csr_array(np.eye(N)),
    "sparse": CSR["P"],
    "dates": np.ones(N, "datetime64[s]"),
}
NO_MATRICES = {
    **{
        name: NO_VECTORS[name]
        for name in ("None", "string", "object", "strings", "ragged")
    },
    "scalar": 1.0,
    "scipy": sp.coo_array(np.eye(5)),
    "complex": np.ones((5, 5)) * 1j,
    "booleans": np.ones((5, 5), bool),
    "objects": np.full((5, 5), None),
    "vector": np.ones(5),
    "other shape": np.ones((5, 5)),
}


def broken(like, *leaves):
    """JAX looks at a matrix when it is made from arrays, not when from leaves."""
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(x) for x in leaves])


def csr(values, indices, indptr):
    return broken(CSR["P"], np.ones(values), indices, indptr)


def coo(values, indices):
    return broken(COO["P"], np.ones(values), indices)


BROKEN = {
    "device": {
        "short indptr": csr(2, [0, 1], [0, 2]),
        "long indptr": csr(2, [0, 1], [0, 1, 2, 2]),
        "decreasing": csr(2, [0, 1], [0, 3, 2]),
        "late start": csr(2, [0, 1], [1, 1, 2]),
        "early end": csr(2, [0, 1], [0, 1, 1]),
        "late end": csr(2, [0, 1], [0, 1, 3]),
        "float indptr": csr(2, [0, 1], [0.0, 1.0, 2.0]),
        "float indices": csr(2, [0.0, 1.0], [0, 1, 2]),
        "outside": csr(2, [0, 5], [0, 1, 2]),
        "negative": csr(2, [0, -1], [0, 1, 2]),
        "duplicate": csr(2, [0, 0], [0, 2, 2]),
        "values": csr(3, [0, 1], [0, 1, 2]),
        "coo": COO["P"],
    },
    "host": {
        "float indices": coo(2, [[0.0, 0.0], [1.0, 1.0]]),
        "outside": coo(2, [[0, 0], [1, 5]]),
        "negative": coo(2, [[0, 0], [-1, 1]]),
        "duplicate": coo(2, [[0, 0], [0, 0]]),
        "values": coo(3, [[0, 0], [1, 1]]),
        "csr": CSR["P"],
    },
    "dense": {"coo": COO["P"], "csr": CSR["P"]},
}


def cases():
    """Triples of a label, the name that the error has to have, and a call."""
    for form, (make, parts) in FORMATS.items():
        for name in "PA":
            for label, bad in (NO_MATRICES | BROKEN[form]).items():
                if name == "A" and label in BROKEN[form]:
                    continue
                given = parts | {name: bad}
                # Another shape is found where the two are compared.
                wanted = "PA"
                yield (
                    f"{form} structure {name} {label}",
                    wanted,
                    lambda make=make, given=given: make(given["P"], given["A"], DIMS),
                )
        for label, bad in {"None": None, "list": [3], "number": 3}.items():
            yield (
                f"{form} structure cone_dims {label}",
                ("cone_dims",),
                lambda make=make, parts=parts, bad=bad: make(parts["P"], parts["A"], bad),
            )
    for form, make in (("host", diffqcp.HostQCP), ("device", diffqcp.DeviceQCP)):
        parts = FORMATS[form][1]

        def qcp(given, form=form, make=make, parts=parts):
            given = parts | GOOD | {"structure": STRUCTURES[form]} | given
            names = ("P", "A", *VECTORS, "structure")
            return make(*(given[name] for name in names))

        good = qcp({})
        for name in VECTORS:
            for label, bad in NO_VECTORS.items():
                yield f"{form} {name} {label}", (name,), lambda n=name, v=bad: qcp({n: v})
            for value in (np.nan, np.inf):
                bad = np.full(VECTORS[name], value)
                if name != "b" or value is np.nan:
                    yield (
                        f"{form} {name} {value}",
                        (name,),
                        lambda n=name, v=bad: qcp({n: v}),
                    )
        for name in "PA":
            for label, bad in NO_MATRICES.items():
                yield f"{form} {name} {label}", (name,), lambda n=name, v=bad: qcp({n: v})
        for label, bad in {"None": None, "dense": STRUCTURES["dense"]}.items():
            yield (
                f"{form} structure {label}",
                ("problem_structure",),
                lambda v=bad: qcp({"structure": v}),
            )
        data = dict(dP=parts["P"], dA=parts["A"], dq=np.ones(N), db=np.ones(M))
        seeds = dict(dx=np.ones(N), dy=np.ones(M), ds=np.ones(M))
        for method, given in (("jvp", data), ("vjp", seeds)):
            call = getattr(good, method)
            for name in given:
                values = NO_MATRICES if name in ("dP", "dA") else NO_VECTORS
                for label, bad in values.items():
                    yield (
                        f"{form} {method} {name} {label}",
                        (name,),
                        lambda call=call, new=given | {name: bad}: call(**new),
                    )
            for name, values in {
                "solve_method": (None, "qr", ["ldl"]),
                "solver": ("ldl", 1),
                "smoothing": (None, "a", -1.0, np.nan, np.ones(2), 1j),
            }.items():
                for value in values:
                    yield (
                        f"{form} {method} {name} {value}",
                        (name,),
                        lambda call=call, given=given, new={name: value}: call(
                            **given, **new
                        ),
                    )
    derivative = good.derivative("jax-lu")
    sizes = {"dP": 4, "dA": 4, "dq": N, "db": M}
    for name in sizes:
        for label, bad in NO_VECTORS.items():
            vector = [bad if k == name else np.ones(size) for k, size in sizes.items()]
            yield f"mv {name} {label}", (name,), lambda v=vector: derivative.mv(v)
    for bad in (None, 1.0, np.ones(3), (np.ones(N),)):
        yield f"mv {bad!r}", ("vector",), lambda v=bad: derivative.mv(v)

    for form, (_, parts) in FORMATS.items():
        for name in ("P", "A", "q", "b"):
            values = NO_MATRICES if name in "PA" else NO_VECTORS
            for label, bad in values.items():
                given = parts | {"q": np.ones(N), "b": np.ones(M)} | {name: bad}
                # If one of two matrices is no sparse one, either may be meant.
                wanted = "PA" if name in "PA" else (name,)
                yield (
                    f"solve {form} {name} {label}",
                    wanted,
                    lambda given=given: diffqcp.solve(
                        *(given[k] for k in ("P", "A", "q", "b")), DIMS
                    ),
                )
    for start in (1.0, "xys", (np.ones(N),), (np.ones(N), np.ones(N), np.ones(M))):
        yield (
            f"start {start!r}",
            ("start",),
            lambda start=start: diffqcp.solve(
                *(DENSE["P"], DENSE["A"], np.ones(N), np.ones(M), DIMS), start=start
            ),
        )
    options = {
        "polish": (-1, 1.5, None, "yes"),
        "smoothing": (np.nan, -1.0, np.inf, None, "a", np.ones(2)),
        "forward": ("clarabel", diffqcp.Clarabel),
        "solver": ("ldl", 3),
        "solve_method": (None, "qr", ["ldl"]),
        "throw": (None, "yes", 1),
    }
    structure = STRUCTURES["dense"]
    for name, values in options.items():
        for value in values:
            yield (
                f"QCPSolver {name} {value}",
                (name,),
                lambda new={name: value}: diffqcp.QCPSolver(structure, **new),
            )
    for value in (None, DIMS, diffqcp.QCPStructureDense):
        yield f"QCPSolver {value}", ("structure",), lambda v=value: diffqcp.QCPSolver(v)

    qp = dict(Q=P, q=np.ones(N), A=A[:1], b=np.ones(1), G=A, h=np.ones(M))
    equality = dict(P=P, c=np.ones(N), A=A[:1], b=np.ones(1))
    for function, given in (
        (diffqcp.solve_qp, qp),
        (diffqcp.solve_equality_qp, equality),
    ):
        for name in given:
            values = NO_VECTORS if name.islower() else NO_MATRICES
            for label, bad in values.items():
                # Another q is found where Q is compared with it.
                wanted = {"q": ("q", "Q"), "c": ("c", "P")}.get(name, (name,))
                yield (
                    f"{function.__name__} {name} {label}",
                    wanted,
                    lambda function=function, new=given | {name: bad}: function(**new),
                )
    for name, bad in {
        "b": np.ones(2),
        "h": np.ones(1),
        "A": np.ones(N),
        "G": np.ones((M, N + 1)),
    }.items():
        yield (
            f"solve_qp {name}",
            (name,),
            lambda new=qp | {name: bad}: diffqcp.solve_qp(**new),
        )

    no_numbers = (0, -1, np.nan, np.inf, "a", True)
    no_counts = (0, -1, 1.5, "a", None, True)
    for cls, names in (
        (diffqcp.Clarabel, ("tol", "accept")),
        (diffqcp.InteriorPoint, ("tol",)),
    ):
        for name in names:
            for value in (*no_numbers, 1j):
                yield (
                    f"{cls.__name__} {name} {value}",
                    (name,),
                    (lambda cls=cls, new={name: value}: cls(**new)),
                )
        for value in no_counts:
            yield (
                f"{cls.__name__} max_iter {value}",
                ("max_iter",),
                (lambda cls=cls, value=value: cls(max_iter=value)),
            )
    for value in no_counts:
        yield (
            f"Newton max_steps {value}",
            ("max_steps",),
            (lambda value=value: diffqcp.Newton(max_steps=value)),
        )
    for value in (-1, 1.5, None):
        yield (
            f"Newton patience {value}",
            ("patience",),
            (lambda value=value: diffqcp.Newton(patience=value)),
        )
    for value in (0, -1, 1.5, "a"):
        for make in (diffqcp.Clarabel, lambda threads: diffqcp.Function(max, threads)):
            yield (
                f"threads {value}",
                ("threads",),
                (lambda make=make, value=value: make(threads=value)),
            )
    yield "Function", ("function",), lambda: diffqcp.Function("solver")


def main():
    failures, count = [], 0
    for label, names, call in cases():
        count += 1
        try:
            call()
        except (TypeError, ValueError) as error:
            text = str(error)
            named = text.startswith(
                tuple(f"{n}{end}" for n in names for end in (":", "[", " "))
            )
            if not (named and ("expected" in text or "cone" in text or "entr" in text)):
                failures.append(f"{label}: {type(error).__name__}: {text[:160]}")
        except Exception as error:
            failures.append(f"{label}: {type(error).__name__}: {str(error)[:160]}")
        else:
            failures.append(f"{label}: no error")
    print(f"{count} bad inputs")
    assert not failures, "\n".join([f"{len(failures)} of {count}", *failures])


if __name__ == "__main__":
    main()
