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

    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UsageError(f"{path}: expected an .npz file of named arrays; got one array without a name")
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: expected an .npz file, as numpy.savez writes it; {error}") from error


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
