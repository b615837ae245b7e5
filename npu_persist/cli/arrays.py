"""Read and write `.npz` files: named arrays, the command line's form of inputs and outputs.

The promise: a file that comes from elsewhere is data only (no pickle), and an output file is there whole or not at all.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npu_persist.errors import NotFoundError, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


def read_arrays(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Read every array of an `.npz` file.

    Raises:
        NotFoundError: There is no such file.
        UsageError: It is no `.npz` file, or holds Python objects.
    """
    import numpy as np

    expected = f"{path}: expected an .npz file of named arrays, as numpy.savez(path, name=array) writes it"
    magic = b""
    try:
        # Not numpy.load: what is no zip file it takes for a pickle, and advises to allow that.
        with Path(path).open("rb") as source:
            magic = source.read(len(np.lib.format.MAGIC_PREFIX))
            with np.lib.npyio.NpzFile(source, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}") from error
    except (EOFError, zipfile.BadZipFile, OSError) as error:
        is_npy = magic == np.lib.format.MAGIC_PREFIX
        got = "got a .npy file, which holds one array without a name" if is_npy else str(error)
        raise UsageError(f"{expected}; {got}") from error
    except ValueError as error:  # numpy's own text advises to allow pickle
        raise UsageError(f"{expected}; got an array of Python objects, or a damaged one") from error


def write_arrays(path: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write arrays to an `.npz` file, in place of one that may be there.

    Raises:
        StoreError: The file system refused.
    """
    import numpy as np

    # Not numpy.savez: it takes the arrays as keyword arguments, and an output may be called `file` or `allow_pickle`.
    part = Path(f"{path}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "x") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}", errno=error.errno) from error
    finally:
        part.unlink(missing_ok=True)
