"""Let the old releases run on a Python and SciPy that came after them: names that have moved since."""

import collections
import collections.abc
import inspect
import os
import sys

import numpy as np
import scipy.signal._signaltools
import scipy.signal._sigtools


def prepare(home):
    """Before Theano is imported. `home`: a folder for what Theano and Keras write."""
    os.environ.update(HOME=home, KERAS_HOME=home, KERAS_BACKEND="theano")
    os.environ["THEANO_FLAGS"] = (
        "cxx=,blas.ldflags=,device=cpu,floatX=float32,mode=FAST_COMPILE,base_compiledir=" + home
    )
    for name in ("Callable", "Hashable", "Iterable", "Mapping", "MutableMapping", "Sequence"):
        setattr(collections, name, getattr(collections.abc, name))
    spec = collections.namedtuple("ArgSpec", "args varargs keywords defaults")
    inspect.getargspec = lambda function: spec(*inspect.getfullargspec(function)[:4])
    sys.modules["scipy.signal.signaltools"] = scipy.signal._signaltools
    sys.modules["scipy.signal.sigtools"] = scipy.signal._sigtools
    import theano.ifelse  # which Keras takes for imported
    import theano.tensor.signal.pool

    theano.tensor.signal.pool.Pool.perform = _max_pool


def _max_pool(self, node, inputs, outputs, params):
    """Theano's own indexes an array with a list of slices, which NumPy has given up."""
    x, size, stride, padding = inputs
    assert self.mode == "max" and not any(padding)
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(size), axis=(2, 3))
    outputs[0][0] = windows[:, :, :: stride[0], :: stride[1]].max((4, 5))
