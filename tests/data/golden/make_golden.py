#!/usr/bin/env python3
"""Runs public FAVOR packages on small inputs and writes what they answer, for tests/mpi/test_profiles.c.

    make_golden.py PROFILE... [--source DIR] [--legacy DIR] [-o DIR]

README.md beside this script says which versions made the files here, and where each package comes from. The project
itself needs neither this script nor Python.
"""
import argparse
import importlib.util
import pathlib
import sys

import h5py
import numpy as np

BATCH, HEADS, TOKENS, KEY_WIDTH, VALUE_WIDTH, FEATURES = 2, 2, 40, 8, 6, 20
SEED = 20210307


def inputs(value_width=VALUE_WIDTH):
    """q, k, v [B][H][N][D or E] of float32, of spread about 1: key features then lie about an eps of 1e-4.

    A few rows are long. A long query has features below eps alone, so denominators fall to where the packages guard
    them; a long key raises the maximum that its head, or the whole tensor, subtracts. The heads' lengths differ, so that
    the two maxima do; first and last tokens are long because causal attention treats them least alike.
    """
    rng = np.random.default_rng(SEED)
    q = rng.standard_normal((BATCH, HEADS, TOKENS, KEY_WIDTH))
    k = rng.standard_normal((BATCH, HEADS, TOKENS, KEY_WIDTH))
    v = rng.standard_normal((BATCH, HEADS, TOKENS, value_width))
    length = np.tile([0.5, 1.0, 1.5, 1.0], TOKENS // 4)[:, None]
    head = np.array([0.7, 1.0, 1.3, 0.9]).reshape(BATCH, HEADS, 1, 1)
    q, k = q * length, k * length[::-1] * head
    q[:, :, [0, 17, TOKENS - 1]] *= 5
    k[:, :, [1, 24]] *= 2.5
    return tuple(x.astype(np.float32) for x in (q, k, v))


def tokens_first(x):
    return np.ascontiguousarray(np.swapaxes(x, 1, 2))


def google_jax(arguments):
    import jax
    jax.config.update('jax_enable_x64', True)
    path = pathlib.Path(arguments.source) / 'performer/fast_attention/jax/fast_attention.py'
    spec = importlib.util.spec_from_file_location('fast_attention', path)
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)

    q, k, v = inputs()
    result = {'q': q, 'k': k, 'v': v}
    for name, is_causal in ('out', False), ('out_causal', True):
        attention = package.make_fast_softmax_attention(
            KEY_WIDTH, nb_features=FEATURES, redraw_features=False, unidirectional=is_causal)
        out = attention(*(jax.numpy.asarray(tokens_first(x), jax.numpy.float64) for x in (q, k, v)),
                        precision=jax.lax.Precision.HIGHEST)
        result[name] = tokens_first(np.asarray(out))
        result['projection'] = np.asarray(attention.__self__.projection_matrix)
    return result, {'package': 'google-research performer/fast_attention/jax', 'version': f'jax {jax.__version__}',
                    'arithmetic': 'float64', 'map': 'positive',
                    'call': 'make_fast_softmax_attention(8, nb_features=20, redraw_features=False, unidirectional=...)'}


def google_tf(arguments):
    import tensorflow
    sys.path.insert(0, arguments.source)
    from performer.fast_attention.tensorflow import fast_attention as package

    q, k, v = inputs()
    projection = package.create_projection_matrix(FEATURES, KEY_WIDTH, seed=1)
    result = {'q': q, 'k': k, 'v': v, 'projection': projection.numpy()}
    for name, is_causal in ('out', False), ('out_causal', True):
        out = package.favor_attention(*(tensorflow.constant(tokens_first(x)) for x in (q, k, v)),
                                      package.softmax_kernel_transformation, is_causal, projection)
        result[name] = tokens_first(out.numpy())
    return result, {'package': 'google-research performer/fast_attention/tensorflow',
                    'version': f'tensorflow {tensorflow.__version__}', 'arithmetic': 'float32', 'map': 'positive',
                    'call': 'favor_attention(q, k, v, softmax_kernel_transformation, causal, projection_matrix)'}


def performer_pytorch():
    import importlib.metadata
    import torch
    from performer_pytorch import performer_pytorch as package

    torch.manual_seed(SEED)
    q, k, v = inputs()
    projection = package.gaussian_orthogonal_random_matrix(FEATURES, KEY_WIDTH).double()
    result = {'q': q, 'k': k, 'v': v, 'projection': projection.numpy()}
    for name, is_causal in ('out', False), ('out_causal', True):
        attention = package.FastAttention(KEY_WIDTH, nb_features=FEATURES, causal=is_causal).double().eval()
        attention.projection_matrix.copy_(projection)
        if is_causal:  # what every machine without CUDA runs; CUDA's arithmetic has the same definition
            assert attention.causal_linear_fn is package.causal_linear_attention_noncuda
        with torch.no_grad():
            result[name] = attention(*(torch.from_numpy(x).double() for x in (q, k, v))).numpy()
    version = importlib.metadata.version('performer-pytorch')
    return result, {'package': 'performer-pytorch', 'version': f'{version}, torch {torch.__version__}',
                    'arithmetic': 'float64', 'map': 'positive',
                    'call': 'FastAttention(8, nb_features=20, causal=...).double()'}


def lucidrains(arguments):
    del arguments
    return performer_pytorch()


def lucidrains_legacy(arguments):
    sys.path.insert(0, arguments.legacy)
    return performer_pytorch()


def idiap(arguments):
    del arguments
    import importlib.metadata
    import torch
    from fast_transformers.attention import CausalLinearAttention, LinearAttention
    from fast_transformers.feature_maps import Favor
    from fast_transformers.masking import FullMask, LengthMask, TriangularCausalMask

    torch.manual_seed(SEED)
    q, k, v = inputs()
    favor = Favor(KEY_WIDTH, n_dims=2 * FEATURES)
    favor.new_feature_map('cpu')
    favor.deterministic_eval = True
    favor.eval()
    result = {'q': q, 'k': k, 'v': v, 'projection': favor.omega.numpy().T.copy()}
    lengths = LengthMask(torch.full((BATCH,), TOKENS))
    for name, attention, mask, dtype in (
            ('out', LinearAttention, FullMask(TOKENS), torch.float64),
            ('out_causal', CausalLinearAttention, TriangularCausalMask(TOKENS), torch.float32)):
        layer = attention(KEY_WIDTH, feature_map=lambda width: favor).to(dtype).eval()
        with torch.no_grad():
            out = layer(*(torch.from_numpy(tokens_first(x)).to(dtype) for x in (q, k, v)), mask, lengths, lengths)
        result[name] = tokens_first(out.numpy())
    version = importlib.metadata.version('pytorch-fast-transformers')
    return result, {'package': 'pytorch-fast-transformers', 'version': f'{version}, torch {torch.__version__}',
                    'arithmetic': 'float64, causal float32', 'map': 'hyperbolic',
                    'call': 'LinearAttention and CausalLinearAttention with Favor(8, n_dims=40)'}


def slim(arguments):
    import torch
    sys.path.insert(0, arguments.source)
    from performer.models.pytorch.slim_performer.slim_performer_model import MultiHeadAttention

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(SEED)
    q, k, v = inputs(value_width=KEY_WIDTH)
    layer = MultiHeadAttention('favor+_2', HEADS, HEADS * KEY_WIDTH, 'iter')
    directions = layer.sample_rfs('cpu')  # [H][D][M]
    rows = [torch.from_numpy(tokens_first(x)).double().reshape(BATCH, TOKENS, HEADS * KEY_WIDTH) for x in (q, k, v)]
    for name, x in zip(('q_map', 'k_map', 'v_map'), rows):
        setattr(layer, name, constant_layer(x))
    with torch.no_grad():
        out = layer.full_forward(rows[0], directions).reshape(BATCH, TOKENS, HEADS, KEY_WIDTH)
    result = {'q': q, 'k': k, 'v': v, 'projection': directions.transpose(1, 2).numpy().copy(),
              'out_causal': tokens_first(out.numpy())}
    return result, {'package': 'google-research performer/models/slim_performer/pytorch',
                    'version': f'torch {torch.__version__}', 'arithmetic': 'float64', 'map': 'positive',
                    'call': "MultiHeadAttention('favor+_2', 2, 16, 'iter').full_forward; maps give q, k, v themselves"}


def constant_layer(x):
    """A layer that gives x whatever it is given."""
    import torch

    class Layer(torch.nn.Module):
        def forward(self, _):
            return x
    return Layer()


PROFILES = {'google-jax': google_jax, 'google-tf': google_tf, 'lucidrains': lucidrains,
            'lucidrains-legacy': lucidrains_legacy, 'idiap': idiap, 'slim': slim}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('profile', nargs='+', choices=PROFILES, metavar='PROFILE', help=' '.join(PROFILES))
    parser.add_argument('--source', help="directory that holds google-research's performer/")
    parser.add_argument('--legacy', help='directory that holds performer-pytorch 1.1.0')
    parser.add_argument('-o', '--output', default='.', help='directory to write PROFILE.h5 into')
    arguments = parser.parse_args()
    for name in arguments.profile:
        arrays, attributes = PROFILES[name](arguments)
        with h5py.File(pathlib.Path(arguments.output) / f'{name}.h5', 'w') as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array, track_times=False)
            for key, text in attributes.items():
                file.attrs[key] = text
            file.attrs['profile'] = name


if __name__ == '__main__':
    main()
