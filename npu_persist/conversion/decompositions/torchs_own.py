"""Operations that torch itself writes with others: composite kernels, and decompositions of its compilers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch._decomp import decomposition_table

if TYPE_CHECKING:
    from collections.abc import Callable

_COMPOSITE = (
    "_upsample_nearest_exact1d argwhere atleast_1d atleast_1d.Sequence atleast_2d atleast_2d.Sequence atleast_3d "
    "atleast_3d.Sequence bilinear cartesian_prod column_stack combinations corrcoef cosine_embedding_loss "
    "cosine_similarity cov cross_entropy_loss cumulative_trapezoid.x cumulative_trapezoid.dx diag diagflat dsplit.int "
    "dsplit.array dstack fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn "
    "fliplr flipud float_power.Tensor_Tensor float_power.Tensor_Scalar float_power.Scalar gradient.scalarint "
    "gradient.scalararray gradient.array gradient.scalarrayint gradient.scalarrayarray gradient.tensorarrayint "
    "gradient.tensorarray hinge_embedding_loss hsplit.int hsplit.array inner isclose kl_div kron l1_loss "
    "linalg_cholesky linalg_diagonal linalg_matrix_power linalg_multi_dot linalg_solve linalg_tensorinv "
    "linalg_tensorsolve linalg_vander linalg_vecdot mH mT margin_ranking_loss matrix_H msort nanmean nll_loss_nd "
    "poisson_nll_loss positive quantile quantile.scalar nanquantile nanquantile.scalar ravel special_ndtr sum_to_size "
    "tensordot trapezoid.x trapezoid.dx trapz.x trapz.dx triplet_margin_loss vsplit.int vsplit.array"
)
_DECOMPOSED = (
    "_safe_softmax addcdiv addmv addr as_strided_scatter binary_cross_entropy binary_cross_entropy_with_logits "
    "block_diag count_nonzero count_nonzero.dim_IntList deg2rad diag_embed diagonal diagonal_copy diagonal_scatter "
    "dist frac hardshrink huber_loss index_fill.int_Tensor index_fill.int_Scalar "
    "isneginf isposinf logit max_unpool2d max_unpool3d mse_loss multi_margin_loss "
    "nansum narrow_copy renorm select_scatter sinc slice_scatter smooth_l1_loss soft_margin_loss softshrink "
    "special_entr special_log_ndtr special_xlog1py special_xlog1py.other_scalar special_xlog1py.self_scalar t_copy "
    "take threshold trace transpose_copy.int unbind_copy.int unfold_copy unsafe_split.Tensor vdot xlogy.Tensor "
    "xlogy.Scalar_Other xlogy.Scalar_Self"
)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _composite(name: str, *args: Any, **kwargs: Any) -> Any:
    return _overload(name).decompose(*args, **kwargs)


def _decomposed(name: str, *args: Any, **kwargs: Any) -> Any:
    return decomposition_table[_overload(name)](*args, **kwargs)


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: functools.partial(_composite, name) for name in _COMPOSITE.split()},
    **{name: functools.partial(_decomposed, name) for name in _DECOMPOSED.split()},
    "_unsafe_view": torch.reshape,
    "true_divide.Tensor": torch.div,
    "true_divide.Scalar": torch.div,
}
